//! A file or directory as it is, written as a layer: what a mount of it shows.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{Entry, EntryPath, Kind, LayerWriter, Timestamp};

use super::select::Selected;
use super::tree::Node;
use super::walk::{Found, Walk};
use crate::error::{Cause, Error, Result};

/// Writes `selected`, and what is in it, under the name `name`. Times of a context become `epoch`, as in a COPY.
///
/// # Errors
/// When a file cannot be read or changes meanwhile, or the writer fails.
pub(crate) fn write_tree<W: Write>(
    selected: &Selected,
    name: &str,
    epoch: i64,
    check: &dyn Fn() -> Result<()>,
    writer: &mut LayerWriter<W>,
) -> Result<()> {
    let top = EntryPath::root().join(name.as_bytes());
    let mut tree = Tree { selected, epoch, writer, links: BTreeMap::new() };
    tree.write(&selected.path, top.clone(), &selected.node)?;
    if selected.node.entry.kind != Kind::Directory {
        return Ok(());
    }
    let mut walk = Walk::new(selected, Arc::new(Ignore::parse("").0))?;
    while let Some(Found { relative, node, .. }) = walk.next()? {
        check()?;
        let source = node.entry.path.clone();
        tree.write(&source, below(&top, &relative), &node)?;
    }
    Ok(())
}

struct Tree<'a, W: Write> {
    selected: &'a Selected,
    epoch: i64,
    writer: &'a mut LayerWriter<W>,
    /// First name of every file that has several.
    links: BTreeMap<(u64, u64), EntryPath>,
}

impl<W: Write> Tree<'_, W> {
    fn write(&mut self, source: &EntryPath, path: EntryPath, node: &Node) -> Result<()> {
        let mut entry = Entry { path, ..node.entry.clone() };
        // Times of a context depend on who checked it out when; they are no input of a build.
        if self.selected.from.ignore.is_some() || entry.mtime.secs >= self.epoch {
            entry.mtime = Timestamp::from_secs(self.epoch);
        }
        if let Some(why) = entry.path.unfit() {
            return Err(Error::input(format!("cannot copy `{source}` of {}", self.selected.from.what))
                .because(Cause::new(why)));
        }
        let failed = |e| Error::layer(format!("cannot copy `{source}` of {}", self.selected.from.what), e);
        if let Some(first) = node.link.and_then(|id| self.links.get(&id)) {
            entry.kind = Kind::HardLink { target: first.clone() };
            entry.xattrs.clear();
            return self.writer.append(&entry, None).map_err(failed);
        }
        if let Some(id) = node.link {
            self.links.insert(id, entry.path.clone());
        }
        match entry.kind {
            Kind::File { .. } => {
                let mut file = self.selected.from.tree.open(source)?;
                self.writer.append(&entry, Some(&mut file)).map_err(failed)
            }
            _ => self.writer.append(&entry, None).map_err(failed),
        }
    }
}

fn below(top: &EntryPath, relative: &EntryPath) -> EntryPath {
    relative.components().fold(top.clone(), |path, part| path.join(part))
}
