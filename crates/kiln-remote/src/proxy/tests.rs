//! The proxy with real connections.

use std::sync::mpsc::{Receiver, channel};

use super::*;

/// A server that answers each connection with what it was sent, as the body of an answer.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 4096];
            let n = stream.read(&mut buffer).unwrap_or(0);
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {n}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&buffer[..n]));
        }
    });
    port
}

/// Starts a proxy and returns its port and what it reports.
fn proxy(allowed: &[String]) -> (u16, Receiver<Fetch>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let allowed: Vec<HostPattern> = allowed.iter().map(|p| p.parse().unwrap()).collect();
    let (sender, fetches) = channel();
    std::thread::spawn(move || serve(&listener, &allowed, &|fetch| sender.send(fetch).unwrap()));
    (port, fetches)
}

fn say(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn only_what_is_allowed_goes_through_and_only_once() {
    let server = echo();
    let (port, fetches) = proxy(&[format!("127.0.0.1:{server}")]);
    // What is pipelined behind the first request would reach the same server under another name.
    let answer = say(
        port,
        &format!(
            "GET http://127.0.0.1:{server}/a HTTP/1.1\r\n\r\nGET http://evil.example/b HTTP/1.1\r\n\r\n"
        ),
    );
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("GET /a HTTP/1.1"), "{answer}");
    assert!(!answer.contains("evil"), "{answer}");
    let answer = say(port, "GET http://evil.example/ HTTP/1.1\r\n\r\n");
    assert!(
        answer.starts_with("HTTP/1.1 403") && answer.contains("`evil.example:80` is not allowed"),
        "{answer}"
    );
    let answer = say(port, &format!("CONNECT 127.0.0.1:{server} HTTP/1.1\r\n\r\nhello"));
    assert!(answer.starts_with("HTTP/1.1 200 Connection Established\r\n\r\nHTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("hello"), "{answer}");
    let seen: Vec<Fetch> = fetches.iter().take(3).collect();
    let told: Vec<(&str, u16, u64)> = seen.iter().map(|f| (f.method.as_str(), f.status, f.sent)).collect();
    assert_eq!(told, [("GET", 200, 0), ("GET", 403, 0), ("CONNECT", 200, 5)]);
    assert_eq!(seen[0].target, format!("http://127.0.0.1:{server}/a"));
}

#[test]
fn a_server_that_is_not_there_is_a_bad_gateway() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, fetches) = proxy(&[format!("127.0.0.1:{closed}")]);
    let answer = say(port, &format!("GET http://127.0.0.1:{closed}/ HTTP/1.1\r\n\r\n"));
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("cannot reach"), "{answer}");
    assert_eq!(fetches.recv().unwrap().status, 502);
}
