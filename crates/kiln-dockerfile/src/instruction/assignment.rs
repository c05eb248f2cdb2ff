//! `ARG`, `ENV` and `LABEL`: names and values.

use super::Request;
use crate::diagnostic::{Diagnostic, quote};
use crate::line::Piece;
use crate::source::Spanned;
use crate::word;

/// `ARG name[=default] …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// The declarations in order; never empty.
    pub declarations: Vec<ArgDeclaration>,
}

/// One build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name, unexpanded.
    pub name: Spanned<String>,
    /// The text after `=`, unexpanded; absent and empty are different.
    pub default: Option<Spanned<String>>,
}

/// `ENV name=value …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// The pairs in order; never empty. All are expanded with the state before the instruction.
    pub pairs: Vec<Pair>,
    /// How they were written.
    pub form: PairForm,
}

/// `LABEL name=value …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The pairs in order; never empty.
    pub pairs: Vec<Pair>,
    /// How they were written.
    pub form: PairForm,
}

/// A name and its value, both unexpanded and with their quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name; that of a label may be quoted.
    pub key: Spanned<String>,
    /// The value.
    pub value: Spanned<String>,
}

/// The two ways to write pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairForm {
    /// `name=value`, any number of them.
    Equals,
    /// `name value`, one, where the value is the rest of the line.
    Legacy,
}

pub(super) fn parse_arg(request: &mut Request<'_, '_>) -> Option<Arg> {
    request.ignore_flags("ARG");
    request.require_operands()?;
    let mut declarations = Vec::new();
    for word in word::split(request.operands, request.escape.character()) {
        let (name, default) = match split_equals(word) {
            Some((name, default)) => (name, Some(default.spanned())),
            None => (word, None),
        };
        if name.is_empty() {
            blank_name(request, word);
            return None;
        }
        declarations.push(ArgDeclaration { name: name.spanned(), default });
    }
    (!declarations.is_empty()).then_some(Arg { declarations })
}

pub(super) fn parse_env(request: &mut Request<'_, '_>) -> Option<Env> {
    let (pairs, form) = pairs(request)?;
    Some(Env { pairs, form })
}

pub(super) fn parse_label(request: &mut Request<'_, '_>) -> Option<Label> {
    let (pairs, form) = pairs(request)?;
    Some(Label { pairs, form })
}

fn pairs(request: &mut Request<'_, '_>) -> Option<(Vec<Pair>, PairForm)> {
    request.take_flags(&[]);
    request.require_operands()?;
    let words = word::split(request.operands, request.escape.character());
    let first = words.first()?;
    // What comes first, a blank or `=`, tells the forms apart.
    if !first.text().contains('=') {
        return Some((vec![legacy_pair(request)?], PairForm::Legacy));
    }
    let mut pairs = Vec::new();
    for word in words {
        let Some((key, value)) = split_equals(word) else {
            let message = format!("{} has no `=`", quote(word.text()));
            let help = "write `name=value`, with quotes around a value that has spaces";
            let diagnostic = Diagnostic::error("missing-equals", word.span(), message).with_help(help);
            request.diagnostics.push(diagnostic);
            return None;
        };
        if key.is_empty() {
            blank_name(request, word);
            return None;
        }
        pairs.push(Pair { key: key.spanned(), value: value.spanned() });
    }
    Some((pairs, PairForm::Equals))
}

fn legacy_pair(request: &mut Request<'_, '_>) -> Option<Pair> {
    let (key, value) = request.operands.split_word();
    if value.is_empty() {
        let message = format!("{} must have two operands", request.name);
        let help = format!("write {}", quote(&format!("{} {}=<value>", request.name, key.text())));
        let diagnostic = Diagnostic::error("missing-operand", request.operands.span(), message);
        request.diagnostics.push(diagnostic.with_help(help));
        return None;
    }
    Some(Pair { key: key.spanned(), value: value.spanned() })
}

fn split_equals<'a>(word: Piece<'a>) -> Option<(Piece<'a>, Piece<'a>)> {
    let equals = word.text().find('=')?;
    Some((word.part(0, equals), word.from(equals + 1)))
}

fn blank_name(request: &mut Request<'_, '_>, word: Piece<'_>) {
    let message = format!("{} has a name that is empty", request.name);
    let help = format!("write `{} <name>=<value>`", request.name);
    request.diagnostics.push(Diagnostic::error("empty-operand", word.span(), message).with_help(help));
}
