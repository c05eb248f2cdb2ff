//! A cache inside the image: records in its config, whose layers are those of the image.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kiln_oci::Digest;
use serde_json::Value;

use super::document::{self, Step};
use super::{Answer, Cache, Entry};
use crate::error::Result;

/// Records that the config of the image will have.
///
/// The digest of the image depends on them, so they have nothing that two builds of the same could differ in.
pub(crate) struct InlineCache {
    /// The compression of this build, kind and level.
    pub(super) compression: String,
    steps: Mutex<BTreeMap<Digest, Step>>,
}

impl InlineCache {
    pub(super) fn new(compression: String) -> Self {
        Self { compression, steps: Mutex::default() }
    }

    /// Returns what the config says under [`document::INLINE`], for an image of these layers.
    ///
    /// # Errors
    /// When it cannot be written as JSON, which would be a mistake in kiln.
    pub(crate) fn value(&self, layers: &[Digest]) -> Result<Value> {
        document::inline(&self.steps.lock().unwrap_or_else(PoisonError::into_inner), layers)
    }
}

impl Cache for InlineCache {
    fn find(&self, _key: &Digest) -> Answer {
        Answer::Absent
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        if entry.in_result {
            let step = entry.step(self.compression.clone());
            self.steps.lock().unwrap_or_else(PoisonError::into_inner).insert(step.key.clone(), step);
        }
        Ok(())
    }
}
