//! What must not reach a log: passwords and tokens as a type, and URLs without the parts that grant access.

use std::fmt;

use serde::{Deserialize, Deserializer};

/// A password or token. `Debug` shows `***`, there is no `Display`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, for the one place that sends it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Tells whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// Query parameters of the distribution and token protocols that tell nothing secret. Everything else is
/// hidden, because presigned URLs of object stores have as many names for a signature as there are stores.
const OPEN_PARAMETERS: [&str; 9] =
    ["scope", "service", "n", "last", "mount", "from", "digest", "artifactType", "client_id"];

/// Returns `url` without user information, fragment and the values of query parameters that may be secret.
#[must_use]
pub fn redact_url(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default();
    let (address, query) = match url.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (url, None),
    };
    let mut out = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            match authority.rsplit_once('@') {
                Some((_, host)) => format!("{scheme}://***@{host}{path}"),
                None => address.to_owned(),
            }
        }
        None => address.to_owned(),
    };
    for (i, pair) in query.into_iter().flat_map(|q| q.split('&')).enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if !OPEN_PARAMETERS.contains(&name) => {
                out.push_str(name);
                out.push_str("=***");
            }
            _ => out.push_str(pair),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lose_what_grants_access() {
        let check = |url: &str, expect: &str| assert_eq!(redact_url(url), expect);
        check("https://u:p@host:5000/v2/?n=1", "https://***@host:5000/v2/?n=1");
        check(
            "https://h/b?X-Amz-Signature=abc&digest=sha256:1",
            "https://h/b?X-Amz-Signature=***&digest=sha256:1",
        );
        check("/v2/a/blobs/uploads/1?_state=zzz#frag", "/v2/a/blobs/uploads/1?_state=***");
        check("https://host/a@b", "https://host/a@b");
    }

    #[test]
    fn a_secret_hides_itself() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
    }
}
