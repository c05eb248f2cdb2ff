//! `cargo xtask bench`: builds kiln and the measurements in release mode and runs them.
//!
//! The measurements themselves are the package `xtask-bench`, so that this program stays without dependencies.

use std::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, root, run as run_command, target_dir};

/// Where the ratios of an earlier run are kept.
const BASELINE: &str = "xtask/bench-baseline.txt";

pub(crate) fn run(args: &[&str]) -> Outcome {
    if !matches!(args, [] | ["--save"]) {
        return Err(format!("`bench` does not know `{}`", args.join(" ")));
    }
    run_command(&mut cargo([
        "build",
        "--release",
        "-p",
        "kiln-cli",
        "-p",
        "kiln-testkit",
        "-p",
        "xtask-bench",
    ])?)?;
    let release = target_dir()?.join("release");
    let mut bench = Command::new(release.join("xtask-bench"));
    bench.arg(release.join("kiln")).arg(release.join("kiln-host-base")).arg(root().join(BASELINE)).args(args);
    run_command(&mut bench)
}
