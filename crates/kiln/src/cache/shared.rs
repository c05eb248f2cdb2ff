//! A shared cache as builds read it: one document, fetched by a thread of its own while the context is hashed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_oci::{Digest, Platform};
use kiln_remote::Client;

use super::document::Step;
use super::place::{Contents, Place, blob_path};
use super::{Answer, Cache, Entry, Found, age, told};
use crate::error::{Error, Result};
use crate::key::Earlier;
use crate::progress::{Event, Sink};
use crate::rootfs::Origin;

/// A registry that has not answered after this is a miss: a cache is there to save time.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// What all readers of shared caches need.
#[derive(Clone)]
pub(super) struct Reading {
    /// The client of the attempt that is under way.
    pub(super) client: Arc<Mutex<Client>>,
    pub(super) sink: Sink,
    pub(super) platform: Platform,
    /// Results older than this count for nothing.
    pub(super) max_age: Option<Duration>,
}

impl Reading {
    pub(super) fn client(&self) -> Client {
        self.client.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn warn(&self, text: String) {
        self.sink.event(Event::Warning { text, place: None });
    }

    /// Gives a cache up, once, if one of the layers that it has `given` is among those that were `lost`, and says so.
    pub(super) fn give_up(
        &self,
        cache: &dyn std::fmt::Display,
        (given, withdrawn): (&Mutex<BTreeSet<Digest>>, &AtomicBool),
        lost: &BTreeSet<Digest>,
    ) -> bool {
        let given = given.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(layer) = given.intersection(lost).next() else { return false };
        if withdrawn.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.warn(format!(
            "the cache {cache} has lost layer {layer} or gives something else; the build begins again without it"
        ));
        true
    }

    /// Returns the answer for a step that a cache has.
    pub(super) fn answer(&self, step: &Step, origin: &Origin) -> Answer {
        if let Some(max) = self.max_age {
            // Without a time, nothing says that it is young enough.
            match step.made.map(age) {
                Some(Some(age)) if age <= max => {}
                Some(Some(age)) => return Answer::Expired(age),
                Some(None) | None => return Answer::Expired(Duration::MAX),
            }
        }
        if let Origin::Layout(dir) = origin {
            let path = blob_path(dir, &step.packed.descriptor.digest);
            if !std::fs::metadata(path).is_ok_and(|m| m.len() == step.packed.descriptor.size) {
                return Answer::Gone;
            }
        }
        Answer::Hit(Box::new(Found {
            packed: step.packed.clone(),
            compression: step.compression.clone(),
            origin: origin.clone(),
            snapshot: None,
            made: step.made,
            by_content: step.by_content.clone(),
        }))
    }
}

/// What a thread found, once it has.
pub(super) struct Later<T> {
    slot: Mutex<Option<T>>,
    ready: Condvar,
    started: Instant,
}

impl<T: Clone + Send + 'static> Later<T> {
    /// Starts a thread that nobody has to wait for.
    pub(super) fn start(work: impl FnOnce() -> T + Send + 'static) -> Arc<Self> {
        let later = Arc::new(Self { slot: Mutex::new(None), ready: Condvar::new(), started: Instant::now() });
        let thread = Arc::clone(&later);
        std::thread::spawn(move || {
            let value = work();
            *thread.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
            thread.ready.notify_all();
        });
        later
    }

    /// Returns what was found, or nothing if it takes longer than [`PATIENCE`] since the start.
    pub(super) fn wait(&self) -> Option<T> {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if slot.is_some() {
                return slot.clone();
            }
            let left = PATIENCE.checked_sub(self.started.elapsed())?;
            slot = self.ready.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

type Outcome = std::result::Result<Option<Arc<Index>>, Arc<Error>>;

/// A document with what is looked up in it.
struct Index {
    contents: Contents,
    by_key: BTreeMap<Digest, usize>,
    operations: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
}

impl Index {
    fn new(contents: Contents) -> Self {
        let mut by_key = BTreeMap::new();
        for (at, step) in contents.steps.iter().enumerate() {
            by_key.insert(step.key.clone(), at);
        }
        for (at, step) in contents.steps.iter().enumerate() {
            if let Some(key) = &step.by_content {
                by_key.entry(key.clone()).or_insert(at);
            }
        }
        let operations = contents.steps.iter().filter_map(|step| step.operation.clone()).collect();
        let layers = contents.steps.iter().map(|step| step.packed.descriptor.digest.clone()).collect();
        Self { contents, by_key, operations, layers }
    }
}

/// A shared cache that was named to be read.
pub(crate) struct SharedCache {
    place: Place,
    reading: Reading,
    later: Arc<Later<Outcome>>,
    /// The outcome was looked at, and what is wrong was told.
    told: AtomicBool,
    withdrawn: AtomicBool,
    /// Layers that steps were given.
    given: Mutex<BTreeSet<Digest>>,
}

impl SharedCache {
    /// Starts to read.
    pub(super) fn start(place: Place, reading: Reading) -> Self {
        let (client, platform, from) = (reading.client(), reading.platform.clone(), place.clone());
        let later = Later::start(move || {
            let read = from.read(&client, &platform).map_err(Arc::new)?;
            Ok(read.map(|contents| Arc::new(Index::new(contents))))
        });
        let (told, withdrawn) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { place, reading, later, told, withdrawn, given: Mutex::default() }
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    fn index(&self) -> Option<Arc<Index>> {
        if self.withdrawn.load(Ordering::SeqCst) {
            return None;
        }
        let outcome = self.later.wait();
        let first = !self.told.swap(true, Ordering::SeqCst);
        let place = &self.place;
        match outcome {
            Some(Ok(Some(index))) => {
                if first && index.contents.damaged > 0 {
                    let damaged = index.contents.damaged;
                    self.reading
                        .warn(format!("the cache {place} is damaged; records that are left out: {damaged}"));
                }
                Some(index)
            }
            Some(Ok(None)) => {
                if first {
                    let text = format!("there is no cache at {place} yet");
                    self.reading.sink.event(Event::Note { text });
                }
                None
            }
            Some(Err(error)) => {
                if first {
                    self.reading.warn(format!("the cache {place} {}; building without it", told(&error)));
                }
                None
            }
            None => {
                if first {
                    let seconds = PATIENCE.as_secs();
                    self.reading.warn(format!(
                        "the cache {place} did not come within {seconds} s; building without it"
                    ));
                }
                self.withdrawn.store(true, Ordering::SeqCst);
                None
            }
        }
    }

    /// Returns the digest of the manifest that was read.
    pub(super) fn manifest(&self) -> Option<Digest> {
        Some(self.index()?.contents.manifest.clone())
    }

    /// Tells whether the cache says that it has this layer.
    pub(super) fn has_layer(&self, layer: &Digest) -> bool {
        self.index().is_some_and(|index| index.layers.contains(layer))
    }
}

/// A cache whose layers are elsewhere and may be gone when they are wanted.
pub(crate) trait Lender: Send + Sync {
    /// Gives the cache up if a step got one of the layers `lost` from it; tells whether it did.
    fn withdraw(&self, lost: &BTreeSet<Digest>) -> bool;
}

impl Lender for SharedCache {
    fn withdraw(&self, lost: &BTreeSet<Digest>) -> bool {
        self.reading.give_up(&self.place, (&self.given, &self.withdrawn), lost)
    }
}

impl Cache for SharedCache {
    fn find(&self, key: &Digest) -> Answer {
        let Some(index) = self.index() else { return Answer::Absent };
        let Some(step) = index.by_key.get(key).and_then(|at| index.contents.steps.get(*at)) else {
            return Answer::Absent;
        };
        let answer = self.reading.answer(step, &index.contents.origin);
        if let Answer::Hit(found) = &answer {
            let digest = found.packed.descriptor.digest.clone();
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        answer
    }

    fn put(&self, _entry: &Entry<'_>) -> Result<()> {
        Ok(())
    }

    fn knows(&self, operation: &Digest) -> bool {
        self.index().is_some_and(|index| index.operations.contains(operation))
    }

    fn steps(&self) -> Vec<Earlier> {
        let steps = self.index().map(|index| index.contents.steps.iter().map(earlier).collect());
        steps.unwrap_or_default()
    }
}

fn earlier(step: &Step) -> Earlier {
    let (title, key, parts) = (step.title.clone(), step.key.clone(), step.parts.clone());
    Earlier { title, key, parts, is_exact: false }
}
