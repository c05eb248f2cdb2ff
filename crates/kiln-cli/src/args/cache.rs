//! Arguments of `kiln cache`: the caches of `RUN --mount=type=cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::StoreArgs;
use crate::value::ListFormat;

/// The commands of `kiln cache`.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// List the cache mounts of the store
    Ls(CacheLsArgs),
    /// Write cache mounts to an archive
    Export(CacheExportArgs),
    /// Take cache mounts from an archive, in place of those of the same id
    Import(CacheImportArgs),
}

/// Arguments of `kiln cache ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln cache ls
  kiln cache ls --format json | jq -r '.[].id'")]
pub(crate) struct CacheLsArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln cache export`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln cache export -o caches.tar.zst
  kiln cache export --id /root/.cache/go-build --id gomod -o go.tar")]
pub(crate) struct CacheExportArgs {
    /// Id of a cache mount; can be given several times [default: all]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Vec<String>,
    /// Where to; compressed if the name ends in .zst or .gz
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln cache import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln cache import caches.tar.zst")]
pub(crate) struct CacheImportArgs {
    /// An archive that `kiln cache export` wrote
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
