//! `kiln build`.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;

use kiln::progress::{Event, Sink};
use kiln::remote::{ClientConfig, Notice};
use kiln::sandbox::{BuildNamespace, Requested};
use kiln::{Cancel, EngineConfig, Error, Receipt};
use serde_json::json;

use super::enter_namespace;
use crate::args::BuildArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Terminal, View};
use crate::settings::{Config, Process, Settings};
use crate::signals::Signals;
use crate::trace::Trace;
use crate::value::Print;
use crate::{files, stdout, text};

/// Builds an image.
pub(super) fn run(args: &BuildArgs, env: &Env, terminal: Terminal) -> Outcome<Exit> {
    if args.print == Some(Print::Request) {
        return print_request(args, env);
    }
    if let Some(call) = super::check::wanted(args) {
        return super::check::call(args, call, env, terminal);
    }
    if let Some(format) = args.explain {
        return super::explain::before(args, format, env, terminal);
    }
    let Started { settings, namespace, cancel, signals, view } = start(args, env, terminal)?;
    let result = match &settings.trace {
        None => {
            let sink: Sink = Arc::<dyn View>::clone(&view);
            build(&settings, namespace, &sink, &cancel)
        }
        Some(path) => traced(&settings, namespace, &view, path, &cancel),
    };
    let exit = match result {
        Ok(receipt) => {
            view.finish(&receipt);
            if !settings.writes_to_stdout() {
                stdout::print(&format!("{}\n", receipt.digest))?;
            }
            Exit::Success
        }
        Err(failure) => {
            view.fail(failure.error());
            exit(&failure, &signals)
        }
    };
    // A build that failed has filled the disk as well; whoever stopped one wants his prompt back.
    if let Some(budget) = settings.keep_storage.filter(|_| signals.received().is_none())
        && let Some(text) = super::prune::keep_within(&settings.store, budget)
    {
        view.event(Event::Warning { text, place: None });
    }
    Ok(exit)
}

/// What a build works with, and whatever looks at one without building.
pub(super) struct Started {
    pub(super) settings: Settings,
    pub(super) namespace: BuildNamespace,
    pub(super) cancel: Cancel,
    pub(super) signals: Signals,
    pub(super) view: Arc<dyn View>,
}

/// Resolves what was asked for, begins to listen to signals, and opens the view.
pub(super) fn start(args: &BuildArgs, env: &Env, terminal: Terminal) -> Outcome<Started> {
    let config = Config::load(env)?;
    let isolation = args.isolation.or(config.defaults.isolation).map_or(Requested::Auto, Into::into);
    // Before anything that starts a thread: it may start this program anew.
    let namespace = enter_namespace(isolation)?;
    let process = Process { root: namespace.is_root, stdout_terminal: std::io::stdout().is_terminal() };
    let settings = Settings::resolve(args, env, &config, process)?;
    let cancel = Cancel::default();
    let stop = cancel.clone();
    let signals = Signals::watch(move || stop.cancel())?;
    let view = progress::view(settings.progress, terminal);
    Ok(Started { settings, namespace, cancel, signals, view })
}

/// A signal explains every failure that comes after it.
pub(super) fn exit(failure: &Failure, signals: &Signals) -> Exit {
    match signals.received() {
        Some(signal) => Exit::Signal(signal),
        None => failure.exit(),
    }
}

fn print_request(args: &BuildArgs, env: &Env) -> Outcome<Exit> {
    let process = Process { root: false, stdout_terminal: false };
    let settings = Settings::resolve(args, env, &Config::load(env)?, process)?;
    let text = serde_json::to_string_pretty(&settings.request)
        .map_err(|e| Error::internal("cannot write the request as JSON").because(e))?;
    stdout::print(&format!("{text}\n"))?;
    Ok(Exit::Success)
}

/// Builds, and writes down where the time went, also of a build that fails.
fn traced(
    settings: &Settings,
    namespace: BuildNamespace,
    view: &Arc<dyn View>,
    path: &Path,
    cancel: &Cancel,
) -> Outcome<Receipt> {
    let trace = Arc::new(Trace::new(view));
    let sink: Sink = Arc::<Trace>::clone(&trace);
    let result = build(settings, namespace, &sink, cancel);
    let bytes = trace.file(path, settings.trace_parent.as_ref(), result.as_ref().map_err(Failure::error));
    match (files::write(path, &bytes), &result) {
        (Err(failure), Ok(_)) => Err(failure),
        (Err(failure), Err(_)) => {
            // The build's own failure is what has to be told; this one comes before it.
            let error = failure.into_error();
            let text =
                error.causes().into_iter().fold(error.message, |text, cause| format!("{text}: {cause}"));
            view.event(Event::Warning { text, place: None });
            result
        }
        (Ok(()), _) => result,
    }
}

fn build(settings: &Settings, namespace: BuildNamespace, sink: &Sink, cancel: &Cancel) -> Outcome<Receipt> {
    let config = engine_config(settings, namespace, sink)?;
    let receipt = kiln::build(&config, &settings.request, sink, cancel)?;
    if let Some(path) = &settings.metadata_file {
        files::write(path, metadata(&receipt).as_bytes())?;
    }
    if let Some(path) = &settings.iidfile {
        files::write(path, receipt.config_digest.as_str().as_bytes())?;
    }
    Ok(receipt)
}

/// Returns what the engine works with.
pub(super) fn engine_config(
    settings: &Settings,
    namespace: BuildNamespace,
    sink: &Sink,
) -> Outcome<EngineConfig> {
    Ok(EngineConfig {
        store: settings.store.clone(),
        client: ClientConfig { notices: Some(notices(sink)), ..settings.registries.client_config()? },
        namespace,
        // A machine without these files gives its steps empty ones.
        resolv_conf: std::fs::read("/etc/resolv.conf").unwrap_or_default(),
        hosts: std::fs::read("/etc/hosts").unwrap_or_default(),
        programs: settings.programs.clone(),
        stdin: || Box::new(std::io::stdin()),
        stdout: stdout::bytes,
    })
}

/// Turns what the client of registries does by itself into notes.
fn notices(sink: &Sink) -> Arc<dyn Fn(Notice) + Send + Sync> {
    let sink = Arc::clone(sink);
    Arc::new(move |notice| {
        let text = match notice {
            Notice::Retrying { error, after } => format!("{error}; trying again in {}", text::seconds(after)),
            Notice::MirrorFailed { error } => format!("{error}; asking the next host"),
            // A notice that this version does not know has nothing to show.
            _ => return,
        };
        sink.event(Event::Note { text });
    })
}

/// Returns the metadata file, with the keys that `docker buildx` writes.
fn metadata(receipt: &Receipt) -> String {
    let names: Vec<String> = receipt.names.iter().map(ToString::to_string).collect();
    let mut value = json!({
        "containerimage.config.digest": receipt.config_digest,
        "containerimage.descriptor": receipt.descriptor,
        "containerimage.digest": receipt.digest,
    });
    if !names.is_empty() {
        value["image.name"] = names.join(",").into();
    }
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use kiln::ErrorKind;
    use kiln::oci::{Descriptor, Digest};

    use super::*;

    #[test]
    fn the_metadata_file_has_the_keys_of_buildx() {
        let descriptor = Descriptor::of("application/vnd.oci.image.manifest.v1+json", b"{}");
        let digest = descriptor.digest.clone();
        let config_digest = Digest::sha256(b"config");
        let receipt = Receipt {
            digest: digest.clone(),
            descriptor,
            config_digest: config_digest.clone(),
            names: vec!["app".parse().unwrap(), "b.example/c:1".parse().unwrap()],
            outputs: Vec::new(),
            steps: 0,
            cached: 0,
            layers: 0,
            size: 0,
        };
        assert_eq!(
            metadata(&receipt),
            format!(
                r#"{{
  "containerimage.config.digest": "{config_digest}",
  "containerimage.descriptor": {{
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": "{digest}",
    "size": 2
  }},
  "containerimage.digest": "{digest}",
  "image.name": "docker.io/library/app:latest,b.example/c:1"
}}
"#
            )
        );
    }

    #[test]
    fn without_a_signal_the_error_decides() {
        let signals = Signals::default();
        assert_eq!(exit(&Error::input("x").into(), &signals), Exit::Failure);
        assert_eq!(exit(&Error::new(ErrorKind::Network, "x").into(), &signals), Exit::Network);
    }
}
