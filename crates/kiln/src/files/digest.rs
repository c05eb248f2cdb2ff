//! What a COPY would take, as a hash: for cache keys, before anything is copied.

use std::io::Read as _;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::Hasher;
use kiln_oci::layer::{EntryPath, Kind};

use super::select::Selected;
use super::tree::Node;
use super::walk::Walk;
use crate::error::{Error, Result};

/// Hashes what a COPY would take from `selected`: paths, kinds, modes, owners, links and contents, but no times.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn digest(selected: &Selected, exclude: &Arc<Ignore>, hasher: &mut Hasher) -> Result<()> {
    hasher.field(&selected.name);
    digest_node(selected, &selected.path, &EntryPath::root(), &selected.node, hasher)?;
    if selected.node.entry.kind != Kind::Directory {
        return Ok(());
    }
    let mut walk = Walk::new(selected, Arc::clone(exclude))?;
    while let Some(found) = walk.next()? {
        let path = found.node.entry.path.clone();
        digest_node(selected, &path, &found.relative, &found.node, hasher)?;
    }
    Ok(())
}

fn digest_node(
    selected: &Selected,
    path: &EntryPath,
    relative: &EntryPath,
    node: &Node,
    hasher: &mut Hasher,
) -> Result<()> {
    let entry = &node.entry;
    hasher.field(relative.as_bytes());
    hasher.field(
        format!("{:?} {:o} {} {}", std::mem::discriminant(&entry.kind), entry.mode, entry.uid, entry.gid)
            .as_bytes(),
    );
    for (name, value) in &entry.xattrs {
        hasher.field(name.as_bytes());
        hasher.field(value);
    }
    match &entry.kind {
        Kind::File { size: 0 } => hasher.field(&0_u64.to_le_bytes()),
        Kind::File { size } => {
            hasher.field(&size.to_le_bytes());
            let mut file = selected.from.tree.open(path)?;
            let mut buf = vec![0; 128 << 10];
            loop {
                let n = file.read(&mut buf).map_err(|e| {
                    Error::input(format!("cannot read `{path}` in {}", selected.from.what)).because(e)
                })?;
                if n == 0 {
                    break;
                }
                hasher.update(&buf[..n]);
            }
        }
        Kind::Symlink { target } => hasher.field(target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            hasher.field(&major.to_le_bytes());
            hasher.field(&minor.to_le_bytes());
        }
        Kind::Directory | Kind::Fifo | Kind::HardLink { .. } => {}
    }
    Ok(())
}
