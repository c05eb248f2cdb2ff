//! Namespaces, mounts, paths inside root file systems and the processes that run there.
//!
//! Start at [`Sandbox::spawn`]: it runs one command ([`ExecSpec`]) over a stack of unpacked layers, inside
//! namespaces that [`choose`] has proved to work on this machine. What the command changed is found in the
//! `upper` directory afterwards.
//!
//! ```text
//! main()  run_if_helper()            never returns in a re-executed helper
//!         enter_build_namespace()    without CAP_SYS_ADMIN: re-executes kiln in a user namespace of its own
//!         choose(..)                 a three-millisecond sandbox decides what RUN will get
//!
//! kiln ── control socket ──> launcher ── clone(NEWNS) ──> stager ── clone(NEWUSER|NEWNS|NEWPID|..) ──> init (pid 1)
//!        (spec, status, life)            private mounts: layers, upper, binds          overlay, /dev, pivot └─> command
//! ```
//!
//! The room refuses to unshare or fork from a threaded process (everything happens in a re-executed, single-threaded
//! helper), to run a command as the host's root, and to resolve a path of an image in any other way than inside
//! its root. It knows nothing of OCI documents, networks or output. It is the only crate with `unsafe`, and only
//! in `sys`.

mod answers;
mod bpf;
mod build_namespace;
mod cgroup;
mod choice;
mod chroot;
mod emulate;
mod error;
mod facts;
mod foreign;
mod helper;
mod idmap;
mod isolation;
mod landlock;
mod limits;
mod remove;
pub mod rootdir;
mod running;
mod seccomp;
mod spec;
mod sys;
mod wire;

pub use answers::{ANSWERS, Answer, Step};
pub use build_namespace::{BuildNamespace, IdMap, enter_build_namespace};
pub use cgroup::{CgroupLimits, CgroupPlan, Swap};
pub use choice::{choose, expected, probe, prove_network};
pub use chroot::ChrootFacts;
pub use chroot::probe as probe_chroot;
pub use error::Error;
pub use facts::{Fact, facts};
pub use foreign::{Emulator, Execution, execution, prove_emulators};
pub use helper::run_if_helper;
pub use isolation::{Better, Ids, Isolation, Mode, ProcMount, Requested, Wish};
pub use limits::{Limit, Resource, check_limits, raise_limits};
pub use remove::remove_tree;
pub use rootdir::RootDir;
pub use running::{Exit, Finished, Killer, Running, Sandbox, Stdio};
pub use spec::{ExecSpec, Mount, MountKind, Network, PROXY_ADDRESS, ResolvedUser};
