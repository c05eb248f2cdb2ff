//! Collects everything that the sandbox's root is made of, while paths of the host can still be reached.
//!
//! The sandbox's user namespace can neither enter the user's closed home directory nor idmap a mount. So each layer,
//! the directory of upper and work, and each bind source becomes a mount of its own on a private tmpfs, and that
//! tmpfs becomes the working directory, from where pid 1 reaches them by short relative names:
//!
//! ```text
//! .            tmpfs, mounted over `work` in this mount namespace only
//! ├── 0 1 2 …  layers, topmost first, then the layers of OverlayDir mounts
//! ├── u        the directory that holds upper and work
//! ├── b0 b1 …  bind sources
//! └── e r t    an empty directory, the future root, memory for files
//! ```

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{CWD, FileType, Gid, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::supervise::{Plan, Supervision};
use super::{Job, die_with_parent, fail, init, wait_for};
use crate::answers::{Step, explain};
use crate::cgroup::Held;
use crate::error::{Context as _, Error, explain_clone};
use crate::idmap::{self, Extent};
use crate::isolation::{Ids, Isolation};
use crate::limits;
use crate::spec::{ExecSpec, MountKind};
use crate::sys::{self, MountAttributes};

/// The kernel's limit for one overlay.
const MOST_LAYERS: usize = 500;

/// What pid 1 needs to know of the stage; it inherits the memory.
#[derive(Debug)]
pub(super) struct Stage {
    /// How many layers the root has: names `0` up to here.
    pub(super) layers: usize,
    /// Upper directory of the root, relative to the stage.
    pub(super) upper: PathBuf,
    /// Directory for work directories, relative to the stage.
    pub(super) work: PathBuf,
    /// For each mount of the specification that is an overlay: its layers.
    pub(super) overlays: Vec<std::ops::Range<usize>>,
    /// What of the command is supervised.
    pub(super) plan: Plan,
}

pub(super) fn run(control: &UnixStream, job: Job, launcher: Pid) -> std::convert::Infallible {
    die_with_parent();
    if rustix::process::getppid() != Some(launcher) {
        sys::exit_now(1);
    }
    let (isolation, spec, probe) = match job {
        Job::Run { isolation, spec } => (isolation, spec, false),
        Job::Probe { isolation, spec } => (isolation, spec, true),
    };
    let started = prepare(&isolation, &spec).and_then(|stage| {
        // While this process still has the rights of kiln.
        limits::raise_limits(&spec.limits)?;
        let held = spec.cgroup.as_ref().map(Held::make).transpose()?;
        match start_init(control, &isolation, &spec, &stage, held.as_ref(), probe) {
            Ok((init, supervisor)) => Ok((init, supervisor, stage, held)),
            Err(error) => {
                held.into_iter().for_each(Held::remove);
                Err(error)
            }
        }
    });
    match started {
        Ok((init, supervisor, stage, held)) => {
            let watched = watch(control, init, &isolation, &spec, &stage, supervisor);
            if let Some(held) = held {
                // The supervisor works on files with the ids of the sandbox's root, which owns no group.
                let _ = sys::inspect::create_files_as(0, 0);
                held.remove();
            }
            match watched {
                Ok(()) => sys::exit_now(0),
                Err(error) => fail(control, error),
            }
        }
        Err(error) => fail(control, error),
    }
}

/// Builds the stage and makes it the working directory.
fn prepare(isolation: &Isolation, spec: &ExecSpec) -> Result<Stage, Error> {
    crate::build_namespace::make_mounts_private()?;
    if spec.lower.len() > MOST_LAYERS {
        return Err(Error::new("stack the layers")
            .cause(format!(
                "{} layers are more than the {MOST_LAYERS} that the kernel takes",
                spec.lower.len()
            ))
            .hint("join RUN instructions, or copy the result of a stage into another"));
    }
    let plan = Plan::new(isolation, spec)?;
    let mapping = match isolation.ids {
        Ids::Idmapped { base, count } => Some(mapping_namespace(base, count)?),
        _ => None,
    };
    let sources = Sources { mapping };
    let mut mounts: Vec<(String, OwnedFd)> = Vec::new();
    for lower in &spec.lower {
        mounts.push((mounts.len().to_string(), sources.open(lower, false)?));
    }
    let layers = mounts.len();
    let mut overlays = Vec::new();
    for mount in &spec.mounts {
        if let MountKind::OverlayDir { lower, .. } = &mount.kind {
            let first = mounts.len();
            for lower in lower {
                mounts.push((mounts.len().to_string(), sources.open(lower, false)?));
            }
            overlays.push(first..mounts.len());
        }
    }
    let (base, upper, work) = writable_part(isolation, spec)?;
    prepare_work(isolation, spec)?;
    mounts.push(("u".to_owned(), sources.open(&base, false)?));
    let mut binds = 0;
    for mount in &spec.mounts {
        if let MountKind::Bind { source, recursive, .. } = &mount.kind {
            mounts.push((format!("b{binds}"), sources.open(source, *recursive)?));
            binds += 1;
        }
    }
    lay_out(&spec.work, &mounts)?;
    give_output(isolation, spec);
    Ok(Stage { layers, upper: Path::new("u").join(upper), work: Path::new("u").join(work), overlays, plan })
}

/// Opens paths of the host as mounts of their own.
struct Sources {
    mapping: Option<OwnedFd>,
}

impl Sources {
    fn open(&self, path: &Path, recursive: bool) -> Result<OwnedFd, Error> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        if recursive {
            flags |= OpenTreeFlags::AT_RECURSIVE;
        }
        let tree = open_tree(CWD, path, flags).step_at("open for the sandbox", path).map_err(|error| {
            if error.errno == Some(libc::EINVAL) && !recursive {
                return error
                    .cause("something is mounted below it that must stay in place")
                    .hint("bind it recursively");
            }
            error
        })?;
        if let Some(mapping) = &self.mapping {
            let attributes = MountAttributes::idmap(mapping.as_fd());
            sys::mount_setattr(&tree, recursive, attributes)
                .step_at("shift the owners of", path)
                .map_err(|error| explain(Step::IdMap, error))?;
        }
        Ok(tree)
    }
}

/// Makes a user namespace only to name an id map by it.
fn mapping_namespace(base: u32, count: u32) -> Result<OwnedFd, Error> {
    let (hold_read, hold_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe")?;
    let Some(child) = sys::clone(sys::NEW_USER).map_err(explain_clone)? else {
        drop(hold_write);
        let _ = rustix::io::read(&hold_read, &mut [0; 1]);
        sys::exit_now(0)
    };
    let map = [Extent { inside: 0, outside: base, count }];
    let path = format!("/proc/{}/ns/user", child.as_raw_nonzero());
    let namespace = idmap::write(child, &map, &map)
        .and_then(|()| std::fs::File::open(&path).step_at("open the user namespace", &path));
    drop(hold_write);
    wait_for(child);
    Ok(namespace?.into())
}

/// Returns the directory that holds both upper and work, and the ways from there.
fn writable_part(isolation: &Isolation, spec: &ExecSpec) -> Result<(PathBuf, PathBuf, PathBuf), Error> {
    let real = |path: &Path| std::fs::canonicalize(path).step_at("find the writable layer", path);
    let (upper, work) = (real(&spec.upper)?, real(&spec.work)?);
    let base: PathBuf = upper
        .components()
        .zip(work.components())
        .take_while(|(upper, work)| upper == work)
        .map(|(part, _)| part)
        .collect();
    let way = |path: &Path| path.strip_prefix(&base).map(Path::to_owned).unwrap_or_default();
    let (upper_way, work_way) = (way(&upper), way(&work));
    if upper_way.as_os_str().is_empty() || work_way.as_os_str().is_empty() {
        return Err(Error::new("use as writable layer")
            .path(&spec.upper)
            .cause("upper and work lie in each other"));
    }
    if !matches!(isolation.ids, Ids::Idmapped { .. }) {
        for path in [&upper, &work] {
            let between = path.ancestors().skip(1).take_while(|dir| dir.starts_with(&base));
            for dir in between {
                let_through(dir)?;
            }
        }
        for path in [&upper, &work] {
            give_to_root(isolation, path)?;
        }
    }
    Ok((base, upper_way, work_way))
}

/// Lets the sandbox's user pass through a directory of the store; it is another one than kiln's and owns nothing there.
fn let_through(dir: &Path) -> Result<(), Error> {
    let mode = std::fs::metadata(dir).step_at("look at", dir)?.mode();
    if mode & 0o001 == 0 {
        let open = std::fs::Permissions::from_mode(mode & 0o7777 | 0o011);
        std::fs::set_permissions(dir, open).step_at("let the sandbox pass through", dir)?;
    }
    Ok(())
}

/// Gives a directory that kiln made, and whose owner does not exist in the container, to the container's root.
fn give_to_root(isolation: &Isolation, dir: &Path) -> Result<(), Error> {
    let owner = std::fs::metadata(dir).step_at("look at", dir)?.uid();
    let root = isolation.disk_id(0);
    if owner == 0 && root != 0 {
        std::os::unix::fs::chown(dir, Some(root), Some(root)).step_at("give to the sandbox's root", dir)?;
    }
    Ok(())
}

/// Makes the work directories: `w` for the root, `N/{u,w}` for each overlay on top.
fn prepare_work(isolation: &Isolation, spec: &ExecSpec) -> Result<(), Error> {
    let make = |path: &Path| {
        // A leftover is of a run that was killed; the kernel refuses it after a volatile mount.
        crate::remove::remove_tree(path).step_at("clear the work directory", path)?;
        std::fs::create_dir(path).step_at("create the work directory", path)?;
        give_to_root(isolation, path)
    };
    make(&spec.work.join("w"))?;
    let overlays = spec.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::OverlayDir { lower, .. } => Some(lower),
        _ => None,
    });
    for (index, lower) in overlays.enumerate() {
        let dir = spec.work.join(index.to_string());
        make(&dir)?;
        make(&dir.join("w"))?;
        let upper = dir.join("u");
        make(&upper)?;
        // The merged directory looks as its upper one does.
        if let Some(top) = lower.first() {
            let look = std::fs::metadata(top).step_at("look at", top)?;
            if look.uid() != 0 || isolation.disk_id(0) == 0 {
                std::os::unix::fs::chown(&upper, Some(look.uid()), Some(look.gid()))
                    .step_at("change the owner of", &upper)?;
            }
            std::fs::set_permissions(&upper, look.permissions()).step_at("change the mode of", &upper)?;
        }
    }
    Ok(())
}

/// Lets the command open `/dev/stdout` and `/dev/stderr`, which are kiln's pipes and belong to a user that it does not have.
fn give_output(isolation: &Isolation, spec: &ExecSpec) {
    let outside = |id: u32| match isolation.ids {
        Ids::Idmapped { base, .. } => base.saturating_add(id),
        _ => isolation.disk_id(id),
    };
    let (uid, gid) = (Uid::from_raw(outside(spec.user.uid)), Gid::from_raw(outside(spec.user.gid)));
    for stream in [std::io::stdout().as_fd(), std::io::stderr().as_fd()] {
        let kind = rustix::fs::fstat(stream).map(|stat| FileType::from_raw_mode(stat.st_mode));
        if kind == Ok(FileType::Fifo) {
            // Most commands write to the open stream, so failure is theirs to notice.
            let _ = rustix::fs::fchown(stream, Some(uid), Some(gid));
        }
    }
}

/// Mounts the stage and everything on it.
fn lay_out(over: &Path, mounts: &[(String, OwnedFd)]) -> Result<(), Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", over, "tmpfs", flags, c"mode=0755,size=1m")
        .step_at("mount the stage over", over)
        .map_err(crate::error::explain_mount)?;
    rustix::process::chdir(over).step_at("enter", over)?;
    for name in ["e", "r", "t"] {
        std::fs::create_dir(name).step_at("create on the stage", name)?;
    }
    for (name, tree) in mounts {
        let kind = rustix::fs::fstat(tree).step_at("look at the source of", name)?.st_mode;
        if FileType::from_raw_mode(kind) == FileType::Directory {
            std::fs::create_dir(name).step_at("create on the stage", name)?;
        } else {
            std::fs::write(name, "").step_at("create on the stage", name)?;
        }
        attach(tree.as_fd(), name)?;
    }
    Ok(())
}

fn attach(tree: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    move_mount(tree, c"", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step_at("attach to the stage", name)
}

/// Creates pid 1 in its namespaces and gives it its ids; returns the socket on which the command passes its listener.
fn start_init(
    control: &UnixStream,
    isolation: &Isolation,
    spec: &ExecSpec,
    stage: &Stage,
    held: Option<&Held>,
    probe: bool,
) -> Result<(Pid, UnixStream), Error> {
    let (ours, theirs) = UnixStream::pair().step("create a socket")?;
    let (go_read, go_write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).step("create a pipe")?;
    let network = if spec.network.is_own() { sys::NEW_NETWORK } else { 0 };
    let Some(init) = sys::clone(sys::NEW_SANDBOX | network).map_err(explain_clone)? else {
        drop((go_write, ours));
        sys::in_child(|| init::run(control, go_read, isolation, spec, stage, probe, theirs))
    };
    let extent = match isolation.ids {
        Ids::Idmapped { base, count } => Extent { inside: 0, outside: base, count },
        Ids::Nested { count } => Extent { inside: 0, outside: 1, count },
        Ids::Single | Ids::Owner(_) | Ids::Natural => Extent { inside: 0, outside: 0, count: 1 },
    };
    let admitted = held.map_or(Ok(()), |held| held.admit(init));
    if let Err(error) = admitted.and_then(|()| idmap::write(init, &[extent], &[extent])) {
        let _ = rustix::process::kill_process(init, Signal::KILL);
        wait_for(init);
        return Err(error);
    }
    let _ = rustix::io::write(&go_write, b"!");
    // Kept open to the end: its hang-up tells pid 1 of this process's death before PDEATHSIG is armed.
    std::mem::forget(go_write);
    Ok((init, ours))
}

/// Waits for pid 1, answers the command's system calls meanwhile, and kills everything when kiln hangs up.
fn watch(
    control: &UnixStream,
    init: Pid,
    isolation: &Isolation,
    spec: &ExecSpec,
    stage: &Stage,
    supervisor: UnixStream,
) -> Result<(), Error> {
    let plan = stage.plan.clone();
    let mut supervision = Supervision::Awaited(plan, supervisor);
    let outcome = watch_until_end(control, init, isolation, spec, &mut supervision);
    wait_for(init);
    outcome.and_then(|()| supervision.finish(stage))
}

fn watch_until_end(
    control: &UnixStream,
    init: Pid,
    isolation: &Isolation,
    spec: &ExecSpec,
    supervision: &mut Supervision,
) -> Result<(), Error> {
    let Ok(pidfd) = rustix::process::pidfd_open(init, PidfdFlags::empty()) else { return Ok(()) };
    let kill = || {
        let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
    };
    loop {
        let source = supervision.source();
        let calls = source.unwrap_or(pidfd.as_fd());
        let mut fds = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(control, PollFlags::RDHUP),
            PollFd::from_borrowed_fd(calls, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(_) => return Ok(()),
            Ok(_) => {}
        }
        let [ended, hung_up, called] = [0, 1, 2].map(|at| fds[at].revents());
        if !ended.is_empty() {
            return Ok(());
        }
        if !hung_up.is_empty() {
            kill();
            return Ok(());
        }
        if called.contains(PollFlags::IN) {
            supervision.advance(isolation, spec).inspect_err(|_| kill())?;
        } else if !called.is_empty() {
            supervision.hang_up();
        }
    }
}
