//! A blob that is read while it is still being written: packing, unpacking and uploading overlap through it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use kiln_oci::Descriptor;

use crate::error::{FileContext as _, Result};
use crate::store::Store;

/// A blob on its way into the store.
///
/// Readers see the bytes as they are written and wait for more until the writer finishes. A reader never sees
/// the end of a blob whose writer failed: it gets the failure.
#[derive(Debug)]
pub struct Growing {
    file: File,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    written: u64,
    end: Option<std::result::Result<Descriptor, String>>,
}

impl Growing {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the blob is complete.
    ///
    /// # Errors
    /// When the writer failed.
    pub fn wait(&self) -> io::Result<Descriptor> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match &state.end {
                Some(Ok(descriptor)) => return Ok(descriptor.clone()),
                Some(Err(why)) => return Err(io::Error::other(why.clone())),
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Returns the descriptor once the blob is complete.
    #[must_use]
    pub fn complete(&self) -> Option<Descriptor> {
        self.with(|s| s.end.as_ref().and_then(|e| e.as_ref().ok()).cloned())
    }

    /// Waits until at least `bytes` are there, or the end.
    pub fn wait_for(&self, bytes: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.written < bytes && state.end.is_none() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads from `offset` on, following the writer.
    #[must_use]
    pub fn reader(self: &Arc<Self>, offset: u64) -> GrowingReader {
        GrowingReader { blob: Arc::clone(self), offset }
    }
}

/// Reads a [`Growing`] blob.
#[derive(Debug)]
pub struct GrowingReader {
    blob: Arc<Growing>,
    offset: u64,
}

impl Read for GrowingReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.blob.state.lock().unwrap_or_else(PoisonError::into_inner);
        let available = loop {
            if state.written > self.offset {
                break state.written - self.offset;
            }
            match &state.end {
                Some(Ok(_)) => return Ok(0),
                Some(Err(why)) => return Err(io::Error::other(why.clone())),
                None => state = self.blob.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let want = buf.len().min(usize::try_from(available).unwrap_or(usize::MAX));
        let read = self.blob.file.read_at(&mut buf[..want], self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Writes a blob under a temporary name; [`BlobWriter::finish`] gives it its own.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    tmp: PathBuf,
    blob: Arc<Growing>,
    finished: bool,
}

impl Store {
    /// Starts a blob.
    ///
    /// # Errors
    /// When the temporary file cannot be made.
    pub fn writer(&self) -> Result<BlobWriter> {
        let tmp = self.tmp_path();
        let file = File::options().read(true).write(true).create_new(true).open(&tmp).on("create", &tmp)?;
        let blob = Arc::new(Growing { file, state: Mutex::default(), changed: Condvar::new() });
        Ok(BlobWriter { store: self.clone(), tmp, blob, finished: false })
    }
}

impl BlobWriter {
    /// Returns the blob, for those who read along.
    #[must_use]
    pub fn blob(&self) -> Arc<Growing> {
        Arc::clone(&self.blob)
    }

    /// Puts the blob under the name of `descriptor`, which whoever wrote the bytes has computed from them.
    ///
    /// # Errors
    /// When the size differs or the file cannot be renamed.
    pub fn finish(mut self, descriptor: &Descriptor) -> Result<()> {
        let written = self.blob.with(|s| s.written);
        if written != descriptor.size {
            return Err(crate::Error::internal(format!(
                "wrote {written} bytes of {}, expected {}",
                descriptor.digest, descriptor.size
            )));
        }
        self.store.publish_blob(&self.tmp, &descriptor.digest)?;
        self.finished = true;
        self.end(Ok(descriptor.clone()));
        Ok(())
    }

    /// Gives up: whoever reads along gets `why`.
    pub fn fail(mut self, why: &str) {
        self.finished = true;
        let _ = std::fs::remove_file(&self.tmp);
        self.end(Err(why.to_owned()));
    }

    fn end(&self, end: std::result::Result<Descriptor, String>) {
        self.blob.with(|s| s.end = Some(end));
        self.blob.changed.notify_all();
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let at = self.blob.with(|s| s.written);
        let n = self.blob.file.write_at(buf, at)?;
        self.blob.with(|s| s.written += n as u64);
        self.blob.changed.notify_all();
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.tmp);
            self.end(Err("the writer of this blob stopped".to_owned()));
        }
    }
}
