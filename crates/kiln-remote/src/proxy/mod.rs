//! A forward proxy for commands that have no network of their own: it lets through what is allowed and notes everything.
//!
//! ```text
//! command ── 127.0.0.1 in its network namespace ──> serve() ── the machine's network ──> host
//!            GET http://host/path, CONNECT host:443     │
//!                                                       └ Fetch: what was asked, the answer, how many bytes
//! ```
//!
//! It speaks HTTP/1 on plain threads. A connection carries one request: what comes behind its body is not passed on, because it
//! could be for another host than the one that was looked at. What goes through CONNECT is a stream of bytes, in which nothing
//! is looked at; that it goes to the host that was named is all that is promised.

mod head;
mod pattern;

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use head::{Body, Kind, Request};
pub use pattern::{HostPattern, PatternError};

/// Connections at once; further ones are told so. Each has a thread or two.
const MOST_CONNECTIONS: usize = 512;
/// A pause where connections cannot be accepted, as when descriptors run out.
const PAUSE: Duration = Duration::from_millis(10);
/// How long one waits for the head of a request.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// How long one waits for a server to answer the door.
const CONNECT_TIME: Duration = Duration::from_secs(30);
const BUFFER: usize = 64 << 10;

/// One request of a command, after its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetch {
    /// The method, `CONNECT` for a tunnel.
    pub method: String,
    /// The address, without credentials; of a tunnel host and port.
    pub target: String,
    /// The status that the command got: of the server, or 403 and 502 of this proxy.
    pub status: u16,
    /// Bytes that went to the server, without the head.
    pub sent: u64,
    /// Bytes that came from the server, with the heads of answers.
    pub received: u64,
    /// Why the proxy itself answered, if it did.
    pub refused: Option<String>,
}

/// Serves every connection of `listener` until somebody shuts that down, and then cuts what is open.
///
/// `report` is told of every request when it has ended, from any thread.
pub fn serve(listener: &TcpListener, allowed: &[HostPattern], report: &(dyn Fn(Fetch) + Sync)) {
    let open = Open::default();
    std::thread::scope(|scope| {
        loop {
            let client = match listener.accept() {
                Ok((client, _)) => client,
                // What the kernel says of a socket that was shut down.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(_) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            if open.is_full() {
                answer(&client, 503, "too many connections at once");
                continue;
            }
            let Ok(number) = open.enter(&client) else { continue };
            let open = &open;
            scope.spawn(move || {
                if let Some(fetch) = connection(&client, allowed, open, number) {
                    report(fetch);
                }
                let _ = client.shutdown(Shutdown::Both);
                open.leave(number);
            });
        }
        open.cut();
    });
}

/// The connections that are open, so that they can be cut.
#[derive(Default)]
struct Open {
    streams: Mutex<Vec<(u64, TcpStream)>>,
    next: AtomicU64,
}

impl Open {
    fn is_full(&self) -> bool {
        // Each has up to two streams.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).len() >= 2 * MOST_CONNECTIONS
    }

    fn enter(&self, client: &TcpStream) -> io::Result<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.add(number, client)?;
        Ok(number)
    }

    fn add(&self, number: u64, stream: &TcpStream) -> io::Result<()> {
        let stream = stream.try_clone()?;
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).push((number, stream));
        Ok(())
    }

    fn leave(&self, number: u64) {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner).retain(|(other, _)| *other != number);
    }

    fn cut(&self) {
        for (_, stream) in self.streams.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Serves one connection; nothing is told of one on which nothing was asked.
fn connection(client: &TcpStream, allowed: &[HostPattern], open: &Open, number: u64) -> Option<Fetch> {
    let _ = client.set_read_timeout(Some(HEAD_TIME));
    let (request, rest) = match head::read(client) {
        Ok(read) => read?,
        Err(reason) => {
            answer(client, 400, &reason);
            return None;
        }
    };
    let _ = client.set_read_timeout(None);
    let mut fetch = Fetch {
        method: request.method.clone(),
        target: request.shown(),
        status: 0,
        sent: 0,
        received: 0,
        refused: None,
    };
    if !allowed.iter().any(|pattern| pattern.matches(&request.host, request.port)) {
        return Some(refuse(
            client,
            fetch,
            403,
            format!("`{}:{}` is not allowed", request.host, request.port),
        ));
    }
    let server = match connect(&request) {
        Ok(server) => server,
        Err(error) => {
            let reason = format!("cannot reach `{}:{}`: {error}", request.host, request.port);
            return Some(refuse(client, fetch, 502, reason));
        }
    };
    if let Err(error) = open.add(number, &server) {
        return Some(refuse(client, fetch, 502, error.to_string()));
    }
    match request.kind {
        Kind::Tunnel => tunnel(client, &server, &rest, &mut fetch),
        Kind::Plain => plain(client, &server, &request, rest, &mut fetch),
    }
    Some(fetch)
}

fn refuse(client: &TcpStream, mut fetch: Fetch, status: u16, reason: String) -> Fetch {
    answer(client, status, &reason);
    fetch.status = status;
    fetch.refused = Some(reason);
    fetch
}

fn answer(mut client: &TcpStream, status: u16, reason: &str) {
    let name = match status {
        400 => "Bad Request",
        403 => "Forbidden",
        503 => "Service Unavailable",
        _ => "Bad Gateway",
    };
    let body = format!("kiln: {reason}\n");
    let head = format!(
        "HTTP/1.1 {status} {name}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    // Whoever does not listen any more needs no answer.
    let _ = client.write_all(head.as_bytes()).and_then(|()| client.write_all(body.as_bytes()));
}

fn connect(request: &Request) -> io::Result<TcpStream> {
    let mut last = io::Error::other("the name has no address");
    for address in (request.host.as_str(), request.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIME) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Copies both ways until both have ended.
fn tunnel(mut client: &TcpStream, server: &TcpStream, rest: &[u8], fetch: &mut Fetch) {
    fetch.status = 200;
    if client.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").is_err() {
        return;
    }
    std::thread::scope(|scope| {
        let up = scope.spawn(|| {
            let sent = copy(&mut rest.chain(client), server);
            let _ = server.shutdown(Shutdown::Write);
            sent
        });
        fetch.received = copy(&mut { server }, client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        fetch.sent = up.join().unwrap_or_default();
    });
}

/// Passes one request on and its answer back.
fn plain(client: &TcpStream, mut server: &TcpStream, request: &Request, rest: Vec<u8>, fetch: &mut Fetch) {
    if let Err(error) = server.write_all(&request.head_for_server()) {
        answer(client, 502, &error.to_string());
        fetch.status = 502;
        return;
    }
    std::thread::scope(|scope| {
        let up = scope.spawn(|| {
            let mut from = io::Read::chain(rest.as_slice(), client);
            match &request.body {
                Body::Sized(length) => copy(&mut from.take(*length), server),
                Body::Chunked => head::copy_chunks(&mut from, &mut { server }).unwrap_or_default(),
            }
        });
        let (status, received) = head::pass_answer(&mut { server }, &mut { client });
        (fetch.status, fetch.received) = (status, received);
        // The body may still be on its way to a server that has answered already.
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        fetch.sent = up.join().unwrap_or_default();
    });
}

/// Copies until the end or the first failure, and returns how much went through.
fn copy(from: &mut impl Read, mut to: &TcpStream) -> u64 {
    let mut buffer = vec![0; BUFFER];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return copied,
            Ok(n) if to.write_all(&buffer[..n]).is_ok() => copied += n as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(_) | Err(_) => return copied,
        }
    }
}

#[cfg(test)]
mod tests;
