//! `FROM`: the start of a stage.

use super::Request;
use crate::diagnostic::{Diagnostic, quote};
use crate::flag::{FlagValue, Kind};
use crate::source::Spanned;

/// `FROM [--platform=…] image [AS name]`; the name is the stage's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// An image, an earlier stage, `scratch` or a named context, unexpanded; empty only when it was missing.
    pub image: Spanned<String>,
    /// `--platform`, unexpanded.
    pub platform: Option<Spanned<String>>,
    /// `--after`: stages that must be built before this one although it uses nothing of them.
    pub after: Vec<Spanned<String>>,
}

/// Reads a FROM and the name of its stage. A faulty one still starts a stage, so that the instructions after
/// it have a home.
pub(super) fn parse(request: &mut Request<'_, '_>) -> (From, Option<Spanned<String>>) {
    let flags = request.take_flags(&[("platform", Kind::Value), ("after", Kind::Values)]);
    let words = request.operands.words();
    let image = match words.first() {
        Some(word) => word.spanned(),
        None => Spanned::new(String::new(), request.keyword.span()),
    };
    let from = From {
        image,
        platform: flags.value("platform"),
        after: flags.values("after").map(FlagValue::spanned).collect(),
    };
    let name = match words.as_slice() {
        [_] => None,
        [_, sign, name] if sign.text().eq_ignore_ascii_case("as") => {
            let name = Spanned::new(name.text().to_lowercase(), name.span());
            if is_stage_name(&name.value) {
                Some(name)
            } else {
                let message = format!("invalid stage name {}", quote(&name.value));
                let help =
                    "a stage name starts with a letter and goes on with letters, digits, `-`, `_` and `.`";
                let diagnostic = Diagnostic::error("invalid-stage-name", name.span, message);
                request.diagnostics.push(diagnostic.with_help(help));
                None
            }
        }
        _ => {
            let span = if words.is_empty() { request.keyword.span() } else { request.operands.span() };
            let message = "FROM needs either one or three operands";
            let help = "write `FROM <image>` or `FROM <image> AS <name>`";
            request.diagnostics.push(Diagnostic::error("invalid-from", span, message).with_help(help));
            None
        }
    };
    (from, name)
}

fn is_stage_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|letter| {
            letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '-' | '_' | '.')
        })
}
