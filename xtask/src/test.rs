//! `cargo xtask test` and `cargo xtask check`: steps in order, stopping at the first that fails.
//!
//! A step that this machine cannot do is left out with its reason, never passed over in silence. Tests do the
//! same one by one: they write `left out: WHAT: WHY`, and the summary repeats it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cargo::{cargo, root, run as run_command, run_listening, succeeds, target_dir};
use crate::example::{self, Programs, Ran};
use crate::{Outcome, elf, fuzz, tidy};

/// What became of a step that did not fail.
enum Step {
    Done,
    LeftOut(String),
}

/// What was done so far.
#[derive(Default)]
struct Summary {
    done: Vec<(&'static str, Duration)>,
    left_out: Vec<String>,
}

impl Summary {
    fn step(&mut self, name: &'static str, step: impl FnOnce(&mut Self) -> Outcome<Step>) -> Outcome {
        println!("\n== {name}");
        let start = Instant::now();
        match step(self) {
            Ok(Step::Done) => self.done.push((name, start.elapsed())),
            Ok(Step::LeftOut(why)) => self.left_out.push(format!("{name}: {why}")),
            Err(message) => {
                println!();
                self.print();
                return Err(format!("{name}: {message}"));
            }
        }
        Ok(())
    }

    fn print(&self) {
        println!("== summary");
        for (name, took) in &self.done {
            println!("{name:<32} passed {:>8.1} s", took.as_secs_f64());
        }
        for what in &self.left_out {
            println!("left out: {what}");
        }
    }
}

/// How long each fuzz target runs here: long enough to run all seeds and to find what is near them.
const FUZZ_SECONDS: u32 = 10;

/// Runs everything that this machine can run.
pub(crate) fn all() -> Outcome {
    let mut summary = Summary::default();
    checks(&mut summary)?;
    summary.step("tests", |summary| {
        summary.left_out.extend(run_listening(&mut cargo(["test", "--workspace"])?)?);
        Ok(Step::Done)
    })?;
    summary.step("fuzz", |_| match fuzz::short(FUZZ_SECONDS)? {
        Ok(()) => Ok(Step::Done),
        Err(why) => Ok(Step::LeftOut(why)),
    })?;
    let mut built = None;
    summary.step("static build", |summary| static_build(summary, &mut built))?;
    if let Some(kiln) = built {
        summary.step("example with the static build", |_| run_example(kiln))?;
    }
    println!();
    summary.print();
    println!("everything that ran has passed");
    Ok(())
}

/// Runs what takes less than two minutes when nothing has to be compiled anew.
pub(crate) fn quick() -> Outcome {
    let mut summary = Summary::default();
    checks(&mut summary)?;
    summary.step("unit tests", |summary| {
        summary.left_out.extend(run_listening(&mut cargo(["test", "--workspace", "--lib", "--bins"])?)?);
        Ok(Step::Done)
    })?;
    println!();
    summary.print();
    Ok(())
}

fn checks(summary: &mut Summary) -> Outcome {
    summary.step("fmt", |_| tool("fmt", "rustfmt", &["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
    summary.step("clippy", |_| tool("clippy", "clippy", &clippy))?;
    summary.step("tidy", |_| tidy::run().map(|()| Step::Done))
}

/// Runs a tool that some toolchains come without.
fn tool(name: &str, component: &str, args: &[&str]) -> Outcome<Step> {
    if !succeeds(cargo([name, "--version"])?.current_dir(root())) {
        return Ok(Step::LeftOut(format!("this toolchain lacks it (`rustup component add {component}`)")));
    }
    run_command(&mut cargo(args.iter().copied())?)?;
    Ok(Step::Done)
}

/// Builds kiln as one static program: with musl where that can be had, else with glibc.
fn static_build(summary: &mut Summary, built: &mut Option<PathBuf>) -> Outcome<Step> {
    let musl = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    if have_target(&musl) {
        let mut command = cargo(["build", "--release", "--target", &musl, "-p", "kiln-cli"])?;
        name_tools(&mut command, &musl);
        run_command(&mut command)?;
        *built = Some(check_static(&target_dir()?.join(&musl).join("release/kiln"))?);
        return Ok(Step::Done);
    }
    summary
        .left_out
        .push(format!("static build with musl: the target {musl} is not installed and cannot be fetched"));
    let Some(host) = host() else {
        return Ok(Step::LeftOut("rustc does not say what it compiles for".to_owned()));
    };
    println!("there is no target {musl} here; building for {host} with a static C library instead");
    let mut command = cargo(["build", "--release", "--target", &host, "-p", "kiln-cli"])?;
    if run_command(command.env("RUSTFLAGS", "-C target-feature=+crt-static")).is_err() {
        return Ok(Step::LeftOut(
            "there is neither a musl target nor a static C library on this machine".to_owned(),
        ));
    }
    *built = Some(check_static(&target_dir()?.join(&host).join("release/kiln"))?);
    Ok(Step::Done)
}

/// Tells whether rustc has the target, after fetching it if that is possible.
fn have_target(target: &str) -> bool {
    let installed = || {
        let output = Command::new("rustc")
            .args(["--print", "target-libdir", "--target", target])
            .current_dir(root())
            .output();
        output.is_ok_and(|o| {
            o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir()
        })
    };
    installed()
        || (succeeds(Command::new("rustup").args(["target", "add", target]).current_dir(root()))
            && installed())
}

/// Names linker and C compiler for targets that `.cargo/config.toml` does not know, in the same way.
fn name_tools(command: &mut Command, target: &str) {
    if target.starts_with("x86_64-") {
        return;
    }
    let name = target.replace('-', "_");
    let linker = format!("CARGO_TARGET_{}_LINKER", name.to_uppercase());
    command
        .env(linker, "rust-lld")
        .env(format!("CC_{name}"), "cc")
        .env(format!("CFLAGS_{name}"), "-U_FORTIFY_SOURCE");
}

/// Returns the triple of this machine.
pub(crate) fn host() -> Option<String> {
    let output = Command::new("rustc").arg("-vV").current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().find_map(|line| line.strip_prefix("host: ")).map(str::to_owned)
}

fn check_static(program: &Path) -> Outcome<PathBuf> {
    let bytes = std::fs::read(program).map_err(|e| format!("cannot read {}: {e}", program.display()))?;
    match elf::is_static(&bytes) {
        Some(true) => {
            println!("{} is static, {:.1} MB", program.display(), bytes.len() as f64 / 1e6);
            Ok(program.to_owned())
        }
        Some(false) => Err(format!("{} needs a loader: it is not static", program.display())),
        None => Err(format!("{} is no 64-bit program for this kind of machine", program.display())),
    }
}

fn run_example(kiln: PathBuf) -> Outcome<Step> {
    run_command(&mut cargo(["build", "-p", "kiln-testkit", "--bin", "kiln-host-base"])?)?;
    let base = target_dir()?.join("debug/kiln-host-base");
    match example::build(&Programs { kiln, base })? {
        Ran::Built(digest) => {
            println!("built {digest}, twice");
            Ok(Step::Done)
        }
        Ran::NoSandbox => {
            Ok(Step::LeftOut("this machine cannot isolate commands, as kiln says above".to_owned()))
        }
    }
}
