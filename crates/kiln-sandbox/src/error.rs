//! The one error of the sandbox: what was attempted, on which path, the kernel's answer, its likely cause, and the one change that helps.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::answers::{Step, explain};

/// Describes a step of the sandbox that failed.
///
/// It crosses the control socket between the helper and kiln, so it is plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Error {
    /// What was attempted, as a verb phrase that fits after "cannot".
    pub step: String,
    /// The path that was worked on.
    #[serde(with = "crate::wire::path_option")]
    pub path: Option<PathBuf>,
    /// The kernel's answer.
    pub errno: Option<i32>,
    /// Why that answer is given here, where it is known.
    pub cause: Option<String>,
    /// The one change that would help, where one is known.
    pub hint: Option<String>,
}

impl Error {
    pub(crate) fn new(step: impl Into<String>) -> Self {
        Self { step: step.into(), path: None, errno: None, cause: None, hint: None }
    }

    /// Returns why the step failed, without what was attempted: for a sentence that says that already.
    pub fn because(&self) -> String {
        self.cause.clone().unwrap_or_else(|| self.to_string())
    }

    pub(crate) fn errno(mut self, errno: Errno) -> Self {
        self.errno = Some(errno.raw_os_error());
        self
    }

    pub(crate) fn io(mut self, error: &std::io::Error) -> Self {
        self.errno = error.raw_os_error();
        if self.errno.is_none() {
            self.cause = Some(error.to_string());
        }
        self
    }

    pub(crate) fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.path = Some(path.as_ref().to_owned());
        self
    }

    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.step)?;
        if let Some(path) = &self.path {
            write!(f, " `{}`", path.display())?;
        }
        if let Some(errno) = self.errno {
            let text = std::io::Error::from_raw_os_error(errno).to_string();
            // "(os error 1)" is Rust's, not the kernel's word.
            write!(f, ": {}", text.split(" (os error").next().unwrap_or_default().to_lowercase())?;
        }
        match &self.cause {
            Some(cause) if self.errno.is_some() => write!(f, " ({cause})"),
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Adds the step and the path to a kernel answer.
pub(crate) trait Context<T> {
    fn step(self, step: &str) -> Result<T, Error>;
    fn step_at(self, step: &str, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn step(self, step: &str) -> Result<T, Error> {
        self.map_err(|errno| Error::new(step).errno(errno))
    }
    fn step_at(self, step: &str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|errno| Error::new(step).errno(errno).path(path))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn step(self, step: &str) -> Result<T, Error> {
        self.map_err(|error| Error::new(step).io(&error))
    }
    fn step_at(self, step: &str, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|error| Error::new(step).io(&error).path(path))
    }
}

/// Explains why the kernel refused to create a user namespace.
pub(crate) fn explain_clone(errno: Errno) -> Error {
    explain(Step::UserNamespace, Error::new(Step::UserNamespace.name()).errno(errno))
}

/// Explains why the first mount in a fresh user namespace was refused.
pub(crate) fn explain_mount(error: Error) -> Error {
    explain(Step::Mount, error)
}
