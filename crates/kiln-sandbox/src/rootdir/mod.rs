//! File operations inside a root file system, from which no path, symlink or `..` leads out.
//!
//! [`RootDir`] opens the parent directory of a path with `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)` and acts on the last
//! name relative to it, never following a symlink there. Parents are cached, so that unpacking a directory of many
//! files resolves it once. The cache is emptied when something is removed or renamed through this value; nobody else
//! may change the tree at the same time.
//!
//! Owners are ids of the disk: see [`crate::Isolation::disk_id`].

mod folder;
mod metadata;
mod resolve;
mod xattr;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

pub use folder::{Folder, Names, metadata_of};
pub use metadata::{DirEntry, Kind, Metadata, Node, Time};
pub use resolve::Escape;

/// Describes a refused or failed operation inside a root.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} `{}` in the root file system", path.display())]
#[non_exhaustive]
pub struct Error {
    /// What was attempted, as a verb phrase.
    pub operation: &'static str,
    /// The path inside the root.
    pub path: PathBuf,
    /// The kernel's answer.
    pub source: io::Error,
}

impl Error {
    /// Returns the kind of the kernel's answer.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Returns the number of the kernel's answer.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        Self::new(error.kind(), error)
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

trait At<T> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, Errno> {
    fn at(self, operation: &'static str, path: &Path) -> Result<T> {
        self.map_err(|errno| Error { operation, path: path.to_owned(), source: errno.into() })
    }
}

/// How many parents are kept open; a tree is unpacked depth first, so few are alive at a time.
const CACHED_PARENTS: usize = 32;

/// A directory that is the root of a file system image.
#[derive(Debug)]
pub struct RootDir {
    root: Arc<OwnedFd>,
    escape: Escape,
    parents: Mutex<Vec<(PathBuf, Arc<OwnedFd>)>>,
}

/// A path taken apart: its parent, open, and its last name.
struct Place {
    parent: Arc<OwnedFd>,
    name: OsString,
}

impl RootDir {
    /// Opens the directory `path` of the host as a root; absolute symlinks and `..` inside stay inside.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Escape::Clamped)
    }

    /// Opens a root and says what happens to paths that point out of it.
    pub fn open_with(path: &Path, escape: Escape) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, path, flags, Mode::empty()).at("open as a root", path)?;
        Ok(Self { root: Arc::new(root), escape, parents: Mutex::new(Vec::new()) })
    }

    /// Returns the descriptor of the root itself; opened with `O_PATH`.
    pub fn as_root_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Creates a directory; its parent must exist.
    pub fn create_dir(&self, path: &Path, mode: u32) -> Result<()> {
        const OPERATION: &str = "create the directory";
        let place = self.place(path).at(OPERATION, path)?;
        rustix::fs::mkdirat(&place.parent, &place.name, Mode::from_raw_mode(mode)).at(OPERATION, path)
    }

    /// Creates a directory with all missing parents and returns those that were created, outermost first.
    pub fn create_dir_all(&self, path: &Path, mode: u32) -> Result<Vec<PathBuf>> {
        let mut created = Vec::new();
        let mut so_far = PathBuf::new();
        for part in relative(path).components() {
            so_far.push(part);
            if part == Component::ParentDir {
                continue;
            }
            match self.create_dir(&so_far, mode) {
                Ok(()) => created.push(so_far.clone()),
                // A directory or a symlink to one; anything else fails at the next component or below.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        if self.stat(path)?.kind != Kind::Directory {
            return Err(Errno::NOTDIR).at("create the directory", path);
        }
        Ok(created)
    }

    /// Creates a regular file that must not exist yet and opens it for writing.
    pub fn create_file(&self, path: &Path, mode: u32) -> Result<File> {
        const OPERATION: &str = "create the file";
        let place = self.place(path).at(OPERATION, path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&place.parent, &place.name, flags, Mode::from_raw_mode(mode))
            .map(File::from)
            .at(OPERATION, path)
    }

    /// Opens a regular file for reading, following symlinks inside the root.
    pub fn open_file(&self, path: &Path) -> Result<File> {
        const OPERATION: &str = "open the file";
        // Without O_NONBLOCK a fifo in a hostile image would block kiln for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file =
            resolve::open(self.root.as_fd(), relative(path), flags, self.escape).at(OPERATION, path)?;
        let stat = rustix::fs::fstat(&file).at(OPERATION, path)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(File::from(file)),
            FileType::Directory => Err(Errno::ISDIR).at(OPERATION, path),
            _ => Err(Errno::INVAL).at(OPERATION, path),
        }
    }

    /// Opens a directory as a root of its own, following symlinks inside this root.
    pub fn open_dir(&self, path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = resolve::open(self.root.as_fd(), relative(path), flags, self.escape)
            .at("open the directory", path)?;
        Ok(Self { root: Arc::new(root), escape: self.escape, parents: Mutex::new(Vec::new()) })
    }

    /// Creates a symlink with this text, which is stored as it is and resolved by nobody.
    pub fn symlink(&self, target: &Path, path: &Path) -> Result<()> {
        const OPERATION: &str = "create the symlink";
        let place = self.place(path).at(OPERATION, path)?;
        rustix::fs::symlinkat(target, &place.parent, &place.name).at(OPERATION, path)
    }

    /// Gives the existing file `existing` a second name; a symlink is linked itself, not its target.
    pub fn hardlink(&self, existing: &Path, path: &Path) -> Result<()> {
        const OPERATION: &str = "create the hard link";
        let from = self.place(existing).at("find the target of a hard link", existing)?;
        let to = self.place(path).at(OPERATION, path)?;
        rustix::fs::linkat(&from.parent, &from.name, &to.parent, &to.name, AtFlags::empty())
            .at(OPERATION, path)
    }

    /// Creates a device, a fifo or an overlay whiteout.
    pub fn mknod(&self, path: &Path, node: Node, mode: u32) -> Result<()> {
        const OPERATION: &str = "create the special file";
        let place = self.place(path).at(OPERATION, path)?;
        let (kind, major, minor) = match node {
            Node::Fifo => (FileType::Fifo, 0, 0),
            Node::Whiteout => (FileType::CharacterDevice, 0, 0),
            Node::CharacterDevice { major, minor } => (FileType::CharacterDevice, major, minor),
            Node::BlockDevice { major, minor } => (FileType::BlockDevice, major, minor),
        };
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(&place.parent, &place.name, kind, Mode::from_raw_mode(mode), device)
            .at(OPERATION, path)
    }

    /// Returns what is at `path`, without following a symlink there.
    pub fn lstat(&self, path: &Path) -> Result<Metadata> {
        const OPERATION: &str = "look up";
        let place = self.place(path).at(OPERATION, path)?;
        rustix::fs::statat(&place.parent, &place.name, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| Metadata::from_stat(&stat))
            .at(OPERATION, path)
    }

    /// Returns what is at `path`, following symlinks inside the root.
    pub fn stat(&self, path: &Path) -> Result<Metadata> {
        const OPERATION: &str = "look up";
        let file =
            resolve::open(self.root.as_fd(), relative(path), OFlags::PATH | OFlags::CLOEXEC, self.escape)
                .at(OPERATION, path)?;
        rustix::fs::fstat(&file).map(|stat| Metadata::from_stat(&stat)).at(OPERATION, path)
    }

    /// Returns the text of a symlink.
    pub fn readlink(&self, path: &Path) -> Result<PathBuf> {
        const OPERATION: &str = "read the symlink";
        let place = self.place(path).at(OPERATION, path)?;
        rustix::fs::readlinkat(&place.parent, &place.name, Vec::new())
            .map(|text| PathBuf::from(OsString::from_vec(text.into_bytes())))
            .at(OPERATION, path)
    }

    /// Sets one extended attribute of the object itself.
    pub fn set_xattr(&self, path: &Path, name: &OsStr, value: &[u8]) -> Result<()> {
        const OPERATION: &str = "set an extended attribute of";
        let place = self.place(path).at(OPERATION, path)?;
        xattr::set(place.parent.as_fd(), &place.name, name, value).at(OPERATION, path)
    }

    /// Returns the extended attributes of the object itself by name; file capabilities in the form that images store.
    pub fn xattrs(&self, path: &Path) -> Result<BTreeMap<OsString, Vec<u8>>> {
        const OPERATION: &str = "read the extended attributes of";
        let place = self.place(path).at(OPERATION, path)?;
        xattr::all(place.parent.as_fd(), &place.name).at(OPERATION, path)
    }

    /// Removes one extended attribute of the object itself.
    pub fn remove_xattr(&self, path: &Path, name: &OsStr) -> Result<()> {
        const OPERATION: &str = "remove an extended attribute of";
        let place = self.place(path).at(OPERATION, path)?;
        xattr::remove(place.parent.as_fd(), &place.name, name).at(OPERATION, path)
    }

    /// Changes the owner of the object itself, in ids of the disk. It clears setuid bits: change the mode afterwards.
    pub fn chown(&self, path: &Path, uid: u32, gid: u32) -> Result<()> {
        const OPERATION: &str = "change the owner of";
        let place = self.place(path).at(OPERATION, path)?;
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        rustix::fs::chownat(&place.parent, &place.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            .at(OPERATION, path)
    }

    /// Changes the permission bits; refuses a symlink, which has none.
    pub fn chmod(&self, path: &Path, mode: u32) -> Result<()> {
        const OPERATION: &str = "change the mode of";
        let place = self.place(path).at(OPERATION, path)?;
        metadata::chmod(place.parent.as_fd(), &place.name, Mode::from_raw_mode(mode)).at(OPERATION, path)
    }

    /// Sets access and modification time of the object itself.
    pub fn set_times(&self, path: &Path, accessed: Time, modified: Time) -> Result<()> {
        const OPERATION: &str = "set the times of";
        let place = self.place(path).at(OPERATION, path)?;
        let timespec =
            |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanoseconds) as _ };
        let times = Timestamps { last_access: timespec(accessed), last_modification: timespec(modified) };
        rustix::fs::utimensat(&place.parent, &place.name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .at(OPERATION, path)
    }

    /// Moves an object inside the root, replacing what is there as rename(2) does.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        const OPERATION: &str = "rename";
        let source = self.place(from).at(OPERATION, from)?;
        let target = self.place(to).at(OPERATION, to)?;
        self.forget_parents();
        rustix::fs::renameat(&source.parent, &source.name, &target.parent, &target.name).at(OPERATION, from)
    }

    /// Removes whatever is at `path`, with all below; nothing there is no error. The root itself is emptied, not removed.
    pub fn remove_all(&self, path: &Path) -> Result<()> {
        const OPERATION: &str = "remove";
        self.forget_parents();
        let place = match self.place(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            place => place.at(OPERATION, path)?,
        };
        if place.name.as_bytes() == b"." {
            return crate::remove::empty_at(place.parent.as_fd()).at(OPERATION, path);
        }
        crate::remove::remove_at(place.parent.as_fd(), &place.name).at(OPERATION, path)
    }

    /// Returns the entries of a directory, sorted by the bytes of their names; does not follow a symlink at `path`.
    pub fn read_dir(&self, path: &Path) -> Result<Vec<DirEntry>> {
        const OPERATION: &str = "list the directory";
        let place = self.place(path).at(OPERATION, path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(&place.parent, &place.name, flags, Mode::empty()).at(OPERATION, path)?;
        metadata::entries(dir).at(OPERATION, path)
    }

    fn place(&self, path: &Path) -> Result<Place, Errno> {
        let path = relative(path);
        let Some(name) = last_name(path)? else {
            return Ok(Place { parent: Arc::clone(&self.root), name: OsString::from(".") });
        };
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Place { parent: self.parent(parent)?, name: name.to_owned() })
    }

    fn parent(&self, parent: &Path) -> Result<Arc<OwnedFd>, Errno> {
        if parent.as_os_str().is_empty() {
            return Ok(Arc::clone(&self.root));
        }
        let mut parents = self.parents.lock().unwrap_or_else(PoisonError::into_inner);
        // The newest is last: the next file is most likely its neighbour.
        if let Some(index) = parents.iter().rposition(|(path, _)| path == parent) {
            let entry = parents.remove(index);
            let fd = Arc::clone(&entry.1);
            parents.push(entry);
            return Ok(fd);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = Arc::new(resolve::open(self.root.as_fd(), parent, flags, self.escape)?);
        if parents.len() == CACHED_PARENTS {
            parents.remove(0);
        }
        parents.push((parent.to_owned(), Arc::clone(&fd)));
        Ok(fd)
    }

    fn forget_parents(&self) {
        self.parents.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Returns the path without a leading slash: inside a root there is nothing above it.
fn relative(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|&byte| byte != b'/').unwrap_or(bytes.len());
    Path::new(OsStr::from_bytes(&bytes[start..]))
}

/// Returns the last name of a relative path; `None` is the root itself.
fn last_name(path: &Path) -> Result<Option<&OsStr>, Errno> {
    match path.components().next_back() {
        None | Some(Component::CurDir) => Ok(None),
        Some(Component::Normal(name)) => Ok(Some(name)),
        // `a/..` names a directory by another name than its own, which nothing here can act on safely.
        Some(Component::ParentDir | Component::RootDir | Component::Prefix(_)) => Err(Errno::INVAL),
    }
}

#[cfg(test)]
mod tests;
