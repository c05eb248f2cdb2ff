//! `cargo xtask`: the one door to everything that is automated around kiln.
//!
//! | module | command |
//! |---|---|
//! | `example` | builds an image from this machine's own tools |
//! | `test` | every lane that this machine can run, and which it cannot |
//! | `tidy` | the rules of the house, as code |
//! | `bench` | measurements, compared with a baseline |
//! | `fuzz` | a search for inputs that break a promise of the language |
//!
//! It has no dependencies: a newcomer waits for kiln to compile, not for its tools.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for developers that tells what it does"
)]

mod bench;
mod cargo;
mod elf;
mod example;
mod fuzz;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "Usage: cargo xtask COMMAND

  example       build an image from this machine's own tools, without root, network or registry
  test          run every check and every test that this machine can run
  check         run the quick part: fmt, clippy, tidy, unit tests
  tidy          check the rules of the house
  bench         measure, and compare with xtask/bench-baseline.txt
  bench --save  measure, and make the result the baseline
  bench growth [--kiln PATH] [--out SVG] [--json FILE] [--only files,layer,steps] [--quick] [--draw]
                measure how time and memory grow with the input (docs/performance.md)
  fuzz [TARGET] [--seconds N]   search for inputs that break a promise of the Dockerfile language
  fuzz TARGET FILE              run one such input again";

/// What a command of this program ends with.
type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["example"] => example::run(),
        ["test"] => test::all(),
        ["check"] => test::quick(),
        ["tidy"] => tidy::run(),
        ["bench", rest @ ..] => bench::run(rest),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        [] | ["help" | "-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("error: no such command: `{}`\n\n{HELP}", args.join(" "));
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
