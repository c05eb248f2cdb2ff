//! The root file system itself, as a directory or as one tar file.

use std::fs;
use std::path::Path;

use kiln_oci::layer::{Compression, EntryPath, Kind, LayerWriter};
use kiln_sandbox::RootDir;
use kiln_sandbox::rootdir::{Node, Time};

use super::write::Target;
use super::{Job, shown};
use crate::error::{Error, FileContext as _, Result};
use crate::files::ViewTree;
use crate::request::Destination;

fn view(job: &Job<'_>) -> Result<ViewTree> {
    let dirs = job.engine.all_files(&job.rootfs.layers)?;
    ViewTree::new(dirs, job.engine.ids())
}

/// Writes the merged files as one tar, with the image's owners.
pub(super) fn tar(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let failed = |e: kiln_oci::layer::Error| Error::environment("cannot write the tar file").because(e);
    let tree = view(job)?;
    let target = Target::create(dest, job.stdout)?;
    let mut writer = LayerWriter::new(target, Compression::None, 1).map_err(failed)?;
    let mut links = std::collections::BTreeMap::new();
    for visited in tree.view().walk(&EntryPath::root())? {
        job.engine.cancel.check()?;
        let visited = visited?;
        let mut entry = visited.entry;
        if entry.path.is_root() {
            continue;
        }
        let identity = visited.node.identity;
        if identity.links > 1 && !visited.node.is_directory() {
            match links.get(&(identity.device, identity.inode)) {
                Some(first) => {
                    entry.kind = Kind::HardLink { target: Clone::clone(first) };
                    entry.xattrs.clear();
                }
                None => drop(links.insert((identity.device, identity.inode), entry.path.clone())),
            }
        }
        if matches!(entry.kind, Kind::File { .. }) {
            let mut file = tree.view().open_node(&visited.node)?;
            writer.append(&entry, Some(&mut file)).map_err(failed)?;
        } else {
            writer.append(&entry, None).map_err(failed)?;
        }
    }
    writer.finish().map_err(failed)?.sink.finish()?;
    Ok(format!("written as a root file system to {}", shown(dest)))
}

/// Writes the merged files into a directory; owners are set where this user may set them.
pub(super) fn directory(job: &Job<'_>, dest: &Path) -> Result<String> {
    fs::create_dir_all(dest).on("create", dest)?;
    let tree = view(job)?;
    let failed = |e: kiln_sandbox::rootdir::Error| {
        Error::environment(format!("cannot write into `{}`", dest.display())).because(e)
    };
    let root = RootDir::open(dest).map_err(failed)?;
    let mut links: std::collections::BTreeMap<(u64, u64), EntryPath> = std::collections::BTreeMap::new();
    let mut directories = Vec::new();
    let mut foreign = 0_u64;
    for visited in tree.view().walk(&EntryPath::root())? {
        job.engine.cancel.check()?;
        let visited = visited?;
        let entry = visited.entry;
        if entry.path.is_root() {
            continue;
        }
        let path = entry.path.as_path();
        let is_dir = entry.kind == Kind::Directory;
        if let Ok(meta) = root.lstat(path)
            && !(is_dir && meta.kind == kiln_sandbox::rootdir::Kind::Directory)
        {
            root.remove_all(path).map_err(failed)?;
        }
        let identity = visited.node.identity;
        if identity.links > 1 && !is_dir {
            if let Some(first) = links.get(&(identity.device, identity.inode)) {
                root.hardlink(first.as_path(), path).map_err(failed)?;
                continue;
            }
            links.insert((identity.device, identity.inode), entry.path.clone());
        }
        match &entry.kind {
            Kind::Directory => {
                if root.lstat(path).is_err() {
                    root.create_dir(path, 0o700).map_err(failed)?;
                }
            }
            Kind::File { .. } => {
                let mut file = root.create_file(path, 0o600).map_err(failed)?;
                let mut source = tree.view().open_node(&visited.node)?;
                std::io::copy(&mut source, &mut file).on("write", &dest.join(path))?;
            }
            Kind::Symlink { target } => {
                use std::os::unix::ffi::OsStrExt as _;
                root.symlink(Path::new(std::ffi::OsStr::from_bytes(target)), path).map_err(failed)?;
            }
            Kind::Fifo => root.mknod(path, Node::Fifo, 0o600).map_err(failed)?,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. } | Kind::HardLink { .. } => {
                foreign += 1;
                continue;
            }
        }
        if root.chown(path, entry.uid, entry.gid).is_err() && (entry.uid, entry.gid) != (0, 0) {
            foreign += 1;
        }
        let is_link = matches!(entry.kind, Kind::Symlink { .. });
        if is_dir {
            directories.push(entry);
            continue;
        }
        if !is_link {
            root.chmod(path, entry.mode).map_err(failed)?;
        }
        let time = Time { seconds: entry.mtime.secs, nanoseconds: entry.mtime.nanos };
        root.set_times(path, time, time).map_err(failed)?;
    }
    // Last, and the deepest first: a directory may forbid writing, and writing into it changes its time.
    for entry in directories.iter().rev() {
        root.chmod(entry.path.as_path(), entry.mode).map_err(failed)?;
        let time = Time { seconds: entry.mtime.secs, nanoseconds: entry.mtime.nanos };
        root.set_times(entry.path.as_path(), time, time).map_err(failed)?;
    }
    let note = if foreign == 0 {
        String::new()
    } else {
        format!(
            "; {foreign} owners or devices could not be set, because this user may not (`type=tar` keeps them)"
        )
    };
    Ok(format!("written as a root file system to `{}`{note}", dest.display()))
}
