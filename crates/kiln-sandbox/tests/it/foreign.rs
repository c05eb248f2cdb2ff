//! Programs that are not for this machine's own call interface.

#[cfg(target_arch = "x86_64")]
use std::path::Path;

#[cfg(target_arch = "x86_64")]
use kiln_sandbox::{Exit, RootDir};

use crate::cases::Case;
#[cfg(target_arch = "x86_64")]
use crate::lab::Lab;

#[cfg(target_arch = "x86_64")]
pub(crate) const ALL: &[Case] = &[("programs_of_32_bits", programs_of_32_bits)];
#[cfg(not(target_arch = "x86_64"))]
pub(crate) const ALL: &[Case] = &[];

/// Where such a program is loaded, as linkers do it.
#[cfg(target_arch = "x86_64")]
const BASE: u32 = 0x0804_8000;
/// File header and one program header.
#[cfg(target_arch = "x86_64")]
const HEADERS: u32 = 52 + 32;

/// Makes a static i386 program: it prints `i386`, makes a system call, and exits with the error number that it got.
#[cfg(target_arch = "x86_64")]
fn program(call: u32, first: u32) -> Vec<u8> {
    const CODE: u32 = 50;
    const TEXT: &[u8] = b"i386\n";
    let put = |opcode: u8, value: u32| [&[opcode][..], &value.to_le_bytes()].concat();
    // mov eax, ebx, ecx and edx, each with a number; int 0x80.
    let (eax, ebx, ecx, edx, int) = (0xb8, 0xbb, 0xb9, 0xba, [0xcd, 0x80]);
    let code = [
        put(eax, 4),
        put(ebx, 1),
        put(ecx, BASE + HEADERS + CODE),
        put(edx, 5),
        int.to_vec(),
        put(eax, call),
        put(ebx, first),
        put(ecx, 0),
        int.to_vec(),
        // neg eax; mov ebx, eax; exit.
        vec![0xf7, 0xd8, 0x89, 0xc3],
        put(eax, 1),
        int.to_vec(),
    ]
    .concat();
    assert_eq!(code.len(), CODE as usize);
    let size = HEADERS + CODE + 5;
    let words = |list: &[u32]| list.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    [
        b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec(),
        // Version, entry, program headers, section headers, flags.
        words(&[1, BASE + HEADERS, 52, 0, 0]),
        // Sizes and counts of headers.
        words(&[52 | 32 << 16, 1, 0]),
        // One segment: loaded, from the start of the file, readable and executable.
        words(&[1, 0, BASE, BASE, size, size, 5, 0x1000]),
        code,
        TEXT.to_vec(),
    ]
    .concat()
}

#[cfg(target_arch = "x86_64")]
fn programs_of_32_bits(lab: &Lab) {
    let answers = |call: u32, first: u32| {
        let mut spec = lab.spec("");
        let upper = RootDir::open(&spec.upper).unwrap();
        let mut file = upper.create_file(Path::new("prog"), 0o755).unwrap();
        std::io::Write::write_all(&mut file, &program(call, first)).unwrap();
        drop(file);
        let owner = lab.isolation.disk_id(0);
        upper.chown(Path::new("prog"), owner, owner).unwrap();
        spec.args = vec!["/prog".into()];
        let outcome = lab.execute(&spec);
        (outcome.exit, outcome.output)
    };
    let check = |call: u32, first: u32, errno: i32| {
        assert_eq!(answers(call, first), (Exit::Code(errno), "i386\n".to_owned()), "call {call}");
    };
    if answers(20, 0).0 == Exit::Code(126) {
        println!("left out: programs of 32 bits, because this kernel executes none");
        return;
    }
    // keyctl would join a new keyring, and clone3 would complain of its arguments; personality may randomise no less.
    check(288, 1, libc::EPERM);
    check(435, 0, libc::ENOSYS);
    check(136, 0x0004_0000, libc::EPERM);
    check(136, 0, 0);
}
