//! Images as immutable values: config, manifest and layers, assembled without any effect.

use std::collections::BTreeMap;
use std::sync::Arc;

pub use kiln_oci::rfc3339;
use kiln_oci::{Descriptor, Document, History, ImageConfig, Manifest, MediaType, Platform};

use crate::cache::INLINE;
use crate::error::{Error, Result};
use crate::rootfs::{Layer, Packed};

/// The comment of kiln's history entries.
const COMMENT: &str = "kiln.dockerfile.v0";

/// An image, ready to be exported.
#[derive(Debug, Clone)]
pub struct Image {
    /// The manifest.
    pub manifest: Document,
    /// Bytes of the config.
    pub config: Vec<u8>,
    /// Descriptor of the config.
    pub config_descriptor: Descriptor,
    /// Layers, base first.
    pub layers: Vec<Arc<Layer>>,
    /// Platform.
    pub platform: Platform,
}

/// What an image is assembled from.
#[derive(Debug)]
pub struct Parts {
    /// Config of the base with the build's changes; `rootfs` and `history` are those of the base.
    pub config: ImageConfig,
    /// Every layer with its digests, base first.
    pub layers: Vec<(Arc<Layer>, Packed)>,
    /// Instructions and whether each made a layer.
    pub history: Vec<(String, bool)>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Platform.
    pub platform: Platform,
    /// Seconds since 1970 that count as the time of the build.
    pub epoch: i64,
    /// Records for later builds, if the image is to have them.
    pub cache: Option<serde_json::Value>,
}

/// Assembles config and manifest.
///
/// # Errors
/// When a document cannot be written as JSON, which would be a mistake in kiln.
pub fn assemble(parts: Parts) -> Result<Image> {
    let created = rfc3339(parts.epoch);
    let mut config = parts.config;
    // The cache in a base image speaks of layers of the base's manifest, not of this one's.
    config.other.remove(INLINE);
    if let Some(cache) = parts.cache {
        config.other.insert(INLINE.to_owned(), cache);
    }
    config.created = Some(created.clone());
    config.architecture.clone_from(&parts.platform.architecture);
    config.os.clone_from(&parts.platform.os);
    config.variant.clone_from(&parts.platform.variant);
    config.rootfs.diff_ids = parts.layers.iter().map(|(_, packed)| packed.diff_id.clone()).collect();
    config.history.extend(parts.history.into_iter().map(|(text, layer)| History {
        created: Some(created.clone()),
        created_by: Some(text),
        comment: Some(COMMENT.to_owned()),
        empty_layer: !layer,
        ..History::default()
    }));
    let json = |e| Error::internal("cannot write an image document as JSON").because(e);
    let config_bytes = serde_json::to_vec(&config).map_err(json)?;
    let config_descriptor = Descriptor::of(MediaType::OCI_CONFIG, &config_bytes);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.into()),
        artifact_type: None,
        config: config_descriptor.clone(),
        layers: parts.layers.iter().map(|(_, packed)| layer_descriptor(&packed.descriptor)).collect(),
        subject: None,
        annotations: parts.annotations,
        other: BTreeMap::new(),
    };
    let bytes = serde_json::to_vec(&manifest).map_err(json)?;
    let manifest = Document::parse(bytes, None)
        .map_err(|e| Error::internal("assembled a manifest that cannot be read back").because(e))?;
    let layers = parts.layers.into_iter().map(|(layer, _)| layer).collect();
    Ok(Image { manifest, config: config_bytes, config_descriptor, layers, platform: parts.platform })
}

/// Returns a layer's descriptor in OCI's words: Docker's layer types name the same bytes.
fn layer_descriptor(descriptor: &Descriptor) -> Descriptor {
    let media_type = match descriptor.media_type.as_str() {
        MediaType::DOCKER_LAYER_GZIP => MediaType::OCI_LAYER_GZIP,
        MediaType::DOCKER_LAYER => MediaType::OCI_LAYER,
        other => other,
    };
    Descriptor { media_type: media_type.into(), ..descriptor.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rootfs::Origin;
    use kiln_oci::Digest;

    #[test]
    fn manifest_and_config_agree_and_docker_types_become_oci() {
        let packed = Packed {
            descriptor: Descriptor::of(MediaType::DOCKER_LAYER_GZIP, b"blob"),
            diff_id: Digest::sha256(b"tar"),
        };
        let layer = Arc::new(Layer::existing(Origin::Store, packed.clone()));
        let image = assemble(Parts {
            config: ImageConfig::default(),
            layers: vec![(layer, packed)],
            history: vec![("COPY a /".into(), true), ("CMD [\"a\"]".into(), false)],
            annotations: BTreeMap::new(),
            platform: Platform::new("linux", "arm64", None),
            epoch: 1_700_000_000,
            cache: None,
        })
        .unwrap();
        let manifest = image.manifest.manifest().unwrap();
        assert_eq!(manifest.layers[0].media_type.as_str(), MediaType::OCI_LAYER_GZIP);
        assert_eq!(manifest.config.digest, Digest::sha256(&image.config));
        let config: ImageConfig = serde_json::from_slice(&image.config).unwrap();
        assert_eq!(config.rootfs.diff_ids, [Digest::sha256(b"tar")]);
        assert_eq!(config.architecture, "arm64");
        assert_eq!(config.created.as_deref(), Some("2023-11-14T22:13:20Z"));
        assert_eq!(config.history.iter().map(|h| h.empty_layer).collect::<Vec<_>>(), [false, true]);
    }
}
