//! Where the time of a build went, as a file for programs that draw it: `--trace FILE`.
//!
//! ```text
//! events ─► Trace ─► spans, each with a parent ─┬─ chrome: trace events for Perfetto and browsers
//!                                               └─ otlp:   OpenTelemetry, one line of JSON
//! ```
//!
//! A span lies within its parent: the build has phases, the phase that runs steps has steps, a step has what it waited
//! for, its command, and the packing of its layer as far as the step waits for it. Nothing is measured here but
//! when steps begin and end; all other times are those of the engine.

mod chrome;
mod otlp;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln::progress::{Event, ProgressSink, StepId, Work};
use kiln::{Error, Receipt};
use serde_json::{Value, json};

pub(crate) use otlp::Parent;

use crate::progress::View;

/// One stretch of time.
#[derive(Debug, Clone)]
struct Span {
    kind: Kind,
    name: String,
    /// Both from the beginning of the build.
    start: Duration,
    end: Duration,
    step: Option<StepId>,
    thread: Option<ThreadId>,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
    /// Index of the span around it.
    parent: Option<usize>,
}

/// What a span is, from the outermost to the innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Build,
    Phase,
    Step,
    Wait,
    Command,
    Pack,
    Unpack,
    Transfer,
}

/// Collects the spans of a build and passes its events on.
pub(crate) struct Trace {
    view: Arc<dyn View>,
    began: Instant,
    /// Nanoseconds since 1970 at `began`.
    clock: u128,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spans: Vec<Span>,
    steps: BTreeMap<StepId, Step>,
}

/// What is known of a step while it runs.
#[derive(Default)]
struct Step {
    title: String,
    started: Option<Duration>,
    ended: Option<Duration>,
    status: Option<&'static str>,
    error: Option<String>,
    attributes: Vec<(&'static str, Value)>,
}

impl Trace {
    /// Begins a trace of a build that `view` shows.
    pub(crate) fn new(view: &Arc<dyn View>) -> Self {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        Self { view: Arc::clone(view), began: Instant::now(), clock, state: Mutex::default() }
    }

    /// Returns the trace as the file at `path` shall hold it: its name decides the format.
    pub(crate) fn file(
        &self,
        path: &Path,
        parent: Option<&Parent>,
        result: Result<&Receipt, &Error>,
    ) -> Vec<u8> {
        let spans = self.finish(result);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let value = match name.ends_with(".otlp.json") || name.ends_with(".otlp.jsonl") {
            true => otlp::document(&spans, self.clock, parent),
            false => chrome::document(&spans),
        };
        format!("{value}\n").into_bytes()
    }

    fn finish(&self, result: Result<&Receipt, &Error>) -> Vec<Span> {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        let end = self.began.elapsed();
        let mut root = span(Kind::Build, "kiln build", Duration::ZERO, end);
        match result {
            Ok(receipt) => root.attributes.extend([
                ("digest", json!(receipt.digest)),
                ("steps", json!(receipt.steps)),
                ("cached", json!(receipt.cached)),
                ("bytes", json!(receipt.size)),
            ]),
            Err(error) => root.error = Some(error.message.clone()),
        }
        let mut spans = vec![root];
        spans.extend(state.steps.into_iter().filter_map(|(id, step)| step.span(id, end)));
        spans.extend(state.spans);
        arrange(spans)
    }

    fn note(&self, event: &Event) {
        let now = self.began.elapsed();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Step { id, title, place } => {
                let step = state.step(*id);
                step.title.clone_from(title);
                step.attributes.extend(place.iter().map(|place| ("place", json!(place))));
            }
            Event::Key { id, key, reason, .. } => {
                let step = state.step(*id);
                step.attributes.push(("key", json!(key)));
                step.attributes.extend(reason.iter().map(|reason| ("reason", json!(reason))));
            }
            Event::Started { id } => state.step(*id).started = Some(now),
            Event::Cached { id } => state.step(*id).end("cached", now),
            Event::Finished { id, .. } => state.step(*id).end("done", now),
            Event::Failed { id, message } => {
                let step = state.step(*id);
                step.end("failed", now);
                step.error = Some(message.clone());
            }
            Event::Layer { id, layer, .. } => {
                let attributes = [("layer", json!(layer.digest)), ("bytes", json!(layer.size))];
                state.step(*id).attributes.extend(attributes);
            }
            Event::Span { work, name, step, started, took, bytes } => {
                let start = started.saturating_duration_since(self.began);
                let mut span = span(kind(*work), name, start, start + *took);
                span.step = *step;
                span.thread = Some(std::thread::current().id());
                span.attributes.extend(bytes.map(|bytes| ("bytes", json!(bytes))));
                state.spans.push(span);
            }
            _ => {}
        }
    }
}

impl ProgressSink for Trace {
    fn event(&self, event: Event) {
        self.note(&event);
        self.view.event(event);
    }
}

impl State {
    fn step(&mut self, id: StepId) -> &mut Step {
        self.steps.entry(id).or_default()
    }
}

impl Step {
    fn end(&mut self, status: &'static str, now: Duration) {
        self.started.get_or_insert(now);
        self.ended = Some(now);
        self.status = Some(status);
    }

    /// Returns the span of a step that was begun; one that did not end was stopped when the build ended.
    fn span(self, id: StepId, end: Duration) -> Option<Span> {
        let mut span =
            span(Kind::Step, &self.title.replace('\n', " "), self.started?, self.ended.unwrap_or(end));
        span.step = Some(id);
        span.error = self.error;
        let status = self.status.unwrap_or("stopped");
        span.attributes = vec![("status", json!(status)), ("cached", json!(status == "cached"))];
        span.attributes.extend(self.attributes);
        Some(span)
    }
}

fn span(kind: Kind, name: &str, start: Duration, end: Duration) -> Span {
    let (step, thread, attributes) = (None, None, Vec::new());
    Span { kind, name: name.to_owned(), start, end, step, thread, attributes, error: None, parent: None }
}

fn kind(work: Work) -> Kind {
    match work {
        Work::Command => Kind::Command,
        Work::Wait => Kind::Wait,
        Work::Pack => Kind::Pack,
        Work::Unpack => Kind::Unpack,
        Work::Transfer => Kind::Transfer,
        // Whatever a later engine times is a part of the build.
        _ => Kind::Phase,
    }
}

/// Sorts spans by their beginning, outer ones first, and gives each its parent.
fn arrange(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_by(|a, b| a.start.cmp(&b.start).then(b.end.cmp(&a.end)).then(a.kind.cmp(&b.kind)));
    let parents: Vec<Option<usize>> = spans.iter().map(|span| parent(&spans, span)).collect();
    for (span, parent) in spans.iter_mut().zip(parents) {
        span.parent = parent;
    }
    spans
}

/// Returns the innermost span that `inner` is a part of.
fn parent(spans: &[Span], inner: &Span) -> Option<usize> {
    let within = |outer: &Span| {
        let related = match outer.kind {
            Kind::Build => true,
            Kind::Phase => inner.kind != Kind::Phase,
            Kind::Step => inner.step == outer.step,
            // A worker does one thing after the other, so what it does meanwhile it does for this.
            _ => outer.thread == inner.thread,
        };
        outer.kind <= inner.kind && outer.start <= inner.start && inner.end <= outer.end && related
    };
    let around = spans.iter().enumerate().filter(|(_, outer)| !std::ptr::eq(*outer, inner) && within(outer));
    let innermost = around.max_by_key(|(_, outer)| (outer.kind, outer.start));
    // Two of a kind that are equal in everything must not each be in the other.
    innermost.filter(|(_, outer)| outer.kind < inner.kind).map(|(index, _)| index)
}

#[cfg(test)]
mod tests;
