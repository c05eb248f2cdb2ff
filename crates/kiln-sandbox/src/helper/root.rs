//! The root that the command sees: overlay, system directories, files, the mounts of the step, then pivot_root.

use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree};

use super::stage::Stage;
use super::system;
use super::targets::{Ground, Targets, file_type};
use super::{binfmt, overlay};
use crate::emulate::Window;
use crate::error::{Context as _, Error};
use crate::isolation::{Isolation, ProcMount};
use crate::spec::{ExecSpec, MountKind};
use crate::sys::{self, MountAttributes};

/// A root that stands.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) stubs: Vec<PathBuf>,
    pub(super) proc: ProcMount,
    /// What could not be had and is not essential, as phrases.
    pub(super) lacking: Vec<String>,
    /// Keeps emulators registered while it is open.
    pub(super) emulators: Option<OwnedFd>,
    /// Where the proxy of the command is to listen.
    pub(super) listener: Option<TcpListener>,
}

/// Builds the root on the stage and moves into it.
pub(super) fn prepare(
    isolation: &Isolation,
    spec: &ExecSpec,
    stage: &Stage,
    probe: bool,
) -> Result<Prepared, Error> {
    overlay::mount(0..stage.layers, &stage.upper, &stage.work.join("w"), "r")?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, "r", flags, Mode::empty()).step("open the new root")?;
    let mut targets = Targets::new(root)?;
    rustix::mount::mount("tmpfs", "t", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0755")
        .step("mount memory for files")?;
    system::dev(&mut targets, spec.shm_size)?;
    let proc = system::proc(&mut targets, isolation.proc, probe)?;
    system::sys(&mut targets)?;
    if !spec.insecure {
        system::mask(&targets)?;
    }
    let mut memory = Memory { window: Window::of(isolation.ids), files: 0 };
    for (path, content) in &spec.readonly_files {
        let file = memory.file(content, 0o644, 0, 0)?;
        let attributes = MountAttributes::READ_ONLY.and(MountAttributes::INERT);
        bind(&file, &mut targets, path, false, Some(attributes))?;
    }
    mount_all(spec, stage, &mut targets, &mut memory)?;
    let emulators = binfmt::register(&spec.emulators)?;
    pivot(targets.root())?;
    if !probe {
        working_directory(&spec.cwd)?;
    }
    Ok(Prepared { stubs: targets.stubs, proc, lacking: Vec::new(), emulators, listener: None })
}

fn mount_all(
    spec: &ExecSpec,
    stage: &Stage,
    targets: &mut Targets,
    memory: &mut Memory,
) -> Result<(), Error> {
    let (mut binds, mut overlays) = (0, 0);
    for mount in &spec.mounts {
        let path = &mount.target;
        match &mount.kind {
            MountKind::Bind { readonly, recursive, .. } => {
                let attributes = MountAttributes::INERT;
                let attributes =
                    if *readonly { attributes.and(MountAttributes::READ_ONLY) } else { attributes };
                bind(Path::new(&format!("b{binds}")), targets, path, *recursive, Some(attributes))?;
                binds += 1;
            }
            MountKind::OverlayDir { readonly, .. } => {
                let target = targets.ground(path, Ground::Directory)?;
                let work = stage.work.join(overlays.to_string());
                let layers = stage.overlays[overlays].clone();
                overlay::mount(layers, &work.join("u"), &work.join("w"), &sys::proc_fd(&target))?;
                if *readonly {
                    protect(targets, path)?;
                }
                overlays += 1;
            }
            MountKind::Tmpfs { size, mode, readonly } => {
                let target = targets.ground(path, Ground::Directory)?;
                let size = size.map_or(String::new(), |size| format!(",size={size}"));
                let data = c_string(&format!("mode={:o}{size}", mode & 0o7777));
                let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
                if *readonly {
                    flags |= MountFlags::RDONLY;
                }
                rustix::mount::mount("tmpfs", sys::proc_fd(&target), "tmpfs", flags, data.as_c_str())
                    .step_at("mount memory on", path)?;
            }
            MountKind::File { content, mode, uid, gid } => {
                let file = memory.file(content, *mode, *uid, *gid)?;
                let attributes = MountAttributes::INERT.and(MountAttributes::READ_ONLY);
                bind(&file, targets, path, false, Some(attributes))?;
            }
        }
    }
    Ok(())
}

/// Makes what was just mounted on `path` read-only; its file system stays as it is.
fn protect(targets: &Targets, path: &Path) -> Result<(), Error> {
    let step = "protect the mount on";
    let mounted = targets.open(path).step_at(step, path)?;
    sys::mount_setattr(&mounted, false, MountAttributes::READ_ONLY).step_at(step, path)
}

pub(super) fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text.replace('\0', "")).unwrap_or_default()
}

/// Binds `source`, relative to the stage, on a path of the root.
fn bind(
    source: &Path,
    targets: &mut Targets,
    path: &Path,
    recursive: bool,
    attributes: Option<MountAttributes<'_>>,
) -> Result<(), Error> {
    let tree = clone_tree(CWD, source, recursive).step_at("bind on", path)?;
    if let Some(attributes) = attributes {
        sys::mount_setattr(&tree, recursive, attributes).step_at("protect the mount on", path)?;
    }
    let is_dir = file_type(&tree).step_at("bind on", path)? == FileType::Directory;
    let target = targets.ground(path, if is_dir { Ground::Directory } else { Ground::File })?;
    attach(&tree, &target).step_at("bind on", path)
}

/// Copies a mount, detached.
pub(super) fn clone_tree(dir: impl AsFd, path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(dir, path, flags)
}

/// Attaches a detached mount on an open file or directory.
pub(super) fn attach(tree: &OwnedFd, target: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// Files that exist in memory only.
#[derive(Debug)]
struct Memory {
    window: Window,
    files: u32,
}

impl Memory {
    fn file(&mut self, content: &[u8], mode: u32, uid: u32, gid: u32) -> Result<PathBuf, Error> {
        let path = Path::new("t").join(self.files.to_string());
        self.files += 1;
        let step = "write a file in memory";
        std::fs::write(&path, content).step(step)?;
        // Of another owner the supervisor knows.
        if self.window.has(Some(uid)) && self.window.has(Some(gid)) {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).step(step)?;
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode & 0o7777)).step(step)?;
        Ok(path)
    }
}

/// Makes the new root the root and lets go of the old one.
fn pivot(root: &OwnedFd) -> Result<(), Error> {
    rustix::process::fchdir(root).step("enter the new root")?;
    match rustix::process::pivot_root(".", ".") {
        // The old root lies over the new one now, at the same place.
        Ok(()) => rustix::mount::unmount(".", UnmountFlags::DETACH).step("let go of the old root")?,
        // Forbidden by a filter, or the old root is the kernel's initial one: cover it and enter.
        Err(Errno::PERM | Errno::INVAL | Errno::NOSYS) => {
            rustix::mount::mount_move(".", "/").step("move the new root into place")?;
            rustix::process::chroot(".").step("enter the new root")?;
        }
        Err(errno) => return Err(errno).step("exchange the root"),
    }
    rustix::process::chdir("/").step("enter the new root")
}

/// Creates the working directory when the image lacks it, as other builders do.
fn working_directory(cwd: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(cwd).step_at("create the working directory", cwd)
}
