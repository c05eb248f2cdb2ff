//! `/proc` where none can be mounted: the helper answers the calls by which a command would look into it.
//!
//! A filter stops every call that names a file by its path. The helper reads the path; unless it is one of
//! [`path::Place`], the call goes on as if nobody had asked. Otherwise the helper does it on the machine's own `/proc`, with the
//! rights of the caller, and hands over what it got: a descriptor, a structure, a text.
//!
//! - Only processes of this command are shown, and only files that are no way to anything else.
//! - No directory is ever handed over: whoever has one from outside could leave the root by it. So `/proc` cannot be listed.
//! - What an answer "go on" leads to is up to the kernel, Landlock and the root: no wall stands on what is read here.

mod path;
mod serve;

use std::os::unix::net::UnixStream;

use libc::{c_long, sock_filter};

pub(super) use serve::Server;

use crate::bpf::{
    ALLOW, AND, ARCHITECTURE, IF_EQUAL, LOAD, NATIVE, NOTIFY, RETURN, argument, for_architecture, for_call,
    jump, statement,
};
use crate::error::{Context as _, Error};
use crate::sys::notify::{self, Listener};

/// What a call does, with the places of its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    /// Open the path with these flags.
    Open { path: usize, flags: usize },
    /// Write `struct stat`; `flags` are `AT_*`, or it is lstat, or stat.
    Stat { path: usize, into: usize, flags: Option<usize>, follow: bool },
    /// Write `struct statx`.
    Statx,
    /// Tell whether this may be done.
    Access { path: usize, mode: usize },
    /// Write the text of a symlink.
    Readlink { path: usize, into: usize, size: usize },
    /// Look for extended attributes: such files have none.
    Attributes,
    /// Write the names of the machine, one of which is not the command's.
    Uname,
}

/// The calls that are looked at.
const CALLS: &[(c_long, Call)] = &[
    (libc::SYS_openat, Call::Open { path: 1, flags: 2 }),
    (libc::SYS_newfstatat, Call::Stat { path: 1, into: 2, flags: Some(3), follow: true }),
    (libc::SYS_statx, Call::Statx),
    (libc::SYS_faccessat, Call::Access { path: 1, mode: 2 }),
    (libc::SYS_faccessat2, Call::Access { path: 1, mode: 2 }),
    (libc::SYS_readlinkat, Call::Readlink { path: 1, into: 2, size: 3 }),
    (libc::SYS_getxattr, Call::Attributes),
    (libc::SYS_lgetxattr, Call::Attributes),
    (libc::SYS_listxattr, Call::Attributes),
    (libc::SYS_llistxattr, Call::Attributes),
    (libc::SYS_uname, Call::Uname),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, Call::Open { path: 0, flags: 1 }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, Call::Stat { path: 0, into: 1, flags: None, follow: true }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, Call::Stat { path: 0, into: 1, flags: None, follow: false }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, Call::Access { path: 0, mode: 1 }),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, Call::Readlink { path: 0, into: 1, size: 2 }),
];

/// Returns the filter that stops these calls. Programs of other call interfaces find an empty `/proc`.
fn program() -> Vec<sock_filter> {
    const EMPTY_PATH: u32 = libc::AT_EMPTY_PATH as u32;
    let mut rules = Vec::new();
    for (call, kind) in CALLS {
        // Asking what an open descriptor is needs nobody, and C libraries do it at every turn.
        let flags = match kind {
            Call::Stat { flags: Some(_), .. } => Some(3),
            Call::Statx => Some(2),
            _ => None,
        };
        let mut body = Vec::new();
        if let Some(flags) = flags {
            body.extend([
                statement(LOAD, argument(flags)),
                statement(AND, EMPTY_PATH),
                jump(IF_EQUAL, 0, 1, 0),
                statement(RETURN, ALLOW),
            ]);
        }
        body.push(statement(RETURN, NOTIFY));
        for_call(&mut rules, *call, body);
    }
    rules.push(statement(RETURN, ALLOW));
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    for_architecture(&mut program, NATIVE, rules);
    program.push(statement(RETURN, ALLOW));
    program
}

/// In the command's process: has its calls heard by the helper at the other end of `socket`.
///
/// Where somebody else hears them already, nothing is sent: a process can have one such listener.
pub(super) fn announce(socket: &UnixStream) -> Result<(), Error> {
    match notify::listen(&program()) {
        Ok(listener) => notify::send_fd(socket, &listener).step("pass the listener of /proc on"),
        Err(_) => Ok(()),
    }
}

/// In the helper: takes over what the command announced; `None` when it could not.
pub(super) fn adopt(socket: &UnixStream) -> Result<Option<Listener>, Error> {
    let fd = notify::receive_fd(socket).step("take the listener of /proc over")?;
    Ok(fd.map(Listener::new))
}

fn call(number: c_long) -> Option<Call> {
    CALLS.iter().find(|(call, _)| *call == number).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    #[test]
    fn paths_are_asked_for_and_descriptors_are_not() {
        let check = |call, arguments, expect| {
            assert_eq!(interpret(&program(), NATIVE, call, arguments), expect, "{call}");
        };
        let empty = libc::AT_EMPTY_PATH as u64;
        check(libc::SYS_openat, [0; 6], NOTIFY);
        check(libc::SYS_newfstatat, [0; 6], NOTIFY);
        check(libc::SYS_newfstatat, [3, 0, 0, empty, 0, 0], ALLOW);
        check(libc::SYS_statx, [3, 0, empty, 0, 0, 0], ALLOW);
        check(libc::SYS_statx, [0; 6], NOTIFY);
        check(libc::SYS_read, [0; 6], ALLOW);
        assert_eq!(interpret(&program(), NATIVE ^ 1, libc::SYS_openat, [0; 6]), ALLOW);
    }
}
