//! User and group id maps: which ranges a user was given, and writing them for a new user namespace.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Pid;

use crate::error::{Context as _, Error};

/// `count` ids from `inside` in the new namespace are those from `outside` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) inside: u32,
    pub(crate) outside: u32,
    pub(crate) count: u32,
}

/// Parses a map as the kernel shows it.
pub(crate) fn parse_map(text: &str) -> Vec<Extent> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().map(str::parse);
            let mut word = || words.next()?.ok();
            Some(Extent { inside: word()?, outside: word()?, count: word()? })
        })
        .collect()
}

/// Returns how many ids follow 0 without a gap.
pub(crate) fn ids_after_root(map: &[Extent]) -> u32 {
    let mut extents = map.to_vec();
    extents.sort_unstable_by_key(|extent| extent.inside);
    let mut next = 0;
    for extent in extents {
        if extent.inside != next {
            break;
        }
        next = extent.inside.saturating_add(extent.count);
    }
    next.saturating_sub(1)
}

/// Returns whether the map is that of the machine itself.
pub(crate) fn is_initial(map: &[Extent]) -> bool {
    map == [Extent { inside: 0, outside: 0, count: u32::MAX }]
}

/// Finds the ranges of a user in the text of `/etc/subuid` or `/etc/subgid`.
pub(crate) fn subordinate_ranges(text: &str, name: Option<&str>, uid: u32) -> Vec<(u32, u32)> {
    let number = uid.to_string();
    text.lines()
        .filter_map(|line| {
            let mut words = line.trim().split(':');
            let owner = words.next()?;
            (Some(owner) == name || owner == number).then_some(())?;
            let (start, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            (count > 0).then_some((start, count))
        })
        .collect()
}

/// Finds a user's name in the text of `/etc/passwd`.
pub(crate) fn login_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut words = line.split(':');
        let name = words.next()?;
        (words.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

/// Lays ranges one after another from id 1 on, behind id 0 for the user, up to `most` ids.
pub(crate) fn lay_out(own: u32, ranges: &[(u32, u32)], most: u32) -> Vec<Extent> {
    let mut map = vec![Extent { inside: 0, outside: own, count: 1 }];
    let mut next = 1;
    for &(start, count) in ranges {
        let count = count.min(most.saturating_add(1).saturating_sub(next));
        if count > 0 {
            map.push(Extent { inside: next, outside: start, count });
            next += count;
        }
    }
    map
}

/// Writes both maps of a process in a new user namespace, with the capabilities that this process holds.
pub(crate) fn write(pid: Pid, uids: &[Extent], gids: &[Extent]) -> Result<(), Error> {
    write_one(pid, "gid_map", gids)?;
    write_one(pid, "uid_map", uids)
}

/// Writes the maps of one id each, which needs no capability once setgroups is given up.
pub(crate) fn write_single(pid: Pid, uid: u32, gid: u32) -> Result<(), Error> {
    let path = format!("/proc/{}/setgroups", pid.as_raw_nonzero());
    std::fs::write(&path, "deny").step_at("give up setgroups by writing", &path)?;
    let one = |outside| [Extent { inside: 0, outside, count: 1 }];
    write(pid, &one(uid), &one(gid))
}

fn write_one(pid: Pid, file: &str, map: &[Extent]) -> Result<(), Error> {
    let path = format!("/proc/{}/{file}", pid.as_raw_nonzero());
    let lines: Vec<String> =
        map.iter().map(|extent| format!("{} {} {}\n", extent.inside, extent.outside, extent.count)).collect();
    std::fs::write(&path, lines.concat()).step_at("write the id map", &path)
}

/// Directories that hold the set-id programs on the distributions that have them; the search path is not asked.
const PROGRAM_DIRS: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// Writes both maps with `newuidmap` and `newgidmap`, which may give out the ranges of `/etc/subuid`.
pub(crate) fn write_with_programs(pid: Pid, uids: &[Extent], gids: &[Extent]) -> Result<(), Error> {
    run_program("newuidmap", pid, uids)?;
    run_program("newgidmap", pid, gids)
}

/// Returns whether both programs are installed.
pub(crate) fn programs_exist() -> bool {
    ["newuidmap", "newgidmap"].iter().all(|name| find_program(name).is_some())
}

fn find_program(name: &str) -> Option<std::path::PathBuf> {
    PROGRAM_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

fn run_program(name: &str, pid: Pid, map: &[Extent]) -> Result<(), Error> {
    let step = format!("map ids with {name}");
    let path = find_program(name).ok_or_else(|| Error::new(&step).cause("it is not installed"))?;
    let mut command = Command::new(&path);
    command.arg(pid.as_raw_nonzero().to_string());
    for extent in map {
        command.args([extent.inside, extent.outside, extent.count].map(|number| number.to_string()));
    }
    let output = command.stdin(Stdio::null()).output().step_at(&step, &path)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(&step).cause(said.lines().last().unwrap_or("it failed without a word").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_ids_behind_root() {
        let check = |text: &str, expect: u32| assert_eq!(ids_after_root(&parse_map(text)), expect, "{text}");
        check("         0       1000          1\n", 0);
        check("0 1000 1\n1 100000 65536\n", 65536);
        check("1 100000 65536\n0 1000 1\n", 65536);
        check("0 1000 1\n5 100000 65536\n", 0);
        check("0 0 4294967295\n", u32::MAX - 1);
        check("", 0);
    }

    #[test]
    fn finds_ranges_by_name_and_by_number() {
        let text = "ann:100000:65536\n1000:200000:10\nbob:1:x\nann:300000:5\n";
        assert_eq!(subordinate_ranges(text, Some("ann"), 7), [(100_000, 65536), (300_000, 5)]);
        assert_eq!(subordinate_ranges(text, None, 1000), [(200_000, 10)]);
        assert_eq!(subordinate_ranges(text, Some("bob"), 7), []);
    }

    #[test]
    fn finds_a_login_name() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(login_name(passwd, 1000), Some("ann"));
        assert_eq!(login_name(passwd, 1), None);
    }

    #[test]
    fn lays_ranges_out_behind_root() {
        let map = lay_out(1000, &[(100_000, 10), (200_000, 10)], 15);
        let expect = [(0, 1000, 1), (1, 100_000, 10), (11, 200_000, 5)];
        assert_eq!(map, expect.map(|(inside, outside, count)| Extent { inside, outside, count }));
    }
}
