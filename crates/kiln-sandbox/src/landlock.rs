//! Walls that a process puts around itself and its descendants for ever.
//!
//! - Around a command in another root directory: everything below that root, and nothing else.
//! - Around a command that shares kiln's network: its abstract sockets, which no mount hides. Behind such sockets are the
//!   helpers of container engines and the sessions of desktops.
//!
//! A root directory alone is no wall: who has an open directory from outside, or the right to call chroot(2), gets out of it.
//! Behind Landlock the way out leads nowhere, because what is not below the one allowed directory cannot be opened,
//! made, moved or removed. From Linux 6.12 on (ABI 6) signals and abstract sockets stay inside, too.

use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Context as _, Error};
use crate::sys::landlock::{self, Handled};

/// From this version on, signals and abstract sockets can be confined.
pub(crate) const SCOPES: u32 = 6;

/// `LANDLOCK_ACCESS_FS_REFER`.
const MOVING: u64 = 1 << 13;

/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET`.
const ABSTRACT_SOCKETS: u64 = 1 << 0;
/// The same and `LANDLOCK_SCOPE_SIGNAL`.
const ALL_SCOPES: u64 = ABSTRACT_SOCKETS | 1 << 1;

/// Returns the version of Landlock here; 0 when there is none, also because a filter around kiln does not know it.
pub(crate) fn version() -> Result<u32, Error> {
    match landlock::version() {
        Ok(version) => Ok(version.unwrap_or(0)),
        Err(rustix::io::Errno::PERM) => Ok(0),
        Err(errno) => Err(errno).step("ask for Landlock"),
    }
}

/// Returns all rights on files that a version knows.
fn file_rights(abi: u32) -> u64 {
    // Thirteen at first; then moving between directories (2), truncation (3) and requests to devices (5).
    let count = match abi {
        0 => 0,
        1 => 13,
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << count) - 1
}

fn scopes(abi: u32) -> u64 {
    if abi >= SCOPES { ALL_SCOPES } else { 0 }
}

/// Confines this process and its descendants to what is below its root directory.
pub(crate) fn confine(abi: u32) -> Result<(), Error> {
    if abi == 0 {
        return Ok(());
    }
    let rights = file_rights(abi);
    let handled = Handled { files: rights, network: 0, scoped: scopes(abi) };
    let ruleset = landlock::create(handled, abi).step("make a Landlock ruleset")?;
    landlock::allow_beneath(&ruleset, &root().step("open the root")?, rights)
        .step("allow what is below the root")?;
    landlock::restrict_self(&ruleset).step("put the command behind Landlock")
}

/// Confines the signals of this process to itself and its descendants, and tells whether the kernel can do that.
pub(crate) fn confine_signals(abi: u32) -> Result<bool, Error> {
    if scopes(abi) == 0 {
        return Ok(false);
    }
    scope(ALL_SCOPES, abi).step("confine the signals of the helper")?;
    Ok(true)
}

/// Tells whether signals and abstract sockets can be confined here.
pub(crate) fn has_scopes() -> bool {
    // A filter around kiln that knows no Landlock is a machine without it.
    matches!(landlock::version(), Ok(Some(abi)) if abi >= SCOPES)
}

/// Keeps this process and its descendants from abstract sockets of others, where the kernel can do that.
pub(crate) fn confine_sockets() -> Result<(), Error> {
    if has_scopes() {
        scope(ABSTRACT_SOCKETS, SCOPES).step("confine abstract sockets")?;
    }
    Ok(())
}

/// Describes what the kernel has of it.
pub(crate) fn describe() -> String {
    match landlock::version() {
        Ok(Some(abi)) if abi >= SCOPES => format!("version {abi}"),
        Ok(Some(abi)) => format!("version {abi}, without walls for signals and abstract sockets"),
        Ok(None) => "none in this kernel, or switched off".to_owned(),
        Err(errno) => format!("forbidden here: {errno}"),
    }
}

fn scope(scoped: u64, abi: u32) -> Result<(), rustix::io::Errno> {
    // A ruleset that says nothing of moving between directories denies it, as soon as another one below it is about files.
    let ruleset = landlock::create(Handled { files: MOVING, network: 0, scoped }, abi)?;
    landlock::allow_beneath(&ruleset, &root()?, MOVING)?;
    landlock::restrict_self(&ruleset)
}

fn root() -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_grow_with_the_version() {
        let check = |abi, last: u64| assert_eq!(file_rights(abi), last | (last - 1), "{abi}");
        check(1, 1 << 12);
        check(2, 1 << 13);
        check(3, 1 << 14);
        check(4, 1 << 14);
        check(5, 1 << 15);
        check(9, 1 << 15);
        assert_eq!(file_rights(0), 0);
    }
}
