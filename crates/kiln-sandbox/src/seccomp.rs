//! The system call filter of a command, as a classic BPF program made by hand.
//!
//! It is a deny-list: the calls that Docker's default profile withholds from a container with the default
//! capabilities answer EPERM, the others pass. An allow-list of four hundred names would say the same today, but
//! would break images on every new kernel call until kiln is updated, and the calls that matter here are also refused by the
//! kernel itself, since the command is root only in its own user namespace. The filter is the second wall; it takes away
//! the interfaces through which the first one was breached in the past: namespaces, mounts, keys, bpf, io_uring,
//! userfaultfd, perf, exotic sockets.
//!
//! - `clone3` answers ENOSYS, so that C libraries fall back to `clone`, whose flags can be looked at.
//! - A foreign call interface has other numbers. i386 programs on x86-64 have a list of their own (`i386`), x32 calls
//!   answer ENOSYS, and programs of an interface without a list, as of 32 bits on arm64, are killed.

#[cfg(target_arch = "x86_64")]
mod i386;

use libc::{c_long, sock_filter};

use crate::bpf::{
    ALLOW, AND, ARCHITECTURE, IF_EQUAL, KILL, LOAD, NATIVE, NO_SUCH_CALL, PERMISSION, RETURN, argument,
    for_architecture, for_call, jump, number, statement,
};

/// Every flag of clone(2) that makes a namespace.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Values of personality(2) that ordinary programs set; others weaken address randomisation or emulate old systems.
const PERSONALITIES: [u32; 5] = [0, 0x0008, 0x0002_0000, 0x0002_0008, 0xFFFF_FFFF];

/// Socket families whose kernel code is rarely needed and was often broken.
const SOCKETS: [u32; 2] = [libc::AF_ALG as u32, libc::AF_VSOCK as u32];

/// `open_tree_attr`, which libc does not know yet.
const OPEN_TREE_ATTR: c_long = 467;

/// Calls that answer EPERM whatever their arguments.
const DENIED: &[c_long] = &[
    // Namespaces and mounts.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    OPEN_TREE_ATTR,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    // Keys.
    libc::SYS_add_key,
    libc::SYS_keyctl,
    libc::SYS_request_key,
    // Interfaces with a large attack surface.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    // Other processes, and files by number.
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_process_madvise,
    libc::SYS_open_by_handle_at,
    libc::SYS_lookup_dcookie,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_mbind,
    libc::SYS_get_mempolicy,
    libc::SYS_set_mempolicy,
    // The machine itself.
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    KEXEC_FILE_LOAD,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_quotactl,
    QUOTACTL_FD,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_nfsservctl,
];

/// `kexec_file_load`, which libc lacks for musl on arm64.
#[cfg(target_arch = "x86_64")]
const KEXEC_FILE_LOAD: c_long = libc::SYS_kexec_file_load;
#[cfg(not(target_arch = "x86_64"))]
const KEXEC_FILE_LOAD: c_long = 294;

/// `quotactl_fd`, the same on every architecture; libc lacks it for some.
const QUOTACTL_FD: c_long = 443;

/// Calls that only x86-64 has.
#[cfg(target_arch = "x86_64")]
const DENIED_HERE: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(not(target_arch = "x86_64"))]
const DENIED_HERE: &[c_long] = &[];

/// The numbers of one call interface.
struct Table {
    /// Calls that answer EPERM whatever their arguments.
    denied: &'static [c_long],
    clone: c_long,
    clone3: c_long,
    socket: c_long,
    personality: c_long,
}

const NATIVE_TABLE: Table = Table {
    denied: DENIED,
    clone: libc::SYS_clone,
    clone3: libc::SYS_clone3,
    socket: libc::SYS_socket,
    personality: libc::SYS_personality,
};

/// Returns the program.
pub(crate) fn program() -> Vec<sock_filter> {
    let mut native = Vec::new();
    #[cfg(target_arch = "x86_64")]
    native.extend([jump(crate::bpf::IF_AT_LEAST, 0x4000_0000, 0, 1), statement(RETURN, NO_SUCH_CALL)]);
    for &call in DENIED_HERE {
        native.extend([jump(IF_EQUAL, number(call), 0, 1), statement(RETURN, PERMISSION)]);
    }
    native.extend(rules(&NATIVE_TABLE));
    let mut program = vec![statement(LOAD, ARCHITECTURE)];
    #[cfg(target_arch = "x86_64")]
    for_architecture(&mut program, crate::bpf::I386, rules(&i386::TABLE));
    for_architecture(&mut program, NATIVE, native);
    program.push(statement(RETURN, KILL));
    program
}

/// Returns what is run once the number of the call is loaded.
fn rules(table: &Table) -> Vec<sock_filter> {
    let mut rules = Vec::new();
    for &call in table.denied {
        rules.extend([jump(IF_EQUAL, number(call), 0, 1), statement(RETURN, PERMISSION)]);
    }
    rules.extend([jump(IF_EQUAL, number(table.clone3), 0, 1), statement(RETURN, NO_SUCH_CALL)]);
    for (call, body) in [
        (table.clone, without_flags(NAMESPACES)),
        (table.socket, none_of(&SOCKETS)),
        (table.personality, one_of(&PERSONALITIES)),
    ] {
        for_call(&mut rules, call, body);
    }
    rules.push(statement(RETURN, ALLOW));
    rules
}

/// Allows a call whose first argument has none of these bits.
fn without_flags(flags: u32) -> Vec<sock_filter> {
    vec![
        statement(LOAD, argument(0)),
        statement(AND, flags),
        jump(IF_EQUAL, 0, 0, 1),
        statement(RETURN, ALLOW),
        statement(RETURN, PERMISSION),
    ]
}

/// Allows a call whose first argument is none of these values.
fn none_of(values: &[u32]) -> Vec<sock_filter> {
    compare(values, PERMISSION, ALLOW)
}

/// Allows a call whose first argument is one of these values.
fn one_of(values: &[u32]) -> Vec<sock_filter> {
    compare(values, ALLOW, PERMISSION)
}

fn compare(values: &[u32], if_found: u32, otherwise: u32) -> Vec<sock_filter> {
    let mut body = vec![statement(LOAD, argument(0))];
    for &value in values {
        body.extend([jump(IF_EQUAL, value, 0, 1), statement(RETURN, if_found)]);
    }
    body.push(statement(RETURN, otherwise));
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(arch: u32, call: c_long, argument: u32) -> u32 {
        crate::bpf::interpret(&program(), arch, call, [argument.into(), 0, 0, 0, 0, 0])
    }

    #[test]
    fn calls_are_sorted_into_allowed_and_denied() {
        let check = |call, argument, expect| {
            assert_eq!(answer(NATIVE, call, argument), expect, "{call} {argument:#x}");
        };
        check(libc::SYS_getpid, 0, ALLOW);
        check(libc::SYS_mount, 0, PERMISSION);
        check(libc::SYS_unshare, 0, PERMISSION);
        check(libc::SYS_clone3, 0, NO_SUCH_CALL);
        check(libc::SYS_clone, libc::SIGCHLD as u32, ALLOW);
        check(libc::SYS_clone, libc::CLONE_NEWUSER as u32, PERMISSION);
        check(libc::SYS_socket, libc::AF_INET as u32, ALLOW);
        check(libc::SYS_socket, libc::AF_VSOCK as u32, PERMISSION);
        check(libc::SYS_personality, 0xFFFF_FFFF, ALLOW);
        check(libc::SYS_personality, 0x0004_0000, PERMISSION);
        check(libc::SYS_ptrace, 0, ALLOW);
        check(libc::SYS_chroot, 0, ALLOW);
    }

    #[test]
    fn call_interfaces_without_a_list_are_closed() {
        const ARM: u32 = 0x4000_0028;
        assert_eq!(answer(ARM, 20, 0), KILL);
        #[cfg(target_arch = "x86_64")]
        assert_eq!(answer(NATIVE, 0x4000_0000 + 39, 0), NO_SUCH_CALL);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn programs_of_32_bits_have_the_same_rules_under_other_numbers() {
        let check = |call, argument, expect| {
            assert_eq!(answer(crate::bpf::I386, call, argument), expect, "{call} {argument:#x}");
        };
        // getpid, ptrace, chroot and socketcall.
        for call in [20, 26, 61, 102] {
            check(call, 0, ALLOW);
        }
        // mount, unshare, keyctl, bpf and io_uring_setup.
        for call in [21, 310, 288, 357, 425] {
            check(call, 0, PERMISSION);
        }
        check(435, 0, NO_SUCH_CALL);
        check(120, libc::SIGCHLD as u32, ALLOW);
        check(120, libc::CLONE_NEWUSER as u32, PERMISSION);
        check(359, libc::AF_VSOCK as u32, PERMISSION);
        check(136, 0x0004_0000, PERMISSION);
        // What is mount for a native program is something harmless here, and the other way round.
        check(165, 0, ALLOW);
        assert_eq!(answer(NATIVE, 21, 0), ALLOW);
    }
}
