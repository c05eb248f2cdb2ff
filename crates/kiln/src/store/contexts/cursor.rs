//! A place in an index: goes forward with a walk, and finds its way with the table when the walk begins elsewhere.

use std::sync::Arc;

use super::format::{Index, Known, entry, is_below, order};

/// A place in an index. Its memory is one block.
#[derive(Debug)]
pub(super) struct Cursor {
    index: Arc<Index>,
    /// The block that is in `bytes`.
    block: Option<usize>,
    bytes: Vec<u8>,
    /// Where in `bytes` the entry after the current one begins.
    next: usize,
    ordinal: u32,
    path: Vec<u8>,
    current: Option<Known>,
    /// What was sought last, and whether all below it was passed over: every entry before the current one is before that.
    sought: Option<(Vec<u8>, bool)>,
}

impl Cursor {
    pub(super) fn new(index: Arc<Index>) -> Self {
        let (bytes, path) = (Vec::new(), Vec::new());
        Self { index, block: None, bytes, next: 0, ordinal: 0, path, current: None, sought: None }
    }

    /// Goes to the first entry.
    pub(super) fn first(&mut self) {
        self.sought = None;
        self.load(0);
    }

    /// Returns path, number and content of the current entry; none at the end.
    pub(super) fn current(&self) -> Option<(&[u8], u32, &Known)> {
        self.current.as_ref().map(|known| (self.path.as_slice(), self.ordinal, known))
    }

    /// Goes to the next entry.
    pub(super) fn advance(&mut self) {
        self.ordinal += 1;
        self.decode();
    }

    /// Returns what is known of `path`, with the number of the entry.
    pub(super) fn find(&mut self, path: &[u8]) -> Option<(u32, Known)> {
        self.seek(path, false);
        let known = self.current.filter(|_| self.path == path)?;
        Some((self.ordinal, known))
    }

    /// Goes to the first entry that is not before `path`, or not before what comes after all below it (`past`); returns
    /// its number.
    pub(super) fn seek(&mut self, path: &[u8], past: bool) -> u32 {
        let before = |entry: &[u8]| order(entry, path).is_lt() || (past && is_below(entry, path));
        let forward = self
            .sought
            .as_ref()
            .is_some_and(|(last, past)| order(path, last).is_ge() && !(*past && is_below(path, last)));
        if !forward || self.block.is_some_and(|block| self.index.first(block + 1).is_some_and(before)) {
            let block = self.index.block_of(before);
            if !forward || self.block != Some(block) {
                self.load(block);
            }
        }
        while self.current.is_some() && before(&self.path) {
            self.advance();
        }
        match &mut self.sought {
            Some((last, all)) => {
                last.clear();
                last.extend_from_slice(path);
                *all = past;
            }
            none => *none = Some((path.to_vec(), past)),
        }
        self.ordinal
    }

    /// Goes to the first entry of a block.
    fn load(&mut self, block: usize) {
        self.block = Some(block);
        self.index.load(block, &mut self.bytes);
        self.next = 0;
        self.ordinal = self.index.before(block);
        self.path.clear();
        self.decode();
    }

    /// Reads the entry at `next`; blocks that are torn are passed over.
    fn decode(&mut self) {
        while let Some(block) = self.block {
            let rest = self.bytes.get(self.next..).unwrap_or_default();
            if !rest.is_empty()
                && let Some((known, length)) = entry(rest, &mut self.path)
            {
                self.next += length;
                self.current = Some(known);
                return;
            }
            if block + 1 >= self.index.blocks() {
                break;
            }
            self.block = Some(block + 1);
            self.index.load(block + 1, &mut self.bytes);
            self.next = 0;
            self.ordinal = self.index.before(block + 1);
            self.path.clear();
        }
        self.ordinal = self.index.entries();
        self.current = None;
    }
}
