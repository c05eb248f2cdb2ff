//! A live view: a line for each running step and transfer at the bottom, what is over as text above them.
//!
//! The output of a step is kept while it runs: its last line is shown beside the title, and all of it when the
//! step fails. What scrolls off is plain text, so that a copied terminal reads like a log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use kiln::progress::{Event, ProgressSink, StepId, Stream};
use kiln::{Error, Receipt};

use super::transfer::{self, Transfer};
use super::{Clock, View, summary, warning};
use crate::report;
use crate::style::Style;
use crate::text::{Lines, printable, seconds, size};

/// How often times are drawn anew.
const TICK: Duration = Duration::from_millis(100);
/// A title is cut to this when there is output to show beside it.
const TITLE_BESIDE_OUTPUT: usize = 60;
/// Output that is kept of one step; more than anybody scrolls through, less than a machine misses.
const KEPT_OUTPUT: usize = 64 << 20;

/// Shows a build live.
pub(crate) struct Tty {
    clock: Clock,
    style: Style,
    multi: MultiProgress,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    steps: BTreeMap<StepId, Step>,
    transfers: BTreeMap<String, (Transfer, ProgressBar)>,
}

#[derive(Default)]
struct Step {
    title: String,
    bar: Option<ProgressBar>,
    stdout: Lines,
    stderr: Lines,
    output: Vec<String>,
    kept: usize,
    clipped: bool,
}

impl Step {
    /// Keeps output, the later part of it if it is very much, and returns the last line.
    fn keep(&mut self, lines: Vec<String>) -> Option<String> {
        for line in &lines {
            self.kept += line.len() + 1;
        }
        self.output.extend(lines);
        if self.kept > KEPT_OUTPUT {
            // A half at a time, so that a step without end does not move its lines again and again.
            let gone = self.output.len() / 2;
            self.kept -= self.output.drain(..gone).map(|line| line.len() + 1).sum::<usize>();
            self.clipped = true;
        }
        self.output.iter().rev().find(|line| !line.trim().is_empty()).cloned()
    }

    fn message(&self, last: Option<&str>) -> String {
        let title = one_line(&self.title);
        match last {
            Some(last) if title.chars().count() > TITLE_BESIDE_OUTPUT => {
                let cut: String = title.chars().take(TITLE_BESIDE_OUTPUT - 1).collect();
                format!("{cut}…  {}", printable(last).trim())
            }
            Some(last) => format!("{title}  {}", printable(last).trim()),
            None => title,
        }
    }
}

impl Tty {
    pub(crate) fn new(clock: Clock, style: Style) -> Self {
        Self::on(ProgressDrawTarget::stderr(), clock, style)
    }

    fn on(target: ProgressDrawTarget, clock: Clock, style: Style) -> Self {
        let multi = MultiProgress::with_draw_target(target);
        Self { clock, style, multi, state: Mutex::default() }
    }

    fn line(&self, line: &str) {
        // Nobody can be told when the terminal is gone.
        let _ = self.multi.println(line);
    }

    fn start(&self, step: &mut Step, id: StepId) {
        if step.bar.is_none() {
            let bar = self.multi.add(ProgressBar::new_spinner().with_style(step_style()));
            bar.set_message(format!("#{id} {}", step.message(None)));
            bar.enable_steady_tick(TICK);
            step.bar = Some(bar);
        }
    }

    /// Takes the live line of a step away and leaves `last` in its place.
    fn end(&self, step: &mut Step, id: StepId, last: &str) {
        if let Some(bar) = step.bar.take() {
            bar.finish_and_clear();
            self.multi.remove(&bar);
        }
        self.line(&format!("#{id} {}  {last}", one_line(&step.title)));
    }

    fn output(&self, step: &mut Step, id: StepId, stream: Stream, text: &str) {
        self.start(step, id);
        let lines = match stream {
            Stream::Stdout => step.stdout.push(text),
            Stream::Stderr => step.stderr.push(text),
        };
        if lines.is_empty() {
            return;
        }
        let last = step.keep(lines);
        let message = format!("#{id} {}", step.message(last.as_deref()));
        if let Some(bar) = &step.bar {
            bar.set_message(message);
        }
    }

    fn fail_step(&self, step: &mut Step, id: StepId, message: &str) {
        let partial: Vec<String> =
            [step.stdout.finish(), step.stderr.finish()].into_iter().flatten().collect();
        step.keep(partial);
        let message = printable(message).replace('\n', " ");
        self.end(step, id, &format!("{}: {message}", self.style.error("ERROR")));
        if step.clipped {
            self.line("  | (the beginning of the output is left out, it is too long)");
        }
        for line in step.output.drain(..) {
            self.line(format!("  | {}", printable(&line)).trim_end());
        }
    }

    fn transfer(&self, state: &mut State, name: String, bytes: u64, total: Option<u64>, done: bool) {
        let now = (self.clock)();
        if done {
            match state.transfers.remove(&name) {
                None => self.line(&transfer::at_once(&name, bytes)),
                Some((known, bar)) => {
                    bar.finish_and_clear();
                    self.multi.remove(&bar);
                    self.line(&known.end(&name, bytes, now));
                }
            }
            return;
        }
        let (_, bar) = state.transfers.entry(name).or_insert_with_key(|name| {
            let bar = match total {
                Some(total) => ProgressBar::new(total),
                None => ProgressBar::no_length(),
            };
            let bar = self.multi.add(bar.with_style(transfer_style()));
            bar.set_message(printable(name).into_owned());
            (Transfer::new(now, bytes), bar)
        });
        bar.set_position(bytes);
    }
}

impl ProgressSink for Tty {
    fn event(&self, event: Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let style = self.style;
        match event {
            Event::Step { id, title, .. } => state.steps.entry(id).or_default().title = title,
            Event::Started { id } => self.start(state.steps.entry(id).or_default(), id),
            Event::Cached { id } => self.end(state.steps.entry(id).or_default(), id, &style.good("CACHED")),
            Event::Missed { id, reason: Some(reason) } => {
                self.line(&style.dim(&format!("#{id} not cached: {}", one_line(&reason))));
            }
            Event::Missed { .. } => {}
            Event::Output { id, stream, text } => {
                self.output(state.steps.entry(id).or_default(), id, stream, &text);
            }
            Event::Finished { id, took } => {
                let step = state.steps.entry(id).or_default();
                self.end(step, id, &style.dim(&seconds(took)));
                step.output = Vec::new();
            }
            Event::Failed { id, message } => self.fail_step(state.steps.entry(id).or_default(), id, &message),
            Event::Transfer { name, bytes, total, done } => {
                self.transfer(&mut state, name, bytes, total, done);
            }
            Event::Note { text } => self.line(&format!("note: {}", printable(&text))),
            Event::Warning { text, place } => self.line(&warning(&text, place.as_deref(), style)),
            // An event that this version does not know has nothing to show.
            _ => {}
        }
    }
}

impl Tty {
    /// Takes every live line away.
    fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for step in state.steps.values_mut() {
            if let Some(bar) = step.bar.take() {
                bar.finish_and_clear();
            }
        }
        for (_, bar) in std::mem::take(&mut state.transfers).into_values() {
            bar.finish_and_clear();
        }
        let _ = self.multi.clear();
    }
}

impl View for Tty {
    fn finish(&self, receipt: &Receipt) {
        self.close();
        for line in summary::lines(receipt, (self.clock)()) {
            self.line(&line);
        }
    }

    fn fail(&self, error: &Error) {
        self.close();
        self.line(report::render(error, self.style).trim_end());
    }
}

fn one_line(text: &str) -> String {
    printable(&text.replace('\n', " ")).into_owned()
}

fn step_style() -> ProgressStyle {
    style("{wide_msg} {elapsed_time}").with_key(
        "elapsed_time",
        |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = out.write_str(&seconds(state.elapsed()));
        },
    )
}

fn transfer_style() -> ProgressStyle {
    style("{wide_msg} {amount}").with_key("amount", |state: &ProgressState, out: &mut dyn fmt::Write| {
        let _ = out.write_str(&amount(state.pos(), state.len(), state.per_sec(), state.eta()));
    })
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .expect("invariant: the templates are constants, and tests draw them")
}

/// Returns how far a transfer is, how fast, and how long it will take.
fn amount(bytes: u64, total: Option<u64>, per_second: f64, left: Duration) -> String {
    let of = total.map(|total| format!(" / {}", size(total))).unwrap_or_default();
    if per_second < 1.0 {
        return format!("{}{of}", size(bytes));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be positive, and shown with one decimal"
    )]
    let rate = size(per_second as u64);
    let left = total.map(|_| format!("  {} left", seconds(left))).unwrap_or_default();
    format!("{}{of}  {rate}/s{left}", size(bytes))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use indicatif::TermLike;

    use super::super::fixture::{build, hand_clock, receipt};
    use super::*;

    /// Keeps everything that is ever drawn; where the cursor stands does not matter here.
    #[derive(Debug, Clone, Default)]
    struct Drawn(Arc<Mutex<String>>);

    impl TermLike for Drawn {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(&format!("{text}\n"))
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn show(act: impl FnOnce(&Tty, &dyn Fn(u64))) -> String {
        let (drawn, (clock, set)) = (Drawn::default(), hand_clock());
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(drawn.clone()), 255);
        act(&Tty::on(target, clock, Style::Plain), &set);
        drawn.0.lock().unwrap().clone()
    }

    #[test]
    fn what_is_over_stays_as_text() {
        let shown = show(|tty, set| {
            for (milliseconds, event) in build() {
                set(milliseconds);
                tty.event(event);
            }
            tty.finish(&receipt());
        });
        for line in [
            "#1 [1/3] FROM alpine  CACHED",
            "#2 [2/3] RUN make  5.2s",
            "pull sha256:abc: 30.0 MB in 6.0s, 5.0 MB/s",
            "warning: WORKDIR is relative (Dockerfile:2)",
            "#3 [3/3] COPY a b  ERROR: COPY cannot find `a`",
            "7 steps (5 from the cache)",
        ] {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
    }

    #[test]
    fn a_failed_step_shows_all_of_its_output() {
        let shown = show(|tty, _| {
            tty.event(Event::Started { id: 1 });
            let text: String = (0..500).map(|n| format!("line {n}\n")).collect();
            tty.event(Event::Output { id: 1, stream: Stream::Stdout, text });
            tty.event(Event::Output { id: 1, stream: Stream::Stderr, text: "last words".to_owned() });
            tty.event(Event::Failed { id: 1, message: "exit code 1".to_owned() });
        });
        for line in ["  | line 0", "  | line 250", "  | line 499", "  | last words"] {
            assert!(shown.contains(line), "{line}");
        }
    }

    #[test]
    fn a_running_step_shows_its_last_line_beside_a_cut_title() {
        let mut step = Step { title: format!("[1/2] RUN {}", "x".repeat(200)), ..Step::default() };
        let last = step.keep(vec!["first".to_owned(), "second\u{7}".to_owned(), " ".to_owned()]);
        let message = step.message(last.as_deref());
        assert!(message.ends_with("x…  second^G"), "{message}");
        assert_eq!(message.chars().count(), TITLE_BESIDE_OUTPUT + 2 + "second^G".len());
    }

    #[test]
    fn transfers_tell_rate_and_time_left() {
        let left = Duration::from_secs(2);
        assert_eq!(amount(1_000_000, Some(3_000_000), 1e6, left), "1.0 MB / 3.0 MB  1.0 MB/s  2.0s left");
        assert_eq!(amount(10, None, 0.0, left), "10 B");
    }
}
