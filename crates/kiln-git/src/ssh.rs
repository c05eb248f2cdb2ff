//! `ssh`, the program: run without a shell, without questions, its complaints kept for the message of a failure.

use std::io::{self, Read};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gix_transport::Protocol;
use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;

use crate::error::{Error, Kind, Result};

/// As much of what `ssh` complains about is kept.
const KEEP: u64 = 4096;
/// The last words of a program that is gone arrive at once.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What `ssh` says on its standard error, complete when it has ended.
pub(crate) struct Complaint(Receiver<String>);

impl Complaint {
    /// Returns the last lines, if `ssh` has ended.
    pub(crate) fn text(&self) -> Option<String> {
        let text = self.0.recv_timeout(LAST_WORDS).ok()?;
        let text = text.trim().replace('\n', "; ");
        (!text.is_empty()).then_some(text)
    }
}

/// The output of `ssh`, which ends the program when it is dropped.
pub(crate) struct Output {
    child: Child,
    out: ChildStdout,
}

impl Read for Output {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.out.read(buffer)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts `git-upload-pack` at the other end.
pub(crate) fn connect(url: &gix_url::Url) -> Result<(Connection<Output, ChildStdin>, Complaint)> {
    let mut child = command(url)?.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Error::new(Kind::Machine, "there is no program `ssh` on this machine, which this address needs")
        }
        _ => Error::new(Kind::Machine, "cannot run `ssh`").because(e),
    })?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(input), Some(out), Some(errors)) = pipes else {
        return Err(Error::new(Kind::Machine, "`ssh` has no pipes"));
    };
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let mut errors = errors;
        let _ = errors.by_ref().take(KEEP).read_to_end(&mut text);
        let _ = io::copy(&mut errors, &mut io::sink());
        let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
    });
    let none: Option<(&str, Option<u16>)> = None;
    let output = Output { child, out };
    let path = url.path.clone();
    let connection = Connection::new(output, input, Protocol::V2, path, none, ConnectMode::Process, false);
    Ok((connection, Complaint(receiver)))
}

fn command(url: &gix_url::Url) -> Result<Command> {
    let bad = |what: &str| Error::content(format!("`{what}` cannot be given to `ssh`"));
    let host = url.host().filter(|host| !host.is_empty()).ok_or_else(|| bad("an empty host"))?;
    let target = match url.user() {
        Some(user) => format!("{user}@{host}"),
        None => host.to_owned(),
    };
    // A word that begins so would be an option.
    if target.starts_with('-') {
        return Err(bad(&target));
    }
    let mut command = Command::new("ssh");
    // Nobody is there to answer questions.
    command.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=30", "-o", "SendEnv=GIT_PROTOCOL"]);
    if let Some(port) = url.port {
        command.args(["-p", &port.to_string()]);
    }
    command
        .arg("--")
        .arg(target)
        .arg(remote_command(&url.path.to_string()))
        .env("GIT_PROTOCOL", "version=2")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Ok(command)
}

/// Returns what the shell at the other end is to run.
fn remote_command(path: &str) -> String {
    let path = if path.starts_with("/~") { &path[1..] } else { path };
    format!("git-upload-pack '{}'", path.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_at_the_other_end_is_quoted() {
        let check = |path: &str, expect: &str| assert_eq!(remote_command(path), expect);
        check("/u/r.git", "git-upload-pack '/u/r.git'");
        check("/~u/r", "git-upload-pack '~u/r'");
        check("a'; rm -rf x", r"git-upload-pack 'a'\''; rm -rf x'");
    }

    #[test]
    fn options_are_no_hosts() {
        let arguments = |url: &str| -> Option<Vec<String>> {
            let command = command(&gix_url::parse(url).ok()?).ok()?;
            Some(command.get_args().map(|a| a.to_string_lossy().into_owned()).collect())
        };
        let found = arguments("ssh://git@h:22/r").unwrap();
        assert_eq!(found[6..], ["-p", "22", "--", "git@h", "git-upload-pack '/r'"]);
        assert_eq!(arguments("git@h:r").unwrap()[6..], ["--", "git@h", "git-upload-pack 'r'"]);
        assert_eq!(arguments("ssh://-oProxyCommand=x/r"), None);
    }
}
