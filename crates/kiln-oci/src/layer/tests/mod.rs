//! Layers there and back, and what the reader makes of bytes that no writer of ours would produce.

mod archives;
mod estargz;
mod forms;
mod hostile;
mod oracles;
mod sparse;
mod stable;

use std::io::Read;

use super::*;

/// Entries with their content.
pub(super) type Contents = Vec<(Entry, Vec<u8>)>;

/// Reads a layer to its end.
pub(super) fn read_all(bytes: &[u8], limits: Limits) -> Result<(Contents, Summary), Error> {
    let mut reader = LayerReader::new(bytes, limits)?;
    let mut out = Vec::new();
    while let Some((entry, mut content)) = reader.next()? {
        let mut data = Vec::new();
        content.read_to_end(&mut data).map_err(unwrap)?;
        out.push((entry, data));
    }
    Ok((out, reader.finish()?))
}

/// Returns the reader's own error from inside an I/O error.
fn unwrap(error: std::io::Error) -> Error {
    error.downcast().unwrap_or_else(Error::Read)
}

pub(super) fn path(name: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::new(name).unwrap()
}

pub(super) fn file(name: impl AsRef<[u8]>, size: usize) -> Entry {
    Entry::new(path(name), Kind::File { size: size as u64 }, 0o644)
}

/// Writes a layer with the content that belongs to each entry.
pub(super) fn write(
    entries: &[(Entry, Vec<u8>)],
    compression: Compression,
    workers: usize,
) -> Finished<Vec<u8>> {
    let mut writer = LayerWriter::new(Vec::new(), compression, workers).unwrap();
    for (entry, content) in entries {
        writer.append(entry, Some(&mut content.as_slice())).unwrap();
    }
    writer.finish().unwrap()
}

/// Bytes that look random but are always the same.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(step).collect()
}
