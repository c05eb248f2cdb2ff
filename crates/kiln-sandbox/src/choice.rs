//! Which rung of the ladder a build gets: what was asked for, what this machine can give, proved by a sandbox of three milliseconds.
//!
//! [`expected`] says what will be tried, from the ids that this process has; [`choose`] tries it. Nothing is ever weaker than
//! the [`Wish`] allows, and what stands before a stronger rung is part of the answer.

use std::path::Path;

use crate::build_namespace::{BuildNamespace, IdMap};
use crate::error::{Context as _, Error};
use crate::helper::{self, Job, Report};
use crate::isolation::{Better, Ids, Isolation, Mode, ProcMount, Requested, Wish};
use crate::remove::remove_tree;
use crate::running::Stdio;
use crate::spec::{ExecSpec, Network};
use crate::{landlock, wire};

/// First host id of a command's ids under real root; above every range that distributions hand out to users.
const IDMAP_BASE: u32 = 0x2000_0000;
/// Enough for images whose ids come from a cluster (OpenShift uses 1,000,000,000 and more).
const IDMAP_COUNT: u32 = 0x4000_0000;

/// Chooses the isolation of a build and proves it with a real sandbox in `store_dir`.
///
/// With [`Requested::Auto`] an impossible sandbox is no error: the mode is then [`Mode::None`] with the reason, so that
/// builds without RUN go on; see [`Isolation::ensure_runnable`]. A pinned mode that fails is an error, and so is one that
/// is weaker than the wish allows.
pub fn choose(wish: Wish, namespace: &BuildNamespace, store_dir: &Path) -> Result<Isolation, Error> {
    let expected = expected(wish, namespace)?;
    if expected.mode == Mode::None {
        return Ok(expected);
    }
    let mut chosen = match (prove(&expected, wish, store_dir), wish.requested) {
        (Err(reason), Requested::Auto) => second_best(&reason, wish, namespace, store_dir),
        (proven, _) => proven?,
    };
    if chosen.mode > Mode::None {
        strong_enough(&chosen, wish)?;
        chosen.better = chosen.better.or_else(|| better(chosen.mode, namespace));
    }
    Ok(chosen)
}

/// Returns what [`choose`] tries, untried: how owners are kept on disk is known by it, and whether a command can be run is
/// not.
///
/// # Errors
/// When what was asked for cannot be had with the ids of this process.
pub fn expected(wish: Wish, namespace: &BuildNamespace) -> Result<Isolation, Error> {
    match wish.requested {
        Requested::None => Ok(Isolation::none(namespace, None)),
        Requested::Userns => candidate(namespace, Mode::Userns),
        Requested::UsernsSingle => candidate(namespace, Mode::UsernsSingle),
        Requested::Chroot => candidate(namespace, Mode::Chroot),
        Requested::Auto => {
            let mode = match namespace.ids {
                IdMap::Host | IdMap::Range { .. } => Mode::Userns,
                IdMap::Single => Mode::UsernsSingle,
                IdMap::None { .. } => Mode::Chroot,
            };
            candidate(namespace, mode).or_else(|reason| Ok(Isolation::none(namespace, Some(reason))))
        }
    }
}

/// Tries every rung of the ladder, the strongest first, and returns what each gives or why it does not: for people who set up a
/// machine.
pub fn probe(namespace: &BuildNamespace, store_dir: &Path) -> Vec<(Mode, Result<Isolation, Error>)> {
    [
        (Mode::Userns, Requested::Userns),
        (Mode::UsernsSingle, Requested::UsernsSingle),
        (Mode::Chroot, Requested::Chroot),
    ]
    .into_iter()
    .map(|(mode, requested)| (mode, choose(Wish::of(requested), namespace, store_dir)))
    .collect()
}

/// Looks for another rung that keeps owners as the one that failed: keys and snapshots depend on that by now.
fn second_best(reason: &Error, wish: Wish, namespace: &BuildNamespace, store_dir: &Path) -> Isolation {
    let none = || Isolation::none(namespace, Some(reason.clone()));
    // Root who may mount has a machine to lose: on these few walls only at his word.
    if namespace.ids != IdMap::Host || !wish.allow_weak {
        return none();
    }
    let chroot = candidate(namespace, Mode::Chroot).and_then(|chroot| prove(&chroot, wish, store_dir));
    match chroot {
        Ok(mut isolation) => {
            isolation.better = Some(Box::new(Better { mode: Mode::Userns, reason: reason.clone() }));
            isolation
        }
        Err(_) => none(),
    }
}

/// Refuses what is weaker than the policy of the user.
fn strong_enough(chosen: &Isolation, wish: Wish) -> Result<(), Error> {
    if chosen.mode >= wish.at_least {
        return Ok(());
    }
    let error = Error::new("isolate commands as strongly as required").cause(format!(
        "isolation `{}` is required, and `{}` is what this machine gives",
        wish.at_least, chosen.mode
    ));
    Err(match chosen.better.as_ref().and_then(|better| better.reason.hint.as_ref()) {
        Some(hint) => error.hint(hint.clone()),
        None => error.hint("`kiln doctor` tells what each isolation needs"),
    })
}

/// Tells what keeps the next stronger rung away.
fn better(chosen: Mode, namespace: &BuildNamespace) -> Option<Box<Better>> {
    let reason = match (&namespace.ids, &namespace.note) {
        (IdMap::None { reason }, _) | (_, Some(reason)) => reason.clone(),
        _ => return None,
    };
    // What is in the way of more ids is in the way of `userns`, wherever the build stands below it.
    (chosen < Mode::Userns).then(|| Box::new(Better { mode: Mode::Userns, reason }))
}

fn candidate(namespace: &BuildNamespace, mode: Mode) -> Result<Isolation, Error> {
    let refuse = |cause: &str, hint: &str| {
        Err(Error::new("isolate commands as asked for").cause(cause.to_owned()).hint(hint.to_owned()))
    };
    let ids = match (mode, &namespace.ids) {
        (Mode::None, _) => return Ok(Isolation::none(namespace, None)),
        (Mode::Chroot, _) => return chroot_candidate(namespace),
        (_, IdMap::None { reason }) => return Err(reason.clone()),
        (Mode::Userns, IdMap::Host) => Ids::Idmapped { base: IDMAP_BASE, count: IDMAP_COUNT },
        (Mode::Userns, IdMap::Range { count }) => Ids::Nested { count: *count },
        (Mode::Userns, IdMap::Single) => return Err(namespace.note.clone().unwrap_or_else(one_id)),
        (Mode::UsernsSingle, IdMap::Host) => {
            return refuse(
                "the one id would be the host's root",
                "use `userns`, or start kiln as an ordinary user",
            );
        }
        (Mode::UsernsSingle, IdMap::Range { .. } | IdMap::Single) => Ids::Single,
    };
    let mut lacking = Vec::new();
    if ids == Ids::Single {
        lacking.push("permission checks between the users of an image".to_owned());
    }
    Ok(Isolation { mode, ids, proc: ProcMount::Fresh, lacking, unavailable: None, better: None })
}

fn one_id() -> Error {
    Error::new("use many user ids")
        .cause("only one is available here")
        .hint("install newuidmap (package uidmap) and give this user a range in /etc/subuid and /etc/subgid")
}

/// Root that may change its root directory and give files away needs nothing else for this rung.
fn chroot_candidate(namespace: &BuildNamespace) -> Result<Isolation, Error> {
    let step = "isolate commands by another root directory";
    if !rustix::process::geteuid().is_root() {
        let error = Error::new(step).cause("that needs root, and kiln runs as an ordinary user");
        return Err(match &namespace.ids {
            IdMap::None { reason } => {
                let error = Error::new(&reason.step).cause(reason.because());
                reason.hint.iter().fold(error, |error, hint| error.hint(hint.clone()))
            }
            _ => error,
        });
    }
    if matches!(namespace.ids, IdMap::Range { .. } | IdMap::Single) {
        return Err(Error::new(step)
            .cause("kiln is in a user namespace, where that would be weaker than `userns`")
            .hint("leave --isolation at auto"));
    }
    crate::chroot::expected()
}

/// Runs the set-up of a sandbox without a command and records what it found.
fn prove(candidate: &Isolation, wish: Wish, store_dir: &Path) -> Result<Isolation, Error> {
    if candidate.mode == Mode::Chroot {
        return crate::chroot::prove(candidate, wish, store_dir);
    }
    let mut isolation = candidate.clone();
    let (proc, lacking) = in_a_probe(store_dir, |spec| try_out(candidate, spec))?;
    isolation.proc = proc;
    isolation.lacking.extend(lacking);
    if rustix::thread::no_new_privs().unwrap_or(false) {
        isolation.lacking.push("setuid programs (no_new_privs is set around kiln)".to_owned());
    }
    if !landlock::has_scopes() {
        isolation
            .lacking
            .push("a wall before abstract sockets of the machine (Landlock of Linux 6.12)".to_owned());
    }
    if isolation.proc == ProcMount::Rbind {
        isolation.lacking.push("a /proc of its own (the surrounding one is masked)".to_owned());
    }
    Ok(isolation)
}

/// Tries whether commands of this isolation can be given a network other than that of kiln, in a sandbox without a command.
///
/// # Errors
/// When there can be no network namespace, with the reason.
pub fn prove_network(isolation: &Isolation, store_dir: &Path, network: Network) -> Result<(), Error> {
    match (isolation.mode, network) {
        (_, Network::Host) | (Mode::Chroot, Network::None) => Ok(()),
        (Mode::Userns | Mode::UsernsSingle, _) => in_a_probe(store_dir, |mut spec| {
            spec.network = network;
            try_out(isolation, spec)
        })
        .map(drop),
        (Mode::Chroot | Mode::None, _) => Err(Error::new("keep the command off the network")
            .cause(format!(
                "isolation `{}` has no network namespace, so that a command could go round a proxy",
                isolation.mode
            ))
            .hint("use `--network=none` or `default`, or run kiln where `--isolation userns` works")),
    }
}

/// Calls `try_out` with the specification of a sandbox in a directory of its own.
pub(crate) fn in_a_probe<T>(
    store_dir: &Path,
    try_out: impl FnOnce(ExecSpec) -> Result<T, Error>,
) -> Result<T, Error> {
    let dir = store_dir.join(format!(".probe-{}", std::process::id()));
    let spec = ExecSpec {
        lower: vec![dir.join("lower")],
        upper: dir.join("upper"),
        work: dir.join("work"),
        ..ExecSpec::default()
    };
    let outcome = make_probe_dir(&dir).and_then(|()| try_out(spec));
    // A leftover of four empty directories is no reason to fail a build.
    let _ = remove_tree(&dir);
    outcome
}

fn make_probe_dir(dir: &Path) -> Result<(), Error> {
    for part in ["lower", "upper", "work"] {
        std::fs::create_dir_all(dir.join(part)).step_at("create a directory for the self-test", dir)?;
    }
    Ok(())
}

/// Sets a sandbox up and takes it down.
pub(crate) fn try_out(isolation: &Isolation, spec: ExecSpec) -> Result<(ProcMount, Vec<String>), Error> {
    let null = || std::fs::File::options().write(true).open("/dev/null").step_at("open", "/dev/null");
    let stdio = Stdio { stdout: null()?.into(), stderr: null()?.into() };
    let job = Job::Probe { isolation: isolation.clone(), spec: Box::new(spec) };
    let (mut launcher, control) = helper::start(&job, stdio)?;
    let report = wire::receive(&control).step("read the self-test's report")?;
    drop(control);
    launcher.wait().step("wait for the self-test")?;
    match report {
        Some(Report::Ready { proc, lacking, .. }) => Ok((proc, lacking)),
        Some(Report::Failed(error)) => Err(error),
        Some(Report::Exited(_)) | None => {
            Err(Error::new("try out a sandbox").cause("its helper process died without a word"))
        }
    }
}
