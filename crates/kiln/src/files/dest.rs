//! What a destination already holds, as exactly as the build needs to know it.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_oci::layer::EntryPath;

use super::assume::{Assumptions, Known};
use super::index::{Hit, LayerIndexes};
use super::tree::{Node, Tree};
use crate::error::{Error, Result};

/// The destination of file operations.
pub(crate) enum Destination {
    /// The files are on disk.
    Exact(Arc<dyn Tree>),
    /// The base is left where it is; new layers are known by their entries.
    Lazy {
        /// New layers.
        layers: LayerIndexes,
        /// What the base's documents say; absent when there is no base.
        base: Option<Assumptions>,
        /// Set once a question was asked that only the files of the base can answer.
        unknown: AtomicBool,
    },
}

impl Destination {
    /// Returns a destination without looking at the base.
    pub(crate) fn lazy(layers: LayerIndexes, base: Option<Assumptions>) -> Self {
        Self::Lazy { layers, base, unknown: AtomicBool::new(false) }
    }

    /// Tells whether an answer was guessed because the base would have to be looked at; then ask again with files.
    pub(crate) fn needs_files(&self) -> bool {
        match self {
            Self::Exact(_) => false,
            Self::Lazy { unknown, .. } => unknown.load(Ordering::Relaxed),
        }
    }

    /// Says that the files of the base have to be looked at, if there is a base and nobody has.
    pub(crate) fn require_files(&self) {
        if let Self::Lazy { unknown, base: Some(_), .. } = self {
            unknown.store(true, Ordering::Relaxed);
        }
    }

    /// Says that contents of files have to be read, which an index of entries does not have; tells whether there are any.
    pub(crate) fn require_contents(&self) -> bool {
        match self {
            Self::Lazy { layers, base: None, .. } if layers.is_empty() => false,
            Self::Lazy { unknown, .. } => {
                unknown.store(true, Ordering::Relaxed);
                true
            }
            Self::Exact(_) => true,
        }
    }

    /// Tells whether a directory is known only because every base has it, so that nothing is known of its content.
    pub(crate) fn is_assumed(&self, path: &EntryPath) -> bool {
        match self {
            Self::Exact(_) => false,
            Self::Lazy { layers, base, .. } => {
                let base_has = base.as_ref().is_some_and(|b| matches!(b.know(path), Known::Directory(_)));
                base_has && !layers.is_opaque(path)
            }
        }
    }
}

impl Tree for Destination {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        let (layers, base, unknown) = match self {
            Self::Exact(tree) => return tree.stat(path),
            Self::Lazy { layers, base, unknown } => (layers, base, unknown),
        };
        match layers.get(path) {
            Hit::Entry(entry) => return Ok(Some(Node::new(entry))),
            Hit::Gone => return Ok(None),
            Hit::NotHere => {}
        }
        match base.as_ref().map(|b| b.know(path)) {
            None | Some(Known::Absent) => Ok(None),
            Some(Known::Directory(entry)) => Ok(Some(Node::new(entry))),
            Some(Known::No) => {
                unknown.store(true, Ordering::Relaxed);
                Ok(None)
            }
        }
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        match self {
            Self::Exact(tree) => tree.list(dir),
            Self::Lazy { .. } => Err(Error::internal("a destination without files was listed")),
        }
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        match self {
            Self::Exact(tree) => tree.open(path),
            Self::Lazy { .. } => Err(Error::internal("a file of a destination without files was opened")),
        }
    }
}
