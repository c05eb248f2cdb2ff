//! A context directory as a tree: files belong to root, and times do not matter.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_oci::layer::{Entry, EntryPath, Kind};
use kiln_sandbox::RootDir;
use kiln_sandbox::rootdir::{self, Kind as DiskKind, Metadata, Names};

use super::tree::{CAPABILITY, Folder, LATEST, Node, Tree};
use crate::error::{Error, Result};
use crate::request::ContextModes;
use crate::store::{ContextIndex, Stamp};

/// A context directory.
pub(crate) struct ContextTree(Arc<Inner>);

struct Inner {
    root: RootDir,
    name: String,
    modes: ContextModes,
    index: Option<Arc<ContextIndex>>,
}

impl ContextTree {
    /// Opens the directory of a context called `name`.
    pub(crate) fn open(dir: &Path, name: &str) -> Result<Self> {
        Self::open_with(dir, name, ContextModes::OnDisk, None)
    }

    /// Opens it with these modes, and with an index of what its files were.
    pub(crate) fn open_with(
        dir: &Path,
        name: &str,
        modes: ContextModes,
        index: Option<Arc<ContextIndex>>,
    ) -> Result<Self> {
        let root = RootDir::open(dir)
            .map_err(|e| Error::input(format!("cannot open the build context `{name}`")).because(e))?;
        Ok(Self(Arc::new(Inner { root, name: name.to_owned(), modes, index })))
    }
}

/// Asks more about a file whose metadata are known.
struct Ask<'a> {
    link: &'a dyn Fn() -> std::result::Result<PathBuf, rootdir::Error>,
    capability: &'a dyn Fn() -> Option<Vec<u8>>,
}

impl Inner {
    fn failed(&self, error: rootdir::Error) -> Error {
        Error::input(format!("cannot read the build context `{}`", self.name)).because(error)
    }

    /// The one place where a file on disk becomes a file of a build: what is hashed and what is copied both come from here.
    fn node(
        &self,
        path: EntryPath,
        meta: std::result::Result<Metadata, rootdir::Error>,
        ask: &Ask<'_>,
    ) -> Result<Option<Node>> {
        let meta = match meta {
            Ok(meta) => meta,
            Err(e) if absent(&e) => return Ok(None),
            Err(e) => return Err(self.failed(e)),
        };
        let kind = kind(&meta, ask).map_err(|e| self.failed(e))?;
        let mut xattrs = BTreeMap::new();
        if matches!(kind, Kind::File { .. }) && meta.mode & 0o111 != 0 {
            xattrs.extend((ask.capability)().map(|value| (CAPABILITY.to_owned(), value)));
        }
        let mode = mode(self.modes, &kind, meta.mode & 0o7777);
        let entry = Entry { path, kind, mode, uid: 0, gid: 0, mtime: LATEST, xattrs };
        let several = meta.links > 1 && meta.kind != DiskKind::Directory;
        let link = several.then_some((meta.device, meta.inode));
        let stamp = (meta.kind == DiskKind::File).then(|| stamp(&meta));
        Ok(Some(Node { entry, link, stamp }))
    }
}

/// Returns the mode of a file that has `mode` on disk.
fn mode(modes: ContextModes, kind: &Kind, mode: u32) -> u32 {
    match (modes, kind) {
        (ContextModes::OnDisk, _) => mode,
        (ContextModes::Usual, Kind::Directory) => mode & 0o7000 | 0o755,
        (ContextModes::Usual, Kind::File { .. }) if mode & 0o100 != 0 => mode & 0o7000 | 0o755,
        (ContextModes::Usual, Kind::File { .. }) => mode & 0o7000 | 0o644,
        (ContextModes::Usual, _) => mode,
    }
}

/// Returns what tells whether a file was changed.
pub(super) fn stamp(meta: &Metadata) -> Stamp {
    Stamp {
        size: meta.size,
        modified: meta.modified,
        changed: meta.changed,
        inode: meta.inode,
        device: meta.device,
    }
}

fn absent(error: &rootdir::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns the kind of a file; a socket, which has no place in a layer, stands as an empty file.
fn kind(meta: &Metadata, ask: &Ask<'_>) -> std::result::Result<Kind, rootdir::Error> {
    use std::os::unix::ffi::OsStringExt as _;
    Ok(match meta.kind {
        DiskKind::File => Kind::File { size: meta.size },
        DiskKind::Directory => Kind::Directory,
        DiskKind::Symlink => Kind::Symlink { target: (ask.link)()?.into_os_string().into_vec() },
        DiskKind::CharacterDevice => Kind::CharDevice { major: meta.major, minor: meta.minor },
        DiskKind::BlockDevice => Kind::BlockDevice { major: meta.major, minor: meta.minor },
        DiskKind::Fifo => Kind::Fifo,
        DiskKind::Socket => Kind::File { size: 0 },
    })
}

impl Tree for ContextTree {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        let root = &self.0.root;
        let capability = || {
            let all = root.xattrs(path.as_path()).unwrap_or_default();
            all.into_iter().find(|(name, _)| name == CAPABILITY).map(|(_, value)| value)
        };
        let ask = Ask { link: &|| root.readlink(path.as_path()), capability: &capability };
        self.0.node(path.clone(), root.lstat(path.as_path()), &ask)
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        use std::os::unix::ffi::OsStringExt as _;
        let entries = self.0.root.read_dir(dir.as_path()).map_err(|e| self.0.failed(e))?;
        let mut names: Vec<Vec<u8>> = entries.into_iter().map(|e| e.name.into_vec()).collect();
        names.sort();
        Ok(names)
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        self.0.root.open_file(path.as_path()).map_err(|e| self.0.failed(e))
    }

    fn folder(&self, dir: &EntryPath) -> Result<Option<Box<dyn Folder>>> {
        let folder = self.0.root.folder(dir.as_path()).map_err(|e| self.0.failed(e))?;
        Ok(Some(Box::new(ContextFolder { tree: Arc::clone(&self.0), folder })))
    }

    fn index(&self) -> Option<&Arc<ContextIndex>> {
        self.0.index.as_ref()
    }
}

/// An open directory of a context.
struct ContextFolder {
    tree: Arc<Inner>,
    folder: rootdir::Folder,
}

impl Folder for ContextFolder {
    fn names(&self) -> Result<Names> {
        self.folder.names().map_err(|e| self.tree.failed(e))
    }

    fn stat(&self, name: &[u8], path: EntryPath) -> Result<Option<Node>> {
        let capability = || self.folder.xattr(name, CAPABILITY).unwrap_or_default();
        let ask = Ask { link: &|| self.folder.readlink(name), capability: &capability };
        self.tree.node(path, self.folder.lstat(name), &ask)
    }

    fn folder(&self, name: &[u8]) -> Result<Box<dyn Folder>> {
        let folder = self.folder.folder(name).map_err(|e| self.tree.failed(e))?;
        Ok(Box::new(Self { tree: Arc::clone(&self.tree), folder }))
    }
}
