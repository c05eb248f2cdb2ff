//! Mount points inside the new root: found without leaving it, made when missing, and remembered.
//!
//! An image may hold symlinks where a mount shall go, even at `/proc`. They are followed as a process inside would follow
//! them, so that nothing is ever mounted outside. What is made here is an artefact of running and must not end up in a layer,
//! so it is reported, and the parent keeps its modification time.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Context as _, Error};
use crate::sys;

/// What a mount needs to stand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ground {
    File,
    Directory,
}

/// The mounted root, with the mount points that were made in it.
#[derive(Debug)]
pub(crate) struct Targets {
    root: OwnedFd,
    /// How this process calls the root, to be taken off the names of paths below it.
    prefix: PathBuf,
    pub(crate) stubs: Vec<PathBuf>,
}

/// As many symlinks to nowhere as the kernel would follow symlinks.
const MOST_DETOURS: u32 = 40;

impl Targets {
    pub(crate) fn new(root: OwnedFd) -> Result<Self, Error> {
        let prefix = name_of(&root).step("find the name of the new root")?;
        Ok(Self { root, prefix, stubs: Vec::new() })
    }

    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens what is at `path`, following symlinks inside the root and crossing mounts.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(
                &self.root,
                path,
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                answer => return answer,
            }
        }
    }

    /// Opens the mount point `path`, making it and its parents when they are missing.
    pub(crate) fn ground(&mut self, path: &Path, ground: Ground) -> Result<OwnedFd, Error> {
        let found = match self.open(path) {
            Err(Errno::NOENT) => self.make(path, ground, MOST_DETOURS),
            answer => answer.step_at("find the mount point", path),
        }?;
        let is_dir = file_type(&found).step_at("look at the mount point", path)? == FileType::Directory;
        match (ground, is_dir) {
            (Ground::File, true) => Err(Error::new("mount a file on").path(path).errno(Errno::ISDIR)),
            (Ground::Directory, false) => {
                Err(Error::new("mount a directory on").path(path).errno(Errno::NOTDIR))
            }
            _ => Ok(found),
        }
    }

    fn make(&mut self, path: &Path, ground: Ground, detours: u32) -> Result<OwnedFd, Error> {
        const STEP: &str = "create the mount point";
        let parts: Vec<&OsStr> = path.components().filter_map(name_in_path).collect();
        let mut so_far = PathBuf::new();
        for (index, part) in parts.iter().enumerate() {
            let parent_path = so_far.clone();
            so_far.push(part);
            match self.open(&so_far) {
                Ok(_) => continue,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).step_at(STEP, path),
            }
            let parent = self.open(&parent_path).step_at(STEP, path)?;
            let kind = if index + 1 < parts.len() { Ground::Directory } else { ground };
            match make_one(&parent, part, kind) {
                Ok(()) => self.stubs.push(self.real_name(&parent).step_at(STEP, path)?.join(part)),
                // A symlink to nowhere, as `/etc/resolv.conf` often is: what it points to is made instead.
                Err(Errno::EXIST) if detours > 0 => {
                    let text = rustix::fs::readlinkat(&parent, *part, Vec::new()).step_at(STEP, path)?;
                    let mut detour = self.real_name(&parent).step_at(STEP, path)?;
                    detour.push(OsString::from_vec(text.into_bytes()));
                    detour.extend(&parts[index + 1..]);
                    return self.make(&plain(&detour), ground, detours - 1);
                }
                Err(errno) => return Err(errno).step_at(STEP, path).map_err(explain_read_only),
            }
        }
        self.open(&so_far).step_at(STEP, path)
    }

    /// Returns the path of an open directory from the root, with all symlinks resolved.
    pub(crate) fn real_name(&self, dir: &OwnedFd) -> Result<PathBuf, Errno> {
        let name = name_of(dir)?;
        let below = name.strip_prefix(&self.prefix).map_err(|_| Errno::XDEV)?;
        Ok(Path::new("/").join(below))
    }
}

fn explain_read_only(error: Error) -> Error {
    match error.errno.map(Errno::from_raw_os_error) {
        Some(Errno::ROFS) => error.hint(
            "it lies in another mount that is read-only and has nothing there: choose a target outside of it, \
             or make the other one `rw`",
        ),
        _ => error,
    }
}

fn name_in_path(part: Component<'_>) -> Option<&OsStr> {
    match part {
        Component::Normal(name) => Some(name),
        Component::ParentDir => Some(OsStr::new("..")),
        _ => None,
    }
}

/// Takes `.` and `..` out of a path by its text, which is right behind a parent without symlinks.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => {
                plain.pop();
            }
            _ => {}
        }
    }
    plain
}

fn name_of(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    let name = rustix::fs::readlink(sys::proc_fd(fd), Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(name.into_bytes())))
}

pub(crate) fn file_type(fd: impl AsFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode))
}

/// Makes an empty file or directory and leaves the parent's times as they were.
fn make_one(parent: &OwnedFd, name: &OsStr, kind: Ground) -> Result<(), Errno> {
    let before = rustix::fs::fstat(parent)?;
    match kind {
        Ground::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?,
        Ground::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            drop(rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644))?);
        }
    }
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps {
        last_access: time(before.st_atime as _, before.st_atime_nsec as _),
        last_modification: time(before.st_mtime as _, before.st_mtime_nsec as _),
    };
    rustix::fs::utimensat(parent, ".", &times, AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_leave_a_path_but_never_its_root() {
        let check = |path: &str, expect: &str| assert_eq!(plain(Path::new(path)), Path::new(expect));
        check("/etc/../run/resolv.conf", "/run/resolv.conf");
        check("/etc/../../../x", "/x");
        check("/a/./b", "/a/b");
    }
}
