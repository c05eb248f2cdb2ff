//! Trees of files to read from: a context directory, or the merged layers of a root file system.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp};
use kiln_sandbox::RootDir;
use kiln_sandbox::rootdir::{self, Kind as DiskKind, Metadata};

use crate::engine::DiskIds;
use crate::error::{Error, Result};
use crate::snapshot::View;

/// A file of a tree.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    /// What it is; the path is that inside the tree.
    pub(crate) entry: Entry,
    /// Equal for all names of one file, present only if it has several.
    pub(crate) link: Option<(u64, u64)>,
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

/// A context directory: files belong to root, and times do not matter.
pub(crate) struct ContextTree {
    root: RootDir,
    name: String,
}

impl ContextTree {
    /// Opens the directory of a context called `name`.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self> {
        let root = RootDir::open(dir)
            .map_err(|e| Error::input(format!("cannot open the build context `{name}`")).because(e))?;
        Ok(Self { root, name: name.to_owned() })
    }

    fn failed(&self, error: rootdir::Error) -> Error {
        Error::input(format!("cannot read the build context `{}`", self.name)).because(error)
    }
}

fn absent(error: &rootdir::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

impl Tree for ContextTree {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        let meta = match self.root.lstat(path.as_path()) {
            Ok(meta) => meta,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(self.failed(e)),
        };
        let kind = kind(&self.root, path, &meta).map_err(|e| self.failed(e))?;
        let executable = matches!(kind, Kind::File { .. }) && meta.mode & 0o111 != 0;
        let xattrs = if executable { capability(&self.root, path) } else { BTreeMap::new() };
        let entry = Entry {
            path: path.clone(),
            kind,
            mode: meta.mode & 0o7777,
            uid: 0,
            gid: 0,
            mtime: LATEST,
            xattrs,
        };
        let several = meta.links > 1 && meta.kind != DiskKind::Directory;
        Ok(Some(Node { entry, link: several.then_some((meta.device, meta.inode)) }))
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        use std::os::unix::ffi::OsStringExt as _;
        let entries = self.root.read_dir(dir.as_path()).map_err(|e| self.failed(e))?;
        let mut names: Vec<Vec<u8>> = entries.into_iter().map(|e| e.name.into_vec()).collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        self.root.open_file(path.as_path()).map_err(|e| self.failed(e))
    }
}

/// The one extended attribute that a COPY keeps.
const CAPABILITY: &str = "security.capability";

fn capability(root: &RootDir, path: &EntryPath) -> BTreeMap<String, Vec<u8>> {
    let all = root.xattrs(path.as_path()).unwrap_or_default();
    let wanted = |(name, value): (std::ffi::OsString, Vec<u8>)| {
        (name == CAPABILITY).then(|| (CAPABILITY.to_owned(), value))
    };
    all.into_iter().filter_map(wanted).collect()
}

/// Returns the kind of a file; a socket, which has no place in a layer, stands as an empty file.
fn kind(root: &RootDir, path: &EntryPath, meta: &Metadata) -> std::result::Result<Kind, rootdir::Error> {
    use std::os::unix::ffi::OsStringExt as _;
    Ok(match meta.kind {
        DiskKind::File => Kind::File { size: meta.size },
        DiskKind::Directory => Kind::Directory,
        DiskKind::Symlink => {
            Kind::Symlink { target: root.readlink(path.as_path())?.into_os_string().into_vec() }
        }
        DiskKind::CharacterDevice => Kind::CharDevice { major: meta.major, minor: meta.minor },
        DiskKind::BlockDevice => Kind::BlockDevice { major: meta.major, minor: meta.minor },
        DiskKind::Fifo => Kind::Fifo,
        DiskKind::Socket => Kind::File { size: 0 },
    })
}

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
        Ok(Some(Node { entry, link: several.then_some((node.identity.device, node.identity.inode)) }))
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        Ok(self.0.read_dir(dir)?)
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        Ok(self.0.open(path)?)
    }
}
