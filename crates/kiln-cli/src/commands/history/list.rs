//! `kiln history ls`.

use std::time::Duration;

use kiln::history::{BuildRecord, Entry, History, Outcome as Ended, StepStatus};
use kiln::oci::Reference;
use serde::Serialize;

use super::json;
use crate::args::HistoryLsArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::ListFormat;
use crate::{stdout, text};

/// One build as it is listed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Row {
    number: u64,
    /// `done`, `failed`, `interrupted`, `running` or `unfinished`.
    status: &'static str,
    /// RFC 3339; like all that follows, unknown of a build that did not end.
    started: Option<String>,
    took_ms: Option<u64>,
    names: Vec<String>,
    digest: Option<String>,
    context: Option<String>,
    /// Steps that make a layer.
    steps: Option<usize>,
    /// How many of them the cache had.
    cached: Option<usize>,
}

/// Lists the builds, the newest first.
pub(super) fn run(args: &HistoryLsArgs, env: &Env) -> Outcome<Exit> {
    let history = super::open(&args.store, env)?;
    let rows: Vec<Row> = rows(&history)?;
    let text = match args.format {
        ListFormat::Table => table(&rows),
        ListFormat::Json => json(&rows)?,
    };
    stdout::print(&text)?;
    Ok(Exit::Success)
}

fn rows(history: &History) -> Outcome<Vec<Row>> {
    let numbers = history.numbers()?;
    let row = |number: &u64| {
        let row = Row { number: *number, ..Row::default() };
        // One that is gone since the numbers were read was removed by a build that ended.
        Some(match history.entry(*number)? {
            Entry::Ended(record) => of(&record),
            Entry::Running => Row { status: "running", ..row },
            Entry::Unfinished => Row { status: "unfinished", ..row },
        })
    };
    Ok(numbers.iter().rev().filter_map(row).collect())
}

/// Returns the word for how a build ended.
pub(super) fn status(outcome: &Ended) -> &'static str {
    match outcome {
        Ended::Done { .. } => "done",
        Ended::Failed { .. } => "failed",
        Ended::Interrupted => "interrupted",
    }
}

/// Returns how many steps make a layer, and how many of them were in the cache.
pub(super) fn counts(record: &BuildRecord) -> (usize, usize) {
    let cached = record.steps.iter().filter(|step| step.status == StepStatus::Cached).count();
    // A base has no layer of this build, whatever became of it.
    let layers = record.steps.iter().filter(|step| !is_base(&step.title)).count();
    (layers, cached)
}

fn is_base(title: &str) -> bool {
    let instruction =
        title.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(title, |(_, text)| text);
    instruction.starts_with("FROM ")
}

fn of(record: &BuildRecord) -> Row {
    let (steps, cached) = counts(record);
    Row {
        number: record.number,
        status: status(&record.outcome),
        started: Some(record.started.clone()),
        took_ms: Some(record.took_ms),
        names: record.request.tags.clone(),
        digest: match &record.outcome {
            Ended::Done { digest, .. } => Some(digest.to_string()),
            Ended::Failed { .. } | Ended::Interrupted => None,
        },
        context: Some(record.request.context.clone()),
        steps: Some(steps),
        cached: Some(cached),
    }
}

fn table(rows: &[Row]) -> String {
    let unknown = || "-".to_owned();
    let mut cells = vec![["BUILD", "STARTED", "TOOK", "STATUS", "CACHED", "IMAGE"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let name = row.names.first().map(|name| familiar(name));
        let digest = row.digest.as_deref().and_then(|d| d.strip_prefix("sha256:")?.get(..12));
        let image: Vec<&str> = name.as_deref().into_iter().chain(digest).collect();
        [
            row.number.to_string(),
            row.started.clone().unwrap_or_else(unknown),
            row.took_ms.map_or_else(unknown, |took| text::seconds(Duration::from_millis(took))),
            row.status.to_owned(),
            row.steps.zip(row.cached).map_or_else(unknown, |(steps, cached)| format!("{cached}/{steps}")),
            if image.is_empty() { unknown() } else { image.join(" ") },
        ]
    }));
    text::table(&cells)
}

/// Writes a name as people do.
pub(super) fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let done = Row {
            number: 12,
            status: "done",
            started: Some("2026-01-02T03:04:05Z".to_owned()),
            took_ms: Some(65_400),
            names: vec!["docker.io/library/app:latest".to_owned(), "b:1".to_owned()],
            digest: Some(kiln::oci::Digest::sha256(b"").to_string()),
            context: Some(".".to_owned()),
            steps: Some(4),
            cached: Some(3),
        };
        let running = Row { number: 13, status: "running", ..Row::default() };
        assert_eq!(
            table(&[running, done]),
            "\
BUILD  STARTED               TOOK   STATUS   CACHED  IMAGE
13     -                     -      running  -       -
12     2026-01-02T03:04:05Z  65.4s  done     3/4     app:latest e3b0c44298fc
"
        );
    }

    #[test]
    fn a_base_is_no_step_with_a_layer() {
        assert!(is_base("[build 1/3] FROM alpine") && is_base("FROM scratch"));
        assert!(!is_base("[build 2/3] COPY FROM /"));
    }
}
