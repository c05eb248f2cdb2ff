//! One build from beginning to end, in the order in which the data flows.

mod plan;
mod result;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use kiln_oci::{Descriptor, Digest, Reference};
use kiln_remote::ClientConfig;
use kiln_sandbox::BuildNamespace;
use serde::Serialize;

use crate::cache::{self, Cache, Exports, Imports, StoreCache, Tiered, WriteOnly};
use crate::cancel::{Cancel, STOPPED};
use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::export::{self, Job, Push};
use crate::graph::Plan;
use crate::history::{History, Outcome, Recorder, StepRecord, lineage};
use crate::image::Image;
use crate::key::Earlier;
use crate::progress::{Event, Phase, Sink};
use crate::request::{BuildRequest, CacheMode, CompressionChoice, Output};
use crate::solve::{self, Outlook, Prepared, Solved};

pub(crate) use plan::engine;
use plan::{Planned, client};

/// The time of everything in an image when the user gives none: 1980-01-02, the earliest day that every tool
/// can represent in every time zone (zip archives know nothing earlier than 1980).
pub const DEFAULT_EPOCH: i64 = 315_619_200;

/// What an engine works with: resolved by the caller, because nothing here looks at the environment.
#[derive(Debug)]
pub struct EngineConfig {
    /// Directory of the store.
    pub store: PathBuf,
    /// How registries are reached.
    pub client: ClientConfig,
    /// Which user namespace this process is in.
    pub namespace: BuildNamespace,
    /// `/etc/resolv.conf` and `/etc/hosts` as RUN steps shall see them.
    pub resolv_conf: Vec<u8>,
    /// See `resolv_conf`.
    pub hosts: Vec<u8>,
    /// Where emulators for other architectures are looked for, besides the usual directories.
    pub programs: Vec<PathBuf>,
    /// What arrives on standard input, when context or Dockerfile come from there.
    pub stdin: fn() -> Box<dyn std::io::Read + Send>,
    /// Where an output to standard output goes.
    pub stdout: fn() -> Box<dyn std::io::Write + Send>,
}

/// Result of a build.
#[derive(Debug, Clone, Serialize)]
pub struct Receipt {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Descriptor of the manifest.
    pub descriptor: Descriptor,
    /// Digest of the config: the image's id.
    pub config_digest: Digest,
    /// The names it got.
    pub names: Vec<Reference>,
    /// What was written where, one sentence each, with how to use it.
    pub outputs: Vec<String>,
    /// Steps that make a layer.
    pub steps: u32,
    /// Steps that were found in the cache.
    pub cached: u32,
    /// Layers of the image.
    pub layers: usize,
    /// Compressed size of all layers in bytes.
    pub size: u64,
}

/// What is known of a step before it runs.
#[derive(Debug, Clone, Serialize)]
pub struct Expected {
    /// Its number among the steps that are needed.
    pub step: u32,
    /// Its title, with stage and number.
    pub title: String,
    /// File and line of the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Digest of everything that it depends on.
    pub key: Digest,
    /// Whether a cache has its result; absent for a step that makes no layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<bool>,
    /// Why no cache has its result, as far as an earlier build tells: a sentence without a period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Builds what `request` asks for.
///
/// # Errors
/// When the request cannot be met; nothing half-written is left under the name of a result.
pub fn build(config: &EngineConfig, request: &BuildRequest, sink: &Sink, cancel: &Cancel) -> Result<Receipt> {
    plan::check(request)?;
    let starting = Phase::begin(sink, "start the engine");
    let mut engine = engine(config, request, sink, cancel)?;
    starting.end();
    let beginning = Phase::begin(sink, "begin the record");
    let recorder = Recorder::start(&engine.store, request, &engine.grants.mask, sink);
    beginning.end();
    engine.sink = Arc::<Recorder>::clone(&recorder);
    let result = recorded(&mut engine, &recorder, config, request, cancel).map_err(|e| stopped(e, cancel));
    let _writing = Phase::begin(sink, "write the record");
    recorder.finish(outcome(&result));
    result
}

/// Tells what a build would do: which steps the caches have, and why they do not have the others. Nothing is run,
/// written under a name of the user, or recorded.
///
/// # Errors
/// When the build would fail before its first step.
pub fn explain(
    config: &EngineConfig,
    request: &BuildRequest,
    sink: &Sink,
    cancel: &Cancel,
) -> Result<Vec<Expected>> {
    let mut engine = engine(config, request, sink, cancel)?;
    let imports = Imports::start(&engine, request);
    let expected = |engine: &mut Engine| {
        let Planned { request, plan, contexts } = plan::make(engine, config, request, None)?;
        let caches = caches(engine, &request, &imports, Exports::default());
        let prepared = prepare(engine, plan, &contexts, caches, &request)?;
        Ok(prepared.outlook().into_iter().map(Expected::from).collect())
    };
    expected(&mut engine).map_err(|e| stopped(e, cancel))
}

impl From<Outlook> for Expected {
    fn from(step: Outlook) -> Self {
        let Outlook { number, title, place, key, makes_layer, cached, reason } = step;
        Self { step: number, title, place, key: key.digest, cached: makes_layer.then_some(cached), reason }
    }
}

/// The build itself, with somebody who writes it down.
fn recorded(
    engine: &mut Engine,
    recorder: &Recorder,
    config: &EngineConfig,
    request: &BuildRequest,
    cancel: &Cancel,
) -> Result<Receipt> {
    // Shared caches are read while names are resolved and files are hashed.
    let imports = Imports::start(engine, request);
    let Planned { request, mut plan, contexts } = plan::make(engine, config, request, Some(recorder))?;
    loop {
        // Copied only where a second attempt is possible.
        let again = if imports.is_empty() { None } else { Some(plan.clone()) };
        let result = run(engine, config, &request, plan, &contexts, (&imports, recorder));
        let lost = std::mem::take(&mut *engine.lost.lock().unwrap_or_else(PoisonError::into_inner));
        match (result, again) {
            // A cache that promised what it does not have must not be the reason why a build fails.
            (Err(_), Some(again)) if !cancel.is_cancelled() && imports.withdraw(&lost) => {
                plan = again;
                engine.store.forget(&lost)?;
                (engine.client, engine.cancel) = client(config, cancel)?;
                imports.renew(&engine.client);
            }
            (result, _) => return result,
        }
    }
}

/// Asks the caches for the steps of a plan.
fn prepare<'a>(
    engine: &'a Engine,
    plan: Plan,
    contexts: &BTreeMap<String, Context>,
    caches: Box<dyn Cache + 'a>,
    request: &BuildRequest,
) -> Result<Prepared<'a>> {
    let _keys = Phase::begin(&engine.sink, "compute keys");
    solve::prepare(engine, plan, contexts, caches, earlier(engine, request))
}

/// Runs a plan and exports its image; uploads begin while steps run.
fn run(
    engine: &Engine,
    config: &EngineConfig,
    request: &BuildRequest,
    plan: Plan,
    contexts: &BTreeMap<String, Context>,
    (imports, recorder): (&Imports, &Recorder),
) -> Result<Receipt> {
    let phase = |name: &str| Phase::begin(&engine.sink, name);
    std::thread::scope(|scope| {
        let exports = cache::exports(engine, scope, request, imports);
        let inline = exports.inline.clone();
        let caches = caches(engine, request, imports, exports);
        let prepared = prepare(engine, plan, contexts, caches, request)?;
        let spec = prepared.plan.images.first().ok_or_else(|| Error::internal("the plan has no image"))?;
        let chain = prepared.plan.chain(spec.rootfs);
        result::count_layers(engine, &prepared.plan, &chain)?;
        if let Some((command, _)) = prepared.commands().next() {
            plan::prove(engine, config, request)?;
            engine.require_sandbox().map_err(|e| e.at(command.meta.place.clone()))?;
            let isolation = engine.isolation().to_string();
            recorder.isolated(isolation.strip_prefix("isolation ").unwrap_or(&isolation).to_owned());
            plan::network(engine, config, prepared.commands())?;
            plan::emulate(engine, config, prepared.commands())?;
            for text in engine.isolation().describe(engine.store.root()) {
                engine.sink.event(Event::Note { text });
            }
        } else {
            let text = "no command has to be run, so no isolation is needed".to_owned();
            engine.sink.event(Event::Note { text });
        }
        let jobs = request.jobs.unwrap_or_else(|| (4 * engine.workers).max(8));
        let push =
            request.outputs.contains(&Output::Registry).then(|| Push::new(engine, scope, &request.tags));
        // Then the layers of the steps are not those of the image.
        let becomes_estargz = matches!(request.compression, CompressionChoice::Estargz(_));
        let steps = phase("run steps");
        let solved = prepared.run(jobs, &|id, layer| {
            if let Some(push) = push.as_ref().filter(|_| chain.contains(&id) && !becomes_estargz) {
                push.layer(layer);
            }
        })?;
        steps.end();
        let rootfs = solved
            .rootfs
            .get(&spec.rootfs)
            .cloned()
            .ok_or_else(|| Error::internal("the root file system of the image was not made"))?;
        let assembling = phase("wait for layers and assemble");
        let image = result::image(engine, request, spec, &rootfs, &solved, inline.as_deref())?;
        assembling.end();
        let job = Job { engine, image: &image, rootfs: &rootfs, names: &request.tags, stdout: config.stdout };
        let exporting = phase("write outputs");
        let mut outputs = export::all(&job, &request.outputs)?;
        exporting.end();
        if let Some(push) = push {
            let base = image.layers.iter().filter(|l| !solved.layers.values().any(|n| Arc::ptr_eq(l, n)));
            base.for_each(|layer| push.layer(layer));
            let _finishing = phase("finish the push");
            outputs.extend(push.finish(&image, &request.tags)?);
        }
        // After the push: what it sent is mounted from there.
        prepared.finish_cache()?;
        receipt(request, &image, outputs, &solved)
    })
}

/// Returns the steps of the last build of the same thing on this machine.
fn earlier(engine: &Engine, request: &BuildRequest) -> Vec<Earlier> {
    let last = History::at(engine.store.root()).last_like(&lineage(request));
    let step = |step: StepRecord| {
        Some(Earlier { title: step.title, key: step.key?, parts: step.parts, is_exact: true })
    };
    last.into_iter().flat_map(|record| record.steps).filter_map(step).collect()
}

/// Returns the caches of a build: that of the store first, it answers fastest.
fn caches<'a>(
    engine: &'a Engine,
    request: &BuildRequest,
    imports: &Imports,
    exports: Exports<'a>,
) -> Box<dyn Cache + 'a> {
    let store =
        StoreCache { store: &engine.store, compression: engine.compression, max_age: request.cache_ttl };
    let mut tiers: Vec<Box<dyn Cache + 'a>> = vec![Box::new(store)];
    tiers.extend(imports.caches());
    tiers.extend(exports.caches);
    let tiers = Tiered(tiers);
    match request.cache {
        CacheMode::ReadWrite => Box::new(tiers),
        CacheMode::WriteOnly => Box::new(WriteOnly(tiers)),
    }
}

/// Returns how a build ended as its record tells it.
fn outcome(result: &Result<Receipt>) -> Outcome {
    match result {
        Ok(receipt) => Outcome::Done {
            digest: receipt.digest.clone(),
            config_digest: receipt.config_digest.clone(),
            layers: receipt.layers,
            size: receipt.size,
            outputs: receipt.outputs.clone(),
        },
        Err(error) if error.kind == ErrorKind::Interrupted => Outcome::Interrupted,
        Err(error) => Outcome::Failed {
            message: error.message.clone(),
            causes: error.causes(),
            place: error.place.as_ref().map(|p| format!("{}:{}", p.file, p.line_column().0)),
            step: None,
        },
    }
}

fn receipt(request: &BuildRequest, image: &Image, outputs: Vec<String>, solved: &Solved) -> Result<Receipt> {
    let manifest = image.manifest.manifest().ok_or_else(|| Error::internal("an image without a manifest"))?;
    Ok(Receipt {
        digest: image.manifest.digest().clone(),
        descriptor: image.manifest.descriptor.clone(),
        config_digest: image.config_descriptor.digest.clone(),
        names: request.tags.clone(),
        outputs,
        steps: solved.steps,
        cached: solved.cached,
        layers: manifest.layers.len(),
        size: manifest.layers.iter().map(|l| l.size).sum(),
    })
}

/// Tells a build that the user stopped from one that failed.
fn stopped(error: Error, cancel: &Cancel) -> Error {
    if cancel.is_cancelled() { Error::new(ErrorKind::Interrupted, STOPPED) } else { error }
}
