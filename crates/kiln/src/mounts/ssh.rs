//! An SSH agent within reach of a command.
//!
//! The agent's own socket would not do: it belongs to a user that the command's user namespace does not have. kiln
//! listens on a socket with the right owner and mode, and passes what it hears to the agent and back. As in BuildKit,
//! that is listing keys and signing: a command must not take keys out of the agent of whoever builds, or lock it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::engine::Engine;
use crate::error::{Error, FileContext as _, Result};
use crate::graph::FileOwner;
use crate::request::SshAgent;
use crate::snapshot::{Ids as _, Owner};

/// The name of the socket in its directory.
const NAME: &str = "agent";

/// A socket that leads to an agent, until it is dropped.
pub(super) struct Proxy {
    dir: PathBuf,
    socket: PathBuf,
    stop: Arc<AtomicBool>,
    listening: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a socket of its own for whom `owner` lets, and connects them to `agent`.
    pub(super) fn start(engine: &Engine, agent: &SshAgent, owner: FileOwner) -> Result<Self> {
        let failed = |e: io::Error| Error::environment("cannot listen for users of an SSH agent").because(e);
        let dir = engine.store.tmp_path();
        fs::create_dir(&dir).on("create", &dir)?;
        let socket = dir.join(NAME);
        let listener = UnixListener::bind(short(&dir)?.path()).map_err(failed)?;
        let FileOwner { uid, gid, mode } = owner;
        if let Some(disk) = engine.ids().to_disk(Owner { uid, gid }) {
            chown(&socket, Some(disk.uid), Some(disk.gid)).on("change the owner of", &socket)?;
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).on("change the mode of", &socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, SshAgent { socket: agent, raw }) = (Arc::clone(&stop), agent.clone());
        let listening = std::thread::spawn(move || {
            for visitor in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let visitor = match visitor {
                    Ok(visitor) => visitor,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(_) => return,
                };
                // A visitor who does not get through finds the connection closed, as at an agent that is gone.
                match UnixStream::connect(&agent) {
                    Ok(agent) if raw => drop(join(visitor, agent)),
                    Ok(agent) => drop(std::thread::spawn(move || guard(visitor, agent))),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { dir, socket, stop, listening: Some(listening) })
    }

    /// Returns the socket.
    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener sleeps until somebody comes.
        let woken = short(&self.dir).is_ok_and(|dir| UnixStream::connect(dir.path()).is_ok());
        if let Some(listening) = self.listening.take().filter(|_| woken) {
            let _ = listening.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A directory under a name that leaves room for a socket in it: the kernel takes 108 bytes, and stores lie deeper.
struct Short(fs::File);

fn short(dir: &Path) -> Result<Short> {
    Ok(Short(fs::File::open(dir).on("open", dir)?))
}

impl Short {
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{NAME}", self.0.as_raw_fd()))
    }
}

/// What a command may ask of an agent: `SSH_AGENTC_REQUEST_IDENTITIES` and `SSH_AGENTC_SIGN_REQUEST`.
const ALLOWED: [u8; 2] = [11, 13];
/// `SSH_AGENT_FAILURE`, the answer to everything else.
const REFUSAL: &[u8] = &[5];
/// No message is longer, as OpenSSH has it.
const LONGEST: u32 = 256 << 10;

/// Passes on what is allowed, request by request, until the visitor leaves or one side breaks the protocol.
fn guard(mut visitor: UnixStream, mut agent: UnixStream) -> io::Result<()> {
    loop {
        let request = receive(&mut visitor)?;
        let allowed = request.first().is_some_and(|kind| ALLOWED.contains(kind));
        let answer = if allowed {
            send(&mut agent, &request)?;
            receive(&mut agent)?
        } else {
            REFUSAL.to_vec()
        };
        send(&mut visitor, &answer)?;
    }
}

fn receive(from: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message to or from an agent is too long"));
    }
    let mut message = Vec::new();
    from.take(length.into()).read_to_end(&mut message)?;
    if message.len() as u64 == u64::from(length) {
        Ok(message)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn send(to: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    let mut frame = u32::try_from(message.len()).map_err(io::Error::other)?.to_be_bytes().to_vec();
    frame.extend_from_slice(message);
    to.write_all(&frame)
}

/// Passes bytes both ways until both sides are done; the threads end when the command and its sockets are gone.
fn join(visitor: UnixStream, agent: UnixStream) -> io::Result<()> {
    let (visitor_end, agent_end) = (visitor.try_clone()?, agent.try_clone()?);
    std::thread::spawn(move || pass(visitor, agent));
    std::thread::spawn(move || pass(agent_end, visitor_end));
    Ok(())
}

fn pass(mut from: UnixStream, mut to: UnixStream) {
    let mut buf = [0; 16 << 10];
    loop {
        match from.read(&mut buf) {
            Ok(0) => break,
            Ok(n) if to.write_all(&buf[..n]).is_ok() => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_hears_only_what_is_allowed() {
        let (mut visitor, inner) = UnixStream::pair().unwrap();
        let (outer, mut agent) = UnixStream::pair().unwrap();
        let guard = std::thread::spawn(move || guard(inner, outer));
        // The numbers of the protocol: add, remove one, remove all, lock, extension; and an empty message.
        for request in [&[17, 1, 2][..], &[18, 1], &[19], &[22, 1], &[27, 1], &[]] {
            send(&mut visitor, request).unwrap();
            assert_eq!(receive(&mut visitor).unwrap(), [5], "{request:?}");
        }
        for request in [&[11][..], &[13, 1, 2, 3]] {
            send(&mut visitor, request).unwrap();
            assert_eq!(receive(&mut agent).unwrap(), request);
            send(&mut agent, &[12, 9]).unwrap();
            assert_eq!(receive(&mut visitor).unwrap(), [12, 9]);
        }
        visitor.write_all(&u32::MAX.to_be_bytes()).unwrap();
        assert!(guard.join().unwrap().is_err());
    }
}
