//! stat(2), fstat(2), statx(2): the kernel's answer, with the recorded owner and device put into it.

use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use super::paths::{Named, Paths};
use super::records::{DEVICE, Device, LONGEST, OWNER, Owner};
use super::supervisor::{CONTINUE, Handled, NO_FOLLOW, SUCCESS, Supervisor, or_kernel};
use crate::sys::notify::Notification;
use crate::sys::{self, inspect};

/// The structure that a call fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Stat,
    Statx { flags: u32, mask: u32 },
}

/// Flags of statx(2) that say how fresh the answer must be.
const SYNC: u32 = 0x6000;

/// Returns the record of the file behind a path of /proc, if it can have one.
pub(super) fn read_owner(through_proc: &str) -> Option<Owner> {
    let mut value = [0; LONGEST];
    let length = rustix::fs::getxattr(through_proc, OWNER, &mut value).ok()?;
    Owner::parse(value.get(..length)?)
}

pub(super) fn read_device(through_proc: &str) -> Option<Device> {
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(through_proc, DEVICE, &mut value).ok()?;
    Device::parse(value.get(..length)?)
}

impl Supervisor {
    /// newfstatat(2) and the calls that it replaces; `into` is the place of the pointer to the structure.
    pub(super) fn stat_at(
        &mut self,
        call: &Notification,
        dir: u32,
        path: u64,
        flags: u32,
        into: usize,
    ) -> Handled {
        if !self.recorded {
            return Ok(CONTINUE);
        }
        // C libraries ask for an open file in this way.
        if flags & libc::AT_EMPTY_PATH.cast_unsigned() != 0
            && dir.cast_signed() >= 0
            && (path == 0 || or_kernel(Named::read(call.tracee, dir, path))?.path.is_empty())
        {
            return self.stat_fd(call, dir, Form::Stat, into);
        }
        let named = or_kernel(Named::read(call.tracee, dir, path))?;
        if self.is_plain(&named, flags) {
            return Ok(CONTINUE);
        }
        let file = self.find_named(&named, flags)?;
        self.answer_stat(call, &file, Form::Stat, into)
    }

    pub(super) fn statx(&mut self, call: &Notification) -> Handled {
        if !self.recorded {
            return Ok(CONTINUE);
        }
        let (dir, path, flags) = (call.word(0), call.long(1), call.word(2));
        let form = Form::Statx { flags: flags & SYNC, mask: call.word(3) };
        let empty = flags & libc::AT_EMPTY_PATH.cast_unsigned() != 0;
        if empty && path == 0 {
            return self.stat_fd(call, dir, form, 4);
        }
        let named = or_kernel(Named::read(call.tracee, dir, path))?;
        if self.is_plain(&named, flags) {
            return Ok(CONTINUE);
        }
        let file = self.find_named(&named, flags)?;
        self.answer_stat(call, &file, form, 4)
    }

    /// Tells, as far as one or two looks can, that a file has no record. A name in a directory that the command has open or
    /// is in, which is what programs mostly ask for that walk trees, leads through no link.
    fn is_plain(&self, named: &Named, flags: u32) -> bool {
        let Some(through_proc) = named.in_directory() else { return false };
        let mut value = [0; LONGEST];
        if rustix::fs::lgetxattr(&through_proc, OWNER, &mut value) != Err(Errno::NODATA) {
            return false;
        }
        let follow = flags & NO_FOLLOW == 0;
        if !follow && self.inodes.is_empty() {
            return true;
        }
        rustix::fs::lstat(&through_proc).is_ok_and(|stat| {
            let link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            !(follow && link) && self.inodes.get(&stat).is_none()
        })
    }

    /// fstat(2): one look at the file's record decides, and mostly there is none.
    pub(super) fn stat_fd(&mut self, call: &Notification, fd: u32, form: Form, into: usize) -> Handled {
        if !self.recorded {
            return Ok(CONTINUE);
        }
        if self.inodes.is_empty() && read_owner(&Named::descriptor(call.tracee, fd)).is_none() {
            return Ok(CONTINUE);
        }
        let file = or_kernel(Paths::open_descriptor(call.tracee, fd.cast_signed()))?;
        self.answer_stat(call, &file, form, into)
    }

    fn answer_stat(&self, call: &Notification, file: &OwnedFd, form: Form, into: usize) -> Handled {
        let through_proc = sys::proc_fd(file);
        let Some(owner) = self.owner_of(file, &through_proc)? else { return Ok(CONTINUE) };
        let device = read_device(&through_proc);
        let address = call.long(into);
        match form {
            Form::Stat => {
                let mut bytes = inspect::stat(file)?;
                STAT.put(&mut bytes, owner, device);
                self.still_there(call)?;
                call.tracee.write(address, &bytes)?;
            }
            Form::Statx { flags, mask } => {
                let mut bytes = inspect::statx(file, flags, mask)?;
                STATX.put(&mut bytes, owner, device);
                self.still_there(call)?;
                call.tracee.write(address, &bytes)?;
            }
        }
        Ok(SUCCESS)
    }

    /// Returns the recorded owner of an open file.
    pub(super) fn owner_of(&self, file: &OwnedFd, through_proc: &str) -> Result<Option<Owner>, Errno> {
        match read_owner(through_proc) {
            None if !self.inodes.is_empty() => Ok(self.inodes.get(&rustix::fs::fstat(file)?)),
            found => Ok(found),
        }
    }
}

/// Where a structure has what is changed in it.
struct Layout {
    mode: usize,
    uid: usize,
    gid: usize,
    size: usize,
    blocks: usize,
    device: DeviceAt,
}

enum DeviceAt {
    /// One number of 64 bits, as makedev(3) puts it together.
    Joined(usize),
    /// Two numbers of 32 bits.
    Apart(usize),
}

#[cfg(target_arch = "x86_64")]
const STAT: Layout =
    Layout { mode: 24, uid: 28, gid: 32, size: 48, blocks: 64, device: DeviceAt::Joined(40) };
#[cfg(not(target_arch = "x86_64"))]
const STAT: Layout =
    Layout { mode: 16, uid: 24, gid: 28, size: 48, blocks: 64, device: DeviceAt::Joined(32) };
const STATX: Layout =
    Layout { mode: 28, uid: 20, gid: 24, size: 40, blocks: 48, device: DeviceAt::Apart(128) };

impl Layout {
    fn put(&self, bytes: &mut [u8], owner: Owner, device: Option<Device>) {
        put(bytes, self.uid, &owner.uid.to_ne_bytes());
        put(bytes, self.gid, &owner.gid.to_ne_bytes());
        let Some(Device { block, major, minor }) = device else { return };
        let kind = if block { libc::S_IFBLK } else { libc::S_IFCHR };
        // The two lower bytes of a mode hold all of it, in both structures.
        let mode =
            bytes.get(self.mode..self.mode + 2).map_or(0, |mode| u16::from_ne_bytes([mode[0], mode[1]]));
        let mode = u32::from(mode) & !libc::S_IFMT | kind;
        put(bytes, self.mode, &mode.to_ne_bytes()[..2]);
        put(bytes, self.size, &0u64.to_ne_bytes());
        put(bytes, self.blocks, &0u64.to_ne_bytes());
        match self.device {
            DeviceAt::Joined(at) => put(bytes, at, &rustix::fs::makedev(major, minor).to_ne_bytes()),
            DeviceAt::Apart(at) => {
                put(bytes, at, &major.to_ne_bytes());
                put(bytes, at + 4, &minor.to_ne_bytes());
            }
        }
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    /// What is put into the kernel's structure is where the C library looks for it.
    #[test]
    fn the_places_are_the_kernels() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let mut bytes = inspect::stat(&file).unwrap();
        let device = Some(Device { block: false, major: 5, minor: 300 });
        let plain: libc::stat = as_stat(&bytes);
        STAT.put(&mut bytes, Owner { uid: 33, gid: 4_000_000_000 }, device);
        let changed: libc::stat = as_stat(&bytes);
        assert_eq!((changed.st_uid, changed.st_gid), (33, 4_000_000_000));
        assert_eq!(changed.st_mode, plain.st_mode & 0o7777 | libc::S_IFCHR);
        assert_eq!(changed.st_rdev, libc::makedev(5, 300));
        assert_eq!((changed.st_size, changed.st_blocks), (0, 0));
        assert_eq!((changed.st_ino, changed.st_dev), (plain.st_ino, plain.st_dev));
        assert_eq!((changed.st_mtime, changed.st_nlink), (plain.st_mtime, plain.st_nlink));
        assert_eq!(plain.st_size, i64::try_from(file.metadata().unwrap().len()).unwrap());

        let mut bytes = inspect::statx(file.as_fd(), 0, 0x7ff).unwrap();
        STATX.put(&mut bytes, Owner { uid: 33, gid: 34 }, device);
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!((word(20), word(24)), (33, 34));
        assert_eq!(word(28) & 0xffff, plain.st_mode & 0o7777 | libc::S_IFCHR);
        assert_eq!((word(128), word(132)), (5, 300));
    }

    fn as_stat(bytes: &[u8]) -> libc::stat {
        crate::sys::inspect::as_c_stat(bytes)
    }
}
