//! Build checks with the facts of a build: a pure function of request, file, pins and ignore file.

use std::collections::{BTreeMap, BTreeSet};

use kiln_dockerfile::describe::{self, Outline};
use kiln_dockerfile::ignore::Ignore;
use kiln_dockerfile::lint::{
    Base, BaseFacts, File, Grammar, Graph, LintInput, Pinning, PlatformName, Policy, Report, Scope, lint,
};
use kiln_oci::{Platform, Reference};

use super::vars::platform_args;
use super::{Ask, Pin, Pins, Source, Wanted, pin_key};
use crate::error::{Error, Result};
use crate::graph::BaseImage;
use crate::progress::{Event, Sink};
use crate::request::BuildRequest;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckOptions {
    /// Which stages.
    pub scope: Scope,
    /// Whether base images must be named by digest.
    pub pinning: Pinning,
}

/// The facts that checks take, and the file that they are about.
#[derive(Debug)]
pub struct Checker<'a> {
    request: &'a BuildRequest,
    source: &'a Source,
    options: CheckOptions,
    policy: Policy,
    globals: BTreeMap<String, String>,
    contexts: BTreeSet<String>,
}

impl<'a> Checker<'a> {
    /// Collects what is known before any base image is.
    ///
    /// # Errors
    /// When the build argument that sets the options of checks cannot be read.
    pub fn new(request: &'a BuildRequest, source: &'a Source, options: CheckOptions) -> Result<Self> {
        let policy =
            Policy::of(&source.tree, &request.build_args).map_err(|e| Error::input(e.to_string()))?;
        let last = source.tree.stages.last().and_then(|stage| stage.name.as_ref());
        let last = last.map_or("default", |name| name.value.as_str());
        let target = request.target.as_deref().unwrap_or(last);
        let mut globals = platform_args(&request.target_platform(), &Platform::host(), target);
        for (name, value) in &mut globals {
            if let Some(given) = request.build_args.get(name) {
                value.clone_from(given);
            }
        }
        let contexts = request.named_contexts.keys().cloned().collect();
        Ok(Self { request, source, options, policy, globals, contexts })
    }

    /// Tells whether a finding fails the build.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        self.policy.check.error
    }

    /// Returns the base images of the stages that are looked into, by number of the stage.
    #[must_use]
    pub fn bases(&self) -> BTreeMap<usize, Wanted> {
        let graph = self.with(&BTreeMap::new(), None, |input| Graph::new(&self.source.tree, input));
        let mut wanted = BTreeMap::new();
        for (index, (base, stage)) in graph.bases.iter().zip(&self.source.tree.stages).enumerate() {
            let Base::Image { name, platform } = base else { continue };
            if !graph.is_needed(index) {
                continue;
            }
            let platform = match platform.as_deref().map(str::parse) {
                None => self.request.target_platform(),
                Some(Ok(platform)) => platform,
                // Lowering reports it.
                Some(Err(_)) => continue,
            };
            let place = Some(self.source.place(stage.from.instruction.image.span));
            wanted
                .insert(index, Wanted { name: name.clone(), ask: Ask::Name, platform, place, similar: None });
        }
        wanted
    }

    /// Applies the rules.
    #[must_use]
    pub fn report(&self, pins: &Pins, ignore: &Ignore) -> Report {
        let bases = self.bases().into_iter().filter_map(|(index, wanted)| {
            match pins.get(&pin_key(&wanted.name, &wanted.platform))? {
                Pin::Image(base) => Some((index, facts(base, &wanted.platform))),
                Pin::Directory(_) | Pin::Http(_) | Pin::Git(_) => None,
            }
        });
        let file =
            File { tree: &self.source.tree, source: &self.source.text, diagnostics: &self.source.warnings };
        self.with(&bases.collect(), Some(ignore), |input| lint(&file, input))
    }

    /// Returns what the target can be given.
    #[must_use]
    pub fn outline(&self) -> Option<Outline> {
        self.with(&BTreeMap::new(), None, |input| describe::outline(&self.source.tree, input))
    }

    fn with<T>(
        &self,
        bases: &BTreeMap<usize, BaseFacts>,
        ignore: Option<&Ignore>,
        act: impl FnOnce(&LintInput<'_>) -> T,
    ) -> T {
        act(&LintInput {
            policy: &self.policy,
            scope: self.options.scope,
            target: self.request.target.as_deref(),
            build_args: &self.request.build_args,
            globals: &self.globals,
            contexts: &self.contexts,
            bases,
            ignore,
            pinning: self.options.pinning,
            grammar: Grammar {
                reference: |text| text.parse::<Reference>().is_ok(),
                platform: |text| text.parse().ok().map(|platform: Platform| name(&platform)),
            },
        })
    }
}

fn name(platform: &Platform) -> PlatformName {
    PlatformName { os: platform.os.clone(), architecture: platform.architecture.clone() }
}

fn facts(base: &BaseImage, wanted: &Platform) -> BaseFacts {
    let config = &base.config;
    let found = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    let pairs = config.config.env.iter().map(|entry| entry.split_once('=').unwrap_or((entry, "")));
    BaseFacts {
        platform: (!config.architecture.is_empty()).then(|| name(&found)),
        wanted: name(wanted),
        env: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        workdir: config.config.working_dir.clone(),
        has_shell: config.config.shell.is_some(),
        has_entrypoint: config.config.entrypoint.as_ref().is_some_and(|words| !words.is_empty()),
    }
}

/// Of one rule, a build shows no more findings than these: the log is about the build.
const SHOWN_PER_RULE: usize = 3;

/// Shows the findings of a build as warnings.
///
/// # Errors
/// When there is a finding and the file asks for an error then, or when the options cannot be read.
pub(crate) fn warn(
    request: &BuildRequest,
    source: &Source,
    pins: &Pins,
    ignore: &Ignore,
    sink: &Sink,
) -> Result<()> {
    let options = CheckOptions { scope: Scope::Target, pinning: Pinning::Free };
    let checker = Checker::new(request, source, options)?;
    let findings = checker.report(pins, ignore).findings;
    let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in &findings {
        let number = rules.entry(finding.code).or_default();
        *number += 1;
        if *number > SHOWN_PER_RULE {
            continue;
        }
        let help = finding.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
        let (line, _) = source.place(finding.span).line_column();
        let place = Some(format!("{}:{line}", source.name));
        sink.event(Event::Warning { text: format!("{}: {}{help}", finding.code, finding.message), place });
    }
    for (rule, number) in &rules {
        if let Some(more) = number.checked_sub(SHOWN_PER_RULE).filter(|more| *more > 0) {
            let text = format!("{rule}: {more} more, which `kiln check` shows");
            sink.event(Event::Warning { text, place: None });
        }
    }
    match findings.first() {
        Some(first) if checker.is_strict() => {
            let names: Vec<&str> = rules.into_keys().collect();
            Err(Error::input(format!("build checks found something: {}", names.join(", ")))
                .at(Some(source.place(first.span)))
                .hint("findings are errors here because `check` says `error=true`; `kiln check` shows all"))
        }
        _ => Ok(()),
    }
}
