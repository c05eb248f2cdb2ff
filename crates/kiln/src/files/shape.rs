//! Files without their contents: everything of an entry that a layer has, in few bytes.

use std::collections::BTreeMap;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{EntryPath, Kind};
use kiln_oci::{Hasher, Sum};

use super::select::Selected;
use super::tree::Node;
use crate::graph::{CopySource, Layout};

/// Stands for kind, mode, owner, target, device numbers and attributes of an entry, and for the entry that it is another
/// name of: the first half of a sha256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header(pub(crate) [u8; 16]);

/// The entries of one selection, hashed in order.
#[derive(Default)]
pub(super) struct Shape {
    hasher: Hasher,
    entries: u32,
    /// Which entry was the first name of a file that has several. It grows with the names of such files, as packing does.
    links: BTreeMap<(u64, u64), u32>,
    /// The last header of an entry with nothing special: most are the same.
    plain: Option<((u8, u32, u32, u32), Header)>,
}

impl Shape {
    /// Adds an entry and returns its header.
    pub(super) fn add(&mut self, relative: &EntryPath, node: &Node) -> Header {
        let ordinal = self.entries;
        self.entries = self.entries.saturating_add(1);
        let first = node.link.map(|id| *self.links.entry(id).or_insert(ordinal)).filter(|of| *of != ordinal);
        let header = self.header(node, first);
        self.hasher.field(relative.as_bytes());
        self.hasher.update(&header.0);
        header
    }

    fn header(&mut self, node: &Node, first: Option<u32>) -> Header {
        let entry = &node.entry;
        let tag = match entry.kind {
            // An empty file has no content to tell it by.
            Kind::File { size: 0 } => b'e',
            Kind::File { .. } => b'f',
            Kind::Directory => b'd',
            Kind::Symlink { .. } => b'l',
            Kind::HardLink { .. } => b'h',
            Kind::CharDevice { .. } => b'c',
            Kind::BlockDevice { .. } => b'b',
            Kind::Fifo => b'p',
        };
        let special =
            first.is_some() || !entry.xattrs.is_empty() || !matches!(tag, b'e' | b'f' | b'd' | b'p');
        let plain = (tag, entry.mode, entry.uid, entry.gid);
        if let Some((_, header)) = self.plain.filter(|(like, _)| !special && *like == plain) {
            return header;
        }
        let mut hasher = Hasher::new();
        hasher.update(&[tag]);
        for number in [entry.mode, entry.uid, entry.gid] {
            hasher.update(&number.to_le_bytes());
        }
        match &entry.kind {
            Kind::Symlink { target } => hasher.field(target),
            Kind::HardLink { target } => hasher.field(target.as_bytes()),
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
                hasher.update(&major.to_le_bytes());
                hasher.update(&minor.to_le_bytes());
            }
            Kind::File { .. } | Kind::Directory | Kind::Fifo => {}
        }
        match first {
            Some(ordinal) => hasher.field(&ordinal.to_le_bytes()),
            None => hasher.field(b""),
        }
        hasher.update(&(entry.xattrs.len() as u64).to_le_bytes());
        for (name, value) in &entry.xattrs {
            hasher.field(name.as_bytes());
            hasher.field(value);
        }
        let mut header = Header([0; 16]);
        header.0.copy_from_slice(&hasher.sum().0[..16]);
        if !special {
            self.plain = Some((plain, header));
        }
        header
    }

    /// Returns the hash of all entries.
    pub(super) fn finish(self) -> Sum {
        self.hasher.sum()
    }
}

/// What tells one selection of a context from another.
pub(super) struct Identity {
    /// For what it was without contents.
    pub(super) shape: Sum,
    /// For what it was with them.
    pub(super) all: Sum,
}

/// Returns what tells one selection of a context from another: the path, and which patterns apply below it.
pub(super) fn identity(selected: &Selected, exclude: &Ignore) -> Identity {
    let mut hasher = Hasher::new();
    hasher.field(selected.path.as_bytes());
    // Without `include` everything is taken, which no list of patterns says.
    hasher.field(&[u8::from(selected.include.is_some())]);
    // Of a file nothing can be left out.
    let is_directory = selected.node.entry.kind == Kind::Directory;
    for patterns in
        [Some(exclude), selected.include.as_deref()].into_iter().flatten().filter(|_| is_directory)
    {
        hasher.field(b"patterns");
        for pattern in patterns.patterns() {
            hasher.field(&[u8::from(pattern.negated)]);
            hasher.field(pattern.text.as_bytes());
        }
    }
    let mut with_contents = hasher.clone();
    with_contents.field(b"contents");
    Identity { shape: hasher.sum(), all: with_contents.sum() }
}

/// Returns what tells one operand from another, and what it stands for.
pub(super) fn operand(source: &CopySource, layout: Layout, found: &[Selected]) -> (Sum, Sum) {
    let mut hasher = Hasher::new();
    hasher.field(b"operand");
    hasher.field(&[u8::from(layout == Layout::Parents)]);
    hasher.field(source.path.as_bytes());
    let mut list = Hasher::new();
    for selected in found {
        list.field(&selected.name);
        list.field(selected.path.as_bytes());
    }
    (hasher.sum(), list.sum())
}
