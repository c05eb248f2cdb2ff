//! A piece of the uncompressed stream, compressed on its own.
//!
//! ```text
//! bytes  [ history | data ............ | free ]
//!        0       start               end      capacity
//! ```
//!
//! `history` is the tail of the piece before: deflate may refer back to it, so cutting the stream into pieces
//! costs almost nothing in size.

/// A buffer that is filled once, shared with the threads that hash and compress it, and then reused.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Block {
    pub(super) fn new(history: usize, size: usize) -> Self {
        Self { bytes: vec![0; history + size].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Empties the block for the piece that follows `previous`.
    pub(super) fn restart(&mut self, previous: &Self, history: usize) {
        let tail = previous.data();
        let tail = tail.get(tail.len().saturating_sub(history)..).unwrap_or_default();
        if let Some(to) = self.bytes.get_mut(..tail.len()) {
            to.copy_from_slice(tail);
        }
        self.start = tail.len();
        self.end = tail.len();
    }

    /// Empties the block for the piece that follows its own.
    pub(super) fn rewind(&mut self, history: usize) {
        let from = self.end.saturating_sub(history).max(self.start);
        let length = self.end - from;
        self.bytes.copy_within(from..self.end, 0);
        self.start = length;
        self.end = length;
    }

    /// Returns the end of the piece before.
    pub(super) fn history(&self) -> &[u8] {
        self.bytes.get(..self.start).unwrap_or_default()
    }

    /// Returns the piece.
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    /// Returns room for at most what is left of `size` bytes.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        let end = (self.start + size).min(self.bytes.len());
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Adds the first `count` bytes of the room to the piece.
    pub(super) fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }
}
