//! Pid 1 of a sandbox: builds the root, starts the command, reaps what it orphans, and takes everything along when it ends.

use std::convert::Infallible;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions, WaitStatus};

use super::root::Prepared;
use super::stage::Stage;
use super::supervise::{self, Plan};
use super::{Report, command, die_with_parent, fail, root};
use crate::build_namespace::{become_root, has_hung_up};
use crate::error::{Context as _, Error};
use crate::isolation::Isolation;
use crate::running::Exit;
use crate::spec::{ExecSpec, Network, PROXY_ADDRESS};
use crate::{sys, wire};

pub(super) fn run(
    control: &UnixStream,
    go: OwnedFd,
    isolation: &Isolation,
    spec: &ExecSpec,
    stage: &Stage,
    probe: bool,
    supervisor: UnixStream,
) -> Infallible {
    await_ids(&go);
    match enter(go, isolation, spec, stage, probe)
        .and_then(|prepared| supervise(control, spec, prepared, probe, &stage.plan, supervisor))
    {
        Ok(()) => sys::exit_now(0),
        Err(error) => fail(control, error),
    }
}

/// Waits until the stager has written the id maps.
fn await_ids(go: &OwnedFd) {
    if !matches!(rustix::io::retry_on_intr(|| rustix::io::read(go, &mut [0; 1])), Ok(1)) {
        sys::exit_now(1);
    }
}

fn enter(
    go: OwnedFd,
    isolation: &Isolation,
    spec: &ExecSpec,
    stage: &Stage,
    probe: bool,
) -> Result<Prepared, Error> {
    become_root()?;
    die_with_parent();
    // The stager may have died before the line above; then its pipe has hung up.
    if has_hung_up(&go) {
        sys::exit_now(1);
    }
    drop(go);
    // The change of user made this process undumpable, which takes its own /proc files away from it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .step("open this process's /proc files")?;
    let mut lacking = Vec::new();
    match rustix::system::sethostname(spec.hostname.as_bytes()) {
        // Some profiles give it to the machine's administrator only, whatever namespace this is.
        Err(Errno::PERM | Errno::NOSYS) => lacking.push("a host name of its own".to_owned()),
        answer => answer.step_at("set the host name to", &spec.hostname)?,
    }
    if spec.network.is_own() {
        sys::loopback_up().step("bring up the loopback interface")?;
    }
    let listener = match spec.network {
        Network::Proxy => {
            Some(TcpListener::bind(PROXY_ADDRESS).step_at("listen in the sandbox at", PROXY_ADDRESS)?)
        }
        Network::Host | Network::None => None,
    };
    if !spec.insecure {
        // Own namespaces would give the command back what the filter takes; best effort, since /proc/sys may be read-only.
        let _ = std::fs::write("/proc/sys/user/max_user_namespaces", "0");
    }
    let mut prepared = root::prepare(isolation, spec, stage, probe)?;
    prepared.lacking.extend(lacking);
    prepared.listener = listener;
    // From here on it is the only process that remembers secrets, and the command must not look into it.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .step("close this process's /proc files")?;
    Ok(prepared)
}

fn supervise(
    control: &UnixStream,
    spec: &ExecSpec,
    prepared: Prepared,
    probe: bool,
    plan: &Plan,
    supervisor: UnixStream,
) -> Result<(), Error> {
    let Prepared { stubs, proc, mut lacking, emulators: _registered, listener } = prepared;
    if probe {
        lacking.extend(supervise::try_out(plan)?);
    }
    let ready = Report::Ready { stubs, proc, lacking };
    if probe {
        return wire::send(control, &ready).step("report");
    }
    if let Some(listener) = listener {
        sys::notify::send_fd(control, &listener).step("hand the proxy's socket out")?;
    }
    let signals = sys::Signals::watch().step("watch signals")?;
    let (failure_read, failure_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe")?;
    let Some(main) = sys::clone(0).step("fork the command")? else {
        drop(failure_read);
        sys::in_child(|| command::run(spec, failure_write, plan, supervisor))
    };
    drop((failure_write, supervisor));
    let mut failure = Vec::new();
    std::fs::File::from(failure_read).read_to_end(&mut failure).step("hear from the command")?;
    if let Ok(Some(error)) = wire::receive::<Error>(failure.as_slice()) {
        return Err(error);
    }
    wire::send(control, &ready).step("report")?;
    let exit = wait_for_main(control, &signals, main);
    wire::send(control, &Report::Exited(exit)).step("report")
}

/// Reaps orphans and passes signals on until the command ends or kiln hangs up.
fn wait_for_main(control: &UnixStream, signals: &sys::Signals, main: Pid) -> Exit {
    loop {
        if let Some(exit) = reap(main) {
            return exit;
        }
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(control, PollFlags::RDHUP)];
        if !matches!(poll(&mut fds, None), Ok(_) | Err(Errno::INTR)) || !fds[1].revents().is_empty() {
            // Nobody is interested any more. When pid 1 ends, the kernel kills the others.
            sys::exit_now(137);
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        pass_on(signals, main);
    }
}

/// Passes the next signal on to the command; that a child ended is for its reaper.
pub(crate) fn pass_on(signals: &sys::Signals, main: Pid) {
    if let Ok(event) = signals.next()
        && event.signal != libc::SIGCHLD
        && let Some(signal) = Signal::from_named_raw(event.signal)
    {
        let _ = rustix::process::kill_process(main, signal);
    }
}

/// Collects every process that has ended; returns how the command did, once it has.
pub(crate) fn reap(main: Pid) -> Option<Exit> {
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
