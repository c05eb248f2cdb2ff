//! getuid(2), setuid(2), getgroups(2) and their kin, and what execve(2) of a set-user-id program changes.

use std::io::Read as _;

use rustix::fs::{FileType, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;

use super::credentials::{Credentials, Kind, MOST_GROUPS, Quartet};
use super::ownership::{status_field, status_fields};
use super::records::Owner;
use super::supervisor::{CONTINUE, Handled, Reply, SUCCESS, Stop, Supervisor, or_kernel};
use crate::sys;
use crate::sys::notify::{Answer, Notification};

const SET_USER: u32 = 0o4000;
const SET_GROUP: u32 = 0o2000;
const GROUP_EXECUTES: u32 = 0o010;

fn value(value: impl Into<i64>) -> Handled {
    Ok(Reply::Answer(Answer::Value(value.into())))
}

impl Supervisor {
    pub(super) fn id(&self, call: &Notification, kind: Kind, which: fn(Quartet) -> u32) -> Handled {
        value(which(self.processes.of(call.tracee)?.of(kind)))
    }

    /// getresuid(2), getresgid(2).
    pub(super) fn three_ids(&self, call: &Notification, kind: Kind) -> Handled {
        let ids = self.processes.of(call.tracee)?.of(kind);
        self.still_there(call)?;
        for (at, id) in [ids.real, ids.effective, ids.saved].into_iter().enumerate() {
            call.tracee.write(call.long(at), &id.to_ne_bytes())?;
        }
        Ok(SUCCESS)
    }

    pub(super) fn groups(&self, call: &Notification) -> Handled {
        let groups = &self.processes.of(call.tracee)?.groups;
        let room = call.word(0).cast_signed();
        let count = i32::try_from(groups.len()).map_err(|_| Errno::INVAL)?;
        if room < 0 || (room > 0 && room < count) {
            return Err(Stop::Fail(Errno::INVAL));
        }
        if room > 0 && count > 0 {
            let bytes: Vec<u8> = groups.iter().flat_map(|group| group.to_ne_bytes()).collect();
            self.still_there(call)?;
            call.tracee.write(call.long(1), &bytes)?;
        }
        value(count)
    }

    pub(super) fn become_one(
        &mut self,
        call: &Notification,
        rule: impl FnOnce(&Credentials) -> Result<Credentials, Errno>,
    ) -> Handled {
        let new = rule(self.processes.of(call.tracee)?)?;
        self.still_there(call)?;
        self.processes.set(call.tracee, new)?;
        Ok(SUCCESS)
    }

    pub(super) fn become_fs(&mut self, call: &Notification, kind: Kind) -> Handled {
        let before = self.processes.of(call.tracee)?;
        let (old, new) = (before.of(kind).fs, before.set_fs(kind, call.word(0)));
        self.still_there(call)?;
        self.processes.set(call.tracee, new)?;
        value(old)
    }

    pub(super) fn set_groups(&mut self, call: &Notification) -> Handled {
        let count = call.word(0) as usize;
        if count > MOST_GROUPS {
            return Err(Stop::Fail(Errno::INVAL));
        }
        let mut bytes = vec![0; count * 4];
        if count > 0 {
            call.tracee.read(call.long(1), &mut bytes)?;
        }
        let groups = bytes
            .chunks_exact(4)
            .map(|group| u32::from_ne_bytes(group.try_into().unwrap_or_default()))
            .collect();
        self.become_one(call, |who| who.set_groups(groups))
    }

    /// prctl(2) with `PR_SET_KEEPCAPS`.
    pub(super) fn keep_powers(&mut self, call: &Notification) -> Handled {
        let who = self.processes.of(call.tracee)?;
        let powers = who.powers.keeping(call.word(1) != 0);
        let new = Credentials { powers, ..who.clone() };
        self.still_there(call)?;
        self.processes.set(call.tracee, new)?;
        Ok(CONTINUE)
    }

    /// capget(2) of the caller itself; nothing is inheritable here.
    pub(super) fn tell_powers(&self, call: &Notification) -> Handled {
        or_kernel(read_powers(call))?;
        let powers = self.processes.of(call.tracee)?.powers;
        let ([e0, e1], [p0, p1]) = (halves(powers.effective), halves(powers.permitted));
        let bytes: Vec<u8> = [e0, p0, 0, e1, p1, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        self.still_there(call)?;
        call.tracee.write(call.long(1), &bytes)?;
        Ok(SUCCESS)
    }

    /// capset(2): what is given up is given up for real, too.
    pub(super) fn set_powers(&mut self, call: &Notification) -> Handled {
        if !self.executed {
            return Ok(CONTINUE);
        }
        let [e0, p0, _, e1, p1, _] = or_kernel(read_powers(call))?;
        let whole = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
        let who = self.processes.of(call.tracee)?;
        let powers = who.powers.set(whole(e0, e1), whole(p0, p1))?;
        let new = Credentials { powers, ..who.clone() };
        self.still_there(call)?;
        self.processes.set(call.tracee, new)?;
        Ok(CONTINUE)
    }

    /// execve(2), execveat(2): the kernel executes; who the process is then is known from the file before.
    pub(super) fn execute(&mut self, call: &Notification, dir: u32, path: u64, flags: u32) -> Handled {
        self.executed = true;
        let before = self.processes.of(call.tracee)?;
        let file = self.find(call, dir, path, flags)?;
        let mode = rustix::fs::fstat(&file)?.st_mode;
        let runs = FileType::from_raw_mode(mode) == FileType::RegularFile && mode & 0o111 != 0;
        if !runs || (mode & (SET_USER | SET_GROUP) == 0 && before.is_settled()) {
            return Ok(CONTINUE);
        }
        let through_proc = sys::proc_fd(&file);
        let is_program = || {
            let nosuid = rustix::fs::fstatvfs(&file)
                .is_ok_and(|system| system.f_flag.contains(StatVfsMountFlags::NOSUID));
            // The bits of a script say nothing.
            !nosuid
                && !is_script(&through_proc)
                && status_field(call.tracee, "NoNewPrivs:").as_deref() != Some("1")
        };
        let (mut user, mut group) = (None, None);
        if mode & (SET_USER | SET_GROUP) != 0 && is_program() {
            let stat = rustix::fs::fstat(&file)?;
            let of_disk = self.window.inside(Owner { uid: stat.st_uid, gid: stat.st_gid });
            let owner = self.owner_of(&file, &through_proc)?.unwrap_or(of_disk);
            user = (mode & SET_USER != 0).then_some(owner.uid);
            group = (mode & SET_GROUP != 0 && mode & GROUP_EXECUTES != 0).then_some(owner.gid);
        }
        let after = before.execute(user, group);
        if after != *before {
            self.still_there(call)?;
            self.processes.set(call.tracee, after)?;
        }
        Ok(CONTINUE)
    }
}

fn halves(set: u64) -> [u32; 2] {
    [u32::try_from(set & 0xFFFF_FFFF).unwrap_or_default(), u32::try_from(set >> 32).unwrap_or_default()]
}

/// Reads both structures of capget(2) and capset(2), of the version that all programs use; those of another process are
/// the kernel's.
fn read_powers(call: &Notification) -> Result<[u32; 6], Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = [0; 8];
    call.tracee.read(call.long(0), &mut header)?;
    let word = |bytes: &[u8]| u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    let (version, pid) = (word(&header[..4]), word(&header[4..]));
    let own = || status_fields(call.tracee, "NSpid:").last().is_some_and(|own| *own == pid.to_string());
    if version != VERSION_3 || (pid != 0 && !own()) || call.long(1) == 0 {
        return Err(Errno::INVAL);
    }
    let mut data = [0; 24];
    call.tracee.read(call.long(1), &mut data)?;
    let mut words = [0; 6];
    for (into, from) in words.iter_mut().zip(data.chunks_exact(4)) {
        *into = word(from);
    }
    Ok(words)
}

fn is_script(through_proc: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut head = [0; 2];
    rustix::fs::open(through_proc, flags, Mode::empty())
        .is_ok_and(|file| std::fs::File::from(file).read_exact(&mut head).is_ok() && head == *b"#!")
}
