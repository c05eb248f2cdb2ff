//! What decides about isolation on this machine, read and not tried: for people who set it up.

use std::path::Path;

use serde::Serialize;

use crate::build_namespace::{BuildNamespace, IdMap};
use crate::idmap;

/// One thing that is known of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fact {
    /// What it is about.
    pub name: &'static str,
    /// What is so.
    pub text: String,
}

/// Collects what there is to know; `store` is the directory of the store, or where it would be.
pub fn facts(namespace: &BuildNamespace, store: &Path) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name, text: String| facts.push(Fact { name, text });
    let uname = rustix::system::uname();
    let word = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
    add("kernel", format!("{} {} ({})", word(uname.sysname()), word(uname.release()), word(uname.machine())));
    add("user", user(namespace));
    add("ids", ids(namespace));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    add("seccomp", seccomp(&status));
    if let Some(label) = read("/proc/self/attr/current") {
        add("security module", label);
    }
    for (name, file) in [
        ("max_user_namespaces", "user/max_user_namespaces"),
        ("unprivileged_userns_clone", "kernel/unprivileged_userns_clone"),
        ("apparmor_restrict_unprivileged_userns", "kernel/apparmor_restrict_unprivileged_userns"),
    ] {
        if let Some(value) = read(&format!("/proc/sys/{file}")) {
            add(name, value);
        }
    }
    add("Landlock", crate::landlock::describe());
    add("store", format!("{} on {}", store.display(), file_system(store)));
    add("cgroups", cgroups());
    facts
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim_end_matches(['\0', '\n']).to_owned();
    (!text.is_empty()).then_some(text)
}

fn user(namespace: &BuildNamespace) -> String {
    let outside = |file: &str| {
        let map = idmap::parse_map(&std::fs::read_to_string(file).unwrap_or_default());
        map.iter().find(|extent| extent.inside == 0).map_or(0, |extent| extent.outside)
    };
    match (&namespace.ids, namespace.is_root) {
        (IdMap::None { .. }, true) | (IdMap::Host, _) => "root".to_owned(),
        (IdMap::None { .. }, false) => format!("{}", rustix::process::getuid().as_raw()),
        (_, true) => "root of this container".to_owned(),
        (_, false) => outside("/proc/self/uid_map").to_string(),
    }
}

fn ids(namespace: &BuildNamespace) -> String {
    let text = match &namespace.ids {
        IdMap::Host => return "all of the machine".to_owned(),
        IdMap::Range { count } => format!("{} in a user namespace", u64::from(*count) + 1),
        IdMap::Single => "one in a user namespace".to_owned(),
        IdMap::None { .. } => "those of the user: no user namespace can be had".to_owned(),
    };
    match &namespace.note {
        Some(note) => format!("{text}; {note}"),
        None => text,
    }
}

fn seccomp(status: &str) -> String {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    let privileges = match field("NoNewPrivs").as_deref() {
        Some("1") => ", no_new_privs",
        _ => "",
    };
    match field("Seccomp").as_deref() {
        Some("0") => format!("no filter{privileges}"),
        Some("2") => {
            format!("{} filter(s) around kiln{privileges}", field("Seccomp_filters").unwrap_or_default())
        }
        _ => format!("unknown{privileges}"),
    }
}

/// Returns the type of the file system that holds `path` or the next directory above it that exists.
fn file_system(path: &Path) -> String {
    let found = path.ancestors().find_map(|dir| rustix::fs::statfs(dir).ok());
    let Some(found) = found else { return "an unknown file system".to_owned() };
    // linux/magic.h
    let name = match found.f_type as u64 {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlay, which cannot hold an overlay's upper layer",
        0x6969 => "NFS, which cannot hold an overlay's upper layer",
        0x2FC1_2FC1 => "zfs",
        0x6573_5546 => "FUSE",
        other => return format!("a file system of type {other:#x}"),
    };
    name.to_owned()
}

fn cgroups() -> String {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return "version 2".to_owned();
    }
    let text = match (root.join("memory").exists(), root.join("unified").exists()) {
        (true, true) => "version 1, with an empty version 2 beside it",
        (true, false) => "version 1",
        _ => "none mounted",
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_of_a_process_is_read_from_its_status() {
        assert_eq!(seccomp("NoNewPrivs:\t0\nSeccomp:\t0\nSeccomp_filters:\t0\n"), "no filter");
        let text = seccomp("NoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n");
        assert_eq!(text, "1 filter(s) around kiln, no_new_privs");
        assert_eq!(seccomp(""), "unknown");
    }

    #[test]
    fn a_store_that_is_not_there_yet_has_the_file_system_of_its_parent() {
        assert_eq!(file_system(Path::new("/proc/self/fd")), "a file system of type 0x9fa0");
        let tmp = std::env::temp_dir();
        assert_eq!(file_system(&tmp.join("kiln-not-there/a")), file_system(&tmp));
    }
}
