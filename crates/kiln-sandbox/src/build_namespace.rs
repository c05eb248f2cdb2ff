//! The user namespace that a whole build lives in, unless root started kiln with CAP_SYS_ADMIN.
//!
//! ```text
//! kiln (uid 1000) ── clone(NEWUSER|NEWNS) ──> child: waits for its maps, becomes root there, executes kiln again
//!   │ writes the maps                           │ finds the marker in its environment, strips it, goes on
//!   └ waits, passes signals on, exits the same  └ dies with its waiter (PDEATHSIG)
//! ```
//!
//! Must run before the first thread. It refuses to guess: what the namespace can do is read back from the kernel.

use std::ffi::OsString;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, explain_clone, explain_mount};
use crate::idmap::{self, Extent};
use crate::isolation::{Requested, holds};
use crate::sys;

/// Which ids the process has that kiln runs in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdMap {
    /// Real root with all ids of the machine.
    Host,
    /// A user namespace with id 0 and ids 1 to `count`.
    Range {
        /// How many ids there are besides 0.
        count: u32,
    },
    /// A user namespace with id 0 alone.
    Single,
    /// No user namespace can be had.
    None {
        /// Why, and what would help.
        reason: Error,
    },
}

/// The place that kiln works in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildNamespace {
    /// The ids that files and processes can have here.
    pub ids: IdMap,
    /// Why there are not more ids, where there could be.
    pub note: Option<Error>,
    /// Whether root started kiln: of the machine, or of the container that kiln runs in.
    pub is_root: bool,
}

/// Carries what the re-executed kiln has to know ([`Arrival`]), which removes it at once.
const MARKER: &str = "KILN_BUILD_NAMESPACE";

/// The customary first id of ranges, for those who may take any.
const CUSTOMARY: u32 = 100_000;

/// No distribution gives out more by default, and images use no more.
const MOST_IDS: u32 = 65536;

/// What the process that was started tells the one that builds.
#[derive(Debug, Serialize, Deserialize)]
struct Arrival {
    /// Number of the descriptor that hangs up when the waiter dies.
    lifeline: i32,
    note: Option<Error>,
    is_root: bool,
}

/// Enters the build's user namespace, by executing kiln again inside it, unless this is root who can do without.
///
/// Returns in the process that shall build; the process that was started waits for it and exits as it does. Call it
/// after [`crate::run_if_helper`] and before the first thread. Where no namespace can be had, the reason is in the
/// answer, because builds without RUN need none, and root of a default container has another way. It is an error when the
/// process has threads already.
pub fn enter_build_namespace(requested: Requested) -> Result<BuildNamespace, Error> {
    if let Some(arrived) = arrive() {
        return Ok(arrived);
    }
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        if holds(CapabilitySet::SYS_ADMIN) {
            return Ok(BuildNamespace { ids: ids_here(), note: None, is_root });
        }
        if matches!(requested, Requested::Chroot | Requested::None) {
            let reason = Error::new("use a user namespace").cause("another isolation was asked for");
            return Ok(without_namespace(reason, None, is_root));
        }
    }
    refuse_threads()?;
    let mut plans = vec![Plan::single()];
    let mut note = None;
    match range_plan() {
        Ok(plan) => plans.insert(0, plan),
        Err(reason) => note = Some(reason),
    }
    let mut last = Error::new("create a user namespace");
    for plan in plans {
        // Returns only on failure.
        let failure = depart(&plan, note.as_ref(), is_root);
        if let Maps::Single = plan.maps {
            last = failure;
        } else {
            note = Some(failure);
        }
    }
    Ok(without_namespace(last, note, is_root))
}

/// Stays where kiln was started. What root can still do needs no namespace, and kiln's memory is to be closed for it.
fn without_namespace(reason: Error, note: Option<Error>, is_root: bool) -> BuildNamespace {
    if is_root {
        hide();
    }
    BuildNamespace { ids: IdMap::None { reason }, note, is_root }
}

/// Recognises that this process is the re-executed one.
fn arrive() -> Option<BuildNamespace> {
    let marker = std::env::var(MARKER).ok()?;
    sys::remove_variable(MARKER);
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let Arrival { lifeline, note, is_root } = serde_json::from_str(&marker).ok()?;
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // The waiter may have died before the line above; then the lifeline has hung up.
    if sys::adopt_fd(lifeline).is_some_and(|lifeline| has_hung_up(&lifeline)) {
        sys::exit_now(1);
    }
    hide();
    Some(BuildNamespace { ids: ids_here(), note, is_root })
}

/// Closes this process's memory and environment to others of the same user.
///
/// Where there is one id only, a command has the user id of kiln; where the surrounding `/proc` is bound in, it sees kiln
/// as well. Neither the tokens in kiln's environment nor those in its memory are meant for it.
fn hide() {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

pub(crate) fn has_hung_up(pipe: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(pipe, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// Reads from the kernel which ids exist here.
fn ids_here() -> IdMap {
    let read = |name: &str| {
        std::fs::read_to_string(format!("/proc/self/{name}")).map(|text| idmap::parse_map(&text))
    };
    let (uids, gids) = match (read("uid_map"), read("gid_map")) {
        (Ok(uids), Ok(gids)) => (uids, gids),
        (Err(error), _) | (_, Err(error)) => {
            let reason = Error::new("read this process's id map below").path("/proc/self").io(&error);
            return IdMap::None { reason: reason.hint("mount /proc for kiln") };
        }
    };
    if idmap::is_initial(&uids) && idmap::is_initial(&gids) {
        return IdMap::Host;
    }
    match idmap::ids_after_root(&uids).min(idmap::ids_after_root(&gids)) {
        0 => IdMap::Single,
        count => IdMap::Range { count },
    }
}

fn refuse_threads() -> Result<(), Error> {
    let tasks =
        std::fs::read_dir("/proc/self/task").step_at("count this process's threads in", "/proc/self/task")?;
    if tasks.count() > 1 {
        return Err(Error::new("enter a user namespace")
            .cause("kiln has started threads already; this is a bug in kiln"));
    }
    Ok(())
}

/// A namespace to be tried.
struct Plan {
    uids: Vec<Extent>,
    gids: Vec<Extent>,
    maps: Maps,
}

/// Who writes the maps.
enum Maps {
    Programs,
    Directly,
    Single,
}

impl Plan {
    fn single() -> Self {
        Self { uids: Vec::new(), gids: Vec::new(), maps: Maps::Single }
    }
}

/// Plans a namespace with many ids, or says what is missing for it.
fn range_plan() -> Result<Plan, Error> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = idmap::login_name(&passwd, uid);
    let ranges =
        |file: &str| idmap::subordinate_ranges(&std::fs::read_to_string(file).unwrap_or_default(), name, uid);
    let (mut uids, mut gids) = (ranges("/etc/subuid"), ranges("/etc/subgid"));
    let capable = holds(CapabilitySet::SETUID | CapabilitySet::SETGID);
    let no = |cause: &str, hint: &str| Err(Error::new("use many user ids").cause(cause).hint(hint));
    if capable && (uid == 0 || uids.is_empty() || gids.is_empty()) {
        // Root, or a kiln with file capabilities in an image of its own: any range will do.
        uids = free_ids("/proc/self/uid_map");
        gids = free_ids("/proc/self/gid_map");
    }
    if !capable && rustix::thread::no_new_privs().unwrap_or(false) {
        return no(
            "newuidmap cannot raise its rights here, where no_new_privs is set",
            "run the pod as root (runAsUser: 0) with kiln's seccomp profile, in a user namespace of its own \
             (hostUsers: false) where it must not be the machine's root",
        );
    }
    if uids.is_empty() || gids.is_empty() {
        return no(
            "this user has no range in /etc/subuid and /etc/subgid",
            "give it one, with the package uidmap installed: \
             sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
        );
    }
    let maps = match (capable, idmap::programs_exist()) {
        (true, _) => Maps::Directly,
        (false, true) => Maps::Programs,
        (false, false) => {
            return no("newuidmap and newgidmap are not installed", "install the package uidmap");
        }
    };
    let total = |ranges: &[(u32, u32)]| ranges.iter().map(|range| range.1).fold(0, u32::saturating_add);
    let most = MOST_IDS.min(total(&uids)).min(total(&gids));
    Ok(Plan { uids: idmap::lay_out(uid, &uids, most), gids: idmap::lay_out(gid, &gids, most), maps })
}

/// Returns the ids that a namespace gets whose maker may take any: the customary range, or in a container with fewer ids of its
/// own, what it has besides 0.
fn free_ids(map: &str) -> Vec<(u32, u32)> {
    let map = idmap::parse_map(&std::fs::read_to_string(map).unwrap_or_default());
    let most = idmap::ids_after_root(&map);
    if most >= CUSTOMARY.saturating_add(MOST_IDS) {
        return vec![(CUSTOMARY, MOST_IDS)];
    }
    if most == 0 { Vec::new() } else { vec![(1, most)] }
}

/// Creates the namespace, executes kiln in it and waits for that to end. Returns only when that cannot be done.
fn depart(plan: &Plan, note: Option<&Error>, is_root: bool) -> Error {
    match try_depart(plan, note, is_root) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

fn try_depart(plan: &Plan, note: Option<&Error>, is_root: bool) -> Result<std::convert::Infallible, Error> {
    // A binary with file capabilities is not dumpable, and its children's /proc files then belong to root.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe");
    let (go_read, go_write) = pipe()?;
    let (status_read, status_write) = pipe()?;
    let signals = sys::Signals::watch().step("watch signals")?;
    let Some(child) = sys::clone(sys::NEW_USER | sys::NEW_MOUNT).map_err(explain_clone)? else {
        drop((go_write, status_read, signals));
        sys::in_child(|| become_builder(&go_read, &status_write, note, is_root))
    };
    drop((go_read, status_write));
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mapped = match plan.maps {
        Maps::Programs => idmap::write_with_programs(child, &plan.uids, &plan.gids),
        Maps::Directly => idmap::write(child, &plan.uids, &plan.gids),
        Maps::Single => idmap::write_single(child, uid, gid),
    };
    let failed = match mapped {
        Ok(()) => {
            // One byte says go; the pipe stays open as the child's lifeline.
            let _ = rustix::io::write(&go_write, b"!");
            crate::wire::receive(std::fs::File::from(status_read)).ok().flatten()
        }
        Err(error) => Some(error),
    };
    if let Some(error) = failed {
        let _ = rustix::process::kill_process(child, Signal::KILL);
        let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
        return Err(error);
    }
    // Ids were all that the capabilities were for.
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    let _ = rustix::thread::set_capabilities(None, none);
    hide();
    wait_and_exit(child, &signals)
}

/// In the new namespace: becomes its root and executes kiln again.
fn become_builder(
    go: &OwnedFd,
    status: &OwnedFd,
    note: Option<&Error>,
    is_root: bool,
) -> std::convert::Infallible {
    let error = match await_maps(go).and_then(|()| become_root()) {
        Ok(()) => execute_again(go, note, is_root),
        Err(error) => error,
    };
    let status = std::fs::File::from(rustix::io::dup(status).unwrap_or_else(|_| sys::exit_now(70)));
    let _ = crate::wire::send(status, &error);
    sys::exit_now(70)
}

fn await_maps(go: &OwnedFd) -> Result<(), Error> {
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(go, &mut byte)) {
        Ok(1) => Ok(()),
        _ => sys::exit_now(1),
    }
}

/// Takes id 0 for everything. Without it the file system id stays unmapped, and overlays fail with EACCES.
pub(crate) fn become_root() -> Result<(), Error> {
    use rustix::fs::{Gid, Uid};
    match rustix::thread::set_thread_groups(&[]) {
        // Given up together with the single-id map.
        Ok(()) | Err(Errno::PERM) => {}
        Err(errno) => return Err(errno).step("drop supplementary groups"),
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .step("become group 0 of the namespace")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step("become user 0 of the namespace")
}

/// Keeps the host's mounts coming in but lets none out.
pub(crate) fn make_mounts_private() -> Result<(), Error> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .step_at("make the mounts private below", "/")
        .map_err(explain_mount)
}

fn execute_again(lifeline: &OwnedFd, note: Option<&Error>, is_root: bool) -> Error {
    if let Err(error) = make_mounts_private() {
        return error;
    }
    // The lifeline must survive the exec.
    let _ = rustix::io::fcntl_setfd(lifeline, rustix::io::FdFlags::empty());
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| OsString::from("kiln"));
    let arrival = Arrival { lifeline: lifeline.as_raw_fd(), note: note.cloned(), is_root };
    let marker = match serde_json::to_string(&arrival) {
        Ok(marker) => marker,
        Err(error) => return Error::new("execute kiln again").cause(error.to_string()),
    };
    let failure = Command::new("/proc/self/exe").arg0(name).args(args).env(MARKER, marker).exec();
    Error::new("execute kiln again").path("/proc/self/exe").io(&failure)
}

/// Passes signals on and ends as the child ends.
fn wait_and_exit(child: Pid, signals: &sys::Signals) -> ! {
    loop {
        let event = signals.next().unwrap_or(sys::Event { signal: libc::SIGCHLD, by_process: false });
        if event.signal != libc::SIGCHLD {
            // ^C reaches the whole terminal group; sending it once more would count as a second one.
            if let (true, Some(signal)) = (event.by_process, Signal::from_named_raw(event.signal)) {
                let _ = rustix::process::kill_process(child, signal);
            }
            continue;
        }
        match rustix::process::waitpid(Some(child), WaitOptions::NOHANG) {
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => sys::exit_now(code),
                (None, Some(signal)) => sys::die_of(signal),
                (None, None) => {}
            },
            Ok(None) | Err(Errno::INTR) => {}
            Err(_) => sys::exit_now(1),
        }
    }
}
