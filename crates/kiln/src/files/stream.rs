//! Streams of entries for a layer, each sorted: a copied tree, an archive, or a single entry.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp};

use super::archive::Unpacked;
use super::dest::Destination;
use super::plan::{Attributes, Stream, What};
use super::proof::Proof;
use super::select::{Selected, SourceTree};
use super::tree::{LATEST, Node};
use super::walk::{Found, Reason, Walk};
use crate::engine::Engine;
use crate::error::Result;

/// One entry that a stream wants to write.
pub(super) struct Item {
    pub(super) entry: Entry,
    pub(super) content: Content,
    /// Equal for the names of one file.
    pub(super) link: Option<(u64, u64)>,
    pub(super) role: Role,
}

/// What an entry does to what is there under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It replaces it, or merges as a directory whose attributes win.
    Copied,
    /// A directory that a stream fills: it keeps its attributes if it exists.
    Filled,
    /// A directory of the source in which something is copied: if it exists, it takes the mode and keeps its owner.
    OnTheWay,
    /// The same for several sources of one instruction: `--chmod` counts where it is made, and the next takes it back.
    OnTheWayAgain,
    /// A directory that an archive has files in, but no entry for: root's, unless it exists.
    Implied,
}

pub(super) enum Content {
    None,
    File(SourceTree, EntryPath),
    Bytes(Vec<u8>),
}

/// A stream being read.
pub(super) struct Source {
    pub(super) attributes: Attributes,
    pub(super) head: Option<Item>,
    /// Whether a file may replace a directory and a directory a file, as when an archive is unpacked.
    pub(super) replaces: bool,
    dest: EntryPath,
    walk: Option<Walk>,
    from: Option<SourceTree>,
    /// Keeps the files of an archive as long as they are read.
    unpacked: Option<Arc<Unpacked>>,
    /// Compares what is packed of a context with what was hashed of it.
    pub(super) proof: Option<Proof>,
}

impl Source {
    /// Opens a stream; an archive is unpacked, and may become several streams.
    pub(super) fn open(stream: Stream, dest: &Destination, engine: &Engine) -> Result<Vec<Self>> {
        let Stream { dest: to, what, attributes } = stream;
        let entry = |kind, mode| Entry { mtime: LATEST, ..Entry::new(to.clone(), kind, mode) };
        let mut source = Self::new(to.clone(), attributes);
        match what {
            What::MakeDir => source.head = Some(alone(entry(Kind::Directory, 0o755), Role::Filled)),
            What::Content(bytes) => {
                let entry = entry(Kind::File { size: bytes.len() as u64 }, 0o644);
                let item = alone(entry, Role::Copied);
                source.head = Some(Item { content: Content::Bytes(bytes), ..item });
            }
            What::File(selected) => {
                source.proof = Proof::begin(&selected, &Ignore::default());
                source.proof.as_mut().map_or(Ok(()), Proof::end)?;
                let Selected { from, path, node, .. } = *selected;
                source.head = Some(item(to, &from, path, node, Role::Copied));
            }
            What::Directory(selected, exclude) => {
                source.proof = Proof::begin(&selected, &exclude);
                source.fill(Walk::new(&selected, exclude)?, selected.from.clone())?;
            }
            What::Archive(selected) => {
                return Self::archive(&selected, &to, &source.attributes, dest, engine);
            }
        }
        Ok(vec![source])
    }

    fn new(dest: EntryPath, attributes: Attributes) -> Self {
        Self {
            attributes,
            head: None,
            replaces: false,
            dest,
            walk: None,
            from: None,
            unpacked: None,
            proof: None,
        }
    }

    /// Begins with the directory that is filled, and goes on with `walk`.
    fn fill(&mut self, walk: Walk, from: SourceTree) -> Result<()> {
        self.walk = Some(walk);
        self.from = Some(from);
        let top = Entry { mtime: LATEST, ..Entry::new(self.dest.clone(), Kind::Directory, 0o755) };
        self.head = Some(alone(top, Role::Filled));
        if self.dest.is_root() { self.advance() } else { Ok(()) }
    }

    /// Unpacks an archive. Directories that it only implies may be links at the destination: what lies in them goes to
    /// where the link leads, as a stream of its own.
    fn archive(
        selected: &Selected,
        to: &EntryPath,
        attributes: &Attributes,
        dest: &Destination,
        engine: &Engine,
    ) -> Result<Vec<Self>> {
        let unpacked = Arc::new(Unpacked::new(selected, engine)?);
        let mut tops = vec![(EntryPath::root(), to.clone())];
        tops.extend(unpacked.through_links(to, dest)?);
        let skip: BTreeSet<EntryPath> = tops.iter().map(|(top, _)| top.clone()).collect();
        let mut sources = Vec::new();
        for (top, to) in tops {
            // The archive's own modes count, whatever `--chmod` says, and so BuildKit has it.
            let mut source = Self::new(to, Attributes { mode: None, ..attributes.clone() });
            let mut without = skip.clone();
            without.remove(&top);
            let walk = Walk::new(&unpacked.select(top), Arc::new(Ignore::default()))?.without(without);
            source.replaces = true;
            source.unpacked = Some(Arc::clone(&unpacked));
            source.fill(walk, unpacked.tree().clone())?;
            sources.push(source);
        }
        Ok(sources)
    }

    pub(super) fn take(&mut self) -> Result<Option<Item>> {
        let item = self.head.take();
        self.advance()?;
        Ok(item)
    }

    /// Says that everything was written: fails if it is not what was hashed.
    pub(super) fn end(&mut self) -> Result<()> {
        self.proof.as_mut().map_or(Ok(()), Proof::end)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = None;
        let (Some(walk), Some(from)) = (&mut self.walk, &self.from) else { return Ok(()) };
        let found = walk.next()?;
        if let (Some(proof), Some(found)) = (&mut self.proof, &found) {
            proof.add(&found.relative, &found.node);
        }
        if let Some(Found { relative, node, reason }) = found {
            let dest = relative.components().fold(self.dest.clone(), |path, name| path.join(name));
            let path = node.entry.path.clone();
            let role = match (&self.unpacked, reason) {
                (Some(unpacked), _) if unpacked.is_implied(&path) => Role::Implied,
                (_, Reason::OnTheWay) => Role::OnTheWay,
                (_, Reason::Chosen) => Role::Copied,
            };
            self.head = Some(item(dest, from, path, node, role));
        }
        Ok(())
    }
}

fn alone(entry: Entry, role: Role) -> Item {
    Item { entry, content: Content::None, link: None, role }
}

fn item(dest: EntryPath, from: &SourceTree, path: EntryPath, node: Node, role: Role) -> Item {
    let content = match node.entry.kind {
        // Also what cannot be opened and stands for an empty file: a socket.
        Kind::File { size: 0 } => Content::Bytes(Vec::new()),
        Kind::File { .. } => Content::File(from.clone(), path),
        _ => Content::None,
    };
    let mut entry = node.entry;
    entry.path = dest;
    if role == Role::Implied {
        entry.mtime = LATEST;
    }
    Item { entry, content, link: node.link, role }
}

/// Cuts a time to `epoch` and to whole seconds.
pub(super) fn clamp(entry: &mut Entry, epoch: i64) {
    if entry.mtime.secs >= epoch {
        entry.mtime = Timestamp::from_secs(epoch);
    }
    entry.mtime = entry.mtime.whole();
}
