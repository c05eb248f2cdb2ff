//! The re-executed kiln that builds a sandbox: one process each for leaving kiln, preparing mounts, being pid 1 and being the command.
//!
//! - *launcher*: a fresh, single-threaded process with the job on its standard input, which is the control socket; waits.
//! - *stager* (`stage`): the same user in a private mount namespace; opens layers, upper and bind sources, which only it may reach;
//!   then answers the system calls that the kernel cannot (`supervise`).
//! - *init* (`init`): pid 1 of the sandbox in its own user namespace; mounts the root (`root`), then waits for everybody.
//! - *command* (`command`): drops what is left of privilege and executes.
//!
//! Every one of them dies when the one above it dies, and pid 1 takes the rest along.

mod binfmt;
pub(crate) mod command;
pub(crate) mod exec;
mod init;
mod overlay;
mod root;
mod stage;
mod supervise;
mod system;
pub(crate) mod targets;

pub(crate) use command::KEPT;
pub(crate) use init::{pass_on, reap};

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error};
use crate::isolation::{Isolation, Mode, ProcMount};
use crate::running::{Exit, Stdio};
use crate::spec::ExecSpec;
use crate::{sys, wire};

/// The name under which a helper is executed.
const HELPER: &str = "kiln-sandbox-init";

/// The order to a helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Run the command.
    Run { isolation: Isolation, spec: Box<ExecSpec> },
    /// Set everything up, then stop: the self-test.
    Probe { isolation: Isolation, spec: Box<ExecSpec> },
}

impl Job {
    fn isolation(&self) -> &Isolation {
        match self {
            Self::Run { isolation, .. } | Self::Probe { isolation, .. } => isolation,
        }
    }
}

/// What a helper says to kiln; `Ready`, then `Exited`, or `Failed` alone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The root stands and the command is about to be executed.
    Ready {
        #[serde(with = "wire::paths")]
        stubs: Vec<PathBuf>,
        proc: ProcMount,
        /// What could not be had and is not essential, as phrases.
        lacking: Vec<String>,
    },
    /// A step failed; nothing is left of the sandbox.
    Failed(Error),
    /// The command ended.
    Exited(Exit),
}

/// Starts a helper with a job and returns it with kiln's end of the control socket.
pub(crate) fn start(job: &Job, stdio: Stdio) -> Result<(Child, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().step("create the control socket of a sandbox")?;
    let child = Command::new("/proc/self/exe")
        .arg0(HELPER)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(stdio.stdout)
        .stderr(stdio.stderr)
        .spawn()
        .step_at("execute kiln as its own sandbox helper", "/proc/self/exe")
        .map_err(|error| {
            error.hint("mount /proc where kiln runs, and call `run_if_helper` first in `main`")
        })?;
    // A helper that died at once is noticed when its report is read.
    let _ = wire::send(&ours, job);
    Ok((child, ours))
}

/// Runs the role of a sandbox helper and exits, when this process was started as one; returns otherwise.
///
/// Must be the first thing in `main`: a helper has no threads and no open descriptors of its own.
pub fn run_if_helper() {
    if std::env::args_os().next().is_none_or(|name| name != HELPER) {
        return;
    }
    sys::in_child(|| launch())
}

fn launch() -> ! {
    sys::close_inherited();
    let null = std::fs::File::options().read(true).open("/dev/null").ok();
    let control = null.and_then(|null| sys::take_stdin(&null).ok()).map(UnixStream::from);
    let Some(control) = control else { sys::exit_now(70) };
    // Signals of the terminal are kiln's to decide about.
    let _ = rustix::process::setsid();
    // When memory runs out, the command shall go before kiln does.
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
    let job: Job = match wire::receive(&control) {
        Ok(Some(job)) => job,
        Ok(None) => sys::exit_now(0),
        Err(error) => fail(&control, Error::new("read the job of a sandbox").io(&error)),
    };
    if job.isolation().mode == Mode::Chroot {
        crate::chroot::serve(control, job);
    }
    let launcher = rustix::process::getpid();
    match sys::clone(sys::NEW_MOUNT) {
        Ok(None) => sys::in_child(|| stage::run(&control, job, launcher)),
        Ok(Some(stager)) => {
            // Only the sandbox itself shall hold the socket: when it hangs up, all of it is gone.
            drop(control);
            wait_for(stager);
            sys::exit_now(0)
        }
        Err(errno) => fail(&control, Error::new("create a mount namespace").errno(errno)),
    }
}

fn wait_for(child: Pid) {
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(Some(child), WaitOptions::empty()) {}
}

/// Reports a failure and ends this process.
pub(crate) fn fail(control: &UnixStream, error: Error) -> ! {
    let _ = wire::send(control, &Report::Failed(error));
    sys::exit_now(70)
}

/// Makes the kernel kill this process when its parent ends.
///
/// To be called after every change of user, which clears it.
fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
}
