//! The measurements. Each makes its own input, the same on every machine, and takes the best of three.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kiln::snapshot::{SameIds, unpack};
use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerReader, LayerWriter, Limits};

use crate::{Measured, Outcome};

/// Bytes in the large file of the layer measurements.
const LARGE: usize = 64 << 20;
/// Files of the measurements that count files.
const FILES: usize = 20_000;
/// Commands of the build that measures the start of a sandbox.
const COMMANDS: usize = 20;

/// Returns how many steps of a plain loop this machine does in a second: each needs the one before.
pub(crate) fn calibrate() -> f64 {
    const STEPS: u64 = 200_000_000;
    let mut best = Duration::MAX;
    for round in 0..3_u64 {
        let start = Instant::now();
        let mut x = std::hint::black_box(round | 1);
        for _ in 0..STEPS {
            // Not linear, so that the compiler cannot take several steps at once.
            x = (x ^ (x >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        }
        std::hint::black_box(x);
        best = best.min(start.elapsed());
    }
    STEPS as f64 / best.as_secs_f64()
}

/// Runs every measurement.
pub(crate) fn all(kiln: &Path, base: &Path) -> Outcome<Vec<Measured>> {
    let dir = std::env::temp_dir().join(format!("kiln-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let measured = layers(&dir).and_then(|mut measured| {
        let builds = Builds { kiln: kiln.to_owned(), dir: dir.clone() };
        measured.push(builds.sandbox(base)?);
        measured.extend(builds.context()?);
        // Its store may hold what only kiln can delete.
        builds.command(&["prune", "--all"]).status()?;
        Ok(measured)
    });
    std::fs::remove_dir_all(&dir)?;
    measured
}

fn layers(dir: &Path) -> Outcome<Vec<Measured>> {
    let content = text(LARGE);
    let many = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (gzip, zstd) = (Compression::default(), Compression::Zstd { level: 3 });
    let mut measured = Vec::new();
    for (name, compression, workers) in [
        ("pack, gzip, one worker", gzip, 1),
        ("pack, gzip, all processors", gzip, many),
        ("pack, zstd, one worker", zstd, 1),
    ] {
        let took = best(|| large(&content, compression, workers).map(drop))?;
        measured.push(Measured { name, rate: megabytes(LARGE, took), unit: "MB/s" });
    }
    let packed = large(&content, gzip, many)?;
    let took = best(|| read(packed.clone()))?;
    measured.push(Measured { name: "read, gzip", rate: megabytes(LARGE, took), unit: "MB/s" });
    let small = files()?;
    let target = dir.join("unpacked");
    let took = best_after(
        || {
            if target.exists() {
                std::fs::remove_dir_all(&target)?;
            }
            Ok(std::fs::create_dir(&target)?)
        },
        || {
            let reader = LayerReader::threaded(Cursor::new(small.clone()), Limits::default())?;
            unpack(reader, &target, &SameIds)?;
            Ok(())
        },
    )?;
    measured.push(Measured {
        name: "unpack, small files",
        rate: FILES as f64 / took.as_secs_f64(),
        unit: "files/s",
    });
    Ok(measured)
}

/// kiln in a store of its own.
struct Builds {
    kiln: PathBuf,
    dir: PathBuf,
}

impl Builds {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kiln);
        command.args(args).args(["--store", "store"]).current_dir(&self.dir);
        command
    }

    fn build(&self, args: &[&str]) -> Outcome {
        let mut command = self.command(&["build", "--quiet"]);
        let output = command.args(args).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("`kiln build` failed: {}", String::from_utf8_lossy(&output.stderr)).into())
    }

    /// Commands that do nothing, one after another: what a sandbox costs, with its empty layer.
    fn sandbox(&self, base: &Path) -> Outcome<Measured> {
        if !Command::new(base).arg("base").current_dir(&self.dir).status()?.success() {
            return Err("cannot make the base image".into());
        }
        let context = self.dir.join("commands");
        std::fs::create_dir(&context)?;
        let commands: String = (0..COMMANDS).map(|n| format!("RUN [\"true\", \"{n}\"]\n")).collect();
        std::fs::write(context.join("Dockerfile"), format!("FROM base\n{commands}"))?;
        let args = ["--no-cache", "--build-context", "base=oci-layout://base", "commands"];
        let took = best(|| self.build(&args))?;
        Ok(Measured { name: "start a sandbox", rate: COMMANDS as f64 / took.as_secs_f64(), unit: "RUN/s" })
    }

    /// A build in which nothing has changed: what it takes to know that, with and without what is remembered of files.
    fn context(&self) -> Outcome<[Measured; 2]> {
        let context = self.dir.join("context");
        for n in 0..FILES {
            let dir = context.join(format!("src/{}", n / 100));
            if n % 100 == 0 {
                std::fs::create_dir_all(&dir)?;
            }
            std::fs::write(dir.join(n.to_string()), format!("{n:015}\n").repeat(64))?;
        }
        std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY src /src\n")?;
        // Files are remembered once they were left alone for two seconds.
        std::thread::sleep(Duration::from_secs(3));
        self.build(&["context"])?;
        let files = |name, took: Duration| Measured {
            name,
            rate: FILES as f64 / took.as_secs_f64(),
            unit: "files/s",
        };
        let known = best(|| self.build(&["context"]))?;
        let forget = || Ok(std::fs::remove_dir_all(self.dir.join("store/contexts"))?);
        let forgotten = best_after(forget, || self.build(&["context"]))?;
        Ok([files("know a context, cached build", known), files("hash a context, cached build", forgotten)])
    }
}

/// Returns text that compresses about as well as programs do, the same in every run.
fn text(bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes + 16);
    let mut x = 1_u64;
    while out.len() < bytes {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = x >> 33;
        out.extend_from_slice(&word.to_le_bytes()[..3]);
        out.extend_from_slice(&[0, b'a' + u8::try_from(word % 7).unwrap_or(0), b'/']);
    }
    out.truncate(bytes);
    out
}

fn large(content: &[u8], compression: Compression, workers: usize) -> Outcome<Vec<u8>> {
    let mut writer = LayerWriter::new(Vec::new(), compression, workers)?;
    let entry = Entry::new(EntryPath::new("large")?, Kind::File { size: content.len() as u64 }, 0o644);
    writer.append(&entry, Some(&mut Cursor::new(content)))?;
    Ok(writer.finish()?.sink)
}

fn files() -> Outcome<Vec<u8>> {
    let mut writer = LayerWriter::new(Vec::new(), Compression::default(), 1)?;
    for n in 0..FILES {
        let name = EntryPath::new(format!("{:03}/{n}", n / 100))?;
        if n % 100 == 0 {
            writer.append(&Entry::new(name.parent().unwrap_or_default(), Kind::Directory, 0o755), None)?;
        }
        let content = format!("{n:015}\n").repeat(64);
        let kind = Kind::File { size: content.len() as u64 };
        writer.append(&Entry::new(name, kind, 0o644), Some(&mut content.as_bytes()))?;
    }
    Ok(writer.finish()?.sink)
}

fn read(packed: Vec<u8>) -> Outcome {
    let mut reader = LayerReader::threaded(Cursor::new(packed), Limits::default())?;
    while let Some((_, mut content)) = reader.next()? {
        io::copy(&mut content, &mut io::sink())?;
    }
    reader.finish()?;
    Ok(())
}

fn best(run: impl FnMut() -> Outcome) -> Outcome<Duration> {
    best_after(|| Ok(()), run)
}

fn best_after(mut prepare: impl FnMut() -> Outcome, mut run: impl FnMut() -> Outcome) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        prepare()?;
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed());
    }
    Ok(best)
}

fn megabytes(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}
