//! One index out of the old one and what was learnt since.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;

use super::cursor::Cursor;
use super::format::{Index, Known, Writer, order};
use crate::error::{FileContext as _, Result};
use crate::store::Store;

/// A set of entries of an index, by number: 64 KiB for half a million.
#[derive(Debug, Clone, Default)]
pub(super) struct Bits(Vec<u64>);

impl Bits {
    pub(super) fn set(&mut self, bit: u32) {
        let word = bit as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (bit % 64);
    }

    pub(super) fn has(&self, bit: u32) -> bool {
        self.0.get(bit as usize / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            *mine |= theirs;
        }
    }
}

/// An index, and what walks have learnt since it was written.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    pub(super) base: Option<Arc<Index>>,
    /// Which entries of the base lie in directories that were walked.
    pub(super) walked: Vec<(u32, u32)>,
    /// Entries whose file is still what it was.
    pub(super) used: Bits,
    /// Entries that nobody looked at because patterns leave them out.
    pub(super) kept: Bits,
    /// New entries, an index for each walk, the newest last.
    pub(super) runs: Vec<Arc<Index>>,
}

impl Learnt {
    /// Tells whether there is anything to write.
    pub(super) fn has_news(&self) -> bool {
        let gone = |(from, to): &(u32, u32)| (*from..*to).any(|entry| self.is_gone(entry));
        !self.runs.is_empty() || self.walked.iter().any(gone)
    }

    /// Tells whether a walk came by where the file should be and did not find it.
    fn is_gone(&self, entry: u32) -> bool {
        let passed = || self.walked.iter().any(|(from, to)| (*from..*to).contains(&entry));
        !self.used.has(entry) && !self.kept.has(entry) && passed()
    }

    /// Writes everything that is known into one file, and goes on from that; returns where it is.
    pub(super) fn merge(&mut self, store: &Store) -> Result<PathBuf> {
        let path = store.tmp_path();
        let file = create(&path)?;
        let file = self.write(file).on("write", &path)?;
        let index = Index::read(file);
        *self = Self { base: index.map(Arc::new), ..Self::default() };
        Ok(path)
    }

    fn write(&self, file: File) -> std::io::Result<File> {
        let mut writer = Writer::new(file)?;
        let mut sources: Vec<Cursor> =
            self.base.iter().chain(&self.runs).map(|index| Cursor::new(Arc::clone(index))).collect();
        sources.iter_mut().for_each(Cursor::first);
        let mut path = Vec::new();
        loop {
            let least = sources.iter().filter_map(|s| s.current().map(|(path, ..)| path));
            let Some(least) = least.min_by(|a, b| order(a, b)) else { return writer.finish() };
            path.clear();
            path.extend_from_slice(least);
            // What stays of the base unless something newer is known, and what this build has seen.
            let (mut old, mut seen): (Option<Known>, Option<Known>) = (None, None);
            let mut doubtful = false;
            for (place, source) in sources.iter_mut().enumerate() {
                let Some((at, entry, known)) = source.current() else { continue };
                if at != path {
                    continue;
                }
                let known = *known;
                if place == 0 && self.base.is_some() && !self.used.has(entry) {
                    old = Some(known).filter(|_| !self.is_gone(entry));
                } else {
                    // A file that was two things in one build is neither: nothing that was made of it is to be trusted.
                    doubtful |= seen.is_some_and(|s| (s.stamp, s.sum) != (known.stamp, known.sum));
                    seen = Some(known);
                }
                source.advance();
            }
            if let Some(known) = seen.or(old).filter(|_| !doubtful) {
                writer.push(&path, &known)?;
            }
        }
    }
}

/// Creates a file that can be read back.
pub(super) fn create(path: &std::path::Path) -> Result<File> {
    fs::File::options().read(true).write(true).create_new(true).open(path).on("create", path)
}
