//! Any web server, not a registry: one request, redirects followed, tried again where that may help.
//!
//! Connections, proxies, certificates, limits and patience are those of registries. Credentials are not: a web server
//! sees the ones that its own URL or the caller gives, and no server that it redirects to sees any. Plain HTTP is
//! spoken where the user wrote `http://`; nothing that began with TLS goes on without it.

mod reader;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::sync::OwnedSemaphorePermit;

use super::body::Body;
use super::call::transient;
use super::transport::{Host, Lane, may_call};
use super::{Client, Observer, Shared, auth, location, percent_decode, retry};
use crate::error::{Asked, Error};
use crate::{Secret, redact_url};
pub use reader::WebReader;

/// As many redirects as browsers and other builders follow.
const REDIRECTS: usize = 10;

/// What is asked of a web server.
#[derive(Debug, Clone)]
pub struct WebRequest {
    /// What it is for, such as `fetch`, for messages.
    pub operation: &'static str,
    /// How it is asked.
    pub method: WebMethod,
    /// The URL; a fragment is dropped, and user and password in it become credentials.
    pub url: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Value of `Authorization`, before what the URL says.
    pub authorization: Option<Secret>,
}

/// How a web server is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebMethod {
    /// Content.
    Get,
    /// Headers only.
    Head,
    /// An answer to this body; redirects are not followed.
    Post(Vec<u8>),
}

/// The answer of a web server, whatever its status; the body is still to come.
pub struct WebAnswer {
    /// HTTP status.
    pub status: u16,
    /// The URL that answered, after redirects, without credentials.
    pub url: String,
    headers: HeaderMap,
    body: Incoming,
    slot: Option<OwnedSemaphorePermit>,
    asked: Asked,
    request: Prepared,
    shared: Arc<Shared>,
}

impl fmt::Debug for WebAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebAnswer")
            .field("status", &self.status)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Asks a web server; an answer with any status is an answer.
    ///
    /// # Errors
    /// When the URL is none, or the server cannot be reached or keeps failing.
    pub fn web(&self, request: &WebRequest) -> Result<WebAnswer, Error> {
        let prepared = Prepared::new(request)?;
        self.shared.block(self.shared.web(prepared, &self.shared))
    }
}

impl WebAnswer {
    /// Returns a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns when the content was changed last, in seconds since 1970, if the server says so.
    #[must_use]
    pub fn last_modified(&self) -> Option<i64> {
        retry::http_date(self.header("last-modified")?).and_then(|time| i64::try_from(time).ok())
    }

    /// Returns every header that is text.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// Returns the answer if its status is among `expected`.
    ///
    /// # Errors
    /// When it is another.
    pub fn expect(self, expected: &[u16]) -> Result<Self, Error> {
        if expected.contains(&self.status) {
            return Ok(self);
        }
        Err(Error::Web { asked: self.asked.into(), status: self.status })
    }

    /// Returns the body as it arrives. Where a connection is lost and the server says by which strong `ETag` it knows the
    /// content, the reader goes on by itself.
    #[must_use]
    pub fn reader(self, observer: Option<Observer>) -> WebReader {
        WebReader::new(self, observer)
    }
}

/// A request that can be sent any number of times.
#[derive(Debug, Clone)]
struct Prepared {
    asked: Asked,
    method: Method,
    url: Uri,
    headers: HeaderMap,
    authorization: Option<HeaderValue>,
    body: Bytes,
}

impl Prepared {
    fn new(request: &WebRequest) -> Result<Self, Error> {
        let (url, login) = parse(&request.url).ok_or_else(|| Error::Config {
            host: redact_url(&request.url),
            reason: "it is not a URL of a web server".to_owned(),
        })?;
        let host = url.authority().map(ToString::to_string).unwrap_or_default();
        let path = url.path().trim_start_matches('/').to_owned();
        let asked = Asked {
            operation: request.operation,
            registry: host.clone(),
            host: host.clone(),
            repository: path,
            target: String::new(),
        };
        let invalid =
            |what: &str| Error::Config { host: host.clone(), reason: format!("{what} is no header") };
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let parsed =
                HeaderName::try_from(name.as_str()).ok().zip(HeaderValue::try_from(value.as_str()).ok());
            let (name, value) = parsed.ok_or_else(|| invalid(name))?;
            headers.insert(name, value);
        }
        let given = request.authorization.as_ref().map(|secret| HeaderValue::from_str(secret.reveal()));
        let authorization = match given.transpose().map_err(|_| invalid("the value for `Authorization`"))? {
            Some(mut value) => {
                value.set_sensitive(true);
                Some(value)
            }
            None => login.map(|(user, password)| auth::basic(&user, &password)),
        };
        let (method, body) = match &request.method {
            WebMethod::Get => (Method::GET, Bytes::new()),
            WebMethod::Head => (Method::HEAD, Bytes::new()),
            WebMethod::Post(body) => (Method::POST, Bytes::from(body.clone())),
        };
        Ok(Self { asked, method, url, headers, authorization, body })
    }
}

/// Takes a URL apart: without fragment and login, with everything encoded that has to be.
fn parse(text: &str) -> Option<(Uri, Option<(String, String)>)> {
    let text = text.split('#').next().unwrap_or_default();
    let (scheme, rest) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    if scheme != "http" && scheme != "https" {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login.split_once(':').unwrap_or((login, ""))), host),
        None => (None, authority),
    };
    let mut url = format!("{scheme}://{host}{}", if tail.starts_with('/') { "" } else { "/" });
    for byte in tail.bytes() {
        match byte {
            b' ' | b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}' | 0..=0x1f | 0x7f.. => {
                url.push_str(&format_byte(byte));
            }
            byte => url.push(char::from(byte)),
        }
    }
    let url: Uri = url.parse().ok()?;
    url.host().filter(|host| !host.is_empty())?;
    Some((url, login.map(|(user, password)| (percent_decode(user), percent_decode(password)))))
}

fn format_byte(byte: u8) -> String {
    format!("%{byte:02X}")
}

impl Shared {
    async fn web(&self, request: Prepared, shared: &Arc<Self>) -> Result<WebAnswer, Error> {
        let host = self.host(authority(&request.url))?;
        let lane = if request.method == Method::GET { Lane::Download } else { Lane::Request };
        let slot = host.slot(lane).await;
        let attempts = self.config.retries.attempts.max(1);
        let mut failures = 0;
        loop {
            let outcome = self.once(&host, &request).await;
            failures += 1;
            let last = failures >= attempts;
            let (error, wait) = match outcome {
                Ok((status, ..)) if !last && retry_status(status, &request.method) => {
                    (Error::Web { asked: request.asked.clone().into(), status }, None)
                }
                Ok((status, url, response)) => {
                    let (parts, body) = response.into_parts();
                    return Ok(WebAnswer {
                        status,
                        url: url.to_string(),
                        headers: parts.headers,
                        body,
                        slot,
                        asked: Asked { host: authority(&url).to_owned(), ..request.asked.clone() },
                        request,
                        shared: Arc::clone(shared),
                    });
                }
                Err(error) if !last && transient(&error) => (error, None),
                Err(error) => return Err(error),
            };
            self.pause(error, failures, wait).await;
        }
    }

    /// Sends the request once and follows redirects; only the first server sees the credentials.
    async fn once(
        &self,
        host: &Arc<Host>,
        prepared: &Prepared,
    ) -> Result<(u16, Uri, hyper::Response<Incoming>), Error> {
        let mut url = prepared.url.clone();
        let mut server = Arc::clone(host);
        for _ in 0..=REDIRECTS {
            let mut request = Request::new(Body::Bytes(prepared.body.clone()));
            *request.method_mut() = prepared.method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = prepared.headers.clone();
            let same = location::same_server(&url, &prepared.url);
            if let Some(value) = prepared.authorization.as_ref().filter(|_| same) {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = server
                .exchange(request, None)
                .await
                .map_err(|failure| failure.error(&prepared.asked, &server.name))?;
            let status = response.status();
            let moves =
                matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) && prepared.method != Method::POST;
            if !moves {
                return Ok((status.as_u16(), url, response));
            }
            let next = location::of(&url, response.headers());
            let next =
                next.ok_or_else(|| prepared.protocol("a redirect has no usable `Location`".to_owned()))?;
            if url.scheme_str() == Some("https")
                && !may_call(&self.config.hosts, scheme(&next), authority(&next))
            {
                let shown = redact_url(&next.to_string());
                return Err(prepared.protocol(format!("sent to `{shown}`, which is not HTTPS")));
            }
            let (clean, _) = parse(&next.to_string())
                .ok_or_else(|| prepared.protocol("a redirect leads to no web server".to_owned()))?;
            server = self.host(authority(&clean))?;
            url = clean;
        }
        Err(prepared.protocol("too many redirects".to_owned()))
    }
}

impl Prepared {
    fn protocol(&self, reason: String) -> Error {
        Error::Protocol { asked: self.asked.clone().into(), reason }
    }
}

fn scheme(url: &Uri) -> &str {
    url.scheme_str().unwrap_or_default()
}

fn authority(url: &Uri) -> &str {
    url.authority().map(hyper::http::uri::Authority::as_str).unwrap_or_default()
}

fn retry_status(status: u16, method: &Method) -> bool {
    hyper::StatusCode::from_u16(status).is_ok_and(|status| retry::may_pass(status, method))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let check = |text: &str, expect: &str, login: Option<(&str, &str)>| {
            let (url, found) = parse(text).unwrap();
            assert_eq!(url.to_string(), expect);
            assert_eq!(found, login.map(|(u, p)| (u.to_owned(), p.to_owned())));
        };
        check("https://h/a b?x=ü#f", "https://h/a%20b?x=%C3%BC", None);
        check("HTTP://u:p%40@h:81", "http://h:81/", Some(("u", "p@")));
        check("https://token@h?x", "https://h/?x", Some(("token", "")));
        assert!(parse("ftp://h/").is_none());
        assert!(parse("https:///x").is_none());
        assert!(parse("h/x").is_none());
    }
}
