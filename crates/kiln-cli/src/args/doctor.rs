//! Arguments of `kiln doctor`.

use clap::Args;

use super::StoreArgs;
use crate::value::{ListFormat, Profile};

/// Arguments of `kiln doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Every isolation is really tried, the strongest first. A build without RUN needs none of them.

Exit code 0: commands can be run here. 4: they cannot.

Examples:
  kiln doctor
  kiln doctor --answers            # what the kernel's answers mean, on any machine
  kiln doctor --profile seccomp > kiln.json
  kiln doctor --format json | jq .chosen"
)]
pub(crate) struct DoctorArgs {
    /// List every known answer of the kernel with its cause and its remedy
    #[arg(long)]
    pub(crate) answers: bool,
    /// Print one of kiln's profiles for containers and machines instead, to be installed there
    #[arg(long, value_enum, value_name = "KIND", conflicts_with_all = ["answers", "format"])]
    pub(crate) profile: Option<Profile>,
    /// How the findings are printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
