//! Where the supervisor of system calls meets the sandbox: the listener is made by the command and served by the stager.
//!
//! The stager is the right place: it is root of the namespace around the sandbox's own, so it may look into its processes; it
//! has the surrounding /proc, so that the process ids of notifications mean something whatever /proc the command sees; and it
//! does nothing else.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::die_with_parent;
use super::stage::Stage;
use crate::answers::{Step, explain};
use crate::emulate::records::{self, LayerOwners, OwnedMount, Owner};
use crate::emulate::{self, Level, Supervisor, Window};
use crate::error::{Context as _, Error};
use crate::isolation::{Ids, Isolation};
use crate::spec::{ExecSpec, MountKind};
use crate::sys::notify;

/// What of the sandbox is supervised.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) level: Level,
    /// Whether the command can go on without, as where another supervisor was quicker.
    pub(super) needed: bool,
    /// Layers, topmost first, as the stage has them, and the owners that are written beside them.
    layers: Vec<LayerOwners>,
    /// The upper directory, from wherever the stager will be.
    upper: PathBuf,
    /// Files in memory whose owner has no id.
    files: Vec<OwnedMount>,
}

impl Plan {
    /// Finds out what the step needs.
    pub(super) fn new(isolation: &Isolation, spec: &ExecSpec) -> Result<Self, Error> {
        let mut recorded = false;
        let mut read = |lower: &Path| {
            let path = records::beside(lower);
            match std::fs::read(&path) {
                Ok(bytes) => {
                    recorded = true;
                    Ok(records::parse_owners(&bytes))
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error).step_at("read the owners of a layer in", &path),
            }
        };
        let mut layers = Vec::new();
        for (index, lower) in spec.lower.iter().enumerate() {
            layers.push(LayerOwners { dir: PathBuf::from(index.to_string()), owners: read(lower)? });
        }
        for mount in &spec.mounts {
            if let MountKind::OverlayDir { lower, .. } = &mount.kind {
                for lower in lower {
                    read(lower)?;
                }
            }
        }
        let files = spec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::File { uid, gid, .. } => Some(OwnedMount {
                target: mount.target.as_os_str().as_bytes().to_vec(),
                owner: Owner { uid: *uid, gid: *gid },
            }),
            _ => None,
        });
        let window = Window::of(isolation.ids);
        let files: Vec<_> = files.filter(|file| window.outside(file.owner).is_none()).collect();
        let recorded_bind = spec.mounts.iter().any(|mount| match &mount.kind {
            MountKind::Bind { source, .. } => emulate::is_recorded(source),
            _ => false,
        });
        let recorded = recorded || recorded_bind || !files.is_empty();
        let level = Level::of(isolation, &spec.user, recorded);
        let needed = isolation.ids == Ids::Single || level == Level::Full;
        let upper = std::fs::canonicalize(&spec.upper).step_at("find the writable layer", &spec.upper)?;
        Ok(Self { level, needed, layers, upper, files })
    }
}

/// In the command: installs the filter and passes its listener on. Calls that are asked about wait from here on.
pub(super) fn offer(plan: &Plan, to: &UnixStream) -> Result<(), Error> {
    match notify::listen(&emulate::program(plan.level)) {
        Ok(listener) => notify::send_fd(to, &listener).step(STEP),
        Err(_) if !plan.needed => Ok(()),
        Err(errno) => Err(refused(errno)),
    }
}

const STEP: &str = "have the command's system calls supervised";

/// Explains why there is no supervisor.
fn refused(errno: Errno) -> Error {
    let error = Error::new(STEP).errno(errno);
    match errno {
        Errno::INVAL | Errno::NOSYS => {
            error.cause("this kernel is older than 5.0, or built without seccomp").hint("update the kernel")
        }
        _ => explain(Step::Supervise, error),
    }
}

/// In the self-test: finds out whether a supervisor can be had, and says what a command lacks that can go on without.
pub(super) fn try_out(plan: &Plan) -> Result<Option<String>, Error> {
    use crate::bpf::{ALLOW, RETURN, statement};
    match notify::listen(&[statement(RETURN, ALLOW)]) {
        Ok(_) => Ok(None),
        Err(_) if !plan.needed => {
            Ok(Some("mknod of devices, and owners beyond its ids (another supervisor is there)".to_owned()))
        }
        Err(errno) => Err(refused(errno)),
    }
}

/// The stager's side.
#[derive(Debug)]
pub(super) enum Supervision {
    /// The command has not come so far.
    Awaited(Plan, UnixStream),
    /// Calls are answered.
    Serving(Box<Supervisor>),
    /// No process is left that could call; what is known is not written down yet.
    Silent(Box<Supervisor>),
    /// There is nothing to do, or nothing left.
    Over,
}

impl Supervision {
    /// Returns what to poll for reading.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Awaited(_, socket) => Some(socket.as_fd()),
            Self::Serving(supervisor) => Some(supervisor.listener()),
            Self::Silent(_) | Self::Over => None,
        }
    }

    /// Does what is to be done when the source is ready.
    pub(super) fn advance(&mut self, isolation: &Isolation, spec: &ExecSpec) -> Result<(), Error> {
        match self {
            Self::Serving(supervisor) => supervisor.serve().step("answer a system call of the command"),
            Self::Silent(_) | Self::Over => Ok(()),
            Self::Awaited(plan, socket) => {
                let listener = notify::receive_fd(socket).step("receive the command's system calls")?;
                *self = match listener {
                    None => Self::Over,
                    Some(listener) => Self::Serving(Box::new(start(plan, listener, isolation, spec)?)),
                };
                Ok(())
            }
        }
    }

    /// Stops listening, because the other side has gone.
    pub(super) fn hang_up(&mut self) {
        *self = match std::mem::replace(self, Self::Over) {
            Self::Serving(supervisor) => Self::Silent(supervisor),
            other => other,
        };
        if matches!(self, Self::Awaited(..)) {
            *self = Self::Over;
        }
    }

    /// Writes down what only the supervisor knows, once the sandbox is gone.
    pub(super) fn finish(&self, stage: &Stage) -> Result<(), Error> {
        match self {
            Self::Serving(supervisor) | Self::Silent(supervisor) => {
                supervisor.finish(&stage.upper, &stage.plan.upper)
            }
            _ => Ok(()),
        }
    }
}

fn start(
    plan: &Plan,
    listener: OwnedFd,
    isolation: &Isolation,
    spec: &ExecSpec,
) -> Result<Supervisor, Error> {
    let window = Window::of(isolation.ids);
    let supervisor =
        Supervisor::new(listener, plan.level, window, spec, plan.layers.clone(), plan.files.clone())?;
    // The kernel forgets it when the ids change that files are created with.
    die_with_parent();
    Ok(supervisor)
}
