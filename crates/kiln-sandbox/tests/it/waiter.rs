//! The process that an ordinary user started, which waits for the kiln in the build namespace.
//!
//! Driven from the root lane, because only there is the namespace yet to be entered.

use std::io::Read as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitCode, Stdio};

use kiln_sandbox::Ids;

use crate::cases::Case;
use crate::lab::Lab;

const EXIT: &str = "--role-exit-seven";
const SLEEP: &str = "--role-sleep";

pub(crate) const ALL: &[Case] = &[
    ("waiter_exits_as_its_child", waiter_exits_as_its_child),
    ("waiter_passes_signals_on", waiter_passes_signals_on),
    ("death_of_the_waiter_kills_its_child", death_of_the_waiter_kills_its_child),
];

pub(crate) fn play(role: &str) -> Option<ExitCode> {
    match role {
        EXIT => {
            assert!(
                std::env::vars_os().all(|(name, _)| name != "KILN_BUILD_NAMESPACE"),
                "the marker is left"
            );
            Some(ExitCode::from(7))
        }
        SLEEP => {
            println!("ready");
            std::thread::sleep(std::time::Duration::from_secs(1000));
            None
        }
        _ => None,
    }
}

/// Starts a role as an ordinary user; `None` in lanes that are in a namespace already.
fn start(lab: &Lab, role: &str) -> Option<Child> {
    if !matches!(lab.isolation.ids, Ids::Idmapped { .. }) {
        return None;
    }
    let binary = std::env::current_exe().expect("this binary");
    let ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];
    // setpriv executes the binary itself, so the child's id is the waiter's.
    let child = Command::new("setpriv").args(ids).arg(binary).arg(role).stdout(Stdio::piped()).spawn();
    Some(child.expect("run setpriv"))
}

fn waiter_exits_as_its_child(lab: &Lab) {
    if let Some(mut child) = start(lab, EXIT) {
        assert_eq!(child.wait().unwrap().code(), Some(7));
    }
}

fn signalled(lab: &Lab, signal: &str) -> Option<std::process::ExitStatus> {
    let mut child = start(lab, SLEEP)?;
    let mut output = child.stdout.take().unwrap();
    let mut line = [0; 6];
    output.read_exact(&mut line).unwrap();
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let status = child.wait().unwrap();
    assert_eq!(output.read(&mut line).unwrap(), 0, "the child lives on");
    Some(status)
}

fn waiter_passes_signals_on(lab: &Lab) {
    if let Some(status) = signalled(lab, "-TERM") {
        assert_eq!(status.signal(), Some(15));
    }
}

fn death_of_the_waiter_kills_its_child(lab: &Lab) {
    if let Some(status) = signalled(lab, "-KILL") {
        assert_eq!(status.signal(), Some(9));
    }
}
