//! One 512-byte tar header as it stands: fields cut out, nothing interpreted across headers.
//!
//! ```text
//!   0 name(100)  100 mode(8)  108 uid(8)  116 gid(8)  124 size(12)  136 mtime(12)  148 checksum(8)
//! 156 type  157 link(100)  257 magic(6) version(2)  265 user(32)  297 group(32)  329 major(8)  337 minor(8)
//! 345 prefix(155)          "ustar\0"
//! 345 prefix(131) .. "tar\0" at 508   star
//! 386 4 * (offset(12) size(12)), 482 is_extended, 483 real size(12)      "ustar  \0", old GNU sparse
//! ```

use super::header::BLOCK;
use super::sparse::{self, Segment};

/// A block that passed its checksum.
pub(super) struct Raw<'a>(&'a [u8; BLOCK]);

impl<'a> Raw<'a> {
    pub(super) fn new(block: &'a [u8; BLOCK]) -> Result<Self, &'static str> {
        let raw = Self(block);
        let stored = octal(raw.field(148, 8)).ok_or("the header has no checksum")?;
        let blanked = |(i, b): (usize, &'a u8)| if (148..156).contains(&i) { b' ' } else { *b };
        // Some old programs added bytes as signed numbers.
        let (mut unsigned, mut signed) = (0_i64, 0_i64);
        for byte in block.iter().enumerate().map(blanked) {
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        let matches = i64::try_from(stored).is_ok_and(|s| s == unsigned || s == signed);
        if matches { Ok(raw) } else { Err("the header has a wrong checksum") }
    }

    fn field(&self, offset: usize, size: usize) -> &'a [u8] {
        self.0.get(offset..offset + size).unwrap_or_default()
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }

    fn is_gnu(&self) -> bool {
        self.field(257, 8) == b"ustar  \0"
    }

    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(self.field(0, 100));
        let prefix = if self.field(257, 6) != b"ustar\0" {
            b""
        } else if self.field(508, 4) == b"tar\0" {
            text(self.field(345, 131))
        } else {
            text(self.field(345, 155))
        };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(self.field(157, 100)).to_vec()
    }

    pub(super) fn mode(&self) -> Result<u32, &'static str> {
        let mode = number(self.field(100, 8)).ok_or("the mode is no number")?;
        // Only the low bits mean something; some programs add the file type.
        u32::try_from(mode & 0o7777).map_err(|_| "the mode is no number")
    }

    pub(super) fn uid(&self) -> Result<u32, &'static str> {
        id(self.field(108, 8)).ok_or("the user id is no number below 2^32 - 1")
    }

    pub(super) fn gid(&self) -> Result<u32, &'static str> {
        id(self.field(116, 8)).ok_or("the group id is no number below 2^32 - 1")
    }

    pub(super) fn size(&self) -> Result<u64, &'static str> {
        let size = number(self.field(124, 12)).ok_or("the size is no number")?;
        u64::try_from(size).map_err(|_| "the size is negative")
    }

    pub(super) fn mtime(&self) -> Result<i64, &'static str> {
        number(self.field(136, 12)).ok_or("the modification time is no number")
    }

    pub(super) fn device(&self) -> Result<(u32, u32), &'static str> {
        let major = small(self.field(329, 8)).ok_or("the device number is no number")?;
        let minor = small(self.field(337, 8)).ok_or("the device number is no number")?;
        Ok((major, minor))
    }

    /// Returns the first segments of an old GNU sparse file, its real size and whether more blocks follow.
    pub(super) fn sparse(&self) -> Result<(Vec<Segment>, u64, bool), &'static str> {
        if !self.is_gnu() {
            return Err("a sparse file has no GNU header");
        }
        let real = number(self.field(483, 12)).and_then(|n| u64::try_from(n).ok());
        let segments = sparse_table(self.field(386, 96))?;
        Ok((segments, real.ok_or("the size of a sparse file is no number")?, self.field(482, 1) != [0]))
    }
}

/// Returns the segments of an extension block and whether another block follows.
pub(super) fn sparse_extension(block: &[u8; BLOCK]) -> Result<(Vec<Segment>, bool), &'static str> {
    let (table, rest) = block.split_at(504);
    Ok((sparse_table(table)?, rest.first() != Some(&0)))
}

fn sparse_table(table: &[u8]) -> Result<Vec<Segment>, &'static str> {
    let field = |f: &[u8]| number(f).and_then(|n| u64::try_from(n).ok()).ok_or("a sparse map is damaged");
    let mut numbers = Vec::new();
    for pair in table.chunks_exact(24) {
        // The table ends at the first pair that was not filled in.
        if pair.first() == Some(&0) {
            break;
        }
        let (offset, size) = pair.split_at(12);
        numbers.extend([field(offset)?, field(size)?]);
    }
    sparse::pairs(&numbers)
}

/// Returns a field up to its first zero.
fn text(field: &[u8]) -> &[u8] {
    field.split(|b| *b == 0).next().unwrap_or_default()
}

/// Parses an owner. The largest number of 32 bits is none: system calls take it for "leave it as it is".
fn id(field: &[u8]) -> Option<u32> {
    small(field).filter(|id| *id != u32::MAX)
}

fn small(field: &[u8]) -> Option<u32> {
    number(field).and_then(|n| u32::try_from(n).ok())
}

/// Parses a number: octal digits, or base 256 when the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field).and_then(|n| i64::try_from(n).ok()),
    }
}

/// Parses a big-endian two's complement number whose first bit only marks the format.
fn base256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    // The marker hides the sign bit; the bit below repeats it.
    let mut value = if first & 0x40 == 0 { i64::from(first & 0x3f) } else { i64::from(*first) - 256 };
    for byte in rest {
        value = value.checked_mul(256)?.checked_add(i64::from(*byte))?;
    }
    Some(value)
}

/// Parses octal digits between spaces and zeros; an empty field is zero.
fn octal(field: &[u8]) -> Option<u64> {
    let start = field.iter().position(|b| *b != b' ' && *b != 0).unwrap_or(field.len());
    let digits = field.get(start..).unwrap_or_default();
    let end = digits.iter().position(|b| *b == b' ' || *b == 0).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if !rest.iter().all(|b| *b == b' ' || *b == 0) {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, b| {
        let digit = char::from(*b).to_digit(8)?;
        sum.checked_mul(8)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        let check = |field: &[u8], expect: Option<i64>| assert_eq!(number(field), expect, "{field:?}");
        check(b"0000644\0", Some(0o644));
        check(b"   644 \0", Some(0o644));
        check(b"77777777", Some(0o7777_7777));
        check(b"\0\0\0\0\0\0\0\0", Some(0));
        check(b"12 34\0\0\0", None);
        check(b"0000648\0", None);
        check(b"-000001\0", None);
        check(&[0x80, 0, 0, 0, 0, 0x20, 0, 0], Some(0x20_0000));
        check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe], Some(-2));
        check(&[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None);
        check(&[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Some(i64::MAX));
    }
}
