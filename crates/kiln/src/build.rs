//! One build from beginning to end, in the order in which the data flows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_oci::layer::Compression;
use kiln_oci::{Descriptor, Digest, Reference};
use kiln_remote::{Client, ClientConfig};
use kiln_sandbox::{BuildNamespace, Requested};
use serde::Serialize;

use crate::cache::{Cache, StoreCache, Tiered, WriteOnly};
use crate::cancel::Cancel;
use crate::context::{self, Context};
use crate::engine::{Engine, sandbox_error};
use crate::error::{Error, Result};
use crate::export::{self, Job, Push};
use crate::fetch;
use crate::frontend::dockerfile::{
    EpochSource, Lowered, Pin, Pins, Source, checks, epoch_source, lower, notices,
};
use crate::graph::{ImageSpec, Op, Plan};
use crate::image::{Image, Parts, assemble};
use crate::pin;
use crate::progress::{Event, Sink};
use crate::request::{BuildRequest, CacheMode, CompressionChoice, IsolationChoice, Output};
use crate::rootfs::Rootfs;
use crate::solve::{self, Solved};
use crate::store::Store;

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

/// Builds what `request` asks for.
///
/// # Errors
/// When the request cannot be met; nothing half-written is left under the name of a result.
pub fn build(config: &EngineConfig, request: &BuildRequest, sink: &Sink, cancel: &Cancel) -> Result<Receipt> {
    check(request)?;
    let mut engine = engine(config, request, sink, cancel)?;
    let fetched = fetch::context(&engine, request).map_err(|e| stopped(e, cancel))?;
    let opened = context::open(request, &engine.store, config.stdin, fetched)?;
    let source = Source::parse(&opened.dockerfile, &opened.text, request)?;
    for notice in notices(request, &source) {
        engine.sink.event(Event::Warning { text: notice.0, place: None });
    }
    let mut pins = Pins::new();
    let dated = date(&mut engine, request, &source, opened.time, &mut pins)?;
    let request = dated.as_ref().unwrap_or(request);
    let planned = plan(&engine, request, &source, &mut pins);
    // A finding may be what a failure comes from, so it is shown in any case.
    let checked = checks::warn(request, &source, &pins, &opened.context.ignore, sink);
    let plan = planned.and_then(|plan| checked.map(|()| plan))?;
    isolate(&mut engine, config, request, &plan)?;
    let contexts = pin::contexts(opened.context, request)?;
    run(&engine, config, request, plan, &contexts).map_err(|e| stopped(e, cancel))
}

/// Runs a plan and exports its image; uploads begin while steps run.
fn run(
    engine: &Engine,
    config: &EngineConfig,
    request: &BuildRequest,
    plan: Plan,
    contexts: &BTreeMap<String, Context>,
) -> Result<Receipt> {
    let prepared = solve::prepare(engine, plan, contexts, cache(engine, request), &[])?;
    let plan = &prepared.plan;
    let spec = plan.images.first().ok_or_else(|| Error::internal("the plan has no image"))?;
    let chain = plan.chain(spec.rootfs);
    if let Some(command) = prepared.first_command() {
        engine.require_sandbox().map_err(|e| e.at(command.meta.place.clone()))?;
        engine.sink.event(Event::Note { text: engine.isolation.to_string() });
        if let Some(why) = &config.namespace.note {
            engine.sink.event(Event::Note { text: format!("there are no more user ids here: {why}") });
        }
    }
    let jobs = request.jobs.unwrap_or_else(|| (4 * engine.workers).max(8));
    std::thread::scope(|scope| {
        let push =
            request.outputs.contains(&Output::Registry).then(|| Push::new(engine, scope, &request.tags));
        let solved = prepared.run(jobs, &|id, layer| {
            if let Some(push) = push.as_ref().filter(|_| chain.contains(&id)) {
                push.layer(layer);
            }
        })?;
        let rootfs = solved
            .rootfs
            .get(&spec.rootfs)
            .cloned()
            .ok_or_else(|| Error::internal("the root file system of the image was not made"))?;
        let image = image(engine, request, spec, &rootfs)?;
        prepared.finish_cache()?;
        let job = Job { engine, image: &image, rootfs: &rootfs, names: &request.tags, stdout: config.stdout };
        let mut outputs = export::all(&job, &request.outputs)?;
        if let Some(push) = push {
            let base = rootfs.layers.iter().filter(|l| !solved.layers.values().any(|n| Arc::ptr_eq(l, n)));
            base.for_each(|layer| push.layer(layer));
            outputs.extend(push.finish(&image, &request.tags)?);
        }
        receipt(request, &image, outputs, &solved)
    })
}

/// Returns the caches of a build.
fn cache<'a>(engine: &'a Engine, request: &BuildRequest) -> Box<dyn Cache + 'a> {
    let store =
        StoreCache { store: &engine.store, compression: engine.compression, max_age: request.cache_ttl };
    let tiers = Tiered(vec![Box::new(store)]);
    match request.cache {
        CacheMode::ReadWrite => Box::new(tiers),
        CacheMode::WriteOnly => Box::new(WriteOnly(tiers)),
    }
}

fn check(request: &BuildRequest) -> Result<()> {
    if request.outputs.contains(&Output::Registry) && request.tags.is_empty() {
        return Err(Error::input("a push needs a name for the image").hint("add `-t REGISTRY/NAME:TAG`"));
    }
    if let Some(name) = request.tags.iter().find(|t| t.digest().is_some()) {
        return Err(Error::input(format!(
            "`{name}` cannot name the result: a digest is the outcome of a build, not its name"
        )));
    }
    Ok(())
}

pub(crate) fn engine(
    config: &EngineConfig,
    request: &BuildRequest,
    sink: &Sink,
    cancel: &Cancel,
) -> Result<Engine> {
    let client = Client::new(config.client.clone())?;
    let handle = client.cancel_handle();
    let cancel = cancel.child();
    cancel.on_cancel(move || handle.cancel());
    let none = kiln_sandbox::choose(Requested::None, &config.namespace, &config.store);
    let isolation = none.map_err(|e| sandbox_error("cannot look at this machine", e))?;
    Ok(Engine {
        store: Store::open(&config.store)?,
        client,
        sink: Arc::clone(sink),
        cancel,
        isolation,
        compression: match request.compression {
            CompressionChoice::Gzip(None) => Compression::default(),
            CompressionChoice::Gzip(Some(level)) => Compression::Gzip { level: u32::from(level) },
            CompressionChoice::Zstd(level) => Compression::Zstd { level: level.map_or(3, i32::from) },
            CompressionChoice::Uncompressed => Compression::None,
        },
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        epoch: DEFAULT_EPOCH,
        limits: request.limits,
        resolv_conf: config.resolv_conf.clone(),
        hosts: config.hosts.clone(),
        grants: crate::mounts::read_grants(request)?,
    })
}

/// Gives the build its time. Where a word stands for it, the request comes back with the number in its place, so that
/// `ARG SOURCE_DATE_EPOCH` has it too.
fn date(
    engine: &mut Engine,
    request: &BuildRequest,
    source: &Source,
    context: Option<i64>,
    pins: &mut Pins,
) -> Result<Option<BuildRequest>> {
    let found = match epoch_source(request, source)? {
        EpochSource::Unset => return Ok(None),
        EpochSource::Seconds(seconds) => {
            engine.epoch = seconds;
            return Ok(None);
        }
        EpochSource::Timeless => None,
        EpochSource::Context => context,
        EpochSource::Elsewhere(ask) => {
            let pin = pin::elsewhere(engine, &ask)?;
            let time = match &pin {
                Pin::Http(file) => file.last_modified,
                Pin::Git(commit) => Some(fetch::git::tree(engine, commit)?.time),
                Pin::Image(_) | Pin::Directory(_) => None,
            };
            pins.insert(ask.key(), pin);
            time
        }
    };
    engine.epoch = found.unwrap_or(DEFAULT_EPOCH);
    let mut request = request.clone();
    let text = found.map(|time| time.to_string()).unwrap_or_default();
    request.build_args.insert("SOURCE_DATE_EPOCH".to_owned(), text);
    Ok(Some(request))
}

/// Lowers the Dockerfile, resolving names until none is missing.
fn plan(engine: &Engine, request: &BuildRequest, source: &Source, pins: &mut Pins) -> Result<Plan> {
    loop {
        match lower(request, source, pins)? {
            Lowered::Plan(plan) => return Ok(plan),
            Lowered::Wanted(wanted) => pin::resolve(engine, request, wanted, pins)?,
        }
        engine.cancel.check()?;
    }
}

/// Chooses the isolation, unless the plan runs nothing: then none is needed, and none is looked for.
fn isolate(engine: &mut Engine, config: &EngineConfig, request: &BuildRequest, plan: &Plan) -> Result<()> {
    if !plan.vertices.iter().any(|v| matches!(v.op, Op::Exec(_))) {
        return Ok(());
    }
    let requested = match request.isolation {
        IsolationChoice::Auto => Requested::Auto,
        IsolationChoice::Userns => Requested::Userns,
        IsolationChoice::UsernsSingle => Requested::UsernsSingle,
        IsolationChoice::None => Requested::None,
    };
    engine.isolation = kiln_sandbox::choose(requested, &config.namespace, &config.store)
        .map_err(|e| sandbox_error("the isolation that was asked for is not possible here", e))?;
    Ok(())
}

fn image(engine: &Engine, request: &BuildRequest, spec: &ImageSpec, rootfs: &Rootfs) -> Result<Image> {
    let mut layers = Vec::new();
    for layer in &rootfs.layers {
        layers.push((Arc::clone(layer), layer.packed.wait()?));
    }
    assemble(Parts {
        config: spec.config.clone(),
        layers,
        history: spec.history.iter().map(|(text, vertex)| (text.clone(), vertex.is_some())).collect(),
        annotations: request.annotations.clone(),
        platform: spec.platform.clone(),
        epoch: engine.epoch,
    })
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
    if cancel.is_cancelled() {
        Error::new(crate::ErrorKind::Interrupted, "the build was stopped")
    } else {
        error
    }
}
