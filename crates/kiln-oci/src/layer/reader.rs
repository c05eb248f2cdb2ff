//! A layer into entries, one at a time, with the diff id at the end.
//!
//! Understands ustar, star, GNU and PAX headers as builders of the last twenty years wrote them. What it does
//! not accept: names that lead out of the layer or through a whiteout, numbers that make no sense, headers
//! larger than any real one, and streams beyond the [`Limits`]. Global PAX headers are skipped, as container
//! engines do.

use std::fmt;
use std::io::{self, BufRead, Read};

use super::decompress::Chunks;
use super::entry::MAX_PATH;
use super::header::{BLOCK, padding};
use super::overrides::Overrides;
use super::raw::{self, Raw};
use super::sparse::{self, Ahead, Map, Segment};
use super::{Entry, EntryPath, Error, Kind, PathError, Timestamp};
use crate::Digest;

/// Largest extended header or long name: the bound that Go's archive/tar has, so nothing in use is larger.
const MAX_EXTENDED: u64 = 1 << 20;
/// Zeros that fill the holes of sparse files.
const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];

/// How much a layer may hold before it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the uncompressed stream, and bytes of all files with their holes.
    pub max_unpacked: u64,
    /// Entries.
    pub max_entries: u64,
    /// Times that the uncompressed stream may be larger than the compressed one.
    pub max_ratio: Option<u64>,
}

impl Default for Limits {
    /// Returns limits that no real layer comes near: 256 GiB and ten million entries.
    fn default() -> Self {
        Self { max_unpacked: 256 << 30, max_entries: 10_000_000, max_ratio: None }
    }
}

/// What a stream is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// A layer of an image: gzip, zstd or plain, strict about names, with whiteouts.
    #[default]
    Layer,
    /// An archive that somebody made with any program: bzip2 and xz as well. Names with `..` or a leading slash mean
    /// what they mean below the root, and there are no whiteouts.
    Archive,
}

/// What was in a layer that was read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Digest of the uncompressed stream, to its very last byte.
    pub diff_id: Digest,
    /// Size of the uncompressed stream.
    pub uncompressed_size: u64,
    /// Entries that were read; fewer than the layer has when the caller stopped early.
    pub entries: u64,
}

/// Reads a layer that is compressed with gzip, zstd or not at all, or an archive (see [`Form`]).
pub struct LayerReader<R: Read> {
    stream: Stream<R>,
    form: Form,
    limits: Limits,
    entries: u64,
    /// Sum of the sizes of all files, holes included.
    file_bytes: u64,
    /// Stored bytes of the current entry that were not read.
    left: u64,
    padding: u64,
    sparse: Option<Map>,
    header_offset: u64,
    ended: bool,
}

impl<R: Read> LayerReader<R> {
    /// Returns a reader that does everything on the caller's thread.
    ///
    /// # Errors
    /// When the source fails, or is compressed in a way that layers are not.
    pub fn new(source: R, limits: Limits) -> Result<Self, Error> {
        Ok(Self::over(Chunks::here(source, Form::Layer, limits.max_ratio)?, Form::Layer, limits))
    }

    fn over(chunks: Chunks<R>, form: Form, limits: Limits) -> Self {
        Self {
            form,
            stream: Stream { chunks, chunk: Vec::new(), position: 0, before: 0, limit: limits.max_unpacked },
            limits,
            entries: 0,
            file_bytes: 0,
            left: 0,
            padding: 0,
            sparse: None,
            header_offset: 0,
            ended: false,
        }
    }

    /// Returns the next entry and its content, or `None` at the end. Content that is not read is skipped.
    ///
    /// # Errors
    /// When the source fails, or the layer is damaged, hostile or beyond the limits.
    #[expect(
        clippy::should_implement_trait,
        reason = "the content borrows the reader, which Iterator forbids"
    )]
    pub fn next(&mut self) -> Result<Option<(Entry, Content<'_, R>)>, Error> {
        let rest = self.left + std::mem::take(&mut self.padding);
        self.left = 0;
        self.sparse = None;
        if !self.stream.skip(rest)? {
            return Err(self.malformed("the layer ends in the middle of a file"));
        }
        let Some(entry) = self.read_entry()? else { return Ok(None) };
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(Error::Limit { what: "entries", limit: self.limits.max_entries });
        }
        self.file_bytes = self.file_bytes.saturating_add(entry.kind.size());
        if self.file_bytes > self.limits.max_unpacked {
            return Err(Error::Limit { what: "bytes in its files", limit: self.limits.max_unpacked });
        }
        Ok(Some((entry, Content { reader: self })))
    }

    /// Reads the rest of the stream and returns what it was.
    ///
    /// # Errors
    /// When the source fails, or the stream is beyond the limits.
    pub fn finish(mut self) -> Result<Summary, Error> {
        self.stream.skip(u64::MAX)?;
        let uncompressed_size = self.stream.offset();
        let diff_id = self.stream.chunks.digest()?;
        Ok(Summary { diff_id, uncompressed_size, entries: self.entries })
    }

    fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::Malformed { offset: self.header_offset, reason: reason.into() }
    }

    /// Reads headers up to and including the one of an entry.
    fn read_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut overrides = Overrides::default();
        loop {
            let Some(block) = self.read_header(&overrides)? else { return Ok(None) };
            let raw = Raw::new(&block).map_err(|e| self.malformed(e))?;
            match raw.type_flag() {
                b'x' | b'X' => {
                    let body = self.read_body(&raw)?;
                    overrides.add_records(&body).map_err(|e| self.malformed(e))?;
                }
                b'g' => {
                    let size = raw.size().map_err(|e| self.malformed(e))?;
                    self.skip_body(size)?;
                }
                b'L' => overrides.long_name = Some(until_zero(self.read_body(&raw)?)),
                b'K' => overrides.long_link = Some(until_zero(self.read_body(&raw)?)),
                _ => return self.build(&raw, overrides).map(Some),
            }
        }
    }

    /// Reads a header block; `None` at the end of the archive.
    fn read_header(&mut self, overrides: &Overrides) -> Result<Option<[u8; BLOCK]>, Error> {
        if self.ended {
            return Ok(None);
        }
        self.header_offset = self.stream.offset();
        let mut block = [0; BLOCK];
        match self.stream.read_full(&mut block)? {
            BLOCK if block != [0; BLOCK] => return Ok(Some(block)),
            0 | BLOCK => {}
            _ => return Err(self.malformed("the layer ends in the middle of a header")),
        }
        if !overrides.is_empty() {
            return Err(self.malformed("the layer ends behind an extended header"));
        }
        self.ended = true;
        let mut second = [0; BLOCK];
        // One closing block at the end of the stream is accepted, as everybody does; data behind it is not,
        // because programs disagree on whether it belongs to the archive.
        if self.stream.read_full(&mut second)? == BLOCK && second != [0; BLOCK] {
            return Err(self.malformed("a lone block of zeros is followed by data"));
        }
        Ok(None)
    }

    fn read_body(&mut self, raw: &Raw<'_>) -> Result<Vec<u8>, Error> {
        let size = raw.size().map_err(|e| self.malformed(e))?;
        if size > MAX_EXTENDED {
            return Err(self.malformed(format!("an extended header has {size} bytes")));
        }
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        if self.stream.read_full(&mut body)? != body.len() || !self.stream.skip(padding(size) as u64)? {
            return Err(self.malformed("the layer ends in the middle of an extended header"));
        }
        Ok(body)
    }

    fn skip_body(&mut self, size: u64) -> Result<(), Error> {
        if self.stream.skip(size.saturating_add(padding(size) as u64))? {
            return Ok(());
        }
        Err(self.malformed("the layer ends in the middle of an extended header"))
    }

    fn build(&mut self, raw: &Raw<'_>, mut overrides: Overrides) -> Result<Entry, Error> {
        let offset = self.header_offset;
        let malformed = |reason: &str| Error::Malformed { offset, reason: reason.to_owned() };
        let name = overrides.take_name().unwrap_or_else(|| raw.name());
        let path = entry_path(&name, self.form)?;
        let flag = match raw.type_flag() {
            // Before ustar, a directory was a file whose name ends in a slash.
            0 if name.ends_with(b"/") => b'5',
            flag => flag,
        };
        let kind = match flag {
            b'0' | 0 | b'7' | b'S' => {
                let stored = overrides.size.map_or_else(|| raw.size(), Ok).map_err(malformed)?;
                self.left = stored;
                self.padding = padding(stored) as u64;
                Kind::File { size: self.file_size(raw, &mut overrides)? }
            }
            b'1' => Kind::HardLink { target: link_target(&name, &overrides.take_link(raw), self.form)? },
            b'2' => Kind::Symlink { target: symlink_target(&name, overrides.take_link(raw))? },
            b'3' | b'4' => {
                let (major, minor) = raw.device().map_err(malformed)?;
                if flag == b'3' {
                    Kind::CharDevice { major, minor }
                } else {
                    Kind::BlockDevice { major, minor }
                }
            }
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                let shown = printable(&name);
                return Err(malformed(&format!("`{shown}` has the unknown type {:?}", char::from(other))));
            }
        };
        if path.is_root() && kind != Kind::Directory {
            return Err(unsafe_name(&name, "the root can only be a directory"));
        }
        if matches!(&kind, Kind::HardLink { target } if *target == path) {
            return Err(unsafe_name(&name, "it is a hard link to itself"));
        }
        let mtime = match overrides.mtime {
            Some(time) => time,
            None => Timestamp::from_secs(raw.mtime().map_err(malformed)?),
        };
        Ok(Entry {
            path,
            kind,
            mode: raw.mode().map_err(malformed)?,
            uid: overrides.uid.map_or_else(|| raw.uid(), Ok).map_err(malformed)?,
            gid: overrides.gid.map_or_else(|| raw.gid(), Ok).map_err(malformed)?,
            mtime,
            xattrs: overrides.xattrs,
        })
    }

    /// Returns the size of a regular file with its holes; reads the map of a sparse one.
    fn file_size(&mut self, raw: &Raw<'_>, overrides: &mut Overrides) -> Result<u64, Error> {
        let (segments, real) = if raw.type_flag() == b'S' {
            self.old_sparse(raw)?
        } else if let Some(found) = overrides.take_sparse().map_err(|e| self.malformed(e))? {
            match found {
                (Some(segments), real) => (segments, real),
                (None, real) => (self.read_sparse_lines()?, real),
            }
        } else {
            return Ok(self.left);
        };
        let map = Map::new(segments, real, self.left).map_err(|e| self.malformed(e))?;
        self.sparse = Some(map);
        Ok(real)
    }

    fn old_sparse(&mut self, raw: &Raw<'_>) -> Result<(Vec<Segment>, u64), Error> {
        let (mut segments, real, mut more) = raw.sparse().map_err(|e| self.malformed(e))?;
        while more {
            let mut block = [0; BLOCK];
            if self.stream.read_full(&mut block)? != BLOCK || segments.len() > sparse::MAX_SEGMENTS {
                return Err(self.malformed("the map of a sparse file has no end"));
            }
            let (further, again) = raw::sparse_extension(&block).map_err(|e| self.malformed(e))?;
            segments.extend(further);
            more = again;
        }
        Ok((segments, real))
    }

    fn read_sparse_lines(&mut self) -> Result<Vec<Segment>, Error> {
        let mut lines = sparse::Lines::default();
        loop {
            let mut block = [0; BLOCK];
            if self.left < BLOCK as u64 || self.stream.read_full(&mut block)? != BLOCK {
                return Err(self.malformed("the map of a sparse file has no end"));
            }
            self.left -= BLOCK as u64;
            if lines.push(&block).map_err(|e| self.malformed(e))? {
                return lines.finish().map_err(|e| self.malformed(e));
            }
        }
    }
}

impl<R: Read + Send + 'static> LayerReader<R> {
    /// Returns a reader that decompresses and hashes on two threads of its own.
    ///
    /// # Errors
    /// When no thread can be started. Faults of the source show at the first entry.
    pub fn threaded(source: R, limits: Limits) -> Result<Self, Error> {
        Self::threaded_as(Form::Layer, source, limits)
    }

    /// Like [`LayerReader::threaded`], for a stream of any form.
    ///
    /// # Errors
    /// When no thread can be started. Faults of the source show at the first entry.
    pub fn threaded_as(form: Form, source: R, limits: Limits) -> Result<Self, Error> {
        Ok(Self::over(Chunks::threads(source, form, limits.max_ratio)?, form, limits))
    }
}

impl<R: Read> fmt::Debug for LayerReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerReader").field("entries", &self.entries).finish_non_exhaustive()
    }
}

/// The content of the entry that [`LayerReader::next`] returned, holes of a sparse file included as zeros.
pub struct Content<'a, R: Read> {
    reader: &'a mut LayerReader<R>,
}

impl<R: Read> Content<'_, R> {
    /// Returns the parts of a sparse file that have data; `None` for an ordinary file.
    #[must_use]
    pub fn segments(&self) -> Option<&[Segment]> {
        self.reader.sparse.as_ref().map(|map| map.segments.as_slice())
    }

    /// Skips the hole that comes next and returns its size; zero when there is data or the end.
    pub fn skip_hole(&mut self) -> u64 {
        let Some(map) = &mut self.reader.sparse else { return 0 };
        let Ahead::Hole(size) = map.ahead() else { return 0 };
        map.advance(size);
        size
    }
}

impl<R: Read> BufRead for Content<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let available = match self.reader.sparse.as_mut().map(Map::ahead) {
            None => self.reader.left,
            Some(Ahead::End) => 0,
            Some(Ahead::Data(size)) => size,
            Some(Ahead::Hole(size)) => {
                let count = usize::try_from(size).unwrap_or(usize::MAX).min(ZEROS.len());
                return Ok(ZEROS.get(..count).unwrap_or_default());
            }
        };
        if available == 0 {
            return Ok(&[]);
        }
        let truncated = self.reader.malformed("the layer ends in the middle of a file");
        let buffer = self.reader.stream.fill()?;
        if buffer.is_empty() {
            return Err(truncated.into());
        }
        let count = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        Ok(buffer.get(..count).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        if let Some(map) = &mut self.reader.sparse {
            let hole = matches!(map.ahead(), Ahead::Hole(_));
            map.advance(count as u64);
            if hole {
                return;
            }
        }
        self.reader.left = self.reader.left.saturating_sub(count as u64);
        self.reader.stream.consume(count);
    }
}

impl<R: Read> Read for Content<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buf.len());
        for (to, from) in buf.chunks_mut(count.max(1)).zip(available.chunks(count.max(1))).take(1) {
            to.copy_from_slice(from);
        }
        self.consume(count);
        Ok(count)
    }
}

impl<R: Read> fmt::Debug for Content<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("left", &self.reader.left).finish_non_exhaustive()
    }
}

/// The uncompressed stream with a position.
struct Stream<R: Read> {
    chunks: Chunks<R>,
    chunk: Vec<u8>,
    position: usize,
    /// Bytes of all chunks before the current one.
    before: u64,
    limit: u64,
}

impl<R: Read> Stream<R> {
    fn offset(&self) -> u64 {
        self.before + self.position as u64
    }

    /// Returns what is there without waiting, or the next chunk; empty at the end.
    fn fill(&mut self) -> Result<&[u8], Error> {
        if self.position == self.chunk.len() {
            self.before += self.chunk.len() as u64;
            self.position = 0;
            self.chunk = self.chunks.next(std::mem::take(&mut self.chunk))?;
            if self.before + self.chunk.len() as u64 > self.limit {
                return Err(Error::Limit { what: "bytes", limit: self.limit });
            }
        }
        Ok(self.chunk.get(self.position..).unwrap_or_default())
    }

    fn consume(&mut self, count: usize) {
        self.position = (self.position + count).min(self.chunk.len());
    }

    /// Skips `count` bytes; tells whether there were as many.
    fn skip(&mut self, mut count: u64) -> Result<bool, Error> {
        while count > 0 {
            let available = self.fill()?.len();
            if available == 0 {
                return Ok(false);
            }
            let step = usize::try_from(count).unwrap_or(usize::MAX).min(available);
            self.consume(step);
            count -= step as u64;
        }
        Ok(true)
    }

    /// Fills `target` as far as the stream goes; returns how far.
    fn read_full(&mut self, target: &mut [u8]) -> Result<usize, Error> {
        let mut filled = 0;
        while let Some(room) = target.get_mut(filled..).filter(|r| !r.is_empty()) {
            let available = self.fill()?;
            if available.is_empty() {
                break;
            }
            let step = available.len().min(room.len());
            for (to, from) in room.chunks_mut(step).zip(available.chunks(step)).take(1) {
                to.copy_from_slice(from);
            }
            self.consume(step);
            filled += step;
        }
        Ok(filled)
    }
}

fn entry_path(name: &[u8], form: Form) -> Result<EntryPath, Error> {
    if name.is_empty() {
        return Err(unsafe_name(name, "the name is empty"));
    }
    if name.len() > MAX_PATH {
        return Err(unsafe_name(name, &format!("the name is longer than {MAX_PATH} bytes")));
    }
    let path = match form {
        Form::Layer => EntryPath::new(name),
        Form::Archive => EntryPath::contained(name),
    };
    let path = path.map_err(|e| unsafe_name(name, &e.to_string()))?;
    let whiteout = path.whiteout().map_err(|e| unsafe_name(name, &e.to_string()))?;
    if form == Form::Archive && whiteout.is_some() {
        return Err(unsafe_name(name, "it is a whiteout, which only a layer can have"));
    }
    Ok(path)
}

fn link_target(name: &[u8], link: &[u8], form: Form) -> Result<EntryPath, Error> {
    let bad = |e: PathError| unsafe_name(name, &format!("its link target `{}`: {e}", printable(link)));
    let target = match form {
        // Some builders record targets from the root; the meaning is the same.
        Form::Layer => EntryPath::rooted(link),
        Form::Archive => EntryPath::contained(link),
    };
    let target = target.map_err(bad)?;
    if target.is_root() {
        return Err(unsafe_name(name, "it is a hard link to the root"));
    }
    if target.whiteout().map_err(bad)?.is_some() {
        return Err(unsafe_name(name, "it is a hard link to a whiteout"));
    }
    Ok(target)
}

fn symlink_target(name: &[u8], target: Vec<u8>) -> Result<Vec<u8>, Error> {
    if target.is_empty() || target.contains(&0) {
        return Err(unsafe_name(name, "its link target is empty or contains a zero byte"));
    }
    Ok(target)
}

fn unsafe_name(name: &[u8], reason: &str) -> Error {
    Error::Unsafe { name: printable(name), reason: reason.to_owned() }
}

/// Returns a name without control characters and not too long for a message.
fn printable(name: &[u8]) -> String {
    let shown = name.get(..200).unwrap_or(name);
    String::from_utf8_lossy(shown).escape_debug().to_string()
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}
