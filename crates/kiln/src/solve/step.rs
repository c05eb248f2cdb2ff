//! One step: taken from the cache, or done.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread::Scope;
use std::time::{Duration, Instant};

use kiln_oci::layer::{LayerReader, Limits};

use super::Prepared;
use super::packer::{Inputs, Packer, by_content};
use super::schedule::Shared;
use crate::cache::{Answer, Found};
use crate::engine::{Engine, WorkingRoot};
use crate::error::{Error, Result};
use crate::exec::Ran;
use crate::files::{Assumptions, Destination, LayerIndex, LayerIndexes, Plan as FilePlan, ViewTree, emit};
use crate::graph::{BaseImage, ExecOp, FileOp, Onto, Op, VertexId};
use crate::key::Key;
use crate::progress::{Event, Work, span};
use crate::rootfs::{Layer, Origin, Packed, Rootfs};
use crate::snapshot::{ClampMtime, Options, diff, pack, remove_stubs};
use crate::store::{BlobWriter, PendingSnapshot, StepLock};

/// What a step gives.
pub(super) struct Outcome {
    pub(super) rootfs: Arc<Rootfs>,
    pub(super) layer: Option<Arc<Layer>>,
}

type States = BTreeMap<VertexId, Arc<Rootfs>>;

/// A wait for another build that is shorter than this is not worth a line.
const PATIENCE: Duration = Duration::from_millis(500);

/// How often a step that another build runs is looked at.
const POLL: Duration = Duration::from_millis(20);

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
    let result = match &vertex.op {
        Op::Scratch => step.without_layer(Vec::new()),
        Op::Image(image) => step.without_layer(base_layers(image)),
        Op::Exec(_) | Op::File(_) => step.layer(parent, states),
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

    /// Takes the layer of the step from a cache, or makes it.
    fn layer(&self, parent: Option<Arc<Rootfs>>, states: &States) -> Result<Outcome> {
        if let Some(found) = self.prepared.hit(self.id) {
            return self.cached(parent, found, states);
        }
        let inputs = self.inputs(parent.as_ref(), states);
        let known = if self.prepared.anew[self.id] { None } else { self.known_by_content(&inputs)? };
        if let Some(found) = known {
            return self.cached(parent, &found, states);
        }
        let (lock, waited) = self.lock()?;
        if waited
            && !self.prepared.anew[self.id]
            && let Answer::Hit(found) = self.prepared.cache.find(&self.key().digest)
        {
            return self.cached(parent, &found, states);
        }
        let reason = self.prepared.reasons.get(&self.id).cloned();
        self.event(Event::Missed { id: self.number, reason });
        match &self.prepared.plan.vertices[self.id].op {
            Op::Exec(exec) => self.exec(parent, exec, states, inputs, lock),
            Op::File(file) => self.file(parent, file, states, inputs, lock),
            Op::Scratch | Op::Image(_) => Err(Error::internal("this step makes no layer")),
        }
    }

    fn key(&self) -> &'env Key {
        &self.prepared.keys.steps[self.id]
    }

    /// Returns what the step is done to and what it takes files from, in the order of its key.
    fn inputs(&self, parent: Option<&Arc<Rootfs>>, states: &States) -> Inputs {
        let op = &self.prepared.plan.vertices[self.id].op;
        let linked = matches!(op, Op::File(FileOp { onto: Onto::Nothing, .. }));
        let others = self.prepared.plan.inputs(self.id);
        let others = others.iter().filter_map(|id| states.get(id));
        parent.filter(|_| !linked).into_iter().chain(others).cloned().collect()
    }

    /// Looks for the result of the same operation on inputs that were made in another way and hold the same.
    fn known_by_content(&self, inputs: &[Arc<Rootfs>]) -> Result<Option<Box<Found>>> {
        // To know what the inputs hold is to wait until they are packed: only where that can find something.
        if !self.prepared.cache.knows(&self.key().operation) {
            return Ok(None);
        }
        match self.prepared.cache.find(&by_content(self.key(), inputs)?) {
            Answer::Hit(found) => Ok(Some(found)),
            Answer::Gone | Answer::Expired(_) | Answer::Absent => Ok(None),
        }
    }

    /// Waits until no other build on this machine runs this step; tells whether one did.
    fn lock(&self) -> Result<(StepLock, bool)> {
        let engine = self.engine();
        let name = format!("step-{}", self.key().digest.hex());
        let (since, mut waited, mut told) = (Instant::now(), false, false);
        loop {
            if let Some(lock) = engine.store.try_lock(&name)? {
                return Ok((lock, waited));
            }
            if since.elapsed() > PATIENCE && !told {
                told = true;
                let title = &self.prepared.plan.vertices[self.id].meta.title;
                let text = format!("waiting for another build on this machine that runs `{title}`");
                self.event(Event::Note { text });
            }
            waited = true;
            std::thread::sleep(POLL);
            engine.cancel.check()?;
        }
    }

    /// Returns what a cache has in the compression that this build wants.
    fn as_wanted<'f>(&self, found: &'f Found) -> Result<Cow<'f, Found>> {
        let wanted = self.engine().compression;
        if found.compression == wanted.to_string() {
            return Ok(Cow::Borrowed(found));
        }
        let converted = self.engine().compressed(&found.layer(), wanted);
        // A cache that lent what it does not have is given up, as where the layer is fetched as it is.
        let packed = converted.inspect_err(|_| self.engine().lose(&found.packed.descriptor))?;
        let compression = wanted.to_string();
        Ok(Cow::Owned(Found { packed, compression, origin: Origin::Store, ..found.clone() }))
    }

    fn cached(&self, parent: Option<Arc<Rootfs>>, found: &Found, states: &States) -> Result<Outcome> {
        self.event(Event::Cached { id: self.number });
        self.shared.cached.fetch_add(1, Ordering::Relaxed);
        let found = &self.as_wanted(found)?;
        let Packed { descriptor, diff_id } = found.packed.clone();
        self.event(Event::Layer { id: self.number, layer: descriptor, diff_id });
        let layer = Arc::new(found.layer());
        if let Some(dir) =
            found.snapshot.as_ref().and_then(|s| self.engine().store.snapshot(self.engine().scheme(), s))
        {
            *layer.files.lock().unwrap_or_else(PoisonError::into_inner) = Some(dir);
        }
        let inputs = self.inputs(parent.as_ref(), states);
        // A hit does not wait for what it was made from, and that may not be made at all.
        let complete = self.prepared.plan.inputs(self.id).iter().all(|id| states.contains_key(id));
        let settled =
            complete && inputs.iter().flat_map(|i| &i.layers).all(|layer| layer.packed.peek().is_some());
        let by_content = if settled { Some(by_content(self.key(), &inputs)?) } else { None };
        self.prepared.put_found(self.id, by_content.as_ref(), &layer, found)?;
        self.on_top(parent, layer)
    }

    fn on_top(&self, parent: Option<Arc<Rootfs>>, layer: Arc<Layer>) -> Result<Outcome> {
        let parent = parent.ok_or_else(|| Error::internal("a step has no root file system below it"))?;
        let layers = parent.layers.iter().cloned().chain([Arc::clone(&layer)]).collect();
        Ok(Outcome { rootfs: Arc::new(Rootfs { layers }), layer: Some(layer) })
    }

    /// Runs a command. Its upper directory is the layer; packing it goes on while later steps run on top of it.
    fn exec(
        &self,
        parent: Option<Arc<Rootfs>>,
        exec: &ExecOp,
        states: &States,
        inputs: Inputs,
        lock: StepLock,
    ) -> Result<Outcome> {
        let engine = self.engine();
        let below = parent.as_ref().map(|p| p.layers.clone()).unwrap_or_default();
        self.event(Event::Started { id: self.number });
        let lower = self.files_below(&below)?;
        let tree = ViewTree::new(lower.clone(), engine.ids())?;
        let mounted = self.prepared.mounts(&exec.mounts, states)?;
        let pending = engine.store.begin_snapshot()?;
        let Ran { stubs, root } =
            crate::exec::run(engine, exec, self.number, lower.clone(), &tree, &pending, mounted)?;
        remove_stubs(&pending.fs(), &stubs)?;
        self.event(Event::Finished { id: self.number, took: self.started.elapsed() });
        let name = self.snapshot_name(&pending);
        let upper = pending.commit(engine.scheme(), &name)?;
        if let Some(root) = root {
            self.pass_on(root, &upper, &lower);
        }
        let layer = Arc::new(Layer::packing(Some(upper.clone())));
        let writer = self.start_packing(&layer)?;
        let packing = Arc::clone(&layer);
        let packer = self.packer(inputs, lock);
        let engine = self.engine();
        self.scope.spawn(move || {
            packer.pack(&packing, writer, Some(name), |writer| {
                let options = Options { clamp: ClampMtime::To(epoch(engine)) };
                let ids = engine.ids();
                let changes = diff(&upper, &lower, &ids, &stubs, options)?;
                pack(changes, writer)?;
                Ok(())
            });
        });
        self.on_top(parent, layer)
    }

    /// Keeps the root of a command for the next one on top of its layer, if there is one.
    fn pass_on(&self, root: WorkingRoot, upper: &Path, lower: &[PathBuf]) {
        // A vertex comes after those that it builds on.
        let mut on_top = BTreeSet::from([self.id]);
        for (id, vertex) in self.prepared.plan.vertices.iter().enumerate().skip(self.id + 1) {
            if vertex.parent.is_some_and(|parent| on_top.contains(&parent)) {
                if matches!(vertex.op, Op::Exec(_)) {
                    let layers = std::iter::once(upper.to_owned()).chain(lower.iter().cloned());
                    return self.engine().keep_root(root, layers.collect());
                }
                on_top.insert(id);
            }
        }
        // Deleting takes its time, and the step is done.
        self.scope.spawn(move || drop(root));
    }

    /// Names are unique for ever: a step that runs again must not replace what another build looks into.
    fn snapshot_name(&self, pending: &PendingSnapshot) -> String {
        format!("{}-{}", self.key().digest.short(), pending.unique())
    }

    /// Copies files. Nothing is written but the layer; a later step that looks into it unpacks it as it grows.
    fn file(
        &self,
        parent: Option<Arc<Rootfs>>,
        file: &'env FileOp,
        states: &States,
        inputs: Inputs,
        lock: StepLock,
    ) -> Result<Outcome> {
        self.event(Event::Started { id: self.number });
        let below = parent.as_ref().map(|p| p.layers.clone()).unwrap_or_default();
        let sources = |copy: &_| self.prepared.source(copy, states);
        let mut dest = match file.onto {
            Onto::Nothing => Destination::lazy(LayerIndexes::default(), None),
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
        let packer = self.packer(inputs, lock);
        let (engine, number, started) = (self.engine(), self.number, self.started);
        self.scope.spawn(move || {
            packer.pack(&packing, writer, None, |writer| {
                emit(plan, &dest, engine, writer)?;
                engine.sink.event(Event::Finished { id: number, took: started.elapsed() });
                Ok(())
            });
        });
        self.on_top(parent, layer)
    }

    fn files_below(&self, below: &[Arc<Layer>]) -> Result<Vec<PathBuf>> {
        let (engine, step) = (self.engine(), Some(self.number));
        span(&engine.sink, Work::Wait, "files below", step, || engine.all_files(below))
    }

    fn exact(&self, below: &[Arc<Layer>]) -> Result<Destination> {
        let dirs = self.files_below(below)?;
        Ok(Destination::Exact(Arc::new(ViewTree::new(dirs, self.engine().ids())?)))
    }

    /// Returns what the layers below hold, with as little work as the plan allows.
    fn destination(&self, below: &[Arc<Layer>]) -> Result<Destination> {
        let (plan, chains) = (&self.prepared.plan, &self.prepared.below);
        let assumptions = match &plan.vertices[chains.base(self.id)].op {
            Op::Image(image) => Some(Assumptions::new(&image.config, image.layers.len())),
            _ => None,
        };
        if chains.executes(self.id) || (assumptions.is_some() && self.prepared.base_read[self.id]) {
            return self.exact(below);
        }
        let layers = chains.indexes(plan, self.id, below, &|layer| self.index(layer))?;
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
                let index = LayerReader::new(blob, Limits::default()).and_then(LayerIndex::read);
                index.inspect_err(|_| self.engine().lose(&descriptor))
            }
        };
        index.map_err(failed)
    }

    fn start_packing(&self, layer: &Layer) -> Result<BlobWriter> {
        let writer = self.engine().store.writer()?;
        *layer.growing.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer.blob());
        Ok(writer)
    }

    fn packer(&self, inputs: Inputs, lock: StepLock) -> Packer<'scope, 'env> {
        Packer::new(self.prepared, self.shared, self.id, inputs, lock)
    }
}

fn epoch(engine: &Engine) -> kiln_oci::layer::Timestamp {
    kiln_oci::layer::Timestamp::from_secs(engine.epoch)
}
