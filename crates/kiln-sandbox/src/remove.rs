//! Deletes directory trees that commands have left: closed directories, foreign owners, any depth.
//!
//! No symlink is followed and no path is resolved twice: everything is relative to an open directory. Descriptors
//! are bounded: a directory deeper than [`DEEPEST`] is first moved up beside the top and emptied from there.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

/// One descriptor is open for each level down to this depth.
const DEEPEST: usize = 128;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes a file or directory of the store with everything below it; nothing there is no error.
///
/// Directories of mode 000 (`work/work` of an overlay) are opened first. Files of other ids need the user namespace
/// in which they were made, which kiln is in after [`crate::enter_build_namespace`].
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a path without a last name cannot be removed",
        ));
    };
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::openat(CWD, parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        parent => parent?,
    };
    Ok(remove_at(parent.as_fd(), name)?)
}

/// Removes one name of an open directory with everything below it.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says EISDIR for a directory, POSIX EPERM; asking on costs nothing.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let name = CString::new(name.as_encoded_bytes()).map_err(|_| Errno::INVAL)?;
    match open_dir(parent, &name) {
        Ok(dir) => empty_at(dir.as_fd())?,
        Err(Errno::NOENT) => return Ok(()),
        // Not a directory after all: the unlink's answer was the true one.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::PERM),
        Err(errno) => return Err(errno),
    }
    rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)
}

/// Removes everything in an open directory, but not itself.
pub(crate) fn empty_at(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    // The descriptor may be O_PATH, which cannot be listed.
    let top = rustix::fs::openat(dir, ".", OPEN.difference(OFlags::NOFOLLOW), Mode::empty())?;
    let mut lifted = 0;
    loop {
        let before = lifted;
        empty_level(&top, &top, 0, &mut lifted)?;
        if lifted == before {
            return Ok(());
        }
    }
}

fn empty_level(top: &OwnedFd, dir: &OwnedFd, depth: usize, lifted: &mut u64) -> Result<(), Errno> {
    for (name, is_dir) in list(dir)? {
        if !is_dir {
            match rustix::fs::unlinkat(dir, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => {
                    // A directory without write permission, which its owner may give himself.
                    rustix::fs::fchmod(dir, Mode::RWXU).map_err(|_| errno)?;
                    rustix::fs::unlinkat(dir, &name, AtFlags::empty())?;
                    continue;
                }
            }
        }
        if depth >= DEEPEST {
            rustix::fs::renameat(dir, &name, top, format!(".kiln-remove-{lifted}"))?;
            *lifted += 1;
            continue;
        }
        let child = open_dir(dir.as_fd(), &name)?;
        empty_level(top, &child, depth + 1, lifted)?;
        if rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR) == Err(Errno::ACCESS) {
            rustix::fs::fchmod(dir, Mode::RWXU)?;
            rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

fn list(dir: &OwnedFd) -> Result<Vec<(CString, bool)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type().is_dir()));
        }
    }
    Ok(names)
}

/// Opens a directory for listing and searching, giving itself the permission when it is the owner.
fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let dir = match rustix::fs::openat(parent, name, OPEN, Mode::empty()) {
        Err(Errno::ACCESS) => {
            // A symlink would have answered ELOOP, so this changes the directory and nothing else.
            rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            rustix::fs::openat(parent, name, OPEN, Mode::empty())?
        }
        dir => dir?,
    };
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&dir)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        // Refused for a foreign owner: then the capabilities of the namespace's root must do.
        let _ = rustix::fs::fchmod(&dir, Mode::RWXU);
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closed_and_very_deep_trees_go() {
        let top = std::env::temp_dir().join(format!("kiln-remove-{}", std::process::id()));
        std::fs::create_dir_all(top.join("work/work")).unwrap();
        std::fs::write(top.join("work/work/file"), "").unwrap();
        std::os::unix::fs::symlink("/", top.join("link")).unwrap();
        let mut dir = rustix::fs::openat(CWD, &top, OPEN, Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "d", OPEN, Mode::empty()).unwrap();
        }
        rustix::fs::chmod(top.join("work/work"), Mode::empty()).unwrap();
        rustix::fs::chmod(top.join("work"), Mode::RUSR).unwrap();
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }
}
