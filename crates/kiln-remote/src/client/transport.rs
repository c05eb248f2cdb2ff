//! Connections: one host, its scheme, its limits, and the exchange of one request for one answer.
//!
//! Nothing here knows registries, retries or authentication; a failure leaves as a [`Failure`], to which the
//! caller adds what was asked.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, USER_AGENT};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use tower_service::Service;

use super::auth::HostAuth;
use super::body::{Body, Flow};
use super::{ClientConfig, Timeouts, tls};
use crate::error::{Asked, Cause, Error, TlsFault};
use crate::hosts::{HostsConfig, ProxyConfig, Transport};

/// An idle connection is dropped after this, before most servers and balancers do.
const POOL_IDLE: Duration = Duration::from_secs(30);

/// A mirror that could not be reached is not asked again for as long: an image has many blobs.
const REST: Duration = Duration::from_secs(60);

/// Why there was no answer.
#[derive(Debug, Clone)]
pub(crate) enum Failure {
    Network(Cause),
    Tls(TlsFault, Cause),
    Timeout(&'static str, Duration),
}

impl Failure {
    pub(crate) fn error(self, asked: &Asked, host: &str) -> Error {
        let (asked, host) = (Box::new(asked.clone()), host.to_owned());
        match self {
            Self::Network(source) => Error::Network { asked, host, source },
            Self::Tls(fault, source) => Error::Tls { asked, host, fault, source },
            Self::Timeout(awaited, limit) => Error::Timeout { asked, host, awaited, limit },
        }
    }
}

/// What a request occupies while it runs. Pulls and pushes have slots of their own, because a copy holds one
/// of each and would otherwise wait for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lane {
    Request,
    Download,
    Upload,
}

/// A host that was spoken to, or is about to be.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) auth: HostAuth,
    pub(crate) transport: Transport,
    pool: Pool<Connector, Body>,
    scheme: OnceCell<&'static str>,
    user_agent: HeaderValue,
    timeouts: Timeouts,
    lanes: [Arc<Semaphore>; 3],
    refuses_streams: AtomicBool,
    resting: Mutex<Option<Instant>>,
}

impl Host {
    pub(crate) fn new(name: &str, config: &ClientConfig, roots: &tls::LazyRoots) -> Result<Self, Error> {
        let tls = tls::client_config(name, config.hosts.get(name), roots)?;
        let connector = Connector::new(name, tls, &config.proxy, config.timeouts.connect)?;
        let pool = Pool::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        let user_agent = HeaderValue::from_str(&config.user_agent).map_err(|_| Error::Config {
            host: name.to_owned(),
            reason: "the user agent is no header value".to_owned(),
        })?;
        let lane = || Arc::new(Semaphore::new(config.concurrency.max(1)));
        Ok(Self {
            name: name.to_owned(),
            auth: HostAuth::default(),
            transport: config.hosts.transport(name),
            pool,
            scheme: OnceCell::new(),
            user_agent,
            timeouts: config.timeouts,
            lanes: [lane(), lane(), lane()],
            refuses_streams: AtomicBool::new(false),
            resting: Mutex::default(),
        })
    }

    /// Tells whether the host is known to refuse bodies without a length.
    pub(crate) fn refuses_streams(&self) -> bool {
        self.refuses_streams.load(Ordering::Relaxed)
    }

    pub(crate) fn remember_refused_stream(&self) {
        self.refuses_streams.store(true, Ordering::Relaxed);
    }

    /// Tells whether the host could not be reached a moment ago.
    pub(crate) fn rests(&self) -> bool {
        let resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        resting.is_some_and(|end| end > Instant::now())
    }

    /// Leaves the host alone for a while.
    pub(crate) fn rest(&self) {
        *self.resting.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + REST);
    }

    /// Waits for a slot among the requests that run on this host.
    pub(crate) async fn slot(&self, lane: Lane) -> Option<OwnedSemaphorePermit> {
        let semaphore = match lane {
            Lane::Request => &self.lanes[0],
            Lane::Download => &self.lanes[1],
            Lane::Upload => &self.lanes[2],
        };
        // It is never closed, so this always yields one.
        Arc::clone(semaphore).acquire_owned().await.ok()
    }

    /// Returns `https` or `http`, after finding out where both are allowed.
    pub(crate) async fn scheme(&self) -> Result<&'static str, Failure> {
        match self.transport {
            Transport::Https => Ok("https"),
            Transport::Http => Ok("http"),
            Transport::HttpsOrHttp => self.scheme.get_or_try_init(|| self.probe()).await.copied(),
        }
    }

    async fn probe(&self) -> Result<&'static str, Failure> {
        let secure = match self.ping("https").await {
            // Any answer at all, or one whose certificate is at fault, is an answer by TLS.
            Ok(()) | Err(Failure::Tls(TlsFault::Certificate, _)) => return Ok("https"),
            Err(failure) => failure,
        };
        // The reason that the secure way failed is the better one to report.
        self.ping("http").await.map(|()| "http").map_err(|_| secure)
    }

    async fn ping(&self, scheme: &str) -> Result<(), Failure> {
        let request = Request::get(format!("{scheme}://{}/v2/", self.name)).body(Body::Bytes(Bytes::new()));
        let request = request.map_err(|e| Failure::Network(Arc::new(e)))?;
        self.exchange(request, None).await.map(drop)
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn exchange(
        &self,
        mut request: Request<Body>,
        flow: Option<&Flow>,
    ) -> Result<Response<Incoming>, Failure> {
        request.headers_mut().insert(USER_AGENT, self.user_agent.clone());
        let answer = self.pool.request(request);
        tokio::pin!(answer);
        let limit = self.timeouts.answer;
        let mut seen = None;
        loop {
            match tokio::time::timeout(limit, &mut answer).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) => {
                    let fault = tls::fault(&error);
                    let cause: Cause = Arc::new(error);
                    return Err(
                        fault.map_or(Failure::Network(Arc::clone(&cause)), |f| Failure::Tls(f, cause))
                    );
                }
                Err(_) => match flow {
                    // The body still moves, or waits for its producer.
                    Some(flow) if flow.starved() || seen != Some(flow.sent()) => seen = Some(flow.sent()),
                    Some(_) => return Err(Failure::Timeout("accept data", limit)),
                    None => return Err(Failure::Timeout("answer", limit)),
                },
            }
        }
    }
}

type Connected = MaybeHttpsStream<TokioIo<TcpStream>>;
type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// Opens connections, through a proxy where one is set, with one time limit for all of it.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    direct: HttpsConnector<HttpConnector>,
    http_proxy: Option<HttpsConnector<Tunnel<HttpConnector>>>,
    https_proxy: Option<HttpsConnector<Tunnel<HttpConnector>>>,
    limit: Duration,
}

impl Connector {
    fn new(
        host: &str,
        tls: rustls::ClientConfig,
        proxy: &ProxyConfig,
        limit: Duration,
    ) -> Result<Self, Error> {
        let tls = Arc::new(tls);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        let tunnel = |scheme: &str| {
            let url = proxy.proxy_for(scheme, host);
            let tunnel = url.map(|url| tunnel(url, host, tcp.clone())).transpose()?;
            Ok(tunnel.map(|tunnel| HttpsConnector::from((tunnel, Arc::clone(&tls)))))
        };
        let (http_proxy, https_proxy) = (tunnel("http")?, tunnel("https")?);
        let direct = HttpsConnector::from((tcp, Arc::clone(&tls)));
        Ok(Self { direct, http_proxy, https_proxy, limit })
    }
}

/// Reads `http://[user:password@]host[:port]`, the scheme optional as in curl.
fn tunnel(url: &str, host: &str, tcp: HttpConnector) -> Result<Tunnel<HttpConnector>, Error> {
    let fail = |reason: String| Error::Config { host: host.to_owned(), reason };
    let rest = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    if rest.contains("://") {
        return Err(fail(format!("proxy `{}` is not an HTTP proxy", crate::redact_url(url))));
    }
    let (login, address) = match rest.rsplit_once('@') {
        Some((login, address)) => (Some(login), address),
        None => (None, rest),
    };
    let uri: Uri = format!("http://{address}")
        .parse()
        .map_err(|_| fail(format!("proxy `{}` is not a URL", crate::redact_url(url))))?;
    let tunnel = Tunnel::new(uri, tcp);
    Ok(match login {
        Some(login) => {
            let (user, password) = login.split_once(':').unwrap_or((login, ""));
            tunnel.with_auth(super::auth::basic(&percent_decode(user), &percent_decode(password)))
        }
        None => tunnel,
    })
}

/// Decodes `%20` and its like (RFC 3986, section 2.1); what is no code stays as it is.
#[must_use]
pub fn percent_decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Service<Uri> for Connector {
    type Response = Connected;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        // Each way opens connections without waiting for anything.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = self.limit;
        let proxy =
            if uri.scheme_str() == Some("https") { &mut self.https_proxy } else { &mut self.http_proxy };
        let connecting = match proxy {
            Some(proxy) => proxy.call(with_port(uri)),
            None => self.direct.call(uri),
        };
        Box::pin(async move {
            tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| {
                let text = format!("no connection within {} s", limit.as_secs());
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text).into())
            })
        })
    }
}

/// Names the port of a plain HTTP server, for a tunnel leads to 443 where none is named.
fn with_port(uri: Uri) -> Uri {
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http") && uri.port().is_none());
    let named = host.and_then(|host| format!("http://{host}:80/").parse().ok());
    named.unwrap_or(uri)
}

/// Tells whether a URL of this scheme may be called at all: plain HTTP only where the user or the loopback
/// interface allows it. What may not be called cannot leak credentials.
pub(crate) fn may_call(hosts: &HostsConfig, scheme: &str, host: &str) -> bool {
    scheme == "https" || (scheme == "http" && hosts.transport(host) != Transport::Https)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_marked_hosts_and_this_machine() {
        let mut hosts = HostsConfig::default();
        hosts.host_mut("marked.example").insecure = true;
        hosts.host_mut("unverified.example").skip_tls_verify = true;
        let check = |scheme: &str, host: &str, expect: bool| {
            assert_eq!(may_call(&hosts, scheme, host), expect, "{scheme}://{host}");
        };
        check("https", "registry.example", true);
        check("http", "registry.example", false);
        check("http", "marked.example", true);
        check("http", "unverified.example", false);
        check("http", "127.0.0.1:5000", true);
        check("http", "[::1]:5000", true);
        check("http", "localhost:5000", true);
        check("http", "localhost.example", false);
        check("ftp", "marked.example", false);
    }

    #[test]
    fn proxy_passwords_are_decoded() {
        assert_eq!(percent_decode("a%40b%3"), "a@b%3");
    }
}
