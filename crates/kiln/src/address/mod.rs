//! Addresses of what lies elsewhere, taken apart: git repositories in every form that BuildKit reads, and web files.
//!
//! Nothing is asked of a server here. An address may carry a password; [`Url`] shows itself without it everywhere but
//! in [`Url::reveal`].

mod git;

use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};

pub use git::{GitAddress, GitTimes, Short};

/// A URL, shown without what grants access.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Url(String);

impl Url {
    /// Wraps a URL.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the URL itself, for the one place that uses it.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Url {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Tells whether `text` is the URL of a web server.
#[must_use]
pub fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Returns the name that a file from `url` gets, the last component of its path; `None` where the URL has no path.
///
/// What the server calls the file does not count: the name of a file in an image is no business of a server.
#[must_use]
pub fn file_name(url: &str) -> Option<String> {
    let end = url.find(['?', '#']).unwrap_or(url.len());
    let (_, rest) = url[..end].split_once("://")?;
    let (_, path) = rest.split_once('/')?;
    let name = kiln_remote::percent_decode(path.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
    let usable = !matches!(name.as_str(), "" | "." | "..")
        && !name.contains(['/', '\0'])
        && !name.contains(char::is_control);
    usable.then_some(name)
}

/// Replaces the credentials of every URL in `text` by as many stars, so that places in the text stay where they are.
#[must_use]
pub fn mask(text: &str) -> String {
    let mut out = text.to_owned();
    for range in credentials(text) {
        out.replace_range(range.clone(), &"*".repeat(range.len()));
    }
    out
}

/// Returns where `text` has credentials: all of what stands before `@` for the web, and passwords otherwise.
fn credentials(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("://") {
        let start = at + 3;
        let rest = &text[start..];
        let end = rest.find(|c: char| "/?#\"'`\\<>".contains(c) || c.is_whitespace()).unwrap_or(rest.len());
        let Some(login) = rest[..end].rfind('@') else { continue };
        let web = text[..at].ends_with("http") || text[..at].ends_with("https");
        let from = if web { Some(0) } else { rest[..login].find(':').map(|colon| colon + 1) };
        // `${TOKEN}` tells nothing, and is what the reader of a message needs to see.
        if let Some(from) = from.filter(|from| *from < login && !rest[*from..login].contains('$')) {
            found.push(start + from..start + login);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked_in_place() {
        let check = |text: &str, expect: &str| {
            assert_eq!(mask(text), expect);
            assert_eq!(mask(text).len(), text.len());
        };
        check("ADD https://me:pw@h/x /", "ADD https://*****@h/x /");
        check("https://token@h", "https://*****@h");
        check("https://pä:x@h https://h/a@b", "https://*****@h https://h/a@b");
        check("ssh://git@h/r.git", "ssh://git@h/r.git");
        check("ssh://git:pw@h/r.git", "ssh://git:**@h/r.git");
        check("https://$USER:$PASS@h/x", "https://$USER:$PASS@h/x");
        check("git@h:r.git", "git@h:r.git");
    }

    #[test]
    fn a_file_is_named_by_the_path_of_its_url() {
        let check = |url: &str, expect: Option<&str>| assert_eq!(file_name(url).as_deref(), expect, "{url}");
        check("https://h/a/b.tar.gz?x=/y#z", Some("b.tar.gz"));
        check("https://h/a%20b", Some("a b"));
        check("https://h/dir/", Some("dir"));
        check("https://h/", None);
        check("https://h", None);
        check("https://h?x=/y", None);
        check("https://h/..", None);
        check("https://h/a%2Fb", None);
    }
}
