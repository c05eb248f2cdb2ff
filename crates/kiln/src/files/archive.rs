//! Archives that ADD unpacks: recognised by content, unpacked into the store's temporary folder, read as a tree.
//!
//! Entries of an archive come in any order, and a layer is sorted. A directory sorts them without memory, and
//! [`crate::snapshot`] knows how owners, devices and attributes are kept in one, whoever runs kiln. It is removed when
//! the last stream that reads it is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{EntryPath, Form, Kind, LayerReader, Limits};

use super::dest::Destination;
use super::proof::{Packed, Proof};
use super::select::{Selected, SourceTree};
use super::tree::{Node, Tree as _, ViewTree, resolve};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::snapshot;
use crate::store::PendingSnapshot;

/// Tells whether ADD unpacks a file: it is a tar archive with at least one entry, plain or compressed.
pub(super) fn is_archive(selected: &Selected) -> bool {
    if !matches!(selected.node.entry.kind, Kind::File { size: 1.. }) {
        return false;
    }
    // What cannot be read fails where it is copied, with a better message.
    selected.from.tree.open(&selected.path).is_ok_and(kiln_oci::layer::is_archive)
}

/// The files of an archive.
pub(super) struct Unpacked {
    tree: SourceTree,
    implied: BTreeSet<EntryPath>,
    _directory: PendingSnapshot,
}

impl Unpacked {
    /// Unpacks the file `selected`.
    pub(super) fn new(selected: &Selected, engine: &Engine) -> Result<Self> {
        let name = format!("`{}` of {}", selected.path, selected.from.what);
        let failed = |e: Error| e.within(format!("cannot unpack {name}"));
        let limits = Limits { max_unpacked: engine.limits.layer_size, ..Limits::default() };
        let mut proof = Proof::begin(selected, &Ignore::default());
        proof.as_mut().map_or(Ok(()), Proof::end)?;
        let file = Packed::open(&selected.from, &selected.path, proof.as_mut())?;
        let reader = LayerReader::threaded_as(Form::Archive, file, limits)
            .map_err(|e| Error::input(format!("cannot read {name}")).because(e))?;
        let directory = engine.store.begin_snapshot()?;
        let unpacked = snapshot::unpack(reader, &directory.fs(), &engine.ids()).map_err(|e| {
            let limit = matches!(&e, snapshot::Error::Layer(kiln_oci::layer::Error::Limit { .. }));
            let error = failed(e.into());
            if limit {
                error.hint("raise the limit with `--max-layer-size SIZE` if you trust the archive")
            } else {
                error.hint("write `ADD --unpack=false` to copy the archive as it is")
            }
        })?;
        Packed::open(&selected.from, &selected.path, proof.as_mut())?.verify()?;
        snapshot::write_owners(&directory.fs(), &unpacked.owners, unpacked.recorded > 0)?;
        engine.cancel.check()?;
        let tree = SourceTree {
            tree: Arc::new(ViewTree::new(vec![directory.fs()], engine.ids())?),
            ignore: None,
            ignore_file: None,
            what: name,
        };
        Ok(Self { tree, implied: unpacked.implied.into_iter().collect(), _directory: directory })
    }

    pub(super) fn tree(&self) -> &SourceTree {
        &self.tree
    }

    /// Tells whether the archive has no entry for this directory.
    pub(super) fn is_implied(&self, path: &EntryPath) -> bool {
        self.implied.contains(path)
    }

    /// Returns everything below the directory `top` as something to walk through.
    pub(super) fn select(&self, top: EntryPath) -> Selected {
        let node = Node::new(kiln_oci::layer::Entry::new(top.clone(), Kind::Directory, 0o755));
        Selected { from: self.tree.clone(), name: top.name().to_vec(), path: top, node, include: None }
    }

    /// Returns implied directories that are links at the destination `to`, with the directories they lead to.
    pub(super) fn through_links(
        &self,
        to: &EntryPath,
        dest: &Destination,
    ) -> Result<Vec<(EntryPath, EntryPath)>> {
        let mut found: Vec<(EntryPath, EntryPath)> = Vec::new();
        for implied in &self.implied {
            let (top, to) = found
                .iter()
                .rev()
                .find(|(top, _)| implied.starts_with(top))
                .cloned()
                .unwrap_or((EntryPath::root(), to.clone()));
            let below = implied.components().skip(top.components().count());
            let path = below.fold(to, |path, name| path.join(name));
            let there = dest.stat(&path)?.map(|n| n.entry.kind);
            if !matches!(there, Some(Kind::Symlink { .. })) {
                continue;
            }
            let real = resolve(dest, &path)?;
            if !real.is_root() && dest.stat(&real)?.is_none_or(|n| n.entry.kind != Kind::Directory) {
                return Err(Error::input(format!(
                    "cannot unpack into `/{path}`: it is a symbolic link to `/{real}`, which is no directory"
                )));
            }
            found.push((implied.clone(), real));
        }
        Ok(found)
    }
}
