//! Writes the base image made from this machine's own tools as an OCI layout: `kiln-host-base DIR`.

use std::path::PathBuf;
use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a program for developers that says what went wrong")]
fn main() -> ExitCode {
    let Some(dir) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: kiln-host-base DIR");
        return ExitCode::from(2);
    };
    match kiln_testkit::base::write_layout(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot make a base image in `{}`: {error}", dir.display());
            ExitCode::FAILURE
        }
    }
}
