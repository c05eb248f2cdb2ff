//! Downloading one blob: a reader that verifies, and goes on where a connection broke.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, RANGE};
use hyper::{Method, StatusCode, Uri};
use tokio::sync::OwnedSemaphorePermit;

use kiln_oci::{Descriptor, Reference, Verifier};

use super::auth::Scopes;
use super::call::{Address, Answer, Call, ReadFailure, Trust};
use super::pull::asked;
use super::transport::{Host, Lane};
use super::{Observer, Shared, location};
use crate::error::{Asked, Error, ErrorKind};

/// A blob as it arrives.
///
/// The end of the stream is reported only for content that had the size and digest of the descriptor; until
/// then nothing that was read is to be trusted. Failures are [`Error`]s inside [`io::Error`]s, see
/// [`Error::of`].
pub struct BlobReader {
    inner: Verifier<Stream>,
    asked: Box<Asked>,
}

impl BlobReader {
    pub(super) fn new(shared: Arc<Shared>, download: Download, observer: Option<Observer>) -> Self {
        let (digest, size) = (download.descriptor.digest.clone(), download.descriptor.size);
        let asked = Box::new(download.call.asked.clone());
        Self { inner: Verifier::new(Stream { shared, download, observer }, digest, size), asked }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            if Error::of(&error).is_some() {
                return error;
            }
            let asked = self.asked.clone();
            Error::Content { asked, source: Arc::new(error) }.into_io()
        })
    }
}

impl fmt::Debug for BlobReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobReader").field("asked", &self.asked).finish_non_exhaustive()
    }
}

struct Stream {
    shared: Arc<Shared>,
    download: Download,
    observer: Option<Observer>,
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.download.pending.is_empty() {
            let next = self.shared.block(self.download.advance(&self.shared));
            self.download.pending = next.map_err(Error::into_io)?;
        }
        let n = buffer.len().min(self.download.pending.len());
        self.download.pending.copy_to_slice(&mut buffer[..n]);
        if let Some(observer) = self.observer.as_ref().filter(|_| n > 0) {
            observer(self.download.offset - self.download.pending.len() as u64);
        }
        Ok(n)
    }
}

/// A transfer that has begun, with what it takes to begin it again.
pub(super) struct Download {
    descriptor: Descriptor,
    call: Call,
    host: Arc<Host>,
    body: Option<Incoming>,
    slot: Option<OwnedSemaphorePermit>,
    /// Bytes that came and were not read yet.
    pending: Bytes,
    /// Bytes that came.
    offset: u64,
    /// Bytes to pass over, when a server sends everything although the end was asked for.
    skip: u64,
    failures: u32,
    idle: Duration,
}

/// Asks for the blob wherever it may be.
pub(super) async fn open(
    shared: &Shared,
    reference: &Reference,
    descriptor: &Descriptor,
) -> Result<Download, Error> {
    let asked = asked("fetch blob", reference, descriptor.digest.as_str());
    let found = shared
        .anywhere(reference, async |place| {
            let mut call = place.call(&asked, Method::GET, &format!("blobs/{}", descriptor.digest));
            call.lane = Lane::Download;
            Download::start(shared, &place.host, call, descriptor).await
        })
        .await;
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound && !descriptor.urls.is_empty() => {
            foreign(shared, &asked, descriptor).await.unwrap_or(Err(error))
        }
        found => found,
    }
}

/// Asks for a layer that its descriptor says to be elsewhere. No challenge is answered there: the place was
/// named by the image's author, so it gets nobody's credentials.
async fn foreign(shared: &Shared, asked: &Asked, descriptor: &Descriptor) -> Option<Result<Download, Error>> {
    let mut last = None;
    for url in descriptor.urls.iter().filter_map(|url| url.parse::<Uri>().ok()) {
        let outcome = match shared.server_of(&url, asked) {
            Ok(host) => {
                let call = Call {
                    asked: Asked { host: host.name.clone(), ..asked.clone() },
                    method: Method::GET,
                    address: Address::Url(url),
                    headers: hyper::HeaderMap::new(),
                    body: Bytes::new(),
                    scopes: Scopes::default(),
                    lane: Lane::Download,
                    attempts: shared.config.retries.attempts.max(1),
                    trust: Trust::Nobody,
                };
                Download::start(shared, &host, call, descriptor).await
            }
            Err(error) => Err(error),
        };
        if outcome.is_ok() {
            return Some(outcome);
        }
        last = Some(outcome);
    }
    last
}

impl Download {
    async fn start(
        shared: &Shared,
        host: &Arc<Host>,
        call: Call,
        descriptor: &Descriptor,
    ) -> Result<Self, Error> {
        let answer = shared.ask(host, &call, &[StatusCode::OK]).await?;
        Ok(Self {
            descriptor: descriptor.clone(),
            call,
            host: Arc::clone(host),
            slot: answer.slot,
            body: Some(answer.response.into_body()),
            pending: Bytes::new(),
            offset: 0,
            skip: 0,
            failures: 0,
            idle: shared.config.timeouts.idle,
        })
    }

    /// Returns the next bytes, none at the end; begins again where the transfer broke.
    async fn advance(&mut self, shared: &Shared) -> Result<Bytes, Error> {
        loop {
            if self.body.is_none() {
                self.resume(shared).await?;
            }
            match self.receive().await {
                Ok(Some(bytes)) => {
                    let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                    self.skip -= passed as u64;
                    let bytes = bytes.slice(passed..);
                    if bytes.is_empty() {
                        continue;
                    }
                    self.offset += bytes.len() as u64;
                    self.failures = 0;
                    return Ok(bytes);
                }
                Ok(None) => {
                    self.slot = None;
                    return Ok(Bytes::new());
                }
                Err(failure) => {
                    let error = failure.error(&self.call.asked);
                    self.body = None;
                    self.slot = None;
                    self.failures += 1;
                    if self.failures >= self.call.attempts {
                        return Err(error);
                    }
                    shared.pause(error, self.failures, None).await;
                }
            }
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, ReadFailure> {
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            let frame = tokio::time::timeout(self.idle, body.frame()).await;
            let Some(frame) = frame.map_err(|_| ReadFailure::Idle(self.idle))? else { return Ok(None) };
            let frame = frame.map_err(|e| ReadFailure::Broken(Arc::new(e)))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }

    /// Asks for the bytes that are missing.
    async fn resume(&mut self, shared: &Shared) -> Result<(), Error> {
        let mut call = self.call.clone();
        let range = format!("bytes={}-", self.offset);
        if let Ok(range) = HeaderValue::from_str(&range) {
            call.headers.insert(RANGE, range);
        }
        let answer = shared.send(&self.host, &call).await?;
        self.skip = match answer.status() {
            StatusCode::OK => self.offset,
            StatusCode::PARTIAL_CONTENT if location::content_start(answer.headers()) == Some(self.offset) => {
                0
            }
            StatusCode::PARTIAL_CONTENT => {
                return Err(call.protocol("the registry sent another range than the one asked for"));
            }
            // Nothing is missing but the end, which the connection broke before.
            StatusCode::RANGE_NOT_SATISFIABLE if self.offset == self.descriptor.size => self.offset,
            _ => return Err(shared.failure(&call.asked, answer).await),
        };
        let ended = answer.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        let Answer { response, slot, .. } = answer;
        self.slot = slot;
        self.body = (!ended).then(|| response.into_body());
        Ok(())
    }
}
