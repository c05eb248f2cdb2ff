//! Which hierarchies of control groups are mounted here, and where in each of them this process is.

use std::path::{Path, PathBuf};

use super::Version;
use crate::error::{Context as _, Error};

/// The group that processes of kiln's own group move to, where version 2 demands that it has none.
pub(super) const REST: &str = "kiln-rest";

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    version: Version,
    /// Controllers that a group below kiln's can be limited by.
    controllers: Vec<String>,
    mount: PathBuf,
    /// The directory of kiln's own group.
    own: PathBuf,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Hierarchies(Vec<Hierarchy>);

impl Hierarchies {
    pub(super) fn of_this_process() -> Result<Self, Error> {
        let read = |path: &str| std::fs::read_to_string(path).step_at("look for control groups in", path);
        let controllers = |dir: &Path| std::fs::read_to_string(dir.join("cgroup.controllers")).ok();
        Ok(Self::parse(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?, controllers))
    }

    /// Puts the mounts and the groups of a process together, as `proc_pid_mountinfo(5)` and `cgroups(7)` describe them;
    /// `controllers` reads those of a group of version 2.
    pub(super) fn parse(mounts: &str, groups: &str, controllers: impl Fn(&Path) -> Option<String>) -> Self {
        let mut found = Vec::new();
        for line in mounts.lines() {
            let Some((before, after)) = line.split_once(" - ") else { continue };
            let (before, after): (Vec<&str>, Vec<&str>) =
                (before.split(' ').collect(), after.split(' ').collect());
            let (Some(root), Some(mount), Some(kind)) = (before.get(3), before.get(4), after.first()) else {
                continue;
            };
            let mount = PathBuf::from(mount.replace("\\040", " "));
            let options: Vec<&str> = after.get(2).unwrap_or(&"").split(',').collect();
            let group_of = |is_it: &dyn Fn(&str) -> bool| {
                groups.lines().find_map(|line| {
                    let mut fields = line.splitn(3, ':').skip(1);
                    let names = fields.next()?;
                    is_it(names).then(|| fields.next().unwrap_or("/").to_owned())
                })
            };
            let dir = |group: &str| {
                // A container without a cgroup namespace has a part of the hierarchy for its mount's root.
                let below = Path::new(group).strip_prefix(root).unwrap_or(Path::new(""));
                mount.join(below.strip_prefix("/").unwrap_or(below))
            };
            match *kind {
                "cgroup2" => {
                    let Some(group) = group_of(&|names| names.is_empty()) else { continue };
                    let own = without_rest(dir(&group));
                    let controllers = controllers(&own).unwrap_or_default();
                    let controllers = controllers.split_whitespace().map(str::to_owned).collect();
                    found.push(Hierarchy { version: Version::Two, controllers, mount, own });
                }
                "cgroup" => {
                    let its = |names: &str| {
                        names.split(',').any(|name| options.contains(&name)) && !names.starts_with("name=")
                    };
                    let Some(group) = group_of(&its) else { continue };
                    let controllers = options.iter().map(|&option| option.to_owned()).collect();
                    let own = dir(&group);
                    found.push(Hierarchy { version: Version::One, controllers, mount, own });
                }
                _ => {}
            }
        }
        Self(found)
    }

    /// Returns the group below which `controller` can limit others: `parent`, or that of kiln.
    pub(super) fn place(&self, controller: &str, parent: Option<&str>) -> Option<(Version, PathBuf)> {
        let found = self.0.iter().find(|h| h.controllers.iter().any(|name| name == controller))?;
        let dir = match parent {
            Some(parent) => found.mount.join(parent.trim_start_matches('/')),
            None => found.own.clone(),
        };
        Some((found.version, dir))
    }

    /// Says that there is no such controller, and what there is.
    pub(super) fn missing(&self, controller: &str) -> Error {
        let error = Error::new(format!("limit RUN by the controller `{controller}`"));
        match self.0.iter().find(|h| h.version == Version::Two) {
            None if self.0.is_empty() => error
                .cause("no control groups are mounted here")
                .hint("mount them for kiln: in a container, at /sys/fs/cgroup"),
            None => error.cause("this kernel has no such controller").hint("leave the limit out"),
            Some(two) if two.controllers.is_empty() => {
                error.cause(format!("`{}` has no controllers", two.own.display())).hint(DELEGATE)
            }
            Some(two) => error
                .cause(format!("`{}` has only {}", two.own.display(), two.controllers.join(", ")))
                .hint(DELEGATE),
        }
    }
}

/// How an ordinary user gets control groups of its own.
pub(super) const DELEGATE: &str = "start kiln where control groups are delegated to it: \
     `systemd-run --user --scope -p Delegate=yes kiln build …`; in a pod, containerd's `cgroup_writable`";

/// An earlier kiln has moved this process; the group above is the one that was delegated.
fn without_rest(own: PathBuf) -> PathBuf {
    if own.file_name().is_some_and(|name| name == REST) {
        return own.parent().map_or(own.clone(), Path::to_owned);
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hybrid_machine_has_its_controllers_in_version_one() {
        let mounts = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let groups = "9:name=systemd:/\n4:memory:/jobs/7\n1:cpu:/\n0::/\n";
        let found = Hierarchies::parse(mounts, groups, |_| Some("hugetlb\n".to_owned()));
        let check = |controller: &str, parent: Option<&str>, expect: &str| {
            assert_eq!(found.place(controller, parent), Some((Version::One, PathBuf::from(expect))));
        };
        check("memory", None, "/sys/fs/cgroup/memory/jobs/7");
        check("cpu", None, "/sys/fs/cgroup/cpu");
        check("memory", Some("/ci"), "/sys/fs/cgroup/memory/ci");
        assert_eq!(found.place("pids", None), None);
        assert!(found.missing("pids").to_string().contains("only hugetlb"));
    }

    #[test]
    fn a_container_sees_a_part_of_the_hierarchy() {
        let mounts = "9 8 0:30 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
        let own = |groups: &str| {
            let found = Hierarchies::parse(mounts, groups, |_| Some("pids".to_owned()));
            found.place("pids", None).unwrap().1
        };
        assert_eq!(own("0::/docker/abc\n"), Path::new("/sys/fs/cgroup"));
        assert_eq!(own("0::/docker/abc/job\n"), Path::new("/sys/fs/cgroup/job"));
        assert_eq!(own("0::/docker/abc/job/kiln-rest\n"), Path::new("/sys/fs/cgroup/job"));
    }

    #[test]
    fn a_machine_without_groups_says_so() {
        let found = Hierarchies::parse("", "", |_| None);
        assert!(found.missing("memory").to_string().contains("no control groups are mounted"));
    }
}
