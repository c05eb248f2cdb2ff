//! Pushing: blobs go up while steps still run, the manifest last, so that a tag never names half an image.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use kiln_oci::{Descriptor, Reference};
use kiln_remote::{Delivery, UploadSource};

use crate::engine::{Engine, Transfer};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::rootfs::{Layer, Origin};
use crate::store::{Growing, Store};

/// A new layer starts to travel before it is complete once it is this large; smaller ones wait for their digest, so that
/// one which the registry has is not sent at all.
const STREAM_FROM: u64 = 8 << 20;

/// A push that has begun.
pub(crate) struct Push<'scope, 'env: 'scope> {
    engine: &'env Engine,
    scope: &'scope Scope<'scope, 'env>,
    /// One name for each repository that is pushed to.
    targets: Vec<Reference>,
    uploads: Mutex<Vec<ScopedJoinHandle<'scope, Result<()>>>>,
}

impl<'scope, 'env> Push<'scope, 'env> {
    /// Starts a push to the repositories of `names`.
    pub(crate) fn new(engine: &'env Engine, scope: &'scope Scope<'scope, 'env>, names: &[Reference]) -> Self {
        let mut targets: Vec<Reference> = Vec::new();
        for name in names {
            if !targets.iter().any(|t| t.name() == name.name()) {
                targets.push(name.clone());
            }
        }
        Self { engine, scope, targets, uploads: Mutex::new(Vec::new()) }
    }

    /// Begins to upload a layer, which may still be being packed.
    pub(crate) fn layer(&self, layer: &Arc<Layer>) {
        for target in &self.targets {
            let (engine, layer, target) = (self.engine, Arc::clone(layer), target.clone());
            let upload = self.scope.spawn(move || self::layer(engine, &layer, &target));
            self.uploads.lock().unwrap_or_else(PoisonError::into_inner).push(upload);
        }
    }

    /// Waits for the layers, then uploads config and manifest under every name.
    pub(crate) fn finish(self, image: &Image, names: &[Reference]) -> Result<Vec<String>> {
        for upload in self.uploads.into_inner().unwrap_or_else(PoisonError::into_inner) {
            upload.join().map_err(|_| Error::internal("an upload thread panicked"))??;
        }
        self.engine.cancel.check()?;
        for target in &self.targets {
            let config: Arc<dyn UploadSource> = Arc::new(Bytes {
                bytes: image.config.clone().into(),
                descriptor: image.config_descriptor.clone(),
            });
            self.engine.client.upload(target, &config, None)?;
        }
        let mut told = Vec::new();
        for name in names {
            self.engine.client.put_document(name, &image.manifest)?;
            told.push(format!("pushed to `{name}`"));
        }
        Ok(told)
    }
}

fn layer(engine: &Engine, layer: &Layer, target: &Reference) -> Result<()> {
    if let (Origin::Registry(from), Some(packed)) = (&layer.origin, layer.packed.peek()) {
        let digest = &packed.descriptor.digest;
        let there = if from.registry() == target.registry() {
            from.repository() == target.repository() || engine.client.mount(target, digest, from)?
        } else {
            engine.client.exists(target, digest)?
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
            Arc::new(Stored { store: engine.store.clone(), descriptor })
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

struct Stored {
    store: Store,
    descriptor: Descriptor,
}

impl UploadSource for Stored {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        use std::io::{Seek as _, SeekFrom};
        let path = self.store.blob_path(&self.descriptor.digest).map_err(io::Error::other)?;
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.descriptor.clone())
    }

    fn complete(&self) -> Option<Descriptor> {
        Some(self.descriptor.clone())
    }
}

struct Bytes {
    bytes: Arc<[u8]>,
    descriptor: Descriptor,
}

impl UploadSource for Bytes {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(Box::new(io::Cursor::new(self.bytes[start..].to_vec())))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.descriptor.clone())
    }

    fn complete(&self) -> Option<Descriptor> {
        Some(self.descriptor.clone())
    }
}
