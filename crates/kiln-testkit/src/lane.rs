//! Lanes: what a test needs beyond a file system, and the sentence that it prints where that is missing.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::env::Person;

/// Says, past the test runner's capture, what is left out and why.
pub fn left_out(what: &str, why: &str) {
    // A closed standard error is no reason to fail a test.
    let _ = std::io::stderr().write_all(format!("left out: {what}: {why}\n").as_bytes());
}

/// Says something past the test runner's capture that is neither a failure nor left out.
pub fn note(what: &str) {
    let _ = std::io::stderr().write_all(format!("note: {what}\n").as_bytes());
}

/// Returns the path of a program, or says that what needs it is left out.
#[must_use]
pub fn program(name: &str, what: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|d| d.join(name)).find(|p| p.is_file());
    if found.is_none() {
        left_out(what, &format!("there is no `{name}` on this machine"));
    }
    found
}

/// Returns everybody whom a test with RUN can be done as: the caller, and below root two kinds of ordinary users.
///
/// Below root these are one with a range of ids in `/etc/subuid`, and one without.
#[must_use]
pub fn people(what: &str) -> Vec<Person> {
    let mut people = Vec::new();
    if rustix::process::geteuid().is_root() {
        people.push(Person::Root);
        match user_with_range() {
            Some(person) => people.push(person),
            None => left_out(
                &format!("{what}, as an ordinary user with a range of ids"),
                "no user has a line in /etc/subuid, or `setpriv` or `newuidmap` is missing",
            ),
        }
        match user_without_range() {
            Some(person) => people.push(person),
            None => left_out(&format!("{what}, as an ordinary user with one id"), "`setpriv` is missing"),
        }
    } else {
        people.push(Person::Caller);
        left_out(&format!("{what}, as root"), "the tests do not run as root");
    }
    people.into_iter().filter(|p| can_isolate(p, what)).collect()
}

/// Asks the kernel whether this person may make a user namespace, which every RUN needs.
fn can_isolate(person: &Person, what: &str) -> bool {
    let mut command = person.command("unshare".as_ref());
    let status = command.args(["--user", "--map-root-user", "true"]).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => true,
        Ok(_) => {
            left_out(&format!("{what}, as {person}"), "this machine allows no user namespace to them");
            false
        }
        // Without the program to ask with, the test itself is the answer.
        Err(_) => true,
    }
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn user_with_range() -> Option<Person> {
    if !has("setpriv") || !has("newuidmap") {
        return None;
    }
    let ranges = std::fs::read_to_string("/etc/subuid").ok()?;
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    ranges.lines().filter_map(|line| line.split(':').next()).find_map(|name| {
        let line = passwd.lines().find(|l| l.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        let uid: u32 = fields.next()?.parse().ok()?;
        let gid: u32 = fields.next()?.parse().ok()?;
        (uid > 0).then_some(Person::Ordinary { uid, gid, range: true })
    })
}

/// Nobody has this id, so nobody gave it a range.
const NOBODYS_ID: u32 = 64_123;

fn user_without_range() -> Option<Person> {
    has("setpriv").then_some(Person::Ordinary { uid: NOBODYS_ID, gid: NOBODYS_ID, range: false })
}
