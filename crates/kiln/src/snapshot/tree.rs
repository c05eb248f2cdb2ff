//! The directory that a layer is unpacked into, with the way to the current directory kept open.
//!
//! Paths are walked component by component with `O_NOFOLLOW`; a symbolic link on the way is read and resolved
//! here, inside the layer, so that nothing an archive says can lead out of it. Nobody else writes to the
//! directory, hence what was looked at stays what it is.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kiln_oci::layer::EntryPath;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::attributes::{self, file_type};
use super::error::{Error, Result, Trying as _};

/// Most links followed for one path; more than the kernel allows, as in the engines' own resolution.
pub(super) const MAX_LINKS: usize = 255;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Says what to do about directories that are missing on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Absent {
    Create,
    Report,
}

/// A layer directory.
pub(super) struct Tree {
    root: OwnedFd,
    /// The real directories on the way to the current one, each with its name.
    stack: Vec<(Vec<u8>, OwnedFd)>,
    /// The path that was asked for when the stack was built; differs from the stack where a link was followed.
    asked: Option<EntryPath>,
    /// Directories that no entry announced.
    pub(super) implied: Vec<EntryPath>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let root = fs::openat(CWD, root, DIRECTORY, Mode::empty()).trying("open", root)?;
        Ok(Self { root, stack: Vec::new(), asked: None, implied: Vec::new() })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    fn current(&self) -> BorrowedFd<'_> {
        self.stack.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd())
    }

    /// Returns the real path of the current directory.
    pub(super) fn current_path(&self) -> EntryPath {
        let names: Vec<&[u8]> = self.stack.iter().map(|(name, _)| name.as_slice()).collect();
        EntryPath::root().join(&names.join(&b'/'))
    }

    /// Makes `path` the current directory, following links inside the layer; `None` when it is missing.
    pub(super) fn enter(&mut self, path: &EntryPath, absent: Absent) -> Result<Option<BorrowedFd<'_>>> {
        if self.asked.as_ref() == Some(path) {
            return Ok(Some(self.current()));
        }
        self.asked = None;
        let mut todo: Vec<Vec<u8>> = path.components().rev().map(<[u8]>::to_vec).collect();
        self.keep_common(&mut todo);
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    self.stack.pop();
                    continue;
                }
                _ => {}
            }
            match fs::openat(self.current(), name.as_slice(), DIRECTORY, Mode::empty()) {
                Ok(fd) => self.stack.push((name, fd)),
                Err(Errno::NOENT) if absent == Absent::Report => return Ok(None),
                Err(Errno::NOENT) => self.create(name)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let here = self.current_path().join(&name);
                    let Some(target) = self.link(&name).trying("read the link", &here)? else {
                        if absent == Absent::Report {
                            return Ok(None);
                        }
                        return Err(Error::NotDirectory(here));
                    };
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Error::Loop(path.clone()));
                    }
                    if target.first() == Some(&b'/') {
                        self.stack.clear();
                    }
                    todo.extend(target.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
                }
                Err(e) => return Err(e).trying("open", self.current_path().join(&name)),
            }
        }
        self.asked = Some(path.clone());
        Ok(Some(self.current()))
    }

    /// Drops from the stack what is not on the way, and from the way what is on the stack.
    fn keep_common(&mut self, todo: &mut Vec<Vec<u8>>) {
        let common = self.stack.iter().zip(todo.iter().rev()).take_while(|((a, _), b)| a == *b).count();
        self.stack.truncate(common);
        todo.truncate(todo.len() - common);
    }

    fn link(&self, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        match fs::readlinkat(self.current(), name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn create(&mut self, name: Vec<u8>) -> Result<()> {
        let path = self.current_path().join(&name);
        let make = || {
            fs::mkdirat(self.current(), name.as_slice(), Mode::from_raw_mode(0o755))?;
            let fd = fs::openat(self.current(), name.as_slice(), DIRECTORY, Mode::empty())?;
            // The mask of the process must not decide what an image looks like.
            fs::fchmod(&fd, Mode::from_raw_mode(0o755))?;
            Ok::<_, Errno>(fd)
        };
        let fd = make().trying("create the directory", &path)?;
        self.implied.push(path);
        self.stack.push((name, fd));
        Ok(())
    }

    /// Forgets open directories, because one of them is about to be replaced.
    pub(super) fn forget(&mut self) {
        self.asked = None;
        self.stack.clear();
    }
}

/// Removes `name` and everything below it, without following a link.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        done => return done,
    }
    // Depth is bounded by the open directories, so the walk keeps its own stack instead of recursing.
    let mut stack = vec![(name.to_vec(), fs::openat(dir, name, DIRECTORY, Mode::empty())?)];
    while let Some((_, fd)) = stack.last() {
        let mut descend = None;
        for entry in fs::Dir::read_from(fd)? {
            let entry = entry?;
            let child = entry.file_name().to_bytes();
            if matches!(child, b"." | b"..") {
                continue;
            }
            match fs::unlinkat(fd, child, AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    descend = Some((child.to_vec(), fs::openat(fd, child, DIRECTORY, Mode::empty())?));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        if let Some(next) = descend {
            stack.push(next);
            continue;
        }
        let Some((name, _)) = stack.pop() else { break };
        let parent = stack.last().map_or(dir, |(_, fd)| fd.as_fd());
        fs::unlinkat(parent, name.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Returns the type of what stands at `name`.
pub(super) fn type_of(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<FileType>> {
    Ok(attributes::stat(dir, Path::new(OsStr::from_bytes(name)))?.map(|stat| file_type(&stat)))
}
