//! What the kernel says of a file, in the very bytes in which it says so: for handing on to another process.

use std::ffi::{CStr, c_int, c_uint};

use rustix::io::Errno;

use super::check;

/// Bytes of `struct stat` as the kernel writes it; C libraries for 64-bit machines use the same.
pub(crate) const STAT: usize = size_of::<libc::stat>();
/// Bytes of `struct statx`.
pub(crate) const STATX: usize = 256;

/// `newfstatat` by path, with `AT_*` flags.
pub(crate) fn stat(path: &CStr, flags: c_int) -> Result<[u8; STAT], Errno> {
    let mut bytes = [0; STAT];
    // SAFETY: the path is a C string, and the kernel writes no more than the structure it knows for this machine.
    let answer = unsafe {
        libc::syscall(libc::SYS_newfstatat, libc::AT_FDCWD, path.as_ptr(), bytes.as_mut_ptr(), flags)
    };
    check(answer)?;
    Ok(bytes)
}

/// `statx` by path, with `AT_*` flags and the mask of what is wanted.
pub(crate) fn statx(path: &CStr, flags: c_int, mask: c_uint) -> Result<[u8; STATX], Errno> {
    let mut bytes = [0; STATX];
    // SAFETY: the path is a C string, and the structure has 256 bytes for ever.
    let answer = unsafe {
        libc::syscall(libc::SYS_statx, libc::AT_FDCWD, path.as_ptr(), flags, mask, bytes.as_mut_ptr())
    };
    check(answer)?;
    Ok(bytes)
}
