//! Writing a shared cache: layers travel while the build runs, the manifest goes when the image is where it has to be.
//!
//! A layer is never sent to a registry that has it: one that the image's own push brings there, or that came from a cache
//! there, is mounted into the cache's repository once the push is done. A build that fails leaves no manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use kiln_oci::{Descriptor, Digest, Reference};
use kiln_remote::UploadSource;

use super::document::{self, MAX_LAYERS, Step};
use super::place::Place;
use super::repository::{self, RepositoryCache};
use super::shared::SharedCache;
use super::{Answer, Cache, Entry, layout, told};
use crate::engine::{Engine, Transfer};
use crate::error::{Error, Result};
use crate::progress::Event;
use crate::request::{CacheExtent, CacheRepository};
use crate::rootfs::{Layer, Origin};
use crate::store::{Bytes, StoredBlob};

/// Uploads and mounts that are begun at once when a build ends; the client lets fewer run.
const AT_ONCE: usize = 16;

/// What is written where.
pub(super) enum Target {
    /// One document, and the reader of the same place if there is one.
    One(Place, Option<Arc<SharedCache>>),
    /// One for each step.
    Each(CacheRepository, Option<Arc<RepositoryCache>>),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::One(place, _) => place.fmt(f),
            Self::Each(repository, _) => write!(f, "`{repository}`"),
        }
    }
}

/// A step to be written, with its layer.
#[derive(Clone)]
struct Kept {
    step: Step,
    layer: Arc<Layer>,
}

/// A shared cache that was named to be written.
pub(super) struct Exporter<'scope, 'env: 'scope> {
    pub(super) engine: &'env Engine,
    pub(super) scope: &'scope Scope<'scope, 'env>,
    pub(super) target: Target,
    pub(super) extent: CacheExtent,
    /// A cache that cannot be written fails the build.
    pub(super) is_strict: bool,
    /// Where else this build brings layers before this cache is written: those of the image, or all of them.
    pub(super) near: Vec<(Reference, CacheExtent)>,
    steps: Mutex<BTreeMap<Digest, Kept>>,
    uploads: Mutex<BTreeMap<Digest, ScopedJoinHandle<'scope, Result<()>>>>,
}

impl<'scope, 'env> Exporter<'scope, 'env> {
    pub(super) fn new(
        engine: &'env Engine,
        scope: &'scope Scope<'scope, 'env>,
        target: Target,
        (extent, is_strict): (CacheExtent, bool),
        near: Vec<(Reference, CacheExtent)>,
    ) -> Self {
        let (steps, uploads) = (Mutex::default(), Mutex::default());
        Self { engine, scope, target, extent, is_strict, near, steps, uploads }
    }

    /// Returns the repository that layers go to, if it is one of a registry.
    pub(super) fn repository(&self) -> Option<&Reference> {
        match &self.target {
            Target::One(Place::Registry(reference), _)
            | Target::Each(CacheRepository::Registry(reference), _) => Some(reference),
            Target::One(Place::Layout { .. }, _) | Target::Each(CacheRepository::Layout(_), _) => None,
        }
    }

    /// Tells whether a layer will be in the registry, or is, without being sent for the cache.
    fn comes_anyway(&self, target: &Reference, entry: &Entry<'_>) -> bool {
        let near = |other: &Reference| other.registry() == target.registry();
        let digest = &entry.packed.descriptor.digest;
        let has = matches!(&self.target, Target::One(_, Some(known)) if known.has_layer(digest));
        let brought = |(other, extent): &(Reference, CacheExtent)| {
            near(other) && (entry.in_result || *extent == CacheExtent::Max)
        };
        has || self.near.iter().any(brought)
            || matches!(&entry.layer.origin, Origin::Registry(from) if near(from))
    }

    fn write(&self) -> Result<()> {
        let mut steps = std::mem::take(&mut *self.steps.lock().unwrap_or_else(PoisonError::into_inner));
        self.limit(&mut steps);
        if steps.is_empty() {
            let text = format!("there is nothing to write to the cache {}", self.target);
            self.engine.sink.event(Event::Note { text });
            return Ok(());
        }
        match &self.target {
            Target::One(place, known) => self.one(place, known.as_deref(), steps),
            Target::Each(repository, known) => self.each(repository, known.as_deref(), steps),
        }
    }

    /// A manifest takes so many layers; steps of the image come first.
    fn limit(&self, steps: &mut BTreeMap<Digest, Kept>) {
        if matches!(self.target, Target::Each(..)) {
            return;
        }
        let mut layers = BTreeSet::new();
        let before = steps.len();
        steps.retain(|_, kept| {
            let digest = &kept.step.packed.descriptor.digest;
            layers.contains(digest) || (layers.len() < MAX_LAYERS && layers.insert(digest.clone()))
        });
        if steps.len() < before {
            let text = format!(
                "the cache {} takes {MAX_LAYERS} layers; steps that are left out: {}",
                self.target,
                before - steps.len()
            );
            self.engine.sink.event(Event::Warning { text, place: None });
        }
    }

    fn one(
        &self,
        place: &Place,
        known: Option<&SharedCache>,
        mut steps: BTreeMap<Digest, Kept>,
    ) -> Result<()> {
        let mut written = document::write(steps.values().map(|kept| &kept.step))?;
        if known.and_then(SharedCache::manifest).as_ref() == Some(written.manifest.digest()) {
            return self.join();
        }
        match place {
            Place::Registry(reference) => {
                let lost = self.send_all(reference, &steps)?;
                if !lost.is_empty() {
                    steps.retain(|_, kept| !lost.contains(&kept.step.packed.descriptor.digest));
                    written = document::write(steps.values().map(|kept| &kept.step))?;
                }
                publish(self.engine, reference, &written)?;
            }
            Place::Layout { dir, target } => {
                let layers: Vec<&Arc<Layer>> = steps.values().map(|kept| &kept.layer).collect();
                layout::write(self.engine, dir, &layers, &[(target.clone(), written)], true)?;
            }
        }
        let text = format!("steps written to the cache {}: {}", self.target, steps.len());
        self.engine.sink.event(Event::Note { text });
        Ok(())
    }

    fn each(
        &self,
        repository: &CacheRepository,
        known: Option<&RepositoryCache>,
        mut steps: BTreeMap<Digest, Kept>,
    ) -> Result<()> {
        // What is there stays as it is.
        steps.retain(|key, _| !known.is_some_and(|known| known.has(key)));
        match repository {
            CacheRepository::Registry(reference) => {
                let lost = self.send_all(reference, &steps)?;
                steps.retain(|_, kept| !lost.contains(&kept.step.packed.descriptor.digest));
                let jobs: Vec<&Kept> = steps.values().collect();
                self.side_by_side(&jobs, |kept| {
                    let Place::Registry(name) = repository::place(repository, &kept.step.key)? else {
                        return Err(Error::internal("a repository of a registry is not in a registry"));
                    };
                    publish(self.engine, &name, &document::write([&kept.step])?)
                })?;
            }
            CacheRepository::Layout(dir) => {
                let layers: Vec<&Arc<Layer>> = steps.values().map(|kept| &kept.layer).collect();
                let documents = steps
                    .iter()
                    .map(|(key, kept)| Ok((key.hex().to_owned(), document::write([&kept.step])?)));
                layout::write(self.engine, dir, &layers, &documents.collect::<Result<Vec<_>>>()?, false)?;
            }
        }
        let text = format!("steps written to the cache {}: {}", self.target, steps.len());
        self.engine.sink.event(Event::Note { text });
        Ok(())
    }

    /// Brings every layer into the repository of `target`; returns those that cannot be had any more.
    fn send_all(&self, target: &Reference, steps: &BTreeMap<Digest, Kept>) -> Result<BTreeSet<Digest>> {
        let begun: BTreeSet<Digest> =
            self.uploads.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        let mut rest = BTreeMap::new();
        for kept in steps.values() {
            let digest = &kept.step.packed.descriptor.digest;
            if !begun.contains(digest) {
                rest.insert(digest.clone(), kept);
            }
        }
        let near: Vec<Reference> = self.near.iter().map(|(other, _)| other.clone()).collect();
        let lost = Mutex::new(BTreeSet::new());
        let jobs: Vec<&Kept> = rest.into_values().collect();
        self.side_by_side(&jobs, |kept| {
            let digest = &kept.step.packed.descriptor.digest;
            let sent = send(self.engine, target, &kept.layer, &near);
            let gone = self.engine.lost.lock().unwrap_or_else(PoisonError::into_inner).contains(digest);
            if sent.is_err() && gone {
                lost.lock().unwrap_or_else(PoisonError::into_inner).insert(digest.clone());
                return Ok(());
            }
            sent
        })?;
        self.join()?;
        Ok(lost.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn side_by_side<T: Sync>(&self, jobs: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
        let next = Mutex::new(jobs.iter());
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            let run = || {
                loop {
                    let job = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(job) = job else { return };
                    if let Err(error) = self.engine.cancel.check().and_then(|()| work(job)) {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            };
            for _ in 1..jobs.len().min(AT_ONCE) {
                scope.spawn(run);
            }
            run();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Waits for the uploads that were begun during the build.
    fn join(&self) -> Result<()> {
        let uploads = std::mem::take(&mut *self.uploads.lock().unwrap_or_else(PoisonError::into_inner));
        for upload in uploads.into_values() {
            upload.join().map_err(|_| Error::internal("an upload thread panicked"))??;
        }
        Ok(())
    }
}

impl Cache for Exporter<'_, '_> {
    fn find(&self, _key: &Digest) -> Answer {
        Answer::Absent
    }

    fn put(&self, entry: &Entry<'_>) -> Result<()> {
        if self.extent == CacheExtent::Min && !entry.in_result {
            return Ok(());
        }
        let step = entry.step(self.engine.compression.to_string());
        let digest = step.packed.descriptor.digest.clone();
        let kept = Kept { step, layer: Arc::clone(entry.layer) };
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).insert(entry.key.digest.clone(), kept);
        if let Some(target) = self.repository()
            && !self.comes_anyway(target, entry)
        {
            let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
            uploads.entry(digest).or_insert_with(|| {
                let (engine, target, layer) = (self.engine, target.clone(), Arc::clone(entry.layer));
                self.scope.spawn(move || send(engine, &target, &layer, &[]))
            });
        }
        Ok(())
    }

    fn wants_all(&self) -> bool {
        self.extent == CacheExtent::Max
    }

    fn finish(&self) -> Result<()> {
        match self.write() {
            Ok(()) => Ok(()),
            Err(error) if self.is_strict => Err(error
                .within(format!("cannot write the cache {}", self.target))
                .hint("the image is built; leave `ignore-error=false` out to be only warned")),
            Err(error) => {
                self.engine.cancel.check()?;
                let text = format!("the cache {} was not written: {}", self.target, told(&error));
                self.engine.sink.event(Event::Warning { text, place: None });
                Ok(())
            }
        }
    }
}

/// Brings a layer into the repository of `target`, from another one of the same registry if it is in one of `near`.
fn send(engine: &Engine, target: &Reference, layer: &Layer, near: &[Reference]) -> Result<()> {
    let packed = layer.packed.wait()?;
    let digest = &packed.descriptor.digest;
    let origin = match &layer.origin {
        Origin::Registry(origin) => Some(origin),
        Origin::Store | Origin::Layout(_) => None,
    };
    let mut is_near = false;
    for from in near.iter().chain(origin).filter(|from| from.registry() == target.registry()) {
        is_near = true;
        if from.repository() != target.repository() && engine.client.mount(target, digest, from)? {
            return Ok(());
        }
    }
    if (is_near || !engine.store.has(&packed.descriptor)) && engine.client.exists(target, digest)? {
        return Ok(());
    }
    let descriptor = engine.blob(layer)?;
    let transfer =
        Transfer::new(&engine.sink, format!("cache {}", descriptor.digest.short()), Some(descriptor.size));
    let source: Arc<dyn UploadSource> = Arc::new(StoredBlob { store: engine.store.clone(), descriptor });
    engine.client.upload(target, &source, Some(transfer.observer()))?;
    transfer.done();
    Ok(())
}

/// Writes the documents of a cache, whose layers are there.
fn publish(engine: &Engine, target: &Reference, written: &document::Written) -> Result<()> {
    let descriptor = Descriptor::of(document::CONFIG_TYPE, &written.config);
    let config: Arc<dyn UploadSource> = Arc::new(Bytes { bytes: written.config.clone().into(), descriptor });
    engine.client.upload(target, &config, None)?;
    engine.client.put_document(target, &written.manifest)?;
    Ok(())
}
