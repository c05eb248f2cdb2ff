//! A directory inside a root, kept open: names in it are looked up one by one, and no path is walked again.
//!
//! For readers of whole trees. Every name is one component, checked, and no symlink is followed, neither at the name nor
//! on the way: a [`Folder`] below another is opened by its name there. So nothing leads out of the root by construction.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{At as _, Metadata, Result, RootDir, relative, resolve, xattr};

/// Bytes of names that are asked of the kernel at once.
const CHUNK: usize = 32 << 10;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An open directory of a root.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    /// Where it is in the root, for messages.
    path: PathBuf,
}

/// The names in a directory, sorted by their bytes. All of them are in one piece of memory.
#[derive(Default, Clone)]
pub struct Names {
    bytes: Vec<u8>,
    /// Where each name starts, and how long it is.
    order: Vec<(u32, u16)>,
}

impl RootDir {
    /// Opens a directory to look into; symlinks on the way to it are followed inside the root, one at `path` is not.
    pub fn folder(&self, path: &Path) -> Result<Folder> {
        let fd = resolve::open(self.as_root_fd(), relative(path), DIRECTORY, self.escape)
            .at("open the directory", path)?;
        Ok(Folder { fd, path: relative(path).to_owned() })
    }
}

impl Folder {
    /// Opens the directory `name` in this one.
    pub fn folder(&self, name: &[u8]) -> Result<Self> {
        let open = || rustix::fs::openat(&self.fd, component(name)?, DIRECTORY, Mode::empty());
        let path = self.path.join(OsStr::from_bytes(name));
        Ok(Self { fd: open().at("open the directory", &path)?, path })
    }

    /// Returns the names in it.
    pub fn names(&self) -> Result<Names> {
        Names::read(&self.fd).at("list the directory", &self.path)
    }

    /// Returns what `name` is, without following a symlink.
    pub fn lstat(&self, name: &[u8]) -> Result<Metadata> {
        component(name)
            .and_then(|name| rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW))
            .map(|stat| Metadata::from_stat(&stat))
            .map_err(|errno| self.failed("look up", name, errno))
    }

    /// Returns the text of the symlink `name`.
    pub fn readlink(&self, name: &[u8]) -> Result<PathBuf> {
        component(name)
            .and_then(|name| rustix::fs::readlinkat(&self.fd, name, Vec::new()))
            .map(|text| PathBuf::from(OsString::from_vec(text.into_bytes())))
            .map_err(|errno| self.failed("read the symlink", name, errno))
    }

    /// Returns one extended attribute of `name` itself, in the form that images store; absent is `None`.
    pub fn xattr(&self, name: &[u8], attribute: &str) -> Result<Option<Vec<u8>>> {
        component(name)
            .and_then(|name| xattr::one(self.fd.as_fd(), OsStr::from_bytes(name), attribute.as_bytes()))
            .map_err(|errno| self.failed("read the extended attributes of", name, errno))
    }

    /// Opens the regular file `name` for reading; a symlink is refused.
    pub fn open_file(&self, name: &[u8]) -> Result<File> {
        // Without O_NONBLOCK a fifo that took the place of a file would block kiln for ever.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let open = || -> std::result::Result<File, Errno> {
            let file = rustix::fs::openat(&self.fd, component(name)?, flags, Mode::empty())?;
            match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
                FileType::RegularFile => Ok(File::from(file)),
                _ => Err(Errno::INVAL),
            }
        };
        open().map_err(|errno| self.failed("open the file", name, errno))
    }

    fn failed(&self, operation: &'static str, name: &[u8], errno: Errno) -> super::Error {
        let path = self.path.join(OsStr::from_bytes(name));
        super::Error { operation, path, source: errno.into() }
    }
}

/// Returns `name` if it is one component and leads nowhere else.
fn component(name: &[u8]) -> std::result::Result<&[u8], Errno> {
    let elsewhere = matches!(name, b"" | b"." | b"..") || name.contains(&b'/');
    if elsewhere { Err(Errno::INVAL) } else { Ok(name) }
}

impl Names {
    /// Sorts these names.
    #[must_use]
    pub fn of<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut all = Self::default();
        for name in names {
            all.push(name).ok()?;
        }
        all.sort();
        Some(all)
    }

    fn read(dir: &OwnedFd) -> std::result::Result<Self, Errno> {
        let mut names = Self::default();
        let mut buffer = vec![MaybeUninit::uninit(); CHUNK];
        let mut list = RawDir::new(dir, &mut buffer);
        while let Some(entry) = list.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if !matches!(name, b"." | b"..") {
                names.push(name)?;
            }
        }
        names.sort();
        Ok(names)
    }

    fn push(&mut self, name: &[u8]) -> std::result::Result<(), Errno> {
        let start = u32::try_from(self.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
        let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
        self.bytes.extend_from_slice(name);
        self.order.push((start, length));
        Ok(())
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        self.order.sort_unstable_by(|a, b| slice(bytes, *a).cmp(slice(bytes, *b)));
    }

    /// Returns the name at `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        self.order.get(index).map(|at| slice(&self.bytes, *at))
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Names").field("len", &self.len()).finish_non_exhaustive()
    }
}

fn slice(bytes: &[u8], (start, length): (u32, u16)) -> &[u8] {
    let start = start as usize;
    bytes.get(start..start + usize::from(length)).unwrap_or_default()
}

/// Returns what an open file is now.
///
/// # Errors
/// When the kernel cannot say.
pub fn metadata_of(file: &File) -> std::io::Result<Metadata> {
    Ok(Metadata::from_stat(&rustix::fs::fstat(file)?))
}
