//! What every room below works with, and the two ways in which a lazy layer becomes real: its blob is fetched,
//! its files are unpacked.

mod recompress;
mod roots;
mod stack;

pub(crate) use roots::{WorkingRoot, WorkingRoots};

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use kiln_oci::layer::{Compression, LayerReader, Limits};
use kiln_oci::{Descriptor, Digest, Verifier};
use kiln_remote::Client;
use kiln_sandbox::Ids as Scheme;
use kiln_sandbox::{CgroupPlan, Emulator, Isolation};

use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::progress::{Event, Mask, Sink, Work, span};
use crate::request::{ContextModes, ImageLimits, RunOptions, Secret, SshAgent};
use crate::rootfs::{Layer, Origin};
use crate::snapshot::{Ids, Owner};
use crate::store::{Growing, Store};

/// A range in `/etc/subuid` is mostly 65536 ids, of which kiln may need one for itself: what images use fits.
const USUAL_RANGE: u32 = 65_535;

/// Everything that the steps of one build share.
pub(crate) struct Engine {
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) sink: Sink,
    pub(crate) cancel: Cancel,
    /// What RUN is expected to get: how owners are kept follows from it.
    pub(crate) isolation: Isolation,
    /// What RUN gets, once a command has to be run and a sandbox was tried.
    pub(crate) proven: OnceLock<Isolation>,
    pub(crate) compression: Compression,
    pub(crate) workers: usize,
    pub(crate) epoch: i64,
    /// The modes of files of contexts.
    pub(crate) modes: ContextModes,
    pub(crate) limits: ImageLimits,
    pub(crate) resolv_conf: Vec<u8>,
    pub(crate) hosts: Vec<u8>,
    /// What commands get besides what the Dockerfile says.
    pub(crate) run: RunOptions,
    /// Where the limits of commands are enforced, once a command has to be run.
    pub(crate) cgroup: OnceLock<Option<CgroupPlan>>,
    /// Emulators that commands of a platform get, by its architecture.
    pub(crate) emulators: Mutex<BTreeMap<String, Emulator>>,
    pub(crate) grants: Grants,
    /// Layers that could not be had from where they should be.
    pub(crate) lost: Mutex<BTreeSet<Digest>>,
    /// Where commands work that have no overlay.
    pub(crate) roots: WorkingRoots,
}

/// What a build was trusted with.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    /// Secrets whose value counts for the cache.
    pub(crate) keyed: BTreeSet<String>,
    /// Secrets by id.
    pub(crate) secrets: BTreeMap<String, Secret>,
    /// Takes their values out of what is shown.
    pub(crate) mask: Mask,
    /// SSH agents by id.
    pub(crate) agents: BTreeMap<String, SshAgent>,
    /// The host of a build context that is a repository.
    pub(crate) context_host: Option<String>,
}

/// Owners on disk as the isolation of this build keeps them.
#[derive(Debug, Clone)]
pub(crate) struct DiskIds(Isolation);

impl Ids for DiskIds {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        let known = match self.0.ids {
            Scheme::Idmapped { .. } | Scheme::Natural => true,
            Scheme::Nested { count } => container.uid < count && container.gid < count,
            Scheme::Single | Scheme::Owner(_) => container == Owner::default(),
        };
        known.then(|| Owner { uid: self.0.disk_id(container.uid), gid: self.0.disk_id(container.gid) })
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        Some(Owner { uid: self.0.container_id(disk.uid), gid: self.0.container_id(disk.gid) })
    }
}

/// Returns the name of the way in which `isolation` keeps owners on disk.
pub(crate) fn scheme(isolation: &Isolation) -> &'static str {
    match isolation.ids {
        Scheme::Idmapped { .. } | Scheme::Natural => "natural",
        Scheme::Nested { .. } => "nested",
        Scheme::Single | Scheme::Owner(_) => "single",
    }
}

impl Engine {
    /// Returns the name of the set of snapshots whose owners this build understands.
    pub(crate) fn scheme(&self) -> &'static str {
        scheme(&self.isolation)
    }

    /// Returns how owners are kept on disk.
    pub(crate) fn ids(&self) -> DiskIds {
        DiskIds(self.isolation.clone())
    }

    /// Returns what of the way in which owners are kept can show in the layer of a command.
    ///
    /// A command sees the same ids below root, in the range of an ordinary user, and with one id, where they are emulated. In
    /// a range that is smaller than what images use a change of user can fail, and commands may shrug that off.
    pub(crate) fn owners(&self) -> String {
        match self.isolation.ids {
            Scheme::Nested { count } if count < USUAL_RANGE => format!("range of {count}"),
            Scheme::Idmapped { .. } | Scheme::Natural | Scheme::Nested { .. } | Scheme::Single => {
                "range".to_owned()
            }
            Scheme::Owner(_) => "single".to_owned(),
        }
    }

    /// Returns the isolation, as far as it is known.
    pub(crate) fn isolation(&self) -> &Isolation {
        self.proven.get().unwrap_or(&self.isolation)
    }

    /// Returns the emulator for programs of an architecture, if they need one.
    pub(crate) fn emulator(&self, architecture: &str) -> Option<Emulator> {
        self.emulators.lock().unwrap_or_else(PoisonError::into_inner).get(architecture).cloned()
    }

    /// Fails with cause and remedy when no command can be run here.
    pub(crate) fn require_sandbox(&self) -> Result<()> {
        self.isolation().ensure_runnable().map_err(|e| sandbox_error("RUN cannot be isolated here", e))
    }

    /// Returns the blob of `layer` in the store, fetching it if it is elsewhere.
    pub(crate) fn blob(&self, layer: &Layer) -> Result<Descriptor> {
        let packed = layer.packed.wait()?;
        if self.store.has(&packed.descriptor) {
            return Ok(packed.descriptor);
        }
        self.fetch(layer, &packed.descriptor).inspect_err(|_| self.lose(&packed.descriptor))?;
        Ok(packed.descriptor)
    }

    /// Notes that a layer cannot be had, unless that is only because the build ends.
    pub(crate) fn lose(&self, descriptor: &Descriptor) {
        if !self.cancel.is_cancelled() {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).insert(descriptor.digest.clone());
        }
    }

    fn fetch(&self, layer: &Layer, descriptor: &Descriptor) -> Result<()> {
        // Two stages, or two processes, may want the same layer: the second waits and finds it.
        let _lock = self.store.lock(&format!("blob-{}", descriptor.digest.hex()))?;
        if self.store.has(descriptor) {
            return Ok(());
        }
        let mut source = self.open_remote(layer, descriptor)?;
        let mut writer = self.store.writer()?;
        let copied = self.copy(&mut source, &mut writer);
        copied.map_err(|e| Error::from_io(format!("cannot fetch layer {}", descriptor.digest), e))?;
        writer.finish(descriptor)
    }

    fn copy(&self, source: &mut dyn Read, writer: &mut dyn io::Write) -> io::Result<()> {
        let mut buf = vec![0; 128 << 10];
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("the build was stopped"));
            }
            match source.read(&mut buf) {
                Ok(0) => return writer.flush(),
                Ok(n) => writer.write_all(&buf[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Opens the content of a layer that is not in the store; what it gives is checked against the descriptor.
    fn open_remote(&self, layer: &Layer, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match &layer.origin {
            Origin::Registry(reference) => {
                let transfer = Transfer::new(
                    &self.sink,
                    format!("pull {}", descriptor.digest.short()),
                    Some(descriptor.size),
                );
                let observer = transfer.observer();
                let reader = self.client.blob(reference, descriptor, Some(observer))?;
                Ok(Box::new(Finishing { reader, transfer: Some(transfer) }))
            }
            Origin::Layout(dir) => {
                let path =
                    dir.join("blobs").join(descriptor.digest.algorithm()).join(descriptor.digest.hex());
                let file = std::fs::File::open(&path).map_err(|e| {
                    Error::input(format!("the layout `{}` lacks layer {}", dir.display(), descriptor.digest))
                        .because(e)
                })?;
                Ok(Box::new(Verifier::new(file, descriptor.digest.clone(), descriptor.size)))
            }
            Origin::Store => {
                Err(Error::environment(format!("layer {} is gone from the store", descriptor.digest))
                    .hint("build again with `--no-cache`"))
            }
        }
    }

    /// Returns the directory with the files of `layer`, unpacking it if nobody has.
    pub(crate) fn files(&self, layer: &Layer) -> Result<PathBuf> {
        let mut slot = layer.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = slot.as_ref() {
            return Ok(dir.clone());
        }
        let dir = self.unpack(layer)?;
        *slot = Some(dir.clone());
        Ok(dir)
    }

    fn unpack(&self, layer: &Layer) -> Result<PathBuf> {
        if let Some(packed) = layer.packed.peek()
            && let Some(dir) = self.store.snapshot(self.scheme(), packed.diff_id.hex())
        {
            return Ok(dir);
        }
        if let (Some(growing), None) = (layer.growing(), layer.packed.peek()) {
            // Still being packed: read along.
            let pending = self.store.begin_snapshot()?;
            span(&self.sink, Work::Unpack, "unpack the new layer", None, || {
                self.unpack_into(Box::new(growing.reader(0)), &pending.fs(), "the new layer")
            })?;
            let packed = layer.packed.wait()?;
            return pending.commit(self.scheme(), packed.diff_id.hex());
        }
        let packed = layer.packed.wait()?;
        let id = packed.diff_id.hex();
        let _lock = self.store.lock(&format!("layer-{}-{id}", self.scheme()))?;
        if let Some(dir) = self.store.snapshot(self.scheme(), id) {
            return Ok(dir);
        }
        let name = format!("layer {}", packed.descriptor.digest.short());
        let pending = self.store.begin_snapshot()?;
        let found = span(&self.sink, Work::Unpack, format!("unpack {name}"), None, || {
            if self.store.has(&packed.descriptor) {
                let blob = self.store.open_blob(&packed.descriptor)?;
                self.unpack_into(Box::new(blob), &pending.fs(), &name)
            } else {
                self.fetch_and_unpack(layer, &packed.descriptor, &pending.fs(), &name)
            }
        });
        let found = found.inspect_err(|_| self.lose(&packed.descriptor))?;
        if found != packed.diff_id {
            self.lose(&packed.descriptor);
            return Err(Error::input(format!(
                "{name} unpacks to {found}, its image says {}",
                packed.diff_id
            ))
            .hint("the image is damaged or was tampered with; pull it from its source again"));
        }
        pending.commit(self.scheme(), id)
    }

    /// Downloads and unpacks at once: the unpacker follows the blob as it grows.
    fn fetch_and_unpack(
        &self,
        layer: &Layer,
        descriptor: &Descriptor,
        dir: &std::path::Path,
        name: &str,
    ) -> Result<Digest> {
        let mut source = self.open_remote(layer, descriptor)?;
        let mut writer = self.store.writer()?;
        let growing: Arc<Growing> = writer.blob();
        std::thread::scope(|scope| {
            let fetch = scope.spawn(move || -> Result<()> {
                match self.copy(&mut source, &mut writer) {
                    Ok(()) => writer.finish(descriptor),
                    Err(e) => {
                        let error = Error::from_io(format!("cannot fetch layer {}", descriptor.digest), e);
                        writer.fail(&error.to_string());
                        Err(error)
                    }
                }
            });
            let unpacked = self.unpack_into(Box::new(growing.reader(0)), dir, name);
            // If the download failed, that is the cause of whatever the unpacker says.
            fetch.join().map_err(|_| Error::internal("the download thread panicked"))??;
            unpacked
        })
    }

    fn unpack_into(&self, source: Box<dyn Read + Send>, dir: &std::path::Path, name: &str) -> Result<Digest> {
        let limits = Limits { max_unpacked: self.limits.layer_size, ..Limits::default() };
        let failed = |e: Error| e.within(format!("cannot unpack {name}"));
        let reader = LayerReader::threaded(Box::new(self.cancel.reader(source)), limits)
            .map_err(|e| Error::input(format!("cannot read {name}")).because(e))?;
        let unpacked = crate::snapshot::unpack(reader, dir, &self.ids()).map_err(|e| {
            let limit = matches!(&e, crate::snapshot::Error::Layer(kiln_oci::layer::Error::Limit { .. }));
            let error = failed(e.into());
            if limit {
                error.hint("raise the limit with `--max-layer-size SIZE` if you trust the image")
            } else {
                error
            }
        })?;
        crate::snapshot::write_owners(dir, &unpacked.owners, unpacked.recorded > 0)?;
        self.cancel.check()?;
        Ok(unpacked.diff_id)
    }
}

/// Wraps a failure of the sandbox.
pub(crate) fn sandbox_error(what: impl Into<String>, error: kiln_sandbox::Error) -> Error {
    let hint = error.hint.clone();
    let mut out = Error::environment(what).because(error);
    out.hints.extend(hint);
    out
}

impl Error {
    /// Wraps an I/O error; one that carries a failure of a registry keeps its kind and its hints.
    pub(crate) fn from_io(what: impl Into<String>, error: io::Error) -> Self {
        match kiln_remote::Error::of(&error) {
            Some(remote) => Self::from(remote.clone()).within(what),
            None => Self::input(what).because(error),
        }
    }
}

/// Reports the bytes of one transfer, at most ten times a second.
pub(crate) struct Transfer {
    sink: Sink,
    name: String,
    total: Option<u64>,
    seen: Arc<AtomicU64>,
    started: Instant,
}

impl Transfer {
    pub(crate) fn new(sink: &Sink, name: String, total: Option<u64>) -> Self {
        sink.event(Event::Transfer { name: name.clone(), bytes: 0, total, done: false });
        Self { sink: Arc::clone(sink), name, total, seen: Arc::default(), started: Instant::now() }
    }

    pub(crate) fn observer(&self) -> kiln_remote::Observer {
        let (sink, name, total, seen) =
            (Arc::clone(&self.sink), self.name.clone(), self.total, Arc::clone(&self.seen));
        let last = Mutex::new(Instant::now());
        Arc::new(move |bytes| {
            seen.store(bytes, Ordering::Relaxed);
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.elapsed().as_millis() >= 100 {
                *last = Instant::now();
                sink.event(Event::Transfer { name: name.clone(), bytes, total, done: false });
            }
        })
    }

    pub(crate) fn done(self) {
        let bytes = self.seen.load(Ordering::Relaxed);
        let (name, total) = (self.name.clone(), self.total);
        self.sink.event(Event::Transfer { name, bytes, total, done: true });
    }
}

/// One that broke off took its time too.
impl Drop for Transfer {
    fn drop(&mut self) {
        self.sink.event(Event::Span {
            work: Work::Transfer,
            name: std::mem::take(&mut self.name),
            step: None,
            started: self.started,
            took: self.started.elapsed(),
            bytes: Some(self.seen.load(Ordering::Relaxed)),
        });
    }
}

/// Ends the report of a transfer with the content.
struct Finishing<R> {
    reader: R,
    transfer: Option<Transfer>,
}

impl<R: Read> Read for Finishing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buf)?;
        if n == 0
            && !buf.is_empty()
            && let Some(transfer) = self.transfer.take()
        {
            transfer.done();
        }
        Ok(n)
    }
}
