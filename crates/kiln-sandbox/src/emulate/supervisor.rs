//! Hears the calls of a command and answers them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::c_long;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;

use super::credentials::{Credentials, Kind};
use super::filter::{LISTXATTRAT, REMOVEXATTRAT, SETXATTRAT};
use super::inodes::Inodes;
use super::paths::{Last, Named, Paths};
use super::processes::Processes;
use super::records::{self, LayerOwners, OwnedMount};
use super::stat::Form;
use super::{Level, Window};
use crate::error::{Context as _, Error};
use crate::helper::KEPT;
use crate::spec::ExecSpec;
use crate::sys::inspect;
use crate::sys::notify::{Answer, Listener, Notification};

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// It gets this answer.
    Answer(Answer),
    /// It has got one.
    Done,
}

pub(super) const CONTINUE: Reply = Reply::Answer(Answer::Continue);
pub(super) const SUCCESS: Reply = Reply::Answer(Answer::Value(0));

/// Why a call is not answered as hoped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It fails with this.
    Fail(Errno),
    /// What it names cannot be found here: the kernel shall say what that means.
    NotHere,
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno)
    }
}

pub(super) type Handled = Result<Reply, Stop>;

/// Leaves a call to the kernel when something of it cannot be found.
pub(super) fn or_kernel<T>(found: Result<T, Errno>) -> Result<T, Stop> {
    found.map_err(|_| Stop::NotHere)
}

/// Answers the calls of one sandbox.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(super) listener: Listener,
    pub(super) level: Level,
    pub(super) window: Window,
    /// The command's file system, once a call has come.
    paths: Option<Paths>,
    layers: Vec<LayerOwners>,
    files: Vec<OwnedMount>,
    roots_differ: bool,
    pub(super) processes: Processes,
    pub(super) inodes: Inodes,
    /// Whether any file may have a record; without one most calls need no look.
    pub(super) recorded: bool,
    /// Whether the command has been executed; before that it is kiln, and gives up what it has.
    pub(super) executed: bool,
}

impl Supervisor {
    /// Takes over a listener. `layers` are what is beside the lower layers, topmost first; `files` are mounts
    /// whose owner has no id.
    pub(crate) fn new(
        listener: OwnedFd,
        level: Level,
        window: Window,
        spec: &ExecSpec,
        layers: Vec<LayerOwners>,
        files: Vec<OwnedMount>,
    ) -> Result<Self, Error> {
        let root = window.root();
        inspect::create_files_as(root.uid, root.gid).step("create files for the sandbox's root")?;
        rustix::process::umask(Mode::empty());
        raise_file_limit();
        let listener = Listener::new(listener);
        listener.wake_synchronously();
        let user = &spec.user;
        let bounding = if spec.insecure { CapabilitySet::all() } else { KEPT };
        let initial = Credentials::new(user.uid, user.gid, user.groups.clone(), bounding);
        Ok(Self {
            listener,
            level,
            window,
            paths: None,
            layers,
            files,
            // A command that keeps every capability can change its root unheard.
            roots_differ: spec.insecure,
            processes: Processes::new(initial),
            inodes: Inodes::default(),
            recorded: level >= Level::Visible,
            executed: false,
        })
    }

    /// Finds the sandbox's root by the first process that calls: it waits, so it is there, and it could not change its root
    /// unheard.
    fn arrive(&mut self, call: &Notification) -> Result<(), Errno> {
        let paths = Paths::of(call.tracee, self.roots_differ)?;
        self.inodes.load(paths.root(), &self.layers);
        for OwnedMount { target, owner } in &self.files {
            let named = Named { tracee: call.tracee, dir: libc::AT_FDCWD, path: target.clone() };
            let file = paths.open(&named, Last::Follow)?;
            self.inodes.set(&rustix::fs::fstat(&file)?, *owner, file);
        }
        self.paths = Some(paths);
        Ok(())
    }

    pub(super) fn paths(&self) -> Result<&Paths, Errno> {
        self.paths.as_ref().ok_or(Errno::NOENT)
    }

    /// Returns what to poll for calls.
    pub(crate) fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers one call.
    pub(crate) fn serve(&mut self) -> Result<(), Errno> {
        let Some(call) = self.listener.receive()? else { return Ok(()) };
        let answer = match self.handle(&call) {
            Ok(Reply::Done) => return Ok(()),
            Ok(Reply::Answer(answer)) => answer,
            Err(Stop::Fail(errno)) => Answer::Fail(errno),
            Err(Stop::NotHere) => Answer::Continue,
        };
        match self.listener.answer(call.id, answer) {
            // The caller was killed.
            Err(Errno::NOENT) => Ok(()),
            done => done,
        }
    }

    /// Writes down what is known of links and pipes in the upper directory. To be called when no process is left.
    pub(crate) fn finish(&self, upper: &Path, layer: &Path) -> Result<(), Error> {
        let Some(paths) = self.paths.as_ref().filter(|_| self.recorded) else { return Ok(()) };
        let step = "write down the owners of links beside";
        let owners = self.inodes.in_upper(paths.root(), upper).step_at(step, layer)?;
        std::fs::write(records::beside(layer), records::format_owners(&owners)).step_at(step, layer)
    }

    fn handle(&mut self, call: &Notification) -> Handled {
        // A pid of 0 is that of a process which this one cannot see.
        if call.tracee.number() == 0 {
            return Ok(CONTINUE);
        }
        if self.paths.is_none() {
            or_kernel(self.arrive(call))?;
        }
        match call.call {
            libc::SYS_newfstatat => self.stat_at(call, call.word(0), call.long(1), call.word(3), 2),
            libc::SYS_fstat => self.stat_fd(call, call.word(0), Form::Stat, 1),
            libc::SYS_statx => self.statx(call),
            libc::SYS_fchown => self.chown_fd(call, call.word(0), [1, 2]),
            libc::SYS_fchownat => self.chown_at(call),
            libc::SYS_openat => {
                self.open(call, call.word(0), call.long(1), u64::from(call.word(2)), call.word(3))
            }
            libc::SYS_openat2 => self.open2(call),
            libc::SYS_mkdirat => self.mkdir(call, call.word(0), call.long(1), call.word(2)),
            libc::SYS_symlinkat => self.symlink(call, call.long(0), call.word(1), call.long(2)),
            libc::SYS_mknodat => self.mknod(call, call.word(0), call.long(1), call.word(2), call.word(3)),
            libc::SYS_execve => self.execute(call, AT_CWD, call.long(0), 0),
            libc::SYS_execveat => self.execute(call, call.word(0), call.long(1), call.word(4)),
            libc::SYS_chroot => {
                self.roots_differ = true;
                if let Some(paths) = &mut self.paths {
                    paths.roots_differ = true;
                }
                Ok(CONTINUE)
            }
            libc::SYS_getuid => self.id(call, Kind::User, |ids| ids.real),
            libc::SYS_geteuid => self.id(call, Kind::User, |ids| ids.effective),
            libc::SYS_getgid => self.id(call, Kind::Group, |ids| ids.real),
            libc::SYS_getegid => self.id(call, Kind::Group, |ids| ids.effective),
            libc::SYS_getresuid => self.three_ids(call, Kind::User),
            libc::SYS_getresgid => self.three_ids(call, Kind::Group),
            libc::SYS_getgroups => self.groups(call),
            libc::SYS_setuid => self.become_one(call, |who| who.set(Kind::User, call.word(0))),
            libc::SYS_setgid => self.become_one(call, |who| who.set(Kind::Group, call.word(0))),
            libc::SYS_setreuid => {
                self.become_one(call, |who| who.set_real_effective(Kind::User, call.word(0), call.word(1)))
            }
            libc::SYS_setregid => {
                self.become_one(call, |who| who.set_real_effective(Kind::Group, call.word(0), call.word(1)))
            }
            libc::SYS_setresuid => self.become_one(call, |who| {
                who.set_three(Kind::User, [call.word(0), call.word(1), call.word(2)])
            }),
            libc::SYS_setresgid => self.become_one(call, |who| {
                who.set_three(Kind::Group, [call.word(0), call.word(1), call.word(2)])
            }),
            libc::SYS_setfsuid => self.become_fs(call, Kind::User),
            libc::SYS_setfsgid => self.become_fs(call, Kind::Group),
            libc::SYS_setgroups => self.set_groups(call),
            libc::SYS_prctl => self.keep_powers(call),
            libc::SYS_capget => self.tell_powers(call),
            libc::SYS_capset => self.set_powers(call),
            libc::SYS_listxattr => self.list_attributes(call, Last::Follow),
            libc::SYS_llistxattr => self.list_attributes(call, Last::Keep),
            libc::SYS_flistxattr => self.list_attributes_fd(call),
            LISTXATTRAT => self.list_attributes_at(call),
            libc::SYS_setxattr
            | libc::SYS_lsetxattr
            | libc::SYS_fsetxattr
            | libc::SYS_removexattr
            | libc::SYS_lremovexattr
            | libc::SYS_fremovexattr => Self::change_attribute(call, 1),
            SETXATTRAT | REMOVEXATTRAT => Self::change_attribute(call, 3),
            other => self.handle_old(other, call),
        }
    }

    /// Calls that newer architectures have only with a directory.
    #[cfg(target_arch = "x86_64")]
    fn handle_old(&mut self, number: c_long, call: &Notification) -> Handled {
        match number {
            libc::SYS_stat => self.stat_at(call, AT_CWD, call.long(0), 0, 1),
            libc::SYS_lstat => self.stat_at(call, AT_CWD, call.long(0), NO_FOLLOW, 1),
            libc::SYS_chown => self.chown_path(call, Last::Follow),
            libc::SYS_lchown => self.chown_path(call, Last::Keep),
            libc::SYS_open => self.open(call, AT_CWD, call.long(0), u64::from(call.word(1)), call.word(2)),
            libc::SYS_creat => {
                let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC).cast_unsigned();
                self.open(call, AT_CWD, call.long(0), u64::from(flags), call.word(1))
            }
            libc::SYS_mkdir => self.mkdir(call, AT_CWD, call.long(0), call.word(1)),
            libc::SYS_symlink => self.symlink(call, call.long(0), AT_CWD, call.long(1)),
            libc::SYS_mknod => self.mknod(call, AT_CWD, call.long(0), call.word(1), call.word(2)),
            _ => Ok(CONTINUE),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[expect(clippy::unused_self, reason = "the other architecture needs it")]
    fn handle_old(&mut self, _: c_long, _: &Notification) -> Handled {
        Ok(CONTINUE)
    }

    /// Opens the file that a path of a call names.
    pub(super) fn find(
        &self,
        call: &Notification,
        dir: u32,
        address: u64,
        flags: u32,
    ) -> Result<OwnedFd, Stop> {
        self.find_named(&or_kernel(Named::read(call.tracee, dir, address))?, flags)
    }

    pub(super) fn find_named(&self, named: &Named, flags: u32) -> Result<OwnedFd, Stop> {
        if named.path.is_empty() && flags & libc::AT_EMPTY_PATH.cast_unsigned() == 0 {
            return Err(Stop::NotHere);
        }
        let last = if flags & NO_FOLLOW == 0 { Last::Follow } else { Last::Keep };
        or_kernel(self.paths()?.open(named, last))
    }

    /// Fails a call whose caller is gone: then what was read may be another process's.
    pub(super) fn still_there(&self, call: &Notification) -> Result<(), Stop> {
        if self.listener.is_alive(call.id) { Ok(()) } else { Err(Stop::NotHere) }
    }
}

pub(super) const AT_CWD: u32 = libc::AT_FDCWD.cast_unsigned();
pub(super) const NO_FOLLOW: u32 = libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();

/// Each recorded link keeps a file open.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}
