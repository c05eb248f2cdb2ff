//! Root file systems as chains of lazy layers.
//!
//! A [`Layer`] has two forms, and each is made only when somebody asks for it: its *blob*, the compressed tar
//! that a registry gets, and its *files*, a directory that an overlay mount or a COPY looks into. A base image
//! that no step looks into stays in its registry; a copied tree that no step looks into exists only as a blob.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use kiln_oci::Reference;

use crate::error::{Cause, Error, ErrorKind, Place, Result};
use crate::store::Growing;
pub use crate::store::Packed;

/// A value that another thread is working on.
#[derive(Debug)]
pub struct Promise<T> {
    value: Mutex<Option<std::result::Result<T, Failure>>>,
    ready: Condvar,
}

/// Why a promise was not kept, for everybody who waits for it.
#[derive(Debug, Clone)]
pub struct Failure {
    kind: ErrorKind,
    message: String,
    cause: Option<Cause>,
    place: Option<Place>,
    hints: Vec<String>,
}

impl Failure {
    /// Takes over what everybody who waits has to know of `error`.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        Self {
            kind: error.kind,
            message: error.message.clone(),
            cause: Cause::of(error),
            place: error.place.clone(),
            hints: error.hints.clone(),
        }
    }

    /// Returns the failure as an error of its own.
    #[must_use]
    pub fn error(&self) -> Error {
        let mut error = Error::new(self.kind, self.message.clone()).at(self.place.clone());
        error.hints.clone_from(&self.hints);
        match &self.cause {
            Some(cause) => error.because(cause.clone()),
            None => error,
        }
    }
}

impl<T: Clone> Promise<T> {
    /// Returns a promise that is not kept yet.
    #[must_use]
    pub fn new() -> Self {
        Self { value: Mutex::new(None), ready: Condvar::new() }
    }

    /// Returns a promise that is kept.
    pub fn kept(value: T) -> Self {
        Self { value: Mutex::new(Some(Ok(value))), ready: Condvar::new() }
    }

    /// Keeps the promise, or says why it cannot be kept. The first word counts.
    pub fn settle(&self, value: &Result<T>) {
        let mut slot = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = Some(match value {
                Ok(value) => Ok(value.clone()),
                Err(error) => Err(Failure::of(error)),
            });
        }
        drop(slot);
        self.ready.notify_all();
    }

    /// Waits for the value.
    ///
    /// # Errors
    /// When whoever worked on it failed.
    pub fn wait(&self) -> Result<T> {
        let mut slot = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &*slot {
                Some(Ok(value)) => return Ok(value.clone()),
                Some(Err(failure)) => return Err(failure.error()),
                None => slot = self.ready.wait(slot).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Returns the value if it is there already.
    #[must_use]
    pub fn peek(&self) -> Option<T> {
        let slot = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        slot.as_ref().and_then(|v| v.as_ref().ok()).cloned()
    }
}

impl<T: Clone> Default for Promise<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a layer's blob can be had from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// kiln made it, or it is in the store.
    Store,
    /// A registry has it, in the repository of this reference.
    Registry(Reference),
    /// An OCI layout directory has it.
    Layout(PathBuf),
}

/// One layer of a root file system.
#[derive(Debug)]
pub struct Layer {
    /// Where the blob can be had from.
    pub origin: Origin,
    /// Whether only a shared cache says so: the blob may be gone from there.
    pub is_lent: bool,
    /// Digests and size; settled at once for a base layer, when packing ends for a new one.
    pub packed: Promise<Packed>,
    /// The blob while it is being packed in this build.
    pub growing: Mutex<Option<Arc<Growing>>>,
    /// The files, once somebody has asked for them.
    pub files: Mutex<Option<PathBuf>>,
}

impl Layer {
    /// Returns a layer whose blob exists.
    #[must_use]
    pub fn existing(origin: Origin, packed: Packed) -> Self {
        Self {
            origin,
            is_lent: false,
            packed: Promise::kept(packed),
            growing: Mutex::new(None),
            files: Mutex::new(None),
        }
    }

    /// Returns a layer that is about to be packed; `files` is its directory if there is one.
    #[must_use]
    pub fn packing(files: Option<PathBuf>) -> Self {
        Self {
            origin: Origin::Store,
            is_lent: false,
            packed: Promise::new(),
            growing: Mutex::new(None),
            files: Mutex::new(files),
        }
    }

    /// Returns the blob if it is being packed right now.
    #[must_use]
    pub fn growing(&self) -> Option<Arc<Growing>> {
        self.growing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A root file system.
#[derive(Debug, Clone)]
pub struct Rootfs {
    /// Layers, base first.
    pub layers: Vec<Arc<Layer>>,
}
