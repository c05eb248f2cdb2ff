//! Where results of steps are kept and found: the store of this machine, and caches that builds share.
//!
//! A [`Cache`] is asked by key and told of every result; combinators decide which is asked when and which is told:
//! [`Tiered`] asks one after another and tells all, [`ReadOnly`] is told nothing, [`WriteOnly`] is asked nothing.
//! A cache is an aid: one that is broken is a miss and a warning, never a failed build, and never a wrong one, because
//! a layer is checked against its digest wherever it comes from.

mod local;

use std::sync::Arc;
use std::time::Duration;

use kiln_oci::Digest;

pub(crate) use local::StoreCache;

use crate::error::Result;
use crate::key::Key;
use crate::rootfs::{Layer, Origin, Packed};

/// What a cache has under a key.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The result.
    Hit(Box<Found>),
    /// A result whose layer was deleted.
    Gone,
    /// A result that is older than what was asked for.
    Expired(Duration),
    /// Nothing.
    Absent,
}

/// A result in a cache.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    /// The layer, in the compression that was asked for if the cache has it so.
    pub(crate) packed: Packed,
    /// Where the layer can be had from.
    pub(crate) origin: Origin,
    /// Its files in the store, if they are there.
    pub(crate) snapshot: Option<String>,
}

/// The result of a step, for caches.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// The instruction, for people.
    pub(crate) title: &'a str,
    /// The key of the step.
    pub(crate) key: &'a Key,
    /// The key that names the inputs by what they hold.
    pub(crate) by_content: Option<&'a Digest>,
    /// The layer: its blob is in the store, or where a cache found it.
    #[expect(dead_code, reason = "for caches that are sent elsewhere")]
    pub(crate) layer: &'a Arc<Layer>,
    /// Its digests.
    pub(crate) packed: &'a Packed,
    /// Its files in the store.
    pub(crate) snapshot: Option<&'a str>,
    /// Whether the image has this layer; else a step of the image needed it.
    #[expect(dead_code, reason = "for caches that are sent elsewhere")]
    pub(crate) in_result: bool,
}

/// Results of steps by key.
pub(crate) trait Cache: Send + Sync {
    /// Returns what is known under `key`; a cache that cannot be asked says so to the user and has nothing.
    fn find(&self, key: &Digest) -> Answer;

    /// Takes in a result: one that was made, or one that another cache had.
    ///
    /// # Errors
    /// When it cannot be written and the build cannot go on without it.
    fn put(&self, entry: &Entry<'_>) -> Result<()>;

    /// Tells whether an operation was seen before, with other inputs: whether [`Key::by_content`] may be found.
    fn knows(&self, _operation: &Digest) -> bool {
        false
    }

    /// Writes what belongs together, when all results were taken in.
    ///
    /// # Errors
    /// When it cannot be written, and the user wants to know by a failure.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// Several caches: the first that has a result is believed, and all are told.
pub(crate) struct Tiered<'a>(pub(crate) Vec<Box<dyn Cache + 'a>>);

impl Cache for Tiered<'_> {
    fn find(&self, key: &Digest) -> Answer {
        let mut best = Answer::Absent;
        for cache in &self.0 {
            match cache.find(key) {
                hit @ Answer::Hit(_) => return hit,
                Answer::Absent => {}
                other => best = other,
            }
        }
        best
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        self.0.iter().try_for_each(|cache| cache.put(entry))
    }

    fn knows(&self, operation: &Digest) -> bool {
        self.0.iter().any(|cache| cache.knows(operation))
    }

    fn finish(&self) -> Result<()> {
        self.0.iter().try_for_each(|cache| cache.finish())
    }
}

/// A cache that is asked and not told.
#[expect(dead_code, reason = "for caches that are only read")]
pub(crate) struct ReadOnly<C>(pub(crate) C);

impl<C: Cache> Cache for ReadOnly<C> {
    fn find(&self, key: &Digest) -> Answer {
        self.0.find(key)
    }

    fn put(&self, _entry: &Entry<'_>) -> Result<()> {
        Ok(())
    }

    fn knows(&self, operation: &Digest) -> bool {
        self.0.knows(operation)
    }
}

/// A cache that is told and not asked.
pub(crate) struct WriteOnly<C>(pub(crate) C);

impl<C: Cache> Cache for WriteOnly<C> {
    fn find(&self, _key: &Digest) -> Answer {
        Answer::Absent
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        self.0.put(entry)
    }

    fn finish(&self) -> Result<()> {
        self.0.finish()
    }
}
