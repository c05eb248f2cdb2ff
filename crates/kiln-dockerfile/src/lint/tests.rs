//! Rules on whole files: every rule with what it finds and what it leaves alone.

mod buildkit;
mod fixes;
mod own;
mod pages;
mod policy;
mod size;

use super::*;

/// The facts of a check, as a test changes them.
struct Facts {
    scope: Scope,
    target: Option<&'static str>,
    build_args: BTreeMap<String, String>,
    bases: BTreeMap<usize, BaseFacts>,
    contexts: BTreeSet<String>,
    ignore: Option<Ignore>,
    pinning: Pinning,
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            scope: Scope::Check,
            target: None,
            build_args: BTreeMap::new(),
            bases: BTreeMap::new(),
            contexts: BTreeSet::new(),
            ignore: None,
            pinning: Pinning::Free,
        }
    }
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn platform(text: &str) -> Option<PlatformName> {
    let (os, architecture) = text.split_once('/').unwrap_or(("linux", text));
    let word = |text: &str| !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric());
    (word(os) && word(architecture))
        .then(|| PlatformName { os: os.to_owned(), architecture: architecture.to_owned() })
}

/// What is known of a base image for `found`, asked for as `wanted`.
fn image(found: &str, wanted: &str, env: &[(&str, &str)]) -> BaseFacts {
    BaseFacts {
        platform: platform(found),
        wanted: platform(wanted).unwrap(),
        env: text(env).into_iter().collect(),
        workdir: "/srv".to_owned(),
        has_shell: false,
        has_entrypoint: false,
    }
}

fn report(source: &str, facts: &Facts) -> Report {
    let (tree, diagnostics) = crate::parse(source);
    assert!(diagnostics.iter().all(|found| !found.is_error()), "{source}: {diagnostics:?}");
    report_of(&File { tree: &tree, source, diagnostics: &diagnostics }, facts)
}

fn report_of(file: &File<'_>, facts: &Facts) -> Report {
    let globals = text(&[
        ("TARGETPLATFORM", "linux/arm64"),
        ("TARGETARCH", "arm64"),
        ("BUILDPLATFORM", "linux/amd64"),
        ("TARGETSTAGE", "default"),
    ]);
    let reference = |text: &str| {
        let plain = |letter: char| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || "./:@_-".contains(letter)
        };
        !text.is_empty() && !text.ends_with([':', '@', '/']) && text.chars().all(plain)
    };
    let input = LintInput {
        policy: &Policy::of(file.tree, &facts.build_args).unwrap(),
        scope: facts.scope,
        target: facts.target,
        build_args: &facts.build_args,
        globals: &globals,
        contexts: &facts.contexts,
        bases: &facts.bases,
        ignore: facts.ignore.as_ref(),
        pinning: facts.pinning,
        grammar: Grammar { reference, platform },
    };
    lint(file, &input)
}

/// Expects these rules at these pieces of text, and nothing else.
#[track_caller]
fn check_with(facts: &Facts, source: &str, expect: &[(&str, &str)]) {
    let report = report(source, facts);
    let found: Vec<_> = report.findings.iter().map(|found| (found.code, found.span.text(source))).collect();
    assert_eq!(found, expect, "{source}");
    for finding in &report.findings {
        assert!(rule(finding.code).is_some(), "{}", finding.code);
        assert!(finding.help.is_some(), "{} gives no help", finding.code);
    }
}

#[track_caller]
fn check(source: &str, expect: &[(&str, &str)]) {
    check_with(&Facts::default(), source, expect);
}

/// Expects nothing.
#[track_caller]
fn clean(source: &str) {
    check(source, &[]);
}
