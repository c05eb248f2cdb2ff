//! What a path under `/proc` or `/dev` means to the process that names it: a pure function of its text.

/// Whose directory in `/proc` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// The process that asks.
    Itself,
    /// The process or thread with this number, which has to be one of the command.
    Number(i32),
}

/// A place that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// A file of the whole machine, below `/proc`; read only.
    Machine(String),
    /// The directory of a process; only to be looked at.
    Process(Who),
    /// A file of a process, below its directory; read only.
    File(Who, String),
    /// An open descriptor.
    Descriptor(Who, u32),
    /// `exe`, `cwd` or `root`.
    Link(Who, &'static str),
    /// `/proc/self` and `/proc/thread-self`: symlinks.
    Myself { thread: bool },
    /// A device that this container may not make: its own is handed over.
    Device(&'static str),
}

/// Files of `/proc` that say how the machine is, and nothing of what runs on it.
const MACHINE: [&str; 10] = [
    "cpuinfo",
    "meminfo",
    "stat",
    "version",
    "uptime",
    "loadavg",
    "filesystems",
    "devices",
    "vmstat",
    "cgroups",
];

/// Files of a process that are text about it, and no way to anything.
const OF_PROCESS: [&str; 26] = [
    "auxv",
    "cgroup",
    "cmdline",
    "comm",
    "environ",
    "gid_map",
    "io",
    "limits",
    "loginuid",
    "maps",
    "mountinfo",
    "mounts",
    "oom_adj",
    "oom_score",
    "oom_score_adj",
    "personality",
    "schedstat",
    "sessionid",
    "setgroups",
    "smaps_rollup",
    "stat",
    "statm",
    "status",
    "uid_map",
    "wchan",
    "smaps",
];

const LINKS: [&str; 3] = ["exe", "cwd", "root"];

/// The devices of every container.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Returns what an absolute path means; `None` is a path that is nobody's business here.
pub(super) fn place(path: &[u8]) -> Option<Place> {
    let path = std::str::from_utf8(path).ok().filter(|path| path.starts_with('/'))?;
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return None;
    }
    match *parts {
        ["dev", "stdin"] => Some(Place::Descriptor(Who::Itself, 0)),
        ["dev", "stdout"] => Some(Place::Descriptor(Who::Itself, 1)),
        ["dev", "stderr"] => Some(Place::Descriptor(Who::Itself, 2)),
        ["dev", "fd", number] => Some(Place::Descriptor(Who::Itself, number.parse().ok()?)),
        ["dev", device] => DEVICES.into_iter().find(|known| *known == device).map(Place::Device),
        ["proc", "self"] => Some(Place::Myself { thread: false }),
        ["proc", "thread-self"] => Some(Place::Myself { thread: true }),
        ["proc", "mounts"] => Some(Place::File(Who::Itself, "mounts".to_owned())),
        ["proc", "net", ref rest @ ..] => network(Who::Itself, rest),
        // What the kernel shows there may be looked at; only its root could change it.
        ["proc", "sys", ref rest @ ..] if !rest.is_empty() => {
            Some(Place::Machine(format!("sys/{}", rest.join("/"))))
        }
        ["proc", file] if MACHINE.contains(&file) => Some(Place::Machine(file.to_owned())),
        ["proc", who, ref rest @ ..] => {
            let who = match who {
                "self" | "thread-self" => Who::Itself,
                number => Who::Number(number.parse().ok().filter(|number| *number > 0)?),
            };
            of_process(who, rest)
        }
        _ => None,
    }
}

fn of_process(who: Who, rest: &[&str]) -> Option<Place> {
    match *rest {
        [] => Some(Place::Process(who)),
        ["fd", number] => Some(Place::Descriptor(who, number.parse().ok()?)),
        ["fdinfo", number] => {
            let number: u32 = number.parse().ok()?;
            Some(Place::File(who, format!("fdinfo/{number}")))
        }
        ["net", ref rest @ ..] => network(who, rest),
        ["task", number, ref rest @ ..] => {
            let number = number.parse().ok().filter(|number| *number > 0)?;
            if rest.first() == Some(&"task") { None } else { of_process(Who::Number(number), rest) }
        }
        [file] if OF_PROCESS.contains(&file) => Some(Place::File(who, file.to_owned())),
        [link] => LINKS.into_iter().find(|known| *known == link).map(|link| Place::Link(who, link)),
        _ => None,
    }
}

/// Tables of the network that the command shares.
fn network(who: Who, rest: &[&str]) -> Option<Place> {
    match rest {
        [file] => Some(Place::File(who, format!("net/{file}"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_known_by_their_text() {
        let check = |path: &str, expect: Option<Place>| assert_eq!(place(path.as_bytes()), expect, "{path}");
        check("/dev/stdout", Some(Place::Descriptor(Who::Itself, 1)));
        check("/dev/fd/63", Some(Place::Descriptor(Who::Itself, 63)));
        check("/proc/self/fd/3", Some(Place::Descriptor(Who::Itself, 3)));
        check("//proc/./self//status", Some(Place::File(Who::Itself, "status".to_owned())));
        check("/proc/7/exe", Some(Place::Link(Who::Number(7), "exe")));
        check("/proc/self/task/9/comm", Some(Place::File(Who::Number(9), "comm".to_owned())));
        check("/proc/sys/kernel/ostype", Some(Place::Machine("sys/kernel/ostype".to_owned())));
        check("/proc/mounts", Some(Place::File(Who::Itself, "mounts".to_owned())));
        check("/proc/self", Some(Place::Myself { thread: false }));
        check("/dev/null", Some(Place::Device("null")));
    }

    #[test]
    fn everything_else_is_left_alone() {
        for path in [
            "/etc/passwd",
            "proc/self/status",
            "/proc",
            "/proc/",
            "/proc/kcore",
            "/proc/sysrq-trigger",
            "/proc/keys",
            "/proc/self/mem",
            "/proc/self/fd",
            "/proc/self/root/etc/passwd",
            "/proc/self/cwd/x",
            "/proc/self/../1/environ",
            "/proc/self/ns/user",
            "/proc/self/map_files/1-2",
            "/proc/-1/status",
            "/proc/0/status",
            "/proc/1x/status",
            "/proc/self/net/../mem",
            "/proc/self/net/stat/nf_conntrack",
            "/dev/vda",
            "/dev/fd/",
            "/dev/fd/x",
            "/proc/sys",
            "/proc/self/attr/current",
            "/proc/self/clear_refs",
            "/proc/self/task/1/task/2/comm",
        ] {
            assert_eq!(place(path.as_bytes()), None, "{path}");
        }
    }
}
