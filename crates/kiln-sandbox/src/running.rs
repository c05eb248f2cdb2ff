//! A sandbox seen from kiln: start it, wait for it, kill it.
//!
//! The control socket is also the sandbox's lifeline: when kiln's end closes, because [`Killer::kill`] closed it or because
//! kiln died, pid 1 of the sandbox exits and the kernel kills everything in it. No process id is ever signalled, so none can be mistaken.

use std::io::{self, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error};
use crate::helper::{self, Job, Report};
use crate::isolation::{Isolation, Mode};
use crate::spec::{ExecSpec, Network};
use crate::wire;

/// The door to the sandbox.
#[derive(Debug)]
pub struct Sandbox;

/// Where the output of a command goes; its input is always empty.
#[derive(Debug)]
pub struct Stdio {
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It exited. 127 and 126 stand for "not found" and "not executable" as in a shell; the reason is on its standard error.
    Code(i32),
    /// It was killed by this signal.
    Signal(i32),
}

/// A finished sandbox: no process and no mount of it is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// How the command ended.
    pub exit: Exit,
    /// Paths inside the root, parents before children, that exist in the upper directory only because something was mounted
    /// there. They are empty files and directories unless the command filled them.
    pub stubs: Vec<PathBuf>,
}

/// A sandbox with a running command; dropping it kills it.
#[derive(Debug)]
pub struct Running {
    launcher: Child,
    control: Arc<UnixStream>,
    stubs: Vec<PathBuf>,
    listener: Option<TcpListener>,
}

/// Kills a sandbox from anywhere; cheap to clone, harmless once the sandbox is gone.
#[derive(Debug, Clone)]
pub struct Killer(Arc<UnixStream>);

impl Killer {
    /// Kills the sandbox with everything in it and returns at once; [`Running::wait`] then reports signal 9.
    pub fn kill(&self) {
        // Failure means that the sandbox has gone, which is what was asked for.
        let _ = self.0.shutdown(Shutdown::Write);
    }
}

impl Sandbox {
    /// Starts a command and returns when its root stands and it is about to be executed.
    ///
    /// A failure up to that point is an error; that the command cannot be executed is an [`Exit`] of 126 or 127.
    pub fn spawn(isolation: &Isolation, spec: &ExecSpec, stdio: Stdio) -> Result<Running, Error> {
        if let (Mode::None, reason) = (isolation.mode, &isolation.unavailable) {
            return Err(reason.clone().unwrap_or_else(|| {
                Error::new("run a command")
                    .cause("no isolation was asked for")
                    .hint("leave --isolation at auto")
            }));
        }
        if isolation.mode == Mode::Chroot {
            crate::chroot::prepare(spec)?;
        }
        let job = Job::Run { isolation: isolation.clone(), spec: Box::new(spec.clone()) };
        let (launcher, control) = helper::start(&job, stdio)?;
        let mut running = Running { launcher, control: Arc::new(control), stubs: Vec::new(), listener: None };
        // It comes before the report. A report that comes in its place begins with the byte that was read.
        let mut first = Vec::new();
        if spec.network == Network::Proxy {
            match receive_listener(&running.control).step("take over the proxy's socket")? {
                Ok(listener) => running.listener = Some(listener),
                Err(byte) => first.extend(byte),
            }
        }
        match running.report_after(&first)? {
            Some(Report::Ready { stubs, .. }) => {
                running.stubs = stubs;
                Ok(running)
            }
            Some(Report::Failed(error)) => Err(error),
            Some(Report::Exited(_)) | None => Err(Error::new("set up the sandbox")
                .cause("its helper process died without a word, as when memory runs out")),
        }
    }
}

impl Running {
    /// Waits until the command has ended and everything that it left behind is gone.
    pub fn wait(mut self) -> Result<Finished, Error> {
        let exit = match self.next_report()? {
            Some(Report::Exited(exit)) => {
                // What is written down after the end may fail as well.
                if let Some(Report::Failed(error)) = self.next_report()? {
                    return Err(error);
                }
                exit
            }
            Some(Report::Failed(error)) => return Err(error),
            Some(Report::Ready { .. }) | None => Exit::Signal(libc::SIGKILL),
        };
        self.launcher.wait().step("wait for the sandbox")?;
        Ok(Finished { exit, stubs: std::mem::take(&mut self.stubs) })
    }

    /// Returns the socket of [`Network::Proxy`], once.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// Kills the sandbox with everything in it.
    pub fn kill(&self) {
        self.killer().kill();
    }

    /// Returns a handle that can kill the sandbox from another thread.
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.control))
    }

    /// Returns the process id of the outermost helper, for messages.
    pub fn pid(&self) -> u32 {
        self.launcher.id()
    }

    fn next_report(&self) -> Result<Option<Report>, Error> {
        self.report_after(&[])
    }

    /// Reads a report whose first bytes were read already.
    fn report_after(&self, first: &[u8]) -> Result<Option<Report>, Error> {
        wire::receive(first.chain(&*self.control)).or_else(|error| match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => Ok(None),
            _ => Err(error).step("read the sandbox's report"),
        })
    }
}

/// Receives a descriptor, or the byte that came without one, if any came.
fn receive_listener(socket: &UnixStream) -> Result<Result<TcpListener, Option<u8>>, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let mut into = [IoSliceMut::new(&mut byte)];
    let received = rustix::io::retry_on_intr(|| recvmsg(socket, &mut into, &mut ancillary, flags))?;
    let passed = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(passed.map(TcpListener::from).ok_or((received.bytes > 0).then_some(byte[0])))
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        // After a regular `wait` this finds the launcher reaped already.
        let _ = self.launcher.wait();
    }
}
