//! Speed of unpacking and packing: `cargo bench -p kiln --bench snapshot -- [DIRECTORY]`.
//!
//! Unpacks fifty thousand files of two kilobytes, and a layer made of DIRECTORY (default: `/usr`), into the
//! directory for temporary files; then takes the difference to nothing and packs it again.

use std::io::{self, Cursor, Write as _};
use std::path::Path;
use std::time::Instant;

use kiln::snapshot::{Options, SameIds, diff, pack, unpack};
use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerReader, LayerWriter, Limits};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let from = std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_else(|| "/usr".to_owned());
    measure("50,000 files of 2 KB", many_files(Compression::Gzip { level: 3 })?)?;
    measure("50,000 files of 2 KB, not compressed", many_files(Compression::None)?)?;
    for compression in [Compression::Gzip { level: 3 }, Compression::Zstd { level: 3 }] {
        let mut writer = LayerWriter::new(Vec::new(), compression, 2)?;
        pack(diff(Path::new(&from), &[], &SameIds, &[], Options::default())?, &mut writer)?;
        measure(&format!("{from} as {compression:?}"), writer.finish()?.sink)?;
    }
    Ok(())
}

fn many_files(compression: Compression) -> Outcome<Vec<u8>> {
    let mut writer = LayerWriter::new(Vec::new(), compression, 2)?;
    for i in 0..50_000 {
        let name = EntryPath::new(format!("usr/share/{:03}/{i}", i / 100))?;
        if i % 100 == 0 {
            let parent = name.parent().unwrap_or_default();
            writer.append(&Entry::new(parent, Kind::Directory, 0o755), None)?;
        }
        let content = format!("{i:015}\n").repeat(128);
        let kind = Kind::File { size: content.len() as u64 };
        writer.append(&Entry::new(name, kind, 0o644), Some(&mut content.as_bytes()))?;
    }
    Ok(writer.finish()?.sink)
}

fn measure(what: &str, layer: Vec<u8>) -> Outcome<()> {
    let dir = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    let mut out = io::stdout().lock();
    for threads in [false, true] {
        std::fs::create_dir(&dir)?;
        let source = Cursor::new(layer.clone());
        let start = Instant::now();
        let reader = if threads {
            LayerReader::threaded(source, Limits::default())?
        } else {
            LayerReader::new(source, Limits::default())?
        };
        let unpacked = unpack(reader, &dir, &SameIds)?;
        let time = start.elapsed().as_secs_f64();
        let how = if threads { "on threads" } else { "here" };
        writeln!(
            out,
            "{what}: unpacked {how} in {time:.2} s, {:.0} entries/s, {:.0} MB/s",
            unpacked.entries as f64 / time,
            unpacked.bytes as f64 / 1e6 / time
        )?;
        if threads {
            let start = Instant::now();
            let mut writer = LayerWriter::new(io::sink(), Compression::Gzip { level: 3 }, 2)?;
            let count = pack(diff(&dir, &[], &SameIds, &[], Options::default())?, &mut writer)?;
            let time = start.elapsed().as_secs_f64();
            let size = writer.finish()?.uncompressed_size as f64;
            writeln!(
                out,
                "    packed in {time:.2} s, {:.0} entries/s, {:.0} MB/s",
                count as f64 / time,
                size / 1e6 / time
            )?;
        }
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}
