//! Running a plan: what is in the cache, what has to be done, in which order, how much at once.
//!
//! Keys come first, for the whole plan, from definitions and the content of contexts alone. Then the needed steps
//! are found from the result backwards: behind a step that the cache has, nothing is done. What remains runs as
//! soon as its inputs exist, several steps at once. A step publishes its layer as soon as it is being packed, so
//! that later steps and the upload go on meanwhile.

mod explain;
mod keys;
mod mounts;
mod remote;
mod schedule;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use explain::Explainer;
use keys::{Inputs, Keys};
use kiln_oci::Digest;

use crate::cache::{Answer, Cache, Entry, Found};
use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{ContextTree, SourceTree};
use crate::graph::{CopyAction, CopyFrom, Op, Plan, Vertex, VertexId};
use crate::key::Key;
use crate::progress::Event;
use crate::rootfs::{Layer, Packed, Rootfs};

pub(crate) use explain::Earlier;

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
#[expect(dead_code, reason = "for those who want to know before")]
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
    cache: Box<dyn Cache + 'a>,
    answers: BTreeMap<VertexId, Answer>,
    needed: BTreeSet<VertexId>,
    /// Of every vertex, whether it has to be done anew.
    anew: Vec<bool>,
    /// Steps whose layer the image has.
    in_result: BTreeSet<VertexId>,
    /// Why needed steps are not in the cache.
    reasons: BTreeMap<VertexId, String>,
}

/// Computes keys, asks the cache, and finds out what has to be done.
///
/// # Errors
/// When a context cannot be read.
pub(crate) fn prepare<'a>(
    engine: &'a Engine,
    mut plan: Plan,
    contexts: &BTreeMap<String, Context>,
    cache: Box<dyn Cache + 'a>,
    earlier: &[Earlier],
) -> Result<Prepared<'a>> {
    let contexts = open_contexts(&plan, contexts)?;
    let base_read = plan.bases_read();
    let keys = keys::all(&Inputs { engine, plan: &plan, contexts: &contexts, base_read: &base_read })?;
    unify(&mut plan, &keys);
    let anew = anew(&plan);
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
    let in_result = plan.images.iter().flat_map(|image| plan.chain(image.rootfs)).collect();
    let reasons = BTreeMap::new();
    let mut prepared = Prepared {
        engine,
        plan,
        contexts,
        keys,
        base_read,
        cache,
        answers,
        needed,
        anew,
        in_result,
        reasons,
    };
    prepared.reasons = Explainer::new(&prepared, earlier, &|_, _, _| Vec::new()).reasons();
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
        Inputs { engine: self.engine, plan: &self.plan, contexts: &self.contexts, base_read: &self.base_read }
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
        let look = |(index, id): (usize, &VertexId)| {
            let meta = &self.plan.vertices[*id].meta;
            Outlook {
                number: step_number(index),
                title: meta.title.clone(),
                place: meta.place.as_ref().map(|p| format!("{}:{}", p.file, p.line_column().0)),
                key: self.keys.steps[*id].clone(),
                makes_layer: makes_layer(&self.plan.vertices[*id].op),
                cached: self.hit(*id).is_some(),
                reason: self.reasons.get(id).cloned(),
            }
        };
        self.needed.iter().enumerate().map(look).collect()
    }

    /// Ends what the cache has to write, when all layers are packed.
    ///
    /// # Errors
    /// See [`Cache::finish`].
    pub(crate) fn finish_cache(&self) -> Result<()> {
        self.cache.finish()
    }

    /// Tells the cache of a result.
    fn put(
        &self,
        id: VertexId,
        by_content: Option<&Digest>,
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
            in_result: self.in_result.contains(&id),
        })
    }

    /// Returns the first command that has to be run.
    pub(crate) fn first_command(&self) -> Option<&Vertex> {
        let runs =
            |id: &&VertexId| self.hit(**id).is_none() && matches!(self.plan.vertices[**id].op, Op::Exec(_));
        self.needed.iter().find(runs).map(|id| &self.plan.vertices[*id])
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
        for Outlook { number, title, place, .. } in self.outlook() {
            self.engine.sink.event(Event::Step { id: number, title, place });
        }
        schedule::run(self, jobs, publish)
    }

    fn step(&self, id: VertexId) -> u32 {
        step_number(self.needed.range(..id).count())
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

/// Opens the contexts that the plan copies from, and no others.
fn open_contexts(plan: &Plan, contexts: &BTreeMap<String, Context>) -> Result<BTreeMap<String, SourceTree>> {
    let mut open = BTreeMap::new();
    for vertex in &plan.vertices {
        for from in vertex.op.sources() {
            let CopyFrom::Context(name) = from else { continue };
            let Some(context) = contexts.get(name).filter(|_| !open.contains_key(name)) else { continue };
            let Some(dir) = &context.dir else { continue };
            let what =
                if name.is_empty() { "the build context".to_owned() } else { format!("context `{name}`") };
            let tree = SourceTree {
                tree: Arc::new(ContextTree::open(dir, &context.name)?),
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
