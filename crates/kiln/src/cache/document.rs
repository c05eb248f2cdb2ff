//! The form of a cache that builds share: an OCI image manifest whose config lists records, and whose layers are those
//! of the steps, each once.
//!
//! The bytes depend on the records alone: they are sorted, and the one time in a record is that of the making of its
//! layer, not of the export. A build that finds everything writes the document that it read.
//!
//! Whoever can write to a cache decides what is in it, so nothing here is believed before it was looked at: a document
//! of absurd size is not read, and a record that does not fit its manifest is left out.

use std::collections::BTreeMap;

use kiln_oci::{Descriptor, Digest, Document, Manifest, MediaType};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::key::Part;
use crate::rootfs::Packed;

/// Media type of the config of a cache.
pub(super) const CONFIG_TYPE: &str = "application/vnd.kiln.cache.config.v1+json";
/// Media type of the config of a cache of BuildKit.
pub(super) const BUILDKIT_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Where the records of an inline cache are in an image config.
pub(crate) const INLINE: &str = "kiln.cache.v1";
/// Where BuildKit keeps its own.
const BUILDKIT_INLINE: &str = "moby.buildkit.cache.v0";

/// The version of the records.
const VERSION: u32 = 1;

/// Layers of one cache: what kiln takes in a manifest.
pub(super) const MAX_LAYERS: usize = kiln_oci::MAX_LAYERS;

/// The result of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    /// The key of the step.
    pub(super) key: Digest,
    /// The key that names the inputs by what they hold.
    pub(super) by_content: Option<Digest>,
    /// What the two have in common.
    pub(super) operation: Option<Digest>,
    /// The instruction.
    pub(super) title: String,
    /// The layer.
    pub(super) packed: Packed,
    /// How it was compressed, kind and level.
    pub(super) compression: String,
    /// When the layer was made, in seconds since 1970.
    pub(super) made: Option<u64>,
    /// What the key was made from, with digests in place of values.
    pub(super) parts: Vec<Part>,
}

/// A step as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by_content: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    operation: Option<Digest>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    title: String,
    /// Index into the layers of the manifest.
    layer: usize,
    diff_id: Digest,
    compression: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Records {
    version: u32,
    records: Vec<Record>,
}

/// A cache, ready to be written.
pub(super) struct Written {
    pub(super) config: Vec<u8>,
    pub(super) manifest: Document,
}

/// Returns the documents that hold `steps`.
pub(super) fn write<'a>(steps: impl IntoIterator<Item = &'a Step>) -> Result<Written> {
    let mut steps: Vec<&Step> = steps.into_iter().collect();
    steps.sort_by(|a, b| a.key.cmp(&b.key));
    let layers: BTreeMap<&Digest, &Descriptor> =
        steps.iter().map(|step| (&step.packed.descriptor.digest, &step.packed.descriptor)).collect();
    let digests: Vec<&Digest> = layers.keys().copied().collect();
    let config = json(&records(&steps, &digests))?;
    let manifest = json(&Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.into()),
        artifact_type: None,
        config: Descriptor::of(CONFIG_TYPE, &config),
        layers: layers.into_values().cloned().collect(),
        subject: None,
        annotations: BTreeMap::new(),
        other: BTreeMap::new(),
    })?;
    let manifest = Document::parse(manifest, None)
        .map_err(|e| Error::internal("wrote a cache that cannot be read back").because(e))?;
    Ok(Written { config, manifest })
}

/// Returns what an image config says under [`INLINE`]: the records of `steps`, with as little as a hit needs, because the
/// digest of the image depends on it.
pub(super) fn inline(steps: &BTreeMap<Digest, Step>, layers: &[Digest]) -> Result<Value> {
    let bare = |step: &Step| Step {
        by_content: None,
        operation: None,
        title: String::new(),
        made: None,
        parts: Vec::new(),
        ..step.clone()
    };
    let steps: Vec<Step> = steps.values().map(bare).collect();
    let steps: Vec<&Step> = steps.iter().filter(|s| layers.contains(&s.packed.descriptor.digest)).collect();
    let digests: Vec<&Digest> = layers.iter().collect();
    serde_json::to_value(records(&steps, &digests))
        .map_err(|e| Error::internal("cannot write a cache as JSON").because(e))
}

fn records(steps: &[&Step], layers: &[&Digest]) -> Records {
    let record = |step: &&Step| Record {
        key: step.key.clone(),
        by_content: step.by_content.clone(),
        operation: step.operation.clone(),
        title: step.title.clone(),
        layer: layers.iter().position(|l| **l == step.packed.descriptor.digest).unwrap_or(usize::MAX),
        diff_id: step.packed.diff_id.clone(),
        compression: step.compression.clone(),
        made: step.made,
        parts: step.parts.clone(),
    };
    Records { version: VERSION, records: steps.iter().map(record).collect() }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("cannot write a cache as JSON").because(e))
}

/// What the config of a manifest holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) steps: Vec<Step>,
    /// Records that do not fit the manifest and count for nothing.
    pub(super) damaged: usize,
}

/// Tells what kind of manifest it is by the type of its config, before the config is fetched.
///
/// # Errors
/// When it is no cache that kiln reads; the message completes "`REFERENCE` …".
pub(super) fn check(manifest: &Manifest) -> Result<()> {
    match manifest.config.media_type.as_str() {
        CONFIG_TYPE | MediaType::OCI_CONFIG | MediaType::DOCKER_CONFIG => Ok(()),
        BUILDKIT_TYPE => Err(buildkit("is a cache of BuildKit")),
        other => {
            Err(Error::input(format!("is neither a cache nor an image: its config is of type `{other}`")))
        }
    }
}

/// Says that a cache is BuildKit's.
pub(super) fn buildkit(what: &str) -> Error {
    Error::input(format!("{what}, whose keys only BuildKit can compute; kiln does not read it"))
        .hint("let `--cache-to` of kiln write another reference")
}

/// Reads the config of `manifest`.
///
/// # Errors
/// When there are no records of this version of kiln in it; the message completes "`REFERENCE` …".
pub(super) fn read(manifest: &Manifest, config: &[u8]) -> Result<Read> {
    check(manifest)?;
    let damaged = |e| Error::input("is damaged").because(e);
    let records: Records = if manifest.config.media_type.as_str() == CONFIG_TYPE {
        let version: Version = serde_json::from_slice(config).map_err(damaged)?;
        version.check()?;
        serde_json::from_slice(config).map_err(damaged)?
    } else {
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "kiln.cache.v1", default)]
            kiln: Option<Value>,
            #[serde(rename = "moby.buildkit.cache.v0", default)]
            buildkit: Option<serde::de::IgnoredAny>,
        }
        debug_assert_eq!((INLINE, BUILDKIT_INLINE), ("kiln.cache.v1", "moby.buildkit.cache.v0"));
        let config: Config = serde_json::from_slice(config).map_err(damaged)?;
        let Some(kiln) = config.kiln else {
            return Err(match config.buildkit {
                Some(_) => buildkit("is an image with an inline cache of BuildKit"),
                None => Error::input("is an image without a cache in it")
                    .hint("build it with `--cache-to type=inline`"),
            });
        };
        serde_json::from_value::<Version>(kiln.clone()).map_err(damaged)?.check()?;
        serde_json::from_value(kiln).map_err(damaged)?
    };
    let found = records.records.len();
    let steps: Vec<Step> =
        records.records.into_iter().filter_map(|record| step(record, &manifest.layers)).collect();
    let damaged = found - steps.len();
    Ok(Read { steps, damaged })
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Version {
    fn check(&self) -> Result<()> {
        if self.version == VERSION {
            return Ok(());
        }
        Err(Error::input(format!(
            "was written by another version of kiln: its records are of version {}, this kiln knows {VERSION}",
            self.version
        )))
    }
}

fn step(record: Record, layers: &[Descriptor]) -> Option<Step> {
    let descriptor = layers.get(record.layer)?;
    let sound = |digest: &Digest| digest.algorithm() == "sha256";
    if !sound(&descriptor.digest) || !sound(&record.diff_id) || !sound(&record.key) {
        return None;
    }
    // What else a descriptor may say, such as other places to fetch from, is not for a cache to decide.
    let descriptor =
        Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size);
    Some(Step {
        key: record.key,
        by_content: record.by_content,
        operation: record.operation,
        title: record.title,
        packed: Packed { descriptor, diff_id: record.diff_id },
        compression: record.compression,
        made: record.made,
        parts: record.parts,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, layer: &str) -> Step {
        Step {
            key: Digest::sha256(name.as_bytes()),
            by_content: Some(Digest::sha256(b"content")),
            operation: Some(Digest::sha256(b"operation")),
            title: format!("RUN {name}"),
            packed: Packed {
                descriptor: Descriptor::of(MediaType::OCI_LAYER_GZIP, layer.as_bytes()),
                diff_id: Digest::sha256(format!("tar {layer}").as_bytes()),
            },
            compression: "gzip:3".to_owned(),
            made: Some(7),
            parts: vec![Part { name: "variable TOKEN".into(), value: "hunter2".into() }.fingerprint()],
        }
    }

    #[test]
    fn what_is_written_is_read_and_depends_on_no_order() {
        let (a, b, c) = (step("a", "x"), step("b", "y"), step("c", "x"));
        let one = write([&a, &b, &c]).unwrap();
        let two = write([&c, &b, &a]).unwrap();
        assert_eq!(one.config, two.config);
        assert_eq!(one.manifest.bytes, two.manifest.bytes);
        let manifest = one.manifest.manifest().unwrap();
        assert_eq!(manifest.layers.len(), 2, "a layer is there once");
        let mut read = read(manifest, &one.config).unwrap();
        read.steps.sort_by(|a, b| a.title.cmp(&b.title));
        assert_eq!(read, Read { steps: vec![a, b, c], damaged: 0 });
        assert!(!String::from_utf8(one.config).unwrap().contains("hunter2"));
    }

    #[test]
    fn records_that_do_not_fit_are_left_out() {
        let written = write([&step("a", "x")]).unwrap();
        let manifest = written.manifest.manifest().unwrap();
        let text = String::from_utf8(written.config.clone()).unwrap();
        let beyond = text.replace("\"layer\":0", "\"layer\":18446744073709551615");
        assert_eq!(read(manifest, beyond.as_bytes()).unwrap(), Read { steps: Vec::new(), damaged: 1 });
        let says = |config: &str| read(manifest, config.as_bytes()).unwrap_err().message;
        assert_eq!(says(&text.replace("\"layer\":0", "\"layer\":-1")), "is damaged");
        assert_eq!(says("{}"), "is damaged");
        assert_eq!(says(r#"{"version":1,"records":{}}"#), "is damaged");
        assert!(says(r#"{"version":2,"records":[],"more":[]}"#).contains("version 2, this kiln knows 1"));
        let mut other = manifest.clone();
        other.config.media_type = BUILDKIT_TYPE.into();
        assert!(read(&other, &written.config).unwrap_err().message.contains("cache of BuildKit"));
        other.config.media_type = "application/vnd.example+json".into();
        assert!(read(&other, &written.config).unwrap_err().message.contains("neither a cache nor an image"));
    }

    #[test]
    fn an_inline_cache_has_no_more_than_a_hit_needs() {
        let mut steps = BTreeMap::new();
        for step in [step("a", "x"), step("b", "y")] {
            steps.insert(step.key.clone(), step);
        }
        let layers = [Digest::sha256(b"base"), Digest::sha256(b"y")];
        let value = inline(&steps, &layers).unwrap();
        assert_eq!(value["records"].as_array().unwrap().len(), 1, "only layers of the image");
        assert_eq!(value["records"][0]["layer"], 1);
        let mut names: Vec<&String> = value["records"][0].as_object().unwrap().keys().collect();
        names.sort();
        assert_eq!(names, ["compression", "diff_id", "key", "layer"]);
    }
}
