//! Answers: bodies from memory or from content, and errors in the form of the distribution specification.

use std::io::{self, Read as _};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use super::storage::Content;

const PIECE: usize = 128 * 1024;

/// The body of an answer.
pub(super) enum Reply {
    Bytes(Bytes),
    Content {
        content: Content,
        left: u64,
        /// Bytes after which the connection breaks.
        breaks: Option<u64>,
        /// Whether the next byte is to be wrong.
        corrupt: bool,
    },
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Content { left: 0, .. } => Poll::Ready(None),
            Self::Content { content, left, breaks, corrupt } => {
                let most = breaks.map_or(*left, |breaks| breaks.min(*left));
                if most == 0 {
                    return Poll::Ready(Some(Err(io::Error::other("cut on request"))));
                }
                let mut piece = vec![0; usize::try_from(most).unwrap_or(PIECE).min(PIECE)];
                // Content was written through the page cache moments ago; a thread for each read costs more.
                let n = match content.read(&mut piece) {
                    Ok(0) => return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
                    Ok(n) => n,
                    Err(error) => return Poll::Ready(Some(Err(error))),
                };
                piece.truncate(n);
                if std::mem::take(corrupt) {
                    piece[0] ^= 1;
                }
                *left -= n as u64;
                *breaks = breaks.map(|breaks| breaks - n as u64);
                Poll::Ready(Some(Ok(Frame::data(Bytes::from(piece)))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Content { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Content { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

pub(super) type Answer = Response<Reply>;

/// Returns an answer without body.
pub(super) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Reply::Bytes(Bytes::new()));
    *answer.status_mut() = status;
    answer
}

/// Returns an answer with a JSON body.
pub(super) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Reply::Bytes(Bytes::from(value.to_string())));
    *answer.status_mut() = status;
    set(answer, CONTENT_TYPE, "application/json")
}

/// Returns a failure with one error.
pub(super) fn failure(status: StatusCode, code: &str, message: &str) -> Answer {
    json(status, &serde_json::json!({ "errors": [{ "code": code, "message": message }] }))
}

/// Adds a header, unless the value cannot be one.
pub(super) fn set(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

pub(super) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
