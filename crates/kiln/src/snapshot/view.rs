//! What a stack of layer directories adds up to, without mounting it.
//!
//! A directory of the view is the list of layers that have it, topmost first: the list ends at a whiteout, at
//! an opaque directory and at a file. Names are looked up component by component, so a link in one layer is
//! never followed by accident into another or out of all of them. The layers must not change meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kiln_oci::layer::{Entry, EntryPath};
use rustix::fs::{self, CWD, Mode, OFlags, Stat};

use super::attributes::{self, Identity, file_type, is_opaque, is_whiteout};
use super::error::{Error, Result, Trying as _};
use super::tree::MAX_LINKS;
use super::walk::Walk;
use super::{Ids, Owner, SameIds, read_owners};

/// Kind of a file, without what belongs to the kind.
pub type FileType = rustix::fs::FileType;

/// Directories that are remembered: enough for the way to any file and the directories next to it.
const REMEMBERED: usize = 256;

/// A read-only union of layer directories.
pub struct View {
    layers: Vec<Layer>,
    ids: Box<dyn Ids + Send>,
    /// Layers of directories that were looked up lately.
    known: Mutex<BTreeMap<EntryPath, Vec<usize>>>,
}

struct Layer {
    path: PathBuf,
    fd: OwnedFd,
    /// What the directory itself cannot show.
    owners: BTreeMap<EntryPath, Owner>,
}

/// Something in a view.
#[derive(Debug, Clone)]
pub struct Node {
    /// Path in the view, free of links.
    pub path: EntryPath,
    /// Kind of file.
    pub file_type: FileType,
    /// Size in bytes as the file system says.
    pub size: u64,
    /// Which file this is a name of.
    pub identity: Identity,
    /// Index of the topmost layer that has it.
    pub layer: usize,
    /// Where it is on the host.
    pub host: PathBuf,
    /// Layers that make up a directory, topmost first.
    pub(super) sources: Vec<usize>,
    pub(super) stat: Stat,
}

impl Node {
    /// Tells whether this is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    /// Tells whether this is a symbolic link.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.file_type == FileType::Symlink
    }
}

/// Which links of a path are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// All of them.
    All,
    /// Those of the directories on the way, but not the last component.
    Parents,
}

/// Where a path leads.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The path without links; from the first missing component on it is the rest of what was asked.
    pub path: EntryPath,
    /// What is there.
    pub node: Option<Node>,
}

impl View {
    /// Returns the union of `layers`, topmost first, with owners as they are on disk.
    ///
    /// # Errors
    /// When a layer cannot be opened.
    pub fn new(layers: Vec<PathBuf>) -> Result<Self> {
        Self::with_ids(layers, SameIds)
    }

    /// Returns the union of `layers`, topmost first, with owners translated by `ids`.
    ///
    /// # Errors
    /// When a layer cannot be opened.
    pub fn with_ids(layers: Vec<PathBuf>, ids: impl Ids + Send + 'static) -> Result<Self> {
        let open = |path: PathBuf| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = fs::openat(CWD, &path, flags, Mode::empty()).trying("open the layer", &path)?;
            let owners = read_owners(&path)?;
            Ok(Layer { path, fd, owners })
        };
        let layers = layers.into_iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self { layers, ids: Box::new(ids), known: Mutex::new(BTreeMap::new()) })
    }

    /// Returns what has exactly this path, without following any link; `None` when nothing has.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn lookup(&self, path: &EntryPath) -> Result<Option<Node>> {
        let Some(parent) = path.parent() else { return self.root().map(Some) };
        let Some(sources) = self.directory(&parent)? else { return Ok(None) };
        self.find(&sources, path)
    }

    /// Returns where `path` leads when it is read inside the view: `/` and `..` never leave the root.
    ///
    /// # Errors
    /// When links go round in circles, a component in the middle is a file, or a layer cannot be read.
    pub fn resolve(&self, path: impl AsRef<[u8]>, follow: Follow) -> Result<Resolved> {
        let asked = path.as_ref();
        let mut todo: Vec<Vec<u8>> = asked.split(|b| *b == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut here = Resolved { path: EntryPath::root(), node: Some(self.root()?) };
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    let path = here.path.parent().unwrap_or_default();
                    here = Resolved { node: self.lookup(&path)?, path };
                    continue;
                }
                _ => {}
            }
            if here.node.as_ref().is_some_and(|n| !n.is_directory()) {
                return Err(Error::NotDirectory(here.path));
            }
            let path = here.path.join(&name);
            let node = match &here.node {
                Some(directory) => self.find(&directory.sources, &path)?,
                None => None,
            };
            let last = todo.iter().all(|c| matches!(c.as_slice(), b"" | b"."));
            // A trailing slash asks for the directory behind a link, as it does in the kernel.
            let keep = last && follow == Follow::Parents && todo.is_empty();
            match node {
                Some(link) if link.is_symlink() && !keep => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::Loop(EntryPath::rooted(asked).unwrap_or(path)));
                    }
                    let target = self.read_link(&link)?;
                    if target.first() == Some(&b'/') {
                        here = Resolved { path: EntryPath::root(), node: Some(self.root()?) };
                    }
                    todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                node => here = Resolved { path, node },
            }
        }
        Ok(here)
    }

    /// Returns the names in a directory, sorted.
    ///
    /// # Errors
    /// When `path` is no directory of the view ([`Error::Missing`], [`Error::NotDirectory`]).
    pub fn read_dir(&self, path: &EntryPath) -> Result<Vec<Vec<u8>>> {
        if path.is_root() && self.layers.is_empty() {
            return Ok(Vec::new());
        }
        let node = self.lookup(path)?.ok_or_else(|| Error::Missing(path.clone()))?;
        self.names(&node)
    }

    /// Opens a regular file for reading; a link at `path` is not followed.
    ///
    /// # Errors
    /// When nothing is there, or it is no regular file.
    pub fn open(&self, path: &EntryPath) -> Result<File> {
        let node = self.lookup(path)?.ok_or_else(|| Error::Missing(path.clone()))?;
        self.open_node(&node)
    }

    /// Opens the regular file that `node` is.
    ///
    /// # Errors
    /// When it is none, or cannot be opened.
    pub fn open_node(&self, node: &Node) -> Result<File> {
        // A pipe or a device must not be opened by mistake: that may block, or do something.
        if node.file_type != FileType::RegularFile {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::File { action: "read", path: node.host.clone(), source });
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = fs::openat(self.fd(node.layer)?, relative(&node.path), flags, Mode::empty());
        Ok(File::from(fd.trying("open", &node.host)?))
    }

    /// Returns all attributes of what has this path; `None` when nothing has, or a socket does.
    ///
    /// # Errors
    /// When a layer cannot be read.
    pub fn metadata(&self, path: &EntryPath) -> Result<Option<Entry>> {
        self.lookup(path)?.map_or(Ok(None), |node| self.entry(&node))
    }

    /// Returns all attributes of `node`; `None` for a socket.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn entry(&self, node: &Node) -> Result<Option<Entry>> {
        self.entry_with(node, &*self.ids)
    }

    pub(super) fn entry_with(&self, node: &Node, ids: &dyn Ids) -> Result<Option<Entry>> {
        let dir = self.fd(node.layer)?;
        let mut entry = attributes::entry(dir, relative(&node.path), node.path.clone(), &node.stat, ids)?;
        let recorded = self.layers.get(node.layer).and_then(|layer| layer.owners.get(&node.path));
        if let (Some(entry), Some(owner)) = (&mut entry, recorded) {
            (entry.uid, entry.gid) = (owner.uid, owner.gid);
        }
        Ok(entry)
    }

    /// Tells whether there is no layer, so that not even the root exists.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// Returns where the layers that make up a directory have it, topmost first: lower directories of an overlay.
    #[must_use]
    pub fn directories(&self, node: &Node) -> Vec<PathBuf> {
        let layers = node.sources.iter().filter_map(|index| self.layers.get(*index));
        layers.map(|layer| layer.path.join(relative(&node.path))).collect()
    }

    /// Walks `path` and everything below it: parents before children, siblings sorted, no link followed.
    ///
    /// # Errors
    /// When nothing has this path.
    pub fn walk(&self, path: &EntryPath) -> Result<Walk<'_>> {
        let node = self.lookup(path)?.ok_or_else(|| Error::Missing(path.clone()))?;
        Ok(Walk::new(self, node))
    }

    pub(super) fn names(&self, node: &Node) -> Result<Vec<Vec<u8>>> {
        if !node.is_directory() {
            return Err(Error::NotDirectory(node.path.clone()));
        }
        let mut names = BTreeMap::new();
        for layer in &node.sources {
            self.collect(*layer, &node.path, &mut names).trying("list", &node.host)?;
        }
        Ok(names.into_iter().filter_map(|(name, visible)| visible.then_some(name)).collect())
    }

    /// Adds the names that a layer has in a directory; those that it hides are added as invisible.
    fn collect(
        &self,
        layer: usize,
        path: &EntryPath,
        names: &mut BTreeMap<Vec<u8>, bool>,
    ) -> std::io::Result<()> {
        let Some(layer) = self.layers.get(layer) else { return Ok(()) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&layer.fd, relative(path), flags, Mode::empty())?;
        for entry in fs::Dir::new(fd.try_clone()?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") || names.contains_key(name) {
                continue;
            }
            let visible = match entry.file_type() {
                FileType::CharacterDevice | FileType::Socket | FileType::Unknown => {
                    let stat = fs::statat(&fd, entry.file_name(), fs::AtFlags::SYMLINK_NOFOLLOW)?;
                    !is_whiteout(&stat)
                }
                _ => true,
            };
            names.insert(name.to_vec(), visible);
        }
        Ok(())
    }

    /// Looks for `path` in the layers that have its directory.
    pub(super) fn find(&self, sources: &[usize], path: &EntryPath) -> Result<Option<Node>> {
        let mut found: Option<Node> = None;
        for index in sources {
            let fd = self.fd(*index)?;
            let Some(stat) = attributes::stat(fd, path.as_path()).trying("inspect", path)? else { continue };
            if is_whiteout(&stat) {
                break;
            }
            let is_directory = file_type(&stat) == FileType::Directory;
            match &mut found {
                Some(_) if !is_directory => break,
                Some(node) => node.sources.push(*index),
                None => found = Some(self.node(path, stat, *index)),
            }
            if !is_directory || is_opaque(fd, path.as_path()).trying("inspect", path)? {
                break;
            }
        }
        Ok(found)
    }

    fn node(&self, path: &EntryPath, stat: Stat, layer: usize) -> Node {
        let host = self.layers.get(layer).map(|l| l.path.join(path.as_path())).unwrap_or_default();
        Node {
            path: path.clone(),
            file_type: file_type(&stat),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            identity: Identity::of(&stat),
            layer,
            host,
            sources: vec![layer],
            stat,
        }
    }

    fn root(&self) -> Result<Node> {
        let path = EntryPath::root();
        let fd = self.fd(0)?;
        let stat = fs::fstat(fd).trying("inspect", &path)?;
        let mut node = self.node(&path, stat, 0);
        node.sources = (0..self.layers.len()).collect();
        Ok(node)
    }

    /// Returns the layers that make up a directory.
    fn directory(&self, path: &EntryPath) -> Result<Option<Vec<usize>>> {
        if path.is_root() {
            return Ok(Some((0..self.layers.len()).collect()));
        }
        let known = |known: &Mutex<BTreeMap<_, _>>| {
            known.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
        };
        if let Some(sources) = known(&self.known) {
            return Ok(Some(sources));
        }
        let Some(sources) = self.directory(&path.parent().unwrap_or_default())? else { return Ok(None) };
        let Some(node) = self.find(&sources, path)?.filter(Node::is_directory) else { return Ok(None) };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(path.clone(), node.sources.clone());
        Ok(Some(node.sources))
    }

    fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        let target = fs::readlinkat(self.fd(node.layer)?, relative(&node.path), Vec::new());
        Ok(target.trying("read the link", &node.host)?.into_bytes())
    }

    fn fd(&self, layer: usize) -> Result<BorrowedFd<'_>> {
        // A view of no layers shows nothing, not even a root.
        self.layers.get(layer).map(|l| l.fd.as_fd()).ok_or_else(|| Error::Missing(EntryPath::root()))
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.layers.iter().map(|l| &l.path)).finish()
    }
}

/// Returns the path for a call relative to the layer's directory.
fn relative(path: &EntryPath) -> &Path {
    if path.is_root() { Path::new(".") } else { path.as_path() }
}
