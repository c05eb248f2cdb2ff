//! How an owner or a device that the disk cannot show is written down.
//!
//! ```text
//! user.kiln.owner  = "UID:GID"           on a file or directory
//! user.kiln.device = "c:MAJOR:MINOR"     on an empty file, `b` for a block device
//! owners           = "UID:GID PATH\0"…   a file beside a layer's directory, for links, pipes and sockets
//! ```
//!
//! Unpacker and differ of layers use the same words. An `owners` file, even an empty one, says that the layer has records at all.

use std::path::{Path, PathBuf};

/// The attribute of an owner.
pub(crate) const OWNER: &str = "user.kiln.owner";
/// The attribute of a device.
pub(crate) const DEVICE: &str = "user.kiln.device";
/// What names of attributes begin with that a command neither sees nor sets.
pub(crate) const PRIVATE: &[u8] = b"user.kiln.";
/// No record of an owner is longer: two numbers of ten digits.
pub(crate) const LONGEST: usize = 24;

/// A user and a group of the container, or of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };

    /// Reads `UID:GID`.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let (uid, gid) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }

    /// Writes `UID:GID`.
    pub(crate) fn format(self) -> String {
        format!("{}:{}", self.uid, self.gid)
    }
}

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) block: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Device {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = std::str::from_utf8(text).ok()?.splitn(3, ':');
        let block = match parts.next()? {
            "c" => false,
            "b" => true,
            _ => return None,
        };
        Some(Self { block, major: parts.next()?.parse().ok()?, minor: parts.next()?.parse().ok()? })
    }

    pub(crate) fn format(self) -> String {
        format!("{}:{}:{}", if self.block { 'b' } else { 'c' }, self.major, self.minor)
    }
}

/// What is beside a layer.
#[derive(Debug, Clone)]
pub(crate) struct LayerOwners {
    /// The layer's directory.
    pub(crate) dir: PathBuf,
    /// Paths in it and their owners.
    pub(crate) owners: Vec<(Vec<u8>, Owner)>,
}

/// Something mounted whose owner the disk cannot show.
#[derive(Debug, Clone)]
pub(crate) struct OwnedMount {
    /// Path inside the root.
    pub(crate) target: Vec<u8>,
    pub(crate) owner: Owner,
}

/// Returns where the owners of a layer directory are.
pub(crate) fn beside(layer: &Path) -> PathBuf {
    layer.with_file_name("owners")
}

/// Reads an `owners` file; what is not in its form is left out, as the layer may come from a later kiln.
pub(crate) fn parse_owners(bytes: &[u8]) -> Vec<(Vec<u8>, Owner)> {
    let record = |bytes: &[u8]| {
        let space = bytes.iter().position(|&byte| byte == b' ')?;
        Some((bytes.get(space + 1..)?.to_vec(), Owner::parse(bytes.get(..space)?)?))
    };
    bytes.split(|&byte| byte == 0).filter_map(record).collect()
}

/// Writes an `owners` file.
pub(crate) fn format_owners(owners: &[(Vec<u8>, Owner)]) -> Vec<u8> {
    let record =
        |(path, owner): &(Vec<u8>, Owner)| [owner.format().as_bytes(), b" ", path.as_slice(), b"\0"].concat();
    owners.iter().flat_map(record).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let owner = Owner { uid: 7, gid: 4_000_000_000 };
        assert_eq!(Owner::parse(owner.format().as_bytes()), Some(owner));
        let device = Device { block: true, major: 8, minor: 1 };
        assert_eq!(Device::parse(device.format().as_bytes()), Some(device));
        assert_eq!(device.format(), "b:8:1");
        let owners = vec![(b"a b/c".to_vec(), owner), (b"\xff\n".to_vec(), Owner::ROOT)];
        assert_eq!(parse_owners(&format_owners(&owners)), owners);
        assert!(Owner { uid: u32::MAX, gid: u32::MAX }.format().len() <= LONGEST);
        for bad in ["", "1", "x:1", "1:-1"] {
            assert_eq!((Owner::parse(bad.as_bytes()), Device::parse(bad.as_bytes())), (None, None));
        }
    }
}
