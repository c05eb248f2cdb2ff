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
///
/// Its memory grows with what is put in, up to its capacity. Most layers are smaller than a block, and a build of
/// hundreds of small layers that takes and frees a whole block for each leaves an allocator with as many gaps.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Vec<u8>,
    capacity: usize,
    start: usize,
    end: usize,
}

/// What a block begins with.
const FIRST: usize = 16 * 1024;

impl Block {
    pub(super) fn new(history: usize, size: usize) -> Self {
        Self { bytes: Vec::new(), capacity: history + size, start: 0, end: 0 }
    }

    /// Empties the block for the piece that follows `previous`.
    pub(super) fn restart(&mut self, previous: &Self, history: usize) {
        let tail = previous.data();
        let tail = tail.get(tail.len().saturating_sub(history)..).unwrap_or_default();
        // A stream of more than one block: this one is likely to become full.
        self.bytes.resize(self.capacity, 0);
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

    /// Returns room for at most what is left of `size` bytes; it is empty only when nothing is left.
    pub(super) fn room(&mut self, size: usize) -> &mut [u8] {
        let limit = (self.start + size).min(self.capacity);
        if self.end == self.bytes.len() && self.end < limit {
            let grown = (2 * self.bytes.len()).max(FIRST).min(self.capacity);
            self.bytes.resize(grown, 0);
        }
        let end = limit.min(self.bytes.len());
        self.bytes.get_mut(self.end..end).unwrap_or_default()
    }

    /// Adds the first `count` bytes of the room to the piece.
    pub(super) fn advance(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_takes_as_much_memory_as_it_needs_and_all_it_may() {
        let (history, size) = (100, 10 * FIRST);
        let mut block = Block::new(history, size);
        assert_eq!(block.bytes.capacity(), 0);
        let mut put = 0;
        while !block.room(size).is_empty() {
            let room = block.room(size);
            let count = room.len().min(1000);
            room[..count].fill(u8::try_from(put % 251).unwrap());
            block.advance(count);
            put += count;
            assert!(block.bytes.len() <= (2 * put).max(FIRST));
        }
        assert_eq!(block.data().len(), size);
        let mut next = Block::new(history, size);
        next.restart(&block, history);
        assert_eq!(next.history(), &block.data()[size - history..]);
        assert_eq!((next.data().len(), next.room(size).len()), (0, size));
    }
}
