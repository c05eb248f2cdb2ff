//! Everything that kiln keeps on this machine: blobs, unpacked layers, cache records, images.
//!
//! ```text
//! STORE/
//!   oci-layout  index.json         an OCI image layout: `index.json` names the images of `kiln images`
//!   blobs/sha256/HEX               layers, configs, manifests
//!   snapshots/SCHEME/ID/fs         one unpacked layer each, ready to be an overlay lower directory
//!   records/KEY                    cache key -> layer
//!   inputs/KEY                     which files of contexts a step took, to explain later misses
//!   cache-mounts/SCHEME/KEY/       caches of `RUN --mount=type=cache`; KEY is the digest of what is in id.json
//!     id.json                      the id and what else tells one cache from another
//!     N/fs  N/lock                 0, and more when commands at the same time must not share; flock while in use
//!   history/                       what builds leave behind (see [`crate::history`]); not touched by `kiln prune`
//!   http/HASH.json                 what a URL gave, and by what its server knows that
//!   git/COMMIT-OPTIONS/tree        the files of one commit each
//!   contexts/HASH                  what the files of a context directory were when they were hashed (`contexts/`);
//!                                  HASH is that of its absolute path, links followed
//!   locks/NAME                     advisory locks (flock), so that any number of processes share a store
//!   tmp/NAME/                      work in progress of one process, NAME.lock held while it lives
//!   tmp/NAME/uses                  what that process uses
//!   spare/                         an empty directory, so that a full disk can be pruned
//! ```
//!
//! **Deletion.** Any process may delete at any time what no living process uses; [`leases`] says how they know. The time
//! of the last use is that of the file; of `boot` in a snapshot and a checkout; of `lock` in a cache mount. Snapshots,
//! checkouts and cache mounts have a file `size` beside it once somebody has counted ([`size`]).
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
mod contexts;
mod fsck;
mod growing;
mod images;
mod leases;
mod prune;
mod records;
mod remote;
mod size;
mod snapshots;
mod survey;
mod upload;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use blobs::BlobReader;
pub use cache_mounts::{CacheIdentity, Claim, Sharing, StoredCache};
pub(crate) use contexts::{ContextIndex, Evidence, Known, Stamp, Visit, system_clock};
pub use fsck::{Checked, Fault, FaultKind, Fsck, Repair, State};
pub use growing::{BlobWriter, Growing, GrowingReader};
pub(crate) use images::REF_NAME;
pub use images::StoredImage;
use leases::Leases;
pub use prune::{PruneOptions, Pruned};
pub use records::{Packed, Record};
pub use snapshots::PendingSnapshot;
pub use survey::{Amount, Entry, EntryKind, Survey};
pub(crate) use upload::{Bytes, StoredBlob};

use crate::error::{Error, FileContext as _, Result};

/// Version of the layout above; a store of another version is refused, never guessed at.
const FORMAT: &str = "kiln store 2\n";

/// Folders with files as images have them. Among them are programs that run as their owner, and under root that is the
/// machine's root, devices, and files that everybody may write to: nobody else may come near them.
const PRIVATE: [&str; 4] = ["snapshots", "git", "cache-mounts", "tmp"];

/// kiln's store on this machine; cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    leases: Leases,
    boot: String,
    next: AtomicU64,
}

impl Store {
    /// Opens the store at `root`, making it if it does not exist.
    ///
    /// # Errors
    /// When the directory cannot be written, or holds a store of another version.
    pub fn open(root: &Path) -> Result<Self> {
        let elsewhere =
            |e: Error| e.hint("name another directory with `--store DIR` or the variable KILN_STORE");
        for folder in ["blobs/sha256", "records", "inputs", "http", "contexts", "locks"] {
            let path = root.join(folder);
            fs::create_dir_all(&path).on("create", &path).map_err(elsewhere)?;
        }
        for folder in PRIVATE {
            let path = root.join(folder);
            fs::create_dir_all(&path).and_then(|()| close(&path)).on("create", &path).map_err(elsewhere)?;
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
        let boot =
            fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let inner = Inner {
            root: root.to_owned(),
            leases: Leases::open(root).map_err(elsewhere)?,
            boot,
            next: AtomicU64::new(0),
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
        self.inner.leases.dir().join(self.inner.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Waits for the lock called `name` and holds it until the guard is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<File> {
        leases::wait_for(&self.inner.root.join("locks").join(name))
    }

    /// Returns where the entry `name` of `folder` lies or would lie. From here on nobody deletes it while this process
    /// lives, and it counts as used now.
    ///
    /// Whoever wants a path of an entry gets it here, so that nobody can forget to say that he uses it.
    ///
    /// # Errors
    /// When it cannot be noted, mostly because the disk is full.
    pub(crate) fn using(&self, folder: &str, name: &str) -> Result<PathBuf> {
        let entry = format!("{folder}/{name}");
        let path = self.inner.root.join(&entry);
        if self.inner.leases.take(&entry)? {
            touch(&path);
        }
        Ok(path)
    }

    /// Gives the entry `name` of `folder` its name and content, which lie at `from`; it is used, as by [`Store::using`].
    pub(crate) fn publish(&self, from: &Path, folder: &str, name: &str) -> Result<()> {
        let entry = format!("{folder}/{name}");
        let path = self.inner.root.join(&entry);
        self.inner.leases.take_with(&entry, || fs::rename(from, &path).on("rename", from))
    }

    /// Takes the lock called `name` if nobody has it. Its file goes when it is given up, so that names may be many.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn try_lock(&self, name: &str) -> Result<Option<StepLock>> {
        let path = self.inner.root.join("locks").join(name);
        Ok(leases::try_for(&path)?.map(|file| StepLock { path, _file: file }))
    }

    /// Writes a small file under a temporary name and renames it to `path`.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let tmp = self.tmp_path();
        fs::write(&tmp, bytes).on("write", &tmp)?;
        self.inner.leases.shared(|| fs::rename(&tmp, path).on("rename", path))
    }

    /// Tells whether a directory was made since the machine started, and if so, that it is used.
    fn is_trusted(&self, dir: &Path) -> bool {
        let mark = dir.join(BOOT);
        let trusted = fs::read_to_string(&mark).is_ok_and(|boot| boot == self.inner.boot);
        if trusted {
            // The mark has the time of the last use: that of the directory changes with its size file.
            touch(&mark);
        }
        trusted
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

/// The file in a directory of the store that says during which boot of the machine it was made.
const BOOT: &str = "boot";

/// Sets the time of the last use. Only the order of deletion depends on it, so a failure is none.
fn touch(path: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    // Both times, and both the present one, is what somebody may set who may write and is not the owner.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let _ = utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty());
}

/// Lets nobody but its owner into a directory.
fn close(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(dir)?.permissions().mode();
    match mode & 0o077 {
        0 => Ok(()),
        _ => match fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o7700)) {
            // Somebody else's: whoever it belongs to closes it.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
            done => done,
        },
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let tmp = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&tmp, bytes).on("write", &tmp)?;
    fs::rename(&tmp, path).on("rename", path)
}

#[cfg(test)]
mod tests;
