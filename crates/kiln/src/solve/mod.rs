//! Running a plan: what is in the cache, what has to be done, in which order, how much at once.
//!
//! Keys come first, for the whole plan, from definitions and the content of contexts alone. Then the needed steps
//! are found from the result backwards: behind a step that the cache has, nothing is done. What remains runs as
//! soon as its inputs exist, several steps at once. A step publishes its layer as soon as it is being packed, so
//! that later steps and the upload go on meanwhile.

mod below;
mod explain;
mod keys;
mod mounts;
mod packer;
mod remote;
mod schedule;
mod step;
mod taken;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use below::Below;
use explain::Explainer;
use keys::{Inputs, Keys};
use kiln_oci::Digest;

use crate::cache::{Answer, Cache, Entry, Found};
use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{ContextTree, SourceTree};
use crate::graph::{CopyAction, CopyFrom, ExecOp, Op, Plan, Vertex, VertexId};
use crate::key::{Earlier, Key, Part};
use crate::progress::Event;
use crate::rootfs::{Layer, Packed, Rootfs};
use crate::store::{ContextIndex, system_clock};

/// What became of a plan.
#[derive(Debug)]
pub(crate) struct Solved {
    /// Root file systems of the needed vertices.
    pub(crate) rootfs: BTreeMap<VertexId, Arc<Rootfs>>,
    /// The layer that each vertex made.
    pub(crate) layers: BTreeMap<VertexId, Arc<Layer>>,
    /// Steps of the plan that make a layer.
    pub(crate) steps: u32,
    /// How many of them were in the cache.
    pub(crate) cached: u32,
}

/// What is known of a step before it runs.
#[derive(Debug, Clone)]
pub(crate) struct Outlook {
    /// Its number among the needed steps, from 1.
    pub(crate) number: u32,
    /// Its title, with stage and number.
    pub(crate) title: String,
    /// File and line of the instruction.
    pub(crate) place: Option<String>,
    /// Its key.
    pub(crate) key: Key,
    /// Whether it makes a layer; what makes none is neither hit nor miss.
    pub(crate) makes_layer: bool,
    /// Whether a cache has its result.
    pub(crate) cached: bool,
    /// Why none has, as far as it is known.
    pub(crate) reason: Option<String>,
}

/// Everything that is fixed before the first step runs.
pub(crate) struct Prepared<'a> {
    engine: &'a Engine,
    /// Equal steps are one step here.
    pub(crate) plan: Plan,
    contexts: BTreeMap<String, SourceTree>,
    keys: Keys,
    /// Of every vertex, whether a step looks into the files of its base.
    base_read: Vec<bool>,
    below: Below,
    cache: Box<dyn Cache + 'a>,
    answers: BTreeMap<VertexId, Answer>,
    needed: BTreeSet<VertexId>,
    /// Of every vertex, its number as a step; 0 if it is not needed.
    numbers: Vec<u32>,
    /// Of every vertex, whether it has to be done anew.
    anew: Vec<bool>,
    /// Steps whose layer the image has.
    in_result: BTreeSet<VertexId>,
    /// Why needed steps are not in the cache.
    reasons: BTreeMap<VertexId, String>,
}

/// Computes keys, asks the cache, and finds out what has to be done; `earlier` are the steps of the build that this one is
/// compared with, without which it is compared with that which wrote the cache.
///
/// # Errors
/// When a context cannot be read.
pub(crate) fn prepare<'a>(
    engine: &'a Engine,
    mut plan: Plan,
    contexts: &BTreeMap<String, Context>,
    cache: Box<dyn Cache + 'a>,
    earlier: Vec<Earlier>,
) -> Result<Prepared<'a>> {
    let contexts = open_contexts(engine, &plan, contexts)?;
    let base_read = plan.bases_read();
    let below = Below::new(&plan);
    let inputs = Inputs { engine, plan: &plan, below: &below, contexts: &contexts, base_read: &base_read };
    let keys = keys::all(&inputs);
    // Also when a key failed: what was hashed is known.
    remember(engine, &contexts);
    let keys = keys?;
    unify(&mut plan, &keys);
    let below = Below::new(&plan);
    let anew = anew(&plan);
    let wanted = |id: &VertexId| makes_layer(&plan.vertices[*id].op) && !anew[*id];
    let ahead: Vec<&Digest> =
        (0..plan.vertices.len()).rev().filter(wanted).map(|id| &keys.steps[id].digest).collect();
    cache.prefetch(&ahead);
    let mut answers = BTreeMap::new();
    let mut needed = BTreeSet::new();
    let mut todo: Vec<VertexId> = plan.images.iter().map(|i| i.rootfs).collect();
    while let Some(id) = todo.pop() {
        if !needed.insert(id) {
            continue;
        }
        todo.extend(plan.vertices[id].parent);
        if !makes_layer(&plan.vertices[id].op) {
            continue;
        }
        let answer = if anew[id] { Answer::Absent } else { cache.find(&keys.steps[id].digest) };
        if !matches!(answer, Answer::Hit(_)) {
            todo.extend(plan.inputs(id));
        }
        answers.insert(id, answer);
    }
    let mut numbers = vec![0; plan.vertices.len()];
    for (index, id) in needed.iter().enumerate() {
        numbers[*id] = step_number(index);
    }
    let in_result = plan.images.iter().flat_map(|image| plan.chain(image.rootfs)).collect();
    let reasons = BTreeMap::new();
    let mut prepared = Prepared {
        engine,
        plan,
        contexts,
        keys,
        base_read,
        below,
        cache,
        answers,
        needed,
        numbers,
        anew,
        in_result,
        reasons,
    };
    let earlier = if earlier.is_empty() { prepared.cache.steps() } else { earlier };
    prepared.reasons = {
        let files = |id: VertexId, old: &Earlier, part: &Part| match &prepared.plan.vertices[id].op {
            Op::File(op) => taken::changes(&prepared.inputs(), op, &old.key, &part.name),
            _ => Vec::new(),
        };
        Explainer::new(&prepared, &earlier, &files).reasons()
    };
    Ok(prepared)
}

/// Makes one of steps that do the same to the same.
fn unify(plan: &mut Plan, keys: &Keys) {
    let mut first: BTreeMap<(&Digest, bool), VertexId> = BTreeMap::new();
    let fresh = anew(plan);
    let same: Vec<VertexId> = (0..plan.vertices.len())
        .map(|id| *first.entry((&keys.states[id], fresh[id])).or_insert(id))
        .collect();
    if same.iter().enumerate().any(|(id, first)| id != *first) {
        plan.redirect(&same);
    }
}

/// Tells of every vertex whether it has to be done anew: it was asked for, or something below it is.
fn anew(plan: &Plan) -> Vec<bool> {
    let mut anew: Vec<bool> = Vec::with_capacity(plan.vertices.len());
    for (id, vertex) in plan.vertices.iter().enumerate() {
        let below = vertex.parent.into_iter().chain(plan.inputs(id)).any(|needed| anew[needed]);
        anew.push(vertex.fresh || below);
    }
    anew
}

impl Prepared<'_> {
    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            engine: self.engine,
            plan: &self.plan,
            below: &self.below,
            contexts: &self.contexts,
            base_read: &self.base_read,
        }
    }

    /// Returns what the cache has of a step.
    fn hit(&self, id: VertexId) -> Option<&Found> {
        match self.answers.get(&id) {
            Some(Answer::Hit(found)) => Some(found),
            _ => None,
        }
    }

    /// Returns every needed step with what is known of it before it runs.
    pub(crate) fn outlook(&self) -> Vec<Outlook> {
        let look = |id: &VertexId| {
            let meta = &self.plan.vertices[*id].meta;
            Outlook {
                number: self.numbers[*id],
                title: meta.title.clone(),
                place: meta.place.as_ref().map(|p| format!("{}:{}", p.file, p.line_column().0)),
                key: self.keys.steps[*id].clone(),
                makes_layer: makes_layer(&self.plan.vertices[*id].op),
                cached: self.hit(*id).is_some(),
                reason: self.reasons.get(id).cloned(),
            }
        };
        self.needed.iter().map(look).collect()
    }

    /// Ends what the cache has to write, when all layers are packed.
    ///
    /// # Errors
    /// See [`Cache::finish`].
    pub(crate) fn finish_cache(&self) -> Result<()> {
        if self.cache.wants_all() {
            self.put_unneeded()?;
        }
        self.cache.finish()
    }

    /// Remembers which files of contexts step `id` took.
    fn remember_files(&self, id: VertexId) {
        if let Op::File(op) = &self.plan.vertices[id].op {
            taken::remember(&self.inputs(), op, &self.keys.steps[id].digest);
        }
    }

    /// Tells the cache of steps behind those that it had, as far as it has them as well: a shared cache that is written
    /// anew would forget them otherwise.
    fn put_unneeded(&self) -> Result<()> {
        for (id, vertex) in self.plan.vertices.iter().enumerate() {
            if self.needed.contains(&id) || self.anew[id] || !makes_layer(&vertex.op) {
                continue;
            }
            let wanted = self.engine.compression.to_string();
            if let Answer::Hit(found) = self.cache.find(&self.keys.steps[id].digest)
                && found.compression == wanted
            {
                self.put_found(id, None, &Arc::new(found.layer()), &found)?;
            }
        }
        Ok(())
    }

    /// Tells the cache of a result that it had.
    fn put_found(
        &self,
        id: VertexId,
        by_content: Option<&Digest>,
        layer: &Arc<Layer>,
        found: &Found,
    ) -> Result<()> {
        let by_content = by_content.or(found.by_content.as_ref());
        self.put(id, (by_content, found.made), layer, &found.packed, found.snapshot.as_deref())
    }

    /// Tells the cache of a result.
    fn put(
        &self,
        id: VertexId,
        (by_content, made): (Option<&Digest>, Option<u64>),
        layer: &Arc<Layer>,
        packed: &Packed,
        snapshot: Option<&str>,
    ) -> Result<()> {
        self.cache.put(&Entry {
            title: &self.plan.vertices[id].meta.title,
            key: &self.keys.steps[id],
            by_content,
            layer,
            packed,
            snapshot,
            made,
            in_result: self.in_result.contains(&id),
        })
    }

    /// Returns the commands that have to be run.
    pub(crate) fn commands(&self) -> impl Iterator<Item = (&Vertex, &ExecOp)> {
        let missed = self.needed.iter().filter(|id| self.hit(**id).is_none());
        missed.map(|id| &self.plan.vertices[*id]).filter_map(|vertex| match &vertex.op {
            Op::Exec(op) => Some((vertex, op.as_ref())),
            Op::Image(_) | Op::Scratch | Op::File(_) => None,
        })
    }

    /// Runs what has to be run; `publish` is told of every layer as soon as it is being packed.
    ///
    /// # Errors
    /// When a step fails; the others are stopped then.
    pub(crate) fn run(
        &self,
        jobs: usize,
        publish: &(dyn Fn(VertexId, &Arc<Layer>) + Sync),
    ) -> Result<Solved> {
        for Outlook { number: id, title, place, key, reason, .. } in self.outlook() {
            self.engine.sink.event(Event::Step { id, title, place });
            self.engine.sink.event(Event::Key { id, key: key.digest, parts: key.parts, reason });
        }
        let solved = schedule::run(self, jobs, publish);
        // Mounts of a context are hashed as they are made.
        remember(self.engine, &self.contexts);
        solved
    }

    fn step(&self, id: VertexId) -> u32 {
        self.numbers[id]
    }

    /// Returns the tree that a COPY reads from.
    fn source(&self, copy: &CopyAction, states: &BTreeMap<VertexId, Arc<Rootfs>>) -> Result<SourceTree> {
        match &copy.from {
            CopyFrom::Context(name) => self
                .contexts
                .get(name)
                .cloned()
                .ok_or_else(|| no_files(name).at(copy.sources.first().and_then(|s| s.place.clone()))),
            CopyFrom::Http(file) => {
                let name = copy.sources.first().map_or("", |source| source.path.as_str());
                remote::file(self.engine, file, name)
            }
            CopyFrom::Git(commit) => remote::commit(self.engine, commit),
            CopyFrom::Vertex(id) => {
                let rootfs = states.get(id).ok_or_else(|| Error::internal("a COPY ran before its source"))?;
                let dirs = self.engine.all_files(&rootfs.layers)?;
                Ok(SourceTree {
                    tree: Arc::new(crate::files::ViewTree::new(dirs, self.engine.ids())?),
                    ignore: None,
                    ignore_file: None,
                    what: format!("`{}`", self.plan.vertices[*id].meta.title),
                })
            }
        }
    }
}

fn no_files(name: &str) -> Error {
    if name.is_empty() {
        return Error::input("COPY needs a build context, and this build has only a Dockerfile")
            .hint("give a directory or a tar archive as the context");
    }
    Error::input(format!("there is no context called `{name}`"))
}

fn step_number(index: usize) -> u32 {
    u32::try_from(index + 1).unwrap_or(u32::MAX)
}

fn makes_layer(op: &Op) -> bool {
    matches!(op, Op::Exec(_) | Op::File(_))
}

/// Writes what was learnt of the files of contexts, for the next build.
fn remember(engine: &Engine, contexts: &BTreeMap<String, SourceTree>) {
    for context in contexts.values() {
        let Some(Err(error)) = context.tree.index().map(|index| index.commit()) else { continue };
        let cause = error.source.as_ref().map(|e| format!(": {e}")).unwrap_or_default();
        let text = format!("the next build will read {} again: {}{cause}", context.what, error.message);
        engine.sink.event(Event::Note { text });
    }
}

/// Opens the contexts that the plan copies from, and no others.
fn open_contexts(
    engine: &Engine,
    plan: &Plan,
    contexts: &BTreeMap<String, Context>,
) -> Result<BTreeMap<String, SourceTree>> {
    let mut open = BTreeMap::new();
    for vertex in &plan.vertices {
        for from in vertex.op.sources() {
            let CopyFrom::Context(name) = from else { continue };
            let Some(context) = contexts.get(name).filter(|_| !open.contains_key(name)) else { continue };
            let Some(dir) = &context.dir else { continue };
            let what =
                if name.is_empty() { "the build context".to_owned() } else { format!("context `{name}`") };
            // What kiln unpacked or fetched itself has a new place each time, or is nobody's to change.
            let fetched = dir.starts_with(engine.store.root());
            let index =
                ContextIndex::open(&engine.store, dir, system_clock).filter(|_| !fetched).map(Arc::new);
            let tree = SourceTree {
                tree: Arc::new(ContextTree::open_with(dir, &context.name, engine.modes, index)?),
                ignore: Some(Arc::new(context.ignore.clone())),
                ignore_file: context.ignore_file.clone(),
                what,
            };
            let tree = match context.time {
                Some(time) => SourceTree {
                    tree: Arc::new(crate::files::CommitTree::open(dir, &context.name, Some(time))?),
                    ignore: None,
                    ..tree
                },
                None => tree,
            };
            open.insert(name.clone(), tree);
        }
    }
    Ok(open)
}
