//! Lines for logs, close to what BuildKit prints.
//!
//! ```text
//! #3 [build 2/5] RUN make
//! #3 0.41 output line
//! #3 DONE 1.2s
//! ```
//!
//! Every line says which step it belongs to, because steps run side by side. Nothing moves a cursor, no output
//! of RUN is clipped, and a line is printed when it is whole.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kiln::progress::{Event, ProgressSink, StepId, Stream};
use kiln::{Error, Receipt};

use super::transfer::{self, Transfer};
use super::{Clock, Out, View, summary, warning};
use crate::report;
use crate::style::Style;
use crate::text::{Lines, printable, seconds};

/// A transfer has one line at its start, one at its end and one after so much time in between.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// Shows a build as lines.
pub(crate) struct Plain {
    clock: Clock,
    style: Style,
    state: Mutex<State>,
}

struct State {
    out: Out,
    steps: BTreeMap<StepId, Step>,
    transfers: BTreeMap<String, Transfer>,
}

#[derive(Default)]
struct Step {
    title: String,
    /// When it started; the title was printed then.
    started: Option<Duration>,
    stdout: Lines,
    stderr: Lines,
}

impl Plain {
    pub(crate) fn new(out: Out, clock: Clock, style: Style) -> Self {
        let state = State { out, steps: BTreeMap::new(), transfers: BTreeMap::new() };
        Self { clock, style, state: Mutex::new(state) }
    }

    fn with_state(&self, act: impl FnOnce(&mut State, Duration)) {
        let now = (self.clock)();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut state, now);
        // Nobody can be told when standard error is gone, and the build is worth more than its log.
        let _ = state.out.flush();
    }
}

impl State {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.out, "{line}");
    }

    /// Prints the title of a step before anything else is said about it.
    fn begin(&mut self, id: StepId, now: Duration) {
        let step = self.steps.entry(id).or_default();
        if step.started.is_none() {
            step.started = Some(now);
            let line = format!("#{id} {}", printable(&step.title.replace('\n', " ")));
            self.line(line.trim_end());
        }
    }

    fn output(&mut self, id: StepId, stream: Stream, text: &str, now: Duration) {
        self.begin(id, now);
        let step = self.steps.entry(id).or_default();
        let lines = match stream {
            Stream::Stdout => step.stdout.push(text),
            Stream::Stderr => step.stderr.push(text),
        };
        self.output_lines(id, &lines, now);
    }

    fn output_lines(&mut self, id: StepId, lines: &[String], now: Duration) {
        let started = self.steps.get(&id).and_then(|step| step.started).unwrap_or(now);
        let at = now.saturating_sub(started).as_secs_f64();
        for line in lines {
            self.line(format!("#{id} {at:.2} {}", printable(line)).trim_end());
        }
    }

    /// Prints what stands after the last line break of a step's output, then the line that ends the step.
    fn end(&mut self, id: StepId, last: &str, now: Duration) {
        self.begin(id, now);
        let step = self.steps.entry(id).or_default();
        let partial: Vec<String> =
            [step.stdout.finish(), step.stderr.finish()].into_iter().flatten().collect();
        self.output_lines(id, &partial, now);
        self.line(&format!("#{id} {last}"));
    }

    fn transfer(&mut self, name: String, bytes: u64, total: Option<u64>, done: bool, now: Duration) {
        match (self.transfers.get_mut(&name), done) {
            (None, true) => self.line(&transfer::at_once(&name, bytes)),
            (Some(known), true) => {
                let line = known.end(&name, bytes, now);
                self.transfers.remove(&name);
                self.line(&line);
            }
            (None, false) => {
                self.line(&transfer::start(&name, total));
                self.transfers.insert(name, Transfer::new(now, bytes));
            }
            (Some(known), false) => {
                if now.saturating_sub(known.printed) >= BETWEEN_LINES {
                    known.printed = now;
                    let line = known.state(&name, bytes, total, now);
                    self.line(&line);
                }
            }
        }
    }

    /// Prints lines that were not ended when the build was.
    fn flush_partial(&mut self, now: Duration) {
        let ids: Vec<StepId> = self.steps.keys().copied().collect();
        for id in ids {
            let step = self.steps.entry(id).or_default();
            let partial: Vec<String> =
                [step.stdout.finish(), step.stderr.finish()].into_iter().flatten().collect();
            self.output_lines(id, &partial, now);
        }
    }
}

impl ProgressSink for Plain {
    fn event(&self, event: Event) {
        let style = self.style;
        self.with_state(|state, now| match event {
            Event::Step { id, title, .. } => state.steps.entry(id).or_default().title = title,
            Event::Started { id } => state.begin(id, now),
            Event::Cached { id } => state.end(id, "CACHED", now),
            Event::Missed { id, reason: Some(reason) } => {
                state.begin(id, now);
                state.line(&format!("#{id} not cached: {}", printable(&reason)));
            }
            Event::Missed { .. } => {}
            Event::Output { id, stream, text } => state.output(id, stream, &text, now),
            Event::Finished { id, took } => state.end(id, &format!("DONE {}", seconds(took)), now),
            Event::Failed { id, message } => {
                let message = message.replace('\n', " ");
                state.end(id, &format!("{}: {}", style.error("ERROR"), printable(&message)), now);
            }
            Event::Transfer { name, bytes, total, done } => state.transfer(name, bytes, total, done, now),
            Event::Note { text } => state.line(&format!("note: {}", printable(&text))),
            Event::Warning { text, place } => state.line(&warning(&text, place.as_deref(), style)),
            // An event that this version does not know has nothing to show.
            _ => {}
        });
    }
}

impl View for Plain {
    fn finish(&self, receipt: &Receipt) {
        self.with_state(|state, now| {
            state.flush_partial(now);
            for line in summary::lines(receipt, now) {
                state.line(&line);
            }
        });
    }

    fn fail(&self, error: &Error) {
        let text = report::render(error, self.style);
        self.with_state(|state, now| {
            state.flush_partial(now);
            let _ = write!(state.out, "{text}");
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Screen, build, hand_clock, receipt};
    use super::*;

    fn show(events: Vec<(u64, Event)>) -> String {
        let (screen, (clock, set)) = (Screen::default(), hand_clock());
        let plain = Plain::new(Box::new(screen.clone()), clock, Style::Plain);
        for (milliseconds, event) in events {
            set(milliseconds);
            plain.event(event);
        }
        screen.text()
    }

    #[test]
    fn a_build_reads_like_buildkits() {
        assert_eq!(
            show(build()),
            "\
#1 [1/3] FROM alpine
#1 CACHED
pull sha256:abc: 30.0 MB to go
#2 [2/3] RUN make
#2 0.00 compiling
#3 [3/3] COPY a b
#2 0.41 a.c:1: oops
pull sha256:abc: 20.0 MB of 30.0 MB, 3.8 MB/s
#2 5.20 done
#2 DONE 5.2s
pull sha256:abc: 30.0 MB in 6.0s, 5.0 MB/s
warning: WORKDIR is relative (Dockerfile:2)
#3 ERROR: COPY cannot find `a`
"
        );
    }

    #[test]
    fn output_is_whole_and_harmless() {
        let long = "x".repeat(100_000);
        let output = |text: &str| Event::Output { id: 1, stream: Stream::Stdout, text: text.to_owned() };
        let shown = show(vec![
            (0, Event::Started { id: 1 }),
            (0, output(&format!("{long}\n"))),
            (10, output("10%\r20%\r\n\u{1b}[31mred\u{7}\n\n")),
            (20, Event::Finished { id: 1, took: Duration::from_millis(20) }),
        ]);
        assert_eq!(
            shown,
            format!("#1\n#1 0.00 {long}\n#1 0.01 10%\n#1 0.01 20%\n#1 0.01 red^G\n#1 0.01\n#1 DONE 0.0s\n")
        );
    }

    #[test]
    fn the_end_tells_what_was_built_after_the_last_partial_line() {
        let (screen, (clock, set)) = (Screen::default(), hand_clock());
        let plain = Plain::new(Box::new(screen.clone()), clock, Style::Plain);
        plain.event(Event::Output { id: 1, stream: Stream::Stderr, text: "unfinished".to_owned() });
        set(3200);
        plain.finish(&receipt());
        let digest = receipt().digest;
        assert_eq!(
            screen.text(),
            format!(
                "#1\n#1 3.20 unfinished\nbuilt {digest} in 3.2s: 7 steps (5 from the cache), 1 layer, 12.3 MB\nkept as `app`\n"
            )
        );
    }
}
