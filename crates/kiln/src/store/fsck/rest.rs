//! Checkouts, cache mounts, what is remembered of contexts, web files and builds, and temporary files.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;

use super::{FaultKind, Look};
use crate::error::Result;
use crate::store::cache_mounts::{self, CacheIdentity};
use crate::store::size::list;
use crate::store::{BOOT, contexts};

impl Look<'_> {
    /// Looks at everything that is neither blob, record, image nor snapshot.
    pub(super) fn rest(&mut self) -> Result<()> {
        self.checkouts()?;
        self.caches()?;
        for (path, _) in list(&self.root().join("contexts"))? {
            self.report.checked.others += 1;
            // What cannot be opened is gone.
            if let Ok(file) = File::open(&path)
                && let Some(cause) = contexts::damage(file)
            {
                self.fault(FaultKind::Memory, &path, cause);
            }
        }
        for (path, _) in list(&self.root().join("http"))? {
            self.json(&path);
        }
        for (build, meta) in list(&self.root().join("history"))? {
            let path = build.join("build.json");
            // A build that runs, or that was killed, has no record.
            if meta.is_dir() && path.exists() {
                self.json(&path);
            }
        }
        self.rubbish()
    }

    /// Looks whether a small file of JSON can be parsed.
    fn json(&mut self, path: &Path) {
        self.report.checked.others += 1;
        let Some(bytes) = self.memory(FaultKind::Memory, path) else { return };
        if let Err(e) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            self.fault(FaultKind::Memory, path, format!("it is no JSON: {e}"));
        }
    }

    fn checkouts(&mut self) -> Result<()> {
        for (dir, _) in list(&self.root().join("git"))? {
            self.report.checked.others += 1;
            let missing = [BOOT, "tree"].into_iter().find(|name| !dir.join(name).exists());
            if let Some(name) = missing.filter(|_| dir.exists()) {
                self.fault(FaultKind::Checkout, &dir, format!("it has no `{name}`"));
            }
        }
        Ok(())
    }

    /// Looks whether every cache mount is known by the name that it lies under.
    fn caches(&mut self) -> Result<()> {
        for slot in cache_mounts::slots(self.root())? {
            self.report.checked.others += 1;
            let folder = slot.dir.parent().and_then(Path::file_name).unwrap_or_default().to_owned();
            let named = |identity: &CacheIdentity| {
                identity.key().is_ok_and(|key| OsStr::new(&key) == folder.as_os_str())
            };
            let cause = match &slot.identity {
                Some(identity) if named(identity) => continue,
                Some(identity) => format!("its description says `{}`, which lies elsewhere", identity.id),
                None => "its description `id.json` is missing or damaged".to_owned(),
            };
            self.fault(FaultKind::CacheMount, &slot.dir, cause);
        }
        Ok(())
    }

    /// Looks for what killed processes left and nobody removes.
    fn rubbish(&mut self) -> Result<()> {
        for (path, _) in list(&self.root().join("tmp"))? {
            // A lock file is its own evidence: [`super::leases`] removes those of processes that are gone.
            let is_lock = path.extension() == Some(OsStr::new("lock"));
            if !is_lock && !path.with_extension("lock").exists() {
                self.fault(FaultKind::Rubbish, &path, "it belongs to no process");
            }
        }
        for (path, meta) in list(self.root())? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let writer =
                name.strip_suffix(".tmp").and_then(|rest| rest.rsplit('.').next()?.parse::<u32>().ok());
            if let Some(pid) = writer.filter(|_| meta.is_file())
                && fs::symlink_metadata(format!("/proc/{pid}")).is_err()
            {
                self.fault(FaultKind::Rubbish, &path, format!("process {pid}, which wrote it, is gone"));
            }
        }
        Ok(())
    }
}
