//! chown(2): done for real with the ids that exist, recorded otherwise.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Stat, Uid, XattrFlags};
use rustix::io::Errno;

use super::Level;
use super::credentials::wanted;
use super::paths::{Last, Paths};
use super::records::{DEVICE, Device, LONGEST, OWNER, Owner};
use super::stat::{read_device, read_owner};
use super::supervisor::{CONTINUE, Handled, NO_FOLLOW, SUCCESS, Stop, Supervisor, or_kernel};
use crate::sys;
use crate::sys::notify::{Notification, Tracee};

/// Bits of `CapEff` in /proc/PID/status.
pub(super) const CAP_CHOWN: u32 = 0;
pub(super) const CAP_MKNOD: u32 = 27;

/// What is known of a file whose owner changes.
struct Look {
    stat: Stat,
    owner: Owner,
    has_attribute: bool,
    device: bool,
}

impl Supervisor {
    /// chown(2), lchown(2).
    #[cfg(target_arch = "x86_64")]
    pub(super) fn chown_path(&mut self, call: &Notification, last: Last) -> Handled {
        let flags = if last == Last::Keep { NO_FOLLOW } else { 0 };
        self.chown(call, [1, 2], |this| this.find(call, super::supervisor::AT_CWD, call.long(0), flags))
    }

    pub(super) fn chown_fd(&mut self, call: &Notification, fd: u32, ids: [usize; 2]) -> Handled {
        self.chown(call, ids, |_| or_kernel(Paths::open_descriptor(call.tracee, fd.cast_signed())))
    }

    pub(super) fn chown_at(&mut self, call: &Notification) -> Handled {
        let flags = call.word(4);
        self.chown(call, [2, 3], |this| this.find(call, call.word(0), call.long(1), flags))
    }

    fn chown(
        &mut self,
        call: &Notification,
        ids: [usize; 2],
        open: impl FnOnce(&Self) -> Result<OwnedFd, Stop>,
    ) -> Handled {
        let [uid, gid] = ids.map(|at| wanted(call.word(at)));
        if self.level < Level::Full {
            let ordinary = self.window.has(uid) && self.window.has(gid);
            if (ordinary && !self.recorded) || !has_capability(call.tracee, CAP_CHOWN) {
                return Ok(CONTINUE);
            }
        }
        let file = open(self)?;
        let look = self.look(&file)?;
        if self.level == Level::Full && !self.processes.of(call.tracee)?.may_chown(look.owner, uid, gid) {
            return Err(Stop::Fail(Errno::PERM));
        }
        self.still_there(call)?;
        let new = Owner { uid: uid.unwrap_or(look.owner.uid), gid: gid.unwrap_or(look.owner.gid) };
        // Done for real in any case: that copies the file up, changes its times, and takes set-user-id bits and file
        // capabilities away, as it must.
        chown_for_real(&file, self.window.outside(new).unwrap_or(self.window.root()))?;
        self.note(file, &look, new)?;
        Ok(SUCCESS)
    }

    fn look(&self, file: &OwnedFd) -> Result<Look, Errno> {
        let stat = rustix::fs::fstat(file)?;
        let through_proc = sys::proc_fd(file);
        let attribute = read_owner(&through_proc);
        let recorded = attribute.or_else(|| self.inodes.get(&stat));
        let owner =
            recorded.unwrap_or_else(|| self.window.inside(Owner { uid: stat.st_uid, gid: stat.st_gid }));
        let device = attribute.is_some() && read_device(&through_proc).is_some();
        Ok(Look { stat, owner, has_attribute: attribute.is_some(), device })
    }

    /// Makes the records of a file say `new`.
    fn note(&mut self, file: OwnedFd, look: &Look, new: Owner) -> Result<(), Errno> {
        let through_proc = sys::proc_fd(&file);
        let shown = self.window.outside(new).is_some();
        if shown && !look.device {
            self.inodes.remove(&look.stat);
            if look.has_attribute {
                rustix::fs::removexattr(&through_proc, OWNER)?;
            }
            return Ok(());
        }
        self.recorded = true;
        match FileType::from_raw_mode(look.stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {
                let text = new.format();
                match rustix::fs::setxattr(&through_proc, OWNER, text.as_bytes(), XattrFlags::empty()) {
                    // A file system of the kernel, or memory on an older one: the record ends with the sandbox.
                    Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                    done => return done,
                }
            }
            _ => {}
        }
        self.inodes.set(&look.stat, new, file);
        Ok(())
    }

    /// Gives a file that was just created, as the container's root, to its owner.
    pub(super) fn give(&mut self, file: OwnedFd, owner: Owner) -> Result<(), Errno> {
        match self.window.outside(owner) {
            Some(outside) if outside == self.window.root() => return Ok(()),
            Some(outside) => return chown_for_real(&file, outside),
            None => {}
        }
        let stat = rustix::fs::fstat(&file)?;
        let look = Look { stat, owner: Owner::ROOT, has_attribute: false, device: false };
        self.note(file, &look, owner)
    }

    /// Makes an empty file stand for a device. The owner is always recorded, so that one look decides about a file.
    pub(super) fn make_device(&mut self, file: &OwnedFd, device: Device, owner: Owner) -> Result<(), Errno> {
        self.recorded = true;
        let through_proc = sys::proc_fd(file);
        let set = |name, text: String| {
            rustix::fs::setxattr(&through_proc, name, text.as_bytes(), XattrFlags::empty())
        };
        set(DEVICE, device.format())?;
        set(OWNER, owner.format())
    }
}

/// Tells whether the owner of a file of the host is recorded on it.
pub(crate) fn is_recorded(path: &Path) -> bool {
    rustix::fs::getxattr(path, OWNER, &mut [0; LONGEST]).is_ok()
}

fn chown_for_real(file: &OwnedFd, owner: Owner) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    rustix::fs::chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}

/// Tells whether a process really has a capability.
pub(super) fn has_capability(tracee: Tracee, bit: u32) -> bool {
    let set = status_field(tracee, "CapEff:").and_then(|set| u64::from_str_radix(&set, 16).ok());
    set.is_some_and(|set| set & 1 << bit != 0)
}

/// Returns the first word of a line of /proc/PID/status.
pub(super) fn status_field(tracee: Tracee, name: &str) -> Option<String> {
    status_fields(tracee, name).into_iter().next()
}

/// Returns the words of a line of /proc/PID/status.
pub(super) fn status_fields(tracee: Tracee, name: &str) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", tracee.number())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().map(str::to_owned).collect()
}
