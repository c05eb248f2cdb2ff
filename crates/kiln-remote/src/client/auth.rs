//! Proving who one is: challenges, scopes and tokens (distribution specification, "token authentication").
//!
//! Everything here is data and parsing; the requests to token servers are in `call`. Tokens are kept per host
//! and set of scopes until shortly before they expire.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hyper::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::Secret;

/// The specification's life time of a token that names none.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end, so that it does not expire on the way.
const EARLY: Duration = Duration::from_secs(10);

/// What a host asks for before it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: String, scopes: Scopes },
}

impl Challenge {
    /// Returns the strongest challenge of an answer that this client understands.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut found: Vec<Self> = values.flat_map(parse_challenges).collect();
        let bearer = found.iter().position(|challenge| matches!(challenge, Self::Bearer { .. }));
        match bearer {
            Some(at) => Some(found.swap_remove(at)),
            None => found.pop(),
        }
    }
}

/// Reads `scheme key=value, key="value", scheme …`.
fn parse_challenges(text: &str) -> Vec<Challenge> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find([' ', ',']).unwrap_or(rest.len());
        let (scheme, after) = rest.split_at(end);
        let (parameters, after) = parse_parameters(after);
        rest = after.trim_start_matches([' ', ',']);
        let get = |name: &str| parameters.get(name).cloned();
        if scheme.eq_ignore_ascii_case("basic") {
            out.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            let scopes = Scopes::parse(&get("scope").unwrap_or_default());
            out.push(Challenge::Bearer { realm, service: get("service").unwrap_or_default(), scopes });
        }
    }
    out
}

/// Reads parameters up to the next scheme, and returns what is left.
fn parse_parameters(text: &str) -> (BTreeMap<String, String>, &str) {
    let mut parameters = BTreeMap::new();
    let mut rest = text;
    loop {
        let start = rest.trim_start_matches([' ', ',']);
        let end = start.find(['=', ' ', ',']).unwrap_or(start.len());
        let (name, after) = start.split_at(end);
        let Some(value) = after.strip_prefix('=') else { return (parameters, start) };
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => parse_quoted(quoted),
            None => {
                let end = value.find([',', ' ']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        parameters.insert(name.to_ascii_lowercase(), value);
        rest = after;
    }
}

fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// What a token has to allow: actions by resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    pub(crate) fn pull(repository: &str) -> Self {
        Self::repository(repository, &["pull"])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self::repository(repository, &["pull", "push"])
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self::repository(repository, &["delete", "pull"])
    }

    fn repository(name: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|action| (*action).to_owned()).collect();
        Self(BTreeMap::from([(format!("repository:{name}"), actions)]))
    }

    fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for scope in text.split_whitespace() {
            if let Some((resource, actions)) = scope.rsplit_once(':') {
                let actions = actions.split(',').map(str::to_owned);
                scopes.0.entry(resource.to_owned()).or_default().extend(actions);
            }
        }
        scopes
    }

    /// Adds everything that `other` asks for.
    #[must_use]
    pub(crate) fn and(mut self, other: &Self) -> Self {
        for (resource, actions) in &other.0 {
            self.0.entry(resource.clone()).or_default().extend(actions.iter().cloned());
        }
        self
    }

    /// Returns each scope as `type:name:actions`.
    pub(crate) fn texts(&self) -> Vec<String> {
        let text = |(resource, actions): (&String, &BTreeSet<String>)| {
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        };
        self.0.iter().map(text).collect()
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(" "))
    }
}

/// What one host has asked for and handed out so far.
#[derive(Debug, Default)]
pub(crate) struct HostAuth {
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<BTreeMap<Scopes, (Secret, Instant)>>,
    /// Held while a token is fetched: requests that start together fetch one.
    pub(crate) fetching: tokio::sync::Mutex<()>,
}

impl HostAuth {
    pub(crate) fn challenge(&self) -> Option<Challenge> {
        self.challenge.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn remember(&self, challenge: Challenge) {
        *self.challenge.lock().unwrap_or_else(PoisonError::into_inner) = Some(challenge);
    }

    pub(crate) fn token(&self, scopes: &Scopes) -> Option<Secret> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(scopes).filter(|(_, end)| *end > Instant::now()).map(|(token, _)| token.clone())
    }

    pub(crate) fn keep(&self, scopes: Scopes, token: Secret, life: Option<Duration>) {
        let life = life.unwrap_or(DEFAULT_LIFE);
        let end = Instant::now() + life.saturating_sub(EARLY.min(life / 2));
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(scopes, (token, end));
    }

    /// Drops the token for `scopes` when it is still the one that was refused.
    pub(crate) fn forget(&self, scopes: &Scopes, refused: &Secret) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.get(scopes).is_some_and(|(token, _)| token == refused) {
            tokens.remove(scopes);
        }
    }
}

/// The answer of a token server.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenAnswer {
    #[serde(default)]
    token: Secret,
    #[serde(default)]
    access_token: Secret,
    #[serde(default)]
    expires_in: Option<u64>,
}

impl TokenAnswer {
    /// Returns the token and its life time, unless the answer holds none.
    pub(crate) fn into_parts(self) -> Option<(Secret, Option<Duration>)> {
        // Docker's servers send the first name, OAuth servers the second, some both.
        let token = if self.token.is_empty() { self.access_token } else { self.token };
        (!token.is_empty()).then(|| (token, self.expires_in.map(Duration::from_secs)))
    }
}

/// Returns the header value for user name and password.
pub(crate) fn basic(username: &str, password: &str) -> HeaderValue {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    sensitive(&format!("Basic {encoded}")).unwrap_or_else(|| HeaderValue::from_static(""))
}

/// Returns the header value for a token, unless the token holds what no header can.
pub(crate) fn bearer(token: &Secret) -> Option<HeaderValue> {
    sensitive(&format!("Bearer {}", token.reveal()))
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Encodes pairs for a query or a form.
pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    let encode = |text: &str| -> String {
        text.bytes()
            .map(|b| match b {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(b).to_string()
                }
                b => format!("%{b:02X}"),
            })
            .collect()
    };
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    pairs.join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(header: &str, expect: Option<Challenge>) {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, header.parse().unwrap());
        assert_eq!(Challenge::of(&headers), expect, "{header}");
    }

    #[test]
    fn challenges_are_read_in_every_spelling() {
        let bearer = |scope: &str| {
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".to_owned(),
                service: "registry.example".to_owned(),
                scopes: Scopes::parse(scope),
            })
        };
        check(
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#,
            bearer("repository:a/b:pull,push"),
        );
        check(r#"bearer service=registry.example, realm="https://auth.example/token""#, bearer(""));
        check(
            r#"Basic realm="x", Bearer realm="https://auth.example/token",service="registry.example""#,
            bearer(""),
        );
        check(r#"Basic realm="a \" quote""#, Some(Challenge::Basic));
        check("Basic", Some(Challenge::Basic));
        check("Negotiate", None);
        check("Bearer", None);
    }

    #[test]
    fn scopes_join_by_resource() {
        let both = Scopes::push("a")
            .and(&Scopes::pull("b"))
            .and(&Scopes::parse("repository:b:push registry:catalog:*"));
        assert_eq!(both.to_string(), "registry:catalog:* repository:a:pull,push repository:b:pull,push");
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(
            form(&[("scope", "repository:a/b:pull,push"), ("n", "1")]),
            "scope=repository%3Aa%2Fb%3Apull%2Cpush&n=1"
        );
    }

    #[test]
    fn tokens_end_and_are_dropped_once_refused() {
        let auth = HostAuth::default();
        let scopes = Scopes::pull("a");
        auth.keep(scopes.clone(), Secret::new("old"), Some(Duration::ZERO));
        assert_eq!(auth.token(&scopes), None);
        auth.keep(scopes.clone(), Secret::new("new"), None);
        auth.forget(&scopes, &Secret::new("old"));
        assert_eq!(auth.token(&scopes), Some(Secret::new("new")));
        auth.forget(&scopes, &Secret::new("new"));
        assert_eq!(auth.token(&scopes), None);
    }
}
