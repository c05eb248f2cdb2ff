//! What a build tells while it runs: plain events, so that a terminal, a CI log and a program can each show them.

mod mask;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use crate::key::Part;

pub use mask::{Mask, Masked, SHORTEST as SHORTEST_SECRET};

/// Number of a step within one build.
pub type StepId = u32;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Event {
    /// A step exists; it may run at once or wait.
    Step {
        /// Its number; the order is that of the plan.
        id: StepId,
        /// What it does, such as `[build 2/5] RUN make`.
        title: String,
        /// File and line of the instruction, such as `Dockerfile:7`.
        place: Option<String>,
    },
    /// A step started.
    Started {
        /// Which.
        id: StepId,
    },
    /// A step was found in the cache and did not run.
    Cached {
        /// Which.
        id: StepId,
    },
    /// A step is not in the cache and is about to run.
    Missed {
        /// Which.
        id: StepId,
        /// Why, as far as it is known: a sentence without a period.
        reason: Option<String>,
    },
    /// A step printed something; `text` may end in the middle of a line.
    Output {
        /// Which.
        id: StepId,
        /// Standard output or standard error.
        stream: Stream,
        /// The bytes, with what is not UTF-8 replaced.
        text: String,
    },
    /// A command asked for something through its proxy.
    Fetched {
        /// Which step.
        id: StepId,
        /// The method, `CONNECT` for a tunnel.
        method: String,
        /// The address, without credentials; of a tunnel host and port.
        target: String,
        /// The status that the command got.
        status: u16,
        /// Bytes that went out, without heads.
        sent: u64,
        /// Bytes that came back.
        received: u64,
    },
    /// A step ended well.
    Finished {
        /// Which.
        id: StepId,
        /// How long it ran.
        #[serde(serialize_with = "seconds")]
        took: Duration,
    },
    /// A step failed.
    Failed {
        /// Which.
        id: StepId,
        /// What its error says first.
        message: String,
    },
    /// The key of a step is known: whether it is in the cache, and why not.
    Key {
        /// Which.
        id: StepId,
        /// Digest of everything that the step depends on.
        key: Digest,
        /// What the key is made of, in its order.
        #[serde(skip)]
        parts: Vec<Part>,
        /// Why the step is not in the cache, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A step has its layer: from the cache, or packed.
    Layer {
        /// Which.
        id: StepId,
        /// The blob.
        layer: Descriptor,
        /// Digest of the uncompressed layer.
        diff_id: Digest,
    },
    /// Work that took time ended, well or badly; sent for those who measure, by the thread that did it.
    Span {
        /// What kind of work.
        work: Work,
        /// What was done, such as `unpack layer 0123456789ab`.
        name: String,
        /// The step that it was done for.
        #[serde(skip_serializing_if = "Option::is_none")]
        step: Option<StepId>,
        /// When it began.
        #[serde(skip)]
        started: Instant,
        /// How long it took.
        #[serde(serialize_with = "seconds")]
        took: Duration,
        /// Bytes that were moved or written, where that is known.
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
    },
    /// Bytes of a transfer or of a layer being written.
    Transfer {
        /// What is moved: `pull sha256:…`, `push sha256:…`, `layer 3`.
        name: String,
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
        /// True with the last event of this name.
        done: bool,
    },
    /// Something to know that is no failure.
    Note {
        /// The sentence.
        text: String,
    },
    /// Something that is likely a mistake.
    Warning {
        /// The sentence.
        text: String,
        /// File and line, where there is one.
        place: Option<String>,
    },
}

/// A kind of work that [`Event::Span`] tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Work {
    /// A part of the whole build: one comes after the other.
    Phase,
    /// The command of a RUN.
    Command,
    /// A step waits for the files below it.
    Wait,
    /// A layer becomes a directory.
    Unpack,
    /// Changes become a layer.
    Pack,
    /// Bytes to or from somewhere else.
    Transfer,
}

/// One of the two output streams of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

fn seconds<S: serde::Serializer>(took: &Duration, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

/// Receives the events of a build, from any thread, in the order in which each thread sends them.
pub trait ProgressSink: Send + Sync {
    /// Takes one event; must not block for long.
    fn event(&self, event: Event);
}

/// The sink that every room holds.
pub type Sink = Arc<dyn ProgressSink>;

/// Does `work` and tells how long it took.
pub(crate) fn span<T>(
    sink: &Sink,
    work: Work,
    name: impl Into<String>,
    step: Option<StepId>,
    act: impl FnOnce() -> T,
) -> T {
    let started = Instant::now();
    let done = act();
    sink.event(Event::Span { work, name: name.into(), step, started, took: started.elapsed(), bytes: None });
    done
}

/// A part of a build that is being timed; it ends when it is dropped, so that one that fails has its time too.
pub(crate) struct Phase {
    sink: Sink,
    name: String,
    started: Instant,
}

impl Phase {
    /// Begins a part called `name`.
    pub(crate) fn begin(sink: &Sink, name: &str) -> Self {
        Self { sink: Arc::clone(sink), name: name.to_owned(), started: Instant::now() }
    }

    /// Ends it.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        let (name, started) = (std::mem::take(&mut self.name), self.started);
        let took = started.elapsed();
        self.sink.event(Event::Span { work: Work::Phase, name, step: None, started, took, bytes: None });
    }
}
