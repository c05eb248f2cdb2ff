//! Heads of requests and answers: read with bounds, checked, and written anew.
//!
//! Nothing of a request that concerns its way is passed on as it came: the line, `Host`, the length of the body and everything
//! about the connection are made from what was understood, so that this proxy and the server cannot differ about it.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A longer head is refused.
const LONGEST_HEAD: usize = 64 << 10;
const MOST_HEADERS: usize = 128;

/// Headers of one stretch of the way (RFC 9110, section 7.6.1), and those that are written anew.
const OWN: [&str; 11] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "host",
    "proxy-authorization",
    "proxy-authenticate",
];

/// A request as far as it was understood.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) kind: Kind,
    pub(super) body: Body,
    /// Path and query; empty for a tunnel.
    path: String,
    headers: Vec<(String, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Tunnel,
    Plain,
}

/// How long the body of a request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    Sized(u64),
    Chunked,
}

/// Reads a request and what came behind its head; `None` when the connection ended before one.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn read(mut client: &TcpStream) -> Result<Option<(Request, Vec<u8>)>, String> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8 << 10];
    loop {
        let n = match client.read(&mut buffer) {
            Ok(0) | Err(_) => return Ok(None),
            Ok(n) => n,
        };
        bytes.extend_from_slice(&buffer[..n]);
        if let Some((request, used)) = parse(&bytes)? {
            return Ok(Some((request, bytes.split_off(used))));
        }
        if bytes.len() > LONGEST_HEAD {
            return Err("the head of the request is too long".to_owned());
        }
    }
}

/// Parses a head; `None` when it is not complete.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize)>, String> {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let used = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(used)) => used,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("this is no request of HTTP/1: {error}")),
    };
    let method = parsed.method.unwrap_or_default().to_owned();
    let target = parsed.path.unwrap_or_default();
    let (kind, authority, path) = if method == "CONNECT" {
        (Kind::Tunnel, target, "")
    } else {
        let rest = strip_scheme(target).ok_or("a proxy is asked for a whole address, http://HOST/PATH")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        (Kind::Plain, &rest[..end], rest[end..].split('#').next().unwrap_or_default())
    };
    // Credentials in an address are for whoever keeps the address.
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = split(authority, if kind == Kind::Tunnel { None } else { Some(80) })
        .ok_or_else(|| format!("`{authority}` is no host with a port"))?;
    let body = body(parsed.headers)?;
    let headers = parsed
        .headers
        .iter()
        .filter(|header| !OWN.iter().any(|own| header.name.eq_ignore_ascii_case(own)))
        .map(|header| (header.name.to_owned(), header.value.to_vec()))
        .collect();
    Ok(Some((Request { method, host, port, kind, body, path: path.to_owned(), headers }, used)))
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    scheme.eq_ignore_ascii_case("http").then_some(rest)
}

/// Takes `HOST:PORT`, `[ADDRESS]:PORT` apart.
fn split(authority: &str, usual: Option<u16>) -> Option<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
    if host.is_empty() || !host.chars().all(valid) {
        return None;
    }
    let port = port.map_or(usual, |port| port.parse().ok())?;
    Some((host.to_owned(), port))
}

/// Finds out how long the body is. A request that says two things about it could be understood in two ways, and is refused.
fn body(headers: &[httparse::Header<'_>]) -> Result<Body, String> {
    let values = |name: &str| -> Vec<&[u8]> {
        headers.iter().filter(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value).collect()
    };
    let ambiguous = || "the request is not clear about the length of its body".to_owned();
    match (values("transfer-encoding").as_slice(), values("content-length").as_slice()) {
        ([], []) => Ok(Body::Sized(0)),
        ([], [length]) => {
            let digits = std::str::from_utf8(length).ok().filter(|l| l.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|l| l.parse().ok()).map(Body::Sized).ok_or_else(ambiguous)
        }
        ([encoding], []) if encoding.eq_ignore_ascii_case(b"chunked") => Ok(Body::Chunked),
        _ => Err(ambiguous()),
    }
}

impl Request {
    /// Returns the address for people.
    pub(super) fn shown(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.kind, self.port) {
            (Kind::Tunnel, port) => format!("{host}:{port}"),
            (Kind::Plain, 80) => format!("http://{host}{}", self.path),
            (Kind::Plain, port) => format!("http://{host}:{port}{}", self.path),
        }
    }

    /// Returns the head as the server gets it.
    pub(super) fn head_for_server(&self) -> Vec<u8> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let port = if self.port == 80 { String::new() } else { format!(":{}", self.port) };
        let path = if self.path.starts_with('/') { self.path.clone() } else { format!("/{}", self.path) };
        let mut head = format!("{} {path} HTTP/1.1\r\nHost: {host}{port}\r\n", self.method).into_bytes();
        for (name, value) in &self.headers {
            head.extend_from_slice(name.as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        let length = match self.body {
            Body::Sized(0) => String::new(),
            Body::Sized(length) => format!("Content-Length: {length}\r\n"),
            Body::Chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        };
        head.extend_from_slice(length.as_bytes());
        head.extend_from_slice(b"Connection: close\r\n\r\n");
        head
    }
}

/// Copies a body in chunks, with its framing, to its end and no further; returns how many bytes that were.
pub(super) fn copy_chunks(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        let line = line(from)?;
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
        let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let size = size.ok_or(io::ErrorKind::InvalidData)?;
        to.write_all(format!("{size:x}\r\n").as_bytes())?;
        if size == 0 {
            // Trailers say nothing that a server needs.
            while !self::line(from)?.is_empty() {}
            to.write_all(b"\r\n")?;
            return Ok(copied);
        }
        if io::copy(&mut from.take(size), to)? != size || !self::line(from)?.is_empty() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        to.write_all(b"\r\n")?;
        copied += size;
    }
}

/// Reads a line of the framing, without its end.
fn line(from: &mut impl Read) -> io::Result<Vec<u8>> {
    const LONGEST: usize = 4096;
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        from.read_exact(&mut byte)?;
        line.push(byte[0]);
        if line.len() > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(line.trim_ascii_end().to_vec())
}

/// Passes everything back that a server says, and returns the status of its answer and how many bytes it were.
pub(super) fn pass_answer(server: &mut impl Read, client: &mut impl Write) -> (u16, u64) {
    let mut buffer = vec![0; super::BUFFER];
    let (mut head, mut status, mut passed) = (Vec::new(), 0, 0);
    loop {
        let n = match server.read(&mut buffer) {
            Ok(0) => return (status, passed),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return (status, passed),
        };
        if status == 0 && head.len() < LONGEST_HEAD {
            head.extend_from_slice(&buffer[..n]);
            status = final_status(&head).unwrap_or(0);
        }
        if client.write_all(&buffer[..n]).is_err() {
            return (status, passed);
        }
        passed += n as u64;
    }
}

/// Returns the status of the first answer that is not preliminary, once it is there.
fn final_status(mut bytes: &[u8]) -> Option<u16> {
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(used) = answer.parse(bytes).ok()? else { return None };
        match answer.code? {
            100..=199 => bytes = bytes.get(used..)?,
            code => return Some(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn a_request_is_written_anew_for_the_server() {
        let request = request(
            "POST http://User:pw@Example.org:8080?x=1#y HTTP/1.1\r\nHost: other.example\r\nAccept: */*\r\n\
             Proxy-Connection: keep-alive\r\nContent-Length: 3\r\n\r\n",
        );
        assert_eq!((request.host.as_str(), request.port), ("Example.org", 8080));
        assert_eq!(request.shown(), "http://Example.org:8080?x=1");
        let expect = "POST /?x=1 HTTP/1.1\r\nHost: Example.org:8080\r\nAccept: */*\r\nContent-Length: 3\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(request.head_for_server()).unwrap(), expect);
    }

    #[test]
    fn tunnels_name_host_and_port() {
        let request = request("CONNECT [fd00::1]:443 HTTP/1.1\r\n\r\n");
        assert_eq!((request.shown().as_str(), request.kind), ("[fd00::1]:443", Kind::Tunnel));
        assert!(parse(b"CONNECT example.org HTTP/1.1\r\n\r\n").is_err());
    }

    #[test]
    fn what_can_be_understood_in_two_ways_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "GET http://a b/ HTTP/1.1\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nContent-Length: +1\r\n\r\n",
            "POST http://a/ HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"GET http://a/ HTTP/1.1\r\n").unwrap().is_none());
    }

    #[test]
    fn chunks_end_where_they_end() {
        let mut from = &b"3;x=y\r\nabc\r\n0\r\nTrailer: t\r\n\r\nGET http://evil/"[..];
        let mut to = Vec::new();
        assert_eq!(copy_chunks(&mut from, &mut to).unwrap(), 3);
        assert_eq!(to, b"3\r\nabc\r\n0\r\n\r\n");
        assert_eq!(from, b"GET http://evil/");
    }

    #[test]
    fn preliminary_answers_are_not_the_answer() {
        assert_eq!(final_status(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 x\r\n\r\n"), Some(201));
        assert_eq!(final_status(b"HTTP/1.1 100 Continue\r\n\r\n"), None);
    }
}
