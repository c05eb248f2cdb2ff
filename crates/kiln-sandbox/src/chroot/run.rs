//! The helper of a command without namespaces: it puts the scaffolding up, starts the command, outlives it, kills what is left,
//! and takes the scaffolding down.
//!
//! It holds the control socket. When kiln's end closes, because somebody wants the command dead or because kiln died, it ends
//! everything and takes the scaffolding down all the same, so that no secret stays in a file.

use std::convert::Infallible;
use std::io::Read as _;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus};

use super::cover::Covers;
use super::{command, processes, scaffold};
use crate::error::{Context as _, Error};
use crate::helper::{Job, Report, fail};
use crate::isolation::ProcMount;
use crate::running::Exit;
use crate::spec::ExecSpec;
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
    let covers = scaffold::build(spec)?;
    let stubs = covers.stubs();
    let signals = sys::Signals::watch().step("watch signals")?;
    let main = match start(spec, &covers, abi, probe) {
        Ok(main) => main,
        Err(error) => {
            processes::end_all(confined);
            return Err(error);
        }
    };
    let ready = Report::Ready { stubs, proc: ProcMount::Absent, lacking: Vec::new() };
    // Nobody listens any more: noticed below.
    let _ = wire::send(control, &ready);
    let exit = wait_for_main(control, &signals, main);
    processes::end_all(confined);
    covers.remove()?;
    match exit {
        Some(exit) if !probe => wire::send(control, &Report::Exited(exit)).step("report"),
        _ => Ok(()),
    }
}

/// Starts the command and returns when it is about to be executed.
fn start(spec: &ExecSpec, covers: &Covers, abi: u32, probe: bool) -> Result<Pid, Error> {
    let (failure_read, failure_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe")?;
    let Some(main) = sys::clone(0).step("fork the command")? else {
        drop(failure_read);
        sys::in_child(|| command::run(spec, covers.root(), abi, probe, failure_write))
    };
    drop(failure_write);
    let mut failure = Vec::new();
    std::fs::File::from(failure_read).read_to_end(&mut failure).step("hear from the command")?;
    match wire::receive::<Error>(failure.as_slice()) {
        Ok(Some(error)) => Err(error),
        _ => Ok(main),
    }
}

/// Reaps orphans and passes signals on until the command ends; `None` when kiln hung up before.
fn wait_for_main(control: &UnixStream, signals: &sys::Signals, main: Pid) -> Option<Exit> {
    loop {
        if let Some(exit) = reap(main) {
            return Some(exit);
        }
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(control, PollFlags::RDHUP)];
        if !matches!(poll(&mut fds, None), Ok(_) | Err(Errno::INTR)) || !fds[1].revents().is_empty() {
            return None;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match signals.next() {
            Ok(event) if event.signal != libc::SIGCHLD => {
                if let Some(signal) = Signal::from_named_raw(event.signal) {
                    let _ = rustix::process::kill_process(main, signal);
                }
            }
            _ => {}
        }
    }
}

fn reap(main: Pid) -> Option<Exit> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == main => return Some(exit_of(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Signal(libc::SIGKILL),
    }
}
