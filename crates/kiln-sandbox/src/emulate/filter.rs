//! Which system calls are asked about, as a BPF program behind the hardening one.
//!
//! Calls that no argument decides about stay as fast as without a filter: the kernel remembers that they are always
//! allowed. Of the others as little as possible is passed on, since each costs about ten microseconds:
//! open(2) only when it may create a file. Foreign call interfaces are not asked about; they get the kernel's own answers.

use libc::{c_long, sock_filter};

use super::Level;
use crate::bpf::{
    ALLOW, AND, ARCHITECTURE, IF_EQUAL, LOAD, NATIVE, NO_SUCH_CALL, NOTIFY, NUMBER, RETURN, argument,
    for_call, jump, number, statement,
};
use crate::sys::inspect::RLIMIT_LOCKS;

/// Flags of open(2) that make a file: `O_CREAT`, and the bit of `O_TMPFILE` that is no other flag.
pub(super) const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)).cast_unsigned();

/// Calls of Linux 6.13, the same on every architecture; libc lacks them for some.
pub(super) const SETXATTRAT: c_long = 463;
pub(super) const LISTXATTRAT: c_long = 465;
pub(super) const REMOVEXATTRAT: c_long = 466;

/// Success without doing anything.
const PRETEND: u32 = libc::SECCOMP_RET_ERRNO;

const CHOWN: &[c_long] = &[
    libc::SYS_fchown,
    libc::SYS_fchownat,
    // Not to be mistaken about where paths begin.
    libc::SYS_chroot,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
];

const LOOK: &[c_long] = &[
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    LISTXATTRAT,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    SETXATTRAT,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    REMOVEXATTRAT,
];

const USERS: &[c_long] = &[
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_mknodat,
    libc::SYS_openat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
];

/// mknod(2) and the place of its mode.
const MKNOD: &[(c_long, u32)] = &[
    (libc::SYS_mknodat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mknod, 1),
];

/// open(2) and the place of its flags.
const OPEN: &[(c_long, u32)] = &[
    (libc::SYS_openat, 2),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1),
];

/// Returns the program of a level.
pub(crate) fn program(level: Level) -> Vec<sock_filter> {
    let mut program =
        vec![statement(LOAD, ARCHITECTURE), jump(IF_EQUAL, NATIVE, 1, 0), statement(RETURN, ALLOW)];
    program.push(statement(LOAD, NUMBER));
    let mut ask = CHOWN.to_vec();
    if level >= Level::Visible {
        ask.extend(LOOK);
    }
    if level == Level::Full {
        ask.extend(USERS);
    }
    for call in ask {
        program.extend([jump(IF_EQUAL, number(call), 0, 1), statement(RETURN, NOTIFY)]);
    }
    if level < Level::Full {
        for &(call, mode) in MKNOD {
            for_call(&mut program, call, if_device(mode));
        }
    } else {
        for &(call, flags) in OPEN {
            for_call(&mut program, call, if_creating(flags));
        }
        for_call(&mut program, libc::SYS_prctl, if_keeping());
        for_call(&mut program, libc::SYS_setrlimit, keep_limit(0, None));
        for_call(&mut program, libc::SYS_prlimit64, keep_limit(1, Some(2)));
        // The ring does what calls do, past every filter.
        for_call(&mut program, libc::SYS_io_uring_setup, vec![statement(RETURN, NO_SUCH_CALL)]);
    }
    program.push(statement(RETURN, ALLOW));
    program
}

/// Asks about a mode that names a device.
fn if_device(mode: u32) -> Vec<sock_filter> {
    vec![
        statement(LOAD, argument(mode)),
        statement(AND, libc::S_IFMT),
        jump(IF_EQUAL, libc::S_IFCHR, 1, 0),
        jump(IF_EQUAL, libc::S_IFBLK, 0, 1),
        statement(RETURN, NOTIFY),
        statement(RETURN, ALLOW),
    ]
}

/// Asks about flags that may create a file.
fn if_creating(flags: u32) -> Vec<sock_filter> {
    vec![
        statement(LOAD, argument(flags)),
        statement(AND, CREATES),
        jump(IF_EQUAL, 0, 0, 1),
        statement(RETURN, ALLOW),
        statement(RETURN, NOTIFY),
    ]
}

/// Asks about the wish to keep capabilities over a change of user.
fn if_keeping() -> Vec<sock_filter> {
    vec![
        statement(LOAD, argument(0)),
        jump(IF_EQUAL, libc::PR_SET_KEEPCAPS.cast_unsigned(), 0, 1),
        statement(RETURN, NOTIFY),
        statement(RETURN, ALLOW),
    ]
}

/// Pretends to change the limit that holds a process's user: Linux itself has not used it since 2.4. With `new`, the place
/// of a pointer, a call where that is null only reads.
fn keep_limit(resource: u32, new: Option<u32>) -> Vec<sock_filter> {
    let mut body = vec![statement(LOAD, argument(resource))];
    match new {
        None => body.extend([
            jump(IF_EQUAL, RLIMIT_LOCKS, 0, 1),
            statement(RETURN, PRETEND),
            statement(RETURN, ALLOW),
        ]),
        Some(new) => body.extend([
            jump(IF_EQUAL, RLIMIT_LOCKS, 1, 0),
            statement(RETURN, ALLOW),
            statement(LOAD, argument(new)),
            jump(IF_EQUAL, 0, 1, 0),
            statement(RETURN, PRETEND),
            statement(LOAD, argument(new) + 4),
            jump(IF_EQUAL, 0, 0, 1),
            statement(RETURN, ALLOW),
            statement(RETURN, PRETEND),
        ]),
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    fn answer(level: Level, call: c_long, arguments: [u64; 6]) -> u32 {
        interpret(&program(level), NATIVE, call, arguments)
    }

    #[test]
    fn each_level_asks_for_more() {
        let check = |call, expect: [u32; 3]| {
            let levels = [Level::Records, Level::Visible, Level::Full];
            assert_eq!(levels.map(|level| answer(level, call, [0; 6])), expect, "{call}");
        };
        check(libc::SYS_fchownat, [NOTIFY; 3]);
        check(libc::SYS_newfstatat, [ALLOW, NOTIFY, NOTIFY]);
        check(libc::SYS_getuid, [ALLOW, ALLOW, NOTIFY]);
        check(libc::SYS_mkdirat, [ALLOW, ALLOW, NOTIFY]);
        check(libc::SYS_read, [ALLOW; 3]);
    }

    #[test]
    fn opening_is_asked_about_when_it_creates() {
        let check = |flags: i32, expect| {
            let flags = u64::from(flags.cast_unsigned());
            assert_eq!(answer(Level::Full, libc::SYS_openat, [0, 0, flags, 0, 0, 0]), expect, "{flags:o}");
            assert_eq!(answer(Level::Records, libc::SYS_openat, [0, 0, flags, 0, 0, 0]), ALLOW);
        };
        check(libc::O_RDONLY, ALLOW);
        check(libc::O_RDWR | libc::O_TRUNC | libc::O_DIRECTORY, ALLOW);
        check(libc::O_WRONLY | libc::O_CREAT, NOTIFY);
        check(libc::O_RDWR | libc::O_TMPFILE, NOTIFY);
    }

    #[test]
    fn devices_are_asked_about_at_every_level() {
        let check = |mode: u32, expect| {
            let arguments = [0, 0, mode.into(), 0, 0, 0];
            assert_eq!(answer(Level::Records, libc::SYS_mknodat, arguments), expect, "{mode:o}");
            assert_eq!(answer(Level::Full, libc::SYS_mknodat, arguments), NOTIFY);
        };
        check(libc::S_IFCHR | 0o600, NOTIFY);
        check(libc::S_IFBLK, NOTIFY);
        check(libc::S_IFIFO | 0o644, ALLOW);
        check(0o644, ALLOW);
    }

    #[test]
    fn the_limit_that_holds_the_user_is_read_and_never_written() {
        let locks = u64::from(RLIMIT_LOCKS);
        let files = 7_u64;
        let check = |call, arguments, expect| assert_eq!(answer(Level::Full, call, arguments), expect);
        check(libc::SYS_setrlimit, [locks, 1, 0, 0, 0, 0], PRETEND);
        check(libc::SYS_setrlimit, [files, 1, 0, 0, 0, 0], ALLOW);
        check(libc::SYS_prlimit64, [0, locks, 0, 1, 0, 0], ALLOW);
        check(libc::SYS_prlimit64, [0, locks, 1, 0, 0, 0], PRETEND);
        check(libc::SYS_prlimit64, [0, locks, 1 << 32, 0, 0, 0], PRETEND);
        check(libc::SYS_prlimit64, [0, files, 1, 0, 0, 0], ALLOW);
    }

    #[test]
    fn of_prctl_only_keeping_capabilities_is_asked_about() {
        let keep = u64::from(libc::PR_SET_KEEPCAPS.cast_unsigned());
        assert_eq!(answer(Level::Full, libc::SYS_prctl, [keep, 1, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(answer(Level::Full, libc::SYS_prctl, [keep + 1, 1, 0, 0, 0, 0]), ALLOW);
    }

    #[test]
    fn foreign_call_interfaces_pass() {
        assert_eq!(interpret(&program(Level::Full), 0x4000_0003, libc::SYS_fchownat, [0; 6]), ALLOW);
    }
}
