//! One file of a layer directory copied with all that an image knows of it.
//!
//! Content is shared where the file system can (`FICLONE`), else copied inside the kernel; holes stay holes. Hard links are not kept:
//! each name becomes a file of its own, as an overlay makes it when one of them is written to, so that a command which
//! writes in place changes the one name only.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes::{self, DEVICE, file_type, is_private};

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What becomes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Devices {
    /// It stays one.
    Kept,
    /// An empty file with a record stands for it: the copy is for a command, which must not open it.
    Recorded,
}

/// Set once the file system has said that it cannot share content.
static WITHOUT_SHARING: AtomicBool = AtomicBool::new(false);

/// Copies `name`, which is no directory, from one directory to another, where it must not exist.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    devices: Devices,
) -> io::Result<()> {
    match file_type(stat) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = File::from(fs::openat(from, name, flags, Mode::empty())?);
            let target = create(to, name)?;
            content(&source, &target, stat)?;
            let xattrs = attributes::xattrs_of(source.as_fd())?;
            dress(target.as_fd(), stat, &xattrs)
        }
        FileType::Symlink => {
            let text = fs::readlinkat(from, name, Vec::new())?;
            fs::symlinkat(text, to, name)?;
            let (uid, gid) = owner(stat);
            fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
        }
        kind @ (FileType::CharacterDevice | FileType::BlockDevice) if devices == Devices::Recorded => {
            let target = create(to, name)?;
            let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
            let record = attributes::format_device(kind == FileType::BlockDevice, major, minor);
            let xattrs = BTreeMap::from([(DEVICE.to_owned(), record.into_bytes())]);
            dress(target.as_fd(), stat, &xattrs)
        }
        kind => {
            fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?;
            let (uid, gid) = owner(stat);
            fs::chownat(to, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            // Not a link, as it was just made, so there is nothing to follow.
            fs::chmodat(to, name, mode(stat), AtFlags::empty())?;
            Ok(fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
        }
    }
}

fn create(to: BorrowedFd<'_>, name: &[u8]) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(fs::openat(to, name, flags, Mode::from_raw_mode(0o600))?))
}

/// Gives an open file or directory the attributes of another; the last that is done to it.
pub(super) fn dress(
    target: BorrowedFd<'_>,
    stat: &Stat,
    xattrs: &BTreeMap<String, Vec<u8>>,
) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    fs::fchown(target, uid, gid)?;
    let empty_file = file_type(stat) != FileType::Directory && stat.st_size == 0 || is_device(stat);
    for (name, value) in xattrs {
        // What stands for a device is not lost when a command gives it away.
        if is_private(name) && !(name == DEVICE && empty_file) {
            continue;
        }
        match fs::fsetxattr(target, name.as_str(), value, XattrFlags::empty()) {
            // Labels are set by the policy of the machine.
            Err(Errno::PERM | Errno::OPNOTSUPP) if name.starts_with("security.") => {}
            done => done?,
        }
    }
    fs::fchmod(target, mode(stat))?;
    Ok(fs::futimens(target, &times(stat))?)
}

fn is_device(stat: &Stat) -> bool {
    matches!(file_type(stat), FileType::CharacterDevice | FileType::BlockDevice)
}

/// Gives the open directory `target` the attributes of `source`.
pub(super) fn dress_directory(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let stat = fs::fstat(source)?;
    let new = attributes::xattrs_of(source)?;
    for name in
        attributes::xattrs_of(target)?.keys().filter(|name| !new.contains_key(*name) && !is_private(name))
    {
        match fs::fremovexattr(target, name.as_str()) {
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NODATA) => {}
            done => done?,
        }
    }
    dress(target, &stat, &new)
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o7777)
}

pub(super) fn times(stat: &Stat) -> Timestamps {
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

fn content(mut source: &File, mut target: &File, stat: &Stat) -> io::Result<()> {
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if size == 0 {
        return Ok(());
    }
    if !WITHOUT_SHARING.load(Ordering::Relaxed) {
        match fs::ioctl_ficlone(target, source) {
            Ok(()) => return Ok(()),
            // Not on this file system, or not between these two.
            Err(
                Errno::OPNOTSUPP | Errno::NOTTY | Errno::XDEV | Errno::INVAL | Errno::PERM | Errno::NOSYS,
            ) => {
                WITHOUT_SHARING.store(true, Ordering::Relaxed);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    /// Unit of `st_blocks`.
    const BLOCK: u64 = 512;
    if u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK >= size {
        // The standard library lets the kernel copy where it can.
        io::copy(&mut source, &mut target)?;
        return Ok(());
    }
    let mut position = 0;
    loop {
        let start = match fs::seek(source, rustix::fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            // Only a hole is left.
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = fs::seek(source, rustix::fs::SeekFrom::Hole(start))?;
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        io::copy(&mut source.take(end - start), &mut target)?;
        position = end;
    }
    target.set_len(size)
}

/// Opens the directory `name`.
pub(super) fn open(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    fs::openat(dir, name, DIRECTORY, Mode::empty())
}

pub(super) fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
