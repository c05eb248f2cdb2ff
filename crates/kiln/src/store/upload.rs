//! Content of this machine as something that can be uploaded.

use std::io::{self, Read, Seek as _, SeekFrom};
use std::sync::Arc;

use kiln_oci::Descriptor;
use kiln_remote::UploadSource;

use crate::store::Store;

/// A blob of the store.
pub(crate) struct StoredBlob {
    pub(crate) store: Store,
    pub(crate) descriptor: Descriptor,
}

impl UploadSource for StoredBlob {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let path = self.store.blob_path(&self.descriptor.digest).map_err(io::Error::other)?;
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.descriptor.clone())
    }

    fn complete(&self) -> Option<Descriptor> {
        Some(self.descriptor.clone())
    }
}

/// A document in memory.
pub(crate) struct Bytes {
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) descriptor: Descriptor,
}

impl UploadSource for Bytes {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(self.bytes.len());
        Ok(Box::new(io::Cursor::new(self.bytes[start..].to_vec())))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(self.descriptor.clone())
    }

    fn complete(&self) -> Option<Descriptor> {
        Some(self.descriptor.clone())
    }
}
