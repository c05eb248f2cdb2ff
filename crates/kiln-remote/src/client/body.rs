//! Request bodies: nothing, bytes at hand, or a stream that a thread feeds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// The body of a request.
#[derive(Debug)]
pub(crate) enum Body {
    Bytes(Bytes),
    Stream(Stream),
}

/// A body that arrives piece by piece.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) pieces: Receiver<io::Result<Bytes>>,
    /// Bytes to come, where that is known; it becomes the `Content-Length`.
    pub(crate) left: Option<u64>,
    pub(crate) flow: Arc<Flow>,
}

/// How far a streamed body has got, and whose turn it is.
///
/// A slow producer (a build step that writes a layer) may take hours; a network that takes nothing for a
/// minute is down. Only the second may time out, so the two are told apart.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    sent: AtomicU64,
    starved: AtomicBool,
}

impl Flow {
    /// Returns the bytes handed to the connection.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Tells whether the connection waits for the producer.
    pub(crate) fn starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Stream(stream) => {
                stream.flow.starved.store(true, Ordering::Relaxed);
                let piece = ready!(stream.pieces.poll_recv(context));
                stream.flow.starved.store(false, Ordering::Relaxed);
                if let Some(Ok(bytes)) = &piece {
                    let n = bytes.len() as u64;
                    stream.flow.sent.fetch_add(n, Ordering::Relaxed);
                    stream.left = stream.left.map(|left| left.saturating_sub(n));
                }
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => stream.left.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
