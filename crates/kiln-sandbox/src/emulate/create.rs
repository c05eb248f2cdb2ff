//! Files that a command creates as another user than root, or in a directory that hands on a recorded group.
//!
//! The kernel would make them root's, and they would be so for a moment even if the owner was recorded afterwards. So the
//! supervisor creates them, and passes an open one to the command in one step with the answer. Nothing here waits: a name
//! that exists is left to the kernel.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::Level;
use super::filter::CREATES;
use super::ownership::{CAP_MKNOD, has_capability, status_field};
use super::paths::Named;
use super::records::{Device, Owner};
use super::stat::read_owner;
use super::supervisor::{CONTINUE, Handled, Reply, SUCCESS, Stop, Supervisor, or_kernel};
use crate::sys;
use crate::sys::notify::{Notification, Tracee};

/// Links that end at a missing name, as many as the kernel follows.
const MOST_LINKS: u32 = 40;
/// The bit of a directory that hands on its group.
const SET_GROUP: u32 = 0o2000;
/// `O_TMPFILE` without the flag that it includes.
const UNNAMED: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned();

impl Supervisor {
    /// open(2), openat(2), creat(2).
    pub(super) fn open(
        &mut self,
        call: &Notification,
        dir: u32,
        path: u64,
        flags: u64,
        mode: u32,
    ) -> Handled {
        // The upper half is refused by the kernel, or ignored.
        let flags = u32::try_from(flags & 0xFFFF_FFFF).unwrap_or_default();
        let special = (libc::O_PATH | libc::O_DIRECTORY).cast_unsigned();
        if flags & UNNAMED != 0 {
            return self.open_unnamed(call, dir, path, flags, mode);
        }
        if flags & CREATES == 0 || flags & special != 0 {
            return Ok(CONTINUE);
        }
        let named = or_kernel(Named::read(call.tracee, dir, path))?;
        let (mut parent, mut name) = or_kernel(self.paths()?.parent(&named))?;
        let follow = flags & (libc::O_EXCL | libc::O_NOFOLLOW).cast_unsigned() == 0;
        for _ in 0..MOST_LINKS {
            let Some(owner) = self.owner_in(call.tracee, &parent)? else { return Ok(CONTINUE) };
            self.still_there(call)?;
            let open_flags = OFlags::from_bits_retain(flags) | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = masked(call.tracee, mode);
            match rustix::fs::openat(&parent, as_path(&name), open_flags, mode) {
                Ok(file) => return self.hand_over(call, file, owner, flags),
                Err(Errno::EXIST) if follow => {}
                Err(Errno::EXIST) => return Ok(CONTINUE),
                Err(errno) => return Err(Stop::Fail(errno)),
            }
            // A link to a missing name creates that.
            let Ok(target) = rustix::fs::readlinkat(&parent, as_path(&name), Vec::new()) else {
                return Ok(CONTINUE);
            };
            (parent, name) =
                or_kernel(self.paths()?.parent_from(call.tracee, &parent, &target.into_bytes()))?;
        }
        Ok(CONTINUE)
    }

    /// openat2(2): flags and mode are in memory, and the path may be bound to its start.
    pub(super) fn open2(&mut self, call: &Notification) -> Handled {
        let mut how = [0; 24];
        if call.long(3) < how.len() as u64 || call.tracee.read(call.long(2), &mut how).is_err() {
            return Ok(CONTINUE);
        }
        let [flags, mode, resolve] =
            [0, 8, 16].map(|at| u64::from_ne_bytes(how[at..at + 8].try_into().unwrap_or_default()));
        let mode = u32::try_from(mode).unwrap_or(u32::MAX);
        let bound = (ResolveFlags::BENEATH | ResolveFlags::IN_ROOT).bits();
        if flags & u64::from(CREATES) == 0 || resolve & bound == 0 {
            return self.open(call, call.word(0), call.long(1), flags, mode);
        }
        let named = or_kernel(Named::read(call.tracee, call.word(0), call.long(1)))?;
        let start = or_kernel(
            self.paths()?.open(&Named { path: Vec::new(), ..named.clone() }, super::paths::Last::Keep),
        )?;
        let flags = u32::try_from(flags).map_err(|_| Stop::NotHere)?;
        let resolve = ResolveFlags::from_bits_retain(resolve) | ResolveFlags::NO_MAGICLINKS;
        let at = named.path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let (dir, name) = named.path.split_at(at);
        let dir = if dir.is_empty() { b"." } else { dir };
        let path_only = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = or_kernel(rustix::fs::openat2(&start, as_path(dir), path_only, Mode::empty(), resolve))?;
        let Some(owner) = self.owner_in(call.tracee, &parent)? else { return Ok(CONTINUE) };
        self.still_there(call)?;
        let open_flags = OFlags::from_bits_retain(flags) | OFlags::EXCL | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, as_path(name), open_flags, masked(call.tracee, mode)) {
            Ok(file) => self.hand_over(call, file, owner, flags),
            Err(Errno::EXIST) => Ok(CONTINUE),
            Err(errno) => Err(Stop::Fail(errno)),
        }
    }

    fn open_unnamed(&mut self, call: &Notification, dir: u32, path: u64, flags: u32, mode: u32) -> Handled {
        let parent = self.find(call, dir, path, 0)?;
        let Some(owner) = self.owner_in(call.tracee, &parent)? else { return Ok(CONTINUE) };
        self.still_there(call)?;
        let open_flags = OFlags::from_bits_retain(flags) | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, c".", open_flags, masked(call.tracee, mode))?;
        self.hand_over(call, file, owner, flags)
    }

    fn hand_over(&mut self, call: &Notification, file: OwnedFd, owner: Owner, flags: u32) -> Handled {
        self.give(rustix::io::fcntl_dupfd_cloexec(&file, 3)?, owner)?;
        let close_on_exec = flags & libc::O_CLOEXEC.cast_unsigned() != 0;
        match self.listener.answer_with_fd(call.id, &file, close_on_exec) {
            Ok(()) => Ok(Reply::Done),
            // The caller was killed.
            Err(Errno::NOENT) => Ok(Reply::Done),
            // Before Linux 5.14. The file is there, so the kernel may open it, unless it must be new.
            Err(Errno::INVAL) if flags & libc::O_EXCL.cast_unsigned() == 0 => Ok(CONTINUE),
            Err(errno) => Err(Stop::Fail(errno)),
        }
    }

    pub(super) fn mkdir(&mut self, call: &Notification, dir: u32, path: u64, mode: u32) -> Handled {
        let Some((parent, name, owner)) = self.place(call, dir, path)? else { return Ok(CONTINUE) };
        made(rustix::fs::mkdirat(&parent, as_path(&name), masked(call.tracee, mode)))?;
        self.give_name(&parent, &name, owner)
    }

    pub(super) fn symlink(&mut self, call: &Notification, target: u64, dir: u32, path: u64) -> Handled {
        let Some((parent, name, owner)) = self.place(call, dir, path)? else { return Ok(CONTINUE) };
        let target = or_kernel(Named::read(call.tracee, dir, target))?.path;
        made(rustix::fs::symlinkat(as_path(&target), &parent, as_path(&name)))?;
        self.give_name(&parent, &name, owner)
    }

    pub(super) fn mknod(
        &mut self,
        call: &Notification,
        dir: u32,
        path: u64,
        mode: u32,
        device: u32,
    ) -> Handled {
        let block = match mode & libc::S_IFMT {
            libc::S_IFBLK => true,
            // The mark of a removal, which overlays refuse to everybody.
            libc::S_IFCHR if device == 0 => return Ok(CONTINUE),
            libc::S_IFCHR => false,
            _ if self.level < Level::Full => return Ok(CONTINUE),
            _ => return self.mknod_plain(call, dir, path, mode),
        };
        let allowed = match self.level {
            Level::Full => self.processes.of(call.tracee)?.powers.may(CapabilitySet::MKNOD),
            _ => has_capability(call.tracee, CAP_MKNOD),
        };
        if !allowed {
            return Err(Stop::Fail(Errno::PERM));
        }
        let named = or_kernel(Named::read(call.tracee, dir, path))?;
        let (parent, name) = or_kernel(self.paths()?.parent(&named))?;
        let owner = match self.level {
            Level::Full => self.owner_in(call.tracee, &parent)?.unwrap_or(Owner::ROOT),
            _ => Owner::ROOT,
        };
        self.still_there(call)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, as_path(&name), flags, masked(call.tracee, mode & 0o7777))?;
        // The kernel's encoding of a device number, which is 32 bits wide in this call.
        let device =
            Device { block, major: device >> 8 & 0xFFF, minor: device & 0xFF | device >> 12 & 0x000F_FF00 };
        match self.make_device(&file, device, owner) {
            Ok(()) => Ok(SUCCESS),
            // Memory, where no record can be kept: the kernel refuses devices there.
            Err(Errno::OPNOTSUPP) => {
                rustix::fs::unlinkat(&parent, as_path(&name), AtFlags::empty())?;
                Ok(CONTINUE)
            }
            Err(errno) => Err(Stop::Fail(errno)),
        }
    }

    /// Pipes, sockets and regular files.
    fn mknod_plain(&mut self, call: &Notification, dir: u32, path: u64, mode: u32) -> Handled {
        let kind = match mode & libc::S_IFMT {
            0 => FileType::RegularFile,
            _ => FileType::from_raw_mode(mode),
        };
        if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
            return Ok(CONTINUE);
        }
        let Some((parent, name, owner)) = self.place(call, dir, path)? else { return Ok(CONTINUE) };
        let mode = masked(call.tracee, mode & 0o7777);
        made(rustix::fs::mknodat(&parent, as_path(&name), kind, mode, 0))?;
        self.give_name(&parent, &name, owner)
    }

    /// Returns where a new name goes and whose it will be; `None` when the kernel does right by itself.
    fn place(
        &self,
        call: &Notification,
        dir: u32,
        path: u64,
    ) -> Result<Option<(OwnedFd, Vec<u8>, Owner)>, Stop> {
        let named = or_kernel(Named::read(call.tracee, dir, path))?;
        let (parent, name) = or_kernel(self.paths()?.parent(&named))?;
        let Some(owner) = self.owner_in(call.tracee, &parent)? else { return Ok(None) };
        self.still_there(call)?;
        Ok(Some((parent, name, owner)))
    }

    /// Returns whose a file is that this process creates in `parent`; `None` when the kernel does right by itself.
    fn owner_in(&self, tracee: Tracee, parent: &OwnedFd) -> Result<Option<Owner>, Errno> {
        let mut owner = self.processes.of(tracee)?.creates_as();
        let recorded = if self.recorded { read_owner(&sys::proc_fd(parent)) } else { None };
        if recorded.is_some() || owner != Owner::ROOT {
            let stat = rustix::fs::fstat(parent)?;
            if stat.st_mode & SET_GROUP != 0 {
                let of_disk = Owner { uid: stat.st_uid, gid: stat.st_gid };
                owner.gid = recorded.unwrap_or_else(|| self.window.inside(of_disk)).gid;
            }
        }
        Ok((owner != Owner::ROOT).then_some(owner))
    }

    fn give_name(&mut self, parent: &OwnedFd, name: &[u8], owner: Owner) -> Handled {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(parent, as_path(name), flags, Mode::empty())?;
        self.give(file, owner)?;
        Ok(SUCCESS)
    }
}

/// A name that exists is the kernel's to refuse: it looks at more than this.
fn made(done: Result<(), Errno>) -> Result<(), Stop> {
    done.map_err(|errno| if errno == Errno::EXIST { Stop::NotHere } else { Stop::Fail(errno) })
}

/// Returns the mode of a new file, less what the process's mask takes away.
fn masked(tracee: Tracee, mode: u32) -> Mode {
    let mask = status_field(tracee, "Umask:").and_then(|mask| u32::from_str_radix(&mask, 8).ok());
    Mode::from_raw_mode(mode & 0o7777 & !mask.unwrap_or(0o022))
}

fn as_path(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
