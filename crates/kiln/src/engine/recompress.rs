//! A layer in another compression.
//!
//! One pass: the blob is decompressed as it is read, from the store or while it is downloaded, and what comes out is
//! compressed into the store. The tar stream does not change, so the diff id stays and is the proof that nothing else
//! happened; eStargz adds two files, and there the diff id of what was read is the proof. The result is recorded by diff id
//! and compression, so that this is done once.

use std::io::Read;

use kiln_oci::layer::{Compression, Finished, Limits, TOC_DIGEST, recompress};
use kiln_oci::{Descriptor, Digest, Hasher, MediaType};

use super::Engine;
use crate::cancel::Cancel;
use crate::error::{Error, Result};
use crate::rootfs::{Layer, Packed};
use crate::store::{BlobWriter, Record};

/// Changed whenever the same layer would give another blob than before.
const VERSION: &str = "kiln recompressed 1";
/// The level of kiln's gzip layers.
const ESTARGZ_LEVEL: u32 = 3;

/// What a conversion gives: the diff id of its source, that of the result, and the result's descriptor.
type Converted = std::result::Result<(Digest, Digest, Descriptor), kiln_oci::layer::Error>;

impl Engine {
    /// Returns `layer` in the compression `to`; as it is when it has that compression already, at whatever level.
    ///
    /// # Errors
    /// When the layer cannot be had, or is not what its image says.
    pub(crate) fn recompressed(&self, layer: &Layer, to: Compression) -> Result<Packed> {
        let packed = layer.packed.wait()?;
        if is(&packed.descriptor.media_type, to) {
            return Ok(packed);
        }
        self.compressed(layer, to)
    }

    /// Returns `layer` just as packing with the compression `to` gives it, whatever it is now.
    ///
    /// # Errors
    /// When the layer cannot be had, or is not what its image says.
    pub(crate) fn compressed(&self, layer: &Layer, to: Compression) -> Result<Packed> {
        let packed = layer.packed.wait()?;
        self.convert(layer, &packed, &to.to_string(), |source, sink, limits| {
            let Finished { diff_id, descriptor, .. } = recompress(source, sink, to, self.workers, limits)?;
            Ok((diff_id.clone(), diff_id, descriptor))
        })
    }

    /// Returns `layer` as eStargz, with a diff id of its own; as it is when it is eStargz already.
    ///
    /// # Errors
    /// When the layer cannot be had, is not what its image says, or has names that eStargz cannot express.
    pub(crate) fn estargz(&self, layer: &Layer, level: Option<u8>) -> Result<Packed> {
        let packed = layer.packed.wait()?;
        if packed.descriptor.annotations.contains_key(TOC_DIGEST) {
            return Ok(packed);
        }
        let level = level.map_or(ESTARGZ_LEVEL, u32::from);
        self.convert(layer, &packed, &format!("estargz {level}"), |source, sink, limits| {
            let (found, finished) = kiln_oci::layer::estargz(source, sink, level, limits)?;
            Ok((found, finished.diff_id, finished.descriptor))
        })
    }

    fn convert(
        &self,
        layer: &Layer,
        packed: &Packed,
        to: &str,
        write: impl FnOnce(Stoppable, &mut BlobWriter, Limits) -> Converted,
    ) -> Result<Packed> {
        let key = key(&packed.diff_id, to);
        let known = || {
            let mut record = self.store.record(&key)?;
            record.layers.remove(to).filter(|packed| self.store.has(&packed.descriptor))
        };
        if let Some(packed) = known() {
            return Ok(packed);
        }
        // Another process may do the same: the second waits and finds it.
        let _lock = self.store.lock(&format!("recompress-{}", key.hex()))?;
        if let Some(packed) = known() {
            return Ok(packed);
        }
        let digest = &packed.descriptor.digest;
        let what = || format!("cannot compress layer {digest} anew");
        let source: Box<dyn Read + Send> = if self.store.has(&packed.descriptor) {
            Box::new(self.store.open_blob(&packed.descriptor)?)
        } else {
            self.open_remote(layer, &packed.descriptor)?
        };
        let limits = Limits { max_unpacked: self.limits.layer_size, ..Limits::default() };
        let mut writer = self.store.writer()?;
        let converted = write(Stoppable { source, cancel: self.cancel.clone() }, &mut writer, limits);
        self.cancel.check()?;
        let (found, diff_id, descriptor) = converted.map_err(|e| Error::layer(what(), e))?;
        if found != packed.diff_id {
            return Err(Error::input(what())
                .because(format!("it unpacks to {found}, its image says {}", packed.diff_id))
                .hint("the image is damaged or was tampered with; pull it from its source again"));
        }
        writer.finish(&descriptor)?;
        let packed = Packed { descriptor, diff_id };
        let layers = [(to.to_owned(), packed.clone())].into();
        self.store.put_record(&key, &Record::new(format!("{digest} as {to}"), layers))?;
        Ok(packed)
    }
}

/// Tells whether a layer of this type has this compression.
fn is(media_type: &MediaType, compression: Compression) -> bool {
    match compression {
        Compression::None => [MediaType::OCI_LAYER, MediaType::DOCKER_LAYER].contains(&media_type.as_str()),
        Compression::Gzip { .. } => {
            [MediaType::OCI_LAYER_GZIP, MediaType::DOCKER_LAYER_GZIP].contains(&media_type.as_str())
        }
        Compression::Zstd { .. } => media_type.as_str() == MediaType::OCI_LAYER_ZSTD,
    }
}

fn key(diff_id: &Digest, to: &str) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(VERSION.as_bytes());
    hasher.field(diff_id.as_str().as_bytes());
    hasher.field(to.as_bytes());
    hasher.finish()
}

/// Ends with the build that wants the content.
struct Stoppable {
    source: Box<dyn Read + Send>,
    cancel: Cancel,
}

impl Read for Stoppable {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(std::io::Error::other("the build was stopped"));
        }
        self.source.read(buf)
    }
}
