//! The root file system itself as one tar file.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};

use kiln_oci::layer::{EntryPath, Kind, tar_header, tar_padding};

use super::write::{TAR_END, Update};
use super::{Job, shown};
use crate::error::{Error, FileContext as _, Result};
use crate::files::ViewTree;
use crate::request::Destination;

/// Returns the merged files of the image.
pub(super) fn view(job: &Job<'_>) -> Result<ViewTree> {
    let dirs = job.engine.all_files(&job.rootfs.layers)?;
    ViewTree::new(dirs, job.engine.ids())
}

/// Writes the merged files as one tar, with the image's owners.
pub(super) fn tar(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let tree = view(job)?;
    let mut update = Update::create(dest, job.stdout)?;
    let here = update.path();
    let mut links = BTreeMap::new();
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
        let header =
            tar_header(&entry).map_err(|e| Error::environment("cannot write the tar file").because(e))?;
        update.write_all(&header).on("write", here)?;
        if let Kind::File { size } = entry.kind {
            let mut file = tree.view().open_node(&visited.node)?;
            let copied = io::copy(&mut (&mut file).take(size), &mut update).on("write", here)?;
            if copied != size {
                return Err(Error::environment(format!("`{}` changed while it was read", entry.path)));
            }
            update.write_all(tar_padding(size)).on("write", here)?;
        }
    }
    update.write_all(&TAR_END).on("write", here)?;
    Ok(match update.finish()? {
        true => format!("written as a root file system to {}", shown(dest)),
        false => format!("unchanged: {} is this root file system already", shown(dest)),
    })
}
