//! Deleting what is not needed.

use std::collections::BTreeSet;
use std::fs::{self, TryLockError};
use std::path::Path;
use std::time::{Duration, SystemTime};

use kiln_oci::Digest;

use crate::error::{Error, FileContext as _, Result};
use crate::store::{Store, open_lock};

/// What to delete.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Images too, not only the cache.
    pub images: bool,
    /// Only what was not changed for so long.
    pub older_than: Option<Duration>,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Files and directories.
    pub entries: u64,
    /// Bytes freed on disk.
    pub bytes: u64,
}

impl Store {
    /// Deletes the cache under `root`, and the images if asked; never what an image needs, never while a build runs.
    ///
    /// # Errors
    /// When a build is using the store, or something cannot be deleted.
    pub fn prune(root: &Path, options: PruneOptions) -> Result<Pruned> {
        let lock_path = root.join("locks/store");
        if !lock_path.exists() {
            return Ok(Pruned::default());
        }
        let lock = open_lock(&lock_path)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::environment(format!(
                    "cannot prune `{}`: a build is using it",
                    root.display()
                ))
                .hint("wait until it has ended"));
            }
            Err(TryLockError::Error(e)) => return Err(e).on("lock", &lock_path),
        }
        // The exclusive lock is given up for the shared one of `open` only after the deletion.
        let keep = if options.images { BTreeSet::new() } else { reachable(root)? };
        let mut pruned = Pruned::default();
        let old_enough = |meta: &fs::Metadata| {
            options.older_than.is_none_or(|age| {
                meta.modified().is_ok_and(|t| SystemTime::now().duration_since(t).unwrap_or_default() >= age)
            })
        };
        if options.images {
            let _ = fs::remove_file(root.join("index.json"));
        }
        for folder in ["blobs/sha256", "records", "http", "git", "tmp"] {
            for (path, meta) in list(&root.join(folder))? {
                let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                if (folder == "blobs/sha256" && keep.contains(&name)) || !old_enough(&meta) {
                    continue;
                }
                pruned.remove(&path)?;
            }
        }
        for (scheme, _) in list(&root.join("snapshots"))? {
            for (path, meta) in list(&scheme)? {
                if old_enough(&meta) {
                    pruned.remove(&path)?;
                }
            }
        }
        // With the store to itself, nothing of this is in use.
        for (dir, used) in super::cache_mounts::dirs(root)? {
            if old_enough(&used) {
                pruned.remove(&dir)?;
            }
        }
        super::cache_mounts::remove_empty(root)?;
        drop(lock);
        Ok(pruned)
    }
}

impl Pruned {
    fn remove(&mut self, path: &Path) -> Result<()> {
        self.bytes += disk_use(path);
        self.entries += 1;
        kiln_sandbox::remove_tree(path).on("remove", path)
    }
}

/// Returns the digests that the images of the store need.
fn reachable(root: &Path) -> Result<BTreeSet<String>> {
    let mut keep = BTreeSet::new();
    let read = |digest: &Digest| fs::read(root.join("blobs/sha256").join(digest.hex())).ok();
    let Ok(bytes) = fs::read(root.join("index.json")) else { return Ok(keep) };
    let index: kiln_oci::Index = serde_json::from_slice(&bytes)
        .map_err(|e| Error::environment(format!("`{}/index.json` is damaged", root.display())).because(e))?;
    let mut todo: Vec<_> = index.manifests.iter().map(|d| (d.digest.clone(), d.media_type.clone())).collect();
    while let Some((digest, media_type)) = todo.pop() {
        if !keep.insert(digest.hex().to_owned()) {
            continue;
        }
        let Some(document) = read(&digest).and_then(|b| kiln_oci::Document::parse(b, Some(&media_type)).ok())
        else {
            continue;
        };
        if let Some(index) = document.index() {
            todo.extend(index.manifests.iter().map(|d| (d.digest.clone(), d.media_type.clone())));
        }
        if let Some(manifest) = document.manifest() {
            keep.insert(manifest.config.digest.hex().to_owned());
            keep.extend(manifest.layers.iter().map(|l| l.digest.hex().to_owned()));
        }
    }
    Ok(keep)
}

pub(super) fn list(dir: &Path) -> Result<Vec<(std::path::PathBuf, fs::Metadata)>> {
    let mut out = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(out),
        Err(e) => return Err(e).on("list", dir),
    };
    for entry in entries {
        let entry = entry.on("list", dir)?;
        let path = entry.path();
        let meta = entry.metadata().on("stat", &path)?;
        out.push((path, meta));
    }
    out.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(out)
}

pub(super) fn disk_use(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let mut bytes = meta.blocks() * 512;
    if meta.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        bytes += entries.map(|e| disk_use(&e.path())).sum::<u64>();
    }
    bytes
}
