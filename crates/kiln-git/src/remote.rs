//! A repository at a server, and the ways to speak to it.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gix_transport::Protocol;
use gix_transport::client::blocking_io::Transport;
use gix_transport::client::blocking_io::http::Transport as HttpTransport;
use gix_transport::client::git::ConnectMode;
use gix_transport::client::git::blocking_io::Connection;

use crate::error::{Error, Kind, Result};
use crate::http::{Adapter, Web};
use crate::ssh::Complaint;

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// How long to wait for the next bytes.
const IDLE: Duration = Duration::from_secs(60);
/// How often whoever waits looks whether to stop.
const GLANCE: Duration = Duration::from_millis(200);
/// Where `git://` listens when the URL names no port.
const GIT_PORT: u16 = 9418;

/// A repository at a server.
#[derive(Clone)]
pub struct Remote {
    /// Its address, without credentials: those are the business of [`Web`].
    pub url: String,
    /// The HTTP client.
    pub web: Arc<dyn Web>,
    /// Set when somebody wants everything to end.
    pub stop: Arc<AtomicBool>,
}

/// A way to the server.
pub(crate) struct Connected {
    pub(crate) transport: Box<dyn Transport + Send>,
    pub(crate) complaint: Option<Complaint>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Remote {
    pub(crate) fn connect(&self) -> Result<Connected> {
        let bad = |e| Error::library(format!("`{}` is not the address of a repository", self.url), e);
        let url = gix_url::parse(self.url.as_str()).map_err(bad)?;
        match url.scheme {
            gix_url::Scheme::Http | gix_url::Scheme::Https => {
                let http = Adapter::new(Arc::clone(&self.web));
                let transport = Box::new(HttpTransport::new_http(http, url, Protocol::V2, false));
                Ok(Connected { transport, complaint: None })
            }
            gix_url::Scheme::Git => {
                Ok(Connected { transport: Box::new(daemon(&url, &self.stop)?), complaint: None })
            }
            gix_url::Scheme::Ssh => {
                let (connection, complaint) = crate::ssh::connect(&url)?;
                Ok(Connected { transport: Box::new(connection), complaint: Some(complaint) })
            }
            // Files of the machine are no source of a build: a path in a Dockerfile means the context.
            _ => Err(Error::content(format!("`{}` is not at a server", self.url))),
        }
    }
}

/// Connects to a `git daemon`, at whichever address of its name answers.
fn daemon(url: &gix_url::Url, stop: &Arc<AtomicBool>) -> Result<Connection<Patient, TcpStream>> {
    let host = url.host().unwrap_or_default();
    let failed = |e| Error::new(Kind::Network, format!("cannot reach `{host}`")).because(e);
    let addresses = (host, url.port.unwrap_or(GIT_PORT)).to_socket_addrs().map_err(failed)?;
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => {
                stream
                    .set_read_timeout(Some(GLANCE))
                    .and_then(|()| stream.set_write_timeout(Some(IDLE)))
                    .map_err(failed)?;
                let read = Patient(stream.try_clone().map_err(failed)?, Arc::clone(stop));
                let host = Some((host.to_owned(), url.port));
                let mode = ConnectMode::Daemon;
                return Ok(Connection::new(read, stream, Protocol::V2, url.path.clone(), host, mode, false));
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Waits for bytes as long as a server may take, and no longer than anybody wants them.
struct Patient(TcpStream, Arc<AtomicBool>);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        loop {
            match self.0.read(buffer) {
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                done => return done,
            }
            if self.1.load(Ordering::Relaxed) {
                return Err(io::Error::other("stopped"));
            }
            if start.elapsed() > IDLE {
                let text = format!("the server sent nothing for {} s", IDLE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
        }
    }
}
