//! The builds that are measured, by what grows.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::data::{Kind, Measurement};
use super::statistics::median;
use super::{input, watch};
use crate::Outcome;

/// A build that takes less is repeated, in seconds.
const SHORT: f64 = 10.0;
/// How often.
const RUNS: usize = 3;
/// Files are remembered once they were left alone for two seconds.
const SETTLED: Duration = Duration::from_millis(2500);

/// Measures everything of a kind, from the smallest input to the largest.
pub(crate) fn run(kind: Kind, kiln: &Path, base: &Path, quick: bool) -> Outcome<Vec<Measurement>> {
    let dir = std::env::temp_dir().join(format!("kiln-growth-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut bench = Bench { kiln: kiln.to_owned(), dir: dir.clone(), kind, measured: Vec::new() };
    let done = match kind {
        Kind::Files => bench.files(if quick { &[100, 1000] } else { &[1000, 10_000, 100_000, 500_000] }),
        Kind::Layer => bench.layer(if quick { &[16, 64] } else { &[102, 1024, 8192] }),
        Kind::Steps => bench.steps(base, if quick { &[2, 10] } else { &[10, 100, 400] }),
    };
    let cleaned = bench.clear();
    std::fs::remove_dir_all(&dir)?;
    done.and(cleaned)?;
    Ok(bench.measured)
}

/// kiln in a store of its own.
struct Bench {
    kiln: PathBuf,
    dir: PathBuf,
    kind: Kind,
    measured: Vec<Measurement>,
}

impl Bench {
    fn files(&mut self, sizes: &[u64]) -> Outcome {
        for &count in sizes {
            let context = self.context()?;
            input::files(&context, count)?;
            std::thread::sleep(SETTLED);
            let size = count as f64;
            self.measure("first build", size, &[], |bench, _| bench.clear())?;
            self.measure("nothing changed", size, &[], |_, _| Ok(()))?;
            self.measure("one file changed", size, &[], |_, run| {
                input::change(&context, count / 2, count + run as u64)
            })?;
        }
        Ok(())
    }

    fn layer(&mut self, mebibytes: &[u64]) -> Outcome {
        for &size in mebibytes {
            input::large(&self.context()?, size << 20)?;
            std::thread::sleep(SETTLED);
            // A tenth of a GiB is no whole number of MiB.
            let size = (size as f64 / 1.024).round() / 1000.0;
            self.measure("first build", size, &[], |bench, _| bench.clear())?;
            self.measure("nothing changed", size, &[], |_, _| Ok(()))?;
        }
        Ok(())
    }

    fn steps(&mut self, base: &Path, sizes: &[u64]) -> Outcome {
        if !Command::new(base).arg("base").current_dir(&self.dir).status()?.success() {
            return Err("cannot make the base image".into());
        }
        let on_base = ["--build-context", "base=oci-layout://base"];
        let builds: [(&str, &str, &str, &[&str]); 2] = [
            ("RUN true", "base", "RUN [\"true\"]", &on_base),
            ("COPY of one file", "scratch", "COPY file /n/{}", &[]),
        ];
        for (build, base, instruction, args) in builds {
            for &count in sizes {
                input::steps(&self.context()?, base, instruction, count)?;
                self.measure(build, count as f64, args, |bench, _| bench.clear())?;
            }
        }
        Ok(())
    }

    /// Returns the place of a context, empty.
    fn context(&self) -> Outcome<PathBuf> {
        let context = self.dir.join("context");
        if context.exists() {
            std::fs::remove_dir_all(&context)?;
        }
        std::fs::create_dir(&context)?;
        Ok(context)
    }

    /// Runs a build, after `prepare`, which gets the number of the run.
    fn measure(
        &mut self,
        build: &str,
        size: f64,
        args: &[&str],
        prepare: impl Fn(&Self, usize) -> Outcome,
    ) -> Outcome {
        let load = std::fs::read_to_string("/proc/loadavg")?;
        let load = load.split(' ').next().unwrap_or_default().parse()?;
        let mut runs = Vec::new();
        while runs.len() < RUNS {
            prepare(self, runs.len())?;
            let mut command = self.command(&["build", "--quiet"]);
            let used = watch::run(&self.kiln, command.args(args).arg("context"))?;
            runs.push(used);
            if used.wall >= SHORT {
                break;
            }
        }
        let middle = |what: fn(&watch::Usage) -> f64| median(&runs.iter().map(what).collect::<Vec<_>>());
        let measured = Measurement {
            kind: self.kind,
            build: build.to_owned(),
            size,
            runs: runs.len(),
            wall_s: rounded(middle(|used| used.wall)),
            cpu_s: rounded(middle(|used| used.cpu)),
            memory_bytes: runs.iter().map(|used| used.memory).max().unwrap_or(0),
            store_bytes: self.store()?,
            load,
        };
        println!(
            "{} {size}, {build}: {} s, {} s of a processor, {} KiB, load {load}",
            self.kind.name(),
            measured.wall_s,
            measured.cpu_s,
            measured.memory_bytes >> 10
        );
        self.measured.push(measured);
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kiln);
        command.args(args).args(["--store", "store"]).current_dir(&self.dir);
        command
    }

    /// Returns the size of the store on disk, which `kiln du` may see where this program may not.
    fn store(&self) -> Outcome<u64> {
        let output = self.command(&["du", "--format", "json"]).output()?;
        let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        report["total"].as_u64().ok_or_else(|| "`kiln du` tells no total".into())
    }

    /// Deletes the store; it may hold what only kiln can delete.
    fn clear(&self) -> Outcome {
        let store = self.dir.join("store");
        if store.exists() {
            self.command(&["prune", "--all", "--force"]).output()?;
            std::fs::remove_dir_all(&store)?;
        }
        Ok(())
    }
}

/// Rounds to milliseconds: more is noise.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
