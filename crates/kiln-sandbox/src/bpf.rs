//! The words that classic BPF programs of seccomp are written in.
//!
//! A program sees `struct seccomp_data` and answers with one of the `SECCOMP_RET_*` values:
//!
//! ```text
//! 0 number   4 architecture   8 instruction   16 first argument … 56 sixth argument, 64 bits each
//! ```
//!
//! All machines that kiln is built for are little-endian, so the low half of an argument comes first.

use libc::{c_long, sock_filter};

pub(crate) const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
pub(crate) const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
pub(crate) const IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
pub(crate) const IF_AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
/// Goes on so many instructions further.
pub(crate) const SKIP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
pub(crate) const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where the number of the call is.
pub(crate) const NUMBER: u32 = 0;
/// Where the `AUDIT_ARCH_*` of the caller is.
pub(crate) const ARCHITECTURE: u32 = 4;

pub(crate) const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
pub(crate) const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
pub(crate) const PERMISSION: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
pub(crate) const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
/// Asks the supervisor behind the listener of this filter.
pub(crate) const NOTIFY: u32 = libc::SECCOMP_RET_USER_NOTIF;

/// `AUDIT_ARCH_*` of the machine that kiln is built for.
#[cfg(target_arch = "x86_64")]
pub(crate) const NATIVE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
pub(crate) const NATIVE: u32 = 0xC000_00B7;
#[cfg(target_arch = "riscv64")]
pub(crate) const NATIVE: u32 = 0xC000_00F3;

/// `AUDIT_ARCH_I386`.
#[cfg(target_arch = "x86_64")]
pub(crate) const I386: u32 = 0x4000_0003;

/// Returns where the low half of an argument is; the first is 0.
pub(crate) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

/// Returns the number of a call as the program sees it.
pub(crate) fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

pub(crate) fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}

/// Skips `jt` instructions if the condition holds, and `jf` otherwise.
pub(crate) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Appends `body` so that it is run for this call only. It must end with a return on every way, and the number
/// of the call must be what was loaded last.
pub(crate) fn for_call(program: &mut Vec<sock_filter>, call: c_long, body: Vec<sock_filter>) {
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    program.push(jump(IF_EQUAL, number(call), 0, length));
    program.extend(body);
}

/// Appends rules so that they are run for this call interface only. The architecture must be what was loaded last; the rules
/// find the number of the call loaded, and must end with a return on every way.
pub(crate) fn for_architecture(program: &mut Vec<sock_filter>, architecture: u32, rules: Vec<sock_filter>) {
    // A conditional jump goes no further than 255 instructions, and this may be more.
    let length = u32::try_from(rules.len() + 1).unwrap_or(u32::MAX);
    program.extend([jump(IF_EQUAL, architecture, 1, 0), statement(SKIP, length), statement(LOAD, NUMBER)]);
    program.extend(rules);
}

/// Runs a program as the kernel would.
#[cfg(test)]
pub(crate) fn interpret(program: &[sock_filter], arch: u32, call: c_long, arguments: [u64; 6]) -> u32 {
    let (mut at, mut value) = (0, 0);
    loop {
        let step = program[at];
        at += 1;
        let branch = |hit: bool| usize::from(if hit { step.jt } else { step.jf });
        match step.code {
            LOAD => {
                value = match step.k {
                    NUMBER => number(call),
                    ARCHITECTURE => arch,
                    offset => {
                        let argument = arguments[(offset as usize - 16) / 8];
                        u32::try_from(if offset % 8 == 0 { argument & 0xFFFF_FFFF } else { argument >> 32 })
                            .unwrap()
                    }
                }
            }
            AND => value &= step.k,
            IF_EQUAL => at += branch(value == step.k),
            IF_AT_LEAST => at += branch(value >= step.k),
            SKIP => at += step.k as usize,
            RETURN => return step.k,
            code => panic!("no instruction: {code:#x}"),
        }
    }
}
