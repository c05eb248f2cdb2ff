//! The body of a web server's answer, which goes on where a connection was lost if the server can do that.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::Method;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, RANGE};
use tokio::sync::OwnedSemaphorePermit;

use super::{Prepared, WebAnswer};
use crate::client::call::ReadFailure;
use crate::client::{Observer, Shared, location};
use crate::error::{Asked, Error};

/// The body of an answer as it arrives; failures are [`Error`]s inside [`io::Error`]s, see [`Error::of`].
pub struct WebReader {
    /// By what the server knows this content, if it can go on in the middle.
    validator: Option<String>,
    body: Option<Incoming>,
    slot: Option<OwnedSemaphorePermit>,
    asked: Asked,
    request: Prepared,
    shared: Arc<Shared>,
    pending: Bytes,
    offset: u64,
    failures: u32,
    observer: Option<Observer>,
}

impl fmt::Debug for WebReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebReader").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Read for WebReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.pending.is_empty() {
            let shared = Arc::clone(&self.shared);
            self.pending = shared.block(self.advance(&shared)).map_err(Error::into_io)?;
            self.offset += self.pending.len() as u64;
        }
        let n = buffer.len().min(self.pending.len());
        self.pending.copy_to_slice(&mut buffer[..n]);
        if let Some(observer) = self.observer.as_ref().filter(|_| n > 0) {
            observer(self.offset - self.pending.len() as u64);
        }
        Ok(n)
    }
}

impl WebReader {
    pub(super) fn new(answer: WebAnswer, observer: Option<Observer>) -> Self {
        let validator = answer.header("etag").filter(|tag| tag.starts_with('"')).map(str::to_owned);
        let accepts = answer.status == 200 && answer.request.method == Method::GET;
        Self {
            validator: validator.filter(|_| accepts),
            body: Some(answer.body),
            slot: answer.slot,
            asked: answer.asked,
            request: answer.request,
            shared: answer.shared,
            pending: Bytes::new(),
            offset: 0,
            failures: 0,
            observer,
        }
    }

    /// Returns the next bytes, none at the end.
    async fn advance(&mut self, shared: &Arc<Shared>) -> Result<Bytes, Error> {
        loop {
            match receive(self.body.as_mut(), shared.config.timeouts.idle).await {
                Ok(Some(bytes)) if bytes.is_empty() => {}
                Ok(Some(bytes)) => {
                    self.failures = 0;
                    return Ok(bytes);
                }
                Ok(None) => {
                    self.body = None;
                    self.slot = None;
                    return Ok(Bytes::new());
                }
                Err(failure) => {
                    let error = failure.error(&self.asked);
                    self.body = None;
                    self.slot = None;
                    self.failures += 1;
                    if self.validator.is_none() || self.failures >= shared.config.retries.attempts {
                        return Err(error);
                    }
                    shared.pause(error, self.failures, None).await;
                    self.resume(shared).await?;
                }
            }
        }
    }

    /// Asks for the bytes that are missing, of the very content that was begun.
    async fn resume(&mut self, shared: &Arc<Shared>) -> Result<(), Error> {
        let mut request = self.request.clone();
        request.headers.remove(hyper::header::IF_NONE_MATCH);
        request.headers.remove(hyper::header::IF_MODIFIED_SINCE);
        let range = HeaderValue::try_from(format!("bytes={}-", self.offset));
        let tag = self.validator.as_deref().map(HeaderValue::try_from);
        if let (Ok(range), Some(Ok(tag))) = (range, tag) {
            request.headers.insert(RANGE, range);
            request.headers.insert(hyper::header::IF_RANGE, tag);
        }
        let answer = shared.web(request, shared).await?;
        let fits = location::content_start(&answer.headers) == Some(self.offset);
        if answer.status != 206 || !fits {
            let reason = "the connection was lost, and the server does not go on where it stopped";
            return Err(self.request.protocol(reason.to_owned()));
        }
        self.body = Some(answer.body);
        self.slot = answer.slot;
        Ok(())
    }
}

async fn receive(body: Option<&mut Incoming>, idle: Duration) -> Result<Option<Bytes>, ReadFailure> {
    let Some(body) = body else { return Ok(None) };
    loop {
        let frame = tokio::time::timeout(idle, body.frame()).await;
        let Some(frame) = frame.map_err(|_| ReadFailure::Idle(idle))? else { return Ok(None) };
        let frame = frame.map_err(|e| ReadFailure::Broken(Arc::new(e)))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
}
