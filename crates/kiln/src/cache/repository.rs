//! A repository with one manifest for each step, tagged with the step's key: what kaniko calls a cache repository.
//!
//! Nothing is ever overwritten, so any number of builds of any projects share it without losing each other's results; the
//! price is a lookup for each step, which are made several at a time, and a repository that only grows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_oci::{Digest, Reference};

use super::document::Step;
use super::place::Place;
use super::shared::{Later, Lender, Reading};
use super::{Answer, Cache, Entry, told};
use crate::error::{Error, Result};
use crate::request::CacheRepository;
use crate::rootfs::Origin;

/// Steps that are looked up ahead, a thread each; their requests take turns in the client.
const AHEAD: usize = 64;

/// Returns where the step with this key is in `repository`.
pub(super) fn place(repository: &CacheRepository, key: &Digest) -> Result<Place> {
    match repository {
        CacheRepository::Layout(dir) => Ok(Place::Layout { dir: dir.clone(), target: key.hex().to_owned() }),
        CacheRepository::Registry(reference) => {
            let name = format!("{}:{}", reference.name(), key.hex());
            let reference: Reference = name
                .parse()
                .map_err(|e| Error::input(format!("`{name}` is no name in a registry")).because(e))?;
            Ok(Place::Registry(reference))
        }
    }
}

type Outcome = std::result::Result<Option<Arc<(Step, Origin)>>, Arc<Error>>;

/// A repository that is asked for each step.
pub(crate) struct RepositoryCache {
    repository: CacheRepository,
    reading: Reading,
    lookups: Mutex<BTreeMap<Digest, Arc<Later<Outcome>>>>,
    given: Mutex<BTreeSet<Digest>>,
    /// Not asked any more: it failed, or lost a layer.
    withdrawn: AtomicBool,
}

impl RepositoryCache {
    pub(super) fn new(repository: CacheRepository, reading: Reading) -> Self {
        let withdrawn = AtomicBool::new(false);
        Self { repository, reading, lookups: Mutex::default(), given: Mutex::default(), withdrawn }
    }

    pub(super) fn repository(&self) -> &CacheRepository {
        &self.repository
    }

    fn lookup(&self, key: &Digest) -> Arc<Later<Outcome>> {
        let mut lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let (client, platform) = (self.reading.client(), self.reading.platform.clone());
            let (wanted, place) = (key.clone(), place(&self.repository, key));
            Later::start(move || {
                let Some(contents) = place?.read(&client, &platform).map_err(Arc::new)? else {
                    return Ok(None);
                };
                let origin = contents.origin;
                let step = contents.steps.into_iter().find(|step| step.key == wanted);
                Ok(step.map(|step| Arc::new((step, origin))))
            })
        };
        Arc::clone(lookups.entry(key.clone()).or_insert_with(start))
    }

    /// Forgets lookups: those under way when an attempt to build ended were ended with it.
    pub(super) fn renew(&self) {
        self.lookups.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn found(&self, key: &Digest) -> Option<Arc<(Step, Origin)>> {
        if self.withdrawn.load(Ordering::SeqCst) {
            return None;
        }
        let why = match self.lookup(key).wait() {
            Some(Ok(found)) => return found,
            Some(Err(error)) => told(&error),
            None => "did not answer in time".to_owned(),
        };
        // One that fails for one step would fail for each, and let the build wait every time.
        if !self.withdrawn.swap(true, Ordering::SeqCst) {
            let repository = &self.repository;
            self.reading.warn(format!("the cache `{repository}` {why}; it is not asked any more"));
        }
        None
    }

    /// Tells whether the repository is known to have this step.
    pub(super) fn has(&self, key: &Digest) -> bool {
        let lookups = self.lookups.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lookups.get(key).cloned();
        drop(lookups);
        known.is_some() && self.found(key).is_some()
    }
}

impl Lender for RepositoryCache {
    fn withdraw(&self, lost: &BTreeSet<Digest>) -> bool {
        let name = format!("`{}`", self.repository);
        self.reading.give_up(&name, (&self.given, &self.withdrawn), lost)
    }
}

impl Cache for RepositoryCache {
    fn prefetch(&self, keys: &[&Digest]) {
        for key in keys.iter().take(AHEAD) {
            self.lookup(key);
        }
    }

    fn find(&self, key: &Digest) -> Answer {
        let Some(found) = self.found(key) else { return Answer::Absent };
        let (step, origin) = &*found;
        let answer = self.reading.answer(step, origin);
        if let Answer::Hit(found) = &answer {
            let digest = found.packed.descriptor.digest.clone();
            self.given.lock().unwrap_or_else(PoisonError::into_inner).insert(digest);
        }
        answer
    }

    fn put(&self, _entry: &Entry<'_>) -> Result<()> {
        Ok(())
    }
}
