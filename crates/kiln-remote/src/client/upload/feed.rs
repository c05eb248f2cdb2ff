//! The thread that reads what is uploaded, so that a slow producer never holds up the connections.

use std::io::{self, Read as _};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use kiln_oci::Descriptor;

use super::UploadSource;
use crate::client::Observer;

/// Bytes read at once. With the pieces in the channel this bounds the memory of an upload.
const PIECE: usize = 128 * 1024;
/// Pieces that wait for the connection.
const WAITING: usize = 4;

/// The content from one offset on, read in a thread of its own.
#[derive(Debug)]
pub(crate) struct Feed {
    pub(crate) pieces: mpsc::Receiver<io::Result<Bytes>>,
    /// How the source ended. It is sent before the last piece can be received.
    pub(crate) end: oneshot::Receiver<io::Result<Descriptor>>,
}

/// Starts to read `source` at `offset`.
///
/// The thread ends when the source does or when the [`Feed`] is dropped, then at the source's next byte: a
/// producer that says nothing can be abandoned, not interrupted.
pub(crate) fn start(
    source: Arc<dyn UploadSource>,
    offset: u64,
    observer: Option<Observer>,
) -> io::Result<Feed> {
    let (pieces_in, pieces) = mpsc::channel(WAITING);
    let (end_in, end) = oneshot::channel();
    std::thread::Builder::new().name("kiln-upload".to_owned()).spawn(move || {
        let outcome = read(source.as_ref(), offset, observer.as_ref(), &pieces_in);
        let Some(outcome) = outcome else { return };
        let broken = outcome.is_err();
        // Nobody listens any more when the connection failed first.
        drop(end_in.send(outcome));
        if broken {
            // Breaks the request off, so that the registry does not take half a blob for a whole one.
            drop(pieces_in.blocking_send(Err(io::Error::other("the content to upload ended early"))));
        }
    })?;
    Ok(Feed { pieces, end })
}

/// Returns how the source ended, or `None` when nobody wants the rest.
fn read(
    source: &dyn UploadSource,
    offset: u64,
    observer: Option<&Observer>,
    pieces: &mpsc::Sender<io::Result<Bytes>>,
) -> Option<io::Result<Descriptor>> {
    let mut reader = match source.open(offset) {
        Ok(reader) => reader,
        Err(error) => return Some(Err(error)),
    };
    let mut position = offset;
    loop {
        let mut piece = vec![0; PIECE];
        let n = match reader.read(&mut piece) {
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Some(Err(error)),
        };
        if n == 0 {
            return Some(whole(source.descriptor(), position));
        }
        piece.truncate(n);
        pieces.blocking_send(Ok(Bytes::from(piece))).ok()?;
        position += n as u64;
        if let Some(observer) = observer {
            observer(position);
        }
    }
}

fn whole(descriptor: io::Result<Descriptor>, read: u64) -> io::Result<Descriptor> {
    let descriptor = descriptor?;
    if descriptor.size == read {
        return Ok(descriptor);
    }
    let text = format!("source of {} gave {read} bytes, it says {}", descriptor.digest, descriptor.size);
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}
