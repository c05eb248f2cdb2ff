//! `cargo xtask bench`: builds kiln and the measurements in release mode and runs them.
//!
//! The measurements themselves are the package `xtask-bench`, so that this program stays without dependencies.

use std::process::Command;

use crate::Outcome;
use crate::cargo::{cargo, root, run as run_command, target_dir};

/// Where the ratios of an earlier run are kept.
const BASELINE: &str = "xtask/bench-baseline.txt";

pub(crate) fn run(args: &[&str]) -> Outcome {
    if let ["growth", rest @ ..] = args {
        return growth(rest);
    }
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

/// How cost grows with the input; what the options mean is the business of the measurements.
fn growth(args: &[&str]) -> Outcome {
    let mut build = vec!["build", "--release", "-p", "kiln-testkit", "-p", "xtask-bench"];
    let own = !args.contains(&"--kiln");
    if own {
        build.extend(["-p", "kiln-cli"]);
    }
    run_command(&mut cargo(build)?)?;
    let release = target_dir()?.join("release");
    let mut bench = Command::new(release.join("xtask-bench"));
    bench.arg("growth").arg(release.join("kiln-host-base")).args(args);
    if own {
        bench.arg("--kiln").arg(release.join("kiln"));
    }
    run_command(&mut bench)
}
