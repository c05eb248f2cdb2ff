//! Bytes on disk: of blocks, as `du` counts them, because that is what a disk runs out of.
//!
//! A snapshot of a hundred thousand files takes a moment to count and never changes, so the sum is kept beside it, in a
//! file `size` of its folder. A cache mount changes while a command has it, and at no other time: its sum is kept with
//! the time of the use that it was counted after, and holds until the next.

use std::collections::BTreeSet;
use std::fs::{self, Metadata};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{FileContext as _, Result};
use crate::store::Store;

/// The sum in a folder of the store: bytes, then the last use in nanoseconds since 1970 for what can change.
const SIZE: &str = "size";
/// `stat` counts in these, whatever the file system's blocks are.
const BLOCK: u64 = 512;

/// Returns what lies in a directory, by name; one that does not exist is empty.
pub(super) fn list(dir: &Path) -> Result<Vec<(PathBuf, Metadata)>> {
    let mut out = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(e).on("list", dir),
    };
    for entry in entries {
        let entry = entry.on("list", dir)?;
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) => out.push((path, meta)),
            // Somebody deleted it meanwhile.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).on("stat", &path),
        }
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

/// Returns the bytes of a file or directory itself, without what is in it.
pub(super) fn own_blocks(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| blocks(&meta))
}

pub(super) fn blocks(meta: &Metadata) -> u64 {
    meta.blocks() * BLOCK
}

/// Returns the bytes of a file, or of a directory with everything below it; what cannot be read counts nothing.
pub(super) fn disk_use(path: &Path) -> u64 {
    fn add(path: &Path, meta: &Metadata, linked: &mut BTreeSet<(u64, u64)>) -> u64 {
        if !meta.is_dir() {
            // A file of several names is there once.
            let again = meta.nlink() > 1 && !linked.insert((meta.dev(), meta.ino()));
            return if again { 0 } else { blocks(meta) };
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let below = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
        blocks(meta) + below.map(|(path, meta)| add(&path, &meta, linked)).sum::<u64>()
    }
    fs::symlink_metadata(path).map_or(0, |meta| add(path, &meta, &mut BTreeSet::new()))
}

impl Store {
    /// Returns the bytes of a folder of the store that does not change, or not until it is used after `used`.
    pub(super) fn remembered_size(&self, dir: &Path, used: Option<SystemTime>) -> u64 {
        let stamp = used.map(stamp).unwrap_or_default();
        let known = fs::read_to_string(dir.join(SIZE)).unwrap_or_default();
        let mut words = known.split_whitespace().map(str::parse::<u128>);
        if let (Some(Ok(size)), Some(Ok(since))) = (words.next(), words.next())
            && since == stamp
        {
            return u64::try_from(size).unwrap_or(u64::MAX);
        }
        let _ = fs::remove_file(dir.join(SIZE));
        let tmp = self.tmp_path();
        let counted = || -> std::io::Result<u64> {
            let mut file = fs::File::create_new(&tmp)?;
            // As long as the final text, so that the file counts itself.
            file.write_all(&text(0, 0))?;
            let size = disk_use(dir) + blocks(&file.metadata()?);
            fs::write(&tmp, text(size, stamp))?;
            fs::rename(&tmp, dir.join(SIZE))?;
            Ok(size)
        };
        // Where nothing can be written, it is counted each time.
        counted().unwrap_or_else(|_| {
            let _ = fs::remove_file(&tmp);
            disk_use(dir)
        })
    }
}

fn text(size: u64, stamp: u128) -> Vec<u8> {
    format!("{size:020} {stamp:039}\n").into_bytes()
}

fn stamp(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once_and_a_sum_is_kept_until_the_next_use() {
        let root = std::env::temp_dir().join(format!("kiln-size-{}", std::process::id()));
        let store = Store::open(&root).unwrap();
        let dir = root.join("snapshots/x/1");
        fs::create_dir_all(dir.join("fs")).unwrap();
        fs::write(dir.join("fs/a"), vec![1; 100_000]).unwrap();
        let once = disk_use(&dir);
        fs::hard_link(dir.join("fs/a"), dir.join("fs/b")).unwrap();
        assert_eq!(disk_use(&dir), once);
        let first = store.remembered_size(&dir, None);
        assert_eq!(first, disk_use(&dir), "the file with the sum counts itself");
        fs::write(dir.join("fs/c"), vec![1; 100_000]).unwrap();
        assert_eq!(store.remembered_size(&dir, None), first);
        let later = store.remembered_size(&dir, Some(UNIX_EPOCH + std::time::Duration::from_secs(1)));
        assert!(later >= first + 100_000 && later == disk_use(&dir), "{later}");
        drop(store);
        fs::remove_dir_all(root).unwrap();
    }
}
