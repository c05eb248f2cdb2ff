//! The requests that carry a blob's content: whole, streamed, or in pieces; and the one that ends them.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};

use kiln_oci::Descriptor;

use super::feed::{self, Feed};
use super::{Job, Stop, has_fault};
use crate::client::auth::Scopes;
use crate::client::body::{Body, Flow, Stream};
use crate::client::call::{Answer, Trust, note_refusal};
use crate::client::location;
use crate::error::{Error, Login};

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

impl Job<'_> {
    /// Sends everything as one request of known length.
    pub(super) async fn put_whole(
        &mut self,
        session: &Uri,
        descriptor: Descriptor,
    ) -> Result<Descriptor, Stop> {
        let url = self.with_digest(session, &descriptor)?;
        let (answer, _) = self.stream(Method::PUT, &url, Some(descriptor.size), None).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(descriptor),
            _ => Err(self.refusal(answer).await),
        }
    }

    /// Sends everything from the offset on as one request, of unknown length while the content grows.
    pub(super) async fn patch_rest(
        &mut self,
        session: &Uri,
        complete: Option<Descriptor>,
    ) -> Result<Descriptor, Stop> {
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
    pub(super) async fn patch_pieces(&mut self) -> Result<Descriptor, Stop> {
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
    pub(super) async fn close(&mut self, descriptor: Descriptor) -> Result<Descriptor, Stop> {
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
        let login = proof.as_ref().map_or(Login::Anonymous, |proof| proof.login);
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
}

/// Returns `start-last`, as the distribution specification writes ranges of uploads.
fn range(start: u64, end: u64) -> Option<HeaderValue> {
    if end <= start {
        return None;
    }
    HeaderValue::from_str(&format!("{start}-{}", end - 1)).ok()
}
