//! The layers of a root file system as directories, so few that an overlay takes them.
//!
//! The kernel stacks 500 lower directories at most, and a thousand steps that each mount a thousand layers cost a million
//! mounts. So whole groups of layers become one directory each (see [`merge`]), which is kept in the store like the
//! directory of a layer: the next step, and the next build, find it there. A group is full when it is merged and
//! never changes, so each layer is merged once.
//!
//! ```text
//! layers    0 … 99 | 100 … 199 | 200 … 299 | 300 … 342      of 343
//! stack     as is  | merged    | merged    | as is           100 + 2 + 43 directories
//! ```
//!
//! The lowest group stays as it is: it has the base, whose many files would make merging slow, and with it there is room
//! for 30,000 layers.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_oci::Hasher;

use super::Engine;
use crate::error::{Error, Result};
use crate::rootfs::Layer;
use crate::snapshot::{Error as SnapshotError, LINK, has_records, merge, write_owners};

/// Layers that are merged into one directory.
///
/// Stacks of fewer than two groups are left alone: hardly any image has so many layers that runs anywhere.
const GROUP: usize = 100;

impl Engine {
    /// Returns directories that add up to `layers`, topmost first and never more than an overlay takes.
    ///
    /// # Errors
    /// When a layer cannot be fetched or unpacked, or layers cannot be merged.
    pub(crate) fn all_files(&self, layers: &[Arc<Layer>]) -> Result<Vec<PathBuf>> {
        let dirs = self.unpacked(layers)?;
        if dirs.len() < 2 * GROUP { Ok(dirs) } else { self.shorten(dirs) }
    }

    /// Puts one directory in the place of every whole group of layers but the lowest.
    fn shorten(&self, mut dirs: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
        dirs.reverse();
        let mut short: Vec<PathBuf> = Vec::with_capacity(2 * GROUP);
        for (number, group) in dirs.chunks(GROUP).enumerate() {
            if number == 0 || group.len() < GROUP {
                short.extend_from_slice(group);
            } else {
                match self.merged(group)? {
                    Some(dir) => short.push(dir),
                    None => short.extend_from_slice(group),
                }
            }
        }
        short.reverse();
        Ok(short)
    }

    /// Returns the directory that stands for `group`, layers in order, making it if nobody has.
    ///
    /// There is none where the file system refuses a hard link: it has none, or a file has all the names it can have.
    fn merged(&self, group: &[PathBuf]) -> Result<Option<PathBuf>> {
        let mut hasher = Hasher::new();
        hasher.field(b"merged layers 1");
        for dir in group {
            // Snapshots never change under their names: that of a layer is its diff id, that of a step is unique.
            let name = dir.parent().and_then(Path::file_name).unwrap_or_default();
            hasher.field(name.as_encoded_bytes());
        }
        let name = format!("merged-{}", hasher.finish().hex());
        if let Some(dir) = self.store.snapshot(self.scheme(), &name) {
            return Ok(Some(dir));
        }
        let _lock = self.store.lock(&format!("layer-{}-{name}", self.scheme()))?;
        if let Some(dir) = self.store.snapshot(self.scheme(), &name) {
            return Ok(Some(dir));
        }
        let pending = self.store.begin_snapshot()?;
        let top_first: Vec<PathBuf> = group.iter().rev().cloned().collect();
        let owners = match merge(&top_first, &pending.fs()) {
            Ok(owners) => owners,
            Err(SnapshotError::File { action: LINK, .. }) => return Ok(None),
            Err(e) => return Err(Error::from(e).within(format!("cannot merge {} layers", group.len()))),
        };
        write_owners(&pending.fs(), &owners, group.iter().any(|layer| has_records(layer)))?;
        self.cancel.check()?;
        pending.commit(self.scheme(), &name).map(Some)
    }

    /// Returns the directories of `layers`, topmost first, unpacking several at once.
    fn unpacked(&self, layers: &[Arc<Layer>]) -> Result<Vec<PathBuf>> {
        // Mostly everything is there already, and threads would only cost time.
        let there = |l: &Arc<Layer>| l.files.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(dirs) = layers.iter().rev().map(there).collect() {
            return Ok(dirs);
        }
        let mut found: Vec<Option<Result<PathBuf>>> = Vec::new();
        found.resize_with(layers.len(), || None);
        let next = Mutex::new(found.iter_mut().zip(layers));
        std::thread::scope(|scope| {
            let work = || {
                loop {
                    let job = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((slot, layer)) = job else { return };
                    *slot = Some(self.files(layer));
                }
            };
            for _ in 1..layers.len().min(self.workers + 1) {
                scope.spawn(work);
            }
            work();
        });
        found
            .into_iter()
            .rev()
            .map(|f| f.unwrap_or_else(|| Err(Error::internal("a layer was not unpacked"))))
            .collect()
    }
}
