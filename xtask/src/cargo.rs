//! The workspace, and cargo as a child process in it.

use std::ffi::OsString;
use std::io::{self, BufRead as _, BufReader, IsTerminal as _, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::Outcome;

/// What a test writes in front of the reason why it does less than it could.
const LEFT_OUT: &str = "left out: ";

/// Returns the root of the workspace.
pub(crate) fn root() -> PathBuf {
    let own =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| OsString::from(env!("CARGO_MANIFEST_DIR")));
    PathBuf::from(own).parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Returns the directory that cargo builds into: as the variable says, else where this program lies.
pub(crate) fn target_dir() -> Outcome<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        return std::path::absolute(&dir)
            .map_err(|e| format!("cannot find the target directory {}: {e}", dir.display()));
    }
    let own = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
    let dir = own.parent().and_then(Path::parent).map(Path::to_owned);
    dir.ok_or_else(|| format!("{} is in no target directory", own.display()))
}

/// Returns a cargo command in the workspace.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Outcome<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.args(args).current_dir(root()).env("CARGO_TARGET_DIR", target_dir()?);
    // What cargo says about xtask is not about what it builds now; some build scripts would run again for it.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_about_xtask(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    Ok(command)
}

fn is_about_xtask(variable: &str) -> bool {
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// Runs a command to its end; that it failed is an error that names it.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.status().map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed ({status})")) }
}

/// Tells whether a command can be run and succeeds; what it says is for nobody.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs a command as [`run`] does, and returns what it said it left out, each once.
pub(crate) fn run_listening(command: &mut Command) -> Outcome<Vec<String>> {
    let shown = show(command);
    eprintln!("$ {shown}");
    if io::stderr().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| format!("cannot run `{shown}`: {e}"))?;
    let heard = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let out = child.stdout.take().map(|pipe| scope.spawn(|| pass_on(pipe, io::stdout(), &heard)));
        let err = child.stderr.take().map(|pipe| scope.spawn(|| pass_on(pipe, io::stderr(), &heard)));
        drop((out, err));
    });
    let status = child.wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))?;
    if !status.success() {
        return Err(format!("`{shown}` failed ({status})"));
    }
    Ok(heard.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Copies line by line, and keeps the lines that say what is left out.
fn pass_on(from: impl Read, mut to: impl Write, heard: &Mutex<Vec<String>>) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // Nobody may be reading any more; the tests go on all the same.
        let _ = to.write_all(&line).and_then(|()| to.flush());
        if let Some(said) = left_out(&String::from_utf8_lossy(&line)) {
            let mut heard = heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if !heard.contains(&said) {
                heard.push(said);
            }
        }
        line.clear();
    }
}

/// Returns what a line says is left out; the runner of tests may have written the name of a test in front of it.
fn left_out(line: &str) -> Option<String> {
    let (before, said) = line.split_once(LEFT_OUT)?;
    (before.is_empty() || before.ends_with("... ")).then(|| said.trim_end().to_owned())
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_left_out_at_its_beginning_only() {
        let check =
            |line: &str, expect: Option<&str>| assert_eq!(left_out(line).as_deref(), expect, "{line}");
        check("left out: a: there is no `b`\n", Some("a: there is no `b`"));
        check("test run::x ... left out: a: b\n", Some("a: b"));
        check("nothing was left out: here\n", None);
        check("ok\n", None);
    }

    #[test]
    fn commands_are_shown_as_they_are_typed() {
        assert_eq!(
            show(Command::new("/usr/bin/cargo").args(["test", "--workspace"])),
            "cargo test --workspace"
        );
    }
}
