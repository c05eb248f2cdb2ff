//! Arguments of `kiln history`: the records that builds leave.

use clap::{Args, Subcommand};

use super::StoreArgs;
use crate::value::{self, BuildNumber, ListFormat, RecordFormat};

/// Arguments of `kiln history`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a command, lists the builds, the newest first. The newest 100 are kept.

Examples:
  kiln history
  kiln history show
  kiln history log 12 --step 3
  kiln history rm 12 13"
)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    pub(crate) command: Option<HistoryCommand>,
    #[command(flatten)]
    pub(crate) list: HistoryLsArgs,
}

/// The commands of `kiln history`.
#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    /// List the builds, the newest first
    Ls(HistoryLsArgs),
    /// Show everything about one build
    Show(HistoryShowArgs),
    /// Print what the steps of a build printed
    Log(HistoryLogArgs),
    /// Remove records of builds
    Rm(HistoryRmArgs),
}

/// Arguments of `kiln history ls`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln history ls
  kiln history ls --format json | jq '.[0].digest'")]
pub(crate) struct HistoryLsArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln history show`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln history show
  kiln history show 12
  kiln history show --format json | jq '.steps[] | select(.status == \"done\") | .title'")]
pub(crate) struct HistoryShowArgs {
    /// Number of the build
    #[arg(value_name = "N", default_value = "latest", value_parser = value::build_number)]
    pub(crate) number: BuildNumber,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: RecordFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln history log`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every line begins with the number of its step and the seconds since the build began; with --step, it
stands as the step printed it. Of a step with much output, the first 4 MiB and the last 64 KiB are kept.
Values of secrets are replaced by ***.

Examples:
  kiln history log
  kiln history log 12 --step 3"
)]
pub(crate) struct HistoryLogArgs {
    /// Number of the build
    #[arg(value_name = "N", default_value = "latest", value_parser = value::build_number)]
    pub(crate) number: BuildNumber,
    /// Print the output of this step alone
    #[arg(long, value_name = "STEP")]
    pub(crate) step: Option<u32>,
    /// How it is printed; JSON is one object per line
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: RecordFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln history rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln history rm 12 13
  kiln history rm --all")]
pub(crate) struct HistoryRmArgs {
    /// Numbers of the builds
    #[arg(value_name = "N", required_unless_present = "all", value_parser = value::build_number)]
    pub(crate) numbers: Vec<BuildNumber>,
    /// Remove the records of all builds that are not running
    #[arg(long, conflicts_with = "numbers")]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
