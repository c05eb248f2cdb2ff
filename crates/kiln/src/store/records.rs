//! Cache records: what a step with a given cache key gave.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{Error, FileContext as _, Result};
use crate::store::{Store, touch};

/// A layer that has been packed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// The compressed tar.
    pub descriptor: Descriptor,
    /// Digest of the tar before compression.
    pub diff_id: Digest,
}

/// The result of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The instruction, for people who look into the store.
    pub title: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// The layer, in each compression that it was packed with.
    pub layers: BTreeMap<String, Packed>,
    /// The key that names its inputs by what they hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_content: Option<Digest>,
    /// Its unpacked form, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl Record {
    /// Returns a record that is made now, of a layer without files.
    #[must_use]
    pub fn new(title: impl Into<String>, layers: BTreeMap<String, Packed>) -> Self {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { title: title.into(), made, layers, by_content: None, snapshot: None }
    }

    /// Returns how long ago it was made; nothing for one of the future.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_secs(self.made)).ok()
    }
}

impl Store {
    /// Returns what is recorded under `key`; a damaged record is a miss.
    #[must_use]
    pub fn record(&self, key: &Digest) -> Option<Record> {
        let path = self.root().join("records").join(key.hex());
        let bytes = fs::read(&path).ok()?;
        // It is read at once and whole, so nobody has to keep it; what it names is asked for by itself.
        touch(&path);
        serde_json::from_slice(&bytes).ok()
    }

    /// Records `record` under `key`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_record(&self, key: &Digest, record: &Record) -> Result<()> {
        let bytes = serde_json::to_vec(record)
            .map_err(|e| Error::internal("cannot write a cache record as JSON").because(e))?;
        self.replace(&self.root().join("records").join(key.hex()), &bytes)
    }

    /// Forgets every result whose layer is one of `layers`: they were not what a cache said they are.
    ///
    /// # Errors
    /// When the records cannot be listed or deleted.
    pub(crate) fn forget(&self, layers: &BTreeSet<Digest>) -> Result<()> {
        let dir = self.root().join("records");
        for entry in fs::read_dir(&dir).on("list", &dir)?.flatten() {
            let record = fs::read(entry.path()).ok();
            let record: Option<Record> = record.and_then(|bytes| serde_json::from_slice(&bytes).ok());
            let names =
                |record: Record| record.layers.values().any(|p| layers.contains(&p.descriptor.digest));
            if record.is_some_and(names) {
                fs::remove_file(entry.path()).on("delete", &entry.path())?;
            }
        }
        Ok(())
    }
}
