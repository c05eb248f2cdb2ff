//! Owners and users that the kernel does not give: system calls about them are answered by kiln, so that a command behaves as
//! under real root although it has one user id, or fewer than its image uses.
//!
//! ```text
//! command ── chown("f", 33, 33) ── filter ──> stager: supervisor
//!                                              │ opens f as the caller would, chowns it to the one id that there is,
//!                                              │ and records "33:33" on it
//!         ── stat("f") ── filter ───────────>  │ no record: the kernel answers; a record: it is put into the answer
//!         ── setuid(33) ── filter ──────────>  │ remembers, changes nothing
//! ```
//!
//! Start at [`Supervisor`]. Where things are kept:
//!
//! - the owner of a file or directory: in its attribute `user.kiln.owner` ([`records`]), so that it moves, is copied up and dies
//!   with the file, and needs no loading;
//! - the owner of a link, pipe or socket, which take no attributes: in a table by inode ([`inodes`]), written beside the layer
//!   at the end;
//! - a device: an empty file with the attribute `user.kiln.device`;
//! - the user of a process: a number in a resource limit that the kernel copies at fork and nobody else uses ([`processes`]).
//!
//! What is *not* emulated: permission checks. A command that became another user may still do what root may. Programs for
//! i386 get the kernel's own answers.

mod attributes;
mod create;
mod credentials;
mod filter;
mod inodes;
mod level;
mod ownership;
mod paths;
mod powers;
mod processes;
pub(crate) mod records;
mod stat;
mod supervisor;
mod users;

pub(crate) use filter::program;
pub(crate) use level::{Level, Window};
pub(crate) use ownership::is_recorded;
pub(crate) use supervisor::Supervisor;
