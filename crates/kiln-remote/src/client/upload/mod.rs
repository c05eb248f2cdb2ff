//! Uploading one blob, complete or still being produced, through failures.
//!
//! ```text
//! known and complete ── HEAD: there already ─────────────────────────────► Existed
//! POST ─► session ─┬─ complete:  PUT ?digest=          whole, with length ► Sent
//!                  ├─ growing:   PATCH whole, without length ─► PUT ?digest= ► Sent
//!                  └─ refused:   PATCH pieces with ranges    ─► PUT ?digest= ► Sent
//! lost on the way: GET session ─► offset ─► the rest; session gone ─► POST, from the start
//! ```

mod feed;
mod send;

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};

use kiln_oci::{Descriptor, Reference};

use super::auth::Scopes;
use super::call::{Address, Answer, Call, Trust, transient};
use super::pull::{Place, asked};
use super::transport::Lane;
use super::{Observer, Shared, location, retry};
use crate::error::{Asked, Error};

/// A registry may ask for larger pieces than the configured ones, up to here: a piece is held in memory.
const LARGEST_PIECE: u64 = 64 << 20;
/// After as many failures at one offset, a stream is given up for pieces: some proxies break long requests.
const STREAM_FAILURES: u32 = 2;

/// The end of a session is a courtesy: a registry that is gone must not hold up the report of it.
const GOODBYE: Duration = Duration::from_secs(5);

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
            drop(tokio::time::timeout(GOODBYE, self.shared.send(&self.place.host, &call)).await);
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

fn has_fault(error: &Error, code: &str) -> bool {
    matches!(error, Error::Status { faults, .. } if faults.iter().any(|fault| fault.code == code))
}
