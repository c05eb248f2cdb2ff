//! What a builder made: an OCI layout, read back as a tree, config and history above its base.

use std::fs;
use std::path::Path;

use kiln_oci::{ContainerConfig, Descriptor, Document, ImageConfig, Index};
use serde_json::Value;

use super::Tree;
use crate::Listing;

/// An image that others stand on.
#[derive(Debug, Clone, Default)]
pub struct Base {
    /// Its files.
    pub tree: Tree,
    /// Its config; that of an empty image for `scratch`.
    pub config: ImageConfig,
}

impl Base {
    /// Returns what BuildKit starts `FROM scratch` with.
    #[must_use]
    pub fn scratch() -> Self {
        let host = kiln_oci::Platform::host();
        let config = ImageConfig {
            architecture: host.architecture,
            os: host.os,
            config: ContainerConfig {
                env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
                working_dir: "/".to_owned(),
                ..ContainerConfig::default()
            },
            ..ImageConfig::default()
        };
        Self { tree: Tree::default(), config }
    }

    /// Reads the layout in `dir`.
    ///
    /// # Errors
    /// When the layout cannot be read or an image rule is broken.
    pub fn of_layout(dir: &Path) -> Result<Self, String> {
        let observed = Observed::of_layout(dir, &Self::default())?;
        Ok(Self { tree: observed.tree, config: observed.config })
    }
}

/// A finished image above its base.
#[derive(Debug)]
pub struct Observed {
    /// All its files.
    pub tree: Tree,
    /// The config.
    pub config: ImageConfig,
    /// Paths that differ from the base: lines, and times.
    pub rootfs: Vec<(String, i64)>,
    /// New layers.
    pub layers: usize,
    /// New history: `layer TEXT` or `empty TEXT`.
    pub history: Vec<String>,
}

impl Observed {
    /// Reads the layout in `dir`, whose image stands on `base`.
    ///
    /// # Errors
    /// When the layout cannot be read, breaks a rule of images, or does not stand on the base.
    pub fn of_layout(dir: &Path, base: &Base) -> Result<Self, String> {
        let blob = |d: &Descriptor| {
            let path = dir.join("blobs/sha256").join(d.digest.hex());
            fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let read = |d: &Descriptor| {
            let path = dir.join("blobs/sha256").join(d.digest.hex());
            fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))
        };
        let index = fs::read(dir.join("index.json")).map_err(|e| format!("index.json: {e}"))?;
        let index: Index = serde_json::from_slice(&index).map_err(|e| format!("index.json: {e}"))?;
        let [manifest] = index.manifests.as_slice() else { return Err("not one manifest".to_owned()) };
        let document = Document::parse(read(manifest)?, None).map_err(|e| e.to_string())?;
        let manifest = document.manifest().ok_or("not a manifest")?;
        let config: ImageConfig =
            serde_json::from_slice(&read(&manifest.config)?).map_err(|e| format!("config: {e}"))?;
        let below = base.config.rootfs.diff_ids.len();
        if !config.rootfs.diff_ids.starts_with(&base.config.rootfs.diff_ids) {
            return Err("the image does not stand on its base".to_owned());
        }
        let made = config.history.iter().filter(|h| !h.empty_layer).count();
        if made != manifest.layers.len() || made != config.rootfs.diff_ids.len() {
            return Err(format!("the history tells of {made} layers, there are {}", manifest.layers.len()));
        }
        let mut tree = base.tree.clone();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids).skip(below) {
            tree.apply(&Listing::read(blob(descriptor)?, diff_id)?)?;
        }
        let history = config.history.iter().skip(base.config.history.len()).map(|h| {
            let text = h.created_by.as_deref().unwrap_or_default();
            let text = text.strip_suffix(" # buildkit").unwrap_or(text);
            format!("{} {text}", if h.empty_layer { "empty" } else { "layer" })
        });
        let history = history.collect();
        let layers = config.rootfs.diff_ids.len() - below;
        Ok(Self { rootfs: tree.over(&base.tree), tree, layers, history, config })
    }

    /// Returns `config` of the image config as JSON.
    ///
    /// # Panics
    /// Never: a config came from JSON.
    #[must_use]
    pub fn fields(config: &ContainerConfig) -> serde_json::Map<String, Value> {
        match serde_json::to_value(config) {
            Ok(Value::Object(fields)) => fields,
            other => panic!("a config is no JSON object: {other:?}"),
        }
    }
}
