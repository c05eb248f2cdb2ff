//! RUN: one command in the sandbox, its output as it comes, and the difference it made as a layer.

mod chroot;
mod hosts;
mod proxy;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, PipeReader, Read as _};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use kiln_sandbox::{ExecSpec, Exit, Mount, MountKind, ResolvedUser, Sandbox, Stdio};

use crate::engine::{Engine, WorkingRoot, sandbox_error};
use crate::error::{Error, ErrorKind, Result};
use crate::files::{Accounts, Tree};
use crate::graph::{ExecOp, Network};
use crate::mounts::Mounted;
use crate::progress::{Event, Masked, StepId, Stream, Work, span};
use crate::store::PendingSnapshot;

/// Lines of output that the error of a failed step repeats.
const TAIL: usize = 20;

/// What a command left besides its layer.
pub(crate) struct Ran {
    /// Paths that exist in the layer only because something was mounted there.
    pub(crate) stubs: Vec<PathBuf>,
    /// The root that it worked in, if it had no overlay: now it holds the layers below and the new one.
    pub(crate) root: Option<WorkingRoot>,
}

/// Runs `op` over the layer directories `lower` (topmost first); what it changes is in `pending`.
pub(crate) fn run(
    engine: &Engine,
    op: &ExecOp,
    step: StepId,
    lower: Vec<PathBuf>,
    tree: &dyn Tree,
    pending: &PendingSnapshot,
    mut mounted: Mounted,
) -> Result<Ran> {
    engine.require_sandbox()?;
    let account = Accounts::read(tree)?.process(&op.user)?;
    let scripts = op.scripts.iter().map(|(path, content)| Mount {
        target: PathBuf::from(path),
        kind: MountKind::File { content: content.clone().into_bytes(), mode: 0o755, uid: 0, gid: 0 },
    });
    let mut env = environment(op, &account.home, std::mem::take(&mut mounted.env));
    if op.network == Network::Proxy {
        proxy::announce(&mut env);
    }
    let mut spec = ExecSpec {
        lower,
        upper: pending.fs(),
        work: pending.work(),
        args: op.args.iter().map(OsString::from).collect(),
        env,
        cwd: PathBuf::from(&op.cwd),
        user: ResolvedUser { uid: account.uid, gid: account.gid, groups: account.groups },
        hostname: op.hostname.clone(),
        network: match op.network {
            Network::Host => kiln_sandbox::Network::Host,
            Network::None => kiln_sandbox::Network::None,
            Network::Proxy => kiln_sandbox::Network::Proxy,
        },
        mounts: scripts.chain(std::mem::take(&mut mounted.mounts)).collect(),
        insecure: op.insecure,
        readonly_files: vec![
            (PathBuf::from("/etc/resolv.conf"), engine.resolv_conf.clone()),
            (
                PathBuf::from("/etc/hosts"),
                hosts::file(&engine.hosts, op.network, &op.hostname, &engine.run.hosts),
            ),
        ],
        limits: engine.run.ulimits.clone(),
        cgroup: engine.cgroup.get().cloned().flatten(),
        emulators: engine.emulator(&op.platform.architecture).into_iter().collect(),
        shm_size: engine.run.shm_size.unwrap_or(ExecSpec::SHM_SIZE),
    };
    let (root, _copies) = chroot::prepare(engine, step, &mut spec)?;
    let pipe = |e: io::Error| Error::environment("cannot make a pipe for the output of RUN").because(e);
    let (stdout, stdout_end) = io::pipe().map_err(pipe)?;
    let (stderr, stderr_end) = io::pipe().map_err(pipe)?;
    let stdio = Stdio { stdout: stdout_end.into(), stderr: stderr_end.into() };
    let mut running = Sandbox::spawn(engine.isolation(), &spec, stdio)
        .map_err(|e| sandbox_error("cannot set up the sandbox for RUN", e))?;
    let listener = running.take_listener();
    let killer = running.killer();
    let _hook = engine.cancel.hook(move || killer.kill());
    let tail = Mutex::new(Tail::default());
    let finished = span(&engine.sink, Work::Command, "command", Some(step), || {
        std::thread::scope(|scope| {
            scope.spawn(|| pump(engine, step, Stream::Stdout, stdout, &tail));
            scope.spawn(|| pump(engine, step, Stream::Stderr, stderr, &tail));
            if let Some(listener) = &listener {
                scope.spawn(|| proxy::run(engine, step, listener));
            }
            let finished = running.wait();
            if let Some(listener) = &listener {
                // Nobody is left to connect; whoever waits for it wakes up.
                let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
            }
            finished
        })
    });
    engine.cancel.check()?;
    let finished = finished.map_err(|e| sandbox_error("the sandbox of RUN failed", e))?;
    let tail = tail.into_inner().unwrap_or_else(PoisonError::into_inner).lines();
    match finished.exit {
        Exit::Code(0) => {
            if let Some(root) = &root {
                root.record(&finished.stubs, &pending.fs())?;
            }
            Ok(Ran { stubs: finished.stubs, root })
        }
        Exit::Code(code) => Err(failed(engine, op, code, format!("exit code {code}"), tail)),
        Exit::Signal(signal) => Err(failed(engine, op, 128 + signal, format!("signal {signal}"), tail)),
    }
}

/// Returns the environment of a command: what is known of the step, the home of its user, and secrets over both.
fn environment(op: &ExecOp, home: &str, secrets: Vec<(OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let known = op.env.iter().chain(&op.hidden_env);
    let mut env: Vec<(OsString, OsString)> = known.map(|(name, value)| (name.into(), value.into())).collect();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".into(), home.into()));
    }
    for (name, value) in secrets {
        env.retain(|(known, _)| *known != name);
        env.push((name, value));
    }
    env
}

fn failed(engine: &Engine, op: &ExecOp, code: i32, how: String, tail: Vec<String>) -> Error {
    let mut error = Error::new(ErrorKind::Step(code), format!("RUN failed with {how}"));
    let program = op.args.first().map_or("", String::as_str);
    let hint = match code {
        126 => Some(format!(
            "`{program}` or what it calls is not executable: check its mode, its interpreter, and that it is for \
             {}; programs of another architecture need `--platform` or `FROM --platform`",
            op.platform
        )),
        127 => Some(
            "a command was not found in the image: install it in an earlier RUN, or check PATH".to_owned(),
        ),
        137 if engine.run.resources.memory.is_some() => {
            Some("the command was killed (signal 9): it may need more than `--memory` allows".to_owned())
        }
        137 => Some("the command was killed (signal 9), often because memory ran out".to_owned()),
        139 if engine.emulator(&op.platform.architecture).is_some() => Some(format!(
            "the command crashed (signal 11) while it was emulated: build for {} on such a machine",
            op.platform
        )),
        139 => Some("the command crashed (signal 11)".to_owned()),
        _ => None,
    };
    error.hints.extend(hint);
    error.tail = tail;
    error
}

/// Passes output on as it comes, without the values of secrets: nobody behind this sees them.
fn pump(engine: &Engine, step: StepId, stream: Stream, mut pipe: PipeReader, tail: &Mutex<Tail>) {
    let mut buf = vec![0; 32 << 10];
    let mut rest: Vec<u8> = Vec::new();
    let mut masked = Masked::new(&engine.grants.mask);
    let pass = |text: String| {
        if !text.is_empty() {
            tail.lock().unwrap_or_else(PoisonError::into_inner).add(&text);
            engine.sink.event(Event::Output { id: step, stream, text });
        }
    };
    loop {
        let n = match pipe.read(&mut buf) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        rest.extend(masked.push(&buf[..n]));
        // A character may be cut in two by the pipe; its beginning waits for its end.
        pass(take_text(&mut rest));
    }
    rest.extend(masked.finish());
    pass(String::from_utf8_lossy(&rest).into_owned());
}

fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        used += chunk.valid().len();
        let invalid = chunk.invalid();
        if !invalid.is_empty() {
            let at_end = used + invalid.len() == bytes.len() && invalid.len() < 4;
            if at_end {
                break;
            }
            text.push(char::REPLACEMENT_CHARACTER);
            used += invalid.len();
        }
    }
    bytes.drain(..used);
    text
}

/// The last lines of a step's output.
#[derive(Default)]
struct Tail {
    lines: VecDeque<String>,
    partial: String,
}

impl Tail {
    /// A line without an end must not fill the memory.
    const LONGEST: usize = 4096;

    fn add(&mut self, text: &str) {
        for piece in text.split_inclusive('\n') {
            let room = Self::LONGEST.saturating_sub(self.partial.len());
            self.partial.extend(piece.trim_end_matches('\n').chars().take(room));
            if piece.ends_with('\n') {
                self.lines.push_back(std::mem::take(&mut self.partial));
                if self.lines.len() > TAIL {
                    self.lines.pop_front();
                }
            }
        }
    }

    fn lines(mut self) -> Vec<String> {
        if !self.partial.is_empty() {
            self.lines.push_back(self.partial);
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_at_characters() {
        let mut bytes = b"a\xc3".to_vec();
        assert_eq!(take_text(&mut bytes), "a");
        bytes.extend_from_slice(b"\xa4b\xffc");
        assert_eq!(take_text(&mut bytes), "\u{e4}b\u{fffd}c");
        assert!(bytes.is_empty());
    }

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut tail = Tail::default();
        for i in 0..30 {
            tail.add(&format!("line {i}\n"));
        }
        tail.add("end");
        let lines = tail.lines();
        assert_eq!(lines.first().unwrap(), "line 10");
        assert_eq!(lines.last().unwrap(), "end");
    }
}
