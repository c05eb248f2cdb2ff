//! The one error of the sandbox: what was attempted, on which path, the kernel's answer, its likely cause, and the one change that helps.

use std::fmt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

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
    let error = Error::new("create a user namespace").errno(errno);
    match errno {
        Errno::NOSPC => error
            .cause("the limit `user.max_user_namespaces` of this machine is 0 or used up")
            .hint("raise it: sysctl -w user.max_user_namespaces=28633"),
        Errno::PERM if in_chroot() => error
            .cause("the kernel refuses user namespaces inside a chroot")
            .hint("start kiln outside of the chroot, or enter the directory with pivot_root instead"),
        Errno::PERM if under_seccomp() => error
            .cause("a seccomp profile forbids it, as the default profile of Docker and containerd does")
            .hint("run the container with a seccomp profile that allows clone, mount, umount2 and pivot_root"),
        Errno::PERM => error
            .cause("a policy of this machine forbids it to ordinary users")
            .hint("allow it (sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile with `userns,` for kiln)"),
        Errno::INVAL | Errno::NOSYS => error.cause("this kernel is built without user namespaces"),
        _ => error,
    }
}

/// Explains why the first mount in a fresh user namespace was refused.
pub(crate) fn explain_mount(error: Error) -> Error {
    match error.errno.map(Errno::from_raw_os_error) {
        Some(Errno::PERM | Errno::ACCESS) => error
            .cause("the user namespace exists but is powerless: AppArmor, SELinux or seccomp denies mounts")
            .hint("allow mounts to kiln: an AppArmor profile with `flags=(unconfined) { userns, }`, or run kiln with sudo"),
        _ => error,
    }
}

fn under_seccomp() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2')))
}

fn in_chroot() -> bool {
    // Inside a chroot the root of pid 1 is another directory, if it may be looked at; the mount table starting
    // elsewhere than at `/` is the sign that every user can read.
    std::fs::read_to_string("/proc/self/mountinfo")
        .is_ok_and(|table| !table.lines().any(|line| line.split(' ').nth(4) == Some("/")))
}
