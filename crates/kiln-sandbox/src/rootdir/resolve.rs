//! Opens a path inside a root: with one `openat2`, or component by component where the kernel or a filter lacks it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What happens to a path or symlink that points out of the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// It is read as a process with this root would read it: `/` and `..` end at the root.
    Clamped,
    /// It is refused with EXDEV: for archives that have no business with such paths.
    Refused,
}

/// Set once openat2 has answered ENOSYS, to not ask again.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

/// As many symlinks as the kernel itself follows.
const MOST_SYMLINKS: usize = 40;

/// Opens `path`, which is relative to `root`; an empty path is the root.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    escape: Escape,
) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    if !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let inside = match escape {
            Escape::Clamped => ResolveFlags::IN_ROOT,
            Escape::Refused => ResolveFlags::BENEATH,
        };
        loop {
            match rustix::fs::openat2(root, path, flags, Mode::empty(), inside | ResolveFlags::NO_MAGICLINKS)
            {
                // A rename elsewhere on the machine raced with a `..`; the kernel asks to try again.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS) => break,
                answer => return answer,
            }
        }
        WITHOUT_OPENAT2.store(true, Ordering::Relaxed);
    }
    walk(root, path, flags, escape)
}

/// Does by hand what `openat2` does: safe because every step refuses to follow symlinks, and `..` pops a descriptor.
pub(super) fn walk(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    escape: Escape,
) -> Result<OwnedFd, Errno> {
    const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
    let mut waiting: VecDeque<OsString> = VecDeque::new();
    push_front(&mut waiting, path, escape)?;
    // The directories from below the root to where we are.
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut symlinks = 0;
    while let Some(name) = waiting.pop_front() {
        if name == ".." {
            match (stack.pop(), escape) {
                (None, Escape::Refused) => return Err(Errno::XDEV),
                _ => continue,
            }
        }
        if name == "." {
            continue;
        }
        if name == "/" {
            stack.clear();
            continue;
        }
        let here = stack.last().map_or(root, |fd| fd.as_fd());
        let next = rustix::fs::openat(here, &name, STEP, Mode::empty())?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode);
        let last = waiting.is_empty();
        if kind == FileType::Symlink {
            if last && flags.contains(OFlags::NOFOLLOW) {
                return if flags.contains(OFlags::PATH) { Ok(next) } else { Err(Errno::LOOP) };
            }
            symlinks += 1;
            if symlinks > MOST_SYMLINKS {
                return Err(Errno::LOOP);
            }
            let text = rustix::fs::readlinkat(&next, "", Vec::new())?.into_bytes();
            push_front(&mut waiting, Path::new(&OsString::from_vec(text)), escape)?;
            continue;
        }
        if !last && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if last && !flags.contains(OFlags::PATH) {
            return rustix::fs::openat(here, &name, flags | OFlags::NOFOLLOW, Mode::empty());
        }
        if last && flags.contains(OFlags::DIRECTORY) && kind != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        stack.push(next);
    }
    match stack.pop() {
        Some(found) if flags.contains(OFlags::PATH) => Ok(found),
        Some(found) => rustix::fs::openat(&found, ".", flags, Mode::empty()),
        None => rustix::fs::openat(root, ".", flags, Mode::empty()),
    }
}

/// Puts the components of a path before those that still wait.
fn push_front(waiting: &mut VecDeque<OsString>, path: &Path, escape: Escape) -> Result<(), Errno> {
    // A trailing slash asks for a directory: something behind the last name makes the walk look.
    if path.as_os_str().as_bytes().ends_with(b"/") {
        waiting.push_front(OsString::from("."));
    }
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => waiting.push_front(name.to_owned()),
            Component::ParentDir => waiting.push_front(OsString::from("..")),
            Component::RootDir if escape == Escape::Refused => return Err(Errno::XDEV),
            Component::RootDir => waiting.push_front(OsString::from("/")),
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(())
}
