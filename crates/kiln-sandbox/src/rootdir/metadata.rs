//! What a file is: the facts that layers record, as plain data.

use std::ffi::{OsStr, OsString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// The type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    File,
    Directory,
    Symlink,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
}

impl Kind {
    fn from_type(kind: FileType) -> Option<Self> {
        Some(match kind {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::CharacterDevice => Self::CharacterDevice,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::Unknown => return None,
        })
    }
}

/// A special file to be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of mknod(2)")]
pub enum Node {
    Fifo,
    /// The character device 0:0 by which an overlay says "deleted"; the only one that every user may make.
    Whiteout,
    CharacterDevice {
        major: u32,
        minor: u32,
    },
    BlockDevice {
        major: u32,
        minor: u32,
    },
}

/// A point in time as the file system stores it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What stat(2) says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metadata {
    /// Its type.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: 07777 at most.
    pub mode: u32,
    /// Owner, as an id of the disk.
    pub uid: u32,
    /// Group, as an id of the disk.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub modified: Time,
    /// Last change of content or attributes; no call sets it.
    pub changed: Time,
    /// Major number of a device file.
    pub major: u32,
    /// Minor number of a device file.
    pub minor: u32,
    /// The device that holds the file; with `inode` it tells hard links.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
}

impl Metadata {
    #[expect(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
    pub(super) fn from_stat(stat: &Stat) -> Self {
        Self {
            kind: Kind::from_type(FileType::from_raw_mode(stat.st_mode)).unwrap_or(Kind::File),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            modified: Time { seconds: stat.st_mtime as i64, nanoseconds: stat.st_mtime_nsec as u32 },
            changed: Time { seconds: stat.st_ctime as i64, nanoseconds: stat.st_ctime_nsec as u32 },
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            links: stat.st_nlink as u64,
        }
    }

    /// Returns whether an overlay reads this file as "deleted".
    pub fn is_whiteout(&self) -> bool {
        self.kind == Kind::CharacterDevice && (self.major, self.minor) == (0, 0)
    }
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name.
    pub name: OsString,
    /// The type of what it names.
    pub kind: Kind,
}

/// Lists a directory, sorted by the bytes of the names.
pub(super) fn entries(dir: OwnedFd) -> Result<Vec<DirEntry>, Errno> {
    let mut entries = Vec::new();
    let list = Dir::read_from(&dir)?;
    for entry in list {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        // Some file systems leave the type out of their directories.
        let kind = match Kind::from_type(entry.file_type()) {
            Some(kind) => kind,
            None => Metadata::from_stat(&rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?).kind,
        };
        entries.push(DirEntry { name: OsStr::from_bytes(name.to_bytes()).to_owned(), kind });
    }
    entries.sort_unstable();
    Ok(entries)
}

/// Changes permission bits without following a symlink.
pub(super) fn chmod(parent: BorrowedFd<'_>, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    match crate::sys::fchmodat2_nofollow(parent, name, mode) {
        Err(Errno::NOSYS | Errno::PERM) => {}
        answer => return answer,
    }
    // Before kernel 6.6, or where a filter does not know the call: through the magic link of a descriptor.
    let file =
        rustix::fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Symlink {
        return Err(Errno::OPNOTSUPP);
    }
    rustix::fs::chmod(crate::sys::proc_fd(&file), mode)
}
