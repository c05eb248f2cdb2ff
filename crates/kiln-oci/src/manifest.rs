//! Image manifests and indexes, kept together with the bytes they were read from.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Descriptor, Digest, MediaType};

/// An image manifest (OCI `manifest.md`, Docker schema 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Type of an artifact that is no image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The image config.
    pub config: Descriptor,
    /// Layers, base first. BuildKit writes `null` for an image without any.
    #[serde(deserialize_with = "nullable")]
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// An image index (OCI `image-index.md`, Docker manifest list).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Media type of this document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// The manifests, usually one for each platform.
    pub manifests: Vec<Descriptor>,
    /// Free-form annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A manifest or an index, with the exact bytes that have the digest.
#[derive(Debug, Clone)]
pub struct Document {
    /// The bytes as received.
    pub bytes: Vec<u8>,
    /// Descriptor of the bytes.
    pub descriptor: Descriptor,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Manifest(Box<Manifest>),
    Index(Index),
}

/// Says why bytes are not a manifest or an index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// The bytes are not the JSON of such a document.
    #[error("malformed {media_type} document")]
    Json {
        /// What the document was said to be.
        media_type: MediaType,
        /// What the JSON parser says.
        source: serde_json::Error,
    },
    /// Docker's schema 1, which carries no content digests, or something that is no image at all.
    #[error("media type `{0}` is not supported: expected an OCI or Docker schema 2 manifest or index")]
    MediaType(MediaType),
    /// Header and document disagree, which could make two clients see two images under one digest.
    #[error("media type is `{said}` outside of the document and `{written}` inside")]
    Ambiguous {
        /// What the transport said.
        said: MediaType,
        /// What the document says.
        written: MediaType,
    },
    /// The document holds both `manifests` and `layers`.
    #[error("document is a manifest and an index at once")]
    Both,
    /// More layers than kiln takes.
    #[error("manifest lists {found} layers, more than the limit of {limit}")]
    TooManyLayers {
        /// Layers listed.
        found: usize,
        /// The limit.
        limit: usize,
    },
}

/// A manifest with more layers than this is refused: at about 200 bytes each, not many more fit the 4 MiB that registries
/// take, and no honest image is near it.
pub const MAX_LAYERS: usize = 10_000;

/// What Docker's manifests were before they carried digests.
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+json";

impl Document {
    /// Parses `bytes`, which the transport said to be of type `said` (when it said anything).
    ///
    /// # Errors
    /// When the bytes are not a manifest or an index, or are both.
    pub fn parse(bytes: Vec<u8>, said: Option<&MediaType>) -> Result<Self, DocumentError> {
        let json = |source| DocumentError::Json {
            media_type: said.cloned().unwrap_or_else(|| "manifest".into()),
            source,
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(json)?;
        let written = value.get("mediaType").and_then(Value::as_str).map(MediaType::new);
        let has = |key: &str| value.get(key).is_some();
        // It has no media type of its own, and servers do not always send one.
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) && written.is_none() {
            return Err(DocumentError::MediaType(MediaType::new(SCHEMA_1)));
        }
        if has("manifests") && (has("layers") || has("config")) {
            return Err(DocumentError::Both);
        }
        let guess =
            || MediaType::new(if has("manifests") { MediaType::OCI_INDEX } else { MediaType::OCI_MANIFEST });
        let said = said.filter(|m| m.is_index() || m.is_manifest());
        if let (Some(said), Some(written)) = (said, &written)
            && said != written
        {
            return Err(DocumentError::Ambiguous { said: said.clone(), written: written.clone() });
        }
        let media_type = written.or_else(|| said.cloned()).unwrap_or_else(guess);
        let kind = if media_type.is_index() {
            Kind::Index(serde_json::from_value(value).map_err(json)?)
        } else if media_type.is_manifest() {
            let manifest: Manifest = serde_json::from_value(value).map_err(json)?;
            let found = manifest.layers.len();
            if found > MAX_LAYERS {
                return Err(DocumentError::TooManyLayers { found, limit: MAX_LAYERS });
            }
            Kind::Manifest(Box::new(manifest))
        } else {
            return Err(DocumentError::MediaType(media_type));
        };
        let descriptor = Descriptor::of(media_type, &bytes);
        Ok(Self { bytes, descriptor, kind })
    }

    /// Returns the manifest, unless this is an index.
    #[must_use]
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.kind {
            Kind::Manifest(manifest) => Some(manifest),
            Kind::Index(_) => None,
        }
    }

    /// Returns the index, unless this is a manifest.
    #[must_use]
    pub fn index(&self) -> Option<&Index> {
        match &self.kind {
            Kind::Manifest(_) => None,
            Kind::Index(index) => Some(index),
        }
    }

    /// Returns the digest of the bytes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.descriptor.digest
    }
}

fn nullable<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Descriptor>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(extra: &str) -> String {
        let digest = Digest::sha256(b"");
        format!(
            r#"{{"schemaVersion":2,{extra}"config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[]}}"#,
            MediaType::OCI_CONFIG
        )
    }

    #[test]
    fn unknown_fields_survive_a_round_trip() {
        let text = manifest(r#""x-future":{"a":[1]},"#);
        let document = Document::parse(text.clone().into_bytes(), None).unwrap();
        let again = serde_json::to_value(document.manifest().unwrap()).unwrap();
        assert_eq!(again["x-future"]["a"][0], 1);
        assert_eq!(document.digest(), &Digest::sha256(text.as_bytes()));
    }

    #[test]
    fn an_image_without_layers_may_say_null() {
        let text = manifest("").replace(r#""layers":[]"#, r#""layers":null"#);
        let document = Document::parse(text.into_bytes(), None).unwrap();
        assert_eq!(document.manifest().unwrap().layers, []);
    }

    #[test]
    fn a_document_is_one_thing() {
        let both = manifest(r#""manifests":[],"#);
        assert!(matches!(Document::parse(both.into_bytes(), None), Err(DocumentError::Both)));
        let said = MediaType::new(MediaType::OCI_INDEX);
        let written = manifest(&format!(r#""mediaType":"{}","#, MediaType::OCI_MANIFEST));
        assert!(matches!(
            Document::parse(written.into_bytes(), Some(&said)),
            Err(DocumentError::Ambiguous { .. })
        ));
        let old = manifest(r#""mediaType":"application/vnd.docker.distribution.manifest.v1+json","#);
        assert!(matches!(Document::parse(old.into_bytes(), None), Err(DocumentError::MediaType(_))));
        assert!(matches!(Document::parse(b"<html>".to_vec(), None), Err(DocumentError::Json { .. })));
    }
}
