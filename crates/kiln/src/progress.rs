//! What a build tells while it runs: plain events, so that a terminal, a CI log and a program can each show them.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

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

/// One of the two output streams of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
