//! Arguments, environment and configuration file resolved once into what the engine takes.
//!
//! ```text
//! BuildArgs ┐
//! Env       ├─► Settings { request: BuildRequest, store, client parts, progress, files to write }
//! config    ┘
//! ```
//!
//! An argument comes before a variable, a variable before the configuration file, that before the default.
//! The file system is asked three things only: what the configuration says, whether CONTEXT is a directory,
//! and whether the `dest` of an output is one.

mod config;
mod grants;
mod outputs;
mod registries;
mod run;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kiln::request::{
    BuildRequest, CacheExport, CacheExtent, CacheMode, CacheTarget, ContextModes, ContextSource,
    DockerfileSource, EpochChoice, ImageLimits, IsolationChoice, IsolationWish,
};
use kiln::{Error, ErrorKind};

pub(crate) use config::{Config, Defaults};
pub(crate) use registries::Registries;

use crate::args::{BuildArgs, StoreArgs};
use crate::env::{self, Env};
use crate::failure::{Failure, Outcome};
use crate::trace::Parent;
use crate::value::{self, BuildArg, Compression, Elsewhere, ProgressMode};

/// Build arguments that BuildKit gives to every RUN and keeps out of the image, in both cases.
const PROXY_ARGUMENTS: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];
/// The build argument that asks for a cache inside the image.
const INLINE_CACHE: &str = "BUILDKIT_INLINE_CACHE";
/// Where root keeps the store.
const ROOT_STORE: &str = "/var/lib/kiln";

/// Who kiln runs as and where its output goes: the facts of this process that settings depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    /// Whether the user is root.
    pub(crate) root: bool,
    /// Whether standard output is a terminal.
    pub(crate) stdout_terminal: bool,
}

/// Everything about one build, with no question open.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What to build.
    pub(crate) request: BuildRequest,
    /// Directory of the store.
    pub(crate) store: PathBuf,
    /// Bytes that the store is brought down to after the build.
    pub(crate) keep_storage: Option<u64>,
    /// How registries are reached.
    pub(crate) registries: Registries,
    /// Where programs of this machine are looked for.
    pub(crate) programs: Vec<PathBuf>,
    /// How progress is shown.
    pub(crate) progress: ProgressMode,
    /// Where digests and names are written.
    pub(crate) metadata_file: Option<PathBuf>,
    /// Where the image id is written.
    pub(crate) iidfile: Option<PathBuf>,
    /// Where a trace is written.
    pub(crate) trace: Option<PathBuf>,
    /// What the trace is a part of.
    pub(crate) trace_parent: Option<Parent>,
}

impl Settings {
    /// Resolves the arguments of a build.
    pub(crate) fn resolve(args: &BuildArgs, env: &Env, config: &Config, process: Process) -> Outcome<Self> {
        let defaults = &config.defaults;
        let mut tags = args.tag.clone();
        tags.extend(args.output.iter().flat_map(|output| output.names.clone()));
        let mut seen = std::collections::BTreeSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        let outputs = outputs::resolve(args, &tags, process.stdout_terminal)?;
        let build_args = build_args(&args.build_arg, env);
        let mut annotations: BTreeMap<_, _> =
            args.output.iter().flat_map(|output| output.annotations.clone()).collect();
        annotations.extend(value::last_wins(&args.annotation));
        let request = BuildRequest {
            context: context(&args.context)?,
            named_contexts: value::last_wins(&args.build_context),
            dockerfile: dockerfile(args)?,
            target: args.target.clone().filter(|target| !target.is_empty()),
            platform: args.platform.clone(),
            no_cache_stages: args.no_cache_filter.clone(),
            labels: value::last_wins(&args.label),
            annotations,
            tags,
            outputs,
            compression: compression(args, defaults)?,
            force_compression: args.force_compression || args.output.iter().any(|output| output.force),
            cache: if args.no_cache { CacheMode::WriteOnly } else { CacheMode::ReadWrite },
            cache_ttl: args.cache_ttl,
            modes: modes(args, env, defaults)?,
            cache_from: args.cache_from.clone(),
            cache_to: cache_to(args, &build_args),
            pull: args.pull,
            source_date_epoch: source_date_epoch(args, &build_args, env),
            isolation: isolation(args, defaults),
            jobs: args.jobs.or(defaults.jobs).map(NonZeroUsize::get),
            run: run::options(&args.run)?,
            limits: {
                let default = ImageLimits::default();
                ImageLimits {
                    layer_size: args.max_layer_size.unwrap_or(default.layer_size),
                    layers: args.max_layers.unwrap_or(default.layers),
                }
            },
            proxy_args: proxy_args(&build_args),
            keyed_secrets: grants::keyed(&args.secret),
            secrets: grants::secrets(&args.secret, env),
            ssh: grants::agents(&args.ssh, env)?,
            allow: args.allow.iter().copied().collect(),
            build_args,
        };
        Ok(Self {
            registries: Registries::resolve(args, &request.tags, env, config),
            request,
            store: store(&args.store, env, defaults, process)?,
            keep_storage: keep_storage(args, env, defaults)?,
            programs: env
                .raw(env::PATH)
                .map(|path| std::env::split_paths(path).collect())
                .unwrap_or_default(),
            progress: progress(args, defaults),
            metadata_file: args.metadata_file.clone(),
            iidfile: args.iidfile.clone(),
            trace: args.trace.clone().or_else(|| env.path(env::KILN_TRACE)),
            trace_parent: env.text(env::TRACEPARENT).and_then(|text| Parent::parse(&text)),
        })
    }

    /// Tells whether an output takes standard output, so that the digest cannot go there.
    pub(crate) fn writes_to_stdout(&self) -> bool {
        self.request.outputs.iter().any(outputs::is_stdout)
    }
}

/// Returns the directory of the store.
pub(crate) fn store(args: &StoreArgs, env: &Env, defaults: &Defaults, process: Process) -> Outcome<PathBuf> {
    let given = args.dir.clone().or_else(|| env.path(env::KILN_STORE)).or_else(|| defaults.store.clone());
    let usual = || match process.root {
        true => Some(PathBuf::from(ROOT_STORE)),
        false => env.xdg(env::XDG_DATA_HOME, ".local/share").map(|data| data.join("kiln")),
    };
    let found = given.or_else(usual).ok_or_else(|| {
        Error::environment("there is no place for the store: HOME is not set")
            .hint("name a directory with `--store DIR` or the variable KILN_STORE")
    })?;
    // Processes of a sandbox stand in other directories than this one.
    Ok(std::path::absolute(&found).unwrap_or(found))
}

/// Returns the budget of the store. A variable that makes no sense is an error: a disk that runs full is noticed late.
fn keep_storage(args: &BuildArgs, env: &Env, defaults: &Defaults) -> Outcome<Option<u64>> {
    let name = env::KILN_KEEP_STORAGE;
    let variable = || {
        env.text(name)
            .map(|text| {
                value::size(&text).map_err(|why| {
                    Failure::usage(format!("the variable {name} is `{text}`: {why}"), "unset it for no limit")
                })
            })
            .transpose()
    };
    match args.keep_storage {
        Some(size) => Ok(Some(size)),
        None => Ok(variable()?.or(defaults.keep_storage)),
    }
}

fn context(path: &Path) -> Outcome<ContextSource> {
    let text = path.to_string_lossy();
    if text == "-" {
        return Ok(ContextSource::Stdin);
    }
    // A directory may have the name of a repository, `github.com/user/name`.
    if let Some(found) = value::elsewhere(&text).filter(|_| !path.is_dir()) {
        let hint = "write `https://HOST/NAME.git#REFERENCE:DIRECTORY`, or the same after `?` as `ref=` and `subdir=`";
        return match found.map_err(|reason| Failure::usage(reason, hint))? {
            Elsewhere::Git(address) => Ok(ContextSource::Git(address)),
            Elsewhere::Http(url) => Ok(ContextSource::Http(url)),
        };
    }
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok(ContextSource::Directory(path.to_owned())),
        Ok(_) => Ok(ContextSource::Archive(path.to_owned())),
        Err(e) => {
            let error = Error::input(format!("cannot open the build context `{text}`"));
            Err(error.because(e).hint("the last argument of `kiln build` is a directory, often `.`").into())
        }
    }
}

fn dockerfile(args: &BuildArgs) -> Outcome<DockerfileSource> {
    let Some(file) = &args.file else { return Ok(DockerfileSource::Default) };
    if file.as_os_str() != "-" {
        return Ok(DockerfileSource::File(file.clone()));
    }
    if args.context.as_os_str() == "-" {
        return Err(Failure::usage(
            "standard input cannot be both the Dockerfile and the build context",
            "give one of the two as a path",
        ));
    }
    Ok(DockerfileSource::Stdin)
}

fn build_args(args: &[BuildArg], env: &Env) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for arg in args {
        match arg {
            BuildArg::Given(name, value) => out.insert(name.clone(), value.clone()),
            BuildArg::FromEnvironment(name) => match env.raw(name) {
                Some(value) => out.insert(name.clone(), value.to_string_lossy().into_owned()),
                // As in Docker: the default of ARG holds when the variable is not there.
                None => out.remove(name),
            },
        };
    }
    out
}

/// Returns the shared caches to write. `BUILDKIT_INLINE_CACHE=1` is what docker knew before `--cache-to`.
fn cache_to(args: &BuildArgs, build_args: &BTreeMap<String, String>) -> Vec<CacheExport> {
    let mut out = args.cache_to.clone();
    let wanted = build_args.get(INLINE_CACHE).is_some_and(|value| matches!(value.as_str(), "1" | "true"));
    if wanted && !out.iter().any(|export| export.target == CacheTarget::Inline) {
        let (target, extent) = (CacheTarget::Inline, CacheExtent::Min);
        out.push(CacheExport { target, extent, is_strict: false });
    }
    out
}

/// Returns the proxies among the build arguments under both of the names that programs look for.
fn proxy_args(build_args: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for name in PROXY_ARGUMENTS {
        let lower = name.to_ascii_lowercase();
        let value = build_args.get(name).or_else(|| build_args.get(&lower));
        for name in [name.to_owned(), lower] {
            if let Some(value) = build_args.get(&name).or(value) {
                out.insert(name, value.clone());
            }
        }
    }
    out
}

/// The option comes first, then the build argument that BuildKit knows, then the variable.
fn source_date_epoch(
    args: &BuildArgs,
    build_args: &BTreeMap<String, String>,
    env: &Env,
) -> Option<EpochChoice> {
    if args.source_date_epoch.is_some() {
        return args.source_date_epoch.clone();
    }
    let given = build_args.get(env::SOURCE_DATE_EPOCH).filter(|value| !value.is_empty()).cloned();
    // A word that nothing has for a name is an error of the build, which knows the stages.
    value::epoch(&given.or_else(|| env.text(env::SOURCE_DATE_EPOCH))?).ok()
}

/// Returns what is wanted of the isolation. A condition of the machine's administrator stands, whatever the call says.
fn isolation(args: &BuildArgs, defaults: &Defaults) -> IsolationWish {
    let require = value::Isolation::stronger(args.require_isolation, defaults.require_isolation);
    IsolationWish {
        choice: args.isolation.or(defaults.isolation).map_or(IsolationChoice::Auto, Into::into),
        require: require.map_or(IsolationChoice::None, Into::into),
        allow_weak: args.allow_weak_isolation,
    }
}

/// Tells which modes the files of contexts have. A variable with any other word than these is a mistake to be told.
fn modes(args: &BuildArgs, env: &Env, defaults: &Defaults) -> Outcome<ContextModes> {
    let variable = match env.text(env::KILN_CACHE_IGNORE_UMASK).as_deref() {
        None => None,
        Some("1" | "true") => Some(true),
        Some("0" | "false") => Some(false),
        Some(other) => {
            return Err(Failure::usage(
                format!("the variable {} is `{other}`", env::KILN_CACHE_IGNORE_UMASK),
                "set it to `true` or `false`",
            ));
        }
    };
    let usual = args.cache_ignore_umask || variable.or(defaults.cache_ignore_umask).unwrap_or(false);
    Ok(if usual { ContextModes::Usual } else { ContextModes::OnDisk })
}

fn compression(args: &BuildArgs, defaults: &Defaults) -> Outcome<kiln::request::CompressionChoice> {
    let mut given: Vec<(Compression, Option<u8>)> = Vec::new();
    let base = args.compression.or(defaults.compression).unwrap_or(Compression::Gzip);
    let level = args.compression_level;
    for output in args.output.iter().filter(|output| output.compression.is_some() || output.level.is_some()) {
        given.push((output.compression.unwrap_or(base), output.level.or(level)));
    }
    if args.compression.is_some() || level.is_some() {
        given.push((base, level));
    }
    given.dedup();
    let (kind, level) = match given.as_slice() {
        // The level of the configuration file belongs to its kind.
        [] => (base, defaults.compression_level),
        [(kind, None)] if Some(*kind) == defaults.compression => (*kind, defaults.compression_level),
        [one] => *one,
        _ => {
            return Err(Failure::usage(
                "the outputs ask for different compressions",
                "say `--compression` once; layers are made once for all outputs",
            ));
        }
    };
    value::compression(kind, level)
        .map_err(|reason| Failure::usage(reason, "leave `--compression-level` out for kiln's default"))
}

fn progress(args: &BuildArgs, defaults: &Defaults) -> ProgressMode {
    if args.quiet {
        return ProgressMode::Quiet;
    }
    args.progress.or(defaults.progress).unwrap_or(ProgressMode::Auto)
}

/// Returns an error about a file that kiln reads for its settings.
fn unreadable(path: &Path, reason: impl std::fmt::Display) -> Failure {
    Error::new(ErrorKind::Input, format!("cannot use the configuration file `{}`", path.display()))
        .because(reason.to_string())
        .into()
}

#[cfg(test)]
mod tests;
