//! Control groups for commands: where limits on memory, processors and processes can be enforced, and with which files.
//!
//! [`CgroupPlan::new`] finds the hierarchy of each controller, version 2 or version 1, and writes down which directories will
//! be made below which, and what is written into their files. [`CgroupPlan::prove`] does it once for nothing. `hold` does it for
//! a command: the stager makes the directories, puts pid 1 of the sandbox into them, and removes them when that has ended.
//!
//! ```text
//! version 2   <kiln's own cgroup>/kiln-PID/{memory.max,pids.max,cpu.max,…}   wants: delegation to kiln's user
//! version 1   <mount of memory>/<kiln's own>/kiln-PID/memory.limit_in_bytes  wants: root
//! ```
//!
//! A limit that cannot be enforced is an error that says what was found. Nothing is enforced by half, and nothing
//! of what kiln itself runs in is changed, with one exception that version 2 forces: a group that has children with
//! limits may have no processes of its own, so those of kiln's group move to a child of it, `kiln-rest`.

mod find;
mod hold;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::isolation::Mode;
use crate::wire;
use find::Hierarchies;
pub(crate) use hold::Held;

/// Limits of a command with all processes that it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CgroupLimits {
    /// Bytes of memory, with the page cache of its files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Memory and swap together; absent: twice the memory, as in Docker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap: Option<Swap>,
    /// Microseconds of processor time in each period.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_quota: Option<u64>,
    /// The period in microseconds; absent: 100,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_period: Option<u64>,
    /// Weight against other groups, where 1024 is the usual one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,
    /// Processors that it may run on, such as `0-2,5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes that it may use, such as `0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<String>,
    /// Processes and threads at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
    /// The group to make others in, from the root of the hierarchy; absent: that of kiln.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// How much memory and swap together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Swap {
    /// Bytes.
    Bytes(u64),
    /// As much as there is.
    Unlimited,
}

/// Where the groups of commands are made, and what is written into them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPlan {
    groups: Vec<Group>,
}

/// One directory that each command gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    /// The directory that it is made in.
    #[serde(with = "wire::path")]
    parent: PathBuf,
    version: Version,
    settings: Vec<Setting>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Version {
    One,
    Two,
}

/// A file of a group and what it shall hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    file: String,
    value: String,
    /// Kernels without accounting of swap lack its files; nobody asked for them by name.
    optional: bool,
}

/// The period of a quota where none is given, in microseconds.
const PERIOD: u64 = 100_000;
/// Pid 1 of a sandbox is in the group as well, and is none of the command's; without namespaces there is none.
fn own_processes(mode: Mode) -> u64 {
    u64::from(matches!(mode, Mode::Userns | Mode::UsernsSingle))
}

impl CgroupLimits {
    fn wants(&self) -> Vec<&'static str> {
        let swap = self.memory.is_some() || self.memory_swap.is_some();
        let cpu = self.cpu_quota.is_some() || self.cpu_period.is_some() || self.cpu_shares.is_some();
        let set = self.cpuset_cpus.is_some() || self.cpuset_mems.is_some();
        [("memory", swap), ("cpu", cpu), ("cpuset", set), ("pids", self.pids.is_some())]
            .into_iter()
            .filter_map(|(controller, wanted)| wanted.then_some(controller))
            .collect()
    }

    fn settings(&self, controller: &str, version: Version, mode: Mode) -> Vec<Setting> {
        let mut out = Vec::new();
        let mut set = |file: &str, value: String, optional| {
            out.push(Setting { file: file.to_owned(), value, optional });
        };
        match (controller, version) {
            ("memory", Version::Two) => {
                if let Some(memory) = self.memory {
                    set("memory.max", memory.to_string(), false);
                    let (swap, optional) = match self.memory_swap {
                        Some(Swap::Unlimited) => ("max".to_owned(), false),
                        Some(Swap::Bytes(both)) => (both.saturating_sub(memory).to_string(), false),
                        None => (memory.to_string(), true),
                    };
                    set("memory.swap.max", swap, optional);
                }
            }
            ("memory", Version::One) => {
                if let Some(memory) = self.memory {
                    set("memory.limit_in_bytes", memory.to_string(), false);
                    let (both, optional) = match self.memory_swap {
                        Some(Swap::Unlimited) => ("-1".to_owned(), false),
                        Some(Swap::Bytes(both)) => (both.to_string(), false),
                        None => (memory.saturating_mul(2).to_string(), true),
                    };
                    set("memory.memsw.limit_in_bytes", both, optional);
                }
            }
            ("cpu", Version::Two) => {
                let quota = self.cpu_quota.map_or("max".to_owned(), |quota| quota.to_string());
                if self.cpu_quota.is_some() || self.cpu_period.is_some() {
                    set("cpu.max", format!("{quota} {}", self.cpu_period.unwrap_or(PERIOD)), false);
                }
                if let Some(shares) = self.cpu_shares {
                    set("cpu.weight", weight(shares).to_string(), false);
                }
            }
            ("cpu", Version::One) => {
                if let Some(period) = self.cpu_period.or(self.cpu_quota.map(|_| PERIOD)) {
                    set("cpu.cfs_period_us", period.to_string(), false);
                }
                if let Some(quota) = self.cpu_quota {
                    set("cpu.cfs_quota_us", quota.to_string(), false);
                }
                if let Some(shares) = self.cpu_shares {
                    set("cpu.shares", shares.to_string(), false);
                }
            }
            ("cpuset", _) => {
                let both = [("cpuset.cpus", &self.cpuset_cpus), ("cpuset.mems", &self.cpuset_mems)];
                for (file, value) in both {
                    if let Some(value) = value {
                        set(file, value.clone(), false);
                    }
                }
            }
            ("pids", _) => {
                if let Some(pids) = self.pids {
                    set("pids.max", pids.saturating_add(own_processes(mode)).to_string(), false);
                }
            }
            _ => {}
        }
        out
    }
}

/// Translates a weight of version 1, 2 to 262144, to one of version 2, 1 to 10000, as container runtimes do.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

impl CgroupPlan {
    /// Plans the groups that enforce `limits` on commands of this isolation; `None` when there are none.
    ///
    /// # Errors
    /// When no hierarchy has a controller that is needed.
    pub fn new(limits: &CgroupLimits, mode: Mode) -> Result<Option<Self>, Error> {
        if *limits == CgroupLimits::default() {
            return Ok(None);
        }
        Self::on(limits, mode, &Hierarchies::of_this_process()?).map(Some)
    }

    fn on(limits: &CgroupLimits, mode: Mode, found: &Hierarchies) -> Result<Self, Error> {
        let mut groups: Vec<Group> = Vec::new();
        let mut wanted = limits.wants();
        if wanted.is_empty() {
            // A parent alone: everything that its administrator may have limited there.
            wanted = vec!["memory", "cpu", "pids"];
        }
        for controller in wanted {
            let Some((version, parent)) = found.place(controller, limits.parent.as_deref()) else {
                if limits.wants().is_empty() {
                    continue;
                }
                return Err(found.missing(controller));
            };
            let settings = limits.settings(controller, version, mode);
            match groups.iter_mut().find(|group| group.parent == parent) {
                Some(group) => group.settings.extend(settings),
                None => groups.push(Group { parent, version, settings }),
            }
        }
        Ok(Self { groups })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn lines(limits: &CgroupLimits, controller: &str, version: Version) -> Vec<String> {
        let settings = limits.settings(controller, version, Mode::Userns);
        settings.into_iter().filter(|s| !s.optional).map(|s| format!("{}={}", s.file, s.value)).collect()
    }

    #[test]
    fn limits_become_files_of_both_versions() {
        let limits = CgroupLimits {
            memory: Some(64 << 20),
            memory_swap: Some(Swap::Bytes(96 << 20)),
            cpu_quota: Some(150_000),
            cpu_shares: Some(1024),
            pids: Some(9),
            ..CgroupLimits::default()
        };
        let check = |controller, version, expect: &[&str]| {
            assert_eq!(lines(&limits, controller, version), expect, "{controller} {version:?}");
        };
        check("memory", Version::Two, &["memory.max=67108864", "memory.swap.max=33554432"]);
        check(
            "memory",
            Version::One,
            &["memory.limit_in_bytes=67108864", "memory.memsw.limit_in_bytes=100663296"],
        );
        check("cpu", Version::Two, &["cpu.max=150000 100000", "cpu.weight=39"]);
        check(
            "cpu",
            Version::One,
            &["cpu.cfs_period_us=100000", "cpu.cfs_quota_us=150000", "cpu.shares=1024"],
        );
        // The command gets nine: pid 1 of the sandbox is a tenth.
        check("pids", Version::Two, &["pids.max=10"]);
    }

    #[test]
    fn groups_of_one_hierarchy_are_one() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let found =
            Hierarchies::parse(mounts, "0::/user.slice/a.scope\n", |_| Some("cpu memory pids".into()));
        let limits = CgroupLimits { memory: Some(1 << 20), pids: Some(5), ..CgroupLimits::default() };
        let plan = CgroupPlan::on(&limits, Mode::Userns, &found).unwrap();
        assert_eq!(plan.groups.len(), 1);
        assert_eq!(plan.groups[0].parent, Path::new("/sys/fs/cgroup/user.slice/a.scope"));
        let limits = CgroupLimits { cpuset_cpus: Some("0".to_owned()), ..limits };
        let error = CgroupPlan::on(&limits, Mode::Userns, &found).unwrap_err();
        assert!(error.to_string().contains("`cpuset`"), "{error}");
        assert!(error.hint.unwrap().contains("Delegate=yes"));
    }
}
