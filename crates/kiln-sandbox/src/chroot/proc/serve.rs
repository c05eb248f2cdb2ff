//! Answers to calls that name a file of `/proc`.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::path::{Place, Who, place};
use super::{Call, call};
use crate::chroot::processes;
use crate::sys::notify::{Answer, Listener, Notification, Tracee};
use crate::sys::{self, raw};

/// The kernel takes no longer path.
const LONGEST: usize = 4096;

/// The open listener of a command, and what is needed to answer it.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    /// How the machine calls the command's root, to be taken off the names of its files.
    root: PathBuf,
    hostname: String,
    /// Whether devices are not there and those of the container are handed over.
    devices: bool,
    /// Whose rights this process has at the moment.
    acting: (u32, u32),
}

/// What a call is answered with.
enum Reply {
    Plain(Answer),
    Open { file: OwnedFd, close_on_exec: bool },
}

impl From<Result<i64, Errno>> for Reply {
    fn from(result: Result<i64, Errno>) -> Self {
        Self::Plain(result.map_or_else(Answer::Fail, Answer::Value))
    }
}

impl Server {
    pub(crate) fn new(listener: Listener, root: PathBuf, hostname: String, devices: bool) -> Self {
        listener.wake_synchronously();
        Self { listener, root, hostname, devices, acting: (0, 0) }
    }

    pub(crate) fn listener(&self) -> &Listener {
        &self.listener
    }

    /// Answers one call. A caller that died meanwhile needs none.
    pub(crate) fn serve(&mut self) {
        let Ok(Some(asked)) = self.listener.receive() else { return };
        let reply = self.reply(&asked);
        let answered = match reply {
            Reply::Plain(answer) => self.listener.answer(asked.id, answer),
            Reply::Open { file, close_on_exec } => {
                match self.listener.answer_with_fd(asked.id, &file, close_on_exec) {
                    // The caller has no number left for a descriptor.
                    Err(errno @ (Errno::MFILE | Errno::NFILE)) => {
                        self.listener.answer(asked.id, Answer::Fail(errno))
                    }
                    Err(errno) if errno != Errno::NOENT => self.listener.answer(asked.id, Answer::Continue),
                    done => done,
                }
            }
        };
        // Failure means that the caller is gone.
        let _ = answered;
    }

    fn reply(&mut self, asked: &Notification) -> Reply {
        let go_on = Reply::Plain(Answer::Continue);
        let Some(call) = call(asked.call) else { return go_on };
        if call == Call::Uname {
            return self.uname(asked).map_or(go_on, Reply::from);
        }
        let at = match call {
            Call::Open { path, .. }
            | Call::Stat { path, .. }
            | Call::Access { path, .. }
            | Call::Readlink { path, .. } => path,
            Call::Statx => 1,
            Call::Attributes | Call::Uname => 0,
        };
        // Most paths begin otherwise, and then one short look is enough.
        let mut start = [0; 5];
        if self.as_caller(asked.tracee, |_| asked.tracee.read(asked.long(at), &mut start)).is_err() {
            return go_on;
        }
        if !(start.starts_with(b"/proc") || start.starts_with(b"/dev") || start.starts_with(b"//")) {
            return go_on;
        }
        let Ok(text) = asked.tracee.read_string(asked.long(at), LONGEST) else { return go_on };
        let Some(place) = place(&text).filter(|place| self.serves(place)) else { return go_on };
        if !self.listener.is_alive(asked.id) {
            return go_on;
        }
        self.answer(call, asked, &place).unwrap_or(go_on)
    }

    fn serves(&self, place: &Place) -> bool {
        self.devices || !matches!(place, Place::Device(_))
    }

    /// Answers a call on a place; `None` lets it go on.
    fn answer(&self, call: Call, asked: &Notification, place: &Place) -> Option<Reply> {
        let found = match self.find(place, asked.tracee) {
            Ok(found) => found,
            Err(errno) => return Some(Reply::Plain(Answer::Fail(errno))),
        };
        let path = CString::new(found.as_os_str().as_bytes()).ok()?;
        // `/dev/stdin` is a symlink in the root itself, and so is what stands at `/dev/fd`.
        let is_link = matches!(place, Place::Descriptor(..) | Place::Link(..) | Place::Myself { .. });
        match call {
            Call::Open { flags, .. } => {
                let flags = OFlags::from_bits_retain(asked.word(flags));
                Some(match self.open(place, &found, flags, asked.tracee) {
                    Ok(file) => Reply::Open { file, close_on_exec: flags.contains(OFlags::CLOEXEC) },
                    Err(errno) => Reply::Plain(Answer::Fail(errno)),
                })
            }
            Call::Stat { into, flags, follow, .. } => {
                let flags = flags.map_or(0, |flags| asked.word(flags));
                let nofollow = !follow || flags & NOFOLLOW != 0;
                let how = if nofollow && is_link { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
                let written = raw::stat(&path, how)
                    .and_then(|stat| asked.tracee.write(asked.long(into), &stat))
                    .map(|()| 0);
                Some(written.into())
            }
            Call::Statx => {
                let nofollow = asked.word(2) & NOFOLLOW != 0 && is_link;
                let how = if nofollow { libc::AT_SYMLINK_NOFOLLOW } else { 0 };
                let written = raw::statx(&path, how, asked.word(3))
                    .and_then(|stat| asked.tracee.write(asked.long(4), &stat))
                    .map(|()| 0);
                Some(written.into())
            }
            Call::Access { mode, .. } => {
                let writes = asked.word(mode) & libc::W_OK.cast_unsigned() != 0;
                let allowed = !writes || matches!(place, Place::Descriptor(..) | Place::Device(_));
                let checked = raw::stat(&path, 0);
                Some(checked.and(if allowed { Ok(0) } else { Err(Errno::ACCESS) }).into())
            }
            Call::Readlink { into, size, .. } => {
                let text = match place {
                    Place::Myself { .. } => found.strip_prefix("/proc").ok()?.as_os_str().as_bytes().to_vec(),
                    _ if is_link => {
                        self.seen_inside(rustix::fs::readlink(&found, Vec::new()).ok()?.into_bytes())
                    }
                    _ => return Some(Reply::Plain(Answer::Fail(Errno::INVAL))),
                };
                let length = text.len().min(usize::try_from(asked.long(size)).unwrap_or(usize::MAX));
                let written = asked.tracee.write(asked.long(into), text.get(..length)?);
                Some(written.map(|()| i64::try_from(length).unwrap_or(0)).into())
            }
            Call::Attributes => Some(Reply::Plain(Answer::Fail(Errno::OPNOTSUPP))),
            Call::Uname => None,
        }
    }

    /// Returns where a place is on this machine, if the caller may know of it.
    fn find(&self, place: &Place, caller: Tracee) -> Result<PathBuf, Errno> {
        let whose = |who: &Who| match who {
            Who::Itself => Ok(caller.number()),
            Who::Number(number) => match processes::is_descendant(*number) {
                true => Ok(*number),
                false => Err(Errno::NOENT),
            },
        };
        let of = |who: &Who, file: &str| Ok(PathBuf::from(format!("/proc/{}/{file}", whose(who)?)));
        match place {
            Place::Machine(file) => Ok(Path::new("/proc").join(file)),
            Place::Process(who) => of(who, ""),
            Place::File(who, file) => of(who, file),
            Place::Descriptor(who, number) => of(who, &format!("fd/{number}")),
            Place::Link(who, link) => of(who, link),
            Place::Myself { thread } => {
                let (thread_id, process) =
                    (caller.number(), processes::process_of(caller.number()).ok_or(Errno::NOENT)?);
                let name = if *thread {
                    format!("/proc/{process}/task/{thread_id}")
                } else {
                    format!("/proc/{process}")
                };
                Ok(PathBuf::from(name))
            }
            Place::Device(name) => Ok(Path::new("/dev").join(name)),
        }
    }

    /// Opens a place for the caller, with no more rights than it has.
    fn open(&self, place: &Place, found: &Path, flags: OFlags, caller: Tracee) -> Result<OwnedFd, Errno> {
        const WAYS: OFlags = OFlags::RDWR.union(OFlags::WRONLY);
        let writes = flags.intersects(WAYS);
        match place {
            Place::Process(_) | Place::Myself { .. } => return Err(Errno::ACCESS),
            // A magic link leads to the directory itself, and none is handed over.
            Place::Link(_, link) if *link != "exe" => return Err(Errno::ACCESS),
            Place::Machine(_) | Place::File(..) | Place::Link(..) if writes => return Err(Errno::ACCESS),
            Place::Descriptor(who, number) => may_reopen(*who, *number, flags & WAYS, self.acting.0, caller)?,
            _ => {}
        }
        if flags.contains(OFlags::PATH) {
            return Err(Errno::ACCESS);
        }
        // Never waits: a pipe without another end would hold up everybody.
        let kept = flags & (WAYS | OFlags::APPEND | OFlags::TRUNC);
        let how = kept | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(CWD, found, how, Mode::empty())?;
        if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) == FileType::Directory {
            return Err(Errno::ACCESS);
        }
        if !flags.contains(OFlags::NONBLOCK) {
            rustix::fs::fcntl_setfl(&file, rustix::fs::fcntl_getfl(&file)? - OFlags::NONBLOCK)?;
        }
        Ok(file)
    }

    /// Takes the name of the root off the name of a file.
    fn seen_inside(&self, name: Vec<u8>) -> Vec<u8> {
        let path = Path::new(std::ffi::OsStr::from_bytes(&name));
        match path.strip_prefix(&self.root) {
            Ok(below) => [b"/", below.as_os_str().as_bytes()].concat(),
            Err(_) => name,
        }
    }

    fn uname(&mut self, asked: &Notification) -> Option<Result<i64, Errno>> {
        /// Bytes of each of the six texts of `struct new_utsname`.
        const FIELD: usize = 65;
        let here = rustix::system::uname();
        let texts = [
            here.sysname().to_bytes(),
            self.hostname.as_bytes(),
            here.release().to_bytes(),
            here.version().to_bytes(),
            here.machine().to_bytes(),
            here.domainname().to_bytes(),
        ];
        let mut bytes = [0; 6 * FIELD];
        for (field, text) in bytes.chunks_mut(FIELD).zip(texts) {
            for (byte, from) in field.iter_mut().take(FIELD - 1).zip(text) {
                *byte = *from;
            }
        }
        let written = self.as_caller(asked.tracee, |_| asked.tracee.write(asked.long(0), &bytes));
        written.ok().map(|()| Ok(0))
    }

    /// Does something that takes the caller's rights, first with those that this process has at the moment.
    fn as_caller<T>(
        &mut self,
        caller: Tracee,
        mut act: impl FnMut(&Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match act(self) {
            Err(Errno::PERM) => {}
            done => return done,
        }
        let owner = processes::owner_of(caller.number()).ok_or(Errno::SRCH)?;
        self.become_owner(owner)?;
        act(self)
    }

    /// Takes the rights of a user; those of root are kept for the way back.
    fn become_owner(&mut self, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        let (root_user, root_group) = (Uid::ROOT, Gid::ROOT);
        rustix::thread::set_thread_res_uid(root_user, root_user, root_user)?;
        self.acting = (0, 0);
        let group = Gid::from_raw(gid);
        rustix::thread::set_thread_res_gid(group, group, root_group)?;
        let user = Uid::from_raw(uid);
        rustix::thread::set_thread_res_uid(user, user, root_user)?;
        self.acting = (uid, gid);
        Ok(())
    }

    /// Gives this process the rights of root again.
    pub(crate) fn finish(mut self) {
        if self.acting != (0, 0) && self.become_owner((0, 0)).is_err() {
            // Nothing can be cleared away any more.
            sys::exit_now(70);
        }
    }
}

const NOFOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW as u32;

/// Refuses to open again what is open already in a way that the caller has not opened it; root may do as in any root.
fn may_reopen(who: Who, number: u32, ways: OFlags, acting: u32, caller: Tracee) -> Result<(), Errno> {
    let process = match who {
        Who::Itself => caller.number(),
        Who::Number(number) => number,
    };
    let info =
        std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")).map_err(|_| Errno::NOENT)?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).map(str::trim);
    let flags = flags.and_then(|flags| u32::from_str_radix(flags, 8).ok()).ok_or(Errno::ACCESS)?;
    let had = OFlags::from_bits_retain(flags) & (OFlags::RDWR | OFlags::WRONLY);
    if acting == 0 || had == OFlags::RDWR || had == ways { Ok(()) } else { Err(Errno::ACCESS) }
}
