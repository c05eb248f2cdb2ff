//! Registers emulators in the user namespace of the sandbox.
//!
//! The kernel looks for a `binfmt_misc` from a process's namespace outwards, and takes the first that it finds. This one is mounted
//! nowhere: pid 1 holds it open, the command cannot see or change it, and it ends with pid 1.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::error::{Context as _, Error};
use crate::foreign::{Emulator, Format, for_the_machine};

/// Registers the emulators while paths of the machine can still be reached. They last as long as what is returned is open.
pub(super) fn register(emulators: &[Emulator]) -> Result<Option<OwnedFd>, Error> {
    let Some(first) = emulators.first() else { return Ok(None) };
    let mounted = mount().map_err(|errno| refused(&first.architecture, errno))?;
    for emulator in emulators {
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let written = rustix::fs::openat(&mounted, "register", flags, Mode::empty())
            .and_then(|register| rustix::io::write(&register, line(emulator)?.as_bytes()));
        written.step_at("register the emulator", &emulator.program).map_err(|error| {
            match error.errno.map(Errno::from_raw_os_error) {
                Some(Errno::ACCESS | Errno::NOENT) => error
                    .cause("the sandbox's user may not read it")
                    .hint("put it where everybody may enter and read, such as /usr/bin"),
                _ => error,
            }
        })?;
    }
    Ok(Some(mounted))
}

fn mount() -> Result<OwnedFd, Errno> {
    let context = fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Writes what the kernel reads: `:name:M:offset:magic:mask:interpreter:flags`.
///
/// Flag F opens the interpreter now, C gives a set-user-id program its rights, P tells the interpreter the name that a program
/// was called by.
fn line(emulator: &Emulator) -> Result<String, Errno> {
    let format = Format::of(&emulator.architecture).ok_or(Errno::INVAL)?;
    let escaped = |bytes: [u8; 20]| bytes.map(|byte| format!("\\x{byte:02x}")).concat();
    let (magic, mask) = format.magic();
    let program = emulator.program.to_str().filter(|path| !path.contains(':')).ok_or(Errno::INVAL)?;
    let name = if emulator.keeps_names { "P" } else { "" };
    Ok(format!(":kiln-{}:M::{}:{}:{program}:{name}OCF", emulator.architecture, escaped(magic), escaped(mask)))
}

fn refused(architecture: &str, errno: Errno) -> Error {
    let error = Error::new(format!("register an emulator for `{architecture}`")).errno(errno);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match errno {
        Errno::NODEV if !is_before_6_7(&release) => error
            .cause("this kernel has no binfmt_misc, or has not loaded it")
            .hint("load it as root: modprobe binfmt_misc"),
        Errno::NODEV | Errno::PERM | Errno::ACCESS if is_before_6_7(&release) => error
            .cause(format!("Linux {release} has emulators for the whole machine only; 6.7 is the first that has them for a sandbox"))
            .hint(for_the_machine(architecture)),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => error
            .cause("a policy of this machine forbids it")
            .hint(for_the_machine(architecture)),
        _ => error,
    }
}

fn is_before_6_7(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (6, 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emulator_is_one_line() {
        let emulator = |program: &str, keeps_names| Emulator {
            architecture: "arm64".to_owned(),
            program: program.into(),
            keeps_names,
        };
        let written = line(&emulator("/usr/bin/qemu-aarch64-static", true)).unwrap();
        assert!(written.starts_with(":kiln-arm64:M::\\x7f\\x45\\x4c\\x46\\x02\\x01\\x01\\x00"), "{written}");
        assert!(written.ends_with("\\xff:/usr/bin/qemu-aarch64-static:POCF"), "{written}");
        assert!(line(&emulator("/q", false)).unwrap().ends_with(":/q:OCF"));
        assert_eq!(line(&emulator("/a:b", true)), Err(Errno::INVAL));
    }

    #[test]
    fn kernels_are_compared_by_numbers() {
        for (release, expect) in
            [("6.6.99-lts", true), ("6.7.0", false), ("6.18.44", false), ("5.15.0-1", true)]
        {
            assert_eq!(is_before_6_7(release), expect, "{release}");
        }
    }
}
