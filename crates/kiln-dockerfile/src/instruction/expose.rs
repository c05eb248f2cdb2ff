//! `EXPOSE`: the ports that the software in the image listens on.

use super::Request;
use crate::diagnostic::quote;
use crate::line::Piece;
use crate::source::Spanned;
use crate::word::is_literal;

/// `EXPOSE port[/protocol] …`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expose {
    /// The ports as written, unexpanded; never empty. One may expand to several words, each of which is read
    /// with [`PortSpec::parse`].
    pub ports: Vec<Spanned<String>>,
}

/// One or more ports of one protocol.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpec {
    /// The first port.
    pub first: u16,
    /// The last port, which is the first when there is only one.
    pub last: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Whether an address or a port of the host came with it, which means nothing in an image.
    pub has_host_part: bool,
}

impl PortSpec {
    /// Reads `[address:][host port:]port[-port][/protocol]`.
    ///
    /// # Errors
    ///
    /// Returns the message when the text is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let invalid = |why: &str| Err(format!("invalid port {}: {why}", quote(text)));
        let (host, container) = match text.rsplit_once(':') {
            Some((host, container)) => (Some(host), container),
            None => (None, text),
        };
        let (ports, protocol) = container.split_once('/').unwrap_or((container, ""));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => "tcp",
            "udp" => "udp",
            "sctp" => "sctp",
            _ => return Err(format!("unknown protocol {} of port {}", quote(protocol), quote(text))),
        };
        let (first, last) = match range(ports) {
            Ok(range) => range,
            Err(why) => return invalid(why),
        };
        if let Some(host) = host
            && let Err(why) = check_host(host, last - first)
        {
            return invalid(why);
        }
        let has_host_part = host.is_some_and(|host| !host.is_empty());
        Ok(Self { first, last, protocol, has_host_part })
    }

    /// Returns the keys of the image config: `80/tcp`.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// Reads `port` or `port-port`.
fn range(text: &str) -> Result<(u16, u16), &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if last < first => Err("the range ends before it starts"),
        (Some(first), Some(last)) => Ok((first, last)),
        _ => Err("a port is a number from 0 to 65535"),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Checks `[address:][port]` of a host; it has to be well-formed although it means nothing in an image.
fn check_host(host: &str, length: u16) -> Result<(), &'static str> {
    let (address, ports) = host.rsplit_once(':').unwrap_or(("", host));
    let address = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    if !address.is_empty() && address.parse::<std::net::IpAddr>().is_err() {
        return Err("the address of the host is none");
    }
    if ports.is_empty() {
        return Ok(());
    }
    match range(ports) {
        Ok((first, last)) if length > 0 && last - first != length => {
            Err("the ranges of host and container differ in length")
        }
        Ok(_) => Ok(()),
        Err(_) => Err("the port of the host is none"),
    }
}

pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Expose> {
    request.take_flags(&[]);
    request.require_operands()?;
    let ports: Vec<_> = request.operands.words().iter().map(Piece::spanned).collect();
    for port in ports.iter().filter(|port| is_literal(&port.value)) {
        if let Err(message) = PortSpec::parse(&port.value) {
            request.error("invalid-port", port.span, message);
        }
    }
    Some(Expose { ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(PortSpec::parse(text).unwrap().keys().collect::<Vec<_>>(), expect, "{text}");
        };
        check("80", &["80/tcp"]);
        check("80/", &["80/tcp"]);
        check("53/UDP", &["53/udp"]);
        check("7/sctp", &["7/sctp"]);
        check("8000-8002/udp", &["8000/udp", "8001/udp", "8002/udp"]);
        check("8080:80", &["80/tcp"]);
        check("127.0.0.1:8080:80/tcp", &["80/tcp"]);
        check("[::1]:8080:80", &["80/tcp"]);
        check("65535", &["65535/tcp"]);
        check("+80", &["80/tcp"]);
        check("0", &["0/tcp"]);
        check(":80", &["80/tcp"]);
        check("127.0.0.1::80", &["80/tcp"]);
        check("::1:8080:80", &["80/tcp"]);
        check("8000-8010:80", &["80/tcp"]);
        check("90-91:80-81", &["80/tcp", "81/tcp"]);
    }

    #[test]
    fn no_ports() {
        for text in [
            "",
            "a",
            "80/http",
            "65536",
            "80-",
            "-80",
            "81-80",
            "+",
            "++80",
            "80 81",
            "80:",
            "80/tcp/udp",
            "a:80",
            "1.2.3:80:80",
            "[::1:80:80",
            "90-92:80-81",
            "80/tcp:90",
            "65536:80",
        ] {
            assert!(PortSpec::parse(text).is_err(), "{text}");
        }
    }
}
