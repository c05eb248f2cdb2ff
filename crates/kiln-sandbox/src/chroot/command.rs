//! The command's own process, from the fork to the exec: into the root, behind the walls, down to the step's user.
//!
//! The order matters: the root is entered while chroot(2) is still allowed, Landlock's one rule names the root as seen from
//! inside, and capabilities leave the bounding set before the user changes.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{filter, proc, scaffold};
use crate::cgroup::Held;
use crate::error::{Context as _, Error};
use crate::helper::command::{KEPT, become_user, shrink_bounding_set};
use crate::helper::exec;
use crate::spec::ExecSpec;
use crate::{landlock, limits, seccomp, sys, wire};

/// What a command may keep of Docker's capabilities where it is the container's own root.
///
/// Not: to change the root, which is the way out of it; raw packets, with which the container's network could be listened to; making
/// devices, as there is no device that it should open and has not.
const HELD: CapabilitySet = KEPT
    .difference(CapabilitySet::SYS_CHROOT)
    .difference(CapabilitySet::NET_RAW)
    .difference(CapabilitySet::MKNOD);

/// Runs the command; `failure` carries the error of a step before that, or closes when there is none.
pub(super) fn run(
    spec: &ExecSpec,
    root: &OwnedFd,
    held: Option<&Held>,
    abi: u32,
    probe: bool,
    (announcement, failure): (UnixStream, OwnedFd),
) -> Infallible {
    let entered = if probe { scaffold::try_devices(root) } else { Ok(()) };
    if let Err(error) = entered.and_then(|()| harden(spec, root, held, abi, announcement)) {
        let _ = wire::send(std::fs::File::from(failure), &error);
        sys::exit_now(70);
    }
    drop(failure);
    if probe {
        sys::exit_now(0);
    }
    sys::close_at_exec();
    sys::exit_now(exec::execute(spec))
}

fn harden(
    spec: &ExecSpec,
    root: &OwnedFd,
    held: Option<&Held>,
    abi: u32,
    announcement: UnixStream,
) -> Result<(), Error> {
    sys::default_signals();
    rustix::process::setsid().step("start a session")?;
    match sys::new_session_keyring() {
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::DQUOT) => {}
        Err(errno) => return Err(errno).step("join a new keyring"),
    }
    // Only the command is limited: the helper has to take the scaffolding down in any case.
    held.map_or(Ok(()), Held::admit_self)?;
    limits::raise_limits(&spec.limits)?;
    limits::apply(&spec.limits)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::fchdir(root).step("enter the new root")?;
    rustix::process::chroot(".").step("change the root directory")?;
    rustix::process::chdir("/").step("enter the new root")?;
    std::fs::create_dir_all(&spec.cwd).step_at("create the working directory", &spec.cwd)?;
    rustix::thread::set_no_new_privs(true).step("give up new privileges")?;
    landlock::confine(abi)?;
    // From here to the exec nothing is done by path: nobody answers yet.
    proc::announce(&announcement)?;
    drop(announcement);
    sys::install_filter(&filter::program(spec.network)).step("install the filter of this isolation")?;
    sys::install_filter(&seccomp::program()).step("install the system call filter")?;
    rustix::process::chdir(&spec.cwd).step_at("enter the working directory", &spec.cwd)?;
    shrink_bounding_set(HELD)?;
    become_user(&spec.user)?;
    drop_capabilities(spec)
}

/// Leaves root with what is held of [`HELD`] and other users with none; nothing is inheritable or ambient.
fn drop_capabilities(spec: &ExecSpec) -> Result<(), Error> {
    const STEP: &str = "drop capabilities";
    // The container may have been given fewer than Docker's.
    let permitted = rustix::thread::capabilities(None).step(STEP)?.permitted;
    let held = if spec.user.uid == 0 { HELD & permitted } else { CapabilitySet::empty() };
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step(STEP)
}
