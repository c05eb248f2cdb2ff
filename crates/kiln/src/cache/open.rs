//! From what was asked for to caches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use kiln_oci::Digest;
use kiln_remote::Client;

use super::export::{Exporter, Target};
use super::place::Place;
use super::repository::RepositoryCache;
use super::shared::{Lender, Reading, SharedCache};
use super::{Cache, InlineCache};
use crate::engine::Engine;
use crate::request::{BuildRequest, CacheExtent, CacheMode, CacheSource, CacheTarget, Output};

/// The tag of a cache in a layout directory when none is given, as in BuildKit.
const TAG: &str = "latest";

/// The shared caches that a build reads.
pub(crate) struct Imports {
    client: Arc<Mutex<Client>>,
    sources: Vec<Import>,
}

#[derive(Clone)]
enum Import {
    Shared(Arc<SharedCache>),
    Repository(Arc<RepositoryCache>),
}

impl Imports {
    /// Starts to read what `request` names, unless everything is to be done anew.
    pub(crate) fn start(engine: &Engine, request: &BuildRequest) -> Self {
        let client = Arc::new(Mutex::new(engine.client.clone()));
        let reading = Reading {
            client: Arc::clone(&client),
            sink: Arc::clone(&engine.sink),
            platform: request.target_platform(),
            max_age: request.cache_ttl,
        };
        let open = |source: &CacheSource| {
            let shared = |place| Import::Shared(Arc::new(SharedCache::start(place, reading.clone())));
            match source {
                CacheSource::Registry(reference) => shared(Place::Registry(reference.clone())),
                CacheSource::Local { src, target } => shared(Place::Layout {
                    dir: src.clone(),
                    target: target.clone().unwrap_or_else(|| TAG.to_owned()),
                }),
                CacheSource::Repository(repository) => {
                    Import::Repository(Arc::new(RepositoryCache::new(repository.clone(), reading.clone())))
                }
            }
        };
        let wanted = match request.cache {
            CacheMode::ReadWrite => request.cache_from.as_slice(),
            CacheMode::WriteOnly => &[],
        };
        Self { sources: wanted.iter().map(open).collect(), client }
    }

    /// Takes over the client of a new attempt to build; that of the last one was stopped.
    pub(crate) fn renew(&self, client: &Client) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client.clone();
        for import in &self.sources {
            if let Import::Repository(cache) = import {
                cache.renew();
            }
        }
    }

    /// Tells whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Returns the caches, in the order in which they were named.
    pub(crate) fn caches<'a>(&self) -> Vec<Box<dyn Cache + 'a>> {
        let cache = |import: &Import| -> Box<dyn Cache + 'a> {
            match import {
                Import::Shared(cache) => Box::new(Arc::clone(cache)),
                Import::Repository(cache) => Box::new(Arc::clone(cache)),
            }
        };
        self.sources.iter().map(cache).collect()
    }

    /// Gives up the caches that gave steps a layer which cannot be had; tells whether there was one.
    pub(crate) fn withdraw(&self, lost: &BTreeSet<Digest>) -> bool {
        let withdraw = |import: &Import| match import {
            Import::Shared(cache) => cache.withdraw(lost),
            Import::Repository(cache) => cache.withdraw(lost),
        };
        // Each of them, not only the first: several may have named the layer.
        self.sources.iter().filter(|import| withdraw(import)).count() > 0
    }
}

/// The shared caches that a build writes.
#[derive(Default)]
pub(crate) struct Exports<'a> {
    pub(crate) caches: Vec<Box<dyn Cache + 'a>>,
    /// The one inside the image.
    pub(crate) inline: Option<Arc<InlineCache>>,
}

/// Returns the shared caches that `request` wants written; transfers run in `scope`.
pub(crate) fn exports<'scope, 'env: 'scope>(
    engine: &'env Engine,
    scope: &'scope Scope<'scope, 'env>,
    request: &BuildRequest,
    imports: &Imports,
) -> Exports<'scope> {
    let pushed = if request.outputs.contains(&Output::Registry) { request.tags.as_slice() } else { &[] };
    let mut near: Vec<_> = pushed.iter().map(|name| (name.clone(), CacheExtent::Min)).collect();
    let mut out = Exports::default();
    for wanted in &request.cache_to {
        let shared = |place: Place| {
            let known = imports.sources.iter().find_map(|import| match import {
                Import::Shared(cache) if *cache.place() == place => Some(Arc::clone(cache)),
                _ => None,
            });
            Target::One(place, known)
        };
        let target = match &wanted.target {
            CacheTarget::Inline => {
                let inline = Arc::new(InlineCache::new(engine.compression.to_string()));
                out.caches.push(Box::new(Arc::clone(&inline)));
                out.inline = Some(inline);
                continue;
            }
            CacheTarget::Registry(reference) => shared(Place::Registry(reference.clone())),
            CacheTarget::Local { dest, tag } => shared(Place::Layout {
                dir: dest.clone(),
                target: tag.clone().unwrap_or_else(|| TAG.to_owned()),
            }),
            CacheTarget::Repository(repository) => {
                let known = imports.sources.iter().find_map(|import| match import {
                    Import::Repository(cache) if cache.repository() == repository => Some(Arc::clone(cache)),
                    _ => None,
                });
                Target::Each(repository.clone(), known)
            }
        };
        let how = (wanted.extent, wanted.is_strict);
        let exporter = Exporter::new(engine, scope, target, how, near.clone());
        // Caches are written one after the other: what the first has brought to a registry, the next mounts.
        near.extend(exporter.repository().map(|repository| (repository.clone(), wanted.extent)));
        out.caches.push(Box::new(exporter));
    }
    out
}
