//! `/dev`, `/proc` and `/sys` as commands expect them, without what they must not touch.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::root::{attach, c_string, clone_tree};
use super::targets::{Ground, Targets, file_type};
use crate::error::{Context as _, Error};
use crate::isolation::ProcMount;
use crate::sys::{self, MountAttributes};

const INERT: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Devices that are harmless to everybody. They are bound from outside, because no user namespace may make one.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

const LINKS: [(&str, &str); 6] = [
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// What is covered by nothing.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/interrupts",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// What can be read only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Mounts `/dev`.
pub(super) fn dev(targets: &mut Targets, shm_size: u64) -> Result<(), Error> {
    let target = targets.ground(Path::new("/dev"), Ground::Directory)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", &target, flags, "mode=755,size=65536k").step_at("mount memory on", "/dev")?;
    let dev = targets.open(Path::new("/dev")).step_at("open", "/dev")?;
    for name in DEVICES {
        let source = Path::new("/dev").join(name);
        match clone_tree(CWD, &source, false) {
            // A container may lack some of them, and most commands need none.
            Err(Errno::NOENT) => {}
            tree => {
                let tree = tree.step_at("bind the device", &source)?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let file = rustix::fs::openat(&dev, name, flags, Mode::from_raw_mode(0o666))
                    .step_at("create the device", &source)?;
                attach(&tree, &file).step_at("bind the device", &source)?;
            }
        }
    }
    for (name, text) in LINKS {
        rustix::fs::symlinkat(text, &dev, name).step_at("create the symlink in /dev", name)?;
    }
    let directory = |name: &str| -> Result<OwnedFd, Errno> {
        rustix::fs::mkdirat(&dev, name, Mode::from_raw_mode(0o755))?;
        rustix::fs::openat(&dev, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    };
    let pts = directory("pts").step_at("create", "/dev/pts")?;
    terminals(&pts).step_at("mount terminals on", "/dev/pts")?;
    let shm = directory("shm").step_at("create", "/dev/shm")?;
    mount("tmpfs", &shm, INERT, &format!("mode=1777,size={shm_size}"))
        .step_at("mount memory on", "/dev/shm")?;
    let mqueue = directory("mqueue").step_at("create", "/dev/mqueue")?;
    match mount("mqueue", &mqueue, INERT, "") {
        // Kernels may be built without.
        Err(Errno::NODEV) => Ok(()),
        answer => answer.step_at("mount message queues on", "/dev/mqueue"),
    }
}

fn terminals(pts: &OwnedFd) -> Result<(), Errno> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    let plain = "newinstance,ptmxmode=0666,mode=0620";
    // Group 5 is `tty` by convention; a namespace of one id has no such group.
    match mount("devpts", pts, flags, &format!("{plain},gid=5")) {
        Err(Errno::INVAL) => mount("devpts", pts, flags, plain),
        answer => answer,
    }
}

fn mount(kind: &str, target: &OwnedFd, flags: MountFlags, data: &str) -> Result<(), Errno> {
    rustix::mount::mount(kind, sys::proc_fd(target), kind, flags, c_string(data).as_c_str())
}

/// Mounts `/proc`, or binds the surrounding one where the kernel refuses because parts of that are hidden from kiln.
pub(super) fn proc(targets: &mut Targets, wanted: ProcMount, fall_back: bool) -> Result<ProcMount, Error> {
    let path = Path::new("/proc");
    let target = targets.ground(path, Ground::Directory)?;
    if wanted == ProcMount::Fresh {
        match mount("proc", &target, INERT, "") {
            Ok(()) => return Ok(ProcMount::Fresh),
            Err(Errno::PERM | Errno::ACCESS) if fall_back => {}
            Err(errno) => return Err(errno).step_at("mount processes on", path),
        }
    }
    let tree = clone_tree(CWD, path, true).step_at("bind the surrounding", path)?;
    attach(&tree, &target).step_at("bind the surrounding", path)?;
    Ok(ProcMount::Rbind)
}

/// Binds `/sys`, read-only. A fresh one would need an own network namespace, and shows no less.
pub(super) fn sys(targets: &mut Targets) -> Result<(), Error> {
    let path = Path::new("/sys");
    let tree = match clone_tree(CWD, path, true) {
        Err(Errno::NOENT) => return Ok(()),
        tree => tree.step_at("bind", path)?,
    };
    let attributes = MountAttributes::READ_ONLY.and(MountAttributes::INERT).and(MountAttributes::NO_EXEC);
    sys::mount_setattr(&tree, true, attributes).step_at("write-protect", path)?;
    let target = targets.ground(path, Ground::Directory)?;
    attach(&tree, &target).step_at("bind", path)
}

/// Covers what gives the machine away or changes it.
pub(super) fn mask(targets: &Targets) -> Result<(), Error> {
    for name in MASKED {
        let path = Path::new(name);
        let Some(target) = present(targets, path)? else { continue };
        let is_dir = file_type(&target).step_at("look at", path)? == FileType::Directory;
        let cover = if is_dir { empty() } else { clone_tree(CWD, Path::new("/dev/null"), false) };
        cover.and_then(|cover| attach(&cover, &target)).step_at("mask", path)?;
    }
    for name in READ_ONLY {
        let path = Path::new(name);
        let Some(target) = present(targets, path)? else { continue };
        let tree = clone_tree(&target, Path::new(""), true).step_at("write-protect", path)?;
        sys::mount_setattr(&tree, true, MountAttributes::READ_ONLY).step_at("write-protect", path)?;
        attach(&tree, &target).step_at("write-protect", path)?;
    }
    Ok(())
}

/// Returns an empty directory to cover another with. Before Linux 6.15 a detached copy of a mount cannot be copied again, so
/// each is one of the directory on the stage.
fn empty() -> Result<OwnedFd, Errno> {
    let empty = clone_tree(CWD, Path::new("e"), false)?;
    sys::mount_setattr(&empty, false, MountAttributes::READ_ONLY.and(MountAttributes::INERT))?;
    Ok(empty)
}

fn present(targets: &Targets, path: &Path) -> Result<Option<OwnedFd>, Error> {
    match targets.open(path) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno).step_at("look for", path),
    }
}
