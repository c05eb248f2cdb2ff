//! Entries into a layer, with both of its digests.

use std::fmt;
use std::io::{self, Read, Write};

use super::decompress::decompress;
use super::header::{self, BLOCK, padding};
use super::pack::Packer;
use super::{Entry, Error, Kind, Limits};
use crate::{Descriptor, Digest, MediaType};

/// How a layer is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// As gzip, understood by everything.
    Gzip {
        /// From 0 (stored) to 9 (smallest).
        level: u32,
    },
    /// As zstd: faster and smaller, for current clients.
    Zstd {
        /// From 1 (fastest) to 22 (smallest).
        level: i32,
    },
}

impl Compression {
    /// Returns the OCI media type of a layer compressed so.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => MediaType::OCI_LAYER,
            Self::Gzip { .. } => MediaType::OCI_LAYER_GZIP,
            Self::Zstd { .. } => MediaType::OCI_LAYER_ZSTD,
        }
    }
}

impl fmt::Display for Compression {
    /// Writes kind and level, such as `gzip:3`: equal for what gives equal bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("uncompressed"),
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

impl Default for Compression {
    /// Returns gzip at the level where more effort stops paying: see `benches/layer.rs`.
    fn default() -> Self {
        Self::Gzip { level: 3 }
    }
}

/// How much of a modification time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Whole seconds, rounded down: what every reader understands without records.
    #[default]
    Seconds,
    /// All of it, in a record where the fraction is not zero.
    Nanoseconds,
}

/// Writes the layer that `source` holds in another compression, in one pass. The uncompressed stream stays as it is to its
/// last byte, and so does the diff id, which the caller compares with the one that the layer ought to have.
///
/// # Errors
/// When the source fails, is no layer or is beyond `limits`, when the sink fails, or the library refuses the level.
pub fn recompress<W: Write>(
    source: impl Read,
    sink: W,
    compression: Compression,
    workers: usize,
    limits: Limits,
) -> Result<Finished<W>, Error> {
    let mut packer = Packer::new(sink, compression, workers)?;
    decompress(source, limits.max_ratio, limits.max_unpacked, |bytes| packer.put(bytes))?;
    finished(packer)
}

fn finished<W: Write>(packer: Packer<W>) -> Result<Finished<W>, Error> {
    let compression = packer.compression();
    let outcome = packer.finish()?;
    Ok(Finished {
        diff_id: outcome.diff_id,
        descriptor: Descriptor::new(compression.media_type(), outcome.digest, outcome.size),
        uncompressed_size: outcome.total,
        sink: outcome.sink,
    })
}

/// Returns the header blocks of `entry` as [`LayerWriter`] writes them, for an archive whose content comes from elsewhere.
///
/// # Errors
/// When the entry does not fit a tar header.
pub fn tar_header(entry: &Entry) -> Result<Vec<u8>, Error> {
    let mut header = Vec::new();
    header::encode(entry, Precision::default(), &mut header)?;
    Ok(header)
}

/// Returns the zeros behind a content of `size` bytes.
#[must_use]
pub fn tar_padding(size: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    ZEROS.get(..padding(size)).unwrap_or_default()
}

/// A layer that was written.
#[derive(Debug)]
pub struct Finished<W> {
    /// Digest of the uncompressed stream.
    pub diff_id: Digest,
    /// Media type, digest and size of what went to the sink.
    pub descriptor: Descriptor,
    /// Size of the uncompressed stream.
    pub uncompressed_size: u64,
    /// The sink, flushed.
    pub sink: W,
}

/// Writes a layer in one pass: headers and content in, compressed bytes to the sink, both digests at the end.
///
/// Entries are written in the order they are appended; sorting them, and putting a hard link behind the entry
/// it names, is the caller's part. The bytes depend on the entries and the compression only, not on `workers`.
/// After an error the layer is lost: the writer has to be dropped.
pub struct LayerWriter<W: Write> {
    packer: Packer<W>,
    precision: Precision,
    header: Vec<u8>,
}

impl<W: Write> LayerWriter<W> {
    /// Returns a writer to `sink` that compresses on `workers` threads; with one it starts none.
    ///
    /// # Errors
    /// When the sink fails, or the compression library refuses the level.
    pub fn new(sink: W, compression: Compression, workers: usize) -> Result<Self, Error> {
        let packer = Packer::new(sink, compression, workers)?;
        Ok(Self { packer, precision: Precision::default(), header: Vec::new() })
    }

    /// Changes how much of modification times is written from here on.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
        self
    }

    /// Appends `entry`; a file that is not empty needs its `content`, which has to be as long as the entry says.
    ///
    /// # Errors
    /// When the content is shorter or longer ([`Error::Changed`]), the entry does not fit a tar header, or
    /// reading or writing fails.
    pub fn append(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<(), Error> {
        self.header.clear();
        header::encode(entry, self.precision, &mut self.header)?;
        self.packer.put(&self.header)?;
        if let Kind::File { size } = entry.kind {
            self.copy(entry, size, content.unwrap_or(&mut io::empty()))?;
        }
        Ok(())
    }

    /// Closes the stream and returns what was written.
    ///
    /// # Errors
    /// When the sink or the compression fails.
    pub fn finish(mut self) -> Result<Finished<W>, Error> {
        self.packer.put(&[0; 2 * BLOCK])?;
        finished(self.packer)
    }

    fn copy(&mut self, entry: &Entry, size: u64, content: &mut dyn Read) -> Result<(), Error> {
        let failed = |source| Error::Content { path: entry.path.to_string(), source };
        let changed = |found| Error::Changed { path: entry.path.to_string(), expected: size, found };
        let mut left = size;
        while left > 0 {
            match self.packer.fill(content, left)?.map_err(failed)? {
                0 => return Err(changed(size - left)),
                n => left -= n as u64,
            }
        }
        // One byte more than announced means that the file grew: the entry would be a mixture of two states.
        let mut probe = [0];
        loop {
            match content.read(&mut probe) {
                Ok(0) => break,
                Ok(_) => return Err(changed(size + 1)),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed(e)),
            }
        }
        self.packer.put([0; BLOCK].get(..padding(size)).unwrap_or_default())
    }
}

impl<W: Write> fmt::Debug for LayerWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerWriter").field("compression", &self.packer.compression()).finish_non_exhaustive()
    }
}
