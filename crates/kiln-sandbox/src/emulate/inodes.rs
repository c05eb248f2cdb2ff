//! Owners of files that take no attribute: symbolic links, pipes, sockets, and whatever lies on a file system without
//! `user` attributes.
//!
//! They are found by device and inode number. Each entry keeps its file open, which keeps the number from being given to
//! another file, and an overlay from forgetting which number it showed. At the end the owners of those that are in the
//! upper directory are written beside it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::records::{LayerOwners, Owner};

#[derive(Debug, Default)]
pub(super) struct Inodes(BTreeMap<(u64, u64), (Owner, OwnedFd)>);

impl Inodes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self, stat: &Stat) -> Option<Owner> {
        self.0.get(&(stat.st_dev, stat.st_ino)).map(|(owner, _)| *owner)
    }

    pub(super) fn set(&mut self, stat: &Stat, owner: Owner, file: OwnedFd) {
        self.0.insert((stat.st_dev, stat.st_ino), (owner, file));
    }

    pub(super) fn remove(&mut self, stat: &Stat) {
        self.0.remove(&(stat.st_dev, stat.st_ino));
    }

    /// Takes over the records of the layers below, topmost first.
    pub(super) fn load(&mut self, root: &OwnedFd, layers: &[LayerOwners]) {
        for LayerOwners { dir, owners } in layers {
            for (path, owner) in owners {
                let path = Path::new(std::ffi::OsStr::from_bytes(path));
                // Another layer may have put something else there, or removed it. An overlay shows the inode numbers
                // of the layers for everything but directories.
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let Ok(file) = rustix::fs::openat(root, path, flags, Mode::empty()) else { continue };
                let Ok(shown) = rustix::fs::fstat(&file) else { continue };
                let of_layer = rustix::fs::statat(CWD, dir.join(path), AtFlags::SYMLINK_NOFOLLOW);
                let same =
                    of_layer.is_ok_and(|stat| stat.st_ino == shown.st_ino && stat.st_mode == shown.st_mode);
                if same && self.get(&shown).is_none() {
                    self.set(&shown, *owner, file);
                }
            }
        }
    }

    /// Returns the owners of what is in the upper directory, by path.
    pub(super) fn in_upper(&self, root: &OwnedFd, upper: &Path) -> Result<Vec<(Vec<u8>, Owner)>, Errno> {
        let mut found = Vec::new();
        let mut todo = if self.is_empty() { Vec::new() } else { vec![PathBuf::new()] };
        while let Some(dir) = todo.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(CWD, upper.join(&dir), flags, Mode::empty())?;
            for entry in rustix::fs::Dir::read_from(&fd)? {
                let entry = entry?;
                let name = entry.file_name().to_bytes();
                if matches!(name, b"." | b"..") {
                    continue;
                }
                let path = dir.join(OsString::from_vec(name.to_vec()));
                match entry.file_type() {
                    FileType::Directory => todo.push(path),
                    FileType::RegularFile => {}
                    _ => match rustix::fs::statat(root, &path, AtFlags::SYMLINK_NOFOLLOW) {
                        Ok(stat) => found.extend(
                            self.get(&stat).map(|owner| (path.as_os_str().as_bytes().to_vec(), owner)),
                        ),
                        // A removal.
                        Err(Errno::NOENT) => {}
                        Err(errno) => return Err(errno),
                    },
                }
            }
        }
        found.sort();
        Ok(found)
    }
}
