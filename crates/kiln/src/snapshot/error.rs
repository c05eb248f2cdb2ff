//! How layers on disk fail.

use std::io;
use std::path::{Path, PathBuf};

use kiln_oci::layer::EntryPath;

use crate::error as engine;

/// Result of this room.
pub type Result<T> = std::result::Result<T, Error>;

/// A layer that cannot be unpacked, compared or looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The layer itself is damaged, hostile or unreadable.
    #[error("cannot read the layer")]
    Layer(#[from] kiln_oci::layer::Error),
    /// The file system refused something.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// Where, below the layer's directory or on the host.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A hard link names a file that this layer does not have.
    #[error("hard link `{path}` names `{target}`, which is not in its layer")]
    LinkTargetMissing {
        /// The link.
        path: EntryPath,
        /// What it names.
        target: EntryPath,
    },
    /// Following symbolic links does not come to an end.
    #[error("too many symbolic links on the way to `{0}`")]
    Loop(EntryPath),
    /// A path leads through something that is no directory.
    #[error("`{0}` is not a directory")]
    NotDirectory(EntryPath),
    /// Nothing has this path.
    #[error("`{0}` does not exist")]
    Missing(EntryPath),
    /// A file has a path that no file of a layer can have.
    #[error("`{path}` cannot be in a layer: {why}")]
    Unfit {
        /// The file.
        path: EntryPath,
        /// Why not.
        why: &'static str,
    },
    /// A file has an owner that has no number inside the image.
    #[error("`{path}` belongs to {uid}:{gid}, which is nobody inside the image")]
    Owner {
        /// The file.
        path: EntryPath,
        /// User on disk.
        uid: u32,
        /// Group on disk.
        gid: u32,
    },
}

impl From<Error> for engine::Error {
    fn from(error: Error) -> Self {
        use engine::ErrorKind;
        let kind = match &error {
            // Names that no file system of this machine takes, and links to directories: the layer is at fault.
            Error::File { source, .. }
                if matches!(source.kind(), io::ErrorKind::InvalidFilename | io::ErrorKind::IsADirectory) =>
            {
                ErrorKind::Input
            }
            Error::File { .. } | Error::Owner { .. } => ErrorKind::Environment,
            _ => ErrorKind::Input,
        };
        let full =
            matches!(&error, Error::File { source, .. } if source.kind() == io::ErrorKind::StorageFull);
        let mut out = Self::new(kind, error.to_string());
        out.source = match error {
            Error::Layer(source) => Some(source.into()),
            Error::File { source, .. } => Some(source.into()),
            _ => None,
        };
        if full { out.hint("free some space, or run `kiln prune`") } else { out }
    }
}

/// Adds what was tried and where to a failure of the file system.
pub(super) trait Trying<T> {
    fn trying(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Trying<T> for std::result::Result<T, E> {
    fn trying(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|e| Error::File { action, path: path.as_ref().to_owned(), source: e.into() })
    }
}
