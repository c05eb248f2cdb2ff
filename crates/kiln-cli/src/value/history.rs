//! Values of `kiln history`.

use clap::ValueEnum;

use super::Parsed;

/// A format of one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// A build of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BuildNumber {
    /// The newest.
    Latest,
    /// That of this number.
    Number(u64),
}

/// Reads the number of a build.
pub(crate) fn build_number(text: &str) -> Parsed<BuildNumber> {
    match text {
        "latest" => Ok(BuildNumber::Latest),
        _ => text
            .parse()
            .map(BuildNumber::Number)
            .map_err(|_| "expected a number as `kiln history` lists it, or `latest`".to_owned()),
    }
}
