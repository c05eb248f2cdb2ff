//! Cache records: what a step with a given cache key gave.

use std::collections::BTreeMap;
use std::fs;

use kiln_oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::store::Store;

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
    /// The layer, in each compression that it was packed with; none in a record that only says that an operation was seen.
    pub layers: BTreeMap<String, Packed>,
    /// Its unpacked form, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

impl Store {
    /// Returns what is recorded under `key`; a damaged record is a miss.
    #[must_use]
    pub fn record(&self, key: &Digest) -> Option<Record> {
        let bytes = fs::read(self.root().join("records").join(key.hex())).ok()?;
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
}
