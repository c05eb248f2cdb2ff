//! The protocol of Docker's credential helpers: `docker-credential-<name> get`, the server on standard input.

use std::ffi::OsString;
use std::fmt;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::{Credential, CredentialsError};
use crate::Secret;

/// A helper that talks to a cloud may take seconds; one that waits for a person at a desktop hangs a build.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// How often a running helper is looked at.
const POLL: Duration = Duration::from_millis(10);
/// More output than this is no credential.
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// What credential helpers are run with.
#[derive(Clone, Default)]
pub struct HelperEnvironment {
    /// The search path for helpers, as in `PATH`.
    pub path: OsString,
    /// The variables that a helper sees; it sees no others.
    pub variables: Vec<(OsString, OsString)>,
}

impl fmt::Debug for HelperEnvironment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Variables hold access keys as often as not, so only their names show.
        let names: Vec<&OsString> = self.variables.iter().map(|(name, _)| name).collect();
        f.debug_struct("HelperEnvironment").field("path", &self.path).field("variables", &names).finish()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: Secret,
}

/// Asks the helper for `server`; absence in the helper's store is `None`.
pub(super) fn get(
    name: &str,
    server: &str,
    environment: &HelperEnvironment,
) -> Result<Option<Credential>, CredentialsError> {
    let helper = format!("docker-credential-{name}");
    let missing = || CredentialsError::HelperMissing { helper: helper.clone() };
    if name.contains('/') {
        return Err(missing());
    }
    let program = find(&helper, environment).ok_or_else(missing)?;
    let spawn = |source| CredentialsError::HelperSpawn { helper: helper.clone(), source };
    let failed = |message: String| CredentialsError::HelperFailed {
        helper: helper.clone(),
        server: server.to_owned(),
        message,
    };
    let mut child = Command::new(program)
        .arg("get")
        .env_clear()
        .envs(environment.variables.iter().map(|(name, value)| (name, value)))
        .env("PATH", &environment.path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(spawn)?;
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that knows the answer already may have gone; its status tells.
        drop(stdin.write_all(server.as_bytes()));
    }
    let deadline = Instant::now() + TIME_LIMIT;
    let Some(status) = wait(&mut child, deadline).map_err(spawn)? else {
        return Err(failed(format!("no answer within {} s", TIME_LIMIT.as_secs())));
    };
    let stdout = stdout.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let stderr = stderr.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    if !status.success() {
        let said = format!("{}\n{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
        if said.contains("credentials not found") {
            return Ok(None);
        }
        let line = said.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
        return Err(failed(line.unwrap_or_else(|| status.to_string())));
    }
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|_| failed("the answer is not JSON with a `Secret`".to_owned()))?;
    Ok(Some(match answer.username.as_str() {
        "<token>" => Credential::IdentityToken(answer.secret),
        _ => Credential::Basic { username: answer.username, password: answer.secret },
    }))
}

fn find(helper: &str, environment: &HelperEnvironment) -> Option<PathBuf> {
    let directories = std::env::split_paths(&environment.path).filter(|d| d.is_absolute());
    directories.map(|directory| directory.join(helper)).find(|program| program.is_file())
}

/// Reads a pipe to its end in a thread; a channel, because a grandchild may hold the pipe open for ever.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut out = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before a failure is still worth showing.
            drop(pipe.take(OUTPUT_LIMIT).read_to_end(&mut out));
        }
        // The other side may have given up.
        drop(sender.send(out));
    });
    receiver
}

fn wait(child: &mut Child, deadline: Instant) -> std::io::Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}
