//! Bytes through hash and compression into a sink, block by block, on as many threads as asked.
//!
//! ```text
//!            +-> hashing thread: diff id
//! caller ----+-> compressing threads ----> caller: order, digest, sink
//! ```
//!
//! The sink stays with the caller, so it need not be sendable. No more blocks exist than `workers + 2`, which
//! bounds memory whatever the size of the layer; a caller that runs ahead waits for the oldest block. With one
//! worker, and for layers of a single block, no thread is started.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use flate2::Crc;

use super::block::Block;
use super::codec::{self, Codec, Packed};
use super::{Compression, Error};
use crate::{Digest, Hasher};

/// Accepts the uncompressed stream.
pub(super) struct Packer<W> {
    sink: Sink<W>,
    compression: Compression,
    workers: usize,
    block: Arc<Block>,
    block_size: usize,
    history: usize,
    crc: Crc,
    total: u64,
    engine: Engine,
}

/// What [`Packer::finish`] returns.
pub(super) struct Outcome<W> {
    pub(super) diff_id: Digest,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) total: u64,
    pub(super) sink: W,
}

struct Sink<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

enum Engine {
    /// Everything on the caller's thread.
    Here {
        hasher: Hasher,
        codec: Option<Codec>,
        out: Vec<u8>,
    },
    Threads(Pool),
}

struct Job {
    number: u64,
    block: Arc<Block>,
    out: Vec<u8>,
}

enum Done {
    Packed(u64, io::Result<Packed>),
    /// The hashing thread released a block.
    Hashed,
    /// A thread panicked: what it was working on will not come.
    Lost,
}

struct Pool {
    jobs: Option<Sender<Job>>,
    hashes: Option<Sender<Arc<Block>>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
    hasher: Option<JoinHandle<Hasher>>,
    blocks: Vec<Arc<Block>>,
    spare: Vec<Vec<u8>>,
    limit: usize,
    early: BTreeMap<u64, Packed>,
    submitted: u64,
    written: u64,
}

impl<W: Write> Packer<W> {
    pub(super) fn new(sink: W, compression: Compression, workers: usize) -> Result<Self, Error> {
        let (block_size, history) = codec::block_size(compression);
        let mut sink = Sink { inner: sink, hasher: Hasher::new(), size: 0 };
        sink.put(codec::prologue(compression))?;
        let codec = Codec::new(compression).map_err(Error::Write)?;
        // Bytes that are kept as they are have one hash, and nothing is left to share between threads.
        let workers = if codec.is_none() { 1 } else { workers.max(1) };
        Ok(Self {
            sink,
            compression,
            workers,
            block: Arc::new(Block::new(history, block_size)),
            block_size,
            history,
            crc: Crc::new(),
            total: 0,
            engine: Engine::Here { hasher: Hasher::new(), codec, out: Vec::new() },
        })
    }

    pub(super) fn compression(&self) -> Compression {
        self.compression
    }

    /// Adds `bytes`.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            for (to, from) in room.chunks_mut(count).zip([now]) {
                to.copy_from_slice(from);
            }
            self.advance(count);
            bytes = later;
        }
        Ok(())
    }

    /// Adds up to `limit` bytes from `source` without another copy; returns how many came, zero at its end.
    pub(super) fn fill(&mut self, source: &mut dyn Read, limit: u64) -> Result<io::Result<usize>, Error> {
        let room = self.room()?;
        let count = usize::try_from(limit).unwrap_or(usize::MAX).min(room.len());
        let target = room.get_mut(..count).unwrap_or_default();
        let count = loop {
            match source.read(target) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(Err(e)),
                // A source that claims more than there was room for would shift everything behind it.
                Ok(n) if n > count => {
                    return Ok(Err(io::Error::other("source returned an impossible count")));
                }
                Ok(n) => break n,
            }
        };
        self.advance(count);
        Ok(Ok(count))
    }

    /// Writes what is left and returns the hashes and the sink.
    pub(super) fn finish(mut self) -> Result<Outcome<W>, Error> {
        if self.block.data().is_empty() {
            if let Engine::Threads(pool) = &mut self.engine {
                pool.drain(&mut self.sink, &mut self.crc)?;
            }
        } else {
            self.flush_block(Last::Yes)?;
        }
        let diff_id = match self.engine {
            Engine::Here { hasher, .. } => hasher,
            Engine::Threads(pool) => pool.close()?,
        };
        self.sink.put(&codec::epilogue(self.compression, &self.crc, self.total))?;
        self.sink.inner.flush().map_err(Error::Write)?;
        let Sink { inner, hasher, size } = self.sink;
        let diff_id = diff_id.finish();
        let digest = if self.compression == Compression::None { diff_id.clone() } else { hasher.finish() };
        Ok(Outcome { diff_id, digest, size, total: self.total, sink: inner })
    }

    fn room(&mut self) -> Result<&mut [u8], Error> {
        if self.block.data().len() == self.block_size {
            self.flush_block(Last::No)?;
        }
        let size = self.block_size;
        Ok(Arc::get_mut(&mut self.block).ok_or_else(lost)?.room(size))
    }

    fn advance(&mut self, count: usize) {
        self.total += count as u64;
        if let Some(block) = Arc::get_mut(&mut self.block) {
            block.advance(count);
        }
    }

    /// Hands the current block on and makes an empty one current.
    fn flush_block(&mut self, last: Last) -> Result<(), Error> {
        if self.workers > 1 && last == Last::No {
            self.start_threads()?;
        }
        match &mut self.engine {
            Engine::Here { hasher, codec, out } => {
                hasher.update(self.block.data());
                match codec {
                    None => self.sink.put_unhashed(self.block.data())?,
                    Some(codec) => {
                        let packed =
                            codec.compress(&self.block, std::mem::take(out)).map_err(Error::Write)?;
                        self.crc.combine(&packed.crc);
                        self.sink.put(&packed.bytes)?;
                        *out = packed.bytes;
                    }
                }
                Arc::get_mut(&mut self.block).ok_or_else(lost)?.rewind(self.history);
                Ok(())
            }
            Engine::Threads(pool) => {
                let full = Arc::clone(&self.block);
                pool.submit(Arc::clone(&full))?;
                if last == Last::Yes {
                    return pool.drain(&mut self.sink, &mut self.crc);
                }
                let new = || Block::new(self.history, self.block_size);
                self.block = pool.free_block(&mut self.sink, &mut self.crc, new)?;
                Arc::get_mut(&mut self.block).ok_or_else(lost)?.restart(&full, self.history);
                Ok(())
            }
        }
    }

    fn start_threads(&mut self) -> Result<(), Error> {
        if matches!(self.engine, Engine::Threads(_)) {
            return Ok(());
        }
        let pool = Pool::start(self.compression, self.workers).map_err(Error::Write)?;
        self.engine = Engine::Threads(pool);
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

impl<W: Write> Sink<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        self.put_unhashed(bytes)
    }

    fn put_unhashed(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        self.inner.write_all(bytes).map_err(Error::Write)
    }
}

impl Pool {
    fn start(compression: Compression, workers: usize) -> io::Result<Self> {
        let (jobs, queue) = channel::<Job>();
        let (hashes, to_hash) = channel::<Arc<Block>>();
        let (report, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::with_capacity(workers);
        for _ in 0..workers {
            // A level that the library refuses was reported when the writer was made.
            let Some(codec) = Codec::new(compression)? else { continue };
            let (queue, report) = (Arc::clone(&queue), report.clone());
            let work = move || compress(codec, &queue, &report);
            threads.push(Builder::new().name("layer-compress".to_owned()).spawn(work)?);
        }
        let hash = move || {
            let _alarm = Alarm(report.clone());
            let mut hasher = Hasher::new();
            for block in to_hash {
                hasher.update(block.data());
                drop(block);
                // The caller may have stopped on an error: then nobody waits for this.
                if report.send(Done::Hashed).is_err() {
                    break;
                }
            }
            hasher
        };
        let hasher = Builder::new().name("layer-hash".to_owned()).spawn(hash)?;
        Ok(Self {
            jobs: Some(jobs),
            hashes: Some(hashes),
            done,
            threads,
            hasher: Some(hasher),
            blocks: Vec::new(),
            spare: Vec::new(),
            limit: workers + 2,
            early: BTreeMap::new(),
            submitted: 0,
            written: 0,
        })
    }

    fn submit(&mut self, block: Arc<Block>) -> Result<(), Error> {
        let job = Job {
            number: self.submitted,
            block: Arc::clone(&block),
            out: self.spare.pop().unwrap_or_default(),
        };
        self.submitted += 1;
        let (Some(jobs), Some(hashes)) = (&self.jobs, &self.hashes) else { return Err(lost()) };
        hashes.send(Arc::clone(&block)).map_err(|_| lost())?;
        jobs.send(job).map_err(|_| lost())?;
        self.blocks.push(block);
        Ok(())
    }

    /// Returns a block that no thread uses, waiting for one when the limit is reached.
    fn free_block<W: Write>(
        &mut self,
        sink: &mut Sink<W>,
        crc: &mut Crc,
        new: impl Fn() -> Block,
    ) -> Result<Arc<Block>, Error> {
        while let Ok(done) = self.done.try_recv() {
            self.take(done, sink, crc)?;
        }
        loop {
            if let Some(i) = self.blocks.iter_mut().position(|b| Arc::get_mut(b).is_some()) {
                return Ok(self.blocks.swap_remove(i));
            }
            if self.blocks.len() + 1 < self.limit {
                return Ok(Arc::new(new()));
            }
            let done = self.done.recv().map_err(|_| lost())?;
            self.take(done, sink, crc)?;
        }
    }

    /// Writes every block that was submitted.
    fn drain<W: Write>(&mut self, sink: &mut Sink<W>, crc: &mut Crc) -> Result<(), Error> {
        while self.written < self.submitted {
            let done = self.done.recv().map_err(|_| lost())?;
            self.take(done, sink, crc)?;
        }
        Ok(())
    }

    fn take<W: Write>(&mut self, done: Done, sink: &mut Sink<W>, crc: &mut Crc) -> Result<(), Error> {
        let (number, packed) = match done {
            Done::Packed(number, packed) => (number, packed),
            Done::Hashed => return Ok(()),
            Done::Lost => return Err(lost()),
        };
        self.early.insert(number, packed.map_err(Error::Write)?);
        while let Some(packed) = self.early.remove(&self.written) {
            crc.combine(&packed.crc);
            sink.put(&packed.bytes)?;
            self.spare.push(packed.bytes);
            self.written += 1;
        }
        Ok(())
    }

    fn close(mut self) -> Result<Hasher, Error> {
        self.stop();
        self.hasher.take().and_then(|h| h.join().ok()).ok_or_else(lost)
    }

    fn stop(&mut self) {
        self.jobs = None;
        self.hashes = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has been noticed by its missing block.
            thread.join().unwrap_or_default();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Reports a thread that ends by a panic, so that nobody waits for it.
struct Alarm(Sender<Done>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Nobody has to listen any more.
            self.0.send(Done::Lost).unwrap_or_default();
        }
    }
}

fn compress(mut codec: Codec, queue: &Mutex<Receiver<Job>>, report: &Sender<Done>) {
    let _alarm = Alarm(report.clone());
    loop {
        let Ok(job) = queue.lock().map_err(|_| ()).and_then(|q| q.recv().map_err(|_| ())) else { return };
        let packed = codec.compress(&job.block, job.out);
        drop(job.block);
        if report.send(Done::Packed(job.number, packed)).is_err() {
            return;
        }
    }
}

fn lost() -> Error {
    Error::Write(io::Error::other("a thread of the layer writer ended early"))
}
