//! The ladder of sandboxes: what a command gets on each rung, and how its ids are stored on disk.
//!
//! Container ids and the owners of unpacked files, as kiln's own process sees them, are related so:
//!
//! | place of kiln | user namespace of a RUN | container id *c* on disk | why |
//! |---|---|---|---|
//! | real root | `0 536870912 1073741824`, layers idmapped by the same map | *c* | files keep their natural owners; no process is ever a host id |
//! | build namespace, range | nested `0 1 N` | *c* + 1 | RUN's root is not kiln's own uid, so it cannot signal kiln or read its files |
//! | build namespace, single id | nested `0 0 1` | 0 | there is only one id |
//! | chroot, by root without CAP_SYS_ADMIN | none of its own | *c* | files keep their natural owners |
//! | none | – | *c* with CAP_CHOWN, else kiln's own uid | nothing runs |
//!
//! Unpacker and differ must convert with [`Isolation::disk_id`] and [`Isolation::container_id`] and nothing else.

use std::fmt;
use std::path::Path;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use crate::build_namespace::{BuildNamespace, IdMap};
use crate::error::Error;

/// What the user asked for with `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The best that works.
    Auto,
    /// A user namespace with many ids, or nothing.
    Userns,
    /// A user namespace with one id, or nothing.
    UsernsSingle,
    /// Another root directory and Landlock, or nothing.
    Chroot,
    /// No sandbox: a build without RUN.
    None,
}

/// What the user wants of the isolation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// The rung that was asked for.
    pub requested: Requested,
    /// The weakest rung that will do: a policy, whatever was asked for.
    pub at_least: Mode,
    /// Takes a rung that lacks a part of its walls, such as `chroot` on a kernel without Landlock.
    pub allow_weak: bool,
}

impl Wish {
    /// Returns the wish for this and no condition.
    pub fn of(requested: Requested) -> Self {
        Self { requested, at_least: Mode::None, allow_weak: false }
    }
}

/// A rung of the ladder, the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Nothing can be run.
    None,
    /// Another root directory, guarded by Landlock and a system call filter; no namespace.
    Chroot,
    /// User namespace, one id.
    UsernsSingle,
    /// User namespace, all ids.
    Userns,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userns => "userns",
            Self::UsernsSingle => "userns-single",
            Self::Chroot => "chroot",
            Self::None => "none",
        })
    }
}

/// How container ids become ids of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ids {
    /// Idmapped mounts of real root: `count` container ids become host ids from `base` while the command runs.
    Idmapped {
        /// First host id.
        base: u32,
        /// How many.
        count: u32,
    },
    /// Nested user namespace over ids 1.. of the build namespace.
    Nested {
        /// How many ids a container has.
        count: u32,
    },
    /// Nested user namespace with the one id that kiln has.
    Single,
    /// Nothing runs; files belong to this id.
    Owner(u32),
    /// Nothing runs; files keep their natural owners because kiln is root.
    Natural,
}

/// How `/proc` appears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcMount {
    /// A new one that shows the sandbox's processes only.
    Fresh,
    /// The surrounding one, where the kernel refuses a new one: outer processes are visible but out of reach.
    Rbind,
    /// None is mounted: calls that look into it are answered one by one.
    Answered,
    /// None: an empty directory.
    Absent,
}

/// The isolation that every command of a build gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Isolation {
    /// The rung of the ladder.
    pub mode: Mode,
    /// Its ids.
    pub ids: Ids,
    /// Its `/proc`.
    pub proc: ProcMount,
    /// What a command misses here, as phrases for the log.
    pub lacking: Vec<String>,
    /// Why nothing can be run, when the mode is [`Mode::None`] against the wish of the user.
    pub unavailable: Option<Error>,
    /// What keeps a stronger rung away, with the one change that would give it.
    pub better: Option<Box<Better>>,
}

/// A stronger rung and what stands before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Better {
    /// The rung.
    pub mode: Mode,
    /// Why it cannot be had; the hint is the one change that gives it.
    pub reason: Error,
}

impl Isolation {
    /// Returns the id that a file of container id `id` must be given on disk.
    ///
    /// An id beyond the map has none: the kernel refuses the `chown` to what is returned for it, with EINVAL.
    pub fn disk_id(&self, id: u32) -> u32 {
        match self.ids {
            Ids::Idmapped { .. } | Ids::Natural => id,
            Ids::Nested { .. } => id.saturating_add(1),
            Ids::Single => 0,
            Ids::Owner(owner) => owner,
        }
    }

    /// Returns the container id of a file that has owner `id` on disk.
    pub fn container_id(&self, id: u32) -> u32 {
        match self.ids {
            Ids::Idmapped { .. } | Ids::Natural => id,
            // Id 0 is kiln itself: scaffolding that it made for the container's root.
            Ids::Nested { .. } => id.saturating_sub(1),
            Ids::Single | Ids::Owner(_) => 0,
        }
    }

    /// Returns an error with cause and hint when commands cannot be run, before any work was spent on a build that needs them.
    pub fn ensure_runnable(&self) -> Result<(), Error> {
        match (self.mode, &self.unavailable) {
            (Mode::None, Some(reason)) => Err(reason.clone()),
            (Mode::None, None) => Err(Error::new("run a command").cause("isolation `none` runs none")),
            _ => Ok(()),
        }
    }

    pub(crate) fn none(namespace: &BuildNamespace, unavailable: Option<Error>) -> Self {
        let ids = match namespace.ids {
            IdMap::Host => Ids::Natural,
            IdMap::Range { count } => Ids::Nested { count },
            IdMap::Single => Ids::Single,
            // Root in a default container can run nothing but may still give files away.
            IdMap::None { .. } if may_chown() => Ids::Natural,
            IdMap::None { .. } => Ids::Owner(rustix::process::geteuid().as_raw()),
        };
        let lacking = vec!["RUN".to_owned()];
        Self { mode: Mode::None, ids, proc: ProcMount::Absent, lacking, unavailable, better: None }
    }

    /// Describes the isolation for the log of a build that keeps its snapshots in `store`: what a command gets, what it lacks,
    /// and what would give more, a line each.
    pub fn describe(&self, store: &Path) -> Vec<String> {
        let kept = if self.mode == Mode::Chroot { "copies" } else { "overlay" };
        let mut lines = vec![format!("{self}, {kept} in {}", store.display())];
        if !self.lacking.is_empty() {
            lines.push(format!("RUN lacks {}", self.lacking.join("; ")));
        }
        if let Some(better) = &self.better {
            let change = better.reason.hint.as_deref().unwrap_or("see `kiln doctor`");
            lines.push(format!(
                "`{}` would be stronger, but {}: {change}",
                better.mode,
                better.reason.because()
            ));
        }
        lines
    }
}

fn may_chown() -> bool {
    holds(CapabilitySet::CHOWN)
}

pub(crate) fn holds(wanted: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "isolation {}: ", self.mode)?;
        match (self.mode, self.ids) {
            (Mode::None, _) => return f.write_str("no command can be run"),
            (Mode::Chroot, _) => f.write_str("another root directory")?,
            (_, Ids::Idmapped { count, .. }) => write!(f, "{count} ids over idmapped layers")?,
            (_, Ids::Nested { count }) => write!(f, "{count} ids in a nested namespace")?,
            _ => f.write_str("one id, the others emulated")?,
        }
        f.write_str(match self.proc {
            ProcMount::Fresh => ", own /proc",
            ProcMount::Rbind => ", shared /proc",
            ProcMount::Answered => ", answered /proc",
            ProcMount::Absent => ", no /proc",
        })?;
        f.write_str(", system call filter, network of kiln")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(ids: Ids) -> Isolation {
        let (mode, proc) = (Mode::Userns, ProcMount::Fresh);
        Isolation { mode, ids, proc, lacking: Vec::new(), unavailable: None, better: None }
    }

    #[test]
    fn ids_come_back_from_the_disk() {
        for ids in
            [Ids::Idmapped { base: 1 << 29, count: 1 << 30 }, Ids::Nested { count: 65536 }, Ids::Natural]
        {
            let isolation = with(ids);
            for id in [0, 33, 1000, 65533] {
                assert_eq!(isolation.container_id(isolation.disk_id(id)), id, "{ids:?}");
            }
        }
        assert_eq!(with(Ids::Nested { count: 65536 }).disk_id(33), 34);
        assert_eq!(with(Ids::Single).disk_id(33), 0);
        assert_eq!(with(Ids::Owner(1000)).disk_id(33), 1000);
    }

    #[test]
    fn kilns_own_files_in_a_range_are_roots() {
        assert_eq!(with(Ids::Nested { count: 65536 }).container_id(0), 0);
    }
}
