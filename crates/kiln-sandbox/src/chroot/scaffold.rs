//! The paths of a root that are not the image's: `/dev`, `/proc`, `/sys`, files of kiln, and the mounts of the step.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::cover::Covers;
use crate::error::{Context as _, Error};
use crate::helper::targets::Ground;
use crate::spec::{ExecSpec, Mount, MountKind, Network};

/// Devices that are harmless to everybody, with their numbers: Documentation/admin-guide/devices.txt of the kernel.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
];

/// Refuses what this rung cannot keep, before anything is touched.
pub(super) fn check(spec: &ExecSpec) -> Result<(), Error> {
    let refuse = |what: &str, cause: &str, hint: &str| Err(Error::new(what).cause(cause).hint(hint));
    if spec.insecure {
        return refuse(
            "run the command with all capabilities",
            "isolation `chroot` has no user namespace that would confine them",
            "leave out `--security=insecure`, or run kiln where `--isolation userns` works",
        );
    }
    if spec.network == Network::Proxy {
        return refuse(
            "give the command a proxy for its network",
            "isolation `chroot` has no network namespace, so that a command could go round it",
            "use `--network=none` or `default`, or run kiln where `--isolation userns` works",
        );
    }
    if !spec.emulators.is_empty() {
        return refuse(
            "execute programs of another architecture",
            "isolation `chroot` has no user namespace to register an emulator in",
            "register one for the whole machine, or run kiln where `--isolation userns` works",
        );
    }
    if spec.shm_size != ExecSpec::SHM_SIZE {
        return refuse(
            "give /dev/shm the size that was asked for",
            "isolation `chroot` has no mounts: the directory is on the store's disk",
            "leave out `--shm-size`, or run kiln where `--isolation userns` works",
        );
    }
    for (index, mount) in spec.mounts.iter().enumerate() {
        if let MountKind::Tmpfs { size: Some(_), .. } = mount.kind {
            return refuse(
                "limit the size of a tmpfs mount",
                "isolation `chroot` has no mounts: the directory is on the store's disk",
                "leave out `size`, or run kiln where `--isolation userns` works",
            );
        }
        let source = |mount: &Mount| match &mount.kind {
            MountKind::Bind { source, readonly: false, .. } => Some(source.clone()),
            _ => None,
        };
        let wanted = source(mount);
        if wanted.is_some() && spec.mounts[..index].iter().any(|other| source(other) == wanted) {
            return refuse(
                "mount one cache at two places",
                "isolation `chroot` has no mounts: the directory itself is moved into the root",
                "give each place a cache of its own, with `id=`",
            );
        }
    }
    Ok(())
}

/// Puts everything in place. What is returned takes it away again when it is dropped.
pub(super) fn build(spec: &ExecSpec) -> Result<Covers, Error> {
    // In this mode the writable layer is the root itself.
    let mut covers = Covers::new(&spec.upper, &spec.work)?;
    devices(&mut covers)?;
    for name in ["/proc", "/sys"] {
        directory(&mut covers, Path::new(name), 0o555)?;
    }
    for (path, content) in &spec.readonly_files {
        file(&mut covers, path, content, (0o644, 0, 0))?;
    }
    for mount in &spec.mounts {
        place(&mut covers, mount)?;
    }
    Ok(covers)
}

fn place(covers: &mut Covers, mount: &Mount) -> Result<(), Error> {
    let path = mount.target.as_path();
    match &mount.kind {
        MountKind::Bind { source, readonly, .. } => {
            let stat = rustix::fs::lstat(source).step_at("look at", source)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Socket => socket(covers, source, path),
                FileType::Directory if !readonly => covers.lend(source, path, Ground::Directory),
                _ if !readonly => covers.lend(source, path, Ground::File),
                _ => Err(Error::new("bind on").path(path).cause("the engine has made no copy of it")),
            }
        }
        MountKind::OverlayDir { .. } => {
            Err(Error::new("mount a stack on").path(path).cause("the engine has made no copy of it"))
        }
        MountKind::Tmpfs { mode, .. } => directory(covers, path, *mode),
        MountKind::File { content, mode, uid, gid } => file(covers, path, content, (*mode, *uid, *gid)),
    }
}

/// Gives a socket a second name inside: who connects to that reaches the one that listens.
fn socket(covers: &mut Covers, source: &Path, path: &Path) -> Result<(), Error> {
    let (bench, name) = covers.workbench();
    rustix::fs::linkat(CWD, source, bench, name, AtFlags::empty()).step_at("link the socket", source)?;
    covers.cover(path, Ground::File)
}

fn directory(covers: &mut Covers, path: &Path, mode: u32) -> Result<(), Error> {
    let (bench, name) = covers.workbench();
    make_directory(bench, name, mode).step_at("create a directory for", path)?;
    covers.cover(path, Ground::Directory)
}

fn make_directory(parent: &OwnedFd, name: &str, mode: u32) -> Result<OwnedFd, Errno> {
    rustix::fs::mkdirat(parent, name, Mode::RWXU)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode & 0o7777))?;
    Ok(dir)
}

/// Writes a file of kiln. It is nobody else's to read until it is complete.
fn file(
    covers: &mut Covers,
    path: &Path,
    content: &[u8],
    (mode, uid, gid): (u32, u32, u32),
) -> Result<(), Error> {
    const STEP: &str = "write the file for";
    let (bench, name) = covers.workbench();
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(bench, name, flags, Mode::empty()).step_at(STEP, path)?;
    let mut file = std::fs::File::from(file);
    std::io::Write::write_all(&mut file, content).step_at(STEP, path)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).step_at(STEP, path)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode & 0o7777)).step_at(STEP, path)?;
    covers.cover(path, Ground::File)
}

/// Makes a `/dev` of its own.
fn devices(covers: &mut Covers) -> Result<(), Error> {
    let path = Path::new("/dev");
    let (bench, name) = covers.workbench();
    let dev = make_directory(bench, name, 0o755).step_at("create", path)?;
    let mut made = true;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_raw_mode(0o666);
        let device = rustix::fs::makedev(major, minor);
        match rustix::fs::mknodat(&dev, name, FileType::CharacterDevice, mode, device) {
            // In a user namespace nobody may: then the helper hands over those of this container.
            Err(Errno::PERM) => {
                made = false;
                rustix::fs::mknodat(&dev, name, FileType::RegularFile, mode, 0)
            }
            answer => answer,
        }
        .step_at("make the device", name)?;
        rustix::fs::chmodat(&dev, name, mode, AtFlags::empty()).step_at("make the device", name)?;
    }
    for (name, text) in LINKS {
        rustix::fs::symlinkat(text, &dev, name).step_at("create the symlink in /dev", name)?;
    }
    make_directory(&dev, "shm", 0o1777).step_at("create", "/dev/shm")?;
    if !made {
        covers.lacks_devices();
    }
    covers.cover(path, Ground::Directory)
}

/// Tells whether the devices of a root can be used: a file system may be mounted without that.
pub(super) fn try_devices(root: &OwnedFd) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(root.as_fd(), "dev/null", flags, Mode::empty())
        .map(drop)
        .step_at("open the device", "/dev/null")
        .map_err(|error| {
            error
                .cause("the store's file system is mounted with `nodev`, or a policy forbids the device")
                .hint("put kiln's store (--store) on a file system without `nodev`")
        })
}
