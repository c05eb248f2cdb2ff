//! Layers as tar streams: writing one canonical form, reading every form that builders produce.
//!
//! Start at [`LayerWriter`] to make a layer and at [`LayerReader`] to take one apart; both speak [`Entry`].
//! One pass does everything:
//!
//! ```text
//! write  Entry + content -> tar bytes -+-> sha256 = diff id
//!                                      +-> compression -+-> sha256 = digest
//!                                                       +-> sink
//! read   source -> decompression -> sha256 = diff id -> Entry + content
//! ```
//!
//! The canonical form is ustar where a value fits and PAX records where it does not, with no user or group
//! names, no access times, no sparse files and no padding behind the two closing blocks. Equal entries give
//! equal bytes, compressed ones too, whatever the number of threads.
//!
//! This room opens no file: it neither knows how an entry becomes a file nor where a layer is kept.

mod block;
mod codec;
mod decompress;
mod entry;
mod error;
mod estargz;
mod header;
mod overrides;
mod pack;
mod pax;
mod raw;
mod reader;
mod sparse;
mod writer;

#[cfg(test)]
mod tests;

pub use decompress::is_archive;
pub use entry::{Entry, EntryPath, Kind, OPAQUE_MARKER, PathError, Timestamp, WHITEOUT_PREFIX, Whiteout};
pub use error::Error;
pub use estargz::{TOC_DIGEST, UNCOMPRESSED_SIZE, estargz};
pub use reader::{Content, Form, LayerReader, Limits, Summary};
pub use sparse::Segment;
pub use writer::{Compression, Finished, LayerWriter, Precision, recompress, tar_header, tar_padding};
