//! Content digests (OCI image specification, "Digests").

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// Identifies content by its hash, written `sha256:<64 hex digits>` (or `sha512:<128 hex digits>`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// Says why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text is not `algorithm:hex`.
    #[error("`{0}` is not a digest: expected `sha256:` and 64 hexadecimal digits")]
    Malformed(String),
    /// The algorithm is none that the specification registers.
    #[error("digest algorithm of `{0}` is not supported: sha256 and sha512 are")]
    Algorithm(String),
}

impl Digest {
    /// Returns the sha256 digest of `bytes`.
    #[must_use]
    pub fn sha256(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns the digest as text, `algorithm:hex`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the algorithm, `sha256` or `sha512`.
    #[must_use]
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// Returns the hexadecimal digits after the colon.
    #[must_use]
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// Returns the first twelve digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.hex().get(..12).unwrap_or_default()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| DigestError::Malformed(text.to_owned()))?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            _ => return Err(DigestError::Algorithm(text.to_owned())),
        };
        let digits = hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if hex.len() == length && digits {
            Ok(Self(text.to_owned()))
        } else {
            Err(DigestError::Malformed(text.to_owned()))
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A sha256 digest as its 32 bytes: for tables and streams of many, where the text would be most of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sum(pub [u8; 32]);

impl From<Sum> for Digest {
    fn from(sum: Sum) -> Self {
        Self(format!("sha256:{}", hex(&sum.0)))
    }
}

/// Computes a sha256 digest piece by piece.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Returns a hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds a length-prefixed field, so that no two sequences of fields hash alike by shifting bytes.
    pub fn field(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// Returns the digest of everything added.
    #[must_use]
    pub fn finish(self) -> Digest {
        self.sum().into()
    }

    /// Returns the same as bytes.
    #[must_use]
    pub fn sum(self) -> Sum {
        Sum(self.0.finalize().into())
    }
}

impl Write for Hasher {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

/// Reads through to `inner` and fails at the end of the stream unless it had the size and digest expected.
///
/// A reader that gives more bytes than expected fails at the first one too many, so a hostile source cannot
/// make the consumer store an endless stream.
#[derive(Debug)]
pub struct Verifier<R> {
    inner: R,
    expected: Digest,
    size: u64,
    seen: u64,
    state: Option<State>,
}

impl<R: Read> Verifier<R> {
    /// Wraps `inner`, which has to give exactly `size` bytes with digest `expected`.
    pub fn new(inner: R, expected: Digest, size: u64) -> Self {
        let state = match expected.algorithm() {
            "sha512" => State::Sha512(Sha512::new()),
            _ => State::Sha256(Sha256::new()),
        };
        Self { inner, expected, size, seen: 0, state: Some(state) }
    }

    fn check(&mut self) -> io::Result<()> {
        let Some(state) = self.state.take() else { return Ok(()) };
        if self.seen != self.size {
            return Err(invalid(format!(
                "{} has {} bytes, its descriptor says {}",
                self.expected, self.seen, self.size
            )));
        }
        let found = match state {
            State::Sha256(hash) => format!("sha256:{}", hex(&hash.finalize())),
            State::Sha512(hash) => format!("sha512:{}", hex(&hash.finalize())),
        };
        if found == self.expected.as_str() {
            return Ok(());
        }
        Err(invalid(format!("content has digest {found}, expected {}", self.expected)))
    }
}

impl<R: Read> Read for Verifier<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n == 0 {
            self.check()?;
            return Ok(0);
        }
        self.seen += n as u64;
        if self.seen > self.size {
            return Err(invalid(format!(
                "{} is longer than the {} bytes its descriptor says",
                self.expected, self.size
            )));
        }
        match &mut self.state {
            Some(State::Sha256(hash)) => hash.update(&buf[..n]),
            Some(State::Sha512(hash)) => hash.update(&buf[..n]),
            None => {}
        }
        Ok(n)
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::sha256(b"").as_str(), EMPTY);
    }

    #[test]
    fn malformed_digests_are_refused() {
        let short = "sha256:abc";
        let upper = EMPTY.to_uppercase().replace("SHA256", "sha256");
        for bad in
            ["", "sha256", short, &upper, "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:../../etc/passwd"]
        {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn verifier_refuses_wrong_short_and_long_content() {
        let read = |content: &[u8], size| {
            let mut out = Vec::new();
            Verifier::new(content, Digest::sha256(b"hello"), size).read_to_end(&mut out).map(|_| out)
        };
        assert_eq!(read(b"hello", 5).unwrap(), b"hello");
        assert!(read(b"hellO", 5).unwrap_err().to_string().contains("expected sha256:"));
        assert!(read(b"hell", 5).unwrap_err().to_string().contains("has 4 bytes"));
        assert!(read(b"hello!", 5).unwrap_err().to_string().contains("longer"));
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: &[&str]| {
            let mut hasher = Hasher::new();
            fields.iter().for_each(|f| hasher.field(f.as_bytes()));
            hasher.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}
