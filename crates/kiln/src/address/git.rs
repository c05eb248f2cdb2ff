//! Addresses of git repositories, with what they say about reference, directory and checkout.
//!
//! ```text
//! https://host/repository.git#REFERENCE:DIRECTORY
//! git@host:repository?branch=main&subdir=docs&checksum=1a2b3c
//! ```

use std::collections::BTreeMap;
use std::fmt;

use kiln_dockerfile::ignore::clean_path;
use kiln_remote::percent_decode;
use serde::Serialize;

use super::Url;

/// A commit of a repository, as the user wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GitAddress {
    /// The repository, without reference and directory.
    pub remote: Url,
    /// Branch, tag, other reference or commit; absent is the default branch.
    pub reference: Option<String>,
    /// Directory of the repository; empty is all of it.
    pub subdir: String,
    /// The start of the commit's id that the reference has to lead to.
    pub checksum: Option<String>,
    /// Whether `.git` stays, if anything is said of it.
    pub keep_git_dir: Option<bool>,
    /// Whether submodules are checked out.
    pub submodules: bool,
    /// Which times files have.
    pub times: GitTimes,
    /// Take `checksum` without asking what the reference means.
    pub fetch_by_commit: bool,
}

/// Times of files from a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GitTimes {
    /// That of the checkout, which is no input: the epoch of the build.
    Checkout,
    /// That of the commit.
    Commit,
}

/// Whether `github.com/user/repository` is a repository: so a build context, and not a path in a Dockerfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// It is.
    Allowed,
    /// It is a path.
    Path,
}

impl GitAddress {
    /// Reads an address; `None` when `text` is something else: a path, or a file of a web server.
    #[must_use]
    pub fn parse(text: &str, short: Short) -> Option<Result<Self, String>> {
        let (address, rest) = split(text)?;
        let remote = if let Some((scheme, tail)) = address.split_once("://") {
            let scheme = scheme.to_ascii_lowercase();
            let path = tail.split_once('/').map_or("", |(_, path)| path);
            match scheme.as_str() {
                "http" | "https" if path.ends_with(".git") => {}
                "git" | "ssh" => {}
                _ => return None,
            }
            format!("{scheme}://{tail}")
        } else if address.starts_with("github.com/") {
            if short == Short::Path {
                return None;
            }
            format!("https://{address}")
        } else if is_scp(address) {
            address.to_owned()
        } else {
            return None;
        };
        Some(Self::with(remote, &rest))
    }

    fn with(remote: String, rest: &Rest<'_>) -> Result<Self, String> {
        if remote.strip_prefix("ssh://").is_some_and(|host| host.starts_with('-')) {
            return Err("a host cannot begin with `-`".to_owned());
        }
        let (reference, subdir) = match rest.fragment.map(percent_decode) {
            Some(fragment) => {
                let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
                (Some(reference.to_owned()).filter(|r| !r.is_empty()), clean(subdir))
            }
            None => (None, String::new()),
        };
        let mut address = Self {
            remote: Url::new(remote),
            reference,
            subdir,
            checksum: None,
            keep_git_dir: None,
            submodules: true,
            times: GitTimes::Checkout,
            fetch_by_commit: false,
        };
        address.query(rest.query.unwrap_or_default())?;
        if let Some(sum) = &address.checksum {
            check_commit(sum)?;
        }
        Ok(address)
    }

    fn query(&mut self, query: &str) -> Result<(), String> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) =
                (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")));
            if values.insert(key.clone(), value).is_some() {
                return Err(format!("`{key}` stands there twice"));
            }
        }
        let tag = values.remove("tag").map(|tag| named("refs/tags/", &tag));
        let branch = values.remove("branch").map(|branch| named("refs/heads/", &branch));
        for (key, value) in values {
            let may_be_bare = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
            if value.is_empty() && !may_be_bare {
                return Err(format!("`{key}` has no value"));
            }
            match key.as_str() {
                "ref" => agree("reference", &mut self.reference, value)?,
                "subdir" => {
                    let mut subdir = Some(std::mem::take(&mut self.subdir)).filter(|s| !s.is_empty());
                    agree("directory", &mut subdir, clean(&value))?;
                    self.subdir = subdir.unwrap_or_default();
                }
                "checksum" | "commit" => agree("commit", &mut self.checksum, value)?,
                "keep-git-dir" => self.keep_git_dir = Some(switch(&key, &value)?),
                "submodules" => self.submodules = switch(&key, &value)?,
                "fetch-by-commit" => self.fetch_by_commit = switch(&key, &value)?,
                "mtime" => {
                    self.times = match value.as_str() {
                        "checkout" => GitTimes::Checkout,
                        "commit" => GitTimes::Commit,
                        _ => return Err(format!("`mtime` is `checkout` or `commit`, not `{value}`")),
                    }
                }
                _ => return Err(unknown(&key)),
            }
        }
        if tag.is_some() && branch.is_some() {
            return Err("`branch` and `tag` cannot both be given".to_owned());
        }
        if let Some(reference) = tag.or(branch) {
            if reference.ends_with('/') {
                return Err("`branch` or `tag` has no value".to_owned());
            }
            agree("reference", &mut self.reference, reference)?;
        }
        Ok(())
    }

    /// Adds what `ADD --checksum` says.
    ///
    /// # Errors
    /// When the address says something else, or it is no commit.
    pub fn require(&mut self, checksum: &str) -> Result<(), String> {
        check_commit(checksum)?;
        agree("commit", &mut self.checksum, checksum.to_owned())
    }
}

impl fmt::Display for GitAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        match (&self.reference, self.subdir.as_str()) {
            (None, "") => Ok(()),
            (reference, "") => write!(f, "#{}", reference.as_deref().unwrap_or_default()),
            (reference, subdir) => write!(f, "#{}:{subdir}", reference.as_deref().unwrap_or_default()),
        }
    }
}

/// What follows the repository in an address.
struct Rest<'a> {
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

fn split(text: &str) -> Option<(&str, Rest<'_>)> {
    if text.starts_with("./") || text.starts_with("../") {
        return None;
    }
    let (text, fragment) = match text.split_once('#') {
        Some((text, fragment)) => (text, Some(fragment)),
        None => (text, None),
    };
    let (address, query) = match text.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (text, None),
    };
    Some((address, Rest { query, fragment }))
}

/// Recognises `user@host:path`.
fn is_scp(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    word(user, "-_") && word(host, "-.") && !host.starts_with('-')
}

fn named(prefix: &str, name: &str) -> String {
    format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name))
}

/// Two ways to say one thing have to agree.
fn agree(what: &str, slot: &mut Option<String>, value: String) -> Result<(), String> {
    match slot {
        Some(there) if *there != value => Err(format!("two values for the {what}: `{there}` and `{value}`")),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("`{key}` is `true` or `false`, not `{value}`")),
    }
}

fn check_commit(text: &str) -> Result<(), String> {
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    Err(format!("`{text}` is not the id of a commit, or the beginning of one"))
}

/// Returns a path below the root of a repository, which no `..` leaves.
fn clean(path: &str) -> String {
    clean_path(&format!("/{path}")).trim_start_matches('/').to_owned()
}

fn unknown(key: &str) -> String {
    const KEYS: [&str; 10] = [
        "ref",
        "tag",
        "branch",
        "subdir",
        "checksum",
        "commit",
        "keep-git-dir",
        "submodules",
        "mtime",
        "fetch-by-commit",
    ];
    match kiln_dockerfile::suggest(key, &KEYS) {
        Some(near) => format!("`{key}` is not known, did you mean `{near}`?"),
        None => format!("`{key}` is not known; there are: {}", KEYS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> GitAddress {
        GitAddress::parse(text, Short::Path).unwrap().unwrap()
    }

    #[test]
    fn repositories_are_told_from_files_and_paths() {
        let check = |text: &str, short: Short, expect: Option<&str>| {
            let found = GitAddress::parse(text, short).map(|a| a.unwrap().remote.reveal().to_owned());
            assert_eq!(found.as_deref(), expect, "{text}");
        };
        check("https://h/r.git", Short::Path, Some("https://h/r.git"));
        check("HTTPS://h/r.git#main", Short::Path, Some("https://h/r.git"));
        check("https://h/r", Short::Path, None);
        check("https://h/r.git/", Short::Path, None);
        check("https://h/r.git.tar", Short::Path, None);
        check("https://h/x?y=.git", Short::Path, None);
        check("git://h/r", Short::Path, Some("git://h/r"));
        check("ssh://git@h:22/r", Short::Path, Some("ssh://git@h:22/r"));
        check("git@h:u/r", Short::Path, Some("git@h:u/r"));
        check("github.com/u/r", Short::Path, None);
        check("github.com/u/r#main", Short::Allowed, Some("https://github.com/u/r"));
        check("./git@h:r", Short::Path, None);
        check("file:///r.git", Short::Allowed, None);
        check("/r.git", Short::Allowed, None);
        check("a b@h:x", Short::Path, None);
    }

    #[test]
    fn fragments_and_queries_say_the_same() {
        let check = |text: &str, reference: Option<&str>, subdir: &str| {
            let address = parse(text);
            assert_eq!(
                (address.reference.as_deref(), address.subdir.as_str()),
                (reference, subdir),
                "{text}"
            );
        };
        check("https://h/r.git", None, "");
        check("https://h/r.git#v1:a/b", Some("v1"), "a/b");
        check("https://h/r.git#:a/../b/", None, "b");
        check("https://h/r.git#refs/pull/1/head", Some("refs/pull/1/head"), "");
        check("https://h/r.git?ref=v1&subdir=a", Some("v1"), "a");
        check("https://h/r.git?tag=v1", Some("refs/tags/v1"), "");
        check("https://h/r.git?branch=refs/heads/x", Some("refs/heads/x"), "");
        check("git@h:r?branch=x%2Fy", Some("refs/heads/x/y"), "");
        check("https://h/r.git?ref=a#a:b", Some("a"), "b");
    }

    #[test]
    fn switches_may_be_bare() {
        let address =
            parse("https://h/r.git?keep-git-dir&submodules=0&mtime=commit&fetch-by-commit=1&commit=Ab1");
        assert_eq!(address.keep_git_dir, Some(true));
        assert!(!address.submodules);
        assert_eq!(address.times, GitTimes::Commit);
        assert!(address.fetch_by_commit);
        assert_eq!(address.checksum.as_deref(), Some("Ab1"));
    }

    #[test]
    fn what_does_not_fit_is_explained() {
        let check = |query: &str, expect: &str| {
            let error =
                GitAddress::parse(&format!("https://h/r.git?{query}"), Short::Path).unwrap().unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check("ref=a&ref=b", "`ref` stands there twice");
        check("ref=a#b", "two values for the reference");
        check("tag=a&branch=b", "cannot both be given");
        check("ref=a&tag=b", "two values for the reference");
        check("ref=", "`ref` has no value");
        check("mtime=now", "`checkout` or `commit`");
        check("submodules=maybe", "`true` or `false`");
        check("subdr=a", "did you mean `subdir`?");
        check("checksum=xyz", "is not the id of a commit");
        check("commit=a1&checksum=a2", "two values for the commit");
    }

    #[test]
    fn a_password_does_not_show() {
        let address = parse("https://me:secret@h/r.git#main");
        let json = serde_json::to_string(&address).unwrap();
        for text in [address.to_string(), format!("{address:?}"), json] {
            assert!(!text.contains("secret") && text.contains("@h/r.git"), "{text}");
        }
    }
}
