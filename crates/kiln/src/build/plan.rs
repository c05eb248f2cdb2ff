//! From a request to a plan: the engine, the context, the names, the time and the isolation of a build.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_oci::layer::Compression;
use kiln_remote::Client;
use kiln_sandbox::{CgroupPlan, Execution, Mode, Requested, Wish};

use super::{DEFAULT_EPOCH, EngineConfig};
use crate::address;
use crate::cancel::Cancel;
use crate::context::{self, Context};
use crate::engine::{Engine, sandbox_error};
use crate::error::{Error, Result};
use crate::fetch;
use crate::frontend::dockerfile::{
    EpochSource, Lowered, Pin, Pins, Source, checks, epoch_source, lower, notices,
};
use crate::graph::{ExecOp, Network, Op, Plan, Vertex};
use crate::history::{PinRecord, Recorder};
use crate::pin;
use crate::progress::{Event, Phase, Sink};
use crate::request::{BuildRequest, CompressionChoice, IsolationChoice, Output, RunOptions};
use crate::store::Store;

/// A build that is known in full and has not begun.
pub(super) struct Planned<'r> {
    /// The request, with the time of the build in it.
    pub(super) request: Cow<'r, BuildRequest>,
    pub(super) plan: Plan,
    /// Contexts by name.
    pub(super) contexts: BTreeMap<String, Context>,
}

/// Refuses what no plan could be made of.
pub(super) fn check(request: &BuildRequest) -> Result<()> {
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

/// Returns what all steps of a build share.
pub(crate) fn engine(
    config: &EngineConfig,
    request: &BuildRequest,
    sink: &Sink,
    cancel: &Cancel,
) -> Result<Engine> {
    let (client, cancel) = self::client(config, cancel)?;
    let none = kiln_sandbox::expected(Wish::of(Requested::None), &config.namespace);
    let isolation = none.map_err(|e| sandbox_error("cannot look at this machine", e))?;
    Ok(Engine {
        store: Store::open(&config.store)?,
        client,
        sink: Arc::clone(sink),
        cancel,
        isolation,
        proven: OnceLock::new(),
        compression: match request.compression {
            CompressionChoice::Gzip(None) | CompressionChoice::Estargz(_) => Compression::default(),
            CompressionChoice::Gzip(Some(level)) => Compression::Gzip { level: u32::from(level) },
            CompressionChoice::Zstd(level) => Compression::Zstd { level: level.map_or(3, i32::from) },
            CompressionChoice::Uncompressed => Compression::None,
        },
        workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        epoch: DEFAULT_EPOCH,
        modes: request.modes,
        limits: request.limits,
        resolv_conf: config.resolv_conf.clone(),
        hosts: config.hosts.clone(),
        run: request.run.clone(),
        cgroup: OnceLock::new(),
        emulators: Mutex::default(),
        grants: crate::mounts::read_grants(request)?,
        lost: Mutex::default(),
        roots: crate::engine::WorkingRoots::default(),
    })
}

/// Returns a client of registries, and the switch that stops it and what it works for.
pub(super) fn client(config: &EngineConfig, cancel: &Cancel) -> Result<(Client, Cancel)> {
    let client = Client::new(config.client.clone())?;
    let handle = client.cancel_handle();
    let cancel = cancel.child();
    cancel.on_cancel(move || handle.cancel());
    Ok((client, cancel))
}

/// Opens the context, resolves names and makes the plan; `recorder` is told what names stand for.
pub(super) fn make<'r>(
    engine: &mut Engine,
    config: &EngineConfig,
    request: &'r BuildRequest,
    recorder: Option<&Recorder>,
) -> Result<Planned<'r>> {
    let sink = Arc::clone(&engine.sink);
    let phase = |name: &str| Phase::begin(&sink, name);
    let opening = phase("open the context");
    let fetched = fetch::context(engine, request)?;
    let opened = context::open(request, &engine.store, config.stdin, fetched)?;
    let source = Source::parse(&opened.dockerfile, &opened.text, request)?;
    opening.end();
    for notice in notices(request, &source) {
        sink.event(Event::Warning { text: notice.0, place: None });
    }
    let mut pins = Pins::new();
    let dated = date(engine, request, &source, opened.time, &mut pins)?;
    let request = dated.map_or(Cow::Borrowed(request), Cow::Owned);
    let planned = plan(engine, &request, &source, &mut pins);
    if let Some(recorder) = recorder {
        recorder.pinned(pins.values().filter_map(pin_record).collect());
    }
    // A finding may be what a failure comes from, so it is shown in any case.
    let checking = phase("check the Dockerfile");
    let checked = checks::warn(&request, &source, &pins, &opened.context.ignore, &sink);
    checking.end();
    let plan = planned.and_then(|plan| checked.map(|()| plan))?;
    isolate(engine, config, &request, &plan)?;
    let contexts = pin::contexts(opened.context, &request)?;
    Ok(Planned { request, plan, contexts })
}

/// Returns a pin for the record; the files of a directory have no digest of their own.
fn pin_record(pin: &Pin) -> Option<PinRecord> {
    let (name, digest) = match pin {
        Pin::Image(base) => (base.name.clone(), base.digest.to_string()),
        Pin::Http(file) => (file.url.to_string(), file.digest.to_string()),
        Pin::Git(commit) => (commit.address.to_string(), commit.commit.clone()),
        Pin::Directory(_) => return None,
    };
    Some(PinRecord { name, digest })
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
        let lowering = Phase::begin(&engine.sink, "lower the Dockerfile");
        let lowered = lower(request, source, pins)?;
        lowering.end();
        match lowered {
            Lowered::Plan(plan) => return Ok(plan),
            Lowered::Wanted(wanted) => {
                let names: Vec<&str> = wanted.iter().map(|w| w.name.as_str()).collect();
                let name = address::mask(&format!("resolve {}", names.join(", ")));
                let _resolving = Phase::begin(&engine.sink, &name);
                pin::resolve(engine, request, wanted, pins)?;
            }
        }
        engine.cancel.check()?;
    }
}

/// Finds out which isolation RUN should get, unless the plan runs nothing: then none is needed, and none is looked for.
fn isolate(engine: &mut Engine, config: &EngineConfig, request: &BuildRequest, plan: &Plan) -> Result<()> {
    if !plan.vertices.iter().any(|v| matches!(v.op, Op::Exec(_))) {
        return Ok(());
    }
    engine.isolation = kiln_sandbox::expected(wish(request), &config.namespace).map_err(impossible)?;
    Ok(())
}

/// Proves the isolation with a real sandbox, now that a command has to be run: a build that runs none is spared it.
pub(super) fn prove(engine: &Engine, config: &EngineConfig, request: &BuildRequest) -> Result<()> {
    if engine.proven.get().is_some() {
        return Ok(());
    }
    let _choosing = Phase::begin(&engine.sink, "choose the isolation");
    let isolation = kiln_sandbox::choose(wish(request), &config.namespace, &config.store);
    let isolation = isolation.map_err(impossible)?;
    if isolation.ensure_runnable().is_ok() {
        limit(engine, &request.run, isolation.mode)?;
    }
    engine.proven.get_or_init(|| isolation);
    Ok(())
}

/// Finds out whether commands can be given the limits that were asked for.
fn limit(engine: &Engine, options: &RunOptions, mode: Mode) -> Result<()> {
    let impossible = |error| sandbox_error("the limits for RUN cannot be enforced here", error);
    kiln_sandbox::check_limits(&options.ulimits).map_err(impossible)?;
    let plan = CgroupPlan::new(&options.resources, mode).map_err(impossible)?;
    if let Some(plan) = &plan {
        plan.prove().map_err(impossible)?;
    }
    engine.cgroup.get_or_init(|| plan);
    Ok(())
}

/// Proves that commands can be kept off the network as they shall be, before the first step runs.
pub(super) fn network<'a>(
    engine: &Engine,
    config: &EngineConfig,
    commands: impl Iterator<Item = (&'a Vertex, &'a ExecOp)>,
) -> Result<()> {
    let mut proved = BTreeSet::new();
    for (vertex, op) in commands {
        let (name, network) = match op.network {
            Network::Host => continue,
            Network::None => ("none", kiln_sandbox::Network::None),
            Network::Proxy => ("proxy", kiln_sandbox::Network::Proxy),
        };
        if proved.insert(name) {
            kiln_sandbox::prove_network(engine.isolation(), &config.store, network).map_err(|error| {
                let what = format!("RUN cannot be given the network `{name}` here");
                sandbox_error(what, error).at(vertex.meta.place.clone())
            })?;
        }
    }
    Ok(())
}

/// Finds emulators for commands of other architectures, and proves that they can be had, before the first step runs.
pub(super) fn emulate<'a>(
    engine: &Engine,
    config: &EngineConfig,
    commands: impl Iterator<Item = (&'a Vertex, &'a ExecOp)>,
) -> Result<()> {
    for (vertex, op) in commands {
        let platform = &op.platform;
        let wrap = |error| {
            let error = sandbox_error(format!("RUN cannot be done for {platform} here"), error);
            error.at(vertex.meta.place.clone())
        };
        if platform.os != "linux" {
            let error =
                Error::input(format!("RUN cannot be done for {platform}: kiln runs Linux programs only"));
            return Err(error.at(vertex.meta.place.clone()));
        }
        let architecture = &platform.architecture;
        if engine.emulator(architecture).is_some() {
            continue;
        }
        let Execution::Emulated(emulator) =
            kiln_sandbox::execution(architecture, &config.programs).map_err(wrap)?
        else {
            continue;
        };
        let proved =
            kiln_sandbox::prove_emulators(engine.isolation(), &config.store, std::slice::from_ref(&emulator));
        proved.map_err(wrap)?;
        let text =
            format!("RUN for {platform} is emulated by `{}`, many times slower", emulator.program.display());
        engine.sink.event(Event::Note { text });
        let mut emulators = engine.emulators.lock().unwrap_or_else(PoisonError::into_inner);
        emulators.insert(architecture.clone(), emulator);
    }
    Ok(())
}

/// Returns what the user wants, in the words of the sandbox.
fn wish(request: &BuildRequest) -> Wish {
    let (requested, _) = rung(request.isolation.choice);
    let (_, at_least) = rung(request.isolation.require);
    Wish { requested, at_least, allow_weak: request.isolation.allow_weak }
}

/// Returns a choice as something to try and as something to measure by.
pub(crate) fn rung(choice: IsolationChoice) -> (Requested, Mode) {
    match choice {
        IsolationChoice::Auto => (Requested::Auto, Mode::None),
        IsolationChoice::Userns => (Requested::Userns, Mode::Userns),
        IsolationChoice::UsernsSingle => (Requested::UsernsSingle, Mode::UsernsSingle),
        IsolationChoice::Chroot => (Requested::Chroot, Mode::Chroot),
        IsolationChoice::None => (Requested::None, Mode::None),
    }
}

fn impossible(error: kiln_sandbox::Error) -> Error {
    sandbox_error("the isolation that was asked for is not possible here", error)
}
