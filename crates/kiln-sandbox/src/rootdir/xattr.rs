//! Extended attributes of an object itself, be it a symlink or a device, without opening it.
//!
//! `lsetxattr("/proc/self/fd/PARENT/NAME")` reaches every kind of file with one call. The one value that is translated is
//! `security.capability`: in a user namespace the kernel hands it out with the namespace's root id (24 bytes),
//! images store it without (20 bytes), and on the way in the kernel adds the id by itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

const CAPABILITY: &[u8] = b"security.capability";

fn path_of(parent: BorrowedFd<'_>, name: &OsStr) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", parent.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    path
}

pub(super) fn set(parent: BorrowedFd<'_>, file: &OsStr, name: &OsStr, value: &[u8]) -> Result<(), Errno> {
    rustix::fs::lsetxattr(path_of(parent, file), name, value, XattrFlags::empty())
}

pub(super) fn remove(parent: BorrowedFd<'_>, file: &OsStr, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::lremovexattr(path_of(parent, file), name)
}

pub(super) fn all(parent: BorrowedFd<'_>, file: &OsStr) -> Result<BTreeMap<OsString, Vec<u8>>, Errno> {
    let path = path_of(parent, file);
    let names = match grow(|buffer| rustix::fs::llistxattr(&path, buffer)) {
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        names => names?,
    };
    let mut attributes = BTreeMap::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        match grow(|buffer| rustix::fs::lgetxattr(&path, name, buffer)) {
            Ok(value) => {
                let value = if name == CAPABILITY { without_root_id(value) } else { value };
                attributes.insert(OsString::from_vec(name.to_vec()), value);
            }
            // Listed but not for this user (`trusted.*`), or gone meanwhile.
            Err(Errno::NODATA | Errno::PERM) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(attributes)
}

/// Returns one attribute with one call; absent, or unknown to the file system, is `None`.
pub(super) fn one(parent: BorrowedFd<'_>, file: &OsStr, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let path = path_of(parent, file);
    match grow(|buffer| rustix::fs::lgetxattr(&path, name, buffer)) {
        Ok(value) if name == CAPABILITY => Ok(Some(without_root_id(value))),
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Turns version 3 of a file capability into version 2.
fn without_root_id(mut value: Vec<u8>) -> Vec<u8> {
    const VERSION_3: u8 = 3;
    const VERSION_2: u8 = 2;
    if value.len() == 24 && value[3] == VERSION_3 {
        value[3] = VERSION_2;
        value.truncate(20);
    }
    value
}

/// Reads with a buffer that grows until it suffices.
fn grow(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    // Most files have none or one small attribute.
    let mut buffer = vec![0; 256];
    loop {
        match read(&mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
            // 64 KiB is the kernel's own limit for a value and for a list.
            Err(Errno::RANGE) if buffer.len() < 1 << 16 => buffer.resize(buffer.len() * 4, 0),
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_lose_the_namespaces_root_id() {
        let mut version_3 = vec![1, 0, 0, 3];
        version_3.extend([7; 20]);
        let mut version_2 = vec![1, 0, 0, 2];
        version_2.extend([7; 16]);
        assert_eq!(without_root_id(version_3), version_2);
        assert_eq!(without_root_id(version_2.clone()), version_2);
    }
}
