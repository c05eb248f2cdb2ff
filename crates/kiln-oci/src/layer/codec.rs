//! Compression of one block, with a result that depends on nothing but the block.
//!
//! A gzip layer is a single member whose deflate stream is made of the blocks:
//!
//! ```text
//! 1f 8b 08 00 00 00 00 00 00 ff      header: no name, no time, unknown system
//! block 1, sync flush                raw deflate, ends on a byte: 00 00 ff ff
//! block 2, sync flush                dictionary = last 32 KiB of block 1
//! ...
//! 03 00                              empty last block
//! crc32 size                         of everything, little endian
//! ```
//!
//! A block that does not compress is written as stored blocks, which costs no time. A zstd layer is one frame
//! per block: frames follow each other without a container, and they can be decompressed side by side.

use std::io;

use flate2::{Compress, Crc, FlushCompress, Status};

use super::Compression;
use super::block::Block;

/// How far back deflate can refer.
const WINDOW: usize = 32 * 1024;
/// Piece of a gzip layer. Part of the reproducibility contract, as are all numbers of this file: a larger piece
/// compresses no better, a smaller one leaves the flush markers visible in the size.
const GZIP_BLOCK: usize = 1 << 20;
/// Piece of a zstd layer: larger, because frames share nothing with each other.
const ZSTD_BLOCK: usize = 4 << 20;
/// Largest stored block that deflate can express.
const STORED_MAX: usize = 0xffff;

const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
const GZIP_LAST_BLOCK: [u8; 2] = [3, 0];

/// Result of compressing one block.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) bytes: Vec<u8>,
    pub(super) crc: Crc,
}

/// Compresses blocks; every thread has its own.
pub(super) enum Codec {
    Gzip(Gzip),
    Zstd(Box<zstd::bulk::Compressor<'static>>),
}

/// The gzip side of a thread.
///
/// It keeps no compressor: one that is reset compresses a few blocks differently from a new one (zlib-rs 0.6.8 does not
/// forget everything), and which thread saw which blocks before must not show in the layer. A new compressor costs
/// some tens of microseconds, a block some milliseconds.
pub(super) struct Gzip {
    level: flate2::Compression,
}

impl Codec {
    /// Returns the codec of `compression`; `None` when bytes are kept as they are.
    pub(super) fn new(compression: Compression) -> io::Result<Option<Self>> {
        Ok(match compression {
            Compression::None => None,
            Compression::Gzip { level } => {
                Some(Self::Gzip(Gzip { level: flate2::Compression::new(level.min(9)) }))
            }
            Compression::Zstd { level } => Some(Self::Zstd(Box::new(zstd::bulk::Compressor::new(level)?))),
        })
    }

    /// Compresses `block` into `out`, which is emptied first.
    pub(super) fn compress(&mut self, block: &Block, mut out: Vec<u8>) -> io::Result<Packed> {
        out.clear();
        let mut crc = Crc::new();
        match self {
            Self::Gzip(gzip) => {
                crc.update(block.data());
                if is_incompressible(block.data())? {
                    store(block.data(), &mut out);
                } else {
                    deflate(gzip.level, block, &mut out)?;
                }
            }
            Self::Zstd(compressor) => {
                out.resize(zstd::zstd_safe::compress_bound(block.data().len()), 0);
                let size = compressor.compress_to_buffer(block.data(), out.as_mut_slice())?;
                out.truncate(size);
            }
        }
        Ok(Packed { bytes: out, crc })
    }
}

/// Returns the sizes of a piece and of the history before it.
pub(super) fn block_size(compression: Compression) -> (usize, usize) {
    match compression {
        Compression::Gzip { .. } => (GZIP_BLOCK, WINDOW),
        Compression::Zstd { .. } => (ZSTD_BLOCK, 0),
        Compression::None => (GZIP_BLOCK, 0),
    }
}

/// Returns the bytes before the first block.
pub(super) fn prologue(compression: Compression) -> &'static [u8] {
    if matches!(compression, Compression::Gzip { .. }) { &GZIP_HEADER } else { &[] }
}

/// Returns the bytes behind the last block.
pub(super) fn epilogue(compression: Compression, crc: &Crc, size: u64) -> Vec<u8> {
    if !matches!(compression, Compression::Gzip { .. }) {
        return Vec::new();
    }
    let mut out = GZIP_LAST_BLOCK.to_vec();
    out.extend_from_slice(&crc.sum().to_le_bytes());
    // The size field counts modulo 2^32.
    out.extend(size.to_le_bytes().iter().take(4));
    out
}

fn deflate(level: flate2::Compression, block: &Block, out: &mut Vec<u8>) -> io::Result<()> {
    let mut compress = Compress::new(level, false);
    if !block.history().is_empty() {
        compress.set_dictionary(block.history()).map_err(io::Error::other)?;
    }
    let mut data = block.data();
    // Room for the worst case, so that one call is enough: the fastest level spends nine bits on a byte. More
    // than speed, it is safety: zlib-rs 0.6.8 can panic at that level once its output did not fit.
    out.reserve(data.len() + data.len() / 4 + 4096);
    loop {
        let before = compress.total_in();
        let full = out.len();
        let status = compress.compress_vec(data, out, FlushCompress::Sync).map_err(io::Error::other)?;
        let used = usize::try_from(compress.total_in() - before).unwrap_or(usize::MAX);
        data = data.get(used..).unwrap_or_default();
        // The flush is complete once the compressor leaves room unused.
        if data.is_empty() && out.len() < out.capacity() {
            return Ok(());
        }
        if out.len() == full && used == 0 && status == Status::BufError && out.len() < out.capacity() {
            return Err(io::Error::other("deflate makes no progress"));
        }
        out.reserve(data.len() + 64 * 1024);
    }
}

fn store(data: &[u8], out: &mut Vec<u8>) {
    out.reserve(data.len() + 5 * (data.len() / STORED_MAX + 1));
    for piece in data.chunks(STORED_MAX) {
        let length = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&(!length).to_le_bytes());
        out.extend_from_slice(piece);
    }
}

/// Decides from samples whether deflate would gain nothing on `data`.
///
/// First the byte histogram of samples spread over the block: anything but compressed or random data shows
/// uneven frequencies. Only then two spans are really compressed, which finds repetition in data whose
/// bytes are evenly spread.
fn is_incompressible(data: &[u8]) -> io::Result<bool> {
    const SAMPLE: usize = 1024;
    const SPAN: usize = 32 * 1024;
    if data.len() < 4 * SPAN {
        return Ok(false);
    }
    let mut histogram = [0_u32; 256];
    let mut total = 0_u32;
    for sample in data.chunks(16 * SAMPLE).filter_map(|c| c.get(..SAMPLE)) {
        for byte in sample {
            // JUSTIFICATION: an array of 256 has a place for every byte.
            histogram[usize::from(*byte)] += 1;
        }
        total += 1024;
    }
    if !is_flat(&histogram, total) {
        return Ok(false);
    }
    // Room for the worst case of the fastest level, which expands what it cannot compress.
    let mut out = Vec::with_capacity(2 * SPAN);
    for start in [data.len() / 4, data.len() / 2] {
        let span = data.get(start..start + SPAN).unwrap_or_default();
        out.clear();
        Compress::new(flate2::Compression::new(1), false)
            .compress_vec(span, &mut out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        if out.len() < SPAN - SPAN / 64 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tells whether byte frequencies are so even that an entropy coder would save less than about two percent.
///
/// Works on the sum of squares, in integers, because floating point might differ between machines. For even
/// frequencies the sum is total²/256; sampling noise of 64 samples adds less than one percent, and data with
/// an entropy of 7.9 bits lies about seven percent above.
fn is_flat(histogram: &[u32; 256], total: u32) -> bool {
    let squares: u64 = histogram.iter().map(|n| u64::from(*n) * u64::from(*n)).sum();
    let even = u64::from(total) * u64::from(total) / 256;
    // Noise: the expected excess of a uniform source is exactly `total`.
    squares <= even + u64::from(total) + even / 20
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(data: &[u8]) -> Block {
        let mut block = Block::new(0, data.len());
        let mut left = data;
        while !left.is_empty() {
            let room = block.room(data.len());
            let count = room.len().min(left.len());
            room[..count].copy_from_slice(&left[..count]);
            block.advance(count);
            left = &left[count..];
        }
        block
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u64;
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn only_incompressible_blocks_are_stored() {
        let check = |what: &str, data: Vec<u8>, stored: bool| {
            let mut codec = Codec::new(Compression::Gzip { level: 1 }).unwrap().unwrap();
            let packed = codec.compress(&block(&data), Vec::new()).unwrap();
            let is_stored = packed.bytes.len() > data.len();
            assert_eq!(is_stored, stored, "{what}: {} of {}", packed.bytes.len(), data.len());
        };
        check("noise", noise(GZIP_BLOCK), true);
        check("repeated noise", noise(8 * 1024).repeat(128), false);
        check("text", b"The quick brown fox. ".repeat(40_000), false);
        let mut mixed = noise(GZIP_BLOCK);
        mixed[..GZIP_BLOCK / 3].fill(b'x');
        check("a third of the same", mixed, false);
        let hex = noise(GZIP_BLOCK).iter().map(|b| b"0123456789abcdef"[usize::from(b >> 4)]).collect();
        check("hexadecimal noise", hex, false);
    }
}
