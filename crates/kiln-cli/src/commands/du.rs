//! `kiln du`: what takes space in the store.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use kiln::Error;
use kiln::store::{Entry, EntryKind, Store, Survey};
use serde::Serialize;

use super::enter_store;
use crate::args::DuArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::ListFormat;
use crate::{stdout, text};

/// All entries of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
struct Row {
    /// The kind.
    kind: &'static str,
    /// How many.
    count: u64,
    /// Bytes on disk.
    size: u64,
    /// Bytes that `kiln prune` could free now.
    reclaimable: u64,
    /// The first and the last time that one was used last, in seconds since 1970.
    oldest: u64,
    newest: u64,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Line {
    kind: EntryKind,
    id: String,
    size: u64,
    used: u64,
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
}

/// Everything, for programs.
#[derive(Debug, Serialize)]
struct Report {
    /// Bytes on disk of the whole store.
    total: u64,
    /// Bytes that `kiln prune` could free now.
    reclaimable: u64,
    /// Bytes of what is no entry: folders, locks, indexes, work in progress.
    other: u64,
    kinds: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<Line>>,
}

/// Shows what takes space.
pub(super) fn run(args: &DuArgs, env: &Env) -> Outcome<Exit> {
    let root = enter_store(&args.store, env)?;
    // A look makes no store where there is none.
    let survey = match root.join("format").exists() {
        true => Store::open(&root)?.survey()?,
        false => Survey::default(),
    };
    let text = match args.format {
        ListFormat::Table => table(&survey, args.verbose),
        ListFormat::Json => json(&survey, args.verbose)?,
    };
    stdout::print(&text)?;
    Ok(Exit::Success)
}

fn rows(survey: &Survey) -> Vec<Row> {
    let mut rows: BTreeMap<EntryKind, Row> = BTreeMap::new();
    for entry in &survey.entries {
        let used = seconds(entry.used);
        let new = || Row { kind: entry.kind.name(), oldest: used, ..Row::default() };
        let row = rows.entry(entry.kind).or_insert_with(new);
        row.count += 1;
        row.size += entry.size;
        row.reclaimable += if entry.is_reclaimable() { entry.size } else { 0 };
        row.oldest = row.oldest.min(used);
        row.newest = row.newest.max(used);
    }
    EntryKind::ALL.iter().filter_map(|kind| rows.remove(kind)).collect()
}

fn table(survey: &Survey, verbose: bool) -> String {
    let mut out = String::new();
    if verbose && !survey.entries.is_empty() {
        let mut entries: Vec<&Entry> = survey.entries.iter().collect();
        let place = |entry: &Entry| EntryKind::ALL.iter().position(|kind| *kind == entry.kind);
        entries.sort_by_key(|entry| (place(entry), entry.used));
        out = list(&entries) + "\n";
    }
    let rows = rows(survey);
    let mut cells =
        vec![["KIND", "COUNT", "SIZE", "RECLAIMABLE", "OLDEST USE", "NEWEST USE"].map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        [
            row.kind.to_owned(),
            row.count.to_string(),
            text::size(row.size),
            text::size(row.reclaimable),
            time(row.oldest),
            time(row.newest),
        ]
    }));
    let dash = || "-".to_owned();
    let last = |name: &str, count, size, reclaimable| {
        [name.to_owned(), count, text::size(size), text::size(reclaimable), dash(), dash()]
    };
    let sum = |part: fn(&Row) -> u64| rows.iter().map(part).sum::<u64>();
    cells.push(last("other", dash(), survey.other, 0));
    cells.push(last("total", sum(|r| r.count).to_string(), survey.total(), sum(|r| r.reclaimable)));
    out + &text::table(&cells)
}

/// Lists entries, one on each line.
pub(super) fn list(entries: &[&Entry]) -> String {
    /// Enough of a digest to find it again.
    const ID: usize = 40;
    let mut cells = vec![["KIND", "ID", "SIZE", "LAST USED", "DESCRIPTION"].map(str::to_owned)];
    cells.extend(entries.iter().map(|entry| {
        let id = text::printable(&entry.id);
        let short: String = if id.chars().count() > ID && entry.kind != EntryKind::CacheMount {
            id.chars().take(ID).collect()
        } else {
            id.into_owned()
        };
        let description = entry.description.as_deref().unwrap_or("-");
        let first = description.lines().next().unwrap_or_default();
        let used = if entry.in_use { "in use".to_owned() } else { time(seconds(entry.used)) };
        [
            entry.kind.name().to_owned(),
            short,
            text::size(entry.size),
            used,
            text::printable(first).into_owned(),
        ]
    }));
    text::table(&cells)
}

fn json(survey: &Survey, verbose: bool) -> Outcome<String> {
    let line = |entry: &Entry| Line {
        kind: entry.kind,
        id: entry.id.clone(),
        size: entry.size,
        used: seconds(entry.used),
        in_use: entry.in_use,
        description: entry.description.clone(),
    };
    let kinds = rows(survey);
    let report = Report {
        total: survey.total(),
        reclaimable: kinds.iter().map(|row| row.reclaimable).sum(),
        other: survey.other,
        kinds,
        entries: verbose.then(|| survey.entries.iter().map(line).collect()),
    };
    let text = serde_json::to_string_pretty(&report)
        .map_err(|e| Error::internal("cannot write the list as JSON").because(e))?;
    Ok(format!("{text}\n"))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn time(seconds: u64) -> String {
    kiln::image::rfc3339(i64::try_from(seconds).unwrap_or(i64::MAX))
}
