//! How layers fail.

use std::io;

/// A layer that cannot be written or must not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The source of the bytes failed, or its compression is damaged.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// The sink failed.
    #[error("cannot write the layer")]
    Write(#[source] io::Error),
    /// Reading the content of an entry failed while it was written.
    #[error("cannot read the content of `{path}`")]
    Content {
        /// The entry.
        path: String,
        /// What failed.
        source: io::Error,
    },
    /// A file's content was not as long as its entry says.
    #[error("`{path}` changed while it was read: it had {expected} bytes, {}", now(*.found, *.expected))]
    Changed {
        /// The entry.
        path: String,
        /// Bytes that the entry announced.
        expected: u64,
        /// Bytes that were found; more than expected stands for any larger number.
        found: u64,
    },
    /// The entry cannot be expressed in a tar stream.
    #[error("`{path}` cannot be stored in a layer: {reason}")]
    Unwritable {
        /// The entry.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The stream is not a tar archive, or a damaged one.
    #[error("malformed layer: {reason} (tar header at byte {offset})")]
    Malformed {
        /// Offset of the header in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// An entry has a name that leads out of the layer.
    #[error("unsafe entry `{name}` in layer: {reason}")]
    Unsafe {
        /// The name as it stands, printable.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The layer is larger than allowed.
    #[error("the layer has more than {limit} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much is allowed.
        limit: u64,
    },
}

fn now(found: u64, expected: u64) -> String {
    if found > expected { "now it has more".to_owned() } else { format!("now it has {found}") }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Read(source) | Error::Write(source) => source,
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}
