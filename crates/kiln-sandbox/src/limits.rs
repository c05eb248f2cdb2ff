//! Resource limits of processes, `setrlimit(2)`, under the names that `--ulimit` has in Docker.
//!
//! A limit above kiln's own needs a privilege over the machine, which no user namespace gives. So they are set in two steps:
//! [`raise_limits`] lifts the hard limits while the process is still outside, where root may do so, and [`apply`] sets
//! them exactly, just before the command. Nothing is cut down in silence.

use rustix::process::{Resource as Kernel, Rlimit, getrlimit, setrlimit};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error};
use crate::idmap;

/// One resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The limit in force, in the unit of the resource (bytes, seconds, pieces); `None` is unlimited.
    pub soft: Option<u64>,
    /// The limit that the command may raise itself to; `None` is unlimited.
    pub hard: Option<u64>,
}

/// The resources that `--ulimit` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are those of setrlimit(2)")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl Resource {
    /// Every resource with its name in Docker; `as` is kiln's addition.
    pub const NAMES: [(&'static str, Self); 16] = [
        ("as", Self::As),
        ("core", Self::Core),
        ("cpu", Self::Cpu),
        ("data", Self::Data),
        ("fsize", Self::Fsize),
        ("locks", Self::Locks),
        ("memlock", Self::Memlock),
        ("msgqueue", Self::Msgqueue),
        ("nice", Self::Nice),
        ("nofile", Self::Nofile),
        ("nproc", Self::Nproc),
        ("rss", Self::Rss),
        ("rtprio", Self::Rtprio),
        ("rttime", Self::Rttime),
        ("sigpending", Self::Sigpending),
        ("stack", Self::Stack),
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, resource)| *resource == self).map_or("", |(name, _)| name)
    }

    fn kernel(self) -> Kernel {
        match self {
            Self::As => Kernel::As,
            Self::Core => Kernel::Core,
            Self::Cpu => Kernel::Cpu,
            Self::Data => Kernel::Data,
            Self::Fsize => Kernel::Fsize,
            Self::Locks => Kernel::Locks,
            Self::Memlock => Kernel::Memlock,
            Self::Msgqueue => Kernel::Msgqueue,
            Self::Nice => Kernel::Nice,
            Self::Nofile => Kernel::Nofile,
            Self::Nproc => Kernel::Nproc,
            Self::Rss => Kernel::Rss,
            Self::Rtprio => Kernel::Rtprio,
            Self::Rttime => Kernel::Rttime,
            Self::Sigpending => Kernel::Sigpending,
            Self::Stack => Kernel::Stack,
        }
    }
}

/// Tells before any work is done whether commands can be given these limits by this process.
///
/// # Errors
/// Names the limit that is above kiln's own, what that is, and how to raise it.
pub fn check_limits(limits: &[Limit]) -> Result<(), Error> {
    if may_raise() {
        return Ok(());
    }
    limits.iter().find(|limit| exceeds(limit)).map_or(Ok(()), |limit| Err(too_high(limit)))
}

/// Lifts this process's hard limits to those that a command shall have; its soft limits stay.
///
/// # Errors
/// When one is above kiln's own and this process may not raise it.
pub fn raise_limits(limits: &[Limit]) -> Result<(), Error> {
    for limit in limits.iter().filter(|limit| exceeds(limit)) {
        let current = getrlimit(limit.resource.kernel()).current;
        let raised = Rlimit { current, maximum: limit.hard };
        setrlimit(limit.resource.kernel(), raised).map_err(|_| too_high(limit))?;
    }
    Ok(())
}

/// Gives this process exactly these limits.
pub(crate) fn apply(limits: &[Limit]) -> Result<(), Error> {
    for limit in limits {
        let wanted = Rlimit { current: limit.soft, maximum: limit.hard };
        let set = setrlimit(limit.resource.kernel(), wanted);
        set.step(&format!("set the limit `{}` of the command", limit.resource.name()))?;
    }
    Ok(())
}

fn exceeds(limit: &Limit) -> bool {
    match (limit.hard, getrlimit(limit.resource.kernel()).maximum) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wanted), Some(most)) => wanted > most,
    }
}

/// The kernel asks for the capability in the machine's own namespace, whatever a user namespace gives.
fn may_raise() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    idmap::is_initial(&idmap::parse_map(&map))
        && rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE))
}

fn too_high(limit: &Limit) -> Error {
    let name = limit.resource.name();
    let shown = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
    let most = getrlimit(limit.resource.kernel()).maximum;
    Error::new(format!("give RUN the hard limit `{name}={}`", shown(limit.hard)))
        .cause(format!("kiln's own is {}, and only the machine's root with CAP_SYS_RESOURCE may raise it", shown(most)))
        .hint(format!("ask for less, or raise it for the user who starts kiln (/etc/security/limits.conf, or `Limit{}=` of a systemd unit)", name.to_uppercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_resource_has_one_name() {
        for (name, resource) in Resource::NAMES {
            assert_eq!(resource.name(), name);
            assert_eq!(serde_json::to_string(&resource).unwrap(), format!("\"{name}\""));
        }
    }

    #[test]
    fn a_limit_that_kiln_has_itself_can_be_given() {
        let own = getrlimit(Kernel::Nofile);
        let limit = Limit { resource: Resource::Nofile, soft: own.current, hard: own.maximum };
        assert_eq!(check_limits(&[limit]), Ok(()));
        assert!(!exceeds(&limit));
    }
}
