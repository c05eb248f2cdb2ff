//! Warnings and errors, nothing else.

use std::io::Write as _;
use std::sync::{Mutex, PoisonError};

use kiln::progress::{Event, ProgressSink};
use kiln::{Error, Receipt};

use super::{Out, View, warning};
use crate::report;
use crate::style::Style;

/// Shows warnings and errors.
pub(crate) struct Quiet {
    out: Mutex<Out>,
    style: Style,
}

impl Quiet {
    pub(crate) fn new(out: Out, style: Style) -> Self {
        Self { out: Mutex::new(out), style }
    }

    fn write(&self, text: &str) {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}

impl ProgressSink for Quiet {
    fn event(&self, event: Event) {
        if let Event::Warning { text, place } = event {
            self.write(&format!("{}\n", warning(&text, place.as_deref(), self.style)));
        }
    }
}

impl View for Quiet {
    fn finish(&self, _: &Receipt) {}

    fn fail(&self, error: &Error) {
        self.write(&report::render(error, self.style));
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Screen, build, receipt};
    use super::*;

    #[test]
    fn only_warnings_and_errors_are_shown() {
        let screen = Screen::default();
        let quiet = Quiet::new(Box::new(screen.clone()), Style::Plain);
        build().into_iter().for_each(|(_, event)| quiet.event(event));
        quiet.finish(&receipt());
        quiet.fail(&Error::input("no"));
        assert_eq!(screen.text(), "warning: WORKDIR is relative (Dockerfile:2)\nerror: no\n");
    }
}
