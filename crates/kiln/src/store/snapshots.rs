//! Unpacked layers, one directory each.

use std::fs;
use std::path::PathBuf;

use crate::error::{FileContext as _, Result};
use crate::store::{BOOT, Store};

/// A layer directory in the making: `fs` fills, `work` is the overlay's scratch space.
///
/// Dropped without [`PendingSnapshot::commit`], it is removed.
#[derive(Debug)]
pub struct PendingSnapshot {
    store: Store,
    dir: PathBuf,
    committed: bool,
}

fn folder(scheme: &str) -> String {
    format!("snapshots/{scheme}")
}

impl Store {
    /// Returns the directory of an unpacked layer, if it is here and can be trusted; it stays then.
    #[must_use]
    pub fn snapshot(&self, scheme: &str, id: &str) -> Option<PathBuf> {
        let dir = self.using(&folder(scheme), id).ok()?;
        self.is_trusted(&dir).then(|| dir.join("fs"))
    }

    /// Starts a layer directory.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin_snapshot(&self) -> Result<PendingSnapshot> {
        let dir = self.tmp_path();
        for folder in ["", "fs", "work"] {
            let path = dir.join(folder);
            fs::create_dir(&path).on("create", &path)?;
        }
        Ok(PendingSnapshot { store: self.clone(), dir, committed: false })
    }
}

impl PendingSnapshot {
    /// Returns the directory that becomes the layer.
    #[must_use]
    pub fn fs(&self) -> PathBuf {
        self.dir.join("fs")
    }

    /// Returns the overlay's work directory.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Returns a text that no other snapshot of this store ever had.
    #[must_use]
    pub fn unique(&self) -> String {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let local = self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{:x}-{:x}-{local}", since.as_nanos(), std::process::id())
    }

    /// Gives the layer its name, and returns its directory.
    ///
    /// If another process was quicker, its directory is taken and this one dropped: equal names mean equal layers.
    ///
    /// # Errors
    /// When it cannot be renamed.
    pub fn commit(mut self, scheme: &str, id: &str) -> Result<PathBuf> {
        let _ = kiln_sandbox::remove_tree(&self.work());
        let folder = folder(scheme);
        let parent = self.store.root().join(&folder);
        fs::create_dir_all(&parent).on("create", &parent)?;
        fs::write(self.dir.join(BOOT), &self.store.inner.boot).on("write", &self.dir)?;
        let _lock = self.store.lock("snapshots")?;
        if let Some(theirs) = self.store.snapshot(scheme, id) {
            return Ok(theirs);
        }
        let target = parent.join(id);
        if target.exists() {
            // From before a reboot: not trusted, and nobody of this boot can be using it.
            let old = self.store.tmp_path();
            fs::rename(&target, &old).on("rename", &target)?;
        }
        self.store.publish(&self.dir, &folder, id)?;
        self.committed = true;
        Ok(target.join("fs"))
    }
}

impl Drop for PendingSnapshot {
    fn drop(&mut self) {
        if !self.committed {
            let _ = kiln_sandbox::remove_tree(&self.dir);
        }
    }
}
