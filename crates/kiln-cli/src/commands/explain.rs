//! `kiln explain` and `kiln build --explain`: which steps the cache had or would have, and why not the others.

use std::fmt::Write as _;
use std::sync::Arc;

use kiln::history::{BuildRecord, Entry, StepRecord, StepStatus};
use kiln::progress::{Sink, StepId};
use kiln::{Error, Expected};
use serde::Serialize;

use super::build::{self, Started};
use super::history;
use crate::args::{BuildArgs, ExplainArgs};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::progress::{Terminal, View};
use crate::stdout;
use crate::text::printable;
use crate::value::RecordFormat;

/// What is said of a step without an earlier build to compare with.
const NO_EARLIER: &str = "no earlier build of this is known here";

/// Explains a build that was done.
pub(super) fn run(args: &ExplainArgs, env: &Env) -> Outcome<Exit> {
    let records = history::open(&args.store, env)?;
    let (number, entry) = history::find(&records, args.number)?;
    let Entry::Ended(record) = entry else {
        return Err(Error::input(format!("build {number} has no record of its steps"))
            .hint("a build writes it when it ends")
            .into());
    };
    stdout::print(&match args.format {
        RecordFormat::Text => page(&record.steps.iter().map(Line::done).collect::<Vec<_>>()),
        RecordFormat::Json => history::json(&steps(&record))?,
    })?;
    Ok(Exit::Success)
}

/// Explains a build that is not done.
pub(super) fn before(args: &BuildArgs, format: RecordFormat, env: &Env, terminal: Terminal) -> Outcome<Exit> {
    let Started { settings, namespace, cancel, signals, view } = build::start(args, env, terminal)?;
    let sink: Sink = Arc::<dyn View>::clone(&view);
    let config = build::engine_config(&settings, namespace, &sink)?;
    match kiln::explain(&config, &settings.request, &sink, &cancel) {
        Ok(steps) => {
            stdout::print(&match format {
                RecordFormat::Text => page(&steps.iter().map(Line::expected).collect::<Vec<_>>()),
                RecordFormat::Json => history::json(&steps)?,
            })?;
            Ok(Exit::Success)
        }
        Err(error) => {
            view.fail(&error);
            Ok(build::exit(&error.into(), &signals))
        }
    }
}

/// One step as it is shown.
struct Line<'a> {
    state: &'static str,
    title: &'a str,
    place: Option<&'a str>,
    why: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn expected(step: &'a Expected) -> Self {
        let state = match step.cached {
            None => "",
            Some(true) => "cached",
            Some(false) => "runs",
        };
        let why = (step.cached == Some(false)).then(|| step.reason.as_deref().unwrap_or(NO_EARLIER));
        Self { state, title: &step.title, place: step.place.as_deref(), why }
    }

    fn done(step: &'a StepRecord) -> Self {
        let state = match step.status {
            StepStatus::Cached => "cached",
            _ if step.layer.is_none() && step.reason.is_none() && step.status == StepStatus::Done => "",
            StepStatus::Done => "ran",
            StepStatus::Failed => "failed",
            StepStatus::Stopped => "stopped",
            StepStatus::NotReached => "not reached",
        };
        let why = match (step.status, step.reason.as_deref()) {
            (StepStatus::Cached, None) => None,
            // Its key was not there; then its inputs came out as those of an earlier build.
            (StepStatus::Cached, Some(_)) => Some("what it is made from came out as before"),
            (_, reason) => reason.or((state == "ran").then_some(NO_EARLIER)),
        };
        Self { state, title: &step.title, place: step.place.as_deref(), why }
    }
}

fn page(lines: &[Line<'_>]) -> String {
    let width = lines.iter().map(|line| line.state.len()).max().unwrap_or(0);
    let mut page = String::new();
    for Line { state, title, place, why } in lines {
        let title = printable(&title.replace('\n', " ")).into_owned();
        let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
        let _ = writeln!(page, "{state:width$}  {title}{place}");
        if let Some(why) = why {
            let _ = writeln!(page, "{:width$}  because {}", "", printable(why));
        }
    }
    page
}

/// A step of a build that was done, for programs.
#[derive(Serialize)]
struct Step<'a> {
    step: StepId,
    title: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<&'a str>,
    status: StepStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a kiln::oci::Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    parts: &'a [kiln::history::Part],
}

fn steps(record: &BuildRecord) -> Vec<Step<'_>> {
    record
        .steps
        .iter()
        .map(|step| Step {
            step: step.id,
            title: &step.title,
            place: step.place.as_deref(),
            status: step.status,
            key: step.key.as_ref(),
            reason: step.reason.as_deref(),
            parts: &step.parts,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_stand_below_their_steps() {
        let step = |title: &str, cached, reason: Option<&str>| Expected {
            step: 1,
            title: title.to_owned(),
            place: Some("Dockerfile:2".to_owned()),
            key: kiln::oci::Digest::sha256(b""),
            cached,
            reason: reason.map(str::to_owned),
        };
        let steps = [
            step("FROM alpine", None, None),
            step("[2/4] RUN a", Some(true), None),
            step("[3/4] COPY . .", Some(false), Some("`a` changed")),
            step("[4/4] RUN b", Some(false), None),
        ];
        assert_eq!(
            page(&steps.iter().map(Line::expected).collect::<Vec<_>>()),
            "        FROM alpine (Dockerfile:2)
cached  [2/4] RUN a (Dockerfile:2)
runs    [3/4] COPY . . (Dockerfile:2)
        because `a` changed
runs    [4/4] RUN b (Dockerfile:2)
        because no earlier build of this is known here
"
        );
    }
}
