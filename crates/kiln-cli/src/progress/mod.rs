//! The story of a build on standard error: one [`View`] per way to show it.
//!
//! A view is the engine's `ProgressSink` and takes the end of the build as well, so that the last words come in
//! the same form as the rest. Views get their writer and their clock; none looks at the environment.

mod json;
mod plain;
mod quiet;
mod summary;
mod transfer;
mod tty;

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln::progress::ProgressSink;
use kiln::{Error, Receipt};

pub(crate) use json::Json;
pub(crate) use plain::Plain;
pub(crate) use quiet::Quiet;
pub(crate) use tty::Tty;

use crate::style::Style;
use crate::value::ProgressMode;

/// Tells the time since the start.
pub(crate) type Clock = Box<dyn Fn() -> Duration + Send + Sync>;
/// Where a view writes.
pub(crate) type Out = Box<dyn Write + Send>;

/// Shows a build from its first event to its end.
pub(crate) trait View: ProgressSink {
    /// Shows that the build ended well; nothing comes after it but warnings about the store.
    fn finish(&self, receipt: &Receipt);

    /// Shows that the build failed; nothing comes after it but warnings about the store.
    fn fail(&self, error: &Error);
}

/// What a view depends on besides the events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// Whether standard error is a terminal that can move its cursor.
    pub(crate) live: bool,
    /// Whether words are coloured.
    pub(crate) style: Style,
}

/// Returns the view for `mode` on standard error.
pub(crate) fn view(mode: ProgressMode, terminal: Terminal) -> Arc<dyn View> {
    let start = Instant::now();
    let clock: Clock = Box::new(move || start.elapsed());
    let out: Out = Box::new(std::io::stderr());
    match mode {
        ProgressMode::Auto if terminal.live => Arc::new(Tty::new(clock, terminal.style)),
        ProgressMode::Tty => Arc::new(Tty::new(clock, terminal.style)),
        ProgressMode::Auto | ProgressMode::Plain => Arc::new(Plain::new(out, clock, terminal.style)),
        ProgressMode::Json => Arc::new(Json::new(out, clock)),
        ProgressMode::Quiet => Arc::new(Quiet::new(out, terminal.style)),
    }
}

/// Returns `warning: text (place)` in one line.
fn warning(text: &str, place: Option<&str>, style: Style) -> String {
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{}: {}", style.warning("warning"), crate::text::printable(&format!("{text}{place}")))
}

#[cfg(test)]
mod fixture;
