//! What to run and what it shall see: plain data, decided by the engine, carried to the helper over a socket.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::CgroupPlan;
use crate::foreign::Emulator;
use crate::limits::Limit;
use crate::wire;

/// One command over a stack of unpacked layers.
///
/// `upper` and `work` lie in the same directory of the store (or share a near ancestor): the kernel wants both
/// behind one mount. `upper` survives and is the layer's difference; `work` is private to this run, must be empty,
/// and may be deleted with [`crate::remove_tree`] afterwards.
#[derive(Clone, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Unpacked layers, topmost first, as paths of the host; empty means an empty root.
    #[serde(with = "wire::paths")]
    pub lower: Vec<PathBuf>,
    /// Receives everything that the command changes.
    #[serde(with = "wire::path")]
    pub upper: PathBuf,
    /// Scratch space of the overlay on the same file system as `upper`.
    #[serde(with = "wire::path")]
    pub work: PathBuf,
    /// The command; `args[0]` is looked up in the `PATH` of `env`, inside the root.
    #[serde(with = "wire::strings")]
    pub args: Vec<OsString>,
    /// The whole environment.
    #[serde(with = "wire::pairs")]
    pub env: Vec<(OsString, OsString)>,
    /// Working directory inside the root; created when it is missing.
    #[serde(with = "wire::path")]
    pub cwd: PathBuf,
    /// Who runs the command.
    pub user: ResolvedUser,
    /// The name that `uname -n` gives.
    pub hostname: String,
    /// What the command can reach.
    pub network: Network,
    /// Mounts on top of the root, in this order.
    pub mounts: Vec<Mount>,
    /// Files that exist only while the command runs, read-only and owned by root: `/etc/resolv.conf`, `/etc/hosts`.
    #[serde(with = "wire::files")]
    pub readonly_files: Vec<(PathBuf, Vec<u8>)>,
    /// Resource limits of every process. They need no namespace: a mode sets them before it executes the command, after
    /// [`crate::raise_limits`] where it still has the rights of kiln, and refuses one that it cannot set.
    pub limits: Vec<Limit>,
    /// The control groups that the command runs in. A mode puts the command's first process into them before that starts
    /// others, and removes them afterwards; one that cannot refuses the command. Absent: those of kiln.
    pub cgroup: Option<CgroupPlan>,
    /// Emulators for programs of other architectures, for this command alone. They are registered in the sandbox's user
    /// namespace; a mode without one refuses them.
    pub emulators: Vec<Emulator>,
    /// Keeps every capability *inside the user namespace* and leaves the system call filter out.
    pub insecure: bool,
    /// Size of `/dev/shm` in bytes. A mode that mounts none has none of this size; it refuses any but the default.
    pub shm_size: u64,
}

impl ExecSpec {
    /// Docker's size of `/dev/shm`, in bytes.
    pub const SHM_SIZE: u64 = 64 << 20;
}

impl Default for ExecSpec {
    fn default() -> Self {
        Self {
            lower: Vec::new(),
            upper: PathBuf::new(),
            work: PathBuf::new(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: PathBuf::from("/"),
            user: ResolvedUser::default(),
            hostname: "buildkitsandbox".to_owned(),
            network: Network::Host,
            mounts: Vec::new(),
            readonly_files: Vec::new(),
            limits: Vec::new(),
            cgroup: None,
            emulators: Vec::new(),
            insecure: false,
            shm_size: Self::SHM_SIZE,
        }
    }
}

/// A user as numbers of the container; names were looked up in the image before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// What the command can reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The network that kiln itself has.
    Host,
    /// A loopback interface and nothing else.
    None,
    /// As above, with a socket that listens at [`PROXY_ADDRESS`] inside and is handed out to kiln. A mode without a network
    /// namespace refuses it.
    Proxy,
}

impl Network {
    /// Tells whether the command has a network namespace of its own.
    pub(crate) fn is_own(self) -> bool {
        match self {
            Self::Host => false,
            Self::None | Self::Proxy => true,
        }
    }
}

/// Where a command finds the proxy, in a namespace that nobody else listens in.
pub const PROXY_ADDRESS: &str = "127.0.0.1:3128";

/// Something laid over a path of the root while the command runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Path inside the root; created when missing, and then reported as a stub.
    #[serde(with = "wire::path")]
    pub target: PathBuf,
    /// What is laid there.
    pub kind: MountKind,
}

/// The kinds of mount that a `RUN --mount` needs.
#[derive(Clone, Serialize, Deserialize)]
pub enum MountKind {
    /// A file or directory of the host, owners read as container ids.
    Bind {
        /// Path on the host.
        #[serde(with = "wire::path")]
        source: PathBuf,
        /// Refuses writes, in mounts below as well.
        readonly: bool,
        /// Includes the mounts below the source.
        recursive: bool,
    },
    /// Directories that the command may write to, unless it must not; what it writes is thrown away.
    OverlayDir {
        /// Directories of the host, topmost first; empty means an empty directory.
        #[serde(with = "wire::paths")]
        lower: Vec<PathBuf>,
        /// Refuses writes.
        readonly: bool,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Largest size in bytes; the kernel's default when absent.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
        /// Refuses writes.
        readonly: bool,
    },
    /// A read-only file in memory only, for secrets and scripts; it never reaches a disk or a layer.
    File {
        /// Its bytes.
        #[serde(with = "wire::bytes")]
        content: Vec<u8>,
        /// Permission bits.
        mode: u32,
        /// Owner inside the container.
        uid: u32,
        /// Group inside the container.
        gid: u32,
    },
}

/// Files and variables may be secrets, so neither is shown.
impl fmt::Debug for ExecSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSpec")
            .field("lower", &self.lower)
            .field("upper", &self.upper)
            .field("args", &self.args)
            .field("cwd", &self.cwd)
            .field("user", &self.user)
            .field("mounts", &self.mounts)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MountKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind { source, .. } => write!(f, "bind of {}", source.display()),
            Self::OverlayDir { lower, .. } => write!(f, "overlay over {lower:?}"),
            Self::Tmpfs { .. } => f.write_str("tmpfs"),
            Self::File { .. } => f.write_str("file in memory"),
        }
    }
}
