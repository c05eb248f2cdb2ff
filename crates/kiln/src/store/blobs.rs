//! Content-addressed blobs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use kiln_oci::{Descriptor, Digest, MediaType, Verifier};

use crate::error::{Error, FileContext as _, Result};
use crate::store::Store;

/// A blob's bytes, checked against its descriptor at the end.
pub type BlobReader = Verifier<File>;

/// A document that is read into memory may not be larger; layers are streamed and know no such limit.
const MAX_DOCUMENT: u64 = 16 << 20;

/// The folder of the store.
pub(super) const FOLDER: &str = "blobs/sha256";

fn blob_name(digest: &Digest) -> Result<&str> {
    if digest.algorithm() == "sha256" {
        return Ok(digest.hex());
    }
    Err(Error::input(format!("cannot store `{digest}`: only sha256 digests are supported")))
}

impl Store {
    /// Returns where the blob with `digest` lies or would lie; it is used from here on, and nobody deletes it.
    ///
    /// # Errors
    /// When the digest is not sha256, the only algorithm that kiln stores, or the use cannot be noted.
    pub fn blob_path(&self, digest: &Digest) -> Result<PathBuf> {
        self.using(FOLDER, blob_name(digest)?)
    }

    /// Gives the blob at `from` its name.
    pub(super) fn publish_blob(&self, from: &Path, digest: &Digest) -> Result<()> {
        self.publish(from, FOLDER, blob_name(digest)?)
    }

    /// Tells whether the blob is here in full size; from then on it stays.
    #[must_use]
    pub fn has(&self, descriptor: &Descriptor) -> bool {
        self.blob_path(&descriptor.digest)
            .and_then(|p| fs::metadata(&p).on("stat", &p))
            .is_ok_and(|m| m.len() == descriptor.size)
    }

    /// Opens a blob; the reader fails at its end if the content is not what the digest says.
    ///
    /// # Errors
    /// When the blob is absent.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<BlobReader> {
        let path = self.blob_path(&descriptor.digest)?;
        let file = File::open(&path).on("open", &path)?;
        Ok(Verifier::new(file, descriptor.digest.clone(), descriptor.size))
    }

    /// Reads a small blob; absent or damaged is `None`.
    #[must_use]
    pub fn read_blob(&self, descriptor: &Descriptor) -> Option<Vec<u8>> {
        if descriptor.size > MAX_DOCUMENT || !self.has(descriptor) {
            return None;
        }
        let mut bytes = Vec::new();
        self.open_blob(descriptor).ok()?.read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Reads a small blob by its digest alone; absent or damaged is `None`.
    #[must_use]
    pub fn read_digest(&self, digest: &Digest) -> Option<Vec<u8>> {
        let size = fs::metadata(self.blob_path(digest).ok()?).ok()?.len();
        self.read_blob(&Descriptor::new(MediaType::OCI_MANIFEST, digest.clone(), size))
    }

    /// Stores a small blob and returns its descriptor.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_blob(&self, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
        let descriptor = Descriptor::of(media_type, bytes);
        if self.read_blob(&descriptor).is_some() {
            return Ok(descriptor);
        }
        let mut writer = self.writer()?;
        writer.write_all(bytes).on("write", self.root())?;
        writer.finish(&descriptor)?;
        Ok(descriptor)
    }
}
