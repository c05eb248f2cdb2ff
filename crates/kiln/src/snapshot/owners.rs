//! Owners that neither the disk nor an attribute can show, in a file beside the layer.
//!
//! A user with one id cannot give a symbolic link or a pipe away, and these take no attributes. Without the file a
//! COPY out of such a layer would give another layer than the same COPY of root. One record for each:
//! `UID:GID PATH`, ended by a zero byte. A file without records says that owners are recorded in attributes of the layer:
//! a sandbox need not look for them where there is none.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kiln_oci::layer::EntryPath;
use rustix::fs::XattrFlags;

use super::Owner;
use super::attributes::{OWNER, format_owner, parse_owner};
use super::error::{Error, Result};

fn beside(layer: &Path) -> PathBuf {
    layer.with_file_name("owners")
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { action, path: path.to_owned(), source }
}

/// Writes the owners of the layer directory `layer`; nothing if there are none and none is `recorded` in attributes.
///
/// # Errors
/// When the file cannot be written.
pub fn write_owners(layer: &Path, owners: &BTreeMap<EntryPath, Owner>, recorded: bool) -> Result<()> {
    if owners.is_empty() && !recorded {
        return Ok(());
    }
    let mut bytes = Vec::new();
    for (path, owner) in owners {
        bytes.extend_from_slice(format_owner(*owner).as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(path.as_bytes());
        bytes.push(0);
    }
    let path = beside(layer);
    fs::write(&path, bytes).map_err(|e| failed("write", &path, e))
}

/// Records the owner of a file or directory that the disk cannot show, on it.
///
/// # Errors
/// When it takes no attribute.
pub fn record_owner(path: &Path, owner: Owner) -> Result<()> {
    let set = rustix::fs::setxattr(path, OWNER, format_owner(owner).as_bytes(), XattrFlags::empty());
    set.map_err(|e| failed("record the owner of", path, e.into()))
}

/// Tells whether owners of the layer directory `layer` are recorded, beside it or in attributes.
#[must_use]
pub fn has_records(layer: &Path) -> bool {
    beside(layer).exists()
}

/// Reads the owners of the layer directory `layer`.
///
/// # Errors
/// When the file cannot be read, or is none that [`write_owners`] wrote.
pub fn read_owners(layer: &Path) -> Result<BTreeMap<EntryPath, Owner>> {
    let path = beside(layer);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(failed("read", &path, e)),
    };
    let record = |bytes: &[u8]| {
        let space = bytes.iter().position(|b| *b == b' ')?;
        let owner = parse_owner(bytes.get(..space)?)?;
        Some((EntryPath::new(bytes.get(space + 1..)?).ok()?, owner))
    };
    let records = bytes.split(|b| *b == 0).filter(|r| !r.is_empty());
    let all: Option<BTreeMap<_, _>> = records.map(record).collect();
    all.ok_or_else(|| failed("read", &path, io::Error::from(io::ErrorKind::InvalidData)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_come_back() {
        let dir = std::env::temp_dir().join(format!("kiln-owners-{}", std::process::id()));
        let layer = dir.join("fs");
        fs::create_dir_all(&layer).unwrap();
        assert_eq!(read_owners(&layer).unwrap(), BTreeMap::new());
        let owner = |uid, gid| Owner { uid, gid };
        let path = |name: &[u8]| EntryPath::new(name).unwrap();
        let owners =
            BTreeMap::from([(path(b"a b/c"), owner(33, 50)), (path(b"\xff\n"), owner(0, u32::MAX - 1))]);
        write_owners(&layer, &BTreeMap::new(), false).unwrap();
        assert!(!has_records(&layer));
        write_owners(&layer, &BTreeMap::new(), true).unwrap();
        assert!(has_records(&layer) && read_owners(&layer).unwrap().is_empty());
        write_owners(&layer, &owners, false).unwrap();
        assert_eq!(read_owners(&layer).unwrap(), owners);
        fs::write(dir.join("owners"), "nonsense\0").unwrap();
        assert!(read_owners(&layer).is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
