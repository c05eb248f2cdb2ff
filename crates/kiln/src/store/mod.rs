//! Everything that kiln keeps on this machine: blobs, unpacked layers, cache records, images.
//!
//! ```text
//! STORE/
//!   oci-layout  index.json         an OCI image layout: `index.json` names the images of `kiln images`
//!   blobs/sha256/HEX               layers, configs, manifests
//!   snapshots/SCHEME/ID/fs         one unpacked layer each, ready to be an overlay lower directory
//!   records/KEY.json               cache key -> layer
//!   cache-mounts/SCHEME/KEY/       caches of `RUN --mount=type=cache`; KEY is the digest of what is in id.json
//!     id.json                      the id and what else tells one cache from another
//!     N/fs  N/lock                 0, and more when commands at the same time must not share; flock while in use
//!   http/HASH.json                 what a URL gave, and by what its server knows that
//!   git/COMMIT-OPTIONS/tree        the files of one commit each
//!   locks/NAME                     advisory locks (flock), so that any number of processes share a store
//!   tmp/NAME/                      work in progress of one process, NAME.lock held while it lives
//! ```
//!
//! **Crash safety.** Whatever appears under its final name was written under `tmp` and renamed. Blobs, records
//! and snapshots are not synced one by one: each can be made again. A blob is checked against its digest
//! whenever it is read, so a torn one is a miss. A snapshot cannot be checked cheaply; it carries the boot id of
//! the machine at its making and is not trusted after a reboot, because a power cut may have torn it.
//! `index.json` is synced before it is renamed. What leaves the store under a user's name (`export`) is synced.
//!
//! `SCHEME` says how owners are kept on disk (see [`crate::snapshot`]): a store shared by a build as root
//! and one in a user namespace keeps two sets of snapshots, never one with wrong owners.

mod blobs;
mod cache_mounts;
mod growing;
mod images;
mod prune;
mod records;
mod remote;
mod snapshots;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use blobs::BlobReader;
pub use cache_mounts::{CacheIdentity, Claim, Sharing, StoredCache};
pub use growing::{BlobWriter, Growing, GrowingReader};
pub(crate) use images::REF_NAME;
pub use images::StoredImage;
pub use prune::{PruneOptions, Pruned};
pub use records::{Packed, Record};
pub use snapshots::PendingSnapshot;

use crate::error::{Error, FileContext as _, Result};

/// Version of the layout above; a store of another version is refused, never guessed at.
const FORMAT: &str = "kiln store 1\n";

/// kiln's store on this machine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// This process's folder under `tmp`.
    tmp: PathBuf,
    boot: String,
    next: AtomicU64,
    /// Shared lock: `kiln prune` takes it exclusively, so nothing is deleted under a running build.
    _in_use: File,
    _tmp_lock: File,
}

impl Store {
    /// Opens the store at `root`, making it if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be written, or holds a store of another version.
    pub fn open(root: &Path) -> Result<Self> {
        for folder in ["blobs/sha256", "snapshots", "records", "http", "git", "locks", "tmp"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).on("create", &path).map_err(|e| {
                e.hint("name another directory with `--store DIR` or the variable KILN_STORE")
            })?;
        }
        let format = root.join("format");
        match fs::read_to_string(&format) {
            Ok(found) if found == FORMAT => {}
            Ok(found) => {
                return Err(Error::environment(format!(
                    "`{}` holds a store of another version: `{}`, expected `{}`",
                    root.display(),
                    found.trim(),
                    FORMAT.trim()
                ))
                .hint("name another directory with `--store DIR`, or delete this one"));
            }
            Err(_) => write_file(&format, FORMAT.as_bytes())?,
        }
        let layout = root.join("oci-layout");
        if !layout.exists() {
            write_file(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        let in_use = open_lock(&root.join("locks/store"))?;
        in_use.lock_shared().on("lock", &root.join("locks/store"))?;
        let (tmp, tmp_lock) = own_tmp(&root.join("tmp"))?;
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let inner = Inner {
            root: root.to_owned(),
            tmp,
            boot,
            next: AtomicU64::new(0),
            _in_use: in_use,
            _tmp_lock: tmp_lock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns the directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Returns a path under this process's temporary folder that nothing else uses.
    #[must_use]
    pub fn tmp_path(&self) -> PathBuf {
        self.inner.tmp.join(self.inner.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Waits for the lock called `name` and holds it until the guard is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.inner.root.join("locks").join(name);
        let file = open_lock(&path)?;
        file.lock().on("lock", &path)?;
        Ok(file)
    }

    /// Takes the lock called `name` if nobody has it. Its file goes when it is given up, so that names may be many.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn try_lock(&self, name: &str) -> Result<Option<StepLock>> {
        use std::os::unix::fs::MetadataExt as _;
        let path = self.inner.root.join("locks").join(name);
        loop {
            let file = open_lock(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(e).on("lock", &path),
            }
            // Who had it before may have removed the file between opening and locking: then this is nobody's lock.
            let named = fs::metadata(&path).ok().map(|meta| meta.ino());
            if named == Some(file.metadata().on("stat", &path)?.ino()) {
                return Ok(Some(StepLock { path, _file: file }));
            }
        }
    }

    /// Writes a small file under a temporary name and renames it to `path`.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let tmp = self.tmp_path();
        fs::write(&tmp, bytes).on("write", &tmp)?;
        fs::rename(&tmp, path).on("rename", path)
    }
}

/// A lock whose file is removed when it is dropped.
#[derive(Debug)]
pub struct StepLock {
    path: PathBuf,
    _file: File,
}

impl Drop for StepLock {
    fn drop(&mut self) {
        // While it is held: whoever opens the name later makes a new file.
        let _ = fs::remove_file(&self.path);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next process that opens the store.
        let _ = kiln_sandbox::remove_tree(&self.tmp);
        let _ = fs::remove_file(self.tmp.with_extension("lock"));
    }
}

fn open_lock(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).on("open", path)
}

/// Makes this process's folder under `tmp`, and removes the folders of processes that are gone.
fn own_tmp(parent: &Path) -> Result<(PathBuf, File)> {
    let entries = fs::read_dir(parent).on("list", parent)?;
    for entry in entries.flatten() {
        let lock = entry.path();
        if lock.extension().is_none_or(|e| e != "lock") {
            continue;
        }
        let Ok(file) = File::options().write(true).open(&lock) else { continue };
        if file.try_lock().is_ok() {
            let _ = kiln_sandbox::remove_tree(&lock.with_extension(""));
            let _ = fs::remove_file(&lock);
        }
    }
    for attempt in 0..1000_u32 {
        let name = format!("{}-{attempt}", std::process::id());
        let (dir, lock) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let Ok(file) = File::options().create_new(true).write(true).open(&lock) else { continue };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(e).on("lock", &lock),
        }
        let _ = kiln_sandbox::remove_tree(&dir);
        fs::create_dir(&dir).on("create", &dir)?;
        return Ok((dir, file));
    }
    Err(Error::environment(format!("no free name for a temporary folder in `{}`", parent.display())))
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&tmp, bytes).on("write", &tmp)?;
    fs::rename(&tmp, path).on("rename", path)
}

#[cfg(test)]
mod tests;
