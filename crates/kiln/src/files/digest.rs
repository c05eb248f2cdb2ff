//! What a COPY would take, as a hash: for cache keys, before anything is copied.
//!
//! Contents are not read when the index of the context knows them; [`crate::store::ContextIndex`] says when it does.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::{Arc, LazyLock};

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{EntryPath, Kind};
use kiln_oci::{Hasher, Sum};
use kiln_sandbox::rootdir::metadata_of;

use super::context::stamp;
use super::proof::changed;
use super::select::Selected;
use super::shape::{Header, Shape, identity};
use super::tree::Node;
use super::walk::Walk;
use crate::error::{Error, Result};
use crate::store::Visit;

/// Bytes that are read at once.
const BUFFER: usize = 128 << 10;

/// The sha256 of nothing.
static EMPTY: LazyLock<Sum> = LazyLock::new(|| Hasher::new().sum());

/// What one entry contributes to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Where it is below what was selected; the root is that itself.
    pub(crate) relative: EntryPath,
    /// Everything about it but its path and its content.
    pub(crate) header: Header,
    /// Its mode, which `header` covers too.
    pub(crate) mode: u32,
    /// sha256 of its content, if it is a regular file.
    pub(crate) content: Option<Sum>,
}

/// Hashes what a COPY would take from `selected`: paths, kinds, modes, owners, links and contents, but no times.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn digest(selected: &Selected, exclude: &Arc<Ignore>, hasher: &mut Hasher) -> Result<()> {
    hasher.field(&selected.name);
    let sum = marks(selected, exclude, &mut |_| Ok(()))?;
    hasher.field(&sum.0);
    Ok(())
}

/// Calls `each` for every entry that a COPY would take from `selected`, in order, and returns the hash of all of them.
///
/// # Errors
/// When a file cannot be read, the same selection was something else earlier in this build, or `each` fails.
pub(crate) fn marks(
    selected: &Selected,
    exclude: &Arc<Ignore>,
    each: &mut dyn FnMut(&Mark) -> Result<()>,
) -> Result<Sum> {
    let index = selected.from.tree.index();
    let mut reader = Contents { selected, visit: index.map(|index| index.visit()), buffer: Vec::new() };
    let (mut shape, mut contents) = (Shape::default(), Hasher::new());
    let mut mark = |reader: &mut Contents<'_>, relative: EntryPath, node: &Node| {
        let header = shape.add(&relative, node);
        let content = match node.entry.kind {
            Kind::File { size: 0 } => Some(*EMPTY),
            Kind::File { .. } => Some(reader.sum(node)?),
            _ => None,
        };
        // Which entries have a content is in their headers.
        if let Some(content) = &content {
            contents.update(&content.0);
        }
        each(&Mark { relative, header, mode: node.entry.mode, content })
    };
    mark(&mut reader, EntryPath::root(), &top(selected))?;
    let is_directory = selected.node.entry.kind == Kind::Directory;
    if is_directory {
        let mut walk = Walk::new(selected, Arc::clone(exclude))?;
        loop {
            let visit = &mut reader.visit;
            let found = walk.next_noting(&mut |path| {
                if let Some(visit) = visit {
                    visit.pass_over(path);
                }
            })?;
            let Some(found) = found else { break };
            mark(&mut reader, found.relative, &found.node)?;
        }
    }
    if let Some(visit) = reader.visit {
        visit.finish(is_directory.then_some(&selected.path));
    }
    let shape = shape.finish();
    let mut all = Hasher::new();
    all.field(&shape.0);
    all.field(&contents.sum().0);
    let all = all.sum();
    if let Some(index) = index {
        let identity = identity(selected, exclude);
        index.saw(identity.shape, shape);
        index.saw(identity.all, all);
        // A mount is hashed again when it is made: it must not be recorded under the key of what was there before.
        if !index.is_as_seen(identity.all, all) {
            return Err(changed(&selected.from.what));
        }
    }
    Ok(all)
}

/// Returns what was selected under the path that it has in the tree.
pub(super) fn top(selected: &Selected) -> Node {
    let mut node = selected.node.clone();
    node.entry.path = selected.path.clone();
    node
}

/// The contents of the files of one selection.
struct Contents<'a> {
    selected: &'a Selected,
    visit: Option<Visit<'a>>,
    buffer: Vec<u8>,
}

impl Contents<'_> {
    fn sum(&mut self, node: &Node) -> Result<Sum> {
        let path = &node.entry.path;
        let known = self.visit.as_mut().zip(node.stamp.as_ref());
        if let Some(sum) = known.and_then(|(visit, stamp)| visit.look_up(path, stamp)) {
            return Ok(sum);
        }
        let began = self.visit.as_ref().map(Visit::now);
        let mut file = self.selected.from.tree.open(path)?;
        let unreadable =
            |e| Error::input(format!("cannot read `{path}` in {}", self.selected.from.what)).because(e);
        let now = |file: &File| metadata_of(file).map(|meta| stamp(&meta));
        let before = now(&file).map_err(unreadable)?;
        let sum = hash(&mut file, &mut self.buffer).map_err(unreadable)?;
        if let (Some(visit), Some(began)) = (&mut self.visit, began) {
            let after = now(&file).map_err(unreadable)?;
            // What changes while it is read is no state that a later build could find again.
            if before == after && node.stamp == Some(before) {
                visit.record(path, &before, sum, began);
            }
        }
        Ok(sum)
    }
}

fn hash(file: &mut File, buffer: &mut Vec<u8>) -> io::Result<Sum> {
    buffer.resize(BUFFER, 0);
    let mut hasher = Hasher::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.sum()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
