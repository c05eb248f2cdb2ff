//! Speed and size of layers made of real files: `cargo bench -p kiln-oci --bench layer -- DIRECTORY`.
//!
//! Prints megabytes per second of the uncompressed stream and the compressed size in percent, for every level
//! worth having, with one worker and with two. Best of three.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerReader, LayerWriter, Limits};

/// Enough for stable numbers, little enough to stay in memory.
const BYTES: u64 = 256 << 20;

fn main() -> io::Result<()> {
    let from =
        std::env::args().skip(1).find(|a| !a.starts_with("--")).unwrap_or_else(|| "/usr/lib".to_owned());
    let mut files = Vec::new();
    collect(Path::new(&from), &mut files, &mut 0)?;
    let layer = write(&files, Compression::None, 1)?;
    let size = layer.1.len();
    let mut out = io::stdout().lock();
    writeln!(out, "{} files, {} MB", files.len(), size / 1_000_000)?;
    let gzip = [1, 2, 3, 4, 5, 6].map(|level| Compression::Gzip { level });
    let zstd = [1, 3].map(|level| Compression::Zstd { level });
    for compression in gzip.into_iter().chain(zstd) {
        for workers in [1, 2] {
            let mut packed = Vec::new();
            let time = best(|| {
                let mut writer = LayerWriter::new(Vec::new(), compression, workers)?;
                let whole = Entry::new(path("all"), Kind::File { size: size as u64 }, 0o644);
                writer.append(&whole, Some(&mut layer.1.as_slice()))?;
                packed = writer.finish()?.sink;
                Ok(())
            })?;
            let percent = packed.len() as f64 * 100.0 / size as f64;
            writeln!(out, "{compression:?} x{workers}: {:6.1} MB/s, {percent:.2} %", rate(size, time))?;
            if workers == 2 {
                for threads in [false, true] {
                    let time = best(|| read(packed.clone(), threads))?;
                    let how = if threads { "on threads" } else { "here" };
                    writeln!(out, "    read {how}: {:6.1} MB/s", rate(size, time))?;
                }
            }
        }
    }
    Ok(())
}

fn read(packed: Vec<u8>, threads: bool) -> io::Result<()> {
    let source = io::Cursor::new(packed);
    let mut reader = if threads {
        LayerReader::threaded(source, Limits::default())?
    } else {
        LayerReader::new(source, Limits::default())?
    };
    while let Some((_, mut content)) = reader.next()? {
        io::copy(&mut content, &mut io::sink())?;
    }
    reader.finish()?;
    Ok(())
}

fn best(mut run: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

fn rate(size: usize, time: Duration) -> f64 {
    size as f64 / 1e6 / time.as_secs_f64()
}

fn write(files: &[PathBuf], compression: Compression, workers: usize) -> io::Result<(u64, Vec<u8>)> {
    let mut writer = LayerWriter::new(Vec::new(), compression, workers)?;
    for name in files {
        let mut file = File::open(name)?;
        let size = file.metadata()?.len();
        let name = EntryPath::rooted(name.as_os_str().as_encoded_bytes()).map_err(io::Error::other)?;
        writer.append(&Entry::new(name, Kind::File { size }, 0o644), Some(&mut file))?;
    }
    let finished = writer.finish()?;
    Ok((finished.uncompressed_size, finished.sink))
}

fn path(name: &str) -> EntryPath {
    EntryPath::new(name).unwrap_or_default()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>, total: &mut u64) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files, total)?;
        } else if kind.is_file() && *total < BYTES {
            *total += entry.metadata()?.len();
            files.push(entry.path());
        }
    }
    Ok(())
}
