//! `RUN`: a command in the image's file system.

use super::mount::{self, Mount};
use super::{CommandForm, Request};
use crate::csv;
use crate::diagnostic::{Diagnostic, quote};
use crate::flag::{FlagValue, Flags, Kind};
use crate::heredoc::{Heredoc, Opening};
use crate::source::{Span, Spanned};
use crate::suggest::suggest;
use crate::word::parse_bool;

/// `RUN`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command; [`Run::script`] puts it together with the heredocs.
    pub command: CommandForm,
    /// The heredocs in order; none with the JSON form.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`, in order.
    pub mounts: Vec<Mount>,
    /// `--network`
    pub network: Option<Spanned<Network>>,
    /// `--security`
    pub security: Option<Spanned<Security>>,
    /// `--device`, in order.
    pub devices: Vec<Device>,
}

/// `--network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// That of the build.
    Default,
    /// None at all.
    None,
    /// That of the host, which the build must allow.
    Host,
}

/// `--security`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// That of the build.
    Sandbox,
    /// All privileges, which the build must allow.
    Insecure,
}

/// `--device=name[,required]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name of the device, unexpanded.
    pub name: Spanned<String>,
    /// Whether the step fails without the device.
    pub required: bool,
    /// The value of the flag.
    pub span: Span,
}

/// What a RUN gives to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunScript<'a> {
    /// JSON form: a program and its arguments, without a shell.
    Exec(&'a [Spanned<String>]),
    /// Shell form: text for the shell of the stage.
    Shell(&'a str),
    /// Only a heredoc: its body is the text for the shell of the stage.
    Body(String),
    /// Only a heredoc whose body starts with `#!`: a read-only executable file `/dev/pipes/<name>`, whose
    /// path is the text for the shell of the stage.
    File {
        /// The name of the file.
        name: &'a str,
        /// Its content.
        body: String,
    },
    /// A command with heredocs: the text as written, for the shell of the stage, which must know heredocs.
    Rebuilt(String),
}

impl Run {
    /// Tells how the command is run.
    #[must_use]
    pub fn script(&self) -> RunScript<'_> {
        let text = match &self.command {
            CommandForm::Exec(arguments) => return RunScript::Exec(arguments),
            CommandForm::Shell(text) => text.value.as_str(),
        };
        let Some(first) = self.heredocs.first() else { return RunScript::Shell(text) };
        if Opening::parse(text).is_some() {
            let body = first.content().into_owned();
            return if body.starts_with("#!") {
                RunScript::File { name: &first.name.value, body }
            } else {
                RunScript::Body(body)
            };
        }
        let mut rebuilt = text.to_owned();
        for heredoc in &self.heredocs {
            rebuilt.push('\n');
            rebuilt.push_str(&heredoc.body.value);
            rebuilt.push_str(&heredoc.name.value);
        }
        RunScript::Rebuilt(rebuilt)
    }
}

pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Run> {
    let flags = request.take_flags(&[
        ("mount", Kind::Values),
        ("network", Kind::Value),
        ("security", Kind::Value),
        ("device", Kind::Values),
    ]);
    let networks = [("default", Network::Default), ("none", Network::None), ("host", Network::Host)];
    let securities = [("sandbox", Security::Sandbox), ("insecure", Security::Insecure)];
    let network = choice(request, &flags, "network", &networks);
    let security = choice(request, &flags, "security", &securities);
    let mounts = flags.values("mount").filter_map(|value| mount::parse(value, request.diagnostics)).collect();
    let devices = flags.values("device").filter_map(|value| device(value, request.diagnostics)).collect();
    let command = CommandForm::parse(request)?;
    if command.is_empty() {
        request.missing_operand(request.keyword.span(), "RUN needs a command");
        return None;
    }
    let heredocs = std::mem::take(&mut request.heredocs);
    Some(Run { command, heredocs, mounts, network, security, devices })
}

/// Reads a flag whose values are words.
fn choice<T: Copy>(
    request: &mut Request<'_, '_>,
    flags: &Flags,
    flag: &str,
    values: &[(&str, T)],
) -> Option<Spanned<T>> {
    let given = flags.value(flag)?;
    if let Some((_, value)) = values.iter().find(|(name, _)| *name == given.value) {
        return Some(Spanned::new(*value, given.span));
    }
    let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
    let message = format!("`--{flag}` cannot be {}", quote(&given.value));
    let help = match suggest(&given.value, &names) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("`--{flag}` is one of `{}`", names.join("`, `")),
    };
    request.diagnostics.push(Diagnostic::error("invalid-flag-value", given.span, message).with_help(help));
    None
}

fn device(value: &FlagValue, diagnostics: &mut Vec<Diagnostic>) -> Option<Device> {
    let device = read_device(value);
    match device {
        Ok(device) => Some(device),
        Err(diagnostic) => {
            diagnostics.push(diagnostic);
            None
        }
    }
}

fn read_device(value: &FlagValue) -> Result<Device, Diagnostic> {
    let invalid = |span: Span, message: String| Diagnostic::error("invalid-device", span, message);
    let fields = csv::parse(value).map_err(|reason| {
        invalid(value.span(), format!("invalid device {}: {reason}", quote(value.text())))
    })?;
    let mut name = None;
    let mut required = false;
    for field in fields {
        let (key, setting) = field.split_equals();
        match (key.text().to_ascii_lowercase().as_str(), setting) {
            ("required", None) => required = true,
            ("required", Some(setting)) => {
                required = parse_bool(setting.text()).ok_or_else(|| {
                    invalid(setting.span(), format!("`required` cannot be {}", quote(setting.text())))
                })?;
            }
            ("name", Some(setting)) => name = Some(setting.spanned()),
            // A qualified name may hold `=` itself: `vendor.com/class=device`.
            _ if name.is_none() => name = Some(field.spanned()),
            _ => {
                return Err(invalid(field.span(), format!("unknown device option {}", quote(field.text()))));
            }
        }
    }
    match name.filter(|name| !name.value.is_empty()) {
        Some(name) => Ok(Device { name, required, span: value.span() }),
        None => Err(invalid(value.span(), "a device needs a name".to_owned())),
    }
}
