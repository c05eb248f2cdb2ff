//! What can go wrong between kiln and a registry, worded for the person who reads the log.
//!
//! Start at [`Error`]: it names what was asked, keeps the cause as its `source()`, and derives from both a
//! [`kind`](Error::kind) for exit codes and a [`hint`](Error::hint) for the next step. No message holds a
//! secret: URLs pass through [`redact_url`](crate::redact_url) before they are stored.

mod faults;

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kiln_oci::DocumentError;

pub use faults::Fault;
pub(crate) use faults::parse_faults;
use faults::{faults_text, status_text};

use crate::credentials::CredentialsError;

/// The cause below an error of this crate. Shared, so that one failure can be reported to several waiters.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// What was asked of a registry when something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// What was to be done, such as `fetch manifest`.
    pub operation: &'static str,
    /// The registry of the reference, such as `docker.io`.
    pub registry: String,
    /// The host that answered or should have: a mirror, a storage server, or the registry itself.
    pub host: String,
    /// The repository, such as `library/debian`.
    pub repository: String,
    /// Tag or digest within the repository; empty where the repository itself is meant.
    pub target: String,
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.target.as_str() {
            "" => "",
            digest if digest.contains(':') => "@",
            _ => ":",
        };
        let Self { operation, registry, repository, target, host } = self;
        write!(f, "{operation} `{registry}/{repository}{separator}{target}`")?;
        if host == registry || (registry == "docker.io" && host == crate::hosts::DOCKER_HUB) {
            Ok(())
        } else {
            write!(f, " at `{host}`")
        }
    }
}

/// Groups errors by what a caller can do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The registry does not have it.
    NotFound,
    /// Credentials are missing or wrong.
    Unauthorized,
    /// Credentials were understood and do not suffice.
    Denied,
    /// No answer: name resolution, connection, time out.
    Network,
    /// An answer, but no trust.
    Tls,
    /// The registry failed or broke the protocol.
    Server,
    /// The registry throttles, or content is larger than kiln takes.
    Limit,
    /// Content or configuration is not what it has to be.
    Invalid,
    /// The caller gave up.
    Cancelled,
}

/// A failed operation on a registry.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry answered with a failure.
    #[error("{asked}: registry answered {}{}", status_text(*.status), faults_text(.faults, .body))]
    Status {
        /// What was asked.
        asked: Box<Asked>,
        /// HTTP status.
        status: u16,
        /// The structured errors of the answer.
        faults: Vec<Fault>,
        /// The first line of an answer that has no structure.
        body: String,
        /// Whether the request carried credentials or a token got with them.
        login: Login,
    },
    /// A web server that is no registry answered with a failure.
    #[error("{asked}: the server answered {}", status_text(*.status))]
    Web {
        /// What was asked.
        asked: Box<Asked>,
        /// HTTP status.
        status: u16,
    },
    /// The token server answered with a failure.
    #[error("{asked}: token server `{realm}` answered {}{}", status_text(*.status), faults_text(.faults, .body))]
    Token {
        /// What was asked.
        asked: Box<Asked>,
        /// The token server, redacted.
        realm: String,
        /// HTTP status.
        status: u16,
        /// The structured errors of the answer.
        faults: Vec<Fault>,
        /// The first line of an answer that has no structure.
        body: String,
        /// Whether the request carried credentials.
        login: Login,
    },
    /// There was no answer.
    #[error("{asked}: cannot reach `{host}`")]
    Network {
        /// What was asked.
        asked: Box<Asked>,
        /// The host that was called.
        host: String,
        /// What the connection says.
        source: Cause,
    },
    /// The TLS handshake failed.
    #[error("{asked}: no secure connection to `{host}`")]
    Tls {
        /// What was asked.
        asked: Box<Asked>,
        /// The host that was called.
        host: String,
        /// Why.
        fault: TlsFault,
        /// What the TLS library says.
        source: Cause,
    },
    /// Nothing happened for too long.
    #[error("{asked}: `{host}` did not {awaited} within {} s", .limit.as_secs())]
    Timeout {
        /// What was asked.
        asked: Box<Asked>,
        /// The host that was called.
        host: String,
        /// What was waited for, such as `answer`.
        awaited: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The registry's answer breaks the protocol.
    #[error("{asked}: {reason}")]
    Protocol {
        /// What was asked.
        asked: Box<Asked>,
        /// What is wrong with the answer.
        reason: String,
    },
    /// Content is not what its digest says.
    #[error("{asked}: content has digest `{found}`, expected `{expected}`")]
    Digest {
        /// What was asked.
        asked: Box<Asked>,
        /// The digest of what came.
        found: String,
        /// The digest asked for.
        expected: String,
    },
    /// A blob is not what its descriptor says.
    #[error("{asked}: not the content that was asked for")]
    Content {
        /// What was asked.
        asked: Box<Asked>,
        /// What is wrong with it.
        source: Arc<io::Error>,
    },
    /// A document is larger than kiln takes.
    #[error("{asked}: document is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked.
        asked: Box<Asked>,
        /// The limit.
        limit: usize,
    },
    /// The document is not a manifest or an index.
    #[error("{asked}: not an image")]
    Document {
        /// What was asked.
        asked: Box<Asked>,
        /// What is wrong with it.
        source: Arc<DocumentError>,
    },
    /// Content to upload could not be read or produced.
    #[error("{asked}: cannot read the content to upload")]
    Source {
        /// What was asked.
        asked: Box<Asked>,
        /// What the source says.
        source: Arc<io::Error>,
    },
    /// Credentials exist and cannot be used.
    #[error("{asked}: no credentials")]
    Credentials {
        /// What was asked.
        asked: Box<Asked>,
        /// Why.
        source: Arc<CredentialsError>,
    },
    /// A setting of a host cannot be used.
    #[error("settings of `{host}` cannot be used: {reason}")]
    Config {
        /// The host.
        host: String,
        /// What is wrong.
        reason: String,
    },
    /// The machine gives no threads for connections.
    #[error("cannot start the threads for connections")]
    Runtime {
        /// Why.
        source: Arc<io::Error>,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// Whether a request was made in somebody's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// No credentials are known for the host.
    Anonymous,
    /// Credentials were used.
    Credentials,
}

/// Why a TLS handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsFault {
    /// The peer does not speak TLS.
    PlainHttp,
    /// The peer's certificate is not trusted.
    Certificate,
    /// Anything else.
    Handshake,
}

impl Error {
    /// Returns the group of the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Status { status, faults, login, .. } | Self::Token { status, faults, login, .. } => {
                status_kind(*status, faults, *login)
            }
            Self::Web { status, .. } => status_kind(*status, &[], Login::Anonymous),
            Self::Network { .. } | Self::Timeout { .. } | Self::Runtime { .. } => ErrorKind::Network,
            Self::Tls { .. } => ErrorKind::Tls,
            Self::Protocol { .. } => ErrorKind::Server,
            Self::TooLarge { .. } => ErrorKind::Limit,
            Self::Digest { .. }
            | Self::Content { .. }
            | Self::Document { .. }
            | Self::Source { .. }
            | Self::Config { .. } => ErrorKind::Invalid,
            Self::Credentials { .. } => ErrorKind::Unauthorized,
            Self::Cancelled => ErrorKind::Cancelled,
        }
    }

    /// Returns what was asked, where the error belongs to one operation.
    #[must_use]
    pub fn asked(&self) -> Option<&Asked> {
        match self {
            Self::Status { asked, .. }
            | Self::Web { asked, .. }
            | Self::Token { asked, .. }
            | Self::Network { asked, .. }
            | Self::Tls { asked, .. }
            | Self::Timeout { asked, .. }
            | Self::Protocol { asked, .. }
            | Self::Digest { asked, .. }
            | Self::Content { asked, .. }
            | Self::TooLarge { asked, .. }
            | Self::Document { asked, .. }
            | Self::Source { asked, .. }
            | Self::Credentials { asked, .. } => Some(asked),
            Self::Config { .. } | Self::Runtime { .. } | Self::Cancelled => None,
        }
    }

    /// Returns what the person could do next.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Tls { host, fault: TlsFault::PlainHttp, .. } => {
                Some(format!("`{host}` speaks plain HTTP; pass `--insecure-registry {host}` to allow it"))
            }
            Self::Tls { host, fault: TlsFault::Certificate, .. } => Some(format!(
                "give the authority's certificate with `ca = \"/path/ca.pem\"` for `{host}`, \
                 or skip the check with `--skip-tls-verify-registry {host}`"
            )),
            Self::Web { status: 401 | 403, .. } => {
                Some("the server wants to know who asks; give it the credentials that it takes".to_owned())
            }
            Self::Web { .. } => None,
            other => hint_of_kind(other.kind(), other.asked()?, other.login()),
        }
    }

    /// Returns the error of this crate inside an [`io::Error`] that a [`BlobReader`](crate::BlobReader) gave.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Self>())
    }

    /// Returns the HTTP status, where there was an answer.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } | Self::Token { status, .. } | Self::Web { status, .. } => {
                Some(*status)
            }
            _ => None,
        }
    }

    fn login(&self) -> Login {
        match self {
            Self::Status { login, .. } | Self::Token { login, .. } => *login,
            _ => Login::Anonymous,
        }
    }

    pub(crate) fn into_io(self) -> io::Error {
        let kind = match self.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::Unauthorized | ErrorKind::Denied => io::ErrorKind::PermissionDenied,
            ErrorKind::Invalid => io::ErrorKind::InvalidData,
            // `Interrupted` would make `Read::read_to_end` try again for ever.
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, self)
    }
}

fn status_kind(status: u16, faults: &[Fault], login: Login) -> ErrorKind {
    let says = |code: &str| faults.iter().any(|fault| fault.code == code);
    match status {
        401 if says("DENIED") && login == Login::Credentials => ErrorKind::Denied,
        401 => ErrorKind::Unauthorized,
        403 => ErrorKind::Denied,
        404 | 410 => ErrorKind::NotFound,
        413 | 429 => ErrorKind::Limit,
        400..=499 => ErrorKind::Invalid,
        _ => ErrorKind::Server,
    }
}

fn hint_of_kind(kind: ErrorKind, asked: &Asked, login: Login) -> Option<String> {
    let registry = &asked.registry;
    match (kind, login) {
        (ErrorKind::Unauthorized | ErrorKind::Denied, Login::Anonymous) => {
            let host = if registry == kiln_oci::DEFAULT_REGISTRY { "" } else { registry };
            Some(format!("log in with `{}`", format!("docker login {host}").trim_end()))
        }
        (ErrorKind::Unauthorized, Login::Credentials) => {
            Some(format!("the credentials for `{registry}` were refused; log in again"))
        }
        (ErrorKind::Denied, Login::Credentials) => {
            Some(format!("the account may not do this in `{registry}/{}`", asked.repository))
        }
        (ErrorKind::NotFound, _) if asked.operation.contains("manifest") => {
            Some(format!("check the spelling of `{}`, or whether it has been pushed", asked.repository))
        }
        (ErrorKind::Limit, Login::Anonymous) if !asked.target.is_empty() => {
            Some(format!("`{registry}` limits anonymous pulls; log in, or name a mirror"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, body: &str, login: Login) -> Error {
        let (faults, body) = parse_faults(body.as_bytes());
        let asked = Asked {
            operation: "fetch manifest",
            registry: "docker.io".to_owned(),
            host: "registry-1.docker.io".to_owned(),
            repository: "library/debian".to_owned(),
            target: "12".to_owned(),
        };
        Error::Status { asked: asked.into(), status, faults, body, login }
    }

    #[test]
    fn a_failure_says_what_was_asked_and_what_to_do() {
        let body = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
        let error = status(404, body, Login::Anonymous);
        assert_eq!(
            error.to_string(),
            "fetch manifest `docker.io/library/debian:12`: registry answered 404 Not Found \
             (MANIFEST_UNKNOWN: manifest unknown)"
        );
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = status(401, "", Login::Anonymous);
        assert_eq!(error.hint().unwrap(), "log in with `docker login`");
        assert_eq!(status(403, "", Login::Credentials).kind(), ErrorKind::Denied);
        assert_eq!(status(429, "", Login::Anonymous).kind(), ErrorKind::Limit);
        assert_eq!(status(502, "<html>", Login::Anonymous).to_string().matches('<').count(), 0);
    }
}
