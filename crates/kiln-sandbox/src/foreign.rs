//! Programs of other architectures: whether this machine executes them, and by which emulator.
//!
//! From Linux 6.7 on every user namespace can have a `binfmt_misc` of its own. So kiln registers qemu for one command in that
//! command's namespace (`helper/binfmt`): the machine is not configured, nobody else is concerned, and the
//! image needs no qemu, because the kernel keeps the file that was opened at registration (flag F).

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::choice;
use crate::error::Error;
use crate::helper;
use crate::isolation::{Isolation, Mode};
use crate::wire;

/// A qemu that executes the programs of one architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emulator {
    /// The architecture in Go's words, as in platforms.
    pub architecture: String,
    /// The static program on this machine.
    #[serde(with = "wire::path")]
    pub program: PathBuf,
    /// Whether it understands that the kernel tells it the name by which a program was called.
    pub(crate) keeps_names: bool,
}

/// How programs of an architecture are executed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Execution {
    /// By the processor.
    Native,
    /// By an emulator that somebody has registered for the whole machine.
    Machine,
    /// By this one, which has to be in [`crate::ExecSpec::emulators`].
    Emulated(Emulator),
}

/// What the programs of an architecture look like.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// In Go's words.
    architecture: &'static str,
    /// In qemu's.
    qemu: &'static str,
    bits: Bits,
    order: Order,
    /// `EM_*` of elf.h.
    machine: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bits {
    B32 = 1,
    B64 = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

const FORMATS: [Format; 8] = [
    format("amd64", "x86_64", Bits::B64, Order::Little, 62),
    format("arm64", "aarch64", Bits::B64, Order::Little, 183),
    format("arm", "arm", Bits::B32, Order::Little, 40),
    format("386", "i386", Bits::B32, Order::Little, 3),
    format("riscv64", "riscv64", Bits::B64, Order::Little, 243),
    format("ppc64le", "ppc64le", Bits::B64, Order::Little, 21),
    format("s390x", "s390x", Bits::B64, Order::Big, 22),
    format("loong64", "loongarch64", Bits::B64, Order::Little, 258),
];

const fn format(
    architecture: &'static str,
    qemu: &'static str,
    bits: Bits,
    order: Order,
    machine: u16,
) -> Format {
    Format { architecture, qemu, bits, order, machine }
}

/// The first version of qemu that is told names by the kernel.
const KEEPS_NAMES: u32 = 6;

impl Format {
    pub(crate) fn of(architecture: &str) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.architecture == architecture)
    }

    /// Returns the beginning of an executable file, and which bits of it matter: not the OS ABI, and a position-independent
    /// program (type 3) is one as well as another (type 2).
    pub(crate) fn magic(&self) -> ([u8; 20], [u8; 20]) {
        let mut magic = [0; 20];
        magic[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', self.bits as u8, self.order as u8, 1]);
        let mut mask = [0xff; 20];
        mask[7] = 0;
        let (kind, low) = match self.order {
            Order::Little => ([2, 0], 16),
            Order::Big => ([0, 2], 17),
        };
        magic[16..18].copy_from_slice(&kind);
        mask[low] = 0xfe;
        magic[18..].copy_from_slice(&match self.order {
            Order::Little => self.machine.to_le_bytes(),
            Order::Big => self.machine.to_be_bytes(),
        });
        (magic, mask)
    }
}

/// Finds out how programs of `architecture`, in Go's words, are executed here; emulators are looked for in `search`.
///
/// # Errors
/// When they cannot be, with what to install.
pub fn execution(architecture: &str, search: &[PathBuf]) -> Result<Execution, Error> {
    if is_native(architecture) {
        return Ok(Execution::Native);
    }
    let step = || Error::new(format!("execute programs for `{architecture}`"));
    let Some(format) = Format::of(architecture) else {
        let known: Vec<&str> = FORMATS.iter().map(|format| format.architecture).collect();
        return Err(step().cause(format!(
            "this machine is {}, and kiln can have it emulate {} only",
            std::env::consts::ARCH,
            known.join(", ")
        )));
    };
    if is_registered(format, Path::new("/proc/sys/fs/binfmt_misc")) {
        return Ok(Execution::Machine);
    }
    let names = [format!("qemu-{}-static", format.qemu), format!("qemu-{}", format.qemu)];
    let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    let candidates = names.iter().flat_map(|name| search.iter().chain(&usual).map(move |dir| dir.join(name)));
    let mut dynamic = None;
    for program in candidates.filter(|path| path.is_absolute() && path.is_file()) {
        if helper::exec::interpreter(&program).is_some() {
            dynamic.get_or_insert(program);
            continue;
        }
        let keeps_names = version(&program).is_some_and(|version| version >= KEEPS_NAMES);
        return Ok(Execution::Emulated(Emulator {
            architecture: architecture.to_owned(),
            program,
            keeps_names,
        }));
    }
    let install = "install it: the package qemu-user-static of Debian, Ubuntu and Fedora has it";
    Err(match dynamic {
        Some(program) => step()
            .cause(format!("`{}` is linked to libraries that no image has", program.display()))
            .hint(format!("a static one is needed; {install}")),
        None => step()
            .cause(format!("this machine is {}, and there is no `{}`", std::env::consts::ARCH, names[0]))
            .hint(install),
    })
}

/// Tries whether commands of this isolation can be given the emulators, in a sandbox without a command.
///
/// # Errors
/// When the kernel is too old or refuses, with the remedy.
pub fn prove_emulators(isolation: &Isolation, store_dir: &Path, emulators: &[Emulator]) -> Result<(), Error> {
    let Some(first) = emulators.first() else { return Ok(()) };
    if !matches!(isolation.mode, Mode::Userns | Mode::UsernsSingle) {
        return Err(Error::new(format!("execute programs for `{}`", first.architecture))
            .cause(format!("isolation `{}` has no user namespace to register an emulator in", isolation.mode))
            .hint(for_the_machine(&first.architecture)));
    }
    choice::in_a_probe(store_dir, |mut spec| {
        spec.emulators = emulators.to_vec();
        choice::try_out(isolation, spec)
    })
    .map(drop)
}

/// Says how root can make every kernel execute an architecture.
pub(crate) fn for_the_machine(architecture: &str) -> String {
    format!(
        "register an emulator for the whole machine, as root: packages qemu-user-static and binfmt-support, or \
         `docker run --privileged --rm tonistiigi/binfmt --install {architecture}`"
    )
}

fn is_native(architecture: &str) -> bool {
    match (std::env::consts::ARCH, architecture) {
        ("x86_64", "amd64") | ("aarch64", "arm64") | ("riscv64", "riscv64") => true,
        // Kernels can be built without; those that are not have this file.
        ("x86_64", "386") => Path::new("/proc/sys/abi/vsyscall32").exists(),
        _ => false,
    }
}

/// Tells whether the machine has an emulator for a format that works in any root: one with flag F.
fn is_registered(format: &Format, binfmt: &Path) -> bool {
    let entries = std::fs::read_dir(binfmt).into_iter().flatten().flatten();
    let texts = entries.filter_map(|entry| std::fs::read_to_string(entry.path()).ok());
    texts.into_iter().any(|text| serves(&text, format))
}

/// Reads an entry as `binfmt_misc` shows it.
fn serves(entry: &str, format: &Format) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = |text: &str| -> Option<Vec<u8>> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
    };
    let Some(magic) = field("magic ").and_then(bytes) else { return false };
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let (sample, _) = format.magic();
    entry.starts_with("enabled")
        && field("offset ") == Some("0")
        && field("flags:").is_some_and(|flags| flags.contains('F'))
        && magic.len() <= sample.len()
        && magic.iter().zip(&mask).zip(&sample).all(|((magic, mask), sample)| magic & mask == sample & mask)
}

/// Asks a qemu for its version: `qemu-aarch64 version 7.2.22 (…)`.
fn version(program: &Path) -> Option<u32> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut text = String::new();
    let read = child.stdout.take().map(|out| out.take(4096).read_to_string(&mut text));
    let _ = child.wait();
    read?.ok()?;
    let version = text.split("version ").nth(1)?;
    version.split('.').next()?.parse().ok()
}

/// Tells which architecture an executable file is for, in Go's words.
pub(crate) fn architecture_of(path: &Path) -> Option<&'static str> {
    let mut head = [0; 20];
    File::open(path).ok()?.read_exact(&mut head).ok()?;
    let is_like = |format: &&Format| {
        let (magic, mask) = format.magic();
        head.iter().zip(&mask).zip(&magic).all(|((byte, mask), magic)| byte & mask == magic & mask)
    };
    FORMATS.iter().find(is_like).map(|format| format.architecture)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's packages register it.
    const ENTRY: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn what_kiln_registers_is_what_distributions_register() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let (magic, mask) = Format::of("arm64").unwrap().magic();
        assert!(
            ENTRY.contains(&hex(&magic)) && ENTRY.contains(&hex(&mask)),
            "{} {}",
            hex(&magic),
            hex(&mask)
        );
        let (magic, mask) = Format::of("s390x").unwrap().magic();
        assert_eq!(hex(&magic), "7f454c4602020100000000000000000000020016");
        assert_eq!(hex(&mask), "ffffffffffffff00fffffffffffffffffffeffff");
    }

    #[test]
    fn an_emulator_of_the_machine_counts_if_it_works_in_every_root() {
        let check = |entry: &str, architecture: &str, expect: bool| {
            assert_eq!(serves(entry, Format::of(architecture).unwrap()), expect, "{entry} {architecture}");
        };
        check(ENTRY, "arm64", true);
        check(ENTRY, "riscv64", false);
        check(&ENTRY.replace("POCF", "POC"), "arm64", false);
        check(&ENTRY.replace("enabled", "disabled"), "arm64", false);
        check("enabled\ninterpreter /usr/bin/python\nflags: F\nextension .py\n", "arm64", false);
        check("", "arm64", false);
    }

    #[test]
    fn unknown_architectures_are_refused_with_the_known_ones() {
        let error = execution("sparc", &[]).unwrap_err().to_string();
        assert!(error.contains("`sparc`") && error.contains("riscv64"), "{error}");
    }

    #[test]
    fn this_very_program_is_native() {
        let own = architecture_of(&std::env::current_exe().unwrap()).unwrap();
        assert_eq!(execution(own, &[]), Ok(Execution::Native));
    }
}
