//! The rung of root in a default container: another root directory, guarded by Landlock.
//!
//! There is no mount, so the command works on a directory that holds everything ([`crate::ExecSpec::upper`] is that root,
//! `lower` is empty), and what it changed is found by comparing afterwards, which is the engine's business.
//!
//! ```text
//! kiln ── control socket ──> helper ─────── fork ──────> command
//!                            scaffold up                 chroot, Landlock, no_new_privs, filters,
//!                            waits, reaps orphans        fewer capabilities, the step's user, exec
//!                            kills all, scaffold down
//! ```
//!
//! What stands between a command and kiln, which has the same user id:
//!
//! | attack | wall |
//! |---|---|
//! | out of the root: `..` from an open directory, chroot(2) again | CAP_SYS_CHROOT is dropped; behind it, Landlock opens nothing outside |
//! | kill(2), ptrace(2), process_vm_readv(2), abstract sockets | Landlock; for signals and sockets from Linux 6.12 on |
//! | kiln's memory and environment through `/proc` | there is no `/proc`; kiln and its helper are not dumpable |
//! | the disk, by a device made for it | CAP_MKNOD is dropped |
//! | a daemon that stays | the helper is the reaper of everybody and ends when none is left |

mod command;
mod cover;
mod filter;
mod probe;
mod proc;
mod processes;
mod run;
mod scaffold;

pub use probe::{ChrootFacts, probe};
pub(crate) use probe::{expected, prove};
pub(crate) use run::serve;

use rustix::process::DumpableBehavior;

use crate::error::Error;
use crate::spec::ExecSpec;

/// Makes kiln itself ready for a command, and refuses what this rung cannot keep.
pub(crate) fn prepare(spec: &ExecSpec) -> Result<(), Error> {
    // The command has kiln's user id: its memory and its environment are not for it.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    scaffold::check(spec)
}
