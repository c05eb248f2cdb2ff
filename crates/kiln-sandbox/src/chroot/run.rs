//! The helper of a command without namespaces: it puts the scaffolding up, starts the command, outlives it, kills what is left,
//! and takes the scaffolding down.
//!
//! It holds the control socket. When kiln's end closes, because somebody wants the command dead or because kiln died, it ends
//! everything and takes the scaffolding down all the same, so that no secret stays in a file.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Gid, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid};

use super::cover::Covers;
use super::proc::{self, Server};
use super::{command, processes, scaffold};
use crate::cgroup::Held;
use crate::error::{Context as _, Error};
use crate::helper::{Job, Report, fail, pass_on, reap};
use crate::isolation::ProcMount;
use crate::running::Exit;
use crate::spec::{ExecSpec, ResolvedUser};
use crate::{landlock, sys, wire};

/// Does a job and ends this process.
pub(crate) fn serve(control: UnixStream, job: Job) -> Infallible {
    let (spec, probe) = match job {
        Job::Run { spec, .. } => (spec, false),
        Job::Probe { spec, .. } => (spec, true),
    };
    match supervise(&control, &spec, probe) {
        Ok(()) => sys::exit_now(0),
        Err(error) => fail(&control, error),
    }
}

fn supervise(control: &UnixStream, spec: &ExecSpec, probe: bool) -> Result<(), Error> {
    // It remembers secrets, and the command has the same user id.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("close this process's /proc files")?;
    let abi = landlock::version()?;
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    let confined = landlock::confine_signals(abi)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).step("adopt orphans")?;
    give_output(&spec.user);
    // What is made to have a place for something must not depend on who started kiln, and how.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let covers = scaffold::build(spec)?;
    let stubs = covers.stubs();
    let signals = sys::Signals::watch().step("watch signals")?;
    let held = spec.cgroup.as_ref().map(Held::make).transpose()?;
    let (main, mut server) = match start(spec, &covers, held.as_ref(), abi, probe) {
        Ok(started) => started,
        Err(error) => {
            processes::end_all(confined);
            held.into_iter().for_each(Held::remove);
            return Err(error);
        }
    };
    let proc = if server.is_some() { ProcMount::Answered } else { ProcMount::Absent };
    let ready = Report::Ready { stubs, proc, lacking: Vec::new() };
    // Nobody listens any more: noticed below.
    let _ = wire::send(control, &ready);
    let exit = wait_for_main(control, &signals, main, &mut server);
    server.into_iter().for_each(Server::finish);
    processes::end_all(confined);
    held.into_iter().for_each(Held::remove);
    covers.remove()?;
    match exit {
        Some(exit) if !probe => wire::send(control, &Report::Exited(exit)).step("report"),
        _ => Ok(()),
    }
}

/// Lets the command open `/dev/stdout` and `/dev/stderr`, which are kiln's pipes and belong to root.
fn give_output(user: &ResolvedUser) {
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    for stream in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let kind = rustix::fs::fstat(stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind == Ok(FileType::Fifo) {
            // Most commands write to the open stream, so failure is theirs to notice.
            let _ = rustix::fs::fchown(stream, Some(uid), Some(gid));
        }
    }
}

/// Starts the command and returns when it is about to be executed.
fn start(
    spec: &ExecSpec,
    covers: &Covers,
    held: Option<&Held>,
    abi: u32,
    probe: bool,
) -> Result<(Pid, Option<Server>), Error> {
    let (ours, theirs) = UnixStream::pair().step("create a socket")?;
    let (failure_read, failure_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe")?;
    let Some(main) = sys::clone(0).step("fork the command")? else {
        drop((failure_read, ours));
        sys::in_child(|| command::run(spec, covers.root(), held, abi, probe, (theirs, failure_write)))
    };
    drop((failure_write, theirs));
    let mut failure = Vec::new();
    std::fs::File::from(failure_read).read_to_end(&mut failure).step("hear from the command")?;
    if let Ok(Some(error)) = wire::receive::<Error>(failure.as_slice()) {
        return Err(error);
    }
    let listener = proc::adopt(&ours)?;
    if listener.is_none() && !covers.has_devices() {
        return Err(Error::new("give the command devices")
            .cause(
                "this container may make none, and its system calls are supervised by somebody else already",
            )
            .hint("leave MKNOD to the container"));
    }
    let root =
        rustix::fs::readlink(sys::proc_fd(covers.root()), Vec::new()).step("find the name of the root")?;
    let root = PathBuf::from(OsString::from_vec(root.into_bytes()));
    Ok((
        main,
        listener.map(|listener| Server::new(listener, root, spec.hostname.clone(), !covers.has_devices())),
    ))
}

/// Reaps orphans, passes signals on and answers what is asked of `/proc` until the command ends; `None` when kiln hung up before.
fn wait_for_main(
    control: &UnixStream,
    signals: &sys::Signals,
    main: Pid,
    server: &mut Option<Server>,
) -> Option<Exit> {
    let mut is_served = server.is_some();
    loop {
        if let Some(exit) = reap(main) {
            return Some(exit);
        }
        let mut fds = vec![PollFd::new(signals, PollFlags::IN), PollFd::new(control, PollFlags::RDHUP)];
        if let Some(server) = server.as_ref().filter(|_| is_served) {
            fds.push(PollFd::new(server.listener(), PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return None,
        }
        let events: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        drop(fds);
        if !events[1].is_empty() {
            return None;
        }
        let asked = events.get(2).copied().unwrap_or(PollFlags::empty());
        if let (true, Some(server)) = (asked.contains(PollFlags::IN), server.as_mut()) {
            server.serve();
        } else if !asked.is_empty() {
            // Nobody is left who could ask.
            is_served = false;
        }
        if !events[0].is_empty() {
            pass_on(signals, main);
        }
    }
}
