//! Uploading one blob, complete or still being produced, through failures.
//!
//! ```text
//! known and complete ── HEAD: there already ─────────────────────────────► Existed
//! POST ─► session ─┬─ complete:  PUT ?digest=          whole, with length ► Sent
//!                  ├─ growing:   PATCH whole, without length ─► PUT ?digest= ► Sent
//!                  └─ refused:   PATCH pieces with ranges    ─► PUT ?digest= ► Sent
//! lost on the way: GET session ─► offset ─► the rest; session gone ─► POST, from the start
//! ```

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};

use kiln_oci::{Descriptor, Reference};

use super::auth::Scopes;
use super::body::{Body, Flow, Stream};
use super::call::{Address, Answer, Call, Trust, note_refusal, transient};
use super::feed::{self, Feed};
use super::pull::{Place, asked};
use super::transport::Lane;
use super::{Observer, Shared, location, retry};
use crate::error::{Asked, Error};

/// A registry may ask for larger pieces than the configured ones, up to here: a piece is held in memory.
const LARGEST_PIECE: u64 = 64 << 20;
/// After as many failures at one offset, a stream is given up for pieces: some proxies break long requests.
const STREAM_FAILURES: u32 = 2;

/// Content to upload, which may still be growing.
pub trait UploadSource: Send + Sync {
    /// Opens the content at `offset`. Reading blocks until more content is there, and ends with the content.
    ///
    /// # Errors
    /// When the content cannot be read. A reader's own errors end the upload as well.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>>;

    /// Returns the descriptor of the whole content, and blocks until it is known.
    ///
    /// # Errors
    /// When the content will never be complete.
    fn descriptor(&self) -> io::Result<Descriptor>;

    /// Returns the descriptor when the content is complete by now.
    fn complete(&self) -> Option<Descriptor>;
}

impl fmt::Debug for dyn UploadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UploadSource").field("complete", &self.complete()).finish()
    }
}

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded {
    /// Descriptor of the content.
    pub descriptor: Descriptor,
    /// Whether bytes had to travel.
    pub delivery: Delivery,
}

/// Whether bytes had to travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// The registry had the content.
    Existed,
    /// The content was sent.
    Sent,
}

pub(super) async fn upload(
    shared: &Shared,
    target: &Reference,
    source: &Arc<dyn UploadSource>,
    observer: Option<Observer>,
) -> Result<Uploaded, Error> {
    if let Some(descriptor) = source.complete()
        && shared.exists(target, &descriptor.digest).await?
    {
        if let Some(observer) = &observer {
            observer(descriptor.size);
        }
        return Ok(Uploaded { descriptor, delivery: Delivery::Existed });
    }
    let place = shared.origin(target)?;
    let name = source.complete().map_or(String::new(), |descriptor| descriptor.digest.to_string());
    let asked = Asked { host: place.host.name.clone(), ..asked("push blob to", target, &name) };
    let _slot = place.host.slot(Lane::Upload).await;
    let pieces = place.host.refuses_streams();
    let mut job = Job {
        shared,
        target,
        source,
        observer,
        scopes: Scopes::push(&place.repository),
        place,
        asked,
        session: None,
        offset: 0,
        piece: shared.config.chunk as u64,
        way: if pieces { Way::Pieces } else { Way::Stream },
        resumed: false,
    };
    let outcome = job.run().await;
    if outcome.is_err() {
        job.abandon().await;
    }
    outcome
}

/// How the content travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// As one body.
    Stream,
    /// As several, each with its length.
    Pieces,
}

/// Why a round did not finish the upload.
enum Stop {
    /// Nothing helps.
    For(Error),
    /// The next round may do better.
    Again(Error),
    /// The registry does not take bodies like this one.
    Refused(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        if transient(&error) { Self::Again(error) } else { Self::For(error) }
    }
}

struct Job<'a> {
    shared: &'a Shared,
    target: &'a Reference,
    source: &'a Arc<dyn UploadSource>,
    observer: Option<Observer>,
    place: Place,
    asked: Asked,
    scopes: Scopes,
    session: Option<Uri>,
    /// Bytes that the registry has for certain.
    offset: u64,
    piece: u64,
    way: Way,
    /// Whether the registry put the content together from several requests.
    resumed: bool,
}

impl Job<'_> {
    async fn run(&mut self) -> Result<Uploaded, Error> {
        let attempts = self.shared.config.retries.attempts.max(1);
        let mut failures = 0;
        let mut furthest = 0;
        loop {
            let error = match self.round().await {
                Ok(descriptor) => return Ok(Uploaded { descriptor, delivery: Delivery::Sent }),
                Err(Stop::For(error)) => return Err(error),
                Err(Stop::Refused(error)) if self.way == Way::Pieces => return Err(error),
                Err(Stop::Refused(_)) => {
                    self.place.host.remember_refused_stream();
                    self.way = Way::Pieces;
                    self.locate().await?;
                    continue;
                }
                Err(Stop::Again(error)) => error,
            };
            failures += 1;
            if failures >= attempts {
                return Err(error);
            }
            if failures >= STREAM_FAILURES {
                self.way = Way::Pieces;
            }
            self.shared.pause(error, failures, None).await;
            self.locate().await?;
            if let Some(descriptor) = self.arrived().await? {
                return Ok(Uploaded { descriptor, delivery: Delivery::Sent });
            }
            if self.offset > furthest {
                furthest = self.offset;
                failures = 0;
            }
        }
    }

    /// Sends what is missing, then closes the upload.
    async fn round(&mut self) -> Result<Descriptor, Stop> {
        let session = match self.session.clone() {
            Some(session) => session,
            None => self.begin().await?,
        };
        match (self.way, self.source.complete()) {
            (Way::Stream, Some(descriptor)) if self.offset == 0 => self.put_whole(&session, descriptor).await,
            (Way::Stream, Some(descriptor)) if self.offset == descriptor.size => self.close(descriptor).await,
            (Way::Stream, complete) => {
                let descriptor = self.patch_rest(&session, complete).await?;
                self.close(descriptor).await
            }
            (Way::Pieces, _) => {
                let descriptor = self.patch_pieces().await?;
                self.close(descriptor).await
            }
        }
    }

    async fn begin(&mut self) -> Result<Uri, Stop> {
        let mut call = self.place.call(&self.asked, Method::POST, "blobs/uploads/");
        call.scopes = self.scopes.clone();
        let answer =
            self.shared.ask(&self.place.host, &call, &[StatusCode::ACCEPTED]).await.map_err(Stop::For)?;
        let least = answer.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok());
        if let Some(least) = least.and_then(|text| text.parse::<u64>().ok()) {
            self.piece = self.piece.max(least.min(LARGEST_PIECE));
        }
        let session = location::session(&answer.url, answer.headers());
        let session =
            session.ok_or_else(|| Stop::For(call.protocol("the upload has no usable `Location`")))?;
        self.session = Some(session.clone());
        self.offset = 0;
        Ok(session)
    }

    /// Sends everything as one request of known length.
    async fn put_whole(&mut self, session: &Uri, descriptor: Descriptor) -> Result<Descriptor, Stop> {
        let url = self.with_digest(session, &descriptor)?;
        let (answer, _) = self.stream(Method::PUT, &url, Some(descriptor.size), None).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(descriptor),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Sends everything from the offset on as one request, of unknown length while the content grows.
    async fn patch_rest(&mut self, session: &Uri, complete: Option<Descriptor>) -> Result<Descriptor, Stop> {
        let rest = complete.as_ref().map(|descriptor| descriptor.size.saturating_sub(self.offset));
        let range = complete.as_ref().and_then(|d| range(self.offset, d.size));
        let (answer, sent) = self.stream(Method::PATCH, session, rest, range).await?;
        let accepted =
            matches!(answer.status(), StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::OK);
        // A body of known length is over before its source says so.
        let (Some(descriptor), true) = (complete.or(sent), accepted) else {
            return Err(self.refusal(answer).await);
        };
        let received = location::received(answer.headers());
        self.go_on(&answer);
        if received.is_some_and(|received| received > 0 && received != descriptor.size) {
            let reason = "the registry did not take all that was sent".to_owned();
            return Err(Stop::Again(Error::Protocol { asked: self.asked.clone().into(), reason }));
        }
        self.offset = descriptor.size;
        Ok(descriptor)
    }

    /// Sends everything from the offset on in requests of a known length, one piece in memory at a time.
    async fn patch_pieces(&mut self) -> Result<Descriptor, Stop> {
        let mut feed = self.feed()?;
        let limit = usize::try_from(self.piece.max(1)).unwrap_or(usize::MAX);
        let mut piece: Vec<u8> = Vec::new();
        loop {
            let next = feed.pieces.recv().await;
            if let Some(Err(_)) = &next {
                return Err(self.source_failure(&mut feed));
            }
            let ended = next.is_none();
            piece.extend_from_slice(&next.transpose().ok().flatten().unwrap_or_default());
            while piece.len() >= limit || (ended && !piece.is_empty()) {
                let rest = piece.split_off(piece.len().min(limit));
                self.patch_piece(Bytes::from(std::mem::replace(&mut piece, rest))).await?;
            }
            if ended {
                return match feed.end.try_recv() {
                    Ok(Ok(descriptor)) => Ok(descriptor),
                    Ok(Err(error)) => Err(Stop::For(self.source_error(error))),
                    Err(_) => Err(Stop::For(self.source_error(io::Error::other("the source vanished")))),
                };
            }
        }
    }

    async fn patch_piece(&mut self, piece: Bytes) -> Result<(), Stop> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        let end = self.offset + piece.len() as u64;
        let mut call = self.session_call(Method::PATCH, session);
        call.headers.extend(range(self.offset, end).map(|range| (CONTENT_RANGE, range)));
        call.headers.insert(CONTENT_TYPE, OCTETS);
        call.body = piece;
        // A piece that failed may have arrived: the offset is asked for before it is sent again.
        call.attempts = 1;
        let answer = self.shared.send(&self.place.host, &call).await?;
        match answer.status() {
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT | StatusCode::OK => {
                self.go_on(&answer);
                self.offset = end;
                Ok(())
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Ends the upload: the registry checks the digest.
    async fn close(&mut self, descriptor: Descriptor) -> Result<Descriptor, Stop> {
        let Some(session) = self.session.clone() else { return Ok(descriptor) };
        let url = self.with_digest(&session, &descriptor)?;
        let mut call = self.session_call(Method::PUT, url);
        call.attempts = 1;
        let answer = self.shared.send(&self.place.host, &call).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(descriptor),
            _ => {
                let error = self.shared.failure(&self.asked, answer).await;
                // Some registries lose bytes of a request that broke; the whole content gets one more chance.
                if has_fault(&error, "DIGEST_INVALID") && self.resumed {
                    self.resumed = false;
                    self.session = None;
                    return Err(Stop::Again(error));
                }
                Err(Stop::from(error))
            }
        }
    }

    /// Asks the registry how much it has; a session that is gone means nothing.
    async fn locate(&mut self) -> Result<(), Error> {
        let Some(session) = self.session.clone() else { return Ok(()) };
        let call = self.session_call(Method::GET, session);
        let answer = self.shared.send(&self.place.host, &call).await?;
        let found = matches!(answer.status(), StatusCode::NO_CONTENT | StatusCode::ACCEPTED | StatusCode::OK);
        match location::received(answer.headers()).filter(|received| found && *received > 0) {
            Some(received) => {
                self.go_on(&answer);
                self.offset = received;
                self.resumed = true;
            }
            None => {
                self.offset = 0;
                self.session = None;
            }
        }
        Ok(())
    }

    /// Tells whether the content arrived although its answer was lost.
    async fn arrived(&self) -> Result<Option<Descriptor>, Error> {
        let Some(descriptor) = self.source.complete().filter(|_| self.session.is_none()) else {
            return Ok(None);
        };
        let there = self.shared.exists(self.target, &descriptor.digest).await?;
        Ok(there.then_some(descriptor))
    }

    /// Ends the session, so that the registry need not keep what will not be finished.
    async fn abandon(&mut self) {
        if let Some(session) = self.session.take() {
            let mut call = self.session_call(Method::DELETE, session);
            call.attempts = 1;
            // Registries drop stale sessions by themselves; the failure that led here is the one to report.
            drop(self.shared.send(&self.place.host, &call).await);
        }
    }

    fn go_on(&mut self, answer: &Answer) {
        if let Some(next) = location::session(&answer.url, answer.headers()) {
            self.session = Some(next);
        }
    }

    fn with_digest(&self, session: &Uri, descriptor: &Descriptor) -> Result<Uri, Stop> {
        let reason = || "the upload's `Location` takes no digest".to_owned();
        location::with_query(session, &super::auth::form(&[("digest", descriptor.digest.as_str())]))
            .ok_or_else(|| Stop::For(Error::Protocol { asked: self.asked.clone().into(), reason: reason() }))
    }

    fn session_call(&self, method: Method, session: Uri) -> Call {
        let mut call = self.place.call(&self.asked, method, "");
        call.scopes = self.scopes.clone();
        call.trust = self.trust(&session);
        call.address = Address::Url(session);
        call
    }

    /// A session elsewhere, at a storage service, carries its own signature.
    fn trust(&self, session: &Uri) -> Trust {
        let scheme = session.scheme_str().unwrap_or_default();
        let registry = format!("{scheme}://{}", self.place.host.name).parse::<Uri>();
        match registry {
            Ok(registry) if location::same_server(session, &registry) => Trust::Host,
            _ => Trust::Nobody,
        }
    }

    fn feed(&self) -> Result<Feed, Stop> {
        feed::start(Arc::clone(self.source), self.offset, self.observer.clone())
            .map_err(|error| Stop::For(self.source_error(error)))
    }

    fn source_error(&self, source: io::Error) -> Error {
        Error::Source { asked: self.asked.clone().into(), source: Arc::new(source) }
    }

    fn source_failure(&self, feed: &mut Feed) -> Stop {
        let error = match feed.end.try_recv() {
            Ok(Err(error)) => error,
            _ => io::Error::other("the source vanished"),
        };
        Stop::For(self.source_error(error))
    }

    /// Sends the content from the offset on as one body. Returns the answer, and the descriptor when the
    /// source was read to its end.
    async fn stream(
        &mut self,
        method: Method,
        url: &Uri,
        length: Option<u64>,
        range: Option<HeaderValue>,
    ) -> Result<(Answer, Option<Descriptor>), Stop> {
        let (shared, asked) = (self.shared, self.asked.clone());
        let proof = match self.trust(url) {
            Trust::Host => {
                Some(shared.proof(&self.place.host, &asked, &self.scopes, &Scopes::default()).await?)
            }
            Trust::Nobody => None,
        };
        let server = shared.server_of(url, &asked)?;
        let feed = self.feed()?;
        let flow = Arc::new(Flow::default());
        let body = Stream { pieces: feed.pieces, left: length, flow: Arc::clone(&flow) };
        let mut end = feed.end;
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, OCTETS);
        headers.extend(range.map(|range| (CONTENT_RANGE, range)));
        let header = proof.as_ref().and_then(|proof| proof.header.clone());
        headers.extend(header.map(|header| (AUTHORIZATION, header)));
        let mut request = Request::new(Body::Stream(body));
        *request.method_mut() = method;
        *request.uri_mut() = url.clone();
        *request.headers_mut() = headers;
        let outcome = server.exchange(request, Some(&flow)).await;
        let descriptor = match end.try_recv() {
            Ok(Err(error)) => return Err(Stop::For(self.source_error(error))),
            Ok(Ok(descriptor)) => Some(descriptor),
            Err(_) => None,
        };
        let response = outcome.map_err(|failure| Stop::from(failure.error(&asked, &server.name)))?;
        let login = proof.as_ref().map_or(crate::error::Login::Anonymous, |proof| proof.login);
        let answer = Answer { response, url: url.clone(), login, slot: None };
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(proof) = &proof
            && note_refusal(&self.place.host, &self.scopes, proof, answer.headers()).is_some()
        {
            // A token that ended on the way; the next round gets a new one.
            return Err(Stop::Again(shared.failure(&asked, answer).await));
        }
        Ok((answer, descriptor))
    }

    /// Decides what an answer other than success means for the next round.
    async fn refusal(&mut self, answer: Answer) -> Stop {
        let status = answer.status();
        let error = self.shared.failure(&self.asked, answer).await;
        let about_content = has_fault(&error, "DIGEST_INVALID") || has_fault(&error, "SIZE_INVALID");
        match status.as_u16() {
            400 | 405 | 411 | 413 | 415 | 501 | 505 if !about_content => Stop::Refused(error),
            // The session is gone, or the registry is at another offset than this side thinks.
            404 | 409 | 416 => Stop::Again(error),
            _ if retry::may_pass(status, &Method::PATCH) => Stop::Again(error),
            _ => Stop::For(error),
        }
    }
}

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Returns `start-last`, as the distribution specification writes ranges of uploads.
fn range(start: u64, end: u64) -> Option<HeaderValue> {
    if end <= start {
        return None;
    }
    HeaderValue::from_str(&format!("{start}-{}", end - 1)).ok()
}

fn has_fault(error: &Error, code: &str) -> bool {
    matches!(error, Error::Status { faults, .. } if faults.iter().any(|fault| fault.code == code))
}
