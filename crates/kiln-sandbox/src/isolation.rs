//! The ladder of sandboxes: which one this machine can give, proved by a sandbox of three milliseconds, and how its ids are stored on disk.
//!
//! Container ids and the owners of unpacked files, as kiln's own process sees them, are related so:
//!
//! | place of kiln | user namespace of a RUN | container id *c* on disk | why |
//! |---|---|---|---|
//! | real root | `0 536870912 1073741824`, layers idmapped by the same map | *c* | files keep their natural owners; no process is ever a host id |
//! | build namespace, range | nested `0 1 N` | *c* + 1 | RUN's root is not kiln's own uid, so it cannot signal kiln or read its files |
//! | build namespace, single id | nested `0 0 1` | 0 | there is only one id |
//! | none | – | *c* with CAP_CHOWN, else kiln's own uid | nothing runs |
//!
//! Unpacker and differ must convert with [`Isolation::disk_id`] and [`Isolation::container_id`] and nothing else.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::build_namespace::{BuildNamespace, IdMap};
use crate::error::{Context as _, Error};
use crate::helper::{self, Job, Report};
use crate::remove::remove_tree;
use crate::running::Stdio;
use crate::spec::ExecSpec;
use crate::wire;

/// What the user asked for with `--isolation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requested {
    /// The best that works.
    Auto,
    /// A user namespace with many ids, or nothing.
    Userns,
    /// A user namespace with one id, or nothing.
    UsernsSingle,
    /// No sandbox: a build without RUN.
    None,
}

/// A rung of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// User namespace, all ids.
    Userns,
    /// User namespace, one id.
    UsernsSingle,
    /// Nothing can be run.
    None,
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
}

/// First host id of a command's ids under real root; above every range that distributions hand out to users.
const IDMAP_BASE: u32 = 0x2000_0000;
/// Enough for images whose ids come from a cluster (OpenShift uses 1,000,000,000 and more).
const IDMAP_COUNT: u32 = 0x4000_0000;

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

    fn none(namespace: &BuildNamespace, unavailable: Option<Error>) -> Self {
        let ids = match namespace.ids {
            IdMap::Host => Ids::Natural,
            IdMap::Range { count } => Ids::Nested { count },
            IdMap::Single => Ids::Single,
            // Root in a default container can run nothing but may still give files away.
            IdMap::None { .. } if may_chown() => Ids::Natural,
            IdMap::None { .. } => Ids::Owner(rustix::process::geteuid().as_raw()),
        };
        let lacking = vec!["RUN".to_owned()];
        Self { mode: Mode::None, ids, proc: ProcMount::Fresh, lacking, unavailable }
    }
}

fn may_chown() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::CHOWN))
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mode, self.ids) {
            (Mode::None, _) => return f.write_str("isolation none: no command can be run"),
            (_, Ids::Idmapped { count, .. }) => {
                write!(f, "isolation userns: {count} ids over idmapped layers")?;
            }
            (_, Ids::Nested { count }) => write!(f, "isolation userns: {count} ids in a nested namespace")?,
            _ => write!(f, "isolation userns-single: one id")?,
        }
        f.write_str(match self.proc {
            ProcMount::Fresh => ", own /proc",
            ProcMount::Rbind => ", shared /proc",
        })?;
        f.write_str(", overlay")?;
        if !self.lacking.is_empty() {
            write!(f, "; lacking {}", self.lacking.join(", "))?;
        }
        Ok(())
    }
}

/// Chooses the isolation of a build and proves it with a real sandbox in `store_dir`.
///
/// With [`Requested::Auto`] an impossible sandbox is no error: the mode is then [`Mode::None`] with the reason, so that
/// builds without RUN go on; see [`Isolation::ensure_runnable`]. A pinned mode that fails is an error.
pub fn choose(
    requested: Requested,
    namespace: &BuildNamespace,
    store_dir: &Path,
) -> Result<Isolation, Error> {
    let expected = expected(requested, namespace)?;
    if expected.mode == Mode::None {
        return Ok(expected);
    }
    match (prove(&expected, store_dir), requested) {
        (Err(reason), Requested::Auto) => Ok(Isolation::none(namespace, Some(reason))),
        (proven, _) => proven,
    }
}

/// Returns what [`choose`] tries, untried: how owners are kept on disk is known by it, and whether a command can be run is
/// not.
///
/// # Errors
/// When what was asked for cannot be had with the ids of this process.
pub fn expected(requested: Requested, namespace: &BuildNamespace) -> Result<Isolation, Error> {
    match requested {
        Requested::None => Ok(Isolation::none(namespace, None)),
        Requested::Userns => candidate(namespace, Mode::Userns),
        Requested::UsernsSingle => candidate(namespace, Mode::UsernsSingle),
        Requested::Auto => {
            let mode = if namespace.ids == IdMap::Single { Mode::UsernsSingle } else { Mode::Userns };
            candidate(namespace, mode).or_else(|reason| Ok(Isolation::none(namespace, Some(reason))))
        }
    }
}

/// Tries every rung of the ladder and returns what each gives or why it does not: for people who set up a machine.
pub fn probe(namespace: &BuildNamespace, store_dir: &Path) -> Vec<(Requested, Result<Isolation, Error>)> {
    [Requested::Userns, Requested::UsernsSingle, Requested::None]
        .into_iter()
        .map(|requested| (requested, choose(requested, namespace, store_dir)))
        .collect()
}

fn candidate(namespace: &BuildNamespace, mode: Mode) -> Result<Isolation, Error> {
    let refuse = |cause: &str, hint: &str| {
        Err(Error::new("isolate commands as asked for").cause(cause.to_owned()).hint(hint.to_owned()))
    };
    let ids = match (mode, &namespace.ids) {
        (_, IdMap::None { reason }) => return Err(reason.clone()),
        (Mode::Userns, IdMap::Host) => Ids::Idmapped { base: IDMAP_BASE, count: IDMAP_COUNT },
        (Mode::Userns, IdMap::Range { count }) => Ids::Nested { count: *count },
        (Mode::Userns, IdMap::Single) => {
            return refuse(
                "only one user id is available here",
                "install newuidmap (package uidmap) and give this user a range in /etc/subuid and /etc/subgid",
            );
        }
        (Mode::UsernsSingle, IdMap::Host) => {
            return refuse(
                "the one id would be the host's root",
                "use `userns`, or start kiln as an ordinary user",
            );
        }
        (Mode::UsernsSingle, IdMap::Range { .. } | IdMap::Single) => Ids::Single,
        (Mode::None, _) => return Ok(Isolation::none(namespace, None)),
    };
    let mut lacking = vec!["mknod of devices".to_owned()];
    if ids == Ids::Single {
        lacking.push("users other than root (chown, setgroups and USER fail)".to_owned());
    }
    Ok(Isolation { mode, ids, proc: ProcMount::Fresh, lacking, unavailable: None })
}

/// Runs the set-up of a sandbox without a command and records what it found.
fn prove(candidate: &Isolation, store_dir: &Path) -> Result<Isolation, Error> {
    let mut isolation = candidate.clone();
    let dir = store_dir.join(format!(".probe-{}", std::process::id()));
    let outcome = make_probe_dir(&dir).and_then(|()| try_out(candidate, &dir));
    // A leftover of four empty directories is no reason to fail a build.
    let _ = remove_tree(&dir);
    isolation.proc = outcome?;
    if isolation.proc == ProcMount::Rbind {
        isolation.lacking.push("a /proc of its own (the surrounding one is masked)".to_owned());
    }
    Ok(isolation)
}

fn make_probe_dir(dir: &Path) -> Result<(), Error> {
    for part in ["lower", "upper", "work"] {
        std::fs::create_dir_all(dir.join(part)).step_at("create a directory for the self-test", dir)?;
    }
    Ok(())
}

fn try_out(isolation: &Isolation, dir: &Path) -> Result<ProcMount, Error> {
    let spec = ExecSpec {
        lower: vec![dir.join("lower")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        ..ExecSpec::default()
    };
    let null = || std::fs::File::options().write(true).open("/dev/null").step_at("open", "/dev/null");
    let stdio = Stdio { stdout: null()?.into(), stderr: null()?.into() };
    let job = Job::Probe { isolation: isolation.clone(), spec: Box::new(spec) };
    let (mut launcher, control) = helper::start(&job, stdio)?;
    let report = wire::receive(&control).step("read the self-test's report")?;
    drop(control);
    launcher.wait().step("wait for the self-test")?;
    match report {
        Some(Report::Ready { proc, .. }) => Ok(proc),
        Some(Report::Failed(error)) => Err(error),
        Some(Report::Exited(_)) | None => {
            Err(Error::new("try out a sandbox").cause("its helper process died without a word"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(ids: Ids) -> Isolation {
        Isolation { mode: Mode::Userns, ids, proc: ProcMount::Fresh, lacking: Vec::new(), unavailable: None }
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
