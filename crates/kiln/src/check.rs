//! A look at a build that builds nothing: the findings of the checks, and what would fail before the first step.
//!
//! Base images are looked up for their documents when the caller wants that. A registry that does not answer is
//! no failure: what depended on it is listed in [`Checked::unchecked`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_dockerfile::Diagnostic;
use kiln_dockerfile::describe::{self, Outline, Target};

use crate::build::{EngineConfig, engine};
use crate::cancel::Cancel;
use crate::context::{self, Context};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Place, Result};
use crate::fetch;
use crate::frontend::dockerfile::checks::Checker;
use crate::frontend::dockerfile::{Ask, Lowered, Pins, Source, Wanted, lower};
use crate::pin;
use crate::progress::Sink;
use crate::request::{BuildRequest, ContextSource};

pub use crate::frontend::dockerfile::checks::CheckOptions;
pub use kiln_dockerfile::lint::{Pinning, Scope};

/// Whether registries are asked for base images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// They are, for manifests and configs.
    Registries,
    /// They are not.
    Offline,
}

/// What was found.
#[derive(Debug)]
pub struct Checked {
    /// The Dockerfile as builds name it: relative to its context.
    pub file: String,
    /// Where it lies; absent when it came from standard input or an archive.
    pub path: Option<PathBuf>,
    /// Its text, lossily when it is no UTF-8.
    pub text: Arc<str>,
    /// The findings in the order of their places.
    pub findings: Vec<Diagnostic>,
    /// Whether findings are errors, because the file or a build argument says so.
    pub strict: bool,
    /// Why the file cannot be built.
    pub errors: Vec<Error>,
    /// Rules that could not be applied.
    pub unchecked: Vec<Unchecked>,
    /// The stages.
    pub targets: Vec<Target>,
    /// What the target can be given; absent when there is no such target.
    pub outline: Option<Outline>,
}

/// A rule that could not be applied to a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// The rule.
    pub rule: &'static str,
    /// The base image that nothing is known of.
    pub image: String,
    /// Where it is named.
    pub place: Place,
    /// Why nothing is known of it.
    pub reason: String,
}

/// Looks at what `request` would build.
///
/// # Errors
/// When the context or the Dockerfile cannot be read, or the options of the checks are faulty. A Dockerfile with
/// faults is no error here: they are part of the result.
pub fn check(
    config: &EngineConfig,
    request: &BuildRequest,
    options: CheckOptions,
    lookup: Lookup,
    sink: &Sink,
    cancel: &Cancel,
) -> Result<Checked> {
    let engine = engine(config, request, sink, cancel)?;
    let fetched = fetch::context(&engine, request)?;
    let opened = context::open(request, &engine.store, config.stdin, fetched)?;
    let mut checked = Checked {
        file: opened.dockerfile.clone(),
        path: opened.path.clone().filter(|path| !is_unpacked(request, &opened.context, path)),
        text: String::from_utf8_lossy(&opened.text).into(),
        findings: Vec::new(),
        strict: false,
        errors: Vec::new(),
        unchecked: Vec::new(),
        targets: Vec::new(),
        outline: None,
    };
    let source = match Source::parse(&opened.dockerfile, &opened.text, request) {
        Ok(source) => source,
        Err(mut error) => {
            let also = std::mem::take(&mut error.also);
            checked.errors.push(error);
            checked.errors.extend(also);
            return Ok(checked);
        }
    };
    let checker = Checker::new(request, &source, options)?;
    let mut pins = Resolver { engine: &engine, request, lookup, pins: Pins::new(), failed: BTreeMap::new() };
    checked.errors.extend(pins.lower(&source)?);
    let bases = checker.bases();
    pins.resolve(bases.values().cloned().collect());
    engine.cancel.check()?;
    let report = checker.report(&pins.pins, &opened.context.ignore);
    let by_place: BTreeMap<usize, &Wanted> =
        bases.values().filter_map(|base| Some((base.place.as_ref()?.span.start, base))).collect();
    checked.unchecked = report
        .unchecked
        .into_iter()
        .map(|left| {
            let place = source.place(left.span);
            let base = by_place.get(&left.span.start);
            let reason = base.map_or_else(String::new, |base| pins.reason(base));
            Unchecked { rule: left.rule, image: left.image, place, reason }
        })
        .collect();
    checked.findings = report.findings;
    checked.strict = checker.is_strict();
    checked.targets = describe::targets(&source.tree);
    checked.outline = checker.outline();
    Ok(checked)
}

/// Tells whether a file is a copy that kiln made of an archive.
fn is_unpacked(request: &BuildRequest, context: &Context, path: &Path) -> bool {
    let unpacked = !matches!(request.context, ContextSource::Directory(_));
    unpacked && context.dir.as_ref().is_some_and(|dir| path.starts_with(dir))
}

/// Resolves names as far as that is possible.
struct Resolver<'a> {
    engine: &'a Engine,
    request: &'a BuildRequest,
    lookup: Lookup,
    pins: Pins,
    /// Why a name could not be resolved.
    failed: BTreeMap<(String, String), String>,
}

impl Resolver<'_> {
    /// Lowers as far as names can be resolved and returns what a build would fail with.
    fn lower(&mut self, source: &Source) -> Result<Option<Error>> {
        loop {
            match lower(self.request, source, &self.pins) {
                Ok(Lowered::Plan(_)) => return Ok(None),
                Err(error) => return Ok(Some(error)),
                Ok(Lowered::Wanted(mut wanted)) => {
                    // A check looks at base images and downloads nothing.
                    wanted.retain(|wanted| matches!(wanted.ask, Ask::Name));
                    let number = wanted.len();
                    let before = self.pins.len();
                    let errors = self.resolve(wanted);
                    self.engine.cancel.check()?;
                    if number == 0 || !errors.is_empty() || self.pins.len() < before + number {
                        return Ok(errors.into_iter().next());
                    }
                }
            }
        }
    }

    /// Resolves names side by side and returns the failures that are the file's own fault.
    fn resolve(&mut self, wanted: Vec<Wanted>) -> Vec<Error> {
        let known = |wanted: &Wanted| {
            let key = wanted.key();
            self.pins.contains_key(&key) || self.failed.contains_key(&key)
        };
        let mut new: BTreeMap<_, Wanted> = BTreeMap::new();
        for wanted in wanted.into_iter().filter(|wanted| !known(wanted)) {
            new.insert(wanted.key(), wanted);
        }
        if self.lookup == Lookup::Offline {
            self.failed.extend(new.into_keys().map(|key| (key, "registries were not asked".to_owned())));
            return Vec::new();
        }
        let (engine, request) = (self.engine, self.request);
        let one = |wanted: Wanted| {
            let mut pins = Pins::new();
            pin::resolve(engine, request, vec![wanted], &mut pins).map(|()| pins)
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let work: Vec<_> =
                new.into_iter().map(|(key, wanted)| (key, scope.spawn(move || one(wanted)))).collect();
            work.into_iter().map(|(key, thread)| (key, thread.join())).collect()
        });
        let mut errors = Vec::new();
        for (key, result) in results {
            match result {
                Ok(Ok(pins)) => self.pins.extend(pins),
                Ok(Err(error)) => {
                    self.failed.insert(key, reason(&error));
                    errors.extend((error.kind == ErrorKind::Input).then_some(error));
                }
                Err(_) => errors.push(Error::internal("a thread that resolves names panicked")),
            }
        }
        errors
    }

    fn reason(&self, wanted: &Wanted) -> String {
        let key = wanted.key();
        self.failed.get(&key).cloned().unwrap_or_else(|| "it is no image".to_owned())
    }
}

/// The root of an error in one line.
fn reason(error: &Error) -> String {
    let mut text = error.message.clone();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
