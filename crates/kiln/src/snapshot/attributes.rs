//! Attributes of a file of a layer directory, as the image sees them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp};
use rustix::fs::{self, AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::error::{Error, Result, Trying as _};
use super::{Ids, Owner};

/// Marks a directory that hides the same directory of the layers below.
pub(super) const OPAQUE: &str = "user.overlay.opaque";
/// Records an owner that the disk cannot show.
pub(super) const OWNER: &str = "user.kiln.owner";
/// Records a device that this process must not create.
pub(super) const DEVICE: &str = "user.kiln.device";
/// File capabilities.
const CAPABILITY: &str = "security.capability";

/// Tells names of one file from names of different files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Device of the file system.
    pub device: u64,
    /// Number of the file there.
    pub inode: u64,
    /// How many names the file has.
    pub links: u64,
}

impl Identity {
    #[allow(clippy::useless_conversion, reason = "the count of links is narrower on some machines")]
    pub(super) fn of(stat: &Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, links: u64::from(stat.st_nlink) }
    }
}

/// Returns what stands at `name` in `dir`, without following a link.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<Option<Stat>> {
    match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Tells whether this hides a name of the layers below.
///
/// A socket does, too: no layer can have one, so where a command made one there is nothing, and [`make_whiteout`] can.
pub(super) fn is_whiteout(stat: &Stat) -> bool {
    match file_type(stat) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        kind => kind == FileType::Socket,
    }
}

/// Makes `name` hide what the layers below have there.
///
/// A file system that is itself an overlay refuses the device that would mark a removal in it. Layers on such a one are
/// never mounted, and a socket can be made everywhere.
pub(super) fn make_whiteout(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match fs::mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Err(Errno::PERM) => fs::mknodat(dir, name, FileType::Socket, Mode::empty(), 0),
        made => made,
    }
}

/// Tells whether the directory hides what the layers below have in it.
pub(super) fn is_opaque(dir: BorrowedFd<'_>, name: &Path) -> rustix::io::Result<bool> {
    let mut value = [0; 1];
    match fs::lgetxattr(through_proc(dir, name), OPAQUE, &mut value) {
        Ok(size) => Ok(size == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Returns a path that names a file by the directory it is in: extended attributes of links and devices can
/// be reached only by path, and the path of the layer may be long, or gone.
pub(super) fn through_proc(dir: BorrowedFd<'_>, name: &Path) -> PathBuf {
    let mut path = String::with_capacity(32);
    // Writing to a string cannot fail.
    write!(path, "/proc/self/fd/{}/.", dir.as_raw_fd()).unwrap_or_default();
    Path::new(&path).join(name)
}

/// Returns the entry at `name` in `dir`, which is called `path` in the image; `None` for a socket.
pub(super) fn entry(
    dir: BorrowedFd<'_>,
    name: &Path,
    path: EntryPath,
    stat: &Stat,
    ids: &dyn Ids,
) -> Result<Option<Entry>> {
    let mut xattrs = xattrs(&through_proc(dir, name)).trying("read the attributes of", &path)?;
    let recorded = xattrs.remove(OWNER).and_then(|v| parse_owner(&v));
    let device = xattrs.remove(DEVICE).and_then(|v| parse_device(&v));
    xattrs.retain(|key, _| !is_private(key));
    if let Some(value) = xattrs.get_mut(CAPABILITY) {
        without_namespace(value);
    }
    let disk = Owner { uid: stat.st_uid, gid: stat.st_gid };
    let owner = recorded.or_else(|| ids.to_container(disk)).ok_or_else(|| Error::Owner {
        path: path.clone(),
        uid: disk.uid,
        gid: disk.gid,
    })?;
    let (major, minor) = (fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    let kind = match (file_type(stat), device) {
        (FileType::RegularFile, Some(device)) => device,
        (FileType::RegularFile, None) => Kind::File { size: u64::try_from(stat.st_size).unwrap_or(0) },
        (FileType::Directory, _) => Kind::Directory,
        (FileType::Symlink, _) => {
            let target = fs::readlinkat(dir, name, Vec::new()).trying("read the link", &path)?;
            Kind::Symlink { target: target.into_bytes() }
        }
        (FileType::CharacterDevice, _) => Kind::CharDevice { major, minor },
        (FileType::BlockDevice, _) => Kind::BlockDevice { major, minor },
        (FileType::Fifo, _) => Kind::Fifo,
        _ => return Ok(None),
    };
    Ok(Some(Entry {
        path,
        kind,
        mode: stat.st_mode & 0o7777,
        uid: owner.uid,
        gid: owner.gid,
        mtime: Timestamp { secs: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) },
        xattrs,
    }))
}

/// Tells whether an attribute belongs to this room rather than to the image.
pub(super) fn is_private(key: &str) -> bool {
    ["user.overlay.", "trusted.overlay.", "user.kiln."].iter().any(|prefix| key.starts_with(prefix))
}

/// Returns all extended attributes of what is at `path`, without following a link there.
pub(super) fn xattrs(path: &Path) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    all_xattrs(|buffer| fs::llistxattr(path, buffer), |name, buffer| fs::lgetxattr(path, name, buffer))
}

/// Returns all extended attributes of an open file.
pub(super) fn xattrs_of(file: BorrowedFd<'_>) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    all_xattrs(|buffer| fs::flistxattr(file, buffer), |name, buffer| fs::fgetxattr(file, name, buffer))
}

fn all_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&str, &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut out = BTreeMap::new();
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(out),
        Err(e) => return Err(e),
    };
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // The name of an attribute is text wherever it matters, and a layer can hold no other.
        let Ok(name) = std::str::from_utf8(name) else { continue };
        // Labels belong to the policy of this machine, not to the image.
        if name == "security.selinux" {
            continue;
        }
        match read_growing(|buffer| get(name, buffer)) {
            Ok(value) => {
                out.insert(name.to_owned(), value);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(out)
}

fn read_growing(read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(size) => return Ok(small.get(..size).unwrap_or_default().to_vec()),
        Err(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    // No attribute, and no list of names, is larger than this on Linux.
    let mut large = vec![0; 64 * 1024];
    let size = read(&mut large)?;
    large.truncate(size);
    Ok(large)
}

pub(super) fn format_owner(owner: Owner) -> String {
    format!("{}:{}", owner.uid, owner.gid)
}

pub(super) fn parse_owner(value: &[u8]) -> Option<Owner> {
    let (uid, gid) = std::str::from_utf8(value).ok()?.split_once(':')?;
    Some(Owner { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
}

pub(super) fn format_device(block: bool, major: u32, minor: u32) -> String {
    format!("{}:{major}:{minor}", if block { 'b' } else { 'c' })
}

fn parse_device(value: &[u8]) -> Option<Kind> {
    let mut parts = std::str::from_utf8(value).ok()?.splitn(3, ':');
    let (kind, major, minor) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    match kind {
        "c" => Some(Kind::CharDevice { major, minor }),
        "b" => Some(Kind::BlockDevice { major, minor }),
        _ => None,
    }
}

/// Turns file capabilities of revision 3, which belong to one user namespace, into those of revision 2.
///
/// ```text
/// revision 3 (24 bytes)  magic 0x03000000 | flags, permitted, inheritable, permitted, inheritable, root id
/// revision 2 (20 bytes)  magic 0x02000000 | flags, permitted, inheritable, permitted, inheritable
/// ```
fn without_namespace(value: &mut Vec<u8>) {
    if value.len() == 24 && value.get(3) == Some(&3) {
        value.truncate(20);
        if let Some(revision) = value.get_mut(3) {
            *revision = 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_owners_and_devices_come_back() {
        assert_eq!(
            parse_owner(format_owner(Owner { uid: 7, gid: 4_000_000_000 }).as_bytes()),
            Some(Owner { uid: 7, gid: 4_000_000_000 })
        );
        assert_eq!(
            parse_device(format_device(true, 8, 1).as_bytes()),
            Some(Kind::BlockDevice { major: 8, minor: 1 })
        );
        for bad in ["", "1", "x:1", "1:-1"] {
            assert_eq!(parse_owner(bad.as_bytes()), None);
            assert_eq!(parse_device(bad.as_bytes()), None);
        }
    }

    #[test]
    fn capabilities_lose_their_namespace() {
        let mut value = [&[1, 0, 0, 3][..], &[9; 16], &[0xe8, 3, 0, 0]].concat();
        without_namespace(&mut value);
        assert_eq!(value, [&[1, 0, 0, 2][..], &[9; 16]].concat());
    }
}
