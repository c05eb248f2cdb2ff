//! Unpacked layers, one directory each.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{FileContext as _, Result};
use crate::store::Store;

/// A layer directory in the making: `fs` fills, `work` is the overlay's scratch space.
///
/// Dropped without [`PendingSnapshot::commit`], it is removed.
#[derive(Debug)]
pub struct PendingSnapshot {
    store: Store,
    dir: PathBuf,
    committed: bool,
}

impl Store {
    fn snapshot_dir(&self, scheme: &str, id: &str) -> PathBuf {
        self.root().join("snapshots").join(scheme).join(id)
    }

    /// Returns the directory of an unpacked layer, if it is here and can be trusted.
    #[must_use]
    pub fn snapshot(&self, scheme: &str, id: &str) -> Option<PathBuf> {
        let dir = self.snapshot_dir(scheme, id);
        let boot = fs::read_to_string(dir.join("boot")).ok()?;
        (boot == self.inner.boot).then(|| dir.join("fs"))
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
        let target = self.store.snapshot_dir(scheme, id);
        let parent = target.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).on("create", parent)?;
        fs::write(self.dir.join("boot"), &self.store.inner.boot).on("write", &self.dir)?;
        let _lock = self.store.lock("snapshots")?;
        if let Some(theirs) = self.store.snapshot(scheme, id) {
            return Ok(theirs);
        }
        if target.exists() {
            // From before a reboot: not trusted, and nobody of this boot can be using it.
            let old = self.store.tmp_path();
            fs::rename(&target, &old).on("rename", &target)?;
        }
        fs::rename(&self.dir, &target).on("rename", &target)?;
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
