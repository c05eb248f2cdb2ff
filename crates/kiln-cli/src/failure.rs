//! A failed command: the engine's error, or a command line that makes no sense as a whole.

use kiln::Error;

use crate::exit::Exit;

/// Result of a command.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Options that contradict each other, or a value that cannot be meant.
    Usage(Box<Error>),
    /// Anything else.
    Run(Box<Error>),
}

impl Failure {
    /// Returns a mistake in the command line, with what to write instead.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage(Box::new(Error::input(message).hint(hint)))
    }

    /// Returns how the process ends.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Run(error) => Exit::of(error.kind),
        }
    }

    /// Returns the error itself.
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Usage(error) | Self::Run(error) => *error,
        }
    }

    /// Returns what to show.
    pub(crate) fn error(&self) -> &Error {
        match self {
            Self::Usage(error) | Self::Run(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Run(Box::new(error))
    }
}
