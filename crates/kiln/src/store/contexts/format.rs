//! The bytes of a stat index: sorted entries in blocks, a table of the blocks, and where that table is.
//!
//! ```text
//! "kiln stat index 1\n"
//! block    up to 256 entries; the path of the first is whole, each other shares bytes with the one before
//!   entry  shared u16 | rest u16 | rest of the path | flags u8 | size u64 | mtime i64 u32 | ctime i64 u32
//!          | inode u64 | device u64 | sha256
//! table    of each block: offset u64 | length u32 | entries u32 | first 16 bytes of its sha256 | path u16, first path
//! end      offset of the table u64 | its length u64 | first 16 bytes of its sha256 | "kilnstat"
//! ```
//!
//! Numbers are little-endian. Paths are in the order in which a tree is walked. A file whose end or table does not fit
//! is no index; a block that does not fit its checksum has no entries. Both are as if nothing was known.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;

use kiln_oci::{Hasher, Sum};
use kiln_sandbox::rootdir::Time;

/// First bytes of the file; another version is no index.
const MAGIC: &[u8] = b"kiln stat index 1\n";
/// Last bytes of the file.
const END: &[u8; 8] = b"kilnstat";
/// Length of what stands behind the table.
const END_LENGTH: usize = 8 + 8 + CHECK + END.len();
/// Bytes of a checksum.
const CHECK: usize = 16;
/// Entries of a block: so many are read to find one, and so many share a line of the table that is kept in memory.
pub(super) const BLOCK: u32 = 256;
/// No block is longer: 256 paths of the greatest length that Linux takes, and what belongs to each.
const MAX_BLOCK: u32 = BLOCK * (4096 + 128);

/// What stat(2) says about the identity and the last change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Bytes of content.
    pub(crate) size: u64,
    /// Last change of content; whoever owns the file may set it.
    pub(crate) modified: Time,
    /// Last change of content or attributes, as the kernel noted it.
    pub(crate) changed: Time,
    /// Its number on the device.
    pub(crate) inode: u64,
    /// The device.
    pub(crate) device: u64,
}

/// What an index knows of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    /// What the file was when it was hashed.
    pub(crate) stamp: Stamp,
    /// Whether it had been left alone for long enough: see [`super::settled`].
    pub(crate) settled: bool,
    /// sha256 of its content.
    pub(crate) sum: Sum,
}

/// Orders paths as a walk meets them: a directory, everything in it, its next sibling.
pub(super) fn order(a: &[u8], b: &[u8]) -> Ordering {
    let key = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((x, y)) => key(*x).cmp(&key(*y)),
        None => a.len().cmp(&b.len()),
    }
}

/// Tells whether `path` is `top` or in it.
pub(super) fn is_below(path: &[u8], top: &[u8]) -> bool {
    top.is_empty() || path.strip_prefix(top).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
}

/// Writes an index; entries have to come in order.
#[derive(Debug)]
pub(super) struct Writer {
    out: BufWriter<File>,
    offset: u64,
    block: Vec<u8>,
    entries: u32,
    /// Path of the first entry of the block.
    first: Vec<u8>,
    last: Vec<u8>,
    table: Vec<u8>,
}

impl Writer {
    pub(super) fn new(file: File) -> std::io::Result<Self> {
        let mut out = BufWriter::with_capacity(64 << 10, file);
        out.write_all(MAGIC)?;
        let offset = MAGIC.len() as u64;
        let (block, first, last, table) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Ok(Self { out, offset, block, entries: 0, first, last, table })
    }

    /// Returns the path that was written last.
    pub(super) fn last(&self) -> &[u8] {
        &self.last
    }

    pub(super) fn push(&mut self, path: &[u8], known: &Known) -> std::io::Result<()> {
        if self.entries == BLOCK {
            self.end_block()?;
        }
        if self.entries == 0 {
            self.first.clear();
            self.first.extend_from_slice(path);
        }
        let shared = match self.entries {
            0 => 0,
            _ => self.last.iter().zip(path).take_while(|(a, b)| a == b).count(),
        };
        let rest = path.get(shared..).unwrap_or_default();
        let long = |_| std::io::Error::from(std::io::ErrorKind::InvalidInput);
        self.block.extend_from_slice(&u16::try_from(shared).map_err(long)?.to_le_bytes());
        self.block.extend_from_slice(&u16::try_from(rest.len()).map_err(long)?.to_le_bytes());
        self.block.extend_from_slice(rest);
        encode(known, &mut self.block);
        self.entries += 1;
        self.last.clear();
        self.last.extend_from_slice(path);
        Ok(())
    }

    fn end_block(&mut self) -> std::io::Result<()> {
        if self.entries == 0 {
            return Ok(());
        }
        let length = u32::try_from(self.block.len()).unwrap_or(u32::MAX);
        let path = u16::try_from(self.first.len()).unwrap_or(u16::MAX);
        self.table.extend_from_slice(&self.offset.to_le_bytes());
        self.table.extend_from_slice(&length.to_le_bytes());
        self.table.extend_from_slice(&self.entries.to_le_bytes());
        self.table.extend_from_slice(&check(&self.block));
        self.table.extend_from_slice(&path.to_le_bytes());
        self.table.extend_from_slice(&self.first);
        self.out.write_all(&self.block)?;
        self.offset += u64::from(length);
        self.block.clear();
        self.entries = 0;
        Ok(())
    }

    /// Writes the table and returns the file.
    pub(super) fn finish(mut self) -> std::io::Result<File> {
        self.end_block()?;
        self.out.write_all(&self.table)?;
        self.out.write_all(&self.offset.to_le_bytes())?;
        self.out.write_all(&(self.table.len() as u64).to_le_bytes())?;
        self.out.write_all(&check(&self.table))?;
        self.out.write_all(END)?;
        self.out.into_inner().map_err(std::io::IntoInnerError::into_error)
    }
}

fn encode(known: &Known, out: &mut Vec<u8>) {
    let Stamp { size, modified, changed, inode, device } = known.stamp;
    out.push(u8::from(known.settled));
    out.extend_from_slice(&size.to_le_bytes());
    for time in [modified, changed] {
        out.extend_from_slice(&time.seconds.to_le_bytes());
        out.extend_from_slice(&time.nanoseconds.to_le_bytes());
    }
    out.extend_from_slice(&inode.to_le_bytes());
    out.extend_from_slice(&device.to_le_bytes());
    out.extend_from_slice(&known.sum.0);
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    let mut out = [0; CHECK];
    out.copy_from_slice(&hasher.sum().0[..CHECK]);
    out
}

/// Takes fields from the front of bytes; `None` when they have ended.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn time(&mut self) -> Option<Time> {
        Some(Time { seconds: self.array().map(i64::from_le_bytes)?, nanoseconds: self.u32()? })
    }

    fn known(&mut self) -> Option<Known> {
        let settled = *self.take(1)?.first()? == 1;
        let size = self.u64()?;
        let (modified, changed) = (self.time()?, self.time()?);
        let stamp = Stamp { size, modified, changed, inode: self.u64()?, device: self.u64()? };
        Some(Known { stamp, settled, sum: Sum(self.array()?) })
    }
}

/// Takes the next entry from the front of a block, whose path follows `path`; returns how long it was.
pub(super) fn entry(bytes: &[u8], path: &mut Vec<u8>) -> Option<(Known, usize)> {
    let mut fields = Fields(bytes);
    let (shared, rest) = (usize::from(fields.u16()?), usize::from(fields.u16()?));
    if shared > path.len() {
        return None;
    }
    path.truncate(shared);
    path.extend_from_slice(fields.take(rest)?);
    let known = fields.known()?;
    Some((known, bytes.len() - fields.0.len()))
}

/// One line of the table.
#[derive(Debug)]
struct Line {
    offset: u64,
    length: u32,
    /// Entries in it, and in all blocks before it.
    entries: u32,
    before: u32,
    check: [u8; CHECK],
    /// Where in `paths` the path of its first entry is.
    path: (u32, u16),
}

/// An index that can be read: the table is in memory, the blocks are not.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    lines: Vec<Line>,
    paths: Vec<u8>,
}

impl Index {
    /// Reads the table; `None` when this is no index, or a torn one.
    pub(super) fn read(file: File) -> Option<Self> {
        let length = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
        let mut magic = [0; MAGIC.len()];
        file.read_exact_at(&mut magic, 0).ok()?;
        let mut end = [0; END_LENGTH];
        let behind = length.checked_sub(END_LENGTH as u64)?;
        file.read_exact_at(&mut end, behind).ok()?;
        let mut fields = Fields(&end);
        let (offset, size) = (fields.u64()?, fields.u64()?);
        let (sum, mark) = (fields.array::<CHECK>()?, fields.array::<8>()?);
        if magic != MAGIC || mark != *END || offset.checked_add(size)? != behind {
            return None;
        }
        let mut table = vec![0; usize::try_from(size).ok()?];
        file.read_exact_at(&mut table, offset).ok()?;
        if check(&table) != sum {
            return None;
        }
        let (lines, paths) = lines(&table)?;
        Some(Self { file, lines, paths })
    }

    /// Returns how many entries it has.
    pub(super) fn entries(&self) -> u32 {
        self.lines.last().map_or(0, |line| line.before + line.entries)
    }

    pub(super) fn blocks(&self) -> usize {
        self.lines.len()
    }

    /// Returns the path of the first entry of a block.
    pub(super) fn first(&self, block: usize) -> Option<&[u8]> {
        let (start, length) = self.lines.get(block)?.path;
        self.paths.get(start as usize..start as usize + usize::from(length))
    }

    /// Returns how many entries are before a block.
    pub(super) fn before(&self, block: usize) -> u32 {
        self.lines.get(block).map_or_else(|| self.entries(), |line| line.before)
    }

    /// Returns the last block whose first path `before` holds for; it has to hold for a first part of all paths.
    pub(super) fn block_of(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let holds = |line: &Line| {
            let (start, length) = line.path;
            before(self.paths.get(start as usize..start as usize + usize::from(length)).unwrap_or_default())
        };
        self.lines.partition_point(holds).saturating_sub(1)
    }

    /// Reads a block; it is empty when it cannot be read or is torn.
    pub(super) fn load(&self, block: usize, into: &mut Vec<u8>) {
        into.clear();
        let Some(line) = self.lines.get(block) else { return };
        into.resize(line.length as usize, 0);
        let whole = self.file.read_exact_at(into, line.offset).is_ok() && check(into) == line.check;
        if !whole {
            into.clear();
        }
    }
}

fn lines(table: &[u8]) -> Option<(Vec<Line>, Vec<u8>)> {
    let (mut lines, mut paths) = (Vec::new(), Vec::new());
    let mut fields = Fields(table);
    let mut before = 0_u32;
    while !fields.0.is_empty() {
        let (offset, length, entries) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let check = fields.array()?;
        let path = fields.u16()?;
        let start = u32::try_from(paths.len()).ok()?;
        paths.extend_from_slice(fields.take(usize::from(path))?);
        if length > MAX_BLOCK {
            return None;
        }
        lines.push(Line { offset, length, entries, before, check, path: (start, path) });
        before = before.checked_add(entries)?;
    }
    Some((lines, paths))
}
