//! Compressed bytes into chunks of the uncompressed stream, hashed on the way.
//!
//! Runs either on the consumer's thread or as a line of two threads before it:
//!
//! ```text
//! source -> decompress -> [4 chunks] -> hash -> [4 chunks] -> consumer
//!               ^------------- emptied chunks --------------------'
//! ```

use std::io::{self, BufReader, Chain, Cursor, Read};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Builder;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::header::BLOCK;
use super::raw::Raw;
use super::{Error, Form};
use crate::{Digest, Hasher};

/// Size of a chunk: large enough that handing it over costs nothing, small enough to stay in the cache.
const CHUNK: usize = 256 * 1024;
/// What a chunk begins with: most layers of a build with hundreds of steps need no more.
const FIRST: usize = 8 * 1024;
/// Chunks that wait between two threads.
const QUEUE: usize = 4;
/// Expansion that is never suspicious, because a short stream has no meaningful ratio.
const FREE_EXPANSION: u64 = 64 << 20;
/// Memory for the dictionary of an xz stream, in KiB: `xz -9` takes 64 MiB, and a stream may ask for 4 GiB.
const XZ_MEMORY: u32 = 256 << 10;

/// Gives the uncompressed stream chunk by chunk; an empty chunk is the end.
pub(super) enum Chunks<R: Read> {
    Here(Box<Here<R>>),
    Threads(Threads),
}

pub(super) struct Here<R: Read> {
    decoder: Decoder<R>,
    hasher: Hasher,
}

pub(super) struct Threads {
    chunks: Receiver<Message>,
    emptied: Sender<Vec<u8>>,
    digest: Option<Digest>,
}

enum Message {
    Chunk(Vec<u8>),
    Failed(Error),
    /// Everything was read; without this a closed channel means that a thread died.
    End(Option<Digest>),
}

impl<R: Read> Chunks<R> {
    pub(super) fn here(source: R, form: Form, max_ratio: Option<u64>) -> Result<Self, Error> {
        let decoder = Decoder::new(source, form, max_ratio)?;
        Ok(Self::Here(Box::new(Here { decoder, hasher: Hasher::new() })))
    }

    /// Returns the next chunk; `used` is an emptied one to fill again.
    pub(super) fn next(&mut self, used: Vec<u8>) -> Result<Vec<u8>, Error> {
        match self {
            Self::Here(here) => {
                let chunk = here.decoder.chunk(used)?;
                here.hasher.update(&chunk);
                Ok(chunk)
            }
            Self::Threads(threads) => threads.next(used),
        }
    }

    /// Returns the digest of everything, once the end was reached.
    pub(super) fn digest(self) -> Result<Digest, Error> {
        match self {
            Self::Here(here) => Ok(here.hasher.finish()),
            Self::Threads(threads) => threads.digest.ok_or_else(lost),
        }
    }
}

impl<R: Read + Send + 'static> Chunks<R> {
    pub(super) fn threads(source: R, form: Form, max_ratio: Option<u64>) -> Result<Self, Error> {
        let (to_hash, plain) = sync_channel(QUEUE);
        let (to_consumer, chunks) = sync_channel(QUEUE);
        let (emptied, used) = channel();
        let decode = move || decode(source, form, max_ratio, &used, &to_hash);
        Builder::new().name("layer-decode".to_owned()).spawn(decode).map_err(Error::Read)?;
        let hash = move || hash(&plain, &to_consumer);
        Builder::new().name("layer-hash".to_owned()).spawn(hash).map_err(Error::Read)?;
        Ok(Self::Threads(Threads { chunks, emptied, digest: None }))
    }
}

impl Threads {
    fn next(&mut self, used: Vec<u8>) -> Result<Vec<u8>, Error> {
        if self.digest.is_some() {
            return Ok(Vec::new());
        }
        if used.capacity() >= CHUNK {
            // The decoding thread is gone at the end of the stream, and then needs no more chunks.
            self.emptied.send(used).unwrap_or_default();
        }
        match self.chunks.recv() {
            Ok(Message::Chunk(chunk)) => Ok(chunk),
            Ok(Message::Failed(error)) => Err(error),
            Ok(Message::End(digest)) => {
                self.digest = digest;
                Ok(Vec::new())
            }
            Err(_) => Err(lost()),
        }
    }
}

fn decode<R: Read>(
    source: R,
    form: Form,
    max_ratio: Option<u64>,
    used: &Receiver<Vec<u8>>,
    to_hash: &SyncSender<Message>,
) {
    let run = || {
        let mut decoder = Decoder::new(source, form, max_ratio)?;
        loop {
            let chunk = decoder.chunk(used.try_recv().unwrap_or_default())?;
            let end = chunk.is_empty();
            let message = if end { Message::End(None) } else { Message::Chunk(chunk) };
            // A closed channel means that the consumer stopped early.
            if to_hash.send(message).is_err() || end {
                return Ok(());
            }
        }
    };
    if let Err(error) = run() {
        to_hash.send(Message::Failed(error)).unwrap_or_default();
    }
}

fn hash(plain: &Receiver<Message>, to_consumer: &SyncSender<Message>) {
    let mut hasher = Hasher::new();
    while let Ok(message) = plain.recv() {
        let message = match message {
            Message::Chunk(chunk) => {
                hasher.update(&chunk);
                Message::Chunk(chunk)
            }
            Message::End(_) => Message::End(Some(std::mem::take(&mut hasher).finish())),
            failed @ Message::Failed(_) => failed,
        };
        if to_consumer.send(message).is_err() {
            return;
        }
    }
}

fn lost() -> Error {
    Error::Read(io::Error::other("a thread of the layer reader ended early"))
}

/// Counts what is read from the source.
struct Counting<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.count += count as u64;
        Ok(count)
    }
}

/// The source behind the bytes that were read to recognise it.
type Source<R> = Chain<Cursor<Vec<u8>>, BufReader<Counting<R>>>;

struct Decoder<R: Read> {
    codec: Codec<R>,
    produced: u64,
    max_ratio: Option<u64>,
}

enum Codec<R: Read> {
    Plain(Source<R>),
    Gzip(Box<MultiGzDecoder<Source<R>>>),
    Zstd(Box<zstd::Decoder<'static, Source<R>>>),
    Bzip2(Box<MultiBzDecoder<Source<R>>>),
    Xz(Box<XzReader<Source<R>>>),
}

/// Gives the uncompressed bytes of a layer to `take`, without hashing them; at most `limit` are accepted.
pub(super) fn decompress(
    source: impl Read,
    max_ratio: Option<u64>,
    limit: u64,
    mut take: impl FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut decoder = Decoder::new(source, Form::Layer, max_ratio)?;
    let mut chunk = Vec::new();
    loop {
        chunk = decoder.chunk(chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        if decoder.produced > limit {
            return Err(Error::Limit { what: "bytes", limit });
        }
        take(&chunk)?;
    }
}

impl<R: Read> Decoder<R> {
    fn new(source: R, form: Form, max_ratio: Option<u64>) -> Result<Self, Error> {
        let mut source = BufReader::with_capacity(CHUNK / 2, Counting { inner: source, count: 0 });
        let mut magic = Vec::with_capacity(6);
        source.by_ref().take(6).read_to_end(&mut magic).map_err(Error::Read)?;
        let kind = magic.clone();
        let source = Cursor::new(magic).chain(source);
        let codec = match kind.as_slice() {
            [0x1f, 0x8b, ..] => Codec::Gzip(Box::new(MultiGzDecoder::new(source))),
            // A frame, or a frame to skip that some builders put first.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Codec::Zstd(Box::new(zstd::Decoder::with_buffer(source).map_err(Error::Read)?))
            }
            [0xfd, b'7', b'z', b'X', b'Z', 0] => match form {
                Form::Layer => return Err(foreign("xz")),
                Form::Archive => Codec::Xz(Box::new(XzReader::new_mem_limit(source, true, XZ_MEMORY))),
            },
            // The last two bytes begin a block, or the end of a stream without any.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41] | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72] => {
                match form {
                    Form::Layer => return Err(foreign("bzip2")),
                    Form::Archive => Codec::Bzip2(Box::new(MultiBzDecoder::new(source))),
                }
            }
            _ => Codec::Plain(source),
        };
        Ok(Self { codec, produced: 0, max_ratio })
    }

    /// Returns the next chunk, full except at the end of the stream.
    fn chunk(&mut self, mut chunk: Vec<u8>) -> Result<Vec<u8>, Error> {
        chunk.resize(chunk.capacity().clamp(FIRST, CHUNK), 0);
        let mut filled = 0;
        loop {
            if filled == chunk.len() && filled < CHUNK {
                chunk.resize((4 * filled).min(CHUNK), 0);
            }
            let Some(room) = chunk.get_mut(filled..).filter(|r| !r.is_empty()) else { break };
            match self.read(room) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Read(e)),
            }
        }
        chunk.truncate(filled);
        self.produced += filled as u64;
        self.check_ratio()?;
        Ok(chunk)
    }

    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match &mut self.codec {
            Codec::Plain(source) => source.read(room),
            Codec::Gzip(decoder) => decoder.read(room),
            Codec::Zstd(decoder) => decoder.read(room),
            Codec::Bzip2(decoder) => decoder.read(room),
            Codec::Xz(decoder) => decoder.read(room),
        }
    }

    fn check_ratio(&self) -> Result<(), Error> {
        let Some(limit) = self.max_ratio else { return Ok(()) };
        let source = match &self.codec {
            Codec::Plain(_) => return Ok(()),
            Codec::Gzip(decoder) => decoder.get_ref(),
            Codec::Zstd(decoder) => decoder.get_ref(),
            Codec::Bzip2(decoder) => decoder.get_ref(),
            Codec::Xz(decoder) => decoder.inner(),
        };
        let consumed = source.get_ref().1.get_ref().count;
        if self.produced > FREE_EXPANSION.max(consumed.saturating_mul(limit)) {
            return Err(Error::Limit { what: "times the size of its compressed form", limit });
        }
        Ok(())
    }
}

/// Tells whether `source` is a tar archive, plain or compressed, with at least one entry.
///
/// A name ending in `.gz` and a compressed file that holds no archive are none, and neither is a stream that is damaged
/// before its first header ends.
pub fn is_archive(source: impl Read) -> bool {
    let Ok(mut decoder) = Decoder::new(source, Form::Archive, None) else { return false };
    let mut block = [0; BLOCK];
    let mut filled = 0;
    while let Some(room) = block.get_mut(filled..).filter(|r| !r.is_empty()) {
        match decoder.read(room) {
            Ok(0) => return false,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
    }
    block != [0; BLOCK] && Raw::new(&block).is_ok()
}

fn foreign(name: &str) -> Error {
    let reason =
        format!("it is compressed with {name}, and layers are compressed with gzip, zstd or not at all");
    Error::Malformed { offset: 0, reason }
}
