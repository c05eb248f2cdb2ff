//! The one error of the engine: what was asked, where, why, and what to do about it.
//!
//! Every room below turns its own failures into this shape at its door. The first line is in the user's words;
//! internals follow as `source`s; hints come last. `kiln-cli` renders it, nothing here prints.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure it is: decides the exit code and whether a retry can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request, the Dockerfile, the context or an image is at fault.
    Input,
    /// A RUN step ended with this exit code.
    Step(i32),
    /// A registry or the way to it failed.
    Network,
    /// A registry asked for credentials or refused them.
    Auth,
    /// This machine cannot do what was asked: no sandbox, no space, no permission.
    Environment,
    /// The user stopped the build.
    Interrupted,
    /// A mistake in kiln.
    Internal,
}

/// A place in a file that the user wrote, with the text to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the file as the user gave it.
    pub file: String,
    /// The whole text of the file.
    pub text: Arc<str>,
    /// Byte offsets of the part that is meant.
    pub span: std::ops::Range<usize>,
}

impl Place {
    /// Returns line and column, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = self.text.get(..self.span.start).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let column = before.get(line_start..).map_or(0, |l| l.chars().count());
        (before.matches('\n').count() + 1, column + 1)
    }
}

/// What to do when a disk is full.
const FULL: &str = "free some space, or run `kiln prune`";

/// A failure of the engine.
#[derive(Debug)]
pub struct Error {
    /// What kind of failure.
    pub kind: ErrorKind,
    /// What was asked and did not work, a lower-case fragment without a period.
    pub message: String,
    /// Where the user asked for it.
    pub place: Option<Place>,
    /// Further faults of the same file, which are reported together.
    pub also: Vec<Self>,
    /// The last lines that a failed step printed.
    pub tail: Vec<String>,
    /// Why it did not work.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
    /// What to do next.
    pub hints: Vec<String>,
}

impl Error {
    /// Returns an error without place, cause or hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            place: None,
            also: Vec::new(),
            tail: Vec::new(),
            source: None,
            hints: Vec::new(),
        }
    }

    /// Returns an error that the user's input causes.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// Returns an error that this machine causes.
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Environment, message)
    }

    /// Returns an error that says an invariant of kiln does not hold.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the failure of a layer that was being written: the disk's fault, or that of the content.
    pub(crate) fn layer(message: impl Into<String>, error: kiln_oci::layer::Error) -> Self {
        use kiln_oci::layer::Error as Layer;
        match error {
            Layer::Write(source) => {
                let full = source.kind() == std::io::ErrorKind::StorageFull;
                let out = Self::environment(message).because(source);
                if full { out.hint(FULL) } else { out }
            }
            changed @ Layer::Changed { .. } => {
                Self::input(message).because(changed).hint("do not change the context while it is built")
            }
            other => Self::input(message).because(other),
        }
    }

    /// Adds the place, unless a closer one is known already.
    #[must_use]
    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = self.place.or(place);
        self
    }

    /// Returns the first of several errors of one file with the others beside it.
    #[must_use]
    pub fn first_of(errors: Vec<Self>) -> Option<Self> {
        // Two rounds over a file may find one fault twice.
        let mut seen = std::collections::HashSet::new();
        let mut errors = errors.into_iter().filter(|e| {
            let span = e.place.as_ref().map(|place| place.span.clone());
            span.is_none() || seen.insert((span, e.message.clone()))
        });
        let mut first = errors.next()?;
        first.also.extend(errors);
        Some(first)
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Returns what the causes say, from the nearest to the root, without those that repeat what was said.
    #[must_use]
    pub fn causes(&self) -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut said = self.message.clone();
        let mut next = StdError::source(self);
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some errors end with the text of their source: it is no news.
            if !text.is_empty() && !said.ends_with(&text) {
                said.clone_from(&text);
                out.push(text);
            }
            next = cause.source();
        }
        out
    }

    /// Puts this error under a message that says what it was part of.
    #[must_use]
    pub fn within(self, message: impl Into<String>) -> Self {
        let (kind, place) = (self.kind, self.place.clone());
        let (hints, tail) = (self.hints.clone(), self.tail.clone());
        Self { place, hints, tail, ..Self::new(kind, message) }.because(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

impl From<kiln_remote::Error> for Error {
    fn from(error: kiln_remote::Error) -> Self {
        use kiln_remote::ErrorKind as Remote;
        let kind = match error.kind() {
            Remote::Unauthorized | Remote::Denied => ErrorKind::Auth,
            Remote::NotFound | Remote::Invalid | Remote::Limit => ErrorKind::Input,
            Remote::Cancelled => ErrorKind::Interrupted,
            _ => ErrorKind::Network,
        };
        let hint = error.hint();
        let mut out = Self::new(kind, error.to_string());
        out.source = Cause::of(&error).map(Into::into);
        out.hints.extend(hint);
        out
    }
}

/// The causes of an error as text, for errors that cannot be passed on themselves.
#[derive(Debug, Clone)]
pub(crate) struct Cause {
    text: String,
    inner: Option<Box<Self>>,
}

impl Cause {
    /// Returns a cause that is a sentence of kiln's own.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), inner: None }
    }

    /// Returns the causes of `error`.
    pub(crate) fn of(error: &dyn StdError) -> Option<Self> {
        let source = error.source()?;
        Some(Self { text: source.to_string(), inner: Self::of(source).map(Box::new) })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.as_deref().map(|i| i as _)
    }
}

/// Adds the path and the verb to an I/O result.
pub trait FileContext<T> {
    /// Returns the value, or an environment error that names `action` and `path`.
    ///
    /// # Errors
    /// When the call failed.
    fn on(self, action: &'static str, path: &std::path::Path) -> Result<T>;
}

impl<T, E: Into<std::io::Error>> FileContext<T> for std::result::Result<T, E> {
    fn on(self, action: &'static str, path: &std::path::Path) -> Result<T> {
        self.map_err(|e| {
            let source: std::io::Error = e.into();
            let full = source.kind() == std::io::ErrorKind::StorageFull;
            let error = Error::environment(format!("cannot {action} `{}`", path.display())).because(source);
            if full { error.hint(FULL) } else { error }
        })
    }
}
