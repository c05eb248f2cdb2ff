//! From a request to the function that answers it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};

use kiln_oci::{Digest, Reference};

use super::access::{Access, Action, parse_form};
use super::answer::{Answer, empty, failure, set};
use super::storage::Store;
use super::uploads::Uploads;
use super::{Auth, Faults, Request, Shared};

/// A form of the token server is a few hundred bytes.
const FORM_LIMIT: usize = 64 * 1024;

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// Everything that answering takes.
pub(super) struct Service {
    pub(super) store: Box<dyn Store>,
    pub(super) uploads: Uploads,
    access: Access,
    shared: Arc<Shared>,
}

/// A path of the distribution specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Ping,
    Catalog,
    Token,
    Tags(String),
    Manifest(String, Target),
    Blob(String, Digest),
    Uploads(String),
    Session(String, String),
    Referrers(String, Digest),
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Tag(String),
    Digest(Digest),
}

/// Reads a path; every name in the result has been checked.
pub(super) fn parse(path: &str) -> Result<Route, (&'static str, String)> {
    match path {
        "/v2" | "/v2/" => return Ok(Route::Ping),
        "/v2/_catalog" => return Ok(Route::Catalog),
        "/token" => return Ok(Route::Token),
        _ => {}
    }
    let unknown = || ("NAME_INVALID", format!("`{path}` is no path of a registry"));
    let rest = path.strip_prefix("/v2/").ok_or_else(unknown)?;
    let digest = |text: &str| text.parse::<Digest>().map_err(|e| ("DIGEST_INVALID", e.to_string()));
    let name = |text: &str| {
        // The registry's own name is of no interest: the reference only checks the repository's.
        let reference: Result<Reference, _> = format!("registry.invalid/{text}").parse();
        let fits = reference.is_ok_and(|r| r.repository() == text);
        if fits { Ok(text.to_owned()) } else { Err(("NAME_INVALID", format!("`{text}` is no repository"))) }
    };
    if let Some(repository) = rest.strip_suffix("/tags/list") {
        return Ok(Route::Tags(name(repository)?));
    }
    if let Some((repository, target)) = rest.rsplit_once("/manifests/") {
        let repository = name(repository)?;
        if target.contains(':') {
            return Ok(Route::Manifest(repository, Target::Digest(digest(target)?)));
        }
        let reference: Result<Reference, _> = format!("registry.invalid/{repository}:{target}").parse();
        return match reference {
            Ok(_) => Ok(Route::Manifest(repository, Target::Tag(target.to_owned()))),
            Err(_) => Err(("MANIFEST_INVALID", format!("`{target}` is no tag"))),
        };
    }
    if let Some((repository, session)) = rest.rsplit_once("/blobs/uploads/") {
        let repository = name(repository)?;
        let plain = session.bytes().all(|b| b.is_ascii_hexdigit());
        return match session {
            "" => Ok(Route::Uploads(repository)),
            session if plain => Ok(Route::Session(repository, session.to_owned())),
            _ => Err(("BLOB_UPLOAD_UNKNOWN", "no such upload".to_owned())),
        };
    }
    if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
        return Ok(Route::Uploads(name(repository)?));
    }
    if let Some((repository, text)) = rest.rsplit_once("/blobs/") {
        return Ok(Route::Blob(name(repository)?, digest(text)?));
    }
    if let Some((repository, text)) = rest.rsplit_once("/referrers/") {
        return Ok(Route::Referrers(name(repository)?, digest(text)?));
    }
    Err(unknown())
}

impl Route {
    fn repository(&self) -> Option<&str> {
        match self {
            Self::Ping | Self::Catalog | Self::Token => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Session(name, _)
            | Self::Referrers(name, _) => Some(name),
        }
    }

    fn action(&self, method: &Method) -> Action {
        match (self, method) {
            (Self::Uploads(_) | Self::Session(..), _) => Action::Push,
            (_, &Method::GET | &Method::HEAD) => Action::Pull,
            (_, &Method::DELETE) => Action::Delete,
            _ => Action::Push,
        }
    }
}

impl Service {
    pub(super) fn new(store: Box<dyn Store>, auth: Auth, scheme: &'static str, shared: Arc<Shared>) -> Self {
        Self { store, uploads: Uploads::default(), access: Access::new(auth, scheme), shared }
    }

    pub(super) fn faults<T>(&self, look: impl FnOnce(&mut Faults) -> T) -> T {
        look(&mut self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn may(&self, headers: &hyper::HeaderMap, repository: &str, action: Action) -> bool {
        self.access.check(headers, Some(repository), action, self.fault_lock()).is_none()
    }

    fn fault_lock(&self) -> &Mutex<Faults> {
        &self.shared.faults
    }

    /// Answers one request; an error cuts the connection.
    pub(super) async fn answer(&self, request: hyper::Request<Incoming>) -> Result<Answer, io::Error> {
        let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let mut record = Request {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            status: 0,
            authorization: authorization.and_then(|a| a.split(' ').next()).unwrap_or_default().to_owned(),
        };
        let answer = self.route(request).await;
        record.status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        self.shared.record(record);
        let mut answer = answer?;
        answer.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        Ok(answer)
    }

    async fn route(&self, request: hyper::Request<Incoming>) -> Result<Answer, io::Error> {
        let (delay, status) = self.faults(|faults| (faults.delay, faults.take_status()));
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(status) = status {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Ok(set(failure(status, "TOOMANYREQUESTS", "on request"), RETRY_AFTER, "0"));
        }
        let route = match parse(request.uri().path()) {
            Ok(route) => route,
            Err((code, message)) => return Ok(failure(StatusCode::NOT_FOUND, code, &message)),
        };
        if route == Route::Token {
            return self.token(request).await;
        }
        let action = route.action(request.method());
        if let Some(refusal) =
            self.access.check(request.headers(), route.repository(), action, self.fault_lock())
        {
            return Ok(refusal);
        }
        let query = parse_form(request.uri().query().unwrap_or_default());
        let method = request.method().clone();
        match (route, method) {
            (Route::Ping, Method::GET | Method::HEAD) => Ok(empty(StatusCode::OK)),
            (Route::Catalog, Method::GET) => self.catalog(&query),
            (Route::Tags(name), Method::GET) => self.tags(&name, &query),
            (Route::Referrers(name, digest), Method::GET) => self.referrers(&name, &digest, &query),
            (Route::Manifest(name, target), Method::GET | Method::HEAD) => {
                self.get_manifest(&name, &target, request.method())
            }
            (Route::Manifest(name, target), Method::PUT) => self.put_manifest(&name, &target, request).await,
            (Route::Manifest(name, target), Method::DELETE) => self.delete_manifest(&name, &target),
            (Route::Blob(name, digest), Method::GET | Method::HEAD) => {
                self.get_blob(&name, &digest, &request)
            }
            (Route::Blob(name, digest), Method::DELETE) => self.delete_blob(&name, &digest),
            (Route::Uploads(name), Method::POST) => self.begin_upload(&name, &query, request).await,
            (Route::Session(name, id), method) => self.session(&name, &id, &method, &query, request).await,
            _ => {
                Ok(failure(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the method is not for this path"))
            }
        }
    }

    async fn token(&self, request: hyper::Request<Incoming>) -> Result<Answer, io::Error> {
        let (parts, body) = request.into_parts();
        let form = if parts.method == Method::POST {
            String::from_utf8(read(body, FORM_LIMIT).await?.unwrap_or_default()).unwrap_or_default()
        } else {
            parts.uri.query().unwrap_or_default().to_owned()
        };
        let life = self.faults(|faults| faults.token_life);
        Ok(self.access.token(&parts.method, &parts.headers, &form, life))
    }
}

/// Reads a body whole, or nothing when it is longer than `limit`.
pub(super) async fn read(mut body: Incoming, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut out = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(io::Error::other)?.into_data() {
            out.extend_from_slice(&data);
        }
        if out.len() > limit {
            return Ok(None);
        }
    }
    Ok(Some(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_and_tricks_refused() {
        let hex = "a".repeat(64);
        let digest: Digest = format!("sha256:{hex}").parse().unwrap();
        let check = |path: &str, expect: Route| assert_eq!(parse(path), Ok(expect), "{path}");
        let name = || "a/b".to_owned();
        check("/v2/", Route::Ping);
        check("/v2/a/b/tags/list", Route::Tags(name()));
        check("/v2/a/b/manifests/v1.2", Route::Manifest(name(), Target::Tag("v1.2".to_owned())));
        check(
            &format!("/v2/a/b/manifests/sha256:{hex}"),
            Route::Manifest(name(), Target::Digest(digest.clone())),
        );
        check(&format!("/v2/a/b/blobs/sha256:{hex}"), Route::Blob(name(), digest.clone()));
        check("/v2/a/b/blobs/uploads/", Route::Uploads(name()));
        check("/v2/a/b/blobs/uploads/0af", Route::Session(name(), "0af".to_owned()));
        check("/v2/manifests/tags/list", Route::Tags("manifests".to_owned()));
        for bad in [
            "/",
            "/v2/../manifests/x",
            "/v2/a/../b/manifests/x",
            "/v2/a/manifests/..",
            "/v2/A/manifests/x",
            "/v2/a/blobs/sha256:../../x",
            "/v2/a/blobs/uploads/../x",
            "/v2/_catalog/tags/list",
            "/v2/a/manifests/%2e%2e",
            "/v2//manifests/x",
            "/v2/a/_blobs/tags/list",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
