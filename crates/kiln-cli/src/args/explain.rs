//! Arguments of `kiln explain`.

use clap::Args;

use super::StoreArgs;
use crate::value::{self, BuildNumber, RecordFormat};

/// Arguments of `kiln explain`.
#[derive(Debug, Args)]
#[command(
    after_help = "A step is compared with the same step of the build before. `kiln build --explain` tells the same before a build.

Examples:
  kiln explain
  kiln explain 12
  kiln explain --format json | jq '.[] | select(.reason) | .title'
  kiln build --explain ."
)]
pub(crate) struct ExplainArgs {
    /// Number of the build, as `kiln history` lists it
    #[arg(value_name = "N", default_value = "latest", value_parser = value::build_number)]
    pub(crate) number: BuildNumber,
    /// How it is printed
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    pub(crate) format: RecordFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}
