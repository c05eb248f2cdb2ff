//! Maps of sparse files, in the four ways that GNU tar has written them.
//!
//! ```text
//! old GNU  type 'S': 4 pairs in the header, 21 in each extension block, octal
//! 0.0      records GNU.sparse.offset and GNU.sparse.numbytes, repeated
//! 0.1      record  GNU.sparse.map = offset,size,offset,size...
//! 1.0      decimal lines before the content: count, offset, size, offset, size..., padded to a block
//! ```
//!
//! The stored content is the data of all segments, one after the other; what lies between them is zeros.

use super::pax;

/// Most segments that a file may have: memory for a map is bounded by this, and so is the work on it.
pub(super) const MAX_SEGMENTS: usize = 1 << 20;

/// A part of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts in the file.
    pub offset: u64,
    /// How long it is.
    pub size: u64,
}

/// Where the reader is in a sparse file.
#[derive(Debug)]
pub(super) struct Map {
    pub(super) segments: Vec<Segment>,
    pub(super) real_size: u64,
    position: u64,
    next: usize,
}

/// What comes at the current position of a sparse file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Hole(u64),
    Data(u64),
    End,
}

impl Map {
    /// Checks that the segments ascend, do not overlap, fit the file and make up the stored content.
    pub(super) fn new(segments: Vec<Segment>, real_size: u64, stored: u64) -> Result<Self, &'static str> {
        let (mut end, mut sum) = (0_u64, 0_u64);
        for segment in &segments {
            if segment.offset < end {
                return Err("segments of a sparse file overlap or are out of order");
            }
            end = segment.offset.checked_add(segment.size).ok_or("a sparse file is too large")?;
            sum += segment.size;
        }
        if end > real_size {
            return Err("a segment lies behind the end of its sparse file");
        }
        if sum != stored {
            return Err("the segments of a sparse file are not as long as its content");
        }
        Ok(Self { segments, real_size, position: 0, next: 0 })
    }

    pub(super) fn ahead(&mut self) -> Ahead {
        while let Some(segment) = self.segments.get(self.next) {
            let end = segment.offset + segment.size;
            if self.position < segment.offset {
                return Ahead::Hole(segment.offset - self.position);
            }
            if self.position < end {
                return Ahead::Data(end - self.position);
            }
            self.next += 1;
        }
        match self.real_size - self.position {
            0 => Ahead::End,
            rest => Ahead::Hole(rest),
        }
    }

    /// Moves on by `count` bytes, at most what [`Map::ahead`] returned.
    pub(super) fn advance(&mut self, count: u64) {
        self.position = self.position.saturating_add(count).min(self.real_size);
    }
}

/// Makes segments of numbers that alternate between offset and size.
pub(super) fn pairs(numbers: &[u64]) -> Result<Vec<Segment>, &'static str> {
    let (pairs, []) = numbers.as_chunks::<2>() else {
        return Err("a sparse map has an offset without a size");
    };
    if pairs.len() > MAX_SEGMENTS {
        return Err("a sparse map has too many segments");
    }
    Ok(pairs.iter().map(|[offset, size]| Segment { offset: *offset, size: *size }).collect())
}

/// Parses the value of `GNU.sparse.map`.
pub(super) fn parse_list(text: &[u8]) -> Result<Vec<Segment>, &'static str> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let numbers: Option<Vec<u64>> = text.split(|b| *b == b',').map(pax::decimal).collect();
    pairs(&numbers.ok_or("a sparse map has something that is no number")?)
}

/// Collects the lines before the content of format 1.0, block by block.
#[derive(Debug, Default)]
pub(super) struct Lines {
    numbers: Vec<u64>,
    line: Vec<u8>,
    expected: Option<usize>,
}

impl Lines {
    /// Adds a block; tells whether the map is complete.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<bool, &'static str> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err("a sparse map has something that is no number");
                }
                continue;
            }
            let number = pax::decimal(&self.line).ok_or("a sparse map has something that is no number")?;
            self.line.clear();
            match self.expected {
                None => {
                    let count = usize::try_from(number).unwrap_or(usize::MAX);
                    if count > MAX_SEGMENTS {
                        return Err("a sparse map has too many segments");
                    }
                    self.expected = Some(count * 2);
                }
                Some(_) => self.numbers.push(number),
            }
            if self.expected == Some(self.numbers.len()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn finish(self) -> Result<Vec<Segment>, &'static str> {
        pairs(&self.numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_do_not_fit_are_refused() {
        let check = |numbers: &[u64], real: u64, stored: u64, ok: bool| {
            let found = pairs(numbers).and_then(|s| Map::new(s, real, stored));
            assert_eq!(found.is_ok(), ok, "{numbers:?} {found:?}");
        };
        check(&[0, 5, 10, 5], 20, 10, true);
        check(&[0, 5, 10, 5, 20, 0], 20, 10, true);
        check(&[], 20, 0, true);
        check(&[0, 5, 4, 5], 20, 10, false);
        check(&[10, 5, 0, 5], 20, 10, false);
        check(&[0, 5], 4, 5, false);
        check(&[0, 5], 20, 6, false);
        check(&[0], 20, 0, false);
        check(&[u64::MAX, 2], u64::MAX, 2, false);
        check(&[0, u64::MAX, u64::MAX, u64::MAX], u64::MAX, 3, false);
    }

    #[test]
    fn lines_may_cross_blocks() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(b"2\n1"), Ok(false));
        assert_eq!(lines.push(b"0\n5\n20\n"), Ok(false));
        assert_eq!(lines.push(b"7\nrest"), Ok(true));
        let expect = [Segment { offset: 10, size: 5 }, Segment { offset: 20, size: 7 }];
        assert_eq!(lines.finish().unwrap(), expect);
    }
}
