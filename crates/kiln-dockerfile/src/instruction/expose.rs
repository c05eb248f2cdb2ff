//! `EXPOSE`: the ports that the software in the image listens on.

use super::Request;
use crate::diagnostic::{Diagnostic, quote};
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
        let (ports, protocol) = text.split_once('/').unwrap_or((text, ""));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "" | "tcp" => "tcp",
            "udp" => "udp",
            "sctp" => "sctp",
            _ => return Err(format!("unknown protocol {} of port {}", quote(protocol), quote(text))),
        };
        let (has_host_part, range) = match ports.rsplit_once(':') {
            Some((_, range)) => (true, range),
            None => (false, ports),
        };
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let invalid = || format!("invalid port {}", quote(text));
        let first = port(first).ok_or_else(invalid)?;
        let last = port(last).ok_or_else(invalid)?;
        if last < first {
            return Err(format!("port range {} ends before it starts", quote(text)));
        }
        Ok(Self { first, last, protocol, has_host_part })
    }

    /// Returns the keys of the image config: `80/tcp`.
    pub fn keys(&self) -> impl Iterator<Item = String> + '_ {
        (self.first..=self.last).map(|port| format!("{port}/{}", self.protocol))
    }
}

fn port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Expose> {
    request.take_flags(&[]);
    request.require_operands()?;
    let ports: Vec<_> = request.operands.words().iter().map(Piece::spanned).collect();
    for port in ports.iter().filter(|port| is_literal(&port.value)) {
        match PortSpec::parse(&port.value) {
            Err(message) => request.error("invalid-port", port.span, message),
            Ok(spec) if spec.has_host_part => {
                let message = format!("the host's part of {} has no effect", quote(&port.value));
                let help = "write the container's port only";
                let diagnostic = Diagnostic::warning("expose-host-part", port.span, message);
                request.diagnostics.push(diagnostic.with_help(help));
            }
            Ok(_) => {}
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
    }

    #[test]
    fn no_ports() {
        for text in ["", "a", "80/http", "65536", "80-", "-80", "81-80", "+80", "80 81", "80:", "80/tcp/udp"]
        {
            assert!(PortSpec::parse(text).is_err(), "{text}");
        }
    }
}
