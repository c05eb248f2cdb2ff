//! An SSH agent within reach of a command.
//!
//! The agent's own socket would not do: it belongs to a user that the command's user namespace does not have. kiln
//! listens on a socket with the right owner and mode, and passes what it hears to the agent and back.

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
    pub(super) fn start(engine: &Engine, agent: &Path, owner: FileOwner) -> Result<Self> {
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
        let (stopped, agent) = (Arc::clone(&stop), agent.to_owned());
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
                if let Ok(agent) = UnixStream::connect(&agent) {
                    let _ = join(visitor, agent);
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
