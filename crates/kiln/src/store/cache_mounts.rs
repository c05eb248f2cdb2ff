//! Directories that commands keep from build to build: `RUN --mount=type=cache`.
//!
//! A cache is found by its [`CacheIdentity`], whose digest is its folder, so that an id may be any text. Whoever
//! uses one holds a lock on it until the command has ended: shared, so that others may use it too, or alone.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use kiln_oci::Digest;
use serde::{Deserialize, Serialize};

use super::Store;
use super::leases::open_lock;
use super::size::{self, list};
use crate::error::{Error, FileContext as _, Result};

/// The folder of the store.
const FOLDER: &str = "cache-mounts";
/// The description of a cache, beside its folders.
const IDENTITY: &str = "id.json";
/// The lock of a cache, whose time is that of the last use.
pub(super) const LOCK: &str = "lock";
/// How often a command that waits for a cache looks again, as in BuildKit.
const AGAIN: Duration = Duration::from_millis(100);

/// How commands share a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Any number at the same time.
    #[default]
    Shared,
    /// A second command gets a cache of its own.
    Private,
    /// A second command waits.
    Locked,
}

/// What tells one cache from another: the id, and what an empty one would look like.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheIdentity {
    /// The id as the Dockerfile has it.
    pub id: String,
    /// The namespace of the build; mostly empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Digest of what a new cache starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<Digest>,
    /// Mode of a new cache, where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner of a new cache, where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group of a new cache, where it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

impl CacheIdentity {
    /// Returns the name of the cache's folder.
    ///
    /// # Errors
    /// Never in practice: plain data can be written as JSON.
    pub fn key(&self) -> Result<String> {
        Ok(Digest::sha256(&self.json()?).hex().to_owned())
    }

    fn json(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|e| Error::internal("cannot write the name of a cache").because(e))
    }
}

/// A cache in the hands of one command; given back when dropped.
#[derive(Debug)]
pub struct Claim {
    dir: PathBuf,
    _lock: File,
}

impl Claim {
    /// Returns the directory to mount, made by `make` where the cache is new; it may move its result there.
    ///
    /// # Errors
    /// When `make` fails.
    pub fn fs(&self, store: &Store, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let dir = self.dir.join("fs");
        // Others may hold the same cache, so this needs a lock of its own.
        let _making = (!dir.exists()).then(|| store.lock(FOLDER)).transpose()?;
        if !dir.exists() {
            make(&dir)?;
        }
        Ok(dir)
    }

    /// Puts `content` in place of what the cache holds.
    ///
    /// # Errors
    /// When a directory cannot be moved.
    pub fn replace(&self, store: &Store, content: &Path) -> Result<()> {
        let dir = self.dir.join("fs");
        if dir.exists() {
            let old = store.tmp_path();
            fs::rename(&dir, &old).on("move", &dir)?;
        }
        fs::rename(content, &dir).on("move", content)
    }
}

/// A cache as it lies in the store.
#[derive(Debug, Clone)]
pub struct StoredCache {
    /// What it is called.
    pub identity: CacheIdentity,
    /// How its owners are kept on disk.
    pub scheme: String,
    /// The number that tells caches of one identity apart.
    pub number: u32,
    /// Its files.
    pub fs: PathBuf,
    /// When a command got it last.
    pub used: SystemTime,
}

impl StoredCache {
    /// Returns the bytes that it takes on disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        size::disk_use(&self.fs)
    }
}

impl Store {
    fn cache_dir(&self, scheme: &str, key: &str) -> PathBuf {
        self.root().join(FOLDER).join(scheme).join(key)
    }

    /// Takes a cache for a command; `wait` is called whenever it is not free, and may give up.
    ///
    /// # Errors
    /// When a file of the store cannot be made, or `wait` gives up.
    pub fn claim(
        &self,
        scheme: &str,
        identity: &CacheIdentity,
        sharing: Sharing,
        wait: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Claim> {
        let dir = self.cache_dir(scheme, &identity.key()?);
        let mut number: u32 = 0;
        loop {
            let slot = dir.join(number.to_string());
            if sharing == Sharing::Locked && number > 0 && !slot.exists() {
                wait()?;
                std::thread::sleep(AGAIN);
                number = 0;
                continue;
            }
            if let Some(claim) = self.take_slot(&slot, identity, sharing)? {
                return Ok(claim);
            }
            number += 1;
        }
    }

    /// Takes the first cache of this identity alone; `None` when a command is using it.
    ///
    /// # Errors
    /// When a file of the store cannot be made.
    pub fn claim_first(&self, scheme: &str, identity: &CacheIdentity) -> Result<Option<Claim>> {
        let dir = self.cache_dir(scheme, &identity.key()?);
        self.take_slot(&dir.join("0"), identity, Sharing::Private)
    }

    /// Takes the cache in `slot`, making it if it does not exist; `None` when somebody has it.
    ///
    /// Nobody can delete it between its making and its locking, nor after.
    fn take_slot(&self, slot: &Path, identity: &CacheIdentity, sharing: Sharing) -> Result<Option<Claim>> {
        let (json, tmp) = (identity.json()?, self.tmp_path());
        self.inner.leases.shared(|| {
            let name = slot.with_file_name(IDENTITY);
            // The name comes first: a build that is killed leaves no cache of nobody.
            if !name.exists() {
                let key = slot.parent().unwrap_or(slot);
                fs::create_dir_all(key).on("create", key)?;
                fs::write(&tmp, &json).on("write", &tmp)?;
                fs::rename(&tmp, &name).on("rename", &name)?;
            }
            fs::create_dir_all(slot).on("create", slot)?;
            take(slot, sharing)
        })
    }

    /// Returns the caches of the store, by id.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn cache_mounts(&self) -> Result<Vec<StoredCache>> {
        let mut found = Vec::new();
        for slot in slots(self.root())? {
            let fs = slot.dir.join("fs");
            let (Some(identity), Ok(number)) = (slot.identity, name_of(&slot.dir).parse()) else { continue };
            if !fs.exists() {
                continue;
            }
            let scheme = slot.dir.ancestors().nth(2).map(name_of).unwrap_or_default();
            found.push(StoredCache { identity, scheme, number, fs, used: slot.used });
        }
        found.sort_by(|a, b| (&a.identity, &a.scheme, a.number).cmp(&(&b.identity, &b.scheme, b.number)));
        Ok(found)
    }

    /// Takes a cache that exists, alone, so that it is read as a whole; `None` when a command is using it.
    ///
    /// # Errors
    /// When its lock cannot be opened.
    pub fn claim_stored(&self, cache: &StoredCache) -> Result<Option<Claim>> {
        let slot = cache.fs.parent().unwrap_or(Path::new("/"));
        let path = slot.join(LOCK);
        self.inner.leases.shared(|| {
            let lock = File::options().write(true).open(&path).on("open", &path)?;
            match lock.try_lock() {
                Ok(()) => Ok(Some(Claim { dir: slot.to_owned(), _lock: lock })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(e)) => Err(e).on("lock", &path),
            }
        })
    }
}

/// A cache mount's folder with the time of its last use.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) dir: PathBuf,
    /// What it belongs to; `None` when its description is damaged.
    pub(super) identity: Option<CacheIdentity>,
    pub(super) used: SystemTime,
}

/// Tells whether a command has the cache in `slot`. Only for who has the gate alone: for a moment nobody else could
/// have the cache, and a command that asked then would get another.
pub(super) fn is_busy(slot: &Path) -> bool {
    File::open(slot.join(LOCK)).is_ok_and(|lock| lock.try_lock().is_err())
}

/// Returns the folders of all caches.
pub(super) fn slots(root: &Path) -> Result<Vec<Slot>> {
    let mut found = Vec::new();
    for (scheme, _) in list(&root.join(FOLDER))? {
        for (key, _) in list(&scheme)? {
            let bytes = fs::read(key.join(IDENTITY)).unwrap_or_default();
            let identity: Option<CacheIdentity> = serde_json::from_slice(&bytes).ok();
            for (dir, meta) in list(&key)?.into_iter().filter(|(_, meta)| meta.is_dir()) {
                let used = fs::metadata(dir.join(LOCK)).and_then(|lock| lock.modified());
                let used = used.or_else(|_| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                found.push(Slot { dir, identity: identity.clone(), used });
            }
        }
    }
    Ok(found)
}

fn take(slot: &Path, sharing: Sharing) -> Result<Option<Claim>> {
    let path = slot.join(LOCK);
    let lock = open_lock(&path)?;
    let taken = match sharing {
        Sharing::Shared => lock.try_lock_shared(),
        Sharing::Private | Sharing::Locked => lock.try_lock(),
    };
    match taken {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(e).on("lock", &path),
    }
    // `kiln prune` goes by the last use; where times cannot be set, by the first.
    let _ = lock.set_modified(SystemTime::now());
    Ok(Some(Claim { dir: slot.to_owned(), _lock: lock }))
}

/// Removes the folders of caches of which nothing is left but the name; for who has the gate alone.
pub(super) fn remove_empty(root: &Path) -> Result<()> {
    for (scheme, _) in list(&root.join(FOLDER))? {
        for (key, _) in list(&scheme)? {
            if !list(&key)?.iter().any(|(_, meta)| meta.is_dir()) {
                kiln_sandbox::remove_tree(&key).on("remove", &key)?;
            }
        }
    }
    Ok(())
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
