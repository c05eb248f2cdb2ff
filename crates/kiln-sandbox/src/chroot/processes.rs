//! The end of everything that a command started, without a process namespace that would end with it.
//!
//! The helper is the nearest reaper: whoever loses his parent becomes its child, however often it forked. So when the helper
//! has no child left, nothing of the command is left. Where Landlock confines signals, one call kills all descendants and
//! nobody else; elsewhere they are looked up in `/proc`, killed, and looked up again.

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, wait};

use crate::sys::landlock::kill_everybody_below;

/// How long is waited for processes to die before they are looked for again.
const PATIENCE: Duration = Duration::from_millis(1);

/// Kills all descendants of this process and returns when the last is gone.
pub(super) fn end_all(confined: bool) {
    loop {
        if confined {
            // Refused only where a filter knows no kill(2), and then the rounds below find nobody to wait for in vain.
            let _ = kill_everybody_below();
        } else {
            for pid in descendants() {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        std::thread::sleep(PATIENCE);
    }
}

/// Returns every process that has this one among its ancestors.
fn descendants() -> Vec<Pid> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent_of(&stat) {
            parents.push((pid, parent));
        }
    }
    let mut found = BTreeSet::from([getpid().as_raw_nonzero().get()]);
    loop {
        let before = found.len();
        for (pid, parent) in &parents {
            if found.contains(parent) {
                found.insert(*pid);
            }
        }
        if found.len() == before {
            break;
        }
    }
    found.remove(&getpid().as_raw_nonzero().get());
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// Tells whether a process or thread is one that this process has among its descendants, and lives.
pub(super) fn is_descendant(number: i32) -> bool {
    let own = getpid().as_raw_nonzero().get();
    let mut number = number;
    // As many generations as there can be processes; a number that is used again in between ends the search early.
    for _ in 0..1 << 16 {
        let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default();
        match parent_of(&stat) {
            Some(parent) if parent == own => return true,
            Some(parent) if parent > 1 => number = parent,
            _ => return false,
        }
    }
    false
}

/// Returns the number of the process that a thread belongs to.
pub(super) fn process_of(thread: i32) -> Option<i32> {
    status(thread, "Tgid:")?.parse().ok()
}

/// Returns the user and group whose rights a thread has.
pub(super) fn owner_of(thread: i32) -> Option<(u32, u32)> {
    // Real, effective, saved, and that of files.
    let effective = |text: String| text.split_whitespace().nth(1)?.parse().ok();
    Some((effective(status(thread, "Uid:")?)?, effective(status(thread, "Gid:")?)?))
}

fn status(thread: i32, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()))
}

/// Takes the parent's number out of `/proc/PID/stat`: the second word behind the name, which may hold anything.
fn parent_of(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_behind_any_name() {
        assert_eq!(parent_of("7 (sh) S 3 7 7"), Some(3));
        assert_eq!(parent_of("7 (a) S 9 (b) R 4 7"), Some(4));
        assert_eq!(parent_of(""), None);
    }

    #[test]
    fn only_descendants_are_known() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let number = i32::try_from(child.id()).unwrap();
        assert!(is_descendant(number) && !is_descendant(1));
        assert_eq!(process_of(number), Some(number));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_descendant(number));
    }
}
