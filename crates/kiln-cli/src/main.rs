//! The `kiln` command: arguments in, exit code out.
//!
//! The only crate that reads the environment, prints and ends the process. The way through it:
//!
//! ```text
//! argv ─ args ─► commands ─ settings (+ env, configuration) ─► kiln::build ─► progress, report ─► exit
//! ```
//!
//! Standard output carries the result and nothing else; the story goes to standard error.

mod args;
mod bug;
mod check;
mod commands;
mod env;
mod exit;
mod failure;
mod files;
mod progress;
mod report;
mod settings;
mod signals;
mod stdout;
mod style;
mod text;
mod trace;
mod value;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::FromArgMatches as _;

use args::Cli;
use env::Env;
use exit::Exit;
use progress::Terminal;
use style::Style;

fn main() -> ExitCode {
    kiln::sandbox::run_if_helper();
    // The same layer under any umask; what a build leaves outside of its store is nobody's secret.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    bug::report_panics();
    let matches = args::command().try_get_matches();
    let cli = match matches.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            // Help goes to standard output, which may be a pipe that nobody reads to the end. An error repeats what was
            // given, and that may be a URL with a password.
            let text = e.render().to_string();
            let masked = kiln::address::mask(&text);
            let _ = match masked == text {
                true => e.print(),
                false => std::io::stderr().write_all(masked.as_bytes()),
            };
            return if e.use_stderr() { Exit::Usage.into() } else { Exit::Success.into() };
        }
    };
    let env = Env::of_process();
    let terminal = terminal(&env);
    match commands::run(cli.command, &env, terminal) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            // There is nobody to tell when standard error is gone.
            let _ = std::io::stderr().write_all(report::render(failure.error(), terminal.style).as_bytes());
            failure.exit().into()
        }
    }
}

/// Finds out what standard error can show.
fn terminal(env: &Env) -> Terminal {
    let able = std::io::stderr().is_terminal() && env.get(env::TERM).is_some_and(|term| term != "dumb");
    let style = if able && env.get(env::NO_COLOR).is_none() { Style::Coloured } else { Style::Plain };
    Terminal { live: able && env.get(env::CI).is_none(), style }
}
