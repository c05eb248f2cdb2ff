//! Trees of files to read from: a context directory, or the merged layers of a root file system.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp};
use kiln_sandbox::rootdir::Names;

use crate::engine::DiskIds;
use crate::error::{Error, Result};
use crate::snapshot::View;
use crate::store::{ContextIndex, Stamp};

/// A file of a tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// What it is; the path is that inside the tree.
    pub(crate) entry: Entry,
    /// Equal for all names of one file, present only if it has several.
    pub(crate) link: Option<(u64, u64)>,
    /// What tells whether it was changed; of the regular files of a context.
    pub(crate) stamp: Option<Stamp>,
}

impl Node {
    /// Returns a file that has one name and is no context's.
    pub(crate) fn new(entry: Entry) -> Self {
        Self { entry, link: None, stamp: None }
    }
}

/// Files to read. No method follows a symbolic link: [`resolve`] does that, inside the tree.
pub(crate) trait Tree: Send + Sync {
    /// Returns what is at `path`; absent is `None`.
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>>;
    /// Returns the names in a directory, sorted bytewise.
    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>>;
    /// Opens a regular file.
    fn open(&self, path: &EntryPath) -> Result<File>;
    /// Returns the time that all files have, where it is an input of the build: it counts for cache keys.
    fn time(&self) -> Option<i64> {
        None
    }
    /// Opens a directory to go through it; `None` where paths are no slower.
    fn folder(&self, _dir: &EntryPath) -> Result<Option<Box<dyn Folder>>> {
        Ok(None)
    }
    /// Returns what remembers the contents of files, if anything does.
    fn index(&self) -> Option<&Arc<ContextIndex>> {
        None
    }
}

/// An open directory of a tree. No method follows a symbolic link.
pub(crate) trait Folder: Send {
    /// Returns the names in it.
    fn names(&self) -> Result<Names>;
    /// Returns what `name` is, whose path in the tree is `path`; absent is `None`.
    fn stat(&self, name: &[u8], path: EntryPath) -> Result<Option<Node>>;
    /// Opens the directory `name` in it.
    fn folder(&self, name: &[u8]) -> Result<Box<dyn Folder>>;
}

/// The time of what has no time of its own: later than any epoch, and so cut to it.
///
/// Times of a context are of this kind: they depend on who checked it out when, and are no input of a build.
pub(super) const LATEST: Timestamp = Timestamp { secs: i64::MAX, nanos: 0 };

/// Links followed on one path before it is called a loop, as in the kernel.
const MAX_LINKS: usize = 40;

/// Follows symbolic links on `path` inside the tree; the result may not exist, but none of its parents is a link.
///
/// # Errors
/// When a loop is met, or a component that has to be a directory is something else.
pub(crate) fn resolve(tree: &dyn Tree, path: &EntryPath) -> Result<EntryPath> {
    let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
    let mut at = EntryPath::root();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                at = at.parent().unwrap_or_default();
                continue;
            }
            _ => {}
        }
        let next = at.join(&name);
        let last = todo.is_empty();
        match tree.stat(&next)?.map(|n| n.entry.kind) {
            Some(Kind::Symlink { target }) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Error::input(format!("too many symbolic links on the way to `/{path}`")));
                }
                if target.first() == Some(&b'/') {
                    at = EntryPath::root();
                }
                todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
            }
            Some(Kind::Directory) | None => at = next,
            Some(_) if last => at = next,
            Some(_) => return Err(Error::input(format!("`/{next}` is not a directory"))),
        }
    }
    Ok(at)
}

/// The one extended attribute that a COPY keeps.
pub(super) const CAPABILITY: &str = "security.capability";

/// The merged layers of a root file system, owners as in the image.
pub(crate) struct ViewTree(View);

impl ViewTree {
    /// Looks into `layers`, topmost first.
    pub(crate) fn new(layers: Vec<PathBuf>, ids: DiskIds) -> Result<Self> {
        Ok(Self(View::with_ids(layers, ids)?))
    }

    /// Returns the view itself.
    pub(crate) fn view(&self) -> &View {
        &self.0
    }
}

impl Tree for ViewTree {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        let Some(node) = self.0.lookup(path)? else { return Ok(None) };
        let Some(mut entry) = self.0.entry(&node)? else { return Ok(None) };
        entry.xattrs.retain(|name, _| name == CAPABILITY);
        let several = node.identity.links > 1 && !node.is_directory();
        let link = several.then_some((node.identity.device, node.identity.inode));
        Ok(Some(Node { entry, link, stamp: None }))
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        Ok(self.0.read_dir(dir)?)
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        Ok(self.0.open(path)?)
    }
}
