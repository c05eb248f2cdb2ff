//! Which hosts a command may talk to.

use std::fmt;
use std::str::FromStr;

/// A host with its port, or many: `example.org`, `example.org:8080`, `*.example.org`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPattern {
    host: Host,
    /// Absent: 80 and 443.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Any,
    /// This one, in lower case.
    Exactly(String),
    /// Every name that ends so; `.example.org` stands for `*.example.org`.
    Below(String),
}

/// Says why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a host such as `example.org`, `example.org:8080` or `*.example.org`")]
pub struct PatternError;

/// The ports of a pattern that names none.
const USUAL: [u16; 2] = [80, 443];

impl HostPattern {
    /// Tells whether a host and a port are meant.
    #[must_use]
    pub fn matches(&self, host: &str, port: u16) -> bool {
        let host = normal(host);
        let is_host = match &self.host {
            Host::Any => true,
            Host::Exactly(name) => host == *name,
            Host::Below(end) => host.len() > end.len() && host.ends_with(end.as_str()),
        };
        is_host && self.port.map_or(USUAL.contains(&port), |own| own == port)
    }
}

/// Names have no case, and a dot at the end changes nothing.
fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, "")) => (address, None),
            Some((address, port)) => (address, Some(port.strip_prefix(':').ok_or(PatternError)?)),
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let port = port.map(|port| port.parse().map_err(|_| PatternError)).transpose()?;
        let name = |text: &str| {
            let valid = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
            let ok = !text.is_empty() && text.chars().all(valid);
            ok.then(|| normal(text)).ok_or(PatternError)
        };
        let host = match host.strip_prefix('*') {
            Some("") => Host::Any,
            Some(end) if end.starts_with('.') && end.len() > 1 => Host::Below(name(end)?),
            Some(_) => return Err(PatternError),
            None => Host::Exactly(name(host)?),
        };
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Exactly(name) if name.contains(':') => write!(f, "[{name}]")?,
            Host::Exactly(name) => f.write_str(name)?,
            Host::Below(end) => write!(f, "*{end}")?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_exact_about_hosts_and_ports() {
        let check = |pattern: &str, host: &str, port: u16, expect: bool| {
            let parsed: HostPattern = pattern.parse().unwrap();
            assert_eq!(parsed.matches(host, port), expect, "{pattern} {host}:{port}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        };
        check("example.org", "example.org", 443, true);
        check("example.org", "EXAMPLE.org.", 80, true);
        check("example.org", "example.org", 22, false);
        check("example.org:22", "example.org", 22, true);
        check("example.org:22", "example.org", 443, false);
        check("example.org", "www.example.org", 443, false);
        check("*.example.org", "www.example.org", 443, true);
        check("*.example.org", "example.org", 443, false);
        check("*.example.org", "evilexample.org", 443, false);
        check("*", "anything", 443, true);
        check("*", "anything", 25, false);
        check("[::1]:8080", "::1", 8080, true);
        for text in ["", "*x", "*.", "a:b", "a b", "http://x", "[::1]8"] {
            assert_eq!(text.parse::<HostPattern>(), Err(PatternError), "{text}");
        }
    }
}
