//! Whether this rung works here, by trying it, and what it lacks.

use std::path::Path;

use rustix::thread::CapabilitySet;

use crate::error::{Context as _, Error};
use crate::helper::{self, Job, Report};
use crate::isolation::{Ids, Isolation, Mode, ProcMount, Wish, holds};
use crate::remove::remove_tree;
use crate::running::Stdio;
use crate::spec::ExecSpec;
use crate::{landlock, wire};

const STEP: &str = "isolate commands by another root directory";

/// What a package manager does inside of a root directory, and what entering one takes.
const NEEDED: CapabilitySet = CapabilitySet::SYS_CHROOT
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL);

/// What a real attempt found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChrootFacts {
    /// Version of Landlock; 0 when the kernel has none.
    pub landlock: u32,
    /// Whether calls that look into `/proc` can be answered.
    pub answers: bool,
}

/// Returns what this rung gives, untried.
pub(crate) fn expected() -> Result<Isolation, Error> {
    capable()?;
    let (mode, ids, proc) = (Mode::Chroot, Ids::Natural, ProcMount::Answered);
    Ok(Isolation { mode, ids, proc, lacking: lacking(&ALL), unavailable: None, better: None })
}

/// What is expected before anything was tried.
const ALL: ChrootFacts = ChrootFacts { landlock: u32::MAX, answers: true };

fn capable() -> Result<(), Error> {
    if holds(NEEDED) {
        return Ok(());
    }
    Err(Error::new(STEP).cause("root lacks capabilities here that a default container has").hint(
        "leave CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETPCAP, SETUID and SYS_CHROOT to the container",
    ))
}

/// Tries it, in a directory of its own below `store`, and refuses walls with a gap unless the wish allows them.
pub(crate) fn prove(candidate: &Isolation, wish: Wish, store: &Path) -> Result<Isolation, Error> {
    let facts = probe(store)?;
    if facts.landlock == 0 && !wish.allow_weak {
        return Err(Error::new(STEP)
            .cause(
                "the kernel has no Landlock, or a filter around kiln forbids it, \
                 and without it a command can get at kiln and its credentials",
            )
            .hint(
                "use Linux 5.13 or later with Landlock switched on (lsm=landlock,...) and a seccomp profile that allows it, as those of \
                 today's Docker and containerd do, or accept it with --allow-weak-isolation",
            ));
    }
    let proc = if facts.answers { ProcMount::Answered } else { ProcMount::Absent };
    Ok(Isolation { lacking: lacking(&facts), proc, ..candidate.clone() })
}

/// Tries to enter a root directory below `store_dir` and to put Landlock around it.
///
/// # Errors
/// When this process is not root, lacks a capability that a default container has, or the kernel refuses a step.
pub fn probe(store_dir: &Path) -> Result<ChrootFacts, Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new(STEP).cause("that needs root, and kiln runs as an ordinary user"));
    }
    capable()?;
    let version = landlock::version()?;
    let dir = store_dir.join(format!(".probe-{}", std::process::id()));
    let outcome = make(&dir).and_then(|()| try_out(&dir));
    let _ = remove_tree(&dir);
    outcome.map(|proc| ChrootFacts { landlock: version, answers: proc == ProcMount::Answered })
}

fn make(dir: &Path) -> Result<(), Error> {
    for part in ["root", "work"] {
        std::fs::create_dir_all(dir.join(part)).step_at("create a directory for the self-test", dir)?;
    }
    Ok(())
}

fn try_out(dir: &Path) -> Result<ProcMount, Error> {
    let isolation = expected()?;
    let spec = ExecSpec { upper: dir.join("root"), work: dir.join("work"), ..ExecSpec::default() };
    let null = || std::fs::File::options().write(true).open("/dev/null").step_at("open", "/dev/null");
    let stdio = Stdio { stdout: null()?.into(), stderr: null()?.into() };
    let (mut helper, control) = helper::start(&Job::Probe { isolation, spec: Box::new(spec) }, stdio)?;
    let report = wire::receive(&control).step("read the self-test's report")?;
    helper.wait().step("wait for the self-test")?;
    match report {
        Some(Report::Ready { proc, .. }) => Ok(proc),
        Some(Report::Failed(error)) => Err(error),
        Some(Report::Exited(_)) | None => {
            Err(Error::new("try out another root directory").cause("its helper process died without a word"))
        }
    }
}

/// Tells what commands miss on this rung.
fn lacking(facts: &ChrootFacts) -> Vec<String> {
    let mut lacking = vec![
        "process ids and System V IPC of its own",
        if facts.answers {
            "directories of /proc, and /sys"
        } else {
            "/proc, /sys and a host name of its own"
        },
        "terminals",
        "mknod of devices",
        "raw sockets",
        "setuid and setgid programs (`sudo` as another user does nothing)",
        "memory for secrets, which are files while a command runs",
    ];
    match facts.landlock {
        0 => lacking.push("Landlock: a command can get at kiln and the files around it"),
        1..landlock::SCOPES => {
            lacking.push("a wall for signals and abstract sockets (Linux 6.12): a command can end kiln");
        }
        _ => {}
    }
    lacking.into_iter().map(str::to_owned).collect()
}
