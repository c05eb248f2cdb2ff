//! The store of this machine as a cache.

use std::collections::BTreeMap;
use std::time::Duration;

use kiln_oci::Digest;
use kiln_oci::layer::Compression;

use super::{Answer, Cache, Entry, Found};
use crate::error::Result;
use crate::rootfs::{Origin, Packed};
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
        if let (Some(max), Some(age)) = (self.max_age, record.age())
            && age > max
        {
            return Answer::Expired(age);
        }
        let wanted = self.compression.to_string();
        let there = |(_, packed): &(&String, &Packed)| self.store.has(&packed.descriptor);
        // Another compression of the layer will do: it is converted.
        let exact = record.layers.get_key_value(&wanted).filter(there);
        let Some((compression, packed)) = exact.or_else(|| record.layers.iter().find(there)) else {
            return if record.layers.is_empty() { Answer::Absent } else { Answer::Gone };
        };
        let found = Found {
            packed: packed.clone(),
            compression: compression.clone(),
            origin: Origin::Store,
            snapshot: record.snapshot,
            made: Some(record.made),
            by_content: record.by_content,
        };
        Answer::Hit(Box::new(found))
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        let compression = self.compression.to_string();
        // Under the operation, only to say that it was seen; with a layer, so that it is deleted with that.
        let keys = [Some(&entry.key.operation), Some(&entry.key.digest), entry.by_content];
        for key in keys.into_iter().flatten() {
            let old = self.store.record(key);
            let mut layers = BTreeMap::new();
            if let Some(old) = old {
                let same_files = entry.snapshot.is_none_or(|new| old.snapshot.as_deref() == Some(new));
                let newer = entry.made.is_some_and(|made| made > old.made);
                if old.layers.get(&compression) == Some(entry.packed) && same_files && !newer {
                    continue;
                }
                layers = old.layers;
            }
            // The same layer in another compression may stay.
            layers.retain(|_, other| other.diff_id == entry.packed.diff_id);
            layers.insert(compression.clone(), entry.packed.clone());
            let mut record = Record::new(entry.title, layers);
            record.made = entry.made.unwrap_or(record.made);
            record.by_content = entry.by_content.cloned();
            record.snapshot = entry.snapshot.map(str::to_owned);
            self.store.put_record(key, &record)?;
        }
        Ok(())
    }

    fn knows(&self, operation: &Digest) -> bool {
        self.store.record(operation).is_some()
    }
}
