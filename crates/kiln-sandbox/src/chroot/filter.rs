//! What the system call filter of a command has to say besides where it shares its user id and its network with kiln.
//!
//! Landlock confines files and signals, and nothing else that one process may do to another of the same user. Setting the
//! limits of another process is the one such call that could end kiln.
//!
//! Nobody waits for the disk: a step that was interrupted is thrown away, and an overlay in the other isolations is mounted so that
//! it leaves the same calls out.
//!
//! `--network=none` has no network namespace here: sockets that could leave the machine are not made. There is no loopback
//! interface either. Local sockets and requests to the kernel stay; for programs of 32 bits, where C libraries hide the family
//! behind a pointer, there are none at all.

use libc::sock_filter;

use crate::bpf::{
    ALLOW, ARCHITECTURE, IF_EQUAL, KILL, LOAD, NATIVE, PERMISSION, RETURN, argument, for_architecture,
    for_call, jump, statement,
};
use crate::spec::Network;

/// The families of sockets that reach nobody else's machine.
const LOCAL: [u32; 2] = [libc::AF_UNIX as u32, libc::AF_NETLINK as u32];

const UNREACHABLE: u32 = libc::SECCOMP_RET_ERRNO | libc::ENETUNREACH as u32;

/// The numbers of one call interface.
struct Numbers {
    prlimit64: libc::c_long,
    socket: libc::c_long,
    /// Makes sockets as well, of a family that no filter sees.
    socketcall: Option<libc::c_long>,
    /// Wait until files are on the disk: `fsync`, `fdatasync`, `sync`, `syncfs`.
    syncs: [libc::c_long; 4],
}

const HERE: Numbers = Numbers {
    prlimit64: libc::SYS_prlimit64,
    socket: libc::SYS_socket,
    socketcall: None,
    syncs: [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs],
};

/// Those of `arch/x86/entry/syscalls/syscall_32.tbl`.
#[cfg(target_arch = "x86_64")]
const IN_32_BITS: Numbers =
    Numbers { prlimit64: 340, socket: 359, socketcall: Some(102), syncs: [118, 148, 36, 344] };

/// Success, without the call.
const DONE: u32 = libc::SECCOMP_RET_ERRNO;

/// Returns a filter that goes before the hardening one.
pub(super) fn program(network: Network) -> Vec<sock_filter> {
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    #[cfg(target_arch = "x86_64")]
    for_architecture(&mut program, crate::bpf::I386, rules(&IN_32_BITS, network));
    for_architecture(&mut program, NATIVE, rules(&HERE, network));
    program.push(statement(RETURN, KILL));
    program
}

fn rules(numbers: &Numbers, network: Network) -> Vec<sock_filter> {
    let mut rules = Vec::new();
    let only_own = vec![
        statement(LOAD, argument(0)),
        jump(IF_EQUAL, 0, 0, 1),
        statement(RETURN, ALLOW),
        statement(RETURN, PERMISSION),
    ];
    for_call(&mut rules, numbers.prlimit64, only_own);
    for call in numbers.syncs {
        for_call(&mut rules, call, vec![statement(RETURN, DONE)]);
    }
    if network != Network::Host {
        let mut body = vec![statement(LOAD, argument(0))];
        for family in LOCAL {
            body.extend([jump(IF_EQUAL, family, 0, 1), statement(RETURN, ALLOW)]);
        }
        body.push(statement(RETURN, UNREACHABLE));
        for_call(&mut rules, numbers.socket, body);
        if let Some(socketcall) = numbers.socketcall {
            for_call(&mut rules, socketcall, vec![statement(RETURN, UNREACHABLE)]);
        }
    }
    rules.push(statement(RETURN, ALLOW));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::interpret;

    #[test]
    fn only_local_sockets_are_made() {
        let check = |call, family: i32, expect| {
            let arguments = [u64::from(family.cast_unsigned()), 0, 0, 0, 0, 0];
            assert_eq!(interpret(&program(Network::None), NATIVE, call, arguments), expect, "{family}");
        };
        check(libc::SYS_socket, libc::AF_UNIX, ALLOW);
        check(libc::SYS_socket, libc::AF_NETLINK, ALLOW);
        check(libc::SYS_socket, libc::AF_INET, UNREACHABLE);
        check(libc::SYS_socket, libc::AF_INET6, UNREACHABLE);
        check(libc::SYS_socket, libc::AF_PACKET, UNREACHABLE);
        check(libc::SYS_connect, libc::AF_INET, ALLOW);
        let inet = [libc::AF_INET as u64, 0, 0, 0, 0, 0];
        assert_eq!(interpret(&program(Network::Host), NATIVE, libc::SYS_socket, inet), ALLOW);
        assert_eq!(interpret(&program(Network::Host), NATIVE ^ 1, libc::SYS_getpid, [0; 6]), KILL);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_of_32_bits_find_no_way_round() {
        use crate::bpf::I386;
        let answer = |network, call, argument: u64| {
            interpret(&program(network), I386, call, [argument, 0, 0, 0, 0, 0])
        };
        assert_eq!(answer(Network::None, 359, libc::AF_INET as u64), UNREACHABLE);
        assert_eq!(answer(Network::None, 359, libc::AF_UNIX as u64), ALLOW);
        assert_eq!(answer(Network::None, 102, 1), UNREACHABLE);
        assert_eq!(answer(Network::Host, 102, 1), ALLOW);
        assert_eq!((answer(Network::Host, 340, 0), answer(Network::Host, 340, 1)), (ALLOW, PERMISSION));
    }

    #[test]
    fn nobody_waits_for_the_disk() {
        let answer = |call| interpret(&program(Network::Host), NATIVE, call, [3, 0, 0, 0, 0, 0]);
        assert_eq!((answer(libc::SYS_fsync), answer(libc::SYS_sync)), (DONE, DONE));
        assert_eq!(answer(libc::SYS_write), ALLOW);
    }

    #[test]
    fn limits_of_others_stay() {
        let limit =
            |pid| interpret(&program(Network::Host), NATIVE, libc::SYS_prlimit64, [pid, 7, 0, 0, 0, 0]);
        assert_eq!((limit(0), limit(1)), (ALLOW, PERMISSION));
    }
}
