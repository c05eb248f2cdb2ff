//! `kiln prune`, and the budget of a build.

use std::path::Path;

use kiln::store::{Entry, PruneOptions, Pruned, Store};

use super::{du, enter_store};
use crate::args::PruneArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::value::Filter;
use crate::{stdout, text};

/// Deletes the build cache, or what the arguments leave of it, and the images if asked.
pub(super) fn run(args: &PruneArgs, env: &Env) -> Outcome<Exit> {
    let options = options(args)?;
    let root = enter_store(&args.store, env)?;
    let pruned = Store::prune(&root, &options)?;
    stdout::print(&story(&pruned, args))?;
    match pruned.failed {
        Some(error) => Err(error.into()),
        None => Ok(Exit::Success),
    }
}

/// Brings the store within the budget of a build; returns what is to be said about it.
pub(super) fn keep_within(root: &Path, budget: u64) -> Option<String> {
    let options = PruneOptions { keep: Some(budget), ..PruneOptions::default() };
    let failed = |error: kiln::Error| {
        let cause = error.source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
        Some(format!("cannot bring the store within {}: {}{cause}", text::size(budget), error.message))
    };
    match Store::prune(root, &options) {
        Ok(Pruned { failed: Some(error), .. }) | Err(error) => failed(error),
        Ok(pruned) if pruned.over > 0 => Some(over(&pruned)),
        Ok(_) => None,
    }
}

fn options(args: &PruneArgs) -> Outcome<PruneOptions> {
    let mut options = PruneOptions {
        images: args.all,
        older_than: args.older_than,
        keep: args.keep_storage,
        free: args.min_free_space,
        dry_run: args.dry_run,
        ..PruneOptions::default()
    };
    for filter in &args.filter {
        match filter {
            Filter::Until(age) => options.older_than = options.older_than.max(Some(*age)),
            Filter::Type(kind) if kind.name() == "image" && !args.all => {
                return Err(Failure::usage(
                    "`--filter type=image` finds nothing without `--all`: images are not cache",
                    "add `--all`, or remove an image by its name with `kiln rmi`",
                ));
            }
            Filter::Type(kind) => options.kinds.push(*kind),
            Filter::Id(id) => options.ids.push(id.clone()),
        }
    }
    Ok(options)
}

/// Tells what went, by kind, and what could not.
fn story(pruned: &Pruned, args: &PruneArgs) -> String {
    let mut out = String::new();
    if args.verbose || args.dry_run {
        let entries: Vec<&Entry> = pruned.entries.iter().collect();
        if !entries.is_empty() {
            out.push_str(&du::list(&entries));
            out.push('\n');
        }
    }
    let kinds = pruned.by_kind();
    if kinds.len() > 1 {
        let rows: Vec<[String; 3]> = kinds
            .iter()
            .map(|(kind, amount)| [kind.name().to_owned(), text::size(amount.bytes), counted(amount.entries)])
            .collect();
        out.push_str(&text::table(&rows));
    }
    let bytes = kinds.values().map(|amount| amount.bytes).sum();
    let entries = kinds.values().map(|amount| amount.entries).sum();
    out.push_str(&sentence(entries, bytes, args.dry_run));
    if pruned.in_use > 0 {
        out.push_str("running builds use ");
        out.push_str(&counted(pruned.in_use));
        out.push_str(", which stay\n");
    }
    if pruned.over > 0 {
        out.push_str(&over(pruned));
        out.push('\n');
    }
    out
}

fn sentence(entries: u64, bytes: u64, dry_run: bool) -> String {
    let done = if dry_run { "would free" } else { "freed" };
    match entries {
        0 => "nothing to delete\n".to_owned(),
        entries => format!("{done} {} in {}\n", text::size(bytes), counted(entries)),
    }
}

fn counted(entries: u64) -> String {
    if entries == 1 { "1 entry".to_owned() } else { format!("{entries} entries") }
}

fn over(pruned: &Pruned) -> String {
    let what = match pruned.in_use {
        0 => "images and what filters leave out are not deleted".to_owned(),
        in_use => format!("running builds use {}", counted(in_use)),
    };
    format!(
        "the store takes {}, {} more than it should: {what}; see `kiln du`",
        text::size(pruned.left),
        text::size(pruned.over)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_counts() {
        assert_eq!(sentence(0, 0, false), "nothing to delete\n");
        assert_eq!(sentence(1, 512, false), "freed 512 B in 1 entry\n");
        assert_eq!(sentence(7, 5_000_000, true), "would free 5.0 MB in 7 entries\n");
    }
}
