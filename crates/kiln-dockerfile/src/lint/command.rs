//! The instructions of metadata: CMD and its like, WORKDIR, EXPOSE, MAINTAINER.

use super::variables::Words;
use super::walk::State;
use super::{Linter, shell};
use crate::diagnostic::{Diagnostic, Fix, quote};
use crate::instruction::{CommandForm, Expose, Maintainer, Workdir};
use crate::parser::{Stage, Statement};
use crate::source::{Span, Spanned};
use crate::word::is_literal;

/// The instructions of which only the last counts, where they were last.
#[derive(Debug)]
pub(super) struct Once {
    cmd: Option<Span>,
    entrypoint: Option<Span>,
    healthcheck: Option<Span>,
    /// Whether the stage has CMD and ENTRYPOINT, so that the form of one decides what the other means.
    both: bool,
}

impl Once {
    pub(super) fn new(stage: &Stage) -> Self {
        let has = |name: &str| stage.instructions.iter().any(|other| other.instruction.name() == name);
        Self { cmd: None, entrypoint: None, healthcheck: None, both: has("CMD") && has("ENTRYPOINT") }
    }
}

/// Reports the earlier of two instructions, because it is the one without effect.
fn once(linter: &mut Linter<'_>, keyword: &str, span: Span, earlier: &mut Option<Span>) {
    const RULE: &str = "MultipleInstructionsDisallowed";
    if let Some(without_effect) = earlier.replace(span).filter(|_| linter.applies(RULE, span.start)) {
        let message = format!("this {keyword} has no effect, because the stage has another one below");
        linter.warn(RULE, without_effect, message, "remove all but the last one");
    }
}

pub(super) fn healthcheck(linter: &mut Linter<'_>, statement: &Statement, seen: &mut Once) {
    once(linter, "HEALTHCHECK", statement.span, &mut seen.healthcheck);
}

pub(super) fn cmd(
    linter: &mut Linter<'_>,
    statement: &Statement,
    form: &CommandForm,
    state: &State,
    seen: &mut Once,
) {
    once(linter, "CMD", statement.span, &mut seen.cmd);
    let Some(mut finding) = json_form(linter, "CMD", statement, form, state) else { return };
    // What an entry point makes of its arguments is its own affair.
    if seen.both || state.has_entrypoint {
        finding.fix = None;
    }
    linter.report(finding);
}

pub(super) fn entrypoint(
    linter: &mut Linter<'_>,
    statement: &Statement,
    form: &CommandForm,
    state: &State,
    seen: &mut Once,
) {
    once(linter, "ENTRYPOINT", statement.span, &mut seen.entrypoint);
    let Some(mut finding) = json_form(linter, "ENTRYPOINT", statement, form, state) else { return };
    if seen.both {
        finding.fix = None;
    }
    linter.report(finding);
}

/// A shell between the container and its program keeps signals from it; a chosen shell is wanted.
fn json_form(
    linter: &Linter<'_>,
    keyword: &str,
    statement: &Statement,
    form: &CommandForm,
    state: &State,
) -> Option<Diagnostic> {
    let CommandForm::Shell(text) = form else { return None };
    if state.has_shell {
        return None;
    }
    let message = format!("{keyword} runs in a shell, which does not pass signals on");
    let finding = Diagnostic::warning("JSONArgsRecommended", statement.span, message);
    if text.value.trim().is_empty() {
        return Some(finding.with_help(format!("write `{keyword} []` to remove an inherited command")));
    }
    let json = shell::plain_words(&text.value).map(|words| json(&words));
    let help = match &json {
        Some(json) => format!("write `{keyword} {json}`"),
        None => format!("write {keyword} in JSON form; a shell that is needed can be its first element"),
    };
    let fix = json.filter(|_| text.span.text(linter.file.source) == text.value);
    Some(finding.with_help(help).with_fix(fix.map(|json| Fix::replace(text.span, json))))
}

/// Writes words that need no escapes as a JSON array.
fn json(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

pub(super) fn maintainer(linter: &mut Linter<'_>, statement: &Statement, maintainer: &Maintainer) {
    const LABEL: &str = "org.opencontainers.image.authors";
    let author = &maintainer.author;
    let (word, keyword) = linter.keyword(statement.span);
    let label = if word == word.to_lowercase() { "label" } else { "LABEL" };
    // Of the characters that mean something in a quoted value, none may be there.
    let plain = !author.value.contains(['"', '\\', '$', '`']);
    let fix = (plain && author.span.text(linter.file.source) == author.value)
        .then(|| Fix::replace(keyword.to(author.span), format!("{label} {LABEL}=\"{}\"", author.value)));
    let finding = Diagnostic::warning("MaintainerDeprecated", keyword, "MAINTAINER is deprecated");
    linter.report(finding.with_help(format!("write `LABEL {LABEL}=\"…\"`")).with_fix(fix));
}

pub(super) fn workdir(words: &mut Words<'_, '_>, workdir: &Workdir) {
    const RULE: &str = "WorkdirRelativePath";
    let value = words.word(&workdir.path);
    let state = &mut *words.state;
    let Some(path) = value else {
        (state.workdir, state.workdir_set) = (None, true);
        return;
    };
    let absolute = is_absolute(&path);
    let below = state.workdir.as_ref().map(|parent| format!("{}/{path}", parent.trim_end_matches('/')));
    if !state.workdir_set && !absolute {
        let message = format!("where {} is depends on the base image", quote(&path));
        let help = match &below {
            Some(full) => format!("write `WORKDIR {full}`"),
            None => "write an absolute path".to_owned(),
        };
        let fix = below.clone().filter(|_| is_literal(&workdir.path.value));
        let fix = fix.map(|full| Fix::replace(workdir.path.span, full));
        let finding = Diagnostic::warning(RULE, workdir.path.span, message);
        words.linter.report(finding.with_help(help).with_fix(fix));
    }
    let state = &mut *words.state;
    state.workdir_set = true;
    state.workdir = if absolute { Some(path) } else { below };
}

/// A path of Windows may start with a drive.
fn is_absolute(path: &str) -> bool {
    let drive = path.get(1..3).is_some_and(|rest| rest == ":\\" || rest == ":/");
    path.starts_with('/') || path.starts_with('\\') || drive
}

pub(super) fn expose(words: &mut Words<'_, '_>, expose: &Expose) {
    for port in &expose.ports {
        for text in words.list(port).unwrap_or_default() {
            protocol(words, port, &text);
            host_part(words, port, &text);
        }
    }
}

fn protocol(words: &mut Words<'_, '_>, port: &Spanned<String>, text: &str) {
    let Some((number, protocol)) = text.split_once('/') else { return };
    let lower = protocol.to_ascii_lowercase();
    if protocol == lower {
        return;
    }
    let message = format!("the protocol of {} is not in lower case", quote(text));
    let finding = Diagnostic::warning("ExposeProtoCasing", port.span, message);
    let finding = finding.with_help(format!("write `{number}/{lower}`"));
    let fix = is_literal(&port.value).then(|| Fix::replace(port.span, format!("{number}/{lower}")));
    words.linter.report(finding.with_fix(fix));
}

fn host_part(words: &mut Words<'_, '_>, port: &Spanned<String>, text: &str) {
    let Some((_, container)) = text.rsplit_once(':') else { return };
    let message = format!("the host's part of {} has no effect", quote(text));
    let finding = Diagnostic::warning("ExposeInvalidFormat", port.span, message);
    let finding =
        finding.with_help(format!("write `{container}`; ports are published when a container starts"));
    let fix = is_literal(&port.value).then(|| Fix::replace(port.span, container));
    words.linter.report(finding.with_fix(fix));
}
