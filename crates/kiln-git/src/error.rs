//! What can go wrong with a repository, in groups that a caller can act on.

use std::fmt;
use std::io;

/// Result of a call of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Groups errors by what a person can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// The repository lacks what was asked for, or holds something that cannot be.
    Content,
    /// The server could not be reached or broke off.
    Network,
    /// The server wants to know who asks.
    Unauthorized,
    /// This machine lacks something: a program, disk space.
    Machine,
}

/// A failure.
#[derive(Debug)]
pub struct Error {
    /// Its group.
    pub kind: Kind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    pub(crate) fn content(message: impl Into<String>) -> Self {
        Self::new(Kind::Content, message)
    }

    pub(crate) fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    pub(crate) fn disk(action: &str, path: &std::path::Path, source: io::Error) -> Self {
        Self::new(Kind::Machine, format!("cannot {action} `{}`", path.display())).because(source)
    }

    /// Wraps a failure of the library: an I/O error of [`Web`](crate::Web) in it decides the kind and is the cause.
    pub(crate) fn library(message: impl Into<String>, error: gix_error::Error) -> Self {
        let io = error.iter_errors().find_map(|e| e.downcast_ref::<io::Error>());
        let kind = match io.map(io::Error::kind) {
            Some(io::ErrorKind::PermissionDenied) => Kind::Unauthorized,
            Some(io::ErrorKind::NotFound) => Kind::Content,
            Some(_) => Kind::Network,
            None => Kind::Content,
        };
        let cause = match io.and_then(io::Error::get_ref) {
            Some(inner) => chain(inner),
            None => {
                // One failure stands there several times where it was wrapped.
                let mut texts: Vec<String> = error.iter_errors().map(ToString::to_string).collect();
                texts.dedup();
                texts.join(": ")
            }
        };
        Self::new(kind, message).because(cause)
    }
}

/// Returns an error and its causes as one sentence, for errors that cannot be kept themselves.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}
