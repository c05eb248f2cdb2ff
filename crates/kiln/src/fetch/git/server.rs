//! Speaking to git servers with kiln's own HTTP client, and what their references mean.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_git::{Answer, ObjectId, Reference, Remote, Web};
use kiln_remote::{Client, Secret, WebMethod, WebRequest};

use crate::address::{GitAddress, Url};
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::fetch::{Purpose, authorization};
use crate::graph::GitCommit;

/// HTTP for `kiln_git`: the client of the build, with the login of one repository.
struct Http {
    client: Client,
    /// The login in the address: user and password as they stand there.
    login: Option<String>,
    /// The server that may see it, `https://host:port`.
    server: String,
    authorization: Option<Secret>,
}

impl Http {
    fn send(&self, method: WebMethod, url: &str, headers: &[String]) -> io::Result<Answer> {
        let mut text = url.to_owned();
        let ours = server(url).eq_ignore_ascii_case(&self.server);
        if let (Some(login), true, Some((scheme, rest))) = (&self.login, ours, url.split_once("://")) {
            text = format!("{scheme}://{login}@{rest}");
        }
        let split = |line: &String| {
            let (name, value) = line.split_once(':')?;
            // What `kiln` calls itself is said once, for all servers.
            (!name.eq_ignore_ascii_case("user-agent")).then(|| (name.to_owned(), value.trim().to_owned()))
        };
        let request = WebRequest {
            operation: "read",
            method,
            url: text,
            headers: headers.iter().filter_map(split).collect(),
            authorization: self.authorization.clone().filter(|_| ours),
        };
        let answer = self.client.web(&request).and_then(|answer| answer.expect(&[200])).map_err(|e| {
            let kind = match e.status() {
                Some(401 | 403) => io::ErrorKind::PermissionDenied,
                Some(404 | 410) => io::ErrorKind::NotFound,
                _ => io::ErrorKind::Other,
            };
            io::Error::new(kind, e)
        })?;
        let headers = answer.headers().map(|(name, value)| format!("{name}: {value}")).collect();
        Ok(Answer { url: answer.url.clone(), headers, body: Box::new(answer.reader(None)) })
    }
}

impl Web for Http {
    fn get(&self, url: &str, headers: &[String]) -> io::Result<Answer> {
        self.send(WebMethod::Get, url, headers)
    }

    fn post(&self, url: &str, headers: &[String], body: Vec<u8>) -> io::Result<Answer> {
        self.send(WebMethod::Post(body), url, headers)
    }
}

/// Returns scheme and authority of a URL.
fn server(url: &str) -> &str {
    let start = url.find("://").map_or(0, |at| at + 3);
    &url[..url[start..].find('/').map_or(url.len(), |slash| start + slash)]
}

/// Returns the repository at `url`; a login in it goes to its own server only, and appears in no message.
pub(super) fn remote(engine: &Engine, url: &Url) -> Remote {
    let text = url.reveal();
    let mut clean = text.to_owned();
    let mut login = None;
    if let (true, Some((scheme, rest))) = (crate::address::is_http(text), text.split_once("://")) {
        let end = rest.find('/').unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@') {
            login = Some(rest[..at].to_owned());
            clean = format!("{scheme}://{}", &rest[at + 1..]);
        }
    }
    let http = Http {
        client: engine.client.clone(),
        login,
        server: server(&clean).to_owned(),
        authorization: authorization(&engine.grants, url, Purpose::Repository),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    engine.cancel.on_cancel(move || flag.store(true, Ordering::Relaxed));
    Remote { url: clean, web: Arc::new(http), stop }
}

/// Puts a failure in the words of a build.
pub(super) fn failed(error: kiln_git::Error) -> Error {
    let (kind, hint) = match error.kind {
        kiln_git::Kind::Network => (ErrorKind::Network, None),
        kiln_git::Kind::Unauthorized => (
            ErrorKind::Auth,
            Some("the server wants to know who asks, or has no such repository for everybody"),
        ),
        kiln_git::Kind::Machine => (ErrorKind::Environment, None),
        _ => (ErrorKind::Input, None),
    };
    let out = Error::new(kind, error.to_string());
    let out = match std::error::Error::source(&error) {
        Some(source) => out.because(crate::address::mask(&source.to_string())),
        None => out,
    };
    match hint {
        Some(hint) => out.hint(hint),
        None => out,
    }
}

/// What a reference was found to be.
struct Found {
    name: Option<String>,
    object: ObjectId,
    commit: ObjectId,
}

pub(super) fn resolve(engine: &Engine, address: &GitAddress, keep_git_dir: bool) -> Result<GitCommit> {
    let found = find(engine, address)?;
    if let Some(wanted) = &address.checksum {
        let wanted = wanted.to_ascii_lowercase();
        let fits = |id: ObjectId| id.to_string().starts_with(&wanted);
        if !fits(found.commit) && !fits(found.object) {
            return Err(Error::input(format!(
                "`{address}` is commit {}, and {wanted} is required",
                found.commit
            ))
            .hint("the reference moved, or is not the one that was meant"));
        }
    }
    Ok(GitCommit {
        address: address.clone(),
        reference: found.name,
        object: found.object.to_string(),
        commit: found.commit.to_string(),
        keep_git_dir,
    })
}

fn find(engine: &Engine, address: &GitAddress) -> Result<Found> {
    let word = address.reference.as_deref();
    if let Some(id) = word.and_then(|word| kiln_git::parse_id(&word.to_ascii_lowercase())) {
        return Ok(Found { name: None, object: id, commit: id });
    }
    if address.fetch_by_commit {
        let id = address.checksum.as_deref().and_then(|sum| kiln_git::parse_id(&sum.to_ascii_lowercase()));
        let id = id.ok_or_else(|| {
            Error::input("`fetch-by-commit` needs the whole id of the commit")
                .hint("add `checksum=` and 40 digits")
        })?;
        let name =
            word.map(|w| if w.starts_with("refs/") { w.to_owned() } else { format!("refs/heads/{w}") });
        return Ok(Found { name, object: id, commit: id });
    }
    let remote = remote(engine, &address.remote);
    let word = word.unwrap_or("HEAD");
    let below = |prefix: &str| format!("{prefix}{}", word.strip_prefix(prefix).unwrap_or(word));
    let prefixes = match word {
        "HEAD" => vec!["HEAD".to_owned()],
        _ => vec![below("refs/"), below("refs/heads/"), below("refs/tags/")],
    };
    let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
    let there = remote.references(&prefixes).map_err(failed)?;
    if let Some(found) = kiln_git::choose(&there, word) {
        return Ok(Found { name: Some(found.name), object: found.object, commit: found.commit });
    }
    let all = remote.references(&[]).map_err(failed)?;
    by_prefix(&all, word).map_or_else(|| Err(missing(&remote, &all, word)), Ok)
}

/// Finds the commit whose id begins with `word`, among those that a reference names.
fn by_prefix(all: &[Reference], word: &str) -> Option<Found> {
    /// Shorter ones are words more likely than ids.
    const SHORTEST: usize = 4;
    let word = word.to_ascii_lowercase();
    if word.len() < SHORTEST || !word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut commits: Vec<ObjectId> = all.iter().map(|r| r.peeled.unwrap_or(r.object)).collect();
    commits.retain(|id| id.to_string().starts_with(&word));
    commits.sort_unstable();
    commits.dedup();
    match commits.as_slice() {
        [one] => Some(Found { name: None, object: *one, commit: *one }),
        _ => None,
    }
}

fn missing(remote: &Remote, all: &[Reference], word: &str) -> Error {
    if all.is_empty() {
        return Error::input(format!("the repository `{}` is empty", remote.url));
    }
    let error = Error::input(format!("the repository `{}` has no reference `{word}`", remote.url));
    if word.len() >= 4 && word.bytes().all(|b| b.is_ascii_hexdigit()) {
        return error.hint("no branch or tag is at a commit that begins so; give all 40 digits of its id");
    }
    let short = |r: &Reference| {
        let name = r.name.strip_prefix("refs/heads/").or_else(|| r.name.strip_prefix("refs/tags/"));
        name.map(str::to_owned)
    };
    let names: Vec<String> = all.iter().filter_map(short).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match kiln_dockerfile::suggest(word, &names) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => {
            error.hint(format!("it has: {}", names.iter().take(8).copied().collect::<Vec<_>>().join(", ")))
        }
    }
}
