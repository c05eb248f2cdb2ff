//! One step: taken from the cache, or done.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::PoisonError;
use std::thread::Scope;
use std::time::Instant;

use kiln_oci::layer::{LayerReader, LayerWriter, Limits};

use super::Prepared;
use super::schedule::Shared;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{Assumptions, Destination, LayerIndex, Plan as FilePlan, ViewTree, emit};
use crate::graph::{BaseImage, ExecOp, FileOp, Onto, Op, VertexId};
use crate::progress::Event;
use crate::rootfs::{Layer, Origin, Packed, Rootfs};
use crate::snapshot::{ClampMtime, Options, diff, pack, remove_stubs};
use crate::store::{BlobWriter, PendingSnapshot, Record};

/// What a step gives.
pub(super) struct Outcome {
    pub(super) rootfs: Arc<Rootfs>,
    pub(super) layer: Option<Arc<Layer>>,
}

type States = BTreeMap<VertexId, Arc<Rootfs>>;

/// Runs vertex `id`; packing may go on in `scope` after this returns.
pub(super) fn run<'scope, 'env: 'scope>(
    prepared: &'env Prepared<'env>,
    shared: &'scope Shared,
    scope: &'scope Scope<'scope, 'env>,
    id: VertexId,
    states: &States,
) -> Result<Outcome> {
    let vertex = &prepared.plan.vertices[id];
    let step = Step { prepared, shared, scope, id, number: prepared.step(id), started: Instant::now() };
    let parent = vertex.parent.and_then(|p| states.get(&p).cloned());
    let result = match (&vertex.op, &prepared.hits[id]) {
        (Op::Scratch, _) => step.without_layer(Vec::new()),
        (Op::Image(image), _) => step.without_layer(base_layers(image)),
        (_, Some(record)) => step.cached(parent, record),
        (Op::Exec(exec), None) => step.exec(parent, exec, states),
        (Op::File(file), None) => step.file(parent, file, states),
    };
    result.map_err(|e| {
        prepared.engine.sink.event(Event::Failed { id: step.number, message: e.message.clone() });
        e.at(vertex.meta.place.clone())
    })
}

fn base_layers(image: &BaseImage) -> Vec<Arc<Layer>> {
    let layer = |(descriptor, diff_id): &(_, _)| {
        let packed = Packed { descriptor: Clone::clone(descriptor), diff_id: Clone::clone(diff_id) };
        Arc::new(Layer::existing(image.origin.clone(), packed))
    };
    image.layers.iter().map(layer).collect()
}

struct Step<'scope, 'env: 'scope> {
    prepared: &'env Prepared<'env>,
    shared: &'scope Shared,
    scope: &'scope Scope<'scope, 'env>,
    id: VertexId,
    number: u32,
    started: Instant,
}

impl<'scope, 'env: 'scope> Step<'scope, 'env> {
    fn engine(&self) -> &'env Engine {
        self.prepared.engine
    }

    fn event(&self, event: Event) {
        self.engine().sink.event(event);
    }

    fn without_layer(&self, layers: Vec<Arc<Layer>>) -> Result<Outcome> {
        self.event(Event::Started { id: self.number });
        self.event(Event::Finished { id: self.number, took: self.started.elapsed() });
        let rootfs = Arc::new(Rootfs { layers });
        Ok(Outcome { rootfs, layer: None })
    }

    fn cached(&self, parent: Option<Arc<Rootfs>>, record: &Record) -> Result<Outcome> {
        self.event(Event::Cached { id: self.number });
        let packed = Packed { descriptor: record.layer.clone(), diff_id: record.diff_id.clone() };
        let layer = Layer::existing(Origin::Store, packed);
        if let Some(dir) =
            record.snapshot.as_ref().and_then(|s| self.engine().store.snapshot(self.engine().scheme(), s))
        {
            *layer.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
        }
        self.on_top(parent, Arc::new(layer))
    }

    fn on_top(&self, parent: Option<Arc<Rootfs>>, layer: Arc<Layer>) -> Result<Outcome> {
        let parent = parent.ok_or_else(|| Error::internal("a step has no root file system below it"))?;
        let layers = parent.layers.iter().cloned().chain([Arc::clone(&layer)]).collect();
        Ok(Outcome { rootfs: Arc::new(Rootfs { layers }), layer: Some(layer) })
    }

    /// Runs a command. Its upper directory is the layer; packing it goes on while later steps run on top of it.
    fn exec(&self, parent: Option<Arc<Rootfs>>, exec: &ExecOp, states: &States) -> Result<Outcome> {
        let engine = self.engine();
        let below = parent.as_ref().map(|p| p.layers.clone()).unwrap_or_default();
        self.event(Event::Started { id: self.number });
        let lower = engine.all_files(&below)?;
        let tree = ViewTree::new(lower.clone(), engine.ids())?;
        let mounted = self.prepared.mounts(&exec.mounts, states)?;
        let pending = engine.store.begin_snapshot()?;
        let stubs = crate::exec::run(engine, exec, self.number, lower.clone(), &tree, &pending, mounted)?;
        remove_stubs(&pending.fs(), &stubs)?;
        self.event(Event::Finished { id: self.number, took: self.started.elapsed() });
        let name = self.snapshot_name(&pending);
        let upper = pending.commit(engine.scheme(), &name)?;
        let layer = Arc::new(Layer::packing(Some(upper.clone())));
        let writer = self.start_packing(&layer)?;
        let packing = Arc::clone(&layer);
        let step = self.detached();
        self.scope.spawn(move || {
            step.pack(&packing, writer, Some(name), |writer| {
                let options = Options { clamp: ClampMtime::To(epoch(step.prepared.engine)) };
                let ids = step.prepared.engine.ids();
                let changes = diff(&upper, &lower, &ids, &stubs, options)?;
                pack(changes, writer)?;
                Ok(())
            });
        });
        self.on_top(parent, layer)
    }

    /// Names are unique for ever: a step that runs again must not replace what another build looks into.
    fn snapshot_name(&self, pending: &PendingSnapshot) -> String {
        format!("{}-{}", self.prepared.keys.steps[self.id].short(), pending.unique())
    }

    /// Copies files. Nothing is written but the layer; a later step that looks into it unpacks it as it grows.
    fn file(&self, parent: Option<Arc<Rootfs>>, file: &'env FileOp, states: &States) -> Result<Outcome> {
        self.event(Event::Started { id: self.number });
        let below = parent.as_ref().map(|p| p.layers.clone()).unwrap_or_default();
        let sources = |copy: &_| self.prepared.source(copy, states);
        let mut dest = match file.onto {
            Onto::Nothing => Destination::lazy(Vec::new(), None),
            Onto::Parent => self.destination(&below)?,
        };
        let mut plan = FilePlan::new(file, &sources, &dest)?;
        if dest.needs_files() {
            dest = self.exact(&below)?;
            plan = FilePlan::new(file, &sources, &dest)?;
        }
        let layer = Arc::new(Layer::packing(None));
        let writer = self.start_packing(&layer)?;
        let packing = Arc::clone(&layer);
        let step = self.detached();
        self.scope.spawn(move || {
            let engine = step.prepared.engine;
            step.pack(&packing, writer, None, |writer| emit(plan, &dest, engine, writer));
            if packing.packed.peek().is_some() {
                engine.sink.event(Event::Finished { id: step.number, took: step.started.elapsed() });
            }
        });
        self.on_top(parent, layer)
    }

    fn exact(&self, below: &[Arc<Layer>]) -> Result<Destination> {
        let dirs = self.engine().all_files(below)?;
        Ok(Destination::Exact(Arc::new(ViewTree::new(dirs, self.engine().ids())?)))
    }

    /// Returns what the layers below hold, with as little work as the plan allows.
    fn destination(&self, below: &[Arc<Layer>]) -> Result<Destination> {
        let plan = self.prepared.plan;
        let chain = plan.chain(self.id);
        let base = chain.first().map(|id| &plan.vertices[*id].op);
        let (base_layers, assumptions) = match base {
            Some(Op::Image(image)) => {
                (image.layers.len(), Some(Assumptions::new(&image.config, image.layers.len())))
            }
            _ => (0, None),
        };
        let executes = chain.iter().any(|id| matches!(plan.vertices[*id].op, Op::Exec(_)));
        if executes || (assumptions.is_some() && self.prepared.base_read[self.id]) {
            return self.exact(below);
        }
        let mut layers = Vec::new();
        for layer in below.iter().skip(base_layers).rev() {
            layers.push(Arc::new(self.index(layer)?));
        }
        Ok(Destination::lazy(layers, assumptions))
    }

    /// Reads the entries of a layer that was made in this build or an earlier one.
    fn index(&self, layer: &Layer) -> Result<LayerIndex> {
        let failed = |e| Error::environment("cannot read a layer of this build").because(e);
        let index = match layer.growing() {
            Some(growing) => {
                LayerIndex::read(LayerReader::new(growing.reader(0), Limits::default()).map_err(failed)?)
            }
            None => {
                let descriptor = self.engine().blob(layer)?;
                let blob = self.engine().store.open_blob(&descriptor)?;
                LayerIndex::read(LayerReader::new(blob, Limits::default()).map_err(failed)?)
            }
        };
        index.map_err(failed)
    }

    fn start_packing(&self, layer: &Layer) -> Result<BlobWriter> {
        let writer = self.engine().store.writer()?;
        *layer.growing.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer.blob());
        Ok(writer)
    }

    fn detached(&self) -> Packer<'scope, 'env> {
        Packer {
            prepared: self.prepared,
            shared: self.shared,
            id: self.id,
            number: self.number,
            started: self.started,
        }
    }
}

fn epoch(engine: &Engine) -> kiln_oci::layer::Timestamp {
    kiln_oci::layer::Timestamp::from_secs(engine.epoch)
}

/// What a packing thread takes along.
struct Packer<'scope, 'env> {
    prepared: &'env Prepared<'env>,
    shared: &'scope Shared,
    id: VertexId,
    number: u32,
    started: Instant,
}

impl Packer<'_, '_> {
    /// Writes a layer with `fill`, records it, and tells whoever waits for it.
    fn pack(
        &self,
        layer: &Layer,
        mut blob: BlobWriter,
        snapshot: Option<String>,
        fill: impl FnOnce(&mut LayerWriter<&mut BlobWriter>) -> Result<()>,
    ) {
        let packed = match self.write(&mut blob, fill) {
            Ok(packed) => blob.finish(&packed.descriptor).and_then(|()| self.record(packed, snapshot)),
            Err(error) => {
                // Before readers of the blob learn of it, so that their failure is never taken for the first.
                self.failed(&error);
                blob.fail(&error.message);
                return layer.packed.settle(&Err(error));
            }
        };
        if let Err(error) = &packed {
            self.failed(error);
        }
        layer.packed.settle(&packed);
    }

    fn failed(&self, error: &Error) {
        let place = self.prepared.plan.vertices[self.id].meta.place.clone();
        let failure = crate::rootfs::Failure::of(error).error().at(place);
        self.prepared.engine.sink.event(Event::Failed { id: self.number, message: error.message.clone() });
        if self.shared.fail(failure) {
            self.prepared.engine.cancel.cancel();
        }
    }

    fn write(
        &self,
        blob: &mut BlobWriter,
        fill: impl FnOnce(&mut LayerWriter<&mut BlobWriter>) -> Result<()>,
    ) -> Result<Packed> {
        let engine = self.prepared.engine;
        let failed = |e| Error::layer("cannot write the layer", e);
        let mut writer = LayerWriter::new(blob, engine.compression, engine.workers).map_err(failed)?;
        fill(&mut writer)?;
        let finished = writer.finish().map_err(failed)?;
        Ok(Packed { descriptor: finished.descriptor, diff_id: finished.diff_id })
    }

    fn record(&self, packed: Packed, snapshot: Option<String>) -> Result<Packed> {
        let record = Record {
            title: self.prepared.plan.vertices[self.id].meta.title.clone(),
            diff_id: packed.diff_id.clone(),
            layer: packed.descriptor.clone(),
            snapshot,
        };
        self.prepared.engine.store.put_record(&self.prepared.keys.steps[self.id], &record)?;
        Ok(packed)
    }
}
