//! `HEALTHCHECK`: how a runtime asks a container whether it is well.

use std::time::Duration;

use super::{CommandForm, Request};
use crate::diagnostic::{Diagnostic, quote};
use crate::duration::parse_duration;
use crate::flag::{Flags, Kind};
use crate::source::Spanned;

/// `HEALTHCHECK`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// `HEALTHCHECK NONE`: the check of the base image is off.
    None,
    /// `HEALTHCHECK CMD …`
    Command(HealthCommand),
}

/// A command and how often it runs; what is absent or zero is inherited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCommand {
    /// The command; never empty.
    pub command: CommandForm,
    /// `--interval`
    pub interval: Option<Spanned<Duration>>,
    /// `--timeout`
    pub timeout: Option<Spanned<Duration>>,
    /// `--start-period`
    pub start_period: Option<Spanned<Duration>>,
    /// `--start-interval`
    pub start_interval: Option<Spanned<Duration>>,
    /// `--retries`
    pub retries: Option<Spanned<u32>>,
}

/// What the runtimes can measure; a shorter duration is a mistake in the unit.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Healthcheck> {
    request.require_operands()?;
    let (kind, rest) = request.operands.split_word();
    request.operands = rest;
    let kind_name = kind.text().to_ascii_uppercase();
    if kind_name == "NONE" {
        request.ignore_flags("HEALTHCHECK NONE");
    }
    let flags = request.take_flags(&[
        ("interval", Kind::Value),
        ("timeout", Kind::Value),
        ("start-period", Kind::Value),
        ("start-interval", Kind::Value),
        ("retries", Kind::Value),
    ]);
    match kind_name.as_str() {
        "NONE" => {
            if !rest.is_empty() {
                request.error("invalid-healthcheck", rest.span(), "HEALTHCHECK NONE takes no operands");
                return None;
            }
            Some(Healthcheck::None)
        }
        "CMD" => {
            let command = CommandForm::parse(request)?;
            if command.is_empty() {
                request.missing_operand(kind.span(), "HEALTHCHECK CMD needs a command");
                return None;
            }
            Some(Healthcheck::Command(HealthCommand {
                command,
                interval: duration(request, &flags, "interval"),
                timeout: duration(request, &flags, "timeout"),
                start_period: duration(request, &flags, "start-period"),
                start_interval: duration(request, &flags, "start-interval"),
                retries: retries(request, &flags),
            }))
        }
        _ => {
            let message = format!("unknown type {} of HEALTHCHECK", quote(kind.text()));
            let help = "write `HEALTHCHECK CMD <command>` or `HEALTHCHECK NONE`";
            let diagnostic = Diagnostic::error("invalid-healthcheck", kind.span(), message);
            request.diagnostics.push(diagnostic.with_help(help));
            None
        }
    }
}

fn duration(request: &mut Request<'_, '_>, flags: &Flags, name: &str) -> Option<Spanned<Duration>> {
    let value = flags.value(name).filter(|value| !value.value.is_empty())?;
    let fault = match parse_duration(&value.value) {
        Ok(duration) if duration.is_zero() || duration >= SHORTEST => {
            return Some(Spanned::new(duration, value.span));
        }
        Ok(_) => "it cannot be shorter than 1ms",
        Err(reason) => reason,
    };
    let message = format!("invalid duration {} of `--{name}`: {fault}", quote(&value.value));
    request.error("invalid-duration", value.span, message);
    None
}

fn retries(request: &mut Request<'_, '_>, flags: &Flags) -> Option<Spanned<u32>> {
    let value = flags.value("retries").filter(|value| !value.value.is_empty())?;
    match value.value.parse::<u32>() {
        Ok(retries) if i32::try_from(retries).is_ok() => Some(Spanned::new(retries, value.span)),
        _ => {
            let message =
                format!("`--retries` must be a number that is not negative, not {}", quote(&value.value));
            request.error("invalid-flag-value", value.span, message);
            None
        }
    }
}
