//! Runs the sandbox for real, once per lane: as root (`root_`), with a range of ids (`userns_`), with one id (`single_`),
//! and as root with the capabilities of a default container (`chroot_`).
//!
//! Started as root, it runs its own lane and then itself again as two ordinary users and as a root with less. A lane that cannot run says why.
//! An argument selects the cases whose names contain it.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this binary is its own test runner")]

mod attacks;
mod cases;
mod chroot;
mod emulated;
mod foreign;
mod lab;
mod roots;
mod waiter;
mod walls;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};

use kiln_sandbox::{BuildNamespace, IdMap, Requested, Wish, choose, enter_build_namespace, run_if_helper};
use lab::Lab;

/// Keeps the runs that this binary starts as other users from starting more.
const LANE_ONLY: &str = "--this-lane-only";

fn main() -> ExitCode {
    run_if_helper();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, dir] = args.as_slice()
        && role == attacks::HANG
    {
        return attacks::hang(dir);
    }
    let in_chroot = args.iter().any(|arg| arg == CHROOT_LANE);
    let requested = if in_chroot { Requested::Chroot } else { Requested::Auto };
    let namespace = enter_build_namespace(requested).expect("enter the build namespace");
    if let [role, dir, pipe] = args.as_slice()
        && role == walls::HANG
    {
        return walls::hang(&namespace, dir, pipe);
    }
    if let [role] = args.as_slice()
        && let Some(code) = waiter::play(role)
    {
        return code;
    }
    let filter = args.iter().find(|arg| !arg.starts_with("--")).cloned().unwrap_or_default();
    if in_chroot {
        let cases: Vec<_> = chroot::ALL.iter().chain(attacks::ALL).collect();
        let failed = run_cases("chroot", &cases, requested, &namespace, &filter);
        return if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS };
    }
    let mut failed = run_lane(&namespace, &filter);
    if namespace.ids == IdMap::Host && !args.iter().any(|arg| arg == LANE_ONLY) {
        failed |= run_as_others(&filter);
        failed |= !run_in_container(&filter);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn run_lane(namespace: &BuildNamespace, filter: &str) -> bool {
    let lane = match &namespace.ids {
        IdMap::Host => "root",
        IdMap::Range { .. } => "userns",
        IdMap::Single => "single",
        IdMap::None { reason } => {
            println!("left out: every lane, because this user {reason}");
            return false;
        }
    };
    let all = [cases::ALL, foreign::ALL, walls::ALL, roots::ALL, waiter::ALL, emulated::ALL].concat();
    let cases: Vec<_> = all.iter().collect();
    run_cases(lane, &cases, Requested::Auto, namespace, filter)
}

fn run_cases(
    lane: &str,
    cases: &[&cases::Case],
    requested: Requested,
    namespace: &BuildNamespace,
    filter: &str,
) -> bool {
    let store = std::env::temp_dir().join(format!("kiln-it-{lane}-{}", std::process::id()));
    std::fs::create_dir(&store).expect("create a directory for the tests");
    let (mut passed, mut failed) = (0, 0);
    match choose(Wish::of(requested), namespace, &store) {
        Ok(isolation) if isolation.ensure_runnable().is_ok() => {
            println!("lane {lane}: {isolation}");
            let lab = Lab::new(isolation, &store);
            for (name, case) in cases.iter().filter(|(name, _)| format!("{lane}_{name}").contains(filter)) {
                match catch_unwind(AssertUnwindSafe(|| case(&lab))) {
                    Ok(()) => {
                        println!("ok {lane}_{name}");
                        passed += 1;
                    }
                    Err(_) => {
                        println!("FAILED {lane}_{name}");
                        failed += 1;
                    }
                }
            }
        }
        Ok(isolation) => println!("left out: lane {lane}, because {:?}", isolation.ensure_runnable()),
        Err(error) => {
            println!("FAILED {lane}: {error}");
            failed += 1;
        }
    }
    println!("lane {lane}: {passed} passed, {failed} failed");
    kiln_sandbox::remove_tree(&store).expect("remove the tests' directory");
    failed > 0
}

/// The capabilities that Docker and containerd give to root: 0xa80425fb.
const DEFAULT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                       +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// Keeps the run that this binary starts with few capabilities apart from the others.
const CHROOT_LANE: &str = "--chroot-lane";

/// Runs the lane of root in a default container, a root that may change its root directory and not mount; and once more as one
/// that may not make devices either, as in a container with a user namespace of its own.
fn run_in_container(filter: &str) -> bool {
    let binary = std::env::current_exe().expect("this binary");
    [DEFAULT.to_owned(), DEFAULT.replace(",+mknod", "")].iter().all(|set| {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", set]).arg(&binary).args([filter, CHROOT_LANE]);
        match command.status() {
            Ok(status) => status.success(),
            Err(error) => {
                println!("left out: lane chroot, because setpriv cannot be run: {error}");
                true
            }
        }
    })
}

fn run_as_others(filter: &str) -> bool {
    let subuid = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let users: Vec<(&str, &str)> = passwd
        .lines()
        .filter_map(|line| {
            let mut words = line.split(':');
            Some((words.next()?, words.nth(1)?))
        })
        .collect();
    let with_range = users
        .iter()
        .find(|(name, uid)| *uid != "0" && subuid.lines().any(|line| line.starts_with(&format!("{name}:"))));
    let without = users.iter().find(|(name, _)| *name == "nobody");
    let mut failed = false;
    for (lane, user) in [("userns", with_range), ("single", without)] {
        match user {
            Some((_, uid)) => failed |= !run_as(uid, filter),
            None => println!("left out: lane {lane}, because no such user exists here"),
        }
    }
    failed
}

fn run_as(uid: &str, filter: &str) -> bool {
    let binary = std::env::current_exe().expect("this binary");
    let ids = ["--reuid", uid, "--regid", uid, "--clear-groups"];
    let status = Command::new("setpriv")
        .args(ids)
        .arg(binary)
        .args([filter, LANE_ONLY])
        .env("TMPDIR", "/tmp")
        .status();
    match status {
        Ok(status) => status.success(),
        Err(error) => {
            println!("left out: the lane of user {uid}, because setpriv cannot be run: {error}");
            true
        }
    }
}
