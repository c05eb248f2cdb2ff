//! Exit codes, the one table: scripts rely on it.

use std::process::ExitCode;

use kiln::ErrorKind;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything was done.
    Success,
    /// The input is at fault, or a step of the build failed.
    Failure,
    /// The command line is at fault.
    Usage,
    /// A registry, the way to it or the credentials for it failed.
    Network,
    /// This machine cannot do what was asked.
    Environment,
    /// The user stopped it by this signal.
    Signal(Signal),
    /// A mistake in kiln.
    Bug,
}

/// The signals that stop a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// What `kill` and container runtimes send.
    Terminate,
}

/// The table as `kiln --help` and the manual show it.
pub(crate) const TABLE: [(&str, &str); 8] = [
    ("0", "done"),
    ("1", "the input is at fault, or a step of the build failed"),
    ("2", "the command line is at fault"),
    ("3", "a registry, the network or the credentials failed"),
    ("4", "this machine cannot do what was asked: no sandbox, no space, no permission"),
    ("130", "stopped by Ctrl-C (SIGINT)"),
    ("143", "stopped by SIGTERM"),
    ("255", "a bug in kiln"),
];

impl Exit {
    /// Returns how a failure of this kind ends the process.
    pub(crate) fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Input | ErrorKind::Step(_) => Self::Failure,
            ErrorKind::Network | ErrorKind::Auth => Self::Network,
            ErrorKind::Environment => Self::Environment,
            ErrorKind::Interrupted => Self::Signal(Signal::Interrupt),
            // A kind that this table does not know is a mistake, like an internal one.
            _ => Self::Bug,
        }
    }

    /// Returns the number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Network => 3,
            Self::Environment => 4,
            Self::Signal(Signal::Interrupt) => 130,
            Self::Signal(Signal::Terminate) => 143,
            Self::Bug => 255,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_code_and_every_code_is_in_the_table() {
        let check = |kind: ErrorKind, expect: u8| {
            assert_eq!(Exit::of(kind).code(), expect, "{kind:?}");
            assert!(TABLE.iter().any(|(code, _)| *code == expect.to_string()), "{kind:?}");
        };
        check(ErrorKind::Input, 1);
        check(ErrorKind::Step(42), 1);
        check(ErrorKind::Network, 3);
        check(ErrorKind::Auth, 3);
        check(ErrorKind::Environment, 4);
        check(ErrorKind::Interrupted, 130);
        check(ErrorKind::Internal, 255);
        assert_eq!(Exit::Success.code(), 0);
        assert_eq!(Exit::Usage.code(), 2);
        assert_eq!(Exit::Signal(Signal::Terminate).code(), 143);
    }
}
