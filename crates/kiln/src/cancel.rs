//! Stopping a build.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// Stops a build from another thread, for example from a signal handler's.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    hooks: Mutex<Vec<Box<dyn Fn() + Send>>>,
}

impl fmt::Debug for CancelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelState").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Stops everything: running steps are killed, transfers fail.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::SeqCst);
        for hook in self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            hook();
        }
    }

    /// Tells whether the build was stopped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Returns a switch of its own, which is also thrown when this one is.
    pub(crate) fn child(&self) -> Self {
        let child = Self::default();
        let weak = Arc::downgrade(&child.0);
        self.on_cancel(move || {
            if let Some(state) = weak.upgrade() {
                Self(state).cancel();
            }
        });
        child
    }

    /// Calls `hook` when the build is stopped, at once if it already is.
    pub(crate) fn on_cancel(&self, hook: impl Fn() + Send + 'static) {
        if self.is_cancelled() {
            hook();
        }
        self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(hook));
    }

    /// Fails when the build was stopped.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "the build was stopped"));
        }
        Ok(())
    }
}
