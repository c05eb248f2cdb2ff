//! `kiln prune`.

use kiln::store::{PruneOptions, Pruned, Store};

use super::enter_store;
use crate::args::PruneArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::{stdout, text};

/// Deletes the build cache, and the images if asked.
pub(super) fn run(args: &PruneArgs, env: &Env) -> Outcome<Exit> {
    let root = enter_store(&args.store, env)?;
    let options = PruneOptions { images: args.all, older_than: args.older_than };
    stdout::print(&sentence(Store::prune(&root, options)?))?;
    Ok(Exit::Success)
}

fn sentence(pruned: Pruned) -> String {
    match pruned.entries {
        0 => "nothing to delete\n".to_owned(),
        1 => format!("freed {} in 1 entry\n", text::size(pruned.bytes)),
        entries => format!("freed {} in {entries} entries\n", text::size(pruned.bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_counts() {
        assert_eq!(sentence(Pruned::default()), "nothing to delete\n");
        assert_eq!(sentence(Pruned { entries: 1, bytes: 512 }), "freed 512 B in 1 entry\n");
        assert_eq!(sentence(Pruned { entries: 7, bytes: 5_000_000 }), "freed 5.0 MB in 7 entries\n");
    }
}
