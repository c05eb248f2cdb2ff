//! Pushing: blobs go up while steps still run, the manifest last, so that a tag never names half an image.
//!
//! Before anything that existed is looked up, each name is asked for the digest of its manifest. Where that is the one of
//! the image, the push is over with this one request.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use kiln_oci::{Descriptor, Reference};
use kiln_remote::{Delivery, UploadSource};

use crate::engine::{Engine, Transfer};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::rootfs::{Layer, Origin};
use crate::store::{Bytes, Growing, StoredBlob};

/// A new layer starts to travel before it is complete once it is this large; smaller ones wait for their digest, so that
/// one which the registry has is not sent at all.
const STREAM_FROM: u64 = 8 << 20;

/// A push that has begun.
pub(crate) struct Push<'scope, 'env: 'scope> {
    engine: &'env Engine,
    scope: &'scope Scope<'scope, 'env>,
    /// One name for each repository that is pushed to.
    targets: Vec<Reference>,
    begun: Mutex<Begun<'scope>>,
}

#[derive(Default)]
struct Begun<'scope> {
    uploads: Vec<ScopedJoinHandle<'scope, Result<()>>>,
    /// Layers that exist already, as long as none is new.
    later: Vec<Arc<Layer>>,
    /// Whether a layer is new, so that the image most likely is as well.
    new: bool,
}

impl<'scope, 'env: 'scope> Push<'scope, 'env> {
    /// Starts a push to the repositories of `names`.
    pub(crate) fn new(engine: &'env Engine, scope: &'scope Scope<'scope, 'env>, names: &[Reference]) -> Self {
        let mut targets: Vec<Reference> = Vec::new();
        for name in names {
            if !targets.iter().any(|t| t.name() == name.name()) {
                targets.push(name.clone());
            }
        }
        Self { engine, scope, targets, begun: Mutex::default() }
    }

    /// Takes a layer of the image, which begins to travel at once. Only while no layer is new, nothing does: the image
    /// may be at the registry as it is, and then nobody has to ask for its layers.
    pub(crate) fn layer(&self, layer: &Arc<Layer>) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.new |= layer.growing().is_some();
        begun.later.push(Arc::clone(layer));
        if begun.new {
            self.upload(&mut begun, &self.targets);
        }
    }

    /// Begins to upload the layers that wait.
    fn upload<'t>(
        &self,
        begun: &mut Begun<'scope>,
        targets: impl IntoIterator<Item = &'t Reference> + Clone,
    ) {
        for layer in std::mem::take(&mut begun.later) {
            for target in targets.clone() {
                let (engine, layer, target) = (self.engine, Arc::clone(&layer), target.clone());
                begun.uploads.push(self.scope.spawn(move || self::layer(engine, &layer, &target)));
            }
        }
    }

    /// Uploads what the registry lacks of the layers, then config and manifest under every name that does not have it.
    pub(crate) fn finish(self, image: &Image, names: &[Reference]) -> Result<Vec<String>> {
        let engine = self.engine;
        // New layers go on travelling meanwhile.
        let unchanged = unchanged(engine, image, names)?;
        let mut begun = std::mem::take(&mut *self.begun.lock().unwrap_or_else(PoisonError::into_inner));
        // A manifest stands for its blobs: who has it under one name has them for the others in the repository.
        let has = |target: &Reference| {
            names.iter().zip(&unchanged).any(|(name, same)| *same && name.name() == target.name())
        };
        let lacking: Vec<&Reference> = self.targets.iter().filter(|target| !has(target)).collect();
        self.upload(&mut begun, lacking.iter().copied());
        for upload in begun.uploads {
            upload.join().map_err(|_| Error::internal("an upload thread panicked"))??;
        }
        engine.cancel.check()?;
        for target in lacking {
            let config: Arc<dyn UploadSource> = Arc::new(Bytes {
                bytes: image.config.clone().into(),
                descriptor: image.config_descriptor.clone(),
            });
            engine.client.upload(target, &config, None)?;
        }
        let mut told = Vec::new();
        for (name, same) in names.iter().zip(unchanged) {
            if same {
                told.push(format!("`{name}` is unchanged: it is this image already"));
                continue;
            }
            engine.client.put_document(name, &image.manifest)?;
            told.push(format!("pushed to `{name}`"));
        }
        Ok(told)
    }
}

/// Asks of every name whether it is this image already, of all at once.
fn unchanged(engine: &Engine, image: &Image, names: &[Reference]) -> Result<Vec<bool>> {
    let ask = |name: &Reference| Ok(engine.client.names_document(name, image.manifest.digest())?);
    if let [name] = names {
        return Ok(vec![ask(name)?]);
    }
    std::thread::scope(|scope| {
        let asked: Vec<_> = names.iter().map(|name| scope.spawn(move || ask(name))).collect();
        let answer = |asked: ScopedJoinHandle<'_, Result<bool>>| {
            asked.join().map_err(|_| Error::internal("a thread that asked a registry panicked"))?
        };
        asked.into_iter().map(answer).collect()
    })
}

fn layer(engine: &Engine, layer: &Layer, target: &Reference) -> Result<()> {
    if let (Origin::Registry(from), Some(packed)) = (&layer.origin, layer.packed.peek()) {
        let digest = &packed.descriptor.digest;
        let there = match (from.registry() == target.registry(), from.repository() == target.repository()) {
            (true, true) if !layer.is_lent => true,
            (true, false) => engine.client.mount(target, digest, from)?,
            // Here or not: what a cache has listed may be gone from the registry.
            _ => engine.client.exists(target, digest)?,
        };
        if there {
            return Ok(());
        }
    }
    let growing = layer.growing();
    let source: Arc<dyn UploadSource> = match &growing {
        Some(growing) => {
            growing.wait_for(STREAM_FROM);
            Arc::new(GrowingSource(Arc::clone(growing)))
        }
        None => {
            let packed = layer.packed.wait()?;
            if engine.client.exists(target, &packed.descriptor.digest)? {
                return Ok(());
            }
            let descriptor = engine.blob(layer)?;
            Arc::new(StoredBlob { store: engine.store.clone(), descriptor })
        }
    };
    let known = source.complete();
    let name =
        known.as_ref().map_or_else(|| "push new layer".to_owned(), |d| format!("push {}", d.digest.short()));
    let transfer = Transfer::new(&engine.sink, name, known.map(|d| d.size));
    let uploaded = engine.client.upload(target, &source, Some(transfer.observer()));
    let uploaded = match uploaded {
        Ok(uploaded) => uploaded,
        Err(error) => {
            // If the layer itself failed, that is what the user has to know.
            if growing.is_some() {
                layer.packed.wait()?;
            }
            return Err(Error::from(error));
        }
    };
    if uploaded.delivery == Delivery::Sent || growing.is_some() {
        transfer.done();
    }
    Ok(())
}

struct GrowingSource(Arc<Growing>);

impl UploadSource for GrowingSource {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.0.reader(offset)))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        self.0.wait()
    }

    fn complete(&self) -> Option<Descriptor> {
        self.0.complete()
    }
}
