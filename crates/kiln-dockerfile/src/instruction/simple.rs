//! Instructions with one operand or one command, and no rules of their own.

use super::signal::{parse_signal, similar_signal};
use super::{Json, Request};
use crate::diagnostic::{Diagnostic, quote};
use crate::source::Spanned;
use crate::word::is_literal;

/// A command in one of its two forms. Variables in it are the business of the shell in the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandForm {
    /// Text for the shell of the stage.
    Shell(Spanned<String>),
    /// A program and its arguments, from a JSON array.
    Exec(Vec<Spanned<String>>),
}

impl CommandForm {
    /// Tells whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Shell(text) => text.value.trim().is_empty(),
            Self::Exec(arguments) => arguments.is_empty(),
        }
    }

    pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Self> {
        match request.json() {
            Json::Strings(arguments) => Some(Self::Exec(arguments)),
            Json::No => Some(Self::Shell(request.operands.spanned())),
            Json::Faulty => None,
        }
    }
}

/// `CMD`: the default command, or the default arguments of the entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// The command; `CMD []` removes an inherited one.
    pub command: CommandForm,
}

/// `ENTRYPOINT`: the program that the image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entrypoint {
    /// The command; `ENTRYPOINT []` removes an inherited one.
    pub command: CommandForm,
}

/// `SHELL`: the program that runs commands in shell form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shell {
    /// The program and its arguments; never empty.
    pub command: Vec<Spanned<String>>,
}

/// `WORKDIR`: the directory for the instructions that follow, and of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workdir {
    /// The path, unexpanded.
    pub path: Spanned<String>,
}

/// `USER`: the user for the instructions that follow, and of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// `user[:group]`, unexpanded.
    pub user: Spanned<String>,
}

/// `VOLUME`: paths that a runtime mounts volumes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The paths, unexpanded; never empty.
    pub paths: Vec<Spanned<String>>,
}

/// `STOPSIGNAL`: the signal that stops a container of the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignal {
    /// The signal, unexpanded; check the value with [`parse_signal`].
    pub signal: Spanned<String>,
}

/// `MAINTAINER`: the author; superseded by a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintainer {
    /// The author, as written.
    pub author: Spanned<String>,
}

pub(super) fn parse_cmd(request: &mut Request<'_, '_>) -> Option<Cmd> {
    request.take_flags(&[]);
    Some(Cmd { command: CommandForm::parse(request)? })
}

pub(super) fn parse_entrypoint(request: &mut Request<'_, '_>) -> Option<Entrypoint> {
    request.take_flags(&[]);
    Some(Entrypoint { command: CommandForm::parse(request)? })
}

pub(super) fn parse_shell(request: &mut Request<'_, '_>) -> Option<Shell> {
    request.take_flags(&[]);
    request.require_operands()?;
    match request.json() {
        Json::Strings(command) if !command.is_empty() => Some(Shell { command }),
        Json::Strings(_) => {
            let span = request.operands.span();
            request.missing_operand(span, "SHELL needs at least one operand");
            None
        }
        Json::No => {
            let message = "SHELL must be in JSON form";
            let help = r#"write `SHELL ["/bin/bash", "-c"]`"#;
            let span = request.operands.span();
            request.diagnostics.push(Diagnostic::error("shell-not-json", span, message).with_help(help));
            None
        }
        Json::Faulty => None,
    }
}

/// Reads all that follows the keyword as one operand, spaces included.
fn single(request: &mut Request<'_, '_>) -> Option<Spanned<String>> {
    request.take_flags(&[]);
    single_operand(request)
}

fn single_operand(request: &mut Request<'_, '_>) -> Option<Spanned<String>> {
    if request.operands.is_empty() {
        let message = format!("{} needs exactly one operand", request.name);
        request.missing_operand(request.keyword.span(), message);
        return None;
    }
    Some(request.operands.spanned())
}

pub(super) fn parse_workdir(request: &mut Request<'_, '_>) -> Option<Workdir> {
    Some(Workdir { path: single(request)? })
}

pub(super) fn parse_user(request: &mut Request<'_, '_>) -> Option<User> {
    Some(User { user: single(request)? })
}

pub(super) fn parse_stop_signal(request: &mut Request<'_, '_>) -> Option<StopSignal> {
    request.ignore_flags("STOPSIGNAL");
    let signal = single_operand(request)?;
    if is_literal(&signal.value) && parse_signal(&signal.value).is_none() {
        let message = format!("unknown signal {}", quote(&signal.value));
        let diagnostic = Diagnostic::error("invalid-signal", signal.span, message);
        request.diagnostics.push(match similar_signal(&signal.value) {
            Some(near) => diagnostic.with_suggestion(Some(&near)),
            None => diagnostic.with_help("write a name like `SIGTERM` or a number"),
        });
    }
    Some(StopSignal { signal })
}

pub(super) fn parse_maintainer(request: &mut Request<'_, '_>) -> Option<Maintainer> {
    Some(Maintainer { author: single(request)? })
}

pub(super) fn parse_volume(request: &mut Request<'_, '_>) -> Option<Volume> {
    request.take_flags(&[]);
    request.require_operands()?;
    let paths = match request.json() {
        Json::Strings(paths) => paths,
        Json::No => request.operands.words().iter().map(crate::line::Piece::spanned).collect(),
        Json::Faulty => return None,
    };
    let blank = paths.iter().find(|path| path.value.trim().is_empty()).map(|path| path.span);
    let blank = blank.or_else(|| paths.is_empty().then(|| request.operands.span()));
    if let Some(span) = blank {
        request.error("empty-operand", span, "a volume cannot be an empty string");
        return None;
    }
    Some(Volume { paths })
}
