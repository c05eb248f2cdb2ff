//! Image references: `[registry/]repository[:tag][@digest]` (distribution's `reference` grammar).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Digest;

/// The registry that a reference without a host means.
pub const DEFAULT_REGISTRY: &str = "docker.io";

/// Names an image in a registry.
///
/// A reference is complete: `debian` has become `docker.io/library/debian:latest` once it is parsed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Says why a text is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ReferenceError {
    /// What was given.
    pub text: String,
    /// Which rule it breaks.
    pub reason: &'static str,
}

impl Reference {
    /// Returns the registry's host and port, `docker.io` for the default.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns the repository within the registry, such as `library/debian`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns the tag, which is absent only when a digest is given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Returns the digest that pins the reference.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns what to ask the registry for: the digest where there is one, else the tag.
    #[must_use]
    pub fn target(&self) -> &str {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => "latest",
        }
    }

    /// Returns the same repository with `digest` in place of tag and digest.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// Returns `registry/repository`, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Returns the shortest text that means this reference to a person, such as `debian:12`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        short.strip_prefix("library/").unwrap_or(short).to_owned()
    }
}

/// A first component is a host when it could not be a path component of a Docker Hub repository.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn valid_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let port_ok = port.is_none_or(|p| p.parse::<u16>().is_ok());
    if let Some(v6) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return port_ok && v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |l: &str| {
        !l.is_empty()
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    port_ok && name.split('.').all(label)
}

/// `[a-z0-9]+` joined by single `.`, one or two `_`, or any number of `-`.
fn valid_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let edges =
        bytes.first().is_some_and(|b| alphanumeric(*b)) && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators = component.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    edges
        && separators
            .filter(|s| !s.is_empty())
            .all(|s| s == "." || s == "_" || s == "__" || s.bytes().all(|b| b == b'-'))
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |reason| ReferenceError { text: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(digest.parse::<Digest>().map_err(|_| fail("the part after `@` is not a digest"))?),
            ),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !valid_tag(t)) {
            return Err(fail("the part after `:` is not a tag"));
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_host(first) => (first, path),
            _ => (DEFAULT_REGISTRY, name),
        };
        if path.is_empty() {
            return Err(fail("the repository is missing"));
        }
        if !valid_host(registry) {
            return Err(fail("the registry is not a host name"));
        }
        let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
        if path.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(fail("a repository is written in lower case"));
        }
        if path.len() > 255 || !path.split('/').all(valid_component) {
            return Err(fail(
                "the repository may hold letters, digits and single `.`, `_`, `-` between them",
            ));
        }
        let official = registry == DEFAULT_REGISTRY && !path.contains('/');
        Ok(Self {
            registry: registry.to_owned(),
            repository: if official { format!("library/{path}") } else { path.to_owned() },
            tag: tag.or(if digest.is_none() { Some("latest") } else { None }).map(str::to_owned),
            digest,
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(text.parse::<Reference>().unwrap().to_string(), expect);
    }

    #[test]
    fn short_names_become_complete() {
        let hex = "a".repeat(64);
        check("debian", "docker.io/library/debian:latest");
        check("debian:12", "docker.io/library/debian:12");
        check("index.docker.io/a/b", "docker.io/a/b:latest");
        check("ghcr.io/a/b:v1", "ghcr.io/a/b:v1");
        check("localhost/a", "localhost/a:latest");
        check("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check(&format!("a/b@sha256:{hex}"), &format!("docker.io/a/b@sha256:{hex}"));
        check(&format!("a/b:t@sha256:{hex}"), &format!("docker.io/a/b:t@sha256:{hex}"));
        assert_eq!("debian:12".parse::<Reference>().unwrap().familiar(), "debian:12");
    }

    #[test]
    fn bad_names_say_which_rule_they_break() {
        for (text, reason) in [
            ("", "missing"),
            ("Debian", "lower case"),
            ("a..b", "single"),
            ("a:", "tag"),
            ("a:b c", "tag"),
            ("a@sha256:zz", "digest"),
            ("host.example:99999/a", "host name"),
            ("-x.example/a", "host name"),
            ("a/../b", "single"),
            ("a//b", "single"),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
    }
}
