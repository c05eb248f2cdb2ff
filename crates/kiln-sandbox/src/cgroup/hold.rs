//! Makes the groups of one command and removes them.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Pid;

use super::find::{DELEGATE, REST};
use super::{CgroupPlan, Group, Version};
use crate::error::{Context as _, Error};

/// How often a group is tried to be removed whose last process is still on its way out.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(5);

/// The groups of one command; dropping this leaves them there.
#[derive(Debug)]
pub(crate) struct Held(Vec<PathBuf>);

impl CgroupPlan {
    /// Makes the groups and removes them again: before any work is done, it is known that a command can be limited so.
    ///
    /// # Errors
    /// Says which directory or file was refused, why, and what would help.
    pub fn prove(&self) -> Result<(), Error> {
        for group in &self.groups {
            group.open_parent()?;
        }
        Held::make(self)?.remove();
        Ok(())
    }
}

impl Held {
    /// Makes the groups of a plan with their limits; nobody is in them yet.
    pub(crate) fn make(plan: &CgroupPlan) -> Result<Self, Error> {
        let mut held = Self(Vec::new());
        for group in &plan.groups {
            if let Err(error) = held.add(group) {
                held.remove();
                return Err(error);
            }
        }
        Ok(held)
    }

    fn add(&mut self, group: &Group) -> Result<(), Error> {
        let dir = group.make()?;
        self.0.push(dir.clone());
        match group.version {
            Version::One => inherit_sets(&group.parent, &dir),
            // `cpu` and `pids` can be enabled beside processes, and then no process may be put into a child.
            Version::Two => {
                let kind = std::fs::read_to_string(dir.join("cgroup.type")).unwrap_or_default();
                if kind.trim() == "domain invalid" {
                    return Err(group.explain(&Errno::BUSY.into()));
                }
            }
        }
        for setting in &group.settings {
            let path = dir.join(&setting.file);
            match put(&path, &setting.value) {
                Ok(()) => {}
                Err(_) if setting.optional => {}
                Err(error) => {
                    let wrong = error.raw_os_error().map(Errno::from_raw_os_error);
                    let step = format!("limit RUN with `{}` in", setting.value);
                    let error = Error::new(step).path(&path).io(&error);
                    return Err(match wrong {
                        Some(Errno::NOENT) => error.cause("this kernel does not count it"),
                        Some(Errno::INVAL | Errno::RANGE) => {
                            error.cause("the kernel refuses this value").hint("ask for another one")
                        }
                        _ => error,
                    });
                }
            }
        }
        Ok(())
    }

    /// Puts a process into the groups; what it starts afterwards is in them too.
    pub(crate) fn admit(&self, pid: Pid) -> Result<(), Error> {
        let pid = pid.as_raw_nonzero().to_string();
        for dir in &self.0 {
            put(&dir.join("cgroup.procs"), &pid).step_at("put the command into", dir)?;
        }
        Ok(())
    }

    /// Puts this process into the groups.
    pub(crate) fn admit_self(&self) -> Result<(), Error> {
        for dir in &self.0 {
            // 0 is whoever writes it.
            put(&dir.join("cgroup.procs"), "0").step_at("put the command into", dir)?;
        }
        Ok(())
    }

    /// Removes the groups, once their processes have ended.
    pub(crate) fn remove(self) {
        for dir in &self.0 {
            for _ in 0..TRIES {
                match std::fs::remove_dir(dir) {
                    // The last process is dead but not yet buried.
                    Err(error) if error.kind() == ErrorKind::ResourceBusy => std::thread::sleep(PAUSE),
                    // An empty group that stays is not worth failing a step for.
                    _ => break,
                }
            }
        }
    }
}

impl Group {
    /// Makes a directory that no other command has.
    fn make(&self) -> Result<PathBuf, Error> {
        let own = rustix::process::getpid().as_raw_nonzero();
        for number in 0_u32.. {
            let dir = self.parent.join(format!("kiln-{own}-{number}"));
            match std::fs::create_dir(&dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.explain(&error)),
                Ok(()) => return Ok(dir),
            }
        }
        Err(Error::new("make a control group for RUN").path(&self.parent))
    }

    /// Makes the parent if it is missing, and lets the needed controllers through to its children.
    fn open_parent(&self) -> Result<(), Error> {
        if !self.parent.is_dir() {
            std::fs::create_dir_all(&self.parent).map_err(|error| self.explain(&error))?;
        }
        if self.version == Version::One {
            return Ok(());
        }
        let mut wanted: Vec<&str> =
            self.settings.iter().filter_map(|setting| Some(setting.file.split_once('.')?.0)).collect();
        wanted.dedup();
        if !wanted.is_empty() && self.parent.join("cgroup.type").exists() {
            // The root of the hierarchy, which has no type, may have processes beside limited children.
            self.clear();
        }
        let control = self.parent.join("cgroup.subtree_control");
        let passed = std::fs::read_to_string(&control).unwrap_or_default();
        for controller in wanted {
            if !passed.split_whitespace().any(|name| name == controller) {
                put(&control, &format!("+{controller}")).map_err(|error| self.explain(&error))?;
            }
        }
        Ok(())
    }

    /// Moves the processes of the parent to a child of it; what cannot be moved is what the next write complains about.
    fn clear(&self) {
        let rest = self.parent.join(REST);
        // Processes may fork while they are moved.
        for _ in 0..3 {
            let all = std::fs::read_to_string(self.parent.join("cgroup.procs")).unwrap_or_default();
            if all.is_empty() {
                return;
            }
            let _ = std::fs::create_dir(&rest);
            for pid in all.lines() {
                let _ = put(&rest.join("cgroup.procs"), pid);
            }
        }
    }

    fn explain(&self, error: &std::io::Error) -> Error {
        let what = Error::new("make a control group for RUN in").path(&self.parent).io(error);
        match (error.kind(), self.version) {
            (ErrorKind::ReadOnlyFilesystem, _) => {
                what.cause("they are mounted read-only, as in most containers").hint(DELEGATE)
            }
            (ErrorKind::ResourceBusy, _) => {
                what.cause("it has processes that cannot be moved").hint(DELEGATE)
            }
            (ErrorKind::PermissionDenied, Version::Two) => {
                what.cause("it is not delegated to this user").hint(DELEGATE)
            }
            (ErrorKind::PermissionDenied, Version::One) => what
                .cause("this controller is in version 1 of control groups here, which only root may use")
                .hint("start kiln as root, or the machine with control groups of version 2 (`systemd.unified_cgroup_hierarchy=1`)"),
            _ => what,
        }
    }
}

/// Writes to a file of the kernel, which is there or not, and can never be made.
fn put(path: &Path, value: &str) -> std::io::Result<()> {
    std::fs::File::options().write(true).open(path)?.write_all(value.as_bytes())
}

/// A new group of version 1 has no processors and no memory nodes, and can hold no process without.
fn inherit_sets(parent: &Path, dir: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(value) = std::fs::read_to_string(parent.join(file)) {
            // A hierarchy without this controller has no such file.
            let _ = put(&dir.join(file), &value);
        }
    }
}
