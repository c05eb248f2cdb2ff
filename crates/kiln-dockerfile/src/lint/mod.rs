//! Build checks: what is legal in a Dockerfile and probably not meant.
//!
//! Start at [`lint`]: parsed file and facts in, [`Report`] out. [`RULES`] is the list of what is looked for: the
//! rules of BuildKit under BuildKit's names, and some of kiln's own. A rule never guesses: what depends on a base
//! image that nobody looked up is listed as unchecked and not reported.
//!
//! The rooms: [`rules`] is the table, `policy` reads `check=` options, `graph` finds out which stage is built from
//! which, `walk` goes through the instructions with their variables, and the others hold the rules by subject.
//!
//! What it refuses to do: read a file, ask a registry, change a text. A [`crate::Fix`] is a proposal; [`apply`]
//! carries proposals out on a copy.

mod casing;
mod command;
mod copy;
mod fix;
mod from;
mod graph;
mod layers;
mod names;
mod policy;
pub mod rules;
mod shell;
mod variables;
mod walk;

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnostic::Diagnostic;
use crate::ignore::Ignore;
use crate::parser::Dockerfile;
use crate::source::Span;
use crate::suggest::suggest;

pub use fix::apply;
pub use graph::{Base, Graph};
pub use policy::{Policy, PolicyError};
pub use rules::{Origin, RULES, Rule, rule};
pub use variables::looks_secret;

/// No more names than these are compared with a misspelt one.
const MOST_NAMES: usize = 300;
/// No more misspellings than these are compared with names: nobody reads on, and the comparison takes time.
const MOST_SUGGESTIONS: usize = 100;

/// A file that was read: the tree, its text, and the warnings that came with it.
#[derive(Debug, Clone, Copy)]
pub struct File<'a> {
    /// The tree.
    pub tree: &'a Dockerfile,
    /// The text that it was read from.
    pub source: &'a str,
    /// What the parser found; errors among it are passed over.
    pub diagnostics: &'a [Diagnostic],
}

/// What a build is asked for, as far as checks depend on it.
#[derive(Debug, Clone, Copy)]
pub struct LintInput<'a> {
    /// The options of `check=` in force.
    pub policy: &'a Policy,
    /// Which stages are looked into.
    pub scope: Scope,
    /// The stage to build; by default the last.
    pub target: Option<&'a str>,
    /// Values given for ARG.
    pub build_args: &'a BTreeMap<String, String>,
    /// The variables that every file has: `TARGETPLATFORM` and its like.
    pub globals: &'a BTreeMap<String, String>,
    /// Names given by `--build-context`, in lower case.
    pub contexts: &'a BTreeSet<String>,
    /// What is known of base images, by number of the stage.
    pub bases: &'a BTreeMap<usize, BaseFacts>,
    /// The ignore file of the context.
    pub ignore: Option<&'a Ignore>,
    /// Whether base images must be named by digest.
    pub pinning: Pinning,
    /// What the words of neighbouring specifications look like.
    pub grammar: Grammar,
}

/// Which stages are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that the target needs: what a build reports.
    Target,
    /// Those that the target needs when one is given, else all: what a check reports.
    Check,
}

/// Whether base images must be named by digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// They need not.
    Free,
    /// They must.
    Digest,
}

/// Words of other specifications, which this crate does not know.
#[derive(Debug, Clone, Copy)]
pub struct Grammar {
    /// Tells whether a text can name an image.
    pub reference: fn(&str) -> bool,
    /// Reads a platform.
    pub platform: fn(&str) -> Option<PlatformName>,
}

/// A platform as far as checks compare it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlatformName {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
}

/// What the config of a base image says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseFacts {
    /// Its platform; absent when it names none.
    pub platform: Option<PlatformName>,
    /// The platform that it was asked for.
    pub wanted: PlatformName,
    /// Its variables.
    pub env: Vec<(String, String)>,
    /// Its working directory.
    pub workdir: String,
    /// Whether it has a shell of its own.
    pub has_shell: bool,
    /// Whether it has an entry point.
    pub has_entrypoint: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// The findings in the order of their places; the code of each is the name of a rule.
    pub findings: Vec<Diagnostic>,
    /// What could not be looked at.
    pub unchecked: Vec<Unchecked>,
}

/// A rule that could not be applied to a stage, because nothing is known of its base image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unchecked {
    /// The rule.
    pub rule: &'static str,
    /// The base image as written.
    pub image: String,
    /// Where it is named.
    pub span: Span,
}

/// Applies the rules.
///
/// The time is linear in the length of the file, as long as it does not chain thousands of stages that each add
/// variables.
#[must_use]
pub fn lint(file: &File<'_>, input: &LintInput<'_>) -> Report {
    let graph = Graph::new(file.tree, input);
    let mut linter = Linter {
        file,
        input,
        graph: &graph,
        places: policy::Places::new(file.tree),
        report: Report::default(),
        suggestions: MOST_SUGGESTIONS,
    };
    for diagnostic in file.diagnostics.iter().filter(|diagnostic| !diagnostic.is_error()) {
        let fix = (diagnostic.code == "NoEmptyContinuation").then(|| fix::blank_lines(file, diagnostic.span));
        linter.report(diagnostic.clone().with_fix(fix));
    }
    names::check(&mut linter);
    casing::check(&mut linter);
    from::check(&mut linter);
    walk::check(&mut linter);
    let mut report = linter.report;
    report.findings.sort_by_key(|finding| (finding.span.start, finding.code));
    report.unchecked.sort_by_key(|unchecked| (unchecked.span.start, unchecked.rule));
    report.unchecked.dedup();
    report
}

/// Work in progress.
struct Linter<'a> {
    file: &'a File<'a>,
    input: &'a LintInput<'a>,
    graph: &'a Graph,
    places: policy::Places,
    report: Report,
    /// How many times a name may still be searched for.
    suggestions: usize,
}

impl<'a> Linter<'a> {
    /// Keeps a finding, unless its rule is switched off for its place.
    fn report(&mut self, finding: Diagnostic) {
        if self.applies(finding.code, finding.span.start) {
            self.report.findings.push(finding);
        }
    }

    fn warn(&mut self, rule: &'static str, span: Span, message: impl Into<String>, help: impl Into<String>) {
        self.report(Diagnostic::warning(rule, span, message).with_help(help));
    }

    /// Tells whether a rule is on for the instruction at an offset.
    fn applies(&self, rule: &str, offset: usize) -> bool {
        self.places.applies(self.input.policy, rule, offset)
    }

    fn unchecked(&mut self, rule: &'static str, image: &str, span: Span) {
        if self.applies(rule, span.start) {
            self.report.unchecked.push(Unchecked { rule, image: image.to_owned(), span });
        }
    }

    /// Returns the name that was probably meant.
    fn suggest<'n>(&mut self, wanted: &str, names: impl Iterator<Item = &'n String>) -> Option<&'n str> {
        self.suggestions = self.suggestions.checked_sub(1)?;
        let names: Vec<&str> = names.take(MOST_NAMES).map(String::as_str).collect();
        suggest(wanted, &names)
    }

    /// The keyword of the instruction at a place, as written.
    fn keyword(&self, span: Span) -> (&'a str, Span) {
        let text = span.text(self.file.source);
        let word = text.split(|c: char| c.is_whitespace()).next().unwrap_or_default();
        (word, Span::new(span.start, span.start + word.len()))
    }
}

#[cfg(test)]
mod tests;
