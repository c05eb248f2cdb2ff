//! Memory does not grow with the layer. A test binary of its own, because the peak is that of the process.

use std::fs;
use std::io::{self, Read};

use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerWriter};

/// Full size only where it does not take minutes.
const SIZE: u64 = if cfg!(debug_assertions) { 128 << 20 } else { 2 << 30 };
/// A small part of [`SIZE`]. The same program peaks at 24 to 41 MiB: how many blocks are on their way at once, and what
/// the allocator keeps for each thread, differ from run to run.
const LIMIT_KIB: u64 = 64 << 10;

/// Half text, half noise, in pieces of three megabytes.
struct Generated(u64);

impl Read for Generated {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        for word in buf.chunks_mut(8) {
            self.0 += 1;
            let noise = self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let noise = (noise ^ noise >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes();
            let text = if self.0 >> 18 & 1 == 0 { *b"kiln oci" } else { noise };
            word.copy_from_slice(&text[..word.len()]);
        }
        Ok(buf.len())
    }
}

#[test]
fn peak_does_not_follow_size() {
    for compression in [Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }] {
        let mut writer = LayerWriter::new(io::sink(), compression, 2).unwrap();
        let path = EntryPath::new("generated").unwrap();
        let entry = Entry::new(path, Kind::File { size: SIZE }, 0o644);
        writer.append(&entry, Some(&mut Generated(0).take(SIZE))).unwrap();
        let finished = writer.finish().unwrap();
        assert!(finished.uncompressed_size > SIZE);
        assert!(finished.descriptor.size < SIZE * 3 / 4, "{compression:?}: {}", finished.descriptor.size);
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        println!("{compression:?}: peak {} MB", peak >> 10);
        assert!(peak < LIMIT_KIB, "{compression:?}: peak {peak} KiB");
    }
}
