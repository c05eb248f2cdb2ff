//! The output of all steps of a build in one file.
//!
//! ```text
//! STEP MILLISECONDS STREAM LENGTH\n   STREAM: o standard output, e standard error, x left out
//! LENGTH bytes\n                      of x: how many bytes were left out, in digits
//! ```
//!
//! Written as it comes, so that a build that was killed has its log up to the end. A step keeps its first [`HEAD`]
//! bytes, and of what comes after them the last [`TAIL`], which are written when the step ends.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, Read as _, Write};

use serde::Serialize;

use crate::progress::{StepId, Stream};

/// So much output of a step is kept from its beginning, in bytes.
pub const HEAD: u64 = 4 << 20;
/// So much more is kept from its end, in bytes: the reason of a failure is there.
pub const TAIL: usize = 64 << 10;
/// A longer piece is no piece of a log that kiln wrote.
const LONGEST: usize = 16 << 20;

/// One piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// The step that printed it.
    pub step: StepId,
    /// When, in milliseconds after the build.
    pub ms: u64,
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
}

/// What a piece holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Output, which may end in the middle of a line.
    Output {
        /// Where it was printed to.
        stream: Stream,
        /// What.
        text: String,
    },
    /// So many bytes are not in the log.
    LeftOut {
        /// How many.
        left_out: u64,
    },
}

/// A log that is being written.
#[derive(Debug)]
pub(super) struct LogWriter {
    file: File,
    steps: BTreeMap<StepId, Kept>,
}

/// What a step printed so far.
#[derive(Debug, Default)]
struct Kept {
    written: u64,
    tail: VecDeque<(u64, Stream, String)>,
    tail_bytes: usize,
    left_out: u64,
}

impl LogWriter {
    pub(super) fn new(file: File) -> Self {
        Self { file, steps: BTreeMap::new() }
    }

    /// Adds output of a step.
    pub(super) fn output(&mut self, step: StepId, ms: u64, stream: Stream, text: &str) -> io::Result<()> {
        let kept = self.steps.entry(step).or_default();
        if kept.written < HEAD {
            kept.written += text.len() as u64;
            let mark = if stream == Stream::Stdout { 'o' } else { 'e' };
            return piece(&mut self.file, step, ms, mark, text);
        }
        kept.tail_bytes += text.len();
        kept.tail.push_back((ms, stream, text.to_owned()));
        while kept.tail_bytes > TAIL {
            let Some((_, _, gone)) = kept.tail.pop_front() else { break };
            kept.tail_bytes -= gone.len();
            kept.left_out += gone.len() as u64;
        }
        Ok(())
    }

    /// Writes what is kept of the end of a step's output.
    pub(super) fn end(&mut self, step: StepId, ms: u64) -> io::Result<()> {
        let Some(kept) = self.steps.remove(&step) else { return Ok(()) };
        if kept.left_out > 0 {
            piece(&mut self.file, step, ms, 'x', &kept.left_out.to_string())?;
        }
        for (ms, stream, text) in kept.tail {
            let mark = if stream == Stream::Stdout { 'o' } else { 'e' };
            piece(&mut self.file, step, ms, mark, &text)?;
        }
        Ok(())
    }

    /// Ends all steps.
    pub(super) fn finish(&mut self, ms: u64) -> io::Result<()> {
        let open: Vec<StepId> = self.steps.keys().copied().collect();
        open.into_iter().try_for_each(|step| self.end(step, ms))
    }
}

/// One call, so that a build that is killed leaves whole pieces.
fn piece(to: &mut File, step: StepId, ms: u64, mark: char, text: &str) -> io::Result<()> {
    to.write_all(format!("{step} {ms} {mark} {}\n{text}\n", text.len()).as_bytes())
}

/// Reads a log piece by piece; it ends where the log does, or where it is torn.
#[derive(Debug)]
pub struct LogReader<R>(R);

impl<R: BufRead> LogReader<R> {
    /// Reads a log from `source`.
    pub fn new(source: R) -> Self {
        Self(source)
    }

    fn piece(&mut self) -> io::Result<Option<Piece>> {
        let mut head = String::new();
        // A line of a log is short; a file without line breaks is none.
        (&mut self.0).take(100).read_line(&mut head)?;
        let mut words = head.split_whitespace();
        let mut word = || words.next().unwrap_or_default();
        let (Ok(step), Ok(ms)) = (word().parse(), word().parse()) else { return Ok(None) };
        let mark = word();
        let Some(length) = word().parse::<usize>().ok().filter(|n| *n <= LONGEST) else { return Ok(None) };
        let mut bytes = vec![0; length + 1];
        match self.0.read_exact(&mut bytes) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        }
        bytes.pop();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let content = match mark {
            "o" => Content::Output { stream: Stream::Stdout, text },
            "e" => Content::Output { stream: Stream::Stderr, text },
            _ => Content::LeftOut { left_out: text.parse().unwrap_or_default() },
        };
        Ok(Some(Piece { step, ms, content }))
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = io::Result<Piece>;

    fn next(&mut self) -> Option<Self::Item> {
        self.piece().transpose()
    }
}
