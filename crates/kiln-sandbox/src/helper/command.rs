//! The last steps between fork and exec: session, keys, limits, filter, capabilities, user.
//!
//! The order matters: the filters go in while CAP_SYS_ADMIN is held, so that no_new_privs stays off and `sudo` works inside;
//! capabilities leave the bounding set before the user changes; the directory is entered as root.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::exec;
use super::supervise::{self, Plan};
use crate::emulate::Level;
use crate::error::{Context as _, Error};
use crate::limits::{Limit, Resource};
use crate::spec::{ExecSpec, Network, ResolvedUser};
use crate::{landlock, limits, seccomp, sys, wire};

/// Docker's default: what package managers and setuid programs need inside a container.
pub(crate) const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::AUDIT_WRITE)
    .union(CapabilitySet::SETFCAP);

/// Runs the command; `failure` carries the error of a step before that, or closes when there is none.
pub(super) fn run(spec: &ExecSpec, failure: OwnedFd, plan: &Plan, supervisor: UnixStream) -> Infallible {
    if let Err(error) = harden(spec, plan, supervisor) {
        let _ = wire::send(std::fs::File::from(failure), &error);
        sys::exit_now(70);
    }
    drop(failure);
    sys::close_at_exec();
    sys::exit_now(exec::execute(spec))
}

fn harden(spec: &ExecSpec, plan: &Plan, supervisor: UnixStream) -> Result<(), Error> {
    let users = if plan.level == Level::Full { Users::Emulated } else { Users::Real };
    sys::default_signals();
    rustix::process::setsid().step("start a session")?;
    match sys::new_session_keyring() {
        // Kernels may be built without keys, filters around kiln may forbid them, and a quota may be used up.
        Ok(()) | Err(Errno::NOSYS | Errno::PERM | Errno::DQUOT) => {}
        Err(errno) => return Err(errno).step("join a new keyring"),
    }
    // The supervisor keeps the user of a process in the limit on locks; Linux itself has not used that since 2.4.
    let kept = |limit: &&Limit| users == Users::Real || limit.resource != Resource::Locks;
    let limits: Vec<Limit> = spec.limits.iter().filter(kept).copied().collect();
    limits::apply(&limits)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    // No mount hides abstract sockets of the network that is shared. Where the kernel has no such wall, the self-test has told.
    if !spec.insecure && spec.network == Network::Host {
        landlock::confine_sockets()?;
    }
    if !spec.insecure {
        sys::install_filter(&seccomp::program()).step("install the system call filter")?;
    }
    supervise::offer(plan, &supervisor)?;
    drop(supervisor);
    rustix::process::chdir(&spec.cwd).step_at("enter the working directory", &spec.cwd)?;
    if !spec.insecure {
        shrink_bounding_set(KEPT)?;
    }
    match users {
        Users::Real => become_user(&spec.user)?,
        // The supervisor knows; to the kernel it is root.
        Users::Emulated => {}
    }
    drop_capabilities(spec, users)
}

/// Who tells the users of processes apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Users {
    Real,
    Emulated,
}

/// Drops from the bounding set what is not in `kept`.
pub(crate) fn shrink_bounding_set(kept: CapabilitySet) -> Result<(), Error> {
    /// The kernel has 41; a few more may come.
    const MOST: u32 = 63;
    for bit in 0..=MOST {
        let capability = CapabilitySet::from_bits_retain(1 << bit);
        if kept.contains(capability) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(Errno::INVAL) => break,
            Err(errno) => return Err(errno).step("drop capabilities"),
        }
    }
    Ok(())
}

/// Takes the ids of the step's user.
pub(crate) fn become_user(user: &ResolvedUser) -> Result<(), Error> {
    let hint = |error: Error| {
        match error.errno.map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::INVAL) => error
            .cause("the id does not exist in this sandbox")
            .hint("give kiln more ids: install newuidmap (package uidmap) and ranges in /etc/subuid and /etc/subgid"),
        _ => error,
    }
    };
    let groups: Vec<Gid> = user.groups.iter().map(|&group| Gid::from_raw(group)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // Given up together with the single-id map, which has no groups to set.
        Err(Errno::PERM) if groups.iter().all(|group| group.is_root()) => {}
        answer => answer.step("set the supplementary groups of the command").map_err(hint)?,
    }
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step(&format!("run the command as group {}", user.gid))
        .map_err(hint)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
        .step(&format!("run the command as user {}", user.uid))
        .map_err(hint)
}

/// Leaves root, or who is root to the kernel, with the kept set and other users with none; nothing is inheritable or ambient.
fn drop_capabilities(spec: &ExecSpec, users: Users) -> Result<(), Error> {
    let held = if spec.user.uid != 0 && users == Users::Real {
        CapabilitySet::empty()
    } else if spec.insecure {
        return Ok(());
    } else {
        KEPT
    };
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")
}
