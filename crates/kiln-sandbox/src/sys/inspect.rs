//! Other processes' limits, raw file attributes, and files made in another's name: for the supervisor of system calls.

use std::ffi::{c_long, c_uint};
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use super::check;

/// Size of `struct stat` as the kernel writes it.
#[cfg(target_arch = "x86_64")]
pub(crate) const STAT_SIZE: usize = 144;
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const STAT_SIZE: usize = 128;

/// Size of `struct statx`.
pub(crate) const STATX_SIZE: usize = 256;

/// Returns what fstat(2) writes about a file, which may be open as a path only.
pub(crate) fn stat(fd: impl AsFd) -> Result<[u8; STAT_SIZE], Errno> {
    let mut bytes = [0; STAT_SIZE];
    let fd = fd.as_fd().as_raw_fd();
    let (path, into, flags) = (c"".as_ptr(), bytes.as_mut_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: the path is an empty C string, and the buffer is as large as the kernel's structure.
    check(unsafe { libc::syscall(libc::SYS_newfstatat, fd, path, into, flags) })?;
    Ok(bytes)
}

/// Returns what statx(2) writes about a file, which may be open as a path only.
pub(crate) fn statx(fd: impl AsFd, flags: u32, mask: u32) -> Result<[u8; STATX_SIZE], Errno> {
    let mut bytes = [0; STATX_SIZE];
    let fd = fd.as_fd().as_raw_fd();
    let flags = flags | libc::AT_EMPTY_PATH.cast_unsigned();
    let (path, into) = (c"".as_ptr(), bytes.as_mut_ptr());
    // SAFETY: the path is an empty C string, and the buffer is as large as the kernel's structure.
    check(unsafe { libc::syscall(libc::SYS_statx, fd, path, flags, mask as c_uint, into) })?;
    Ok(bytes)
}

/// Returns the soft limit on file locks of a process.
pub(crate) fn locks_limit(pid: i32) -> Result<u64, Errno> {
    locks(pid, None).map(|limit| limit.soft)
}

/// Sets the soft limit on file locks of a process; `None` makes it as large as it can be.
pub(crate) fn set_locks_limit(pid: i32, soft: Option<u64>) -> Result<(), Errno> {
    let hard = locks(pid, None)?.hard;
    let new = Limit { soft: soft.unwrap_or(hard), hard };
    locks(pid, Some(&new)).map(drop)
}

/// The number of the limit on file locks, the same on every architecture that kiln is built for.
pub(crate) const RLIMIT_LOCKS: u32 = 10;

/// `struct rlimit64`.
#[repr(C)]
struct Limit {
    soft: u64,
    hard: u64,
}

fn locks(pid: i32, new: Option<&Limit>) -> Result<Limit, Errno> {
    let mut old = Limit { soft: 0, hard: 0 };
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let resource = RLIMIT_LOCKS;
    // SAFETY: both structures outlive the call; the kernel reads the new one, unless it is null, and writes the old one.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, new, &raw mut old) })?;
    Ok(old)
}

/// Makes this process create files as `uid` and `gid`, and keep its capabilities over that.
pub(crate) fn create_files_as(uid: u32, gid: u32) -> Result<(), Errno> {
    /// `SECBIT_NO_SETUID_FIXUP`: a change of user takes no capability away.
    const NO_SETUID_FIXUP: c_long = 1 << 2;
    let none: c_long = 0;
    // SAFETY: the call takes numbers only.
    check(unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_SECUREBITS, NO_SETUID_FIXUP, none, none, none)
    })?;
    for (call, id) in [(libc::SYS_setfsgid, gid), (libc::SYS_setfsuid, uid)] {
        // SAFETY: the calls take a number. They answer with the id before, so they are asked twice.
        let now = unsafe {
            libc::syscall(call, id);
            libc::syscall(call, id)
        };
        if now != c_long::from(id) {
            return Err(Errno::PERM);
        }
    }
    Ok(())
}

/// Reads a structure as the C library does.
#[cfg(test)]
pub(crate) fn as_c_stat(bytes: &[u8]) -> libc::stat {
    assert_eq!(bytes.len(), size_of::<libc::stat>());
    // SAFETY: the structure is made of numbers, any bytes will do, and there are enough of them.
    unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
}
