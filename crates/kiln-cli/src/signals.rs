//! Ctrl-C and SIGTERM: the first stops the build, the second ends the process at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use kiln::Error;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, iterator};

use crate::exit::{Exit, Signal};
use crate::failure::Outcome;

/// A build that was stopped has this long to kill its steps and clean up. What it leaves is found and removed by
/// the next process that opens the store.
const GRACE: Duration = Duration::from_millis(900);

/// A signal that comes so soon after the first is the same one: whoever signals a process group reaches kiln
/// directly and through the process that waits for it.
const ECHO: Duration = Duration::from_millis(200);
/// What is watched for.
const SIGNALS: [(i32, Signal); 2] = [(SIGINT, Signal::Interrupt), (SIGTERM, Signal::Terminate)];

/// The signals that arrived since the start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Signals {
    /// Number of the first signal, 0 before.
    first: Arc<AtomicUsize>,
}

impl Signals {
    /// Calls `stop` on the first signal, and ends the process soon after it or on the second.
    ///
    /// # Errors
    /// When the handlers cannot be set.
    pub(crate) fn watch(stop: impl FnOnce() + Send + 'static) -> Outcome<Self> {
        let signals = Self::default();
        signals.clone().start(stop).map_err(|e| Error::environment("cannot watch for signals").because(e))?;
        Ok(signals)
    }

    fn start(self, stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let armed = Arc::new(AtomicBool::new(false));
        for (number, signal) in SIGNALS {
            // Ends the process inside of the handler, whatever the threads are doing.
            let code = Exit::Signal(signal).code();
            flag::register_conditional_shutdown(number, code.into(), Arc::clone(&armed))?;
        }
        let mut arrived = iterator::Signals::new(SIGNALS.map(|(number, _)| number))?;
        thread::Builder::new().name("kiln-signals".to_owned()).spawn(move || {
            let Some(number) = arrived.forever().next() else { return };
            self.first.store(usize::try_from(number).unwrap_or(0), Ordering::SeqCst);
            let last_resort = move || self.end_late(&armed);
            // Without a thread for it, the build still stops by itself or by SIGKILL.
            let _ = thread::Builder::new().name("kiln-grace".to_owned()).spawn(last_resort);
            stop();
            // Keeps the handlers' pipe open: further signals find the flag, not a broken pipe.
            arrived.forever().for_each(drop);
        })?;
        Ok(())
    }

    fn end_late(&self, armed: &AtomicBool) {
        thread::sleep(ECHO);
        armed.store(true, Ordering::SeqCst);
        thread::sleep(GRACE - ECHO);
        let exit = self.received().map_or(Exit::Signal(Signal::Interrupt), Exit::Signal);
        std::process::exit(exit.code().into());
    }

    /// Returns the first signal that arrived.
    pub(crate) fn received(&self) -> Option<Signal> {
        let first = i32::try_from(self.first.load(Ordering::SeqCst)).ok();
        SIGNALS.iter().find(|(number, _)| Some(*number) == first).map(|(_, signal)| *signal)
    }
}
