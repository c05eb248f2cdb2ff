//! Variables: used before they are declared, secrets in them, and the old form of ENV and LABEL.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Linter;
use super::walk::State;
use crate::diagnostic::{Diagnostic, Fix, quote};
use crate::directive::Escape;
use crate::expand::{Expanded, expand_heredoc, expand_word, expand_words};
use crate::heredoc::Heredoc;
use crate::instruction::{Arg, Env, Label, Pair, PairForm, Run};
use crate::parser::{Stage, Statement};
use crate::source::{Span, Spanned};

/// Expands the words of one instruction, all with the variables as they were before it.
pub(super) struct Words<'w, 'a> {
    pub(super) linter: &'w mut Linter<'a>,
    pub(super) stage: &'w Stage,
    pub(super) statement: &'w Statement,
    pub(super) state: &'w mut State,
    reported: BTreeSet<String>,
}

impl<'w, 'a> Words<'w, 'a> {
    pub(super) fn new(
        linter: &'w mut Linter<'a>,
        stage: &'w Stage,
        statement: &'w Statement,
        state: &'w mut State,
    ) -> Self {
        Self { linter, stage, statement, state, reported: BTreeSet::new() }
    }

    fn escape(&self) -> Escape {
        self.linter.file.tree.directives.escape()
    }

    /// Returns the value of a word, or nothing when it has a fault or depends on what is not known.
    pub(super) fn word(&mut self, word: &Spanned<String>) -> Option<String> {
        // Most words have nothing to replace.
        if crate::word::is_literal(&word.value) {
            return Some(word.value.clone());
        }
        let vars = Rc::clone(&self.state.vars);
        let found = expand_word(&word.value, self.escape(), &|name| vars.get(name).cloned()).ok()?;
        self.known(&found.undefined, word.span).then_some(found.text)
    }

    /// Returns the words that one word of a list stands for.
    pub(super) fn list(&mut self, word: &Spanned<String>) -> Option<Vec<String>> {
        let vars = Rc::clone(&self.state.vars);
        let found = expand_words(&word.value, self.escape(), &|name| vars.get(name).cloned()).ok()?;
        (found.undefined.is_empty() || !self.state.open).then_some(found.words)
    }

    pub(super) fn heredoc(&mut self, heredoc: &Heredoc) {
        if !heredoc.expand || !heredoc.body.value.contains('$') {
            return;
        }
        let vars = Rc::clone(&self.state.vars);
        let found = expand_heredoc(&heredoc.content(), &|name| vars.get(name).cloned());
        if let Ok(Expanded { undefined, .. }) = found {
            // The body may have thousands of lines, and the name says which file it is.
            self.known(&undefined, heredoc.name.span);
        }
    }

    /// Reports variables that are not set and tells whether the value of their word is known nevertheless.
    fn known(&mut self, undefined: &BTreeSet<String>, span: Span) -> bool {
        let mut known = true;
        for name in undefined {
            if self.state.declared.contains(name) {
                continue;
            }
            let elsewhere =
                self.linter.graph.from_vars.contains_key(name) || self.linter.graph.declared.contains(name);
            if self.state.open {
                known = false;
                // The base could set it, unless this file shows what is meant.
                if !elsewhere {
                    let image = self.state.base.clone().unwrap_or_default();
                    self.linter.unchecked("UndefinedVar", &image, self.stage.from.instruction.image.span);
                    continue;
                }
            }
            if self.reported.insert(name.clone()) {
                self.undefined(name, span, elsewhere);
            }
        }
        known
    }

    fn undefined(&mut self, name: &str, span: Span, elsewhere: bool) {
        let finding =
            Diagnostic::warning("UndefinedVar", span, format!("`${name}` is not defined, so it is empty"));
        if elsewhere {
            let (keyword, place) = self.linter.keyword(self.statement.span);
            let word = if keyword == keyword.to_lowercase() { "arg" } else { "ARG" };
            let help = format!("add `{word} {name}` in this stage, before this instruction");
            // One declaration serves all uses below it.
            let first = self.state.proposed.insert(name.to_owned());
            let at = Span::new(place.start, place.start);
            let fix = first.then(|| Fix::replace(at, format!("{word} {name}\n")));
            return self.linter.report(finding.with_help(help).with_fix(fix));
        }
        let help = match self.linter.suggest(name, self.state.vars.keys()) {
            Some(near) => format!("did you mean `${near}`?"),
            None => format!("declare it above with ARG or ENV, or write `${{{name}:-}}` if it may be empty"),
        };
        self.linter.report(finding.with_help(help));
    }
}

pub(super) fn arg(words: &mut Words<'_, '_>, arg: &Arg) {
    for declared in &arg.declarations {
        let name = &declared.name.value;
        secret(words, "ARG", name, declared.name.span);
        let given = words.linter.input.build_args.get(name).cloned();
        let value = match (given, &declared.default) {
            (Some(given), _) => Some(given),
            // A default with an unknown variable still sets the name.
            (None, Some(default)) => Some(words.word(default).unwrap_or_default()),
            (None, None) => words.linter.graph.from_vars.get(name).cloned(),
        };
        if let Some(value) = value {
            Rc::make_mut(&mut words.state.vars).insert(name.clone(), value);
        }
        Rc::make_mut(&mut words.state.declared).insert(name.clone());
    }
}

pub(super) fn env(words: &mut Words<'_, '_>, env: &Env) {
    legacy(words, "ENV", &env.pairs, env.form);
    let mut new = Vec::new();
    for pair in &env.pairs {
        let key = words.word(&pair.key);
        let value = words.word(&pair.value).unwrap_or_default();
        if let Some(key) = key {
            secret(words, "ENV", &key, pair.key.span);
            new.push((key, value));
        }
    }
    Rc::make_mut(&mut words.state.vars).extend(new);
}

pub(super) fn label(words: &mut Words<'_, '_>, label: &Label) {
    legacy(words, "LABEL", &label.pairs, label.form);
    for pair in &label.pairs {
        words.word(&pair.key);
        words.word(&pair.value);
    }
}

/// The options of mounts have variables; the command is the shell's business.
pub(super) fn run(words: &mut Words<'_, '_>, run: &Run) {
    for option in run.mounts.iter().flat_map(|mount| &mount.options) {
        if let Some(value) = option.value.as_ref().filter(|_| option.key.value != "from") {
            words.word(value);
        }
    }
}

fn legacy(words: &mut Words<'_, '_>, keyword: &str, pairs: &[Pair], form: PairForm) {
    let (PairForm::Legacy, [pair]) = (form, pairs) else { return };
    let span = pair.key.span.to(pair.value.span);
    let source = words.linter.file.source;
    let message = format!("{keyword} with a blank in place of `=` is the old form");
    let fix = modern(pair, source);
    let help = format!("write `{keyword} name=value`, with quotes around a value that has blanks");
    let finding = Diagnostic::warning("LegacyKeyValueFormat", span, message).with_help(help);
    words.linter.report(finding.with_fix(fix.map(|text| Fix::replace(span, text))));
}

/// Writes a pair of the old form in the new one, where the value means the same in both.
fn modern(pair: &Pair, source: &str) -> Option<String> {
    let (key, value) = (&pair.key.value, &pair.value.value);
    if pair.value.span.text(source) != value || !crate::word::is_literal(key) {
        return None;
    }
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    if inner.contains(['"', '\'', '\\', '`']) {
        return None;
    }
    let quoted = inner.len() < value.len() || inner.contains(char::is_whitespace);
    Some(if quoted { format!("{key}=\"{inner}\"") } else { format!("{key}={inner}") })
}

/// Parts of a name that say it holds a secret.
const SECRET: [&str; 10] =
    ["apikey", "auth", "credential", "credentials", "key", "password", "pword", "passwd", "secret", "token"];
/// Parts of a name that say it does not.
const HARMLESS: [&str; 3] = ["public", "file", "version"];

/// Tells whether a variable called `name` is likely to hold a secret, by the words in its name as BuildKit's check does.
#[must_use]
pub fn looks_secret(name: &str) -> bool {
    let has = |parts: &[&str]| {
        name.split('_').any(|part| parts.iter().any(|known| part.eq_ignore_ascii_case(known)))
    };
    has(&SECRET) && !has(&HARMLESS)
}

fn secret(words: &mut Words<'_, '_>, keyword: &str, name: &str, span: Span) {
    if looks_secret(name) {
        let message = format!("{keyword} {} looks like a secret, and it stays in the image", quote(name));
        let help = "pass secrets with `RUN --mount=type=secret`";
        words.linter.warn("SecretsUsedInArgOrEnv", span, message, help);
    }
}
