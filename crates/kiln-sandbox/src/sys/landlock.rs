//! Landlock: the three calls by which a process gives up rights for itself and its descendants, for ever.
//!
//! Facts: Documentation/userspace-api/landlock.rst of the kernel. A version of the interface (ABI) knows some rights and no
//! others, and refuses a ruleset that handles a right which it does not know.

use std::ffi::{c_int, c_long, c_uint};
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};

use rustix::io::Errno;

use super::check;

/// The numbers of the calls, the same on every architecture.
const CREATE_RULESET: c_long = 444;
const ADD_RULE: c_long = 445;
const RESTRICT_SELF: c_long = 446;

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const VERSION: c_uint = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const PATH_BENEATH: c_int = 1;

/// `struct landlock_ruleset_attr`, as long as it is from ABI 6 on.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Handled {
    /// `LANDLOCK_ACCESS_FS_*` that need a rule from now on.
    pub(crate) files: u64,
    /// `LANDLOCK_ACCESS_NET_*`; from ABI 4 on.
    pub(crate) network: u64,
    /// `LANDLOCK_SCOPE_*`: what stays within the processes of the ruleset; from ABI 6 on.
    pub(crate) scoped: u64,
}

/// Returns the version of the interface; `None` when the kernel has none, or it was switched off.
pub(crate) fn version() -> Result<Option<u32>, Errno> {
    let none: *const Handled = std::ptr::null();
    let size: usize = 0;
    // SAFETY: with this flag the kernel looks at no structure.
    match check(unsafe { libc::syscall(CREATE_RULESET, none, size, VERSION) }) {
        Ok(version) => Ok(u32::try_from(version).ok()),
        Err(Errno::NOSYS | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Makes a ruleset for a kernel of version `abi`, which knows a part of the structure.
pub(crate) fn create(handled: Handled, abi: u32) -> Result<OwnedFd, Errno> {
    let size: usize = match abi {
        0..4 => 8,
        4..6 => 16,
        _ => size_of::<Handled>(),
    };
    let flags: c_uint = 0;
    // SAFETY: the structure outlives the call and is at least as long as `size`.
    let fd = check(unsafe { libc::syscall(CREATE_RULESET, &raw const handled, size, flags) })?;
    let fd = c_int::try_from(fd).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel made the descriptor just now, with close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allows `rights` on a file or directory and all below.
pub(crate) fn allow_beneath(ruleset: &OwnedFd, parent: impl AsFd, rights: u64) -> Result<(), Errno> {
    /// `struct landlock_path_beneath_attr`.
    #[repr(C, packed)]
    struct PathBeneath {
        allowed: u64,
        parent: i32,
    }
    let rule = PathBeneath { allowed: rights, parent: parent.as_fd().as_raw_fd() };
    let flags: c_uint = 0;
    // SAFETY: the structure has the layout that the kind of rule says, and both descriptors are open.
    let answer =
        unsafe { libc::syscall(ADD_RULE, ruleset.as_raw_fd(), PATH_BENEATH, &raw const rule, flags) };
    check(answer).map(drop)
}

/// Puts this thread and everything it starts below the ruleset. Needs no_new_privs or CAP_SYS_ADMIN.
pub(crate) fn restrict_self(ruleset: &OwnedFd) -> Result<(), Errno> {
    let flags: c_uint = 0;
    // SAFETY: the descriptor is open; no pointer is passed.
    check(unsafe { libc::syscall(RESTRICT_SELF, ruleset.as_raw_fd(), flags) }).map(drop)
}

/// Sends SIGKILL to every process that this one may signal, but not to itself.
///
/// The kernel does it in one go, so that none of them can start another meanwhile. Only for a process whose signals
/// Landlock confines to its descendants: elsewhere it would end everything.
pub(crate) fn kill_everybody_below() -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    match check(unsafe { libc::kill(-1, libc::SIGKILL) }.into()) {
        // Nobody is there, or nobody who may be signalled.
        Ok(_) | Err(Errno::SRCH | Errno::PERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}
