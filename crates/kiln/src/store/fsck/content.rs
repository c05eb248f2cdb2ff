//! Blobs against their names; records and images against the blobs that they name.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use kiln_oci::{Descriptor, Digest, Document, Hasher};

use super::{FaultKind, Look, blobs, title};
use crate::error::Result;
use crate::store::size::list;
use crate::store::{Record, StoredImage};

/// Bytes that are hashed at once.
const CHUNK: usize = 128 << 10;

impl Look<'_> {
    /// Reads every blob.
    pub(super) fn content(&mut self) -> Result<()> {
        for (path, meta) in list(&self.root().join(blobs::FOLDER))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.report.checked.blobs += 1;
            if !is_name(&name) || !meta.is_file() {
                self.fault(FaultKind::Blob, &path, "nothing that kiln put here has such a name");
                self.bad.insert(name);
                continue;
            }
            match digest(&path) {
                Ok((found, bytes)) if found.hex() == name => self.report.checked.bytes += bytes,
                Ok((found, bytes)) => {
                    self.report.checked.bytes += bytes;
                    let cause = format!("its {bytes} bytes have the digest {found}");
                    self.fault(FaultKind::Blob, &path, cause);
                    self.bad.insert(name);
                }
                // Pruned meanwhile.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    self.fault(FaultKind::Blob, &path, format!("it cannot be read: {e}"));
                    self.bad.insert(name);
                }
            }
        }
        Ok(())
    }

    /// Parses every record, and looks for its layers.
    pub(super) fn records(&mut self) -> Result<()> {
        for (path, _) in list(&self.root().join("records"))? {
            self.report.checked.records += 1;
            let Some(bytes) = self.memory(FaultKind::Record, &path) else { continue };
            let record: Record = match serde_json::from_slice(&bytes) {
                Ok(record) => record,
                Err(e) => {
                    self.fault(FaultKind::Record, &path, format!("it is no record: {e}"));
                    continue;
                }
            };
            let mut here = 0;
            for packed in record.layers.values() {
                let absent = !self.root().join(blobs::FOLDER).join(packed.descriptor.digest.hex()).exists();
                match self.blob(&packed.descriptor) {
                    None => {
                        here += 1;
                        for name in record.snapshot.iter().map(String::as_str).chain([packed.diff_id.hex()]) {
                            self.layers.insert(name.to_owned(), packed.descriptor.clone());
                        }
                    }
                    // It may be a layer that a shared cache has: nobody fetched it.
                    Some(_) if absent => {}
                    Some((cause, _)) => {
                        self.fault(FaultKind::Record, &path, cause).consequence =
                            "a build takes the step from the cache, and its layer is damaged";
                    }
                }
            }
            self.report.checked.records_without_layer += u64::from(here == 0 && !record.layers.is_empty());
        }
        Ok(())
    }

    /// Looks for all parts of every image.
    pub(super) fn images(&mut self) -> Result<()> {
        let path = self.root().join("index.json");
        let images = match self.store.images() {
            Ok(images) => images,
            Err(error) => {
                self.fault(FaultKind::Index, &path, super::failed(&error));
                return Ok(());
            }
        };
        for image in images {
            self.report.checked.images += 1;
            if let Some((cause, lacks)) = self.lacking(&image.descriptor) {
                let cause = format!("image `{}`: {cause}", title(&image));
                let StoredImage { descriptor, .. } = image;
                let damaged = self.root().join(&lacks).exists();
                let fault = self.fault(FaultKind::Image, &path, cause);
                fault.image = Some(descriptor);
                fault.lacks = Some(lacks).filter(|_| !damaged);
            }
        }
        Ok(())
    }

    /// Returns the first part that an image lacks.
    fn lacking(&mut self, image: &Descriptor) -> Option<(String, std::path::PathBuf)> {
        let mut todo = vec![image.clone()];
        // A document stands once, so that documents that name each other end.
        let mut seen = std::collections::BTreeSet::new();
        while let Some(descriptor) = todo.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            if let Some(lack) = self.blob(&descriptor) {
                return Some(lack);
            }
            let path = Path::new(blobs::FOLDER).join(descriptor.digest.hex());
            let bytes = fs::read(self.root().join(&path)).unwrap_or_default();
            let document = match Document::parse(bytes, Some(&descriptor.media_type)) {
                Ok(document) => document,
                Err(e) => return Some((format!("its manifest {}: {e}", descriptor.digest.short()), path)),
            };
            if let Some(index) = document.index() {
                todo.extend(index.manifests.iter().cloned());
            }
            let Some(manifest) = document.manifest() else { continue };
            if let Some(lack) =
                manifest.layers.iter().chain([&manifest.config]).find_map(|part| self.blob(part))
            {
                return Some(lack);
            }
            let config = fs::read(self.root().join(blobs::FOLDER).join(manifest.config.digest.hex()));
            let config: Option<kiln_oci::ImageConfig> =
                config.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
            // An artifact has a config of another kind.
            let diff_ids = config.map(|config| config.rootfs.diff_ids).unwrap_or_default();
            for (diff_id, layer) in diff_ids.iter().zip(&manifest.layers) {
                self.layers.insert(diff_id.hex().to_owned(), layer.clone());
            }
        }
        None
    }

    /// Reads a small file; `None` when it is gone, or cannot be read, which is a fault then.
    pub(super) fn memory(&mut self, kind: FaultKind, path: &Path) -> Option<Vec<u8>> {
        match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => {
                self.fault(kind, path, format!("it cannot be read: {e}"));
                None
            }
        }
    }
}

/// Tells whether this is the name of a blob: 64 hexadecimal digits.
fn is_name(name: &str) -> bool {
    format!("sha256:{name}").parse::<Digest>().is_ok()
}

fn digest(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut bytes) = (Hasher::new(), 0);
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok((hasher.finish(), bytes)),
            n => {
                hasher.update(chunk.get(..n).unwrap_or_default());
                bytes += n as u64;
            }
        }
    }
}
