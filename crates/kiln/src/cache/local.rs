//! The store of this machine as a cache.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;
use kiln_oci::layer::Compression;

use super::{Answer, Cache, Entry, Found};
use crate::error::Result;
use crate::rootfs::Origin;
use crate::store::{Record, Store};

/// Records of the store, whose layers are blobs of the store.
pub(crate) struct StoreCache<'a> {
    pub(crate) store: &'a Store,
    /// The compression that this build wants.
    pub(crate) compression: Compression,
    /// Results older than this count for nothing.
    pub(crate) max_age: Option<Duration>,
}

impl Cache for StoreCache<'_> {
    fn find(&self, key: &Digest) -> Answer {
        let Some(record) = self.store.record(key) else { return Answer::Absent };
        if let (Some(max), Some(age)) = (self.max_age, age(&record))
            && age > max
        {
            return Answer::Expired(age);
        }
        let Some(packed) = record.layers.get(&self.compression.to_string()) else { return Answer::Absent };
        if !self.store.has(&packed.descriptor) {
            return Answer::Gone;
        }
        let found = Found { packed: packed.clone(), origin: Origin::Store, snapshot: record.snapshot };
        Answer::Hit(Box::new(found))
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        let compression = self.compression.to_string();
        let record = |layers, snapshot: Option<&str>| Record {
            title: entry.title.to_owned(),
            made: now().as_secs(),
            layers,
            snapshot: snapshot.map(str::to_owned),
        };
        if !self.knows(&entry.key.operation) {
            // Only that the operation was seen.
            self.store.put_record(&entry.key.operation, &record(BTreeMap::new(), None))?;
        }
        for key in [Some(&entry.key.digest), entry.by_content].into_iter().flatten() {
            let old = self.store.record(key);
            let mut layers = BTreeMap::new();
            if let Some(old) = old {
                let same_files = entry.snapshot.is_none_or(|new| old.snapshot.as_deref() == Some(new));
                if old.layers.get(&compression) == Some(entry.packed) && same_files {
                    continue;
                }
                layers = old.layers;
            }
            // The same layer in another compression may stay.
            layers.retain(|_, other| other.diff_id == entry.packed.diff_id);
            layers.insert(compression.clone(), entry.packed.clone());
            self.store.put_record(key, &record(layers, entry.snapshot))?;
        }
        Ok(())
    }

    fn knows(&self, operation: &Digest) -> bool {
        self.store.record(operation).is_some()
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn age(record: &Record) -> Option<Duration> {
    now().checked_sub(Duration::from_secs(record.made))
}
