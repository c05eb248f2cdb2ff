//! `kiln fsck`: whether the store holds what it says.

use std::fmt::Write as _;
use std::path::Path;

use kiln::Error;
use kiln::store::{Checked, Fault, Fsck, Repair, State, Store};
use serde::Serialize;

use super::enter_store;
use crate::args::FsckArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::ListFormat;
use crate::{stdout, text};

/// Everything, for programs.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// The directory of the store.
    store: &'a Path,
    /// Whether nothing is wrong, or nothing any more.
    sound: bool,
    checked: Checked,
    faults: &'a [Fault],
}

/// Verifies the store, and repairs it if asked.
pub(super) fn run(args: &FsckArgs, env: &Env) -> Outcome<Exit> {
    let root = enter_store(&args.store, env)?;
    let repair = if args.repair { Repair::Yes } else { Repair::No };
    let found = Store::fsck(&root, repair)?;
    let text = match args.format {
        ListFormat::Table => story(&found, &root),
        ListFormat::Json => json(&found, &root)?,
    };
    stdout::print(&text)?;
    Ok(if found.is_sound() { Exit::Success } else { Exit::Failure })
}

fn story(found: &Fsck, root: &Path) -> String {
    let mut out = String::new();
    for fault in &found.faults {
        let done = match &fault.state {
            State::Found => "`kiln fsck --repair` removes it".to_owned(),
            State::Repaired => "removed".to_owned(),
            State::InUse => "stays: a running build uses it; repair again when that has ended".to_owned(),
            State::Failed(why) => format!("cannot be removed: {why}"),
        };
        let path = fault.path.display().to_string();
        // Names and causes may have what a stranger wrote.
        let _ = writeln!(out, "{}: {}", fault.kind.name(), text::printable(&path));
        let _ = writeln!(out, "  {}", text::printable(&fault.cause));
        let _ = writeln!(out, "  {}; {}", fault.consequence, text::printable(&done));
    }
    if !found.faults.is_empty() {
        out.push('\n');
    }
    let _ = writeln!(out, "{}", looked_at(&found.checked));
    let _ = writeln!(out, "{}", verdict(found, root));
    out
}

fn looked_at(checked: &Checked) -> String {
    let mut parts = vec![
        format!("{} ({})", counted(checked.blobs, "blob"), text::size(checked.bytes)),
        counted(checked.records, "record"),
        counted(checked.images, "image"),
        format!("{} with their layers", counted(checked.snapshots, "snapshot")),
    ];
    if checked.snapshots_unknown > 0 {
        parts.push(format!("{} from outside", counted(checked.snapshots_unknown, "snapshot")));
    }
    let mut out = format!("checked {}", parts.join(", "));
    if checked.records_without_layer > 0 {
        let _ = write!(
            out,
            "\n{} whose layers are not here: such steps are looked for in shared caches, or run again",
            counted(checked.records_without_layer, "record")
        );
    }
    if checked.cleared > 0 {
        let _ = write!(out, "\nremoved the temporary files of {} gone", processes(checked.cleared));
    }
    out
}

fn processes(number: u64) -> String {
    if number == 1 { "1 process that is".to_owned() } else { format!("{number} processes that are") }
}

fn verdict(found: &Fsck, root: &Path) -> String {
    let place = root.display();
    let left = found.faults.iter().filter(|fault| fault.state != State::Repaired).count();
    match (found.faults.len(), left) {
        (0, _) => format!("the store `{place}` is sound"),
        (all, 0) => format!("the store `{place}` is sound again: {} repaired", counted(all as u64, "fault")),
        (_, left) => format!("the store `{place}` has {}", counted(left as u64, "fault")),
    }
}

fn counted(number: u64, word: &str) -> String {
    if number == 1 { format!("1 {word}") } else { format!("{number} {word}s") }
}

fn json(found: &Fsck, root: &Path) -> Outcome<String> {
    let report =
        Report { store: root, sound: found.is_sound(), checked: found.checked, faults: &found.faults };
    let text = serde_json::to_string_pretty(&report)
        .map_err(|e| Error::internal("cannot write the report as JSON").because(e))?;
    Ok(format!("{text}\n"))
}
