//! The entries of layers that nobody unpacked: enough to answer what a destination holds.
//!
//! A chain of a thousand COPYs asks a thousand times, each time of one layer more. So indexes of a chain are kept as
//! a counter keeps its digits: one is added on top, and two that cover equally many layers become one. What is asked
//! looks into a few large indexes instead of a thousand small ones, and every entry is moved a few times at most.
//! Stages that part share what is below.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use kiln_oci::layer::{Entry, EntryPath, Kind, LayerReader, Whiteout};

/// The entries of one layer, or of several on top of each other, without their contents.
#[derive(Debug, Default, Clone)]
pub(crate) struct LayerIndex {
    entries: BTreeMap<EntryPath, Entry>,
    removed: BTreeSet<EntryPath>,
    opaque: BTreeSet<EntryPath>,
}

/// What layers say of a path.
pub(super) enum Hit {
    /// It is this.
    Entry(Entry),
    /// It does not exist, whatever is below.
    Gone,
    /// Nothing: ask what is below.
    NotHere,
}

impl LayerIndex {
    /// Reads the entries of a layer.
    pub(crate) fn read<R: Read>(
        mut reader: LayerReader<R>,
    ) -> std::result::Result<Self, kiln_oci::layer::Error> {
        let mut index = Self::default();
        while let Some((entry, _)) = reader.next()? {
            match entry.path.whiteout() {
                Ok(Some(Whiteout::Remove(path))) => drop(index.removed.insert(path)),
                Ok(Some(Whiteout::Opaque(path))) => drop(index.opaque.insert(path)),
                Ok(Some(Whiteout::Metadata)) | Err(_) => {}
                Ok(None) => drop(index.entries.insert(entry.path.clone(), entry)),
            }
        }
        Ok(index)
    }

    fn get(&self, path: &EntryPath) -> Hit {
        if let Some(entry) = self.entries.get(path) {
            let mut entry = entry.clone();
            // What a hard link names does not matter to a destination, only that it is no directory.
            if matches!(entry.kind, Kind::HardLink { .. }) {
                entry.kind = Kind::File { size: 0 };
            }
            return Hit::Entry(entry);
        }
        if self.removed.contains(path) {
            return Hit::Gone;
        }
        let mut at = path.parent();
        while let Some(dir) = at {
            let covered = self.entries.get(&dir).is_some_and(|e| e.kind != Kind::Directory);
            if covered || self.removed.contains(&dir) || self.opaque.contains(&dir) {
                return Hit::Gone;
            }
            at = dir.parent();
        }
        Hit::NotHere
    }

    /// Puts `upper` on top: the result answers as the two do one after the other.
    fn cover(&mut self, upper: &Self) {
        for path in &upper.removed {
            self.entries.remove(path);
            self.forget_below(path);
        }
        for path in &upper.opaque {
            self.forget_below(path);
        }
        for (path, entry) in &upper.entries {
            let replaced = self.entries.insert(path.clone(), entry.clone());
            if entry.kind != Kind::Directory {
                self.forget_below(path);
            } else if replaced.is_some_and(|old| old.kind != Kind::Directory) {
                // The file hid what is below; the directory in its place shows none of it.
                self.removed.insert(path.clone());
            }
        }
        self.removed.extend(upper.removed.iter().cloned());
        self.opaque.extend(upper.opaque.iter().cloned());
    }

    /// Drops the entries below `path`, but not its own.
    fn forget_below(&mut self, path: &EntryPath) {
        // Paths order by component, so what is below stands together, behind the directory itself.
        let below = self.entries.range(path.clone()..).map(|(p, _)| p);
        let below: Vec<EntryPath> = below.take_while(|p| p.starts_with(path)).cloned().collect();
        for gone in below.iter().filter(|p| *p != path) {
            self.entries.remove(gone);
        }
    }
}

/// The indexes of the layers of a chain; cheap to clone.
#[derive(Debug, Default, Clone)]
pub(crate) struct LayerIndexes {
    /// Bottom first, each with the number of layers that it covers: powers of two that shrink.
    indexes: Vec<(usize, Arc<LayerIndex>)>,
}

impl LayerIndexes {
    /// Returns the chain with one layer more on top.
    pub(crate) fn with(&self, top: LayerIndex) -> Self {
        let mut indexes = self.indexes.clone();
        let (mut size, mut top) = (1, top);
        while let Some((_, below)) = indexes.pop_if(|(covered, _)| *covered == size) {
            let mut merged = Arc::unwrap_or_clone(below);
            merged.cover(&top);
            (size, top) = (2 * size, merged);
        }
        indexes.push((size, Arc::new(top)));
        Self { indexes }
    }

    /// Tells whether there is no layer.
    pub(super) fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// Returns what the topmost layer that knows `path` says of it.
    pub(super) fn get(&self, path: &EntryPath) -> Hit {
        let hits = self.indexes.iter().rev().map(|(_, index)| index.get(path));
        hits.into_iter().find(|hit| !matches!(hit, Hit::NotHere)).unwrap_or(Hit::NotHere)
    }

    /// Tells whether some layer hides what the layers below it have in this directory.
    pub(super) fn is_opaque(&self, path: &EntryPath) -> bool {
        self.indexes.iter().any(|(_, index)| index.opaque.contains(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an index from names: `d/` is a directory, `-p` removes, `=d` hides what is below.
    fn index(names: &[&str]) -> LayerIndex {
        let mut index = LayerIndex::default();
        for name in names {
            let path = |text: &str| EntryPath::new(text).unwrap();
            match (name.strip_prefix('-'), name.strip_prefix('='), name.strip_suffix('/')) {
                (Some(gone), ..) => drop(index.removed.insert(path(gone))),
                (_, Some(hides), _) => drop(index.opaque.insert(path(hides))),
                (_, _, Some(dir)) => {
                    let entry = Entry::new(path(dir), Kind::Directory, 0o755);
                    index.entries.insert(path(dir), entry);
                }
                _ => {
                    let entry = Entry::new(path(name), Kind::File { size: 1 }, 0o644);
                    index.entries.insert(path(name), entry);
                }
            }
        }
        index
    }

    fn answer(hit: Hit) -> &'static str {
        match hit {
            Hit::Entry(entry) if entry.kind == Kind::Directory => "directory",
            Hit::Entry(_) => "file",
            Hit::Gone => "gone",
            Hit::NotHere => "not here",
        }
    }

    /// Asks layer after layer, which is what every chain has to answer like.
    fn one_by_one(layers: &[&[&str]], path: &EntryPath) -> &'static str {
        let hits = layers.iter().rev().map(|names| answer(index(names).get(path)));
        hits.into_iter().find(|hit| *hit != "not here").unwrap_or("not here")
    }

    #[test]
    fn a_chain_answers_as_its_layers_one_by_one() {
        const ALL: [&[&str]; 12] = [
            &["a/", "a/b", "c"],
            &["-a/b"],
            &["a/b/", "a/b/x"],
            &["-a"],
            &["a/", "=a", "a/y"],
            &["a"],
            &["a/"],
            &["a/", "a/b/", "a/b/x", "-a/b", "a-b"],
            &["-c", "-a/b/x"],
            &["a/b"],
            &["=a/b", "a/b/z"],
            &[],
        ];
        let asked = ["", "a", "a/b", "a/b/x", "a/b/z", "a/y", "a-b", "c", "c/d", "e"];
        for seed in 0..500_usize {
            let picked: Vec<&[&str]> =
                (0..9).map(|i| ALL[(seed * 7 + seed / 5 * i * i + i * 5) % 12]).collect();
            let chain = picked.iter().fold(LayerIndexes::default(), |chain, names| chain.with(index(names)));
            assert_eq!(chain.indexes.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [8, 1]);
            for path in asked {
                let path = EntryPath::new(path).unwrap();
                assert_eq!(answer(chain.get(&path)), one_by_one(&picked, &path), "`{path}` in {picked:?}");
            }
        }
    }

    #[test]
    fn stages_that_part_share_what_is_below() {
        let common = LayerIndexes::default().with(index(&["a"]));
        let (left, right) = (common.with(index(&["l"])), common.with(index(&["r"])));
        let l = EntryPath::new("l").unwrap();
        assert_eq!((answer(left.get(&l)), answer(right.get(&l))), ("file", "not here"));
        assert_eq!(answer(right.get(&EntryPath::new("a").unwrap())), "file");
        assert!(LayerIndexes::default().is_empty() && !common.is_empty());
    }
}
