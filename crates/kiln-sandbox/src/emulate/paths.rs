//! Opens what a command's path means to the command: its root, its working directory, its descriptors.
//!
//! The supervisor sees the command's root as `/proc/PID/root`. From there a path is followed by the kernel, which takes
//! links to other roots and `..` as the command would. Links of /proc that lead to open files are not followed: they
//! would be the supervisor's. What cannot be found here is left to the kernel, which gives the command the same error, or
//! knows better.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::sys;
use crate::sys::notify::Tracee;

/// `PATH_MAX`.
const LONGEST: usize = 4096;

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Keep,
}

/// A path as a call names it.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) tracee: Tracee,
    /// Descriptor of the directory that a relative path starts at.
    pub(super) dir: i32,
    pub(super) path: Vec<u8>,
}

/// The command's file system.
#[derive(Debug)]
pub(super) struct Paths {
    root: OwnedFd,
    /// Whether a process may have changed its root.
    pub(super) roots_differ: bool,
}

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opens a link of the surrounding /proc that leads to a file of the command.
fn through_proc(tracee: Tracee, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(CWD, format!("/proc/{}/{name}", tracee.number()), PATH | flags, Mode::empty())
}

/// Returns the descriptor that a path of /proc or /dev names, if it is the command's own.
fn own_descriptor(path: &[u8]) -> Option<i32> {
    let number = match path {
        b"/dev/stdin" => return Some(0),
        b"/dev/stdout" => return Some(1),
        b"/dev/stderr" => return Some(2),
        _ => ["/proc/self/fd/", "/proc/thread-self/fd/", "/dev/fd/"]
            .iter()
            .find_map(|prefix| path.strip_prefix(prefix.as_bytes()))?,
    };
    std::str::from_utf8(number).ok()?.parse().ok()
}

impl Named {
    /// Reads the path that an argument points to.
    pub(super) fn read(tracee: Tracee, dir: u32, address: u64) -> Result<Self, Errno> {
        Ok(Self { tracee, dir: dir.cast_signed(), path: tracee.read_string(address, LONGEST)? })
    }

    /// Returns the path of the surrounding /proc that leads to a name, if it is one in a directory of the command and nothing
    /// more.
    pub(super) fn in_directory(&self) -> Option<PathBuf> {
        if self.path.contains(&b'/') || matches!(self.path.as_slice(), b"" | b"." | b"..") {
            return None;
        }
        let dir = match self.dir {
            libc::AT_FDCWD => format!("/proc/{}/cwd", self.tracee.number()),
            fd => format!("/proc/{}/fd/{fd}", self.tracee.number()),
        };
        Some(Path::new(&dir).join(OsStr::from_bytes(&self.path)))
    }

    /// Returns the path of the surrounding /proc that leads to an open file of the command.
    pub(super) fn descriptor(tracee: Tracee, fd: u32) -> String {
        format!("/proc/{}/fd/{}", tracee.number(), fd.cast_signed())
    }
}

impl Paths {
    /// Takes the root of a process for that of the sandbox.
    pub(super) fn of(tracee: Tracee, roots_differ: bool) -> Result<Self, Errno> {
        Ok(Self { root: through_proc(tracee, "root", OFlags::empty())?, roots_differ })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Opens a file of the command by its descriptor.
    pub(super) fn open_descriptor(tracee: Tracee, fd: i32) -> Result<OwnedFd, Errno> {
        if fd < 0 {
            return Err(Errno::BADF);
        }
        through_proc(tracee, &format!("fd/{fd}"), OFlags::empty())
    }

    /// Opens what a path names, as a path only. An empty path names the directory it would start at.
    pub(super) fn open(&self, named: &Named, last: Last) -> Result<OwnedFd, Errno> {
        if last == Last::Follow
            && let Some(fd) = own_descriptor(&named.path)
        {
            return Self::open_descriptor(named.tracee, fd);
        }
        if named.path.is_empty() {
            return start(named);
        }
        let flags = if last == Last::Keep { PATH | OFlags::NOFOLLOW } else { PATH };
        if named.path.first() == Some(&b'/') {
            return self.in_root(named.tracee, &named.path, flags);
        }
        self.below(named.tracee, &start(named)?, &named.path, flags)
    }

    /// Opens the directory that a new name is made in, and returns the name.
    pub(super) fn parent(&self, named: &Named) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let (parent, name) = split(&named.path)?;
        let dir = self.open(&Named { path: parent, ..named.clone() }, Last::Follow)?;
        Ok((dir, name))
    }

    /// As [`Self::parent`], for what a link in `dir` names.
    pub(super) fn parent_from(
        &self,
        tracee: Tracee,
        dir: &OwnedFd,
        path: &[u8],
    ) -> Result<(OwnedFd, Vec<u8>), Errno> {
        let (parent, name) = split(path)?;
        let dir = match parent.first() {
            None => rustix::io::fcntl_dupfd_cloexec(dir, 3)?,
            Some(b'/') => self.in_root(tracee, &parent, PATH)?,
            Some(_) => self.below(tracee, dir, &parent, PATH)?,
        };
        Ok((dir, name))
    }

    fn in_root(&self, tracee: Tracee, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if self.roots_differ {
            let root = through_proc(tracee, "root", OFlags::empty())?;
            return open(&root, path, flags, ResolveFlags::IN_ROOT);
        }
        open(&self.root, path, flags, ResolveFlags::IN_ROOT)
    }

    /// Opens a relative path; one that leads out of its start is followed again from the root.
    fn below(&self, tracee: Tracee, start: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        match open(start, path, flags, ResolveFlags::BENEATH) {
            Err(Errno::XDEV) => {}
            answer => return answer,
        }
        let name = |fd: &OwnedFd| {
            rustix::fs::readlink(sys::proc_fd(fd), Vec::new()).map(std::ffi::CString::into_bytes)
        };
        let start = name(start)?;
        let start = if self.roots_differ {
            let root = name(&through_proc(tracee, "root", OFlags::empty())?)?;
            let root = root.strip_suffix(b"/").unwrap_or(&root);
            start.strip_prefix(root).ok_or(Errno::XDEV)?.to_vec()
        } else {
            start
        };
        // A directory that was removed has a name that leads nowhere, which is the answer.
        self.in_root(tracee, &[start.as_slice(), b"/", path].concat(), flags)
    }
}

/// Opens the directory that a relative path starts at.
fn start(named: &Named) -> Result<OwnedFd, Errno> {
    match named.dir {
        libc::AT_FDCWD => through_proc(named.tracee, "cwd", OFlags::empty()),
        fd => Paths::open_descriptor(named.tracee, fd),
    }
}

fn open(dir: impl AsFd, path: &[u8], flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = Path::new(OsStr::from_bytes(path));
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&dir, path, flags, Mode::empty(), resolve) {
            // Something was renamed meanwhile.
            Err(Errno::AGAIN | Errno::INTR) => {}
            answer => return answer,
        }
    }
}

/// Splits a path into the directory and the new name in it.
fn split(path: &[u8]) -> Result<(Vec<u8>, Vec<u8>), Errno> {
    let end = path.iter().rposition(|&byte| byte != b'/').ok_or(Errno::EXIST)? + 1;
    let path = path.get(..end).unwrap_or_default();
    let slash = path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let (parent, name) = path.split_at(slash);
    if matches!(name, b"." | b"..") {
        return Err(Errno::EXIST);
    }
    Ok((parent.to_vec(), name.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_before_its_last_name() {
        let check = |path: &str, expect: Option<(&str, &str)>| {
            let found = split(path.as_bytes()).ok();
            let expect = expect.map(|(dir, name)| (dir.as_bytes().to_vec(), name.as_bytes().to_vec()));
            assert_eq!(found, expect, "{path}");
        };
        check("a", Some(("", "a")));
        check("/a", Some(("/", "a")));
        check("/a/b//", Some(("/a/", "b")));
        check("../a/b", Some(("../a/", "b")));
        check("/", None);
        check("a/..", None);
        check("", None);
    }

    #[test]
    fn own_descriptors_are_known_by_name() {
        let check = |path: &str, expect| assert_eq!(own_descriptor(path.as_bytes()), expect, "{path}");
        check("/proc/self/fd/7", Some(7));
        check("/dev/fd/0", Some(0));
        check("/dev/stderr", Some(2));
        check("/proc/1/fd/7", None);
        check("/proc/self/fd/x", None);
    }
}
