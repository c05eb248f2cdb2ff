//! Who may do what: basic authentication, and bearer tokens with the token server that hands them out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use hyper::header::{AUTHORIZATION, HOST, HeaderMap, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};

use super::Anonymous;
use super::answer::{Answer, failure, json, set};
use super::{Auth, faults::Faults};
use crate::Secret;

const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// More live tokens than this and the oldest go: a test that loops must not fill the memory.
const MOST_TOKENS: usize = 10_000;

/// What a request wants to do with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

struct Grant {
    /// `repository:action`.
    rights: Vec<String>,
    end: Instant,
}

/// The door of the registry.
pub(super) struct Access {
    auth: Auth,
    scheme: &'static str,
    grants: Mutex<BTreeMap<String, Grant>>,
}

impl Access {
    pub(super) fn new(auth: Auth, scheme: &'static str) -> Self {
        Self { auth, scheme, grants: Mutex::default() }
    }

    /// Returns the answer for those who may not, or nothing for those who may. No repository is the ping.
    pub(super) fn check(
        &self,
        headers: &HeaderMap,
        repository: Option<&str>,
        action: Action,
        faults: &Mutex<Faults>,
    ) -> Option<Answer> {
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        match &self.auth {
            Auth::None => None,
            Auth::Basic { user, password } => {
                let allowed =
                    login(header).is_some_and(|(u, p)| same(&u, user) & same(&p, password.reveal()));
                (!allowed).then(|| refuse("Basic realm=\"kiln\"", StatusCode::UNAUTHORIZED))
            }
            Auth::Bearer { .. } => {
                let token = header.strip_prefix("Bearer ").unwrap_or_default();
                let wanted = repository.map(|name| format!("{name}:{}", action.name()));
                let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
                let grant = grants.get(token).filter(|grant| grant.end > Instant::now());
                let expired =
                    grant.is_some() && faults.lock().unwrap_or_else(PoisonError::into_inner).take_expiry();
                let enough =
                    |grant: &Grant| wanted.as_ref().is_none_or(|wanted| grant.rights.contains(wanted));
                if grant.is_some_and(enough) && !expired {
                    return None;
                }
                let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost");
                let mut challenge =
                    format!("Bearer realm=\"{}://{host}/token\",service=\"kiln\"", self.scheme);
                if let Some(name) = repository {
                    let actions = if action == Action::Push { "pull,push" } else { action.name() };
                    challenge.extend([",scope=\"repository:", name, ":", actions, "\""]);
                }
                if grant.is_some() {
                    challenge += ",error=\"insufficient_scope\"";
                }
                Some(refuse(&challenge, StatusCode::UNAUTHORIZED))
            }
        }
    }

    /// Serves the token server's one path; `form` is the query of a GET or the body of a POST.
    pub(super) fn token(
        &self,
        method: &Method,
        headers: &HeaderMap,
        form: &str,
        life: Option<Duration>,
    ) -> Answer {
        let Auth::Bearer { user, password, identity_token, anonymous } = &self.auth else {
            return failure(StatusCode::NOT_FOUND, "UNSUPPORTED", "this registry has no token server");
        };
        let pairs = parse_form(form);
        let get =
            |name: &str| pairs.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str()).unwrap_or_default();
        let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = if *method == Method::POST {
            let expected = identity_token.as_ref().map(Secret::reveal).unwrap_or_default();
            let good = get("grant_type") == "refresh_token"
                && !expected.is_empty()
                && same(get("refresh_token"), expected);
            Some(good)
        } else {
            let login = header.and_then(login);
            login.map(|(u, p)| same(&u, user) & same(&p, password.reveal()))
        };
        let rights = |scope: &str| -> Vec<String> {
            let Some(rest) = scope.strip_prefix("repository:") else { return Vec::new() };
            let Some((name, actions)) = rest.rsplit_once(':') else { return Vec::new() };
            let granted =
                |action: &&str| known == Some(true) || (*anonymous == Anonymous::Pull && *action == "pull");
            actions.split(',').filter(granted).map(|action| format!("{name}:{action}")).collect()
        };
        if known == Some(false) || (known.is_none() && *anonymous == Anonymous::Nothing) {
            return refuse("Basic realm=\"kiln\"", StatusCode::UNAUTHORIZED);
        }
        let scopes = pairs.iter().filter(|(name, _)| name == "scope").flat_map(|(_, value)| value.split(' '));
        let life = life.unwrap_or(TOKEN_LIFE);
        let grant = Grant { rights: scopes.flat_map(rights).collect(), end: Instant::now() + life };
        let Some(token) = random_name() else {
            return failure(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "no random numbers");
        };
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        if grants.len() >= MOST_TOKENS {
            grants.clear();
        }
        grants.insert(token.clone(), grant);
        json(StatusCode::OK, &serde_json::json!({ "token": token, "expires_in": life.as_secs() }))
    }
}

fn refuse(challenge: &str, status: StatusCode) -> Answer {
    let answer = failure(status, "UNAUTHORIZED", "authentication required");
    set(answer, WWW_AUTHENTICATE, challenge)
}

fn login(header: &str) -> Option<(String, String)> {
    let encoded = header.strip_prefix("Basic ")?;
    let text = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_owned(), password.to_owned()))
}

/// Compares without telling by its duration where two texts differ.
fn same(a: &str, b: &str) -> bool {
    let difference = a.bytes().zip(b.bytes()).fold(0, |all, (x, y)| all | (x ^ y));
    difference == 0 && a.len() == b.len()
}

/// Returns an unguessable name.
pub(super) fn random_name() -> Option<String> {
    let mut bytes = [0_u8; 16];
    crate::client::tls::provider().secure_random.fill(&mut bytes).ok()?;
    Some(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// Reads a query or a form.
pub(super) fn parse_form(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let decode = |text: &str| crate::client::percent_decode(&text.replace('+', " "));
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}
