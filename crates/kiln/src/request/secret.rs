//! What a build is trusted with: secrets, agents, and leave to do more than usual.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// A secret's value. It lives in memory only: `Debug` and serialisation show `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<Arc<[u8]>>) -> Self {
        Self(value.into())
    }

    /// Returns the value itself, for the one place that hands it to a command.
    #[must_use]
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("***")
    }
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretSource {
    /// A file, read when the build begins.
    File(PathBuf),
    /// A value, as of a variable.
    Value(Secret),
}

/// An SSH agent that commands may use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SshAgent {
    /// Its socket.
    pub socket: PathBuf,
    /// Passes on everything; otherwise commands can list keys and sign, and nothing else.
    pub raw: bool,
}

/// What a RUN may do only when the build allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Entitlement {
    /// `RUN --security=insecure`.
    #[serde(rename = "security.insecure")]
    SecurityInsecure,
    /// `RUN --network=host` in a build whose network is less; in others it is allowed in any case.
    #[serde(rename = "network.host")]
    NetworkHost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_hides_itself() {
        let source = SecretSource::Value(Secret::new(*b"hunter2"));
        assert_eq!(format!("{source:?}"), "Value(***)");
        assert_eq!(serde_json::to_string(&source).unwrap(), r#"{"value":"***"}"#);
    }
}
