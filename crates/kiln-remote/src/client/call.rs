//! One request as a registry sees it: authorised, redirected, tried again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use tokio::sync::OwnedSemaphorePermit;

use super::auth::{self, Challenge, Scopes};
use super::body::Body;
use super::transport::{Host, Lane, may_call};
use super::{Notice, Shared, location, retry};
use crate::Secret;
use crate::error::{Asked, Error, Login, parse_faults};

/// A chain of redirects longer than this is a loop.
const REDIRECTS: usize = 5;
/// As much of a failure's body is read; the rest tells nobody anything.
const FAULT_BODY: usize = 64 * 1024;

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    /// A path on the host, by whatever scheme the host speaks.
    Path(String),
    /// A URL that the registry gave.
    Url(Uri),
}

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) asked: Asked,
    pub(crate) method: Method,
    pub(crate) address: Address,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the answer's token has to allow.
    pub(crate) scopes: Scopes,
    pub(crate) lane: Lane,
    pub(crate) attempts: u32,
    pub(crate) trust: Trust,
}

/// Whether a host may learn who the user is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The registry or mirror that the user named.
    Host,
    /// A place that somebody else named.
    Nobody,
}

/// The head of an answer, its body still to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    /// The URL that answered, after redirects.
    pub(crate) url: Uri,
    pub(crate) login: Login,
    /// Held as long as the body is read.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }
}

/// What a request proves, and how.
#[derive(Debug, Clone)]
pub(crate) struct Proof {
    pub(crate) header: Option<HeaderValue>,
    pub(crate) login: Login,
    token: Option<Secret>,
}

impl Proof {
    fn nothing() -> Self {
        Self { header: None, login: Login::Anonymous, token: None }
    }

    fn token(token: Secret, login: Login) -> Self {
        Self { header: auth::bearer(&token), login, token: Some(token) }
    }
}

impl Shared {
    /// Sends `call` until there is an answer that another attempt would not change.
    pub(crate) async fn send(&self, host: &Arc<Host>, call: &Call) -> Result<Answer, Error> {
        let slot = host.slot(call.lane).await;
        let mut failures = 0;
        loop {
            let outcome = self.attempt(host, call).await;
            failures += 1;
            let last = failures >= call.attempts;
            let (error, asked_wait) = match outcome {
                Ok(answer) if !last && retry::may_pass(answer.status(), &call.method) => {
                    let wait = retry::retry_after(answer.headers());
                    (self.failure(&call.asked, answer).await, wait)
                }
                Ok(answer) => return Ok(Answer { slot, ..answer }),
                Err(error) if !last && transient(&error) => (error, None),
                Err(error) => return Err(error),
            };
            self.pause(error, failures, asked_wait).await;
        }
    }

    /// As [`send`](Self::send), with every status but those of `expected` an error.
    pub(crate) async fn ask(
        &self,
        host: &Arc<Host>,
        call: &Call,
        expected: &[StatusCode],
    ) -> Result<Answer, Error> {
        let answer = self.send(host, call).await?;
        if expected.contains(&answer.status()) {
            return Ok(answer);
        }
        Err(self.failure(&call.asked, answer).await)
    }

    /// Waits before the next attempt, as long as the registry asks or the back-off says.
    pub(crate) async fn pause(&self, error: Error, failures: u32, asked_wait: Option<Duration>) {
        let retries = &self.config.retries;
        let backoff = self.jitter.spread(retries.delay(failures));
        let after = asked_wait.map_or(backoff, |wait| wait.min(retries.longest));
        self.notice(Notice::Retrying { error, after });
        tokio::time::sleep(after).await;
    }

    /// Sends `call` once, and once more with better credentials where the first was refused.
    async fn attempt(&self, host: &Arc<Host>, call: &Call) -> Result<Answer, Error> {
        if call.trust == Trust::Nobody {
            return self.follow(host, call, &Proof::nothing()).await;
        }
        let proof = self.proof(host, &call.asked, &call.scopes, &Scopes::default()).await?;
        let answer = self.follow(host, call, &proof).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(more) = note_refusal(host, &call.scopes, &proof, answer.headers()) else {
            return Ok(answer);
        };
        let better = self.proof(host, &call.asked, &call.scopes, &more).await?;
        if better.header.is_none() || better.header == proof.header {
            return Ok(answer);
        }
        drop(answer);
        let answer = self.follow(host, call, &better).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            note_refusal(host, &call.scopes, &better, answer.headers());
        }
        Ok(answer)
    }

    /// Returns what the host wants to see for `scopes`, as far as it has said so.
    pub(crate) async fn proof(
        &self,
        host: &Arc<Host>,
        asked: &Asked,
        scopes: &Scopes,
        more: &Scopes,
    ) -> Result<Proof, Error> {
        match host.auth.challenge() {
            None => Ok(Proof::nothing()),
            Some(Challenge::Basic) => {
                use crate::Credential::{Basic, RegistryToken};
                Ok(match self.credential(&host.name, asked).await? {
                    Some(Basic { username, password }) => Proof {
                        header: Some(auth::basic(&username, password.reveal())),
                        login: Login::Credentials,
                        token: None,
                    },
                    Some(RegistryToken(token)) => Proof::token(token, Login::Credentials),
                    _ => Proof::nothing(),
                })
            }
            Some(Challenge::Bearer { realm, service, .. }) => {
                let (token, login) = self.token(host, asked, &realm, &service, scopes, more).await?;
                Ok(Proof::token(token, login))
            }
        }
    }

    /// Follows redirects of a request without body; only the first server sees the proof.
    async fn follow(&self, host: &Arc<Host>, call: &Call, proof: &Proof) -> Result<Answer, Error> {
        let first = self.url(host, &call.address, &call.asked).await?;
        let mut url = first.clone();
        let mut server = Arc::clone(host);
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Body::Bytes(call.body.clone()));
            *request.method_mut() = call.method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = call.headers.clone();
            if call.body.is_empty() && !matches!(call.method, Method::GET | Method::HEAD) {
                // Said even of nothing: some registries answer 411 without it.
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            if let Some(header) = proof.header.as_ref().filter(|_| location::same_server(&url, &first)) {
                request.headers_mut().insert(AUTHORIZATION, header.clone());
            }
            let response = server
                .exchange(request, None)
                .await
                .map_err(|failure| failure.error(&call.asked, &server.name))?;
            let body_less = matches!(call.method, Method::GET | Method::HEAD);
            let redirect =
                response.status().is_redirection() && response.status() != StatusCode::NOT_MODIFIED;
            if !(redirect && body_less) {
                return Ok(Answer { response, url, login: proof.login, slot: None });
            }
            let next = location::of(&url, response.headers());
            url = next.ok_or_else(|| call.protocol("a redirect has no usable `Location`"))?;
            server = self.server_of(&url, &call.asked)?;
        }
        Err(call.protocol("too many redirects"))
    }

    /// Returns the full URL of an address.
    pub(crate) async fn url(&self, host: &Host, address: &Address, asked: &Asked) -> Result<Uri, Error> {
        let path = match address {
            Address::Url(url) => return Ok(url.clone()),
            Address::Path(path) => path,
        };
        let scheme = host.scheme().await.map_err(|failure| failure.error(asked, &host.name))?;
        let url = format!("{scheme}://{}{path}", host.name);
        url.parse().map_err(|_| Error::Protocol {
            asked: asked.clone().into(),
            reason: format!("`{}` is not a URL", crate::redact_url(&url)),
        })
    }

    /// Returns the host of a URL that came from outside.
    pub(crate) fn server_of(&self, url: &Uri, asked: &Asked) -> Result<Arc<Host>, Error> {
        let scheme = url.scheme_str().unwrap_or_default();
        let authority = url.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default();
        let name = authority.rsplit_once('@').map_or(authority, |(_, name)| name);
        if !name.is_empty() && may_call(&self.config.hosts, scheme, name) {
            return self.host(name);
        }
        let url = crate::redact_url(&url.to_string());
        let reason = format!("sent to `{url}`, which is not HTTPS");
        Err(Error::Protocol { asked: asked.clone().into(), reason })
    }

    /// Reads a failed answer's body and returns it as an error.
    pub(crate) async fn failure(&self, asked: &Asked, answer: Answer) -> Error {
        let Answer { response, login, url, slot: _slot } = answer;
        let status = response.status().as_u16();
        let body = self.read(response, FAULT_BODY).await.unwrap_or_default();
        let (faults, body) = parse_faults(&body);
        let mut asked = asked.clone();
        if let Some(authority) = url.authority() {
            // After a redirect it is another host that failed.
            asked.host = authority.as_str().rsplit('@').next().unwrap_or_default().to_owned();
        }
        Error::Status { asked: asked.into(), status, faults, body, login }
    }

    /// Reads a body up to `limit` bytes; one that is longer is cut there.
    pub(crate) async fn read(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Vec<u8>, ReadFailure> {
        let mut body = response.into_body();
        let mut out = Vec::new();
        let idle = self.config.timeouts.idle;
        while out.len() < limit {
            let frame =
                tokio::time::timeout(idle, body.frame()).await.map_err(|_| ReadFailure::Idle(idle))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|e| ReadFailure::Broken(Arc::new(e)))?;
            if let Some(data) = frame.data_ref() {
                out.extend_from_slice(&data[..data.len().min(limit - out.len())]);
            }
        }
        Ok(out)
    }
}

/// Why a body could not be read to its end.
#[derive(Debug)]
pub(crate) enum ReadFailure {
    Idle(Duration),
    Broken(crate::error::Cause),
}

impl ReadFailure {
    pub(crate) fn error(self, asked: &Asked) -> Error {
        let (asked, host) = (Box::new(asked.clone()), asked.host.clone());
        match self {
            Self::Idle(limit) => Error::Timeout { asked, host, awaited: "send data", limit },
            Self::Broken(source) => Error::Network { asked, host, source },
        }
    }
}

impl Call {
    pub(crate) fn protocol(&self, reason: &str) -> Error {
        Error::Protocol { asked: self.asked.clone().into(), reason: reason.to_owned() }
    }
}

/// Learns from a 401: what the host asks for, and that the token is of no use. Returns the scopes to add.
pub(crate) fn note_refusal(
    host: &Host,
    scopes: &Scopes,
    proof: &Proof,
    headers: &HeaderMap,
) -> Option<Scopes> {
    let challenge = Challenge::of(headers)?;
    if let Some(token) = &proof.token {
        host.auth.forget(scopes, token);
    }
    let more = match &challenge {
        Challenge::Basic => Scopes::default(),
        Challenge::Bearer { scopes, .. } => scopes.clone(),
    };
    host.auth.remember(challenge);
    Some(more)
}

/// Tells whether the same request may succeed later.
pub(crate) fn transient(error: &Error) -> bool {
    match error {
        Error::Network { .. } | Error::Timeout { .. } => true,
        Error::Status { status, .. } | Error::Token { status, .. } | Error::Web { status, .. } => {
            StatusCode::from_u16(*status).is_ok_and(|status| retry::may_pass(status, &Method::GET))
        }
        _ => false,
    }
}
