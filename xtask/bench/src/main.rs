//! Measures kiln: `xtask-bench KILN HOST-BASE BASELINE [--save]`, started by `cargo xtask bench`, and
//! `xtask-bench growth …`, started by `cargo xtask bench growth` and described in `growth/mod.rs`.
//!
//! Every measurement is a rate. Divided by the speed of a plain loop on one processor in the same run, it becomes
//! a ratio that can be compared with another machine's, roughly: processors differ in more than one way, and the
//! measurements that create files or processes depend on disk and kernel besides. The loop does not hash,
//! because some processors hash with an instruction and some do not.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for developers that prints a table"
)]

mod baseline;
mod growth;
mod measure;

use std::path::Path;
use std::process::ExitCode;

/// What a measurement or its set-up can fail with.
type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// A rate: how many of something in a second, more is better.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// The name, which the baseline knows it by.
    name: &'static str,
    /// Units per second.
    rate: f64,
    /// The unit.
    unit: &'static str,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["growth", rest @ ..] => growth::run(rest),
        [kiln, base, baseline] => run(&[kiln, base, baseline], false),
        [kiln, base, baseline, "--save"] => run(&[kiln, base, baseline], true),
        _ => {
            eprintln!(
                "usage: xtask-bench KILN HOST-BASE BASELINE [--save]\n       xtask-bench {}",
                growth::USAGE
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run([kiln, base, baseline]: &[&str; 3], save: bool) -> Outcome {
    let loops = measure::calibrate();
    println!("calibration: {:.0} million steps of a plain loop per second", loops / 1e6);
    let measured = measure::all(Path::new(kiln), Path::new(base))?;
    let baseline = Path::new(baseline);
    let known = baseline::read(baseline);
    println!("\n{:<36} {:>22} {:>10} {:>10} {:>8}", "", "rate", "ratio", "baseline", "change");
    for m in &measured {
        let ratio = baseline::ratio(m, loops);
        let old = known.get(m.name).copied();
        let shown = old.map_or_else(|| "-".to_owned(), |old| format!("{old:.3}"));
        let change =
            old.map_or_else(|| "-".to_owned(), |old| format!("{:+.0} %", (ratio / old - 1.0) * 100.0));
        println!("{:<36} {:>11.1} {:<10} {ratio:>10.3} {shown:>10} {change:>8}", m.name, m.rate, m.unit);
    }
    if save {
        baseline::write(baseline, &measured, loops)?;
        println!("\nwritten to {}", baseline.display());
    } else {
        println!("\nChanges below a third are noise on a shared machine.");
    }
    Ok(())
}
