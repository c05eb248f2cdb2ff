//! Stopping a build.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// What a build says that was stopped.
pub(crate) const STOPPED: &str = "the build was stopped";

/// Stops a build from another thread, for example from a signal handler's.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<CancelState>);

#[derive(Default)]
struct CancelState {
    cancelled: AtomicBool,
    hooks: Mutex<Hooks>,
}

#[derive(Default)]
struct Hooks {
    next: u64,
    by_number: BTreeMap<u64, Box<dyn Fn() + Send>>,
}

/// Takes a hook away again when it is dropped, with what the hook holds: a build may run thousands of steps.
#[must_use]
pub(crate) struct Hook {
    state: Arc<CancelState>,
    number: u64,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.state.hooks.lock().unwrap_or_else(PoisonError::into_inner).by_number.remove(&self.number);
    }
}

impl fmt::Debug for CancelState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelState").field("cancelled", &self.cancelled).finish_non_exhaustive()
    }
}

impl Cancel {
    /// Stops everything: running steps are killed, transfers fail.
    pub fn cancel(&self) {
        let hooks = self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.cancelled.store(true, Ordering::SeqCst);
        for hook in hooks.by_number.values() {
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
        // It stays for as long as this does.
        std::mem::forget(self.hook(hook));
    }

    /// Calls `hook` when the build is stopped while the guard lives, at once if it already is.
    pub(crate) fn hook(&self, hook: impl Fn() + Send + 'static) -> Hook {
        // Under the lock, so that a stop in between is not missed.
        let mut hooks = self.0.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_cancelled() {
            hook();
        }
        let number = hooks.next;
        hooks.next += 1;
        hooks.by_number.insert(number, Box::new(hook));
        Hook { state: Arc::clone(&self.0), number }
    }

    /// Returns a reader that fails once the build was stopped.
    pub(crate) fn reader<R: Read>(&self, inner: R) -> Stoppable<R> {
        Stoppable { inner, cancel: self.clone() }
    }

    /// Returns a writer that fails once the build was stopped.
    pub(crate) fn writer<W: Write>(&self, inner: W) -> Stoppable<W> {
        Stoppable { inner, cancel: self.clone() }
    }

    /// Fails when the build was stopped.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, STOPPED));
        }
        Ok(())
    }
}

/// A reader or writer that fails once the build was stopped, so that no large file holds up its end.
pub(crate) struct Stoppable<T> {
    inner: T,
    cancel: Cancel,
}

impl<T> Stoppable<T> {
    fn check(&self) -> io::Result<()> {
        if self.cancel.is_cancelled() { Err(io::Error::other("the build was stopped")) } else { Ok(()) }
    }
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.read(buf)
    }
}

impl<W: Write> Write for Stoppable<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.inner.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn a_hook_is_called_as_long_as_its_guard_lives() {
        let (cancel, calls) = (Cancel::default(), Arc::new(AtomicU32::new(0)));
        let count = |add: u32| {
            let calls = Arc::clone(&calls);
            move || {
                calls.fetch_add(add, Ordering::Relaxed);
            }
        };
        let kept = cancel.hook(count(1));
        drop(cancel.hook(count(10)));
        cancel.on_cancel(count(100));
        cancel.cancel();
        assert_eq!(calls.load(Ordering::Relaxed), 101);
        drop(kept);
        let _late = cancel.hook(count(1000));
        assert_eq!(calls.load(Ordering::Relaxed), 1101);
    }
}
