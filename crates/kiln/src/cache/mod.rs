//! Where results of steps are kept and found: the store of this machine, and caches that builds share.
//!
//! A [`Cache`] is asked by key and told of every result; combinators decide which is asked when and which is told:
//! [`Tiered`] asks one after another and tells all, [`WriteOnly`] is asked nothing.
//! `open` makes them from what was asked for. A cache is an aid: one that is broken is a miss and a warning, never a
//! failed build, and never a wrong one, because a layer is checked against its digest wherever it comes from.

mod document;
mod export;
mod inline;
mod layout;
mod local;
mod open;
mod place;
mod repository;
mod shared;

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_oci::Digest;

pub(crate) use document::INLINE;
pub(crate) use inline::InlineCache;
pub(crate) use local::StoreCache;
pub(crate) use open::{Exports, Imports, exports};

use crate::error::{Error, Result};
use crate::key::{Earlier, Key, Part};
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
    /// The compression that it has, as [`kiln_oci::layer::Compression`] is written.
    pub(crate) compression: String,
    /// Where the layer can be had from.
    pub(crate) origin: Origin,
    /// Its files in the store, if they are there.
    pub(crate) snapshot: Option<String>,
    /// When it was made, in seconds since 1970, where that is known.
    pub(crate) made: Option<u64>,
    /// The key that names its inputs by what they hold, where that is known.
    pub(crate) by_content: Option<Digest>,
}

impl Found {
    /// Returns its layer.
    pub(crate) fn layer(&self) -> Layer {
        let is_lent = matches!(self.origin, Origin::Registry(_));
        Layer { is_lent, ..Layer::existing(self.origin.clone(), self.packed.clone()) }
    }
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
    pub(crate) layer: &'a Arc<Layer>,
    /// Its digests.
    pub(crate) packed: &'a Packed,
    /// Its files in the store.
    pub(crate) snapshot: Option<&'a str>,
    /// When it was made, in seconds since 1970, where that is known.
    pub(crate) made: Option<u64>,
    /// Whether the image has this layer; else a step of the image needed it.
    pub(crate) in_result: bool,
}

impl Entry<'_> {
    /// Returns what leaves this machine of it.
    fn step(&self, compression: String) -> document::Step {
        document::Step {
            key: self.key.digest.clone(),
            by_content: self.by_content.cloned(),
            operation: Some(self.key.operation.clone()),
            title: self.title.to_owned(),
            packed: self.packed.clone(),
            compression,
            made: self.made,
            parts: self.key.parts.iter().map(Part::fingerprint).collect(),
        }
    }
}

/// Results of steps by key.
pub(crate) trait Cache: Send + Sync {
    /// Begins to look for steps that will be asked for.
    fn prefetch(&self, _keys: &[&Digest]) {}

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

    /// Returns the steps of the build that wrote the cache, to explain why others are not in it.
    fn steps(&self) -> Vec<Earlier> {
        Vec::new()
    }

    /// Tells whether the cache is to hear of steps that this build did not have to look at.
    fn wants_all(&self) -> bool {
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
    fn prefetch(&self, keys: &[&Digest]) {
        self.0.iter().for_each(|cache| cache.prefetch(keys));
    }

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

    fn steps(&self) -> Vec<Earlier> {
        self.0.iter().map(|cache| cache.steps()).find(|steps| !steps.is_empty()).unwrap_or_default()
    }

    fn wants_all(&self) -> bool {
        self.0.iter().any(|cache| cache.wants_all())
    }

    fn finish(&self) -> Result<()> {
        self.0.iter().try_for_each(|cache| cache.finish())
    }
}

/// A cache that outlives one attempt to build.
impl<C: Cache> Cache for Arc<C> {
    fn prefetch(&self, keys: &[&Digest]) {
        (**self).prefetch(keys);
    }

    fn find(&self, key: &Digest) -> Answer {
        (**self).find(key)
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        (**self).put(entry)
    }

    fn knows(&self, operation: &Digest) -> bool {
        (**self).knows(operation)
    }

    fn steps(&self) -> Vec<Earlier> {
        (**self).steps()
    }

    fn wants_all(&self) -> bool {
        (**self).wants_all()
    }

    fn finish(&self) -> Result<()> {
        (**self).finish()
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

/// Returns the time since 1970. Nothing in a key or in an image comes from it.
pub(crate) fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Returns how long ago `made` was, unless that is in the future.
fn age(made: u64) -> Option<Duration> {
    now().checked_sub(Duration::from_secs(made))
}

/// Returns an error with its causes as one sentence, for a warning.
fn told(error: &Error) -> String {
    let mut text = error.message.clone();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    for hint in &error.hints {
        text.push_str("; ");
        text.push_str(hint);
    }
    text
}
