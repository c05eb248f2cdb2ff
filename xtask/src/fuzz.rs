//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/` with libFuzzer, on the stable compiler.
//!
//! The targets are a workspace of their own, because libFuzzer is C++ and kiln needs no compiler for that. What
//! cargo-fuzz asks of a nightly compiler is the address sanitizer; kiln's language is safe Rust, so counters of
//! coverage are all that is wanted, and stable rustc has the flags for them.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::Outcome;
use crate::cargo::{cargo, root, run as run_command, succeeds, target_dir};

/// The targets, as `fuzz/Cargo.toml` names them.
const TARGETS: [&str; 3] = ["parse", "expand", "ignore"];

/// Counters at every edge, a table of their addresses, and a look at what values are compared with.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1";

/// How long a target runs unless somebody says otherwise.
const SECONDS: u32 = 60;

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
struct Asked<'a> {
    targets: Vec<&'static str>,
    seconds: u32,
    /// One input to be run again, in place of a search.
    input: Option<&'a str>,
}

pub(crate) fn run(args: &[&str]) -> Outcome {
    let asked = read(args)?;
    if let Some(why) = missing() {
        return Err(format!("cannot build the fuzz targets: {why}"));
    }
    let programs = build()?;
    for target in asked.targets {
        match asked.input {
            Some(input) => run_command(Command::new(programs.join(target)).arg(input))?,
            None => search(&programs, target, asked.seconds)?,
        }
    }
    Ok(())
}

/// Runs every target for a short time; says why when this machine cannot.
pub(crate) fn short(seconds: u32) -> Outcome<Result<(), String>> {
    if let Some(why) = missing() {
        return Ok(Err(why));
    }
    let programs = build()?;
    for target in TARGETS {
        search(&programs, target, seconds)?;
    }
    Ok(Ok(()))
}

fn read<'a>(args: &[&'a str]) -> Outcome<Asked<'a>> {
    let mut asked = Asked { targets: TARGETS.to_vec(), seconds: SECONDS, input: None };
    let mut rest = args.iter();
    let mut named = false;
    while let Some(arg) = rest.next() {
        match *arg {
            "--seconds" => {
                let number = rest.next().and_then(|number| number.parse().ok()).filter(|number| *number > 0);
                asked.seconds = number.ok_or("`--seconds` needs a number of seconds")?;
            }
            name if !named && TARGETS.contains(&name) => {
                asked.targets.retain(|target| *target == name);
                named = true;
            }
            file if named && asked.input.is_none() && !file.starts_with('-') => asked.input = Some(file),
            other => {
                let targets = TARGETS.join("`, `");
                return Err(format!("`fuzz` does not know `{other}`; the targets are `{targets}`"));
            }
        }
    }
    Ok(asked)
}

/// Returns what this machine lacks.
fn missing() -> Option<String> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".to_owned());
    let check = ["-x", "c++", "-fsyntax-only", "-include", "atomic", "/dev/null"];
    if !succeeds(Command::new(&compiler).args(check)) {
        return Some(format!("there is no C++ compiler `{compiler}` with a standard library"));
    }
    let fetched = command(["fetch", "--locked"]).is_ok_and(|mut fetch| succeeds(&mut fetch));
    (!fetched).then(|| "the libraries of `fuzz/` cannot be fetched".to_owned())
}

/// Returns a cargo command on the workspace of the targets, which has a target directory of its own: other flags
/// would have everything compiled anew in turns.
fn command<const N: usize>(args: [&str; N]) -> Outcome<Command> {
    let mut command = cargo(args)?;
    command.current_dir(root().join("fuzz")).env("CARGO_TARGET_DIR", dir()?);
    Ok(command)
}

fn dir() -> Outcome<PathBuf> {
    Ok(target_dir()?.join("fuzz"))
}

/// Builds the targets and returns where they are.
fn build() -> Outcome<PathBuf> {
    let host = crate::test::host().ok_or("rustc does not say what it compiles for")?;
    // Naming the platform keeps the flags away from build scripts and macros.
    let mut build = command(["build", "--locked", "--release", "--target", &host])?;
    run_command(build.env("RUSTFLAGS", COVERAGE))?;
    Ok(dir()?.join(host).join("release"))
}

/// Lets one target search for inputs that break a promise.
fn search(programs: &std::path::Path, target: &str, seconds: u32) -> Outcome {
    let own = root().join("fuzz");
    let corpus = dir()?.join("corpus").join(target);
    let log = dir()?.join(format!("{target}.log"));
    std::fs::create_dir_all(&corpus).map_err(|e| format!("cannot make {}: {e}", corpus.display()))?;
    let file = File::create(&log).map_err(|e| format!("cannot make {}: {e}", log.display()))?;
    let mut search = Command::new(programs.join(target));
    search
        .arg(&corpus)
        .arg(own.join("seeds").join(target))
        .arg(format!("-dict={}", own.join("dictionaries").join(target).display()))
        .arg(format!("-artifact_prefix={}", dir()?.join(format!("{target}-")).display()))
        .arg(format!("-max_total_time={seconds}"))
        .args(["-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file);
    let status = search.status().map_err(|e| format!("cannot run {target}: {e}"))?;
    let text = std::fs::read(&log).map_err(|e| format!("cannot read {}: {e}", log.display()))?;
    let text = String::from_utf8_lossy(&text);
    if !status.success() {
        let end = text.lines().rev().take(60).collect::<Vec<_>>();
        eprintln!("{}", end.into_iter().rev().collect::<Vec<_>>().join("\n"));
        return Err(format!(
            "{target} broke a promise; its input is beside {}: run it again with `cargo xtask fuzz {target} FILE`",
            log.display()
        ));
    }
    let (executions, covered) = figures(&text);
    println!("{target}: {executions} executions in {seconds} s, {covered} edges covered, nothing broken");
    Ok(())
}

/// Finds the number of executions and of covered edges in what libFuzzer says.
fn figures(log: &str) -> (&str, &str) {
    let after = |mark: &str| {
        let (_, rest) = log.rsplit_once(mark)?;
        rest.split_whitespace().next()
    };
    (after("stat::number_of_executed_units:").unwrap_or("?"), after(" cov: ").unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        let all = TARGETS.to_vec();
        assert_eq!(read(&[]), Ok(Asked { targets: all.clone(), seconds: SECONDS, input: None }));
        assert_eq!(read(&["--seconds", "5"]), Ok(Asked { targets: all, seconds: 5, input: None }));
        let one = Asked { targets: vec!["expand"], seconds: SECONDS, input: Some("x") };
        assert_eq!(read(&["expand", "x"]), Ok(one));
        for wrong in
            [&["walk"][..], &["--seconds"], &["--seconds", "0"], &["parse", "--x"], &["parse", "a", "b"]]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn figures_are_those_of_the_end() {
        let log = "#2 INITED cov: 7 ft: 8\n#9 DONE cov: 12 ft: 30\nstat::number_of_executed_units: 9\n";
        assert_eq!(figures(log), ("9", "12"));
        assert_eq!(figures(""), ("?", "?"));
    }
}
