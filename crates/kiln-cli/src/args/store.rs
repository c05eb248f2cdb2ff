//! Arguments of the commands on the store as a whole: `kiln prune`, `kiln du` and `kiln fsck`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::value::{self, Filter, ListFormat};

/// Where kiln keeps its things.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StoreArgs {
    /// Directory of the store [default: /var/lib/kiln for root, else kiln in $XDG_DATA_HOME]
    #[arg(long = "store", value_name = "DIR", help_heading = "Machine")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of `kiln prune`.
#[derive(Debug, Args)]
#[command(
    after_help = "Never deletes what a running build uses, nor what an image of the store needs, unless --all is given.
With a limit, what was used least recently goes first, and no more than has to.

Filters, all of which must hold:
  until=24h   not used for so long, as --older-than
  type=KIND   layer, snapshot, record, cache-mount, http, git, context, image
  id=ID       the cache mount of this id

Examples:
  kiln prune
  kiln prune --keep-storage 10GiB
  kiln prune --filter type=cache-mount --filter until=7d
  kiln prune --dry-run --min-free-space 20GiB
  kiln prune --all"
)]
pub(crate) struct PruneArgs {
    /// Delete the images too
    #[arg(long, short)]
    pub(crate) all: bool,
    /// Delete only what was not used for so long: 90s, 30m, 24h, 7d
    #[arg(long, value_name = "DURATION", value_parser = value::duration, visible_alias = "keep-duration")]
    pub(crate) older_than: Option<Duration>,
    /// Delete only until the whole store takes no more than this: 500MiB, 10GiB
    #[arg(long, value_name = "SIZE", value_parser = value::size, visible_alias = "max-used-space")]
    pub(crate) keep_storage: Option<u64>,
    /// Delete only until so much of the store's file system is free
    #[arg(long, value_name = "SIZE", value_parser = value::size)]
    pub(crate) min_free_space: Option<u64>,
    /// Delete only what this holds of: until=DURATION, type=KIND or id=ID; can be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::filter)]
    pub(crate) filter: Vec<Filter>,
    /// Delete nothing; list what would go
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// List every entry that goes
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// For the habit of docker, which asks first; kiln never asks
    #[arg(long, short)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln fsck`.
#[derive(Debug, Args)]
#[command(
    after_help = "Reads every blob, and compares the files of unpacked layers with their layers, so that it takes as long as
reading the store twice. Builds may run meanwhile; what they use is not removed.

Ends with 0 when nothing is wrong, or nothing any more, and with 1 otherwise.

Examples:
  kiln fsck
  kiln fsck --repair
  kiln fsck --format json | jq -r '.faults[].path'"
)]
pub(crate) struct FsckArgs {
    /// Remove what is broken; the next build that needs it makes it again
    #[arg(long)]
    pub(crate) repair: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln du`.
#[derive(Debug, Args)]
#[command(after_help = "Sizes are of blocks on disk, as `du` counts them.

Examples:
  kiln du
  kiln du --verbose
  kiln du --format json | jq '.total'")]
pub(crate) struct DuArgs {
    /// List every entry
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
