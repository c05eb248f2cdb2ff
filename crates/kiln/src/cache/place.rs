//! Where a shared cache lies: under a reference of a registry, or in an OCI layout directory.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use kiln_oci::{Descriptor, Digest, Document, Index, MediaType, Platform, Reference};
use kiln_remote::Client;

use super::document::{self, CONFIG_TYPE, Step};
use crate::error::{Error, FileContext as _, Result};
use crate::rootfs::Origin;
use crate::store::REF_NAME;

/// Bytes of records that are read: more than the records of [`document::MAX_LAYERS`] layers can be.
const MAX_CONFIG: u64 = 64 << 20;
/// Bytes of a manifest or an index in a layout, as the client of registries has it.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Where a cache lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under a reference of a registry.
    Registry(Reference),
    /// In an OCI layout directory.
    Layout {
        /// The directory.
        dir: PathBuf,
        /// Which of its manifests, by tag or digest.
        target: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => write!(f, "`{reference}`"),
            Self::Layout { dir, target } => write!(f, "`{}` ({target})", dir.display()),
        }
    }
}

/// A cache that was read.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) steps: Vec<Step>,
    /// The manifest that had them.
    pub(super) manifest: Digest,
    /// Where its layers are.
    pub(super) origin: Origin,
    /// Records that were left out.
    pub(super) damaged: usize,
}

impl Place {
    /// Reads what is there, nothing if there is nothing.
    ///
    /// # Errors
    /// When it cannot be read, or is no cache of kiln; the message completes "`REFERENCE` …".
    pub(super) fn read(&self, client: &Client, platform: &Platform) -> Result<Option<Contents>> {
        match self {
            Self::Registry(reference) => registry(client, reference, platform),
            Self::Layout { dir, target } => layout(dir, target, platform),
        }
    }
}

fn unreadable(error: impl Into<Error>) -> Error {
    let error: Error = error.into();
    error.within("cannot be read")
}

fn registry(client: &Client, reference: &Reference, platform: &Platform) -> Result<Option<Contents>> {
    let mut document = match client.document(reference) {
        Ok(document) => document,
        Err(error) if error.kind() == kiln_remote::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    if let Some(index) = document.index() {
        let chosen = choose(index, platform)?;
        document = client.document(&reference.with_digest(chosen.digest.clone())).map_err(unreadable)?;
    }
    let config = |descriptor: &Descriptor| {
        let mut bytes = Vec::new();
        let mut reader = client.blob(reference, descriptor, None).map_err(unreadable)?;
        reader.read_to_end(&mut bytes).map_err(|e| Error::from_io("cannot be read", e))?;
        Ok(bytes)
    };
    contents(&document, &config, Origin::Registry(reference.clone())).map(Some)
}

fn contents(
    document: &Document,
    config: &dyn Fn(&Descriptor) -> Result<Vec<u8>>,
    origin: Origin,
) -> Result<Contents> {
    let manifest = document.manifest().ok_or_else(|| Error::input("is an index of indexes"))?;
    document::check(manifest)?;
    let size = manifest.config.size;
    if size > MAX_CONFIG {
        return Err(Error::input(format!(
            "has {size} bytes of records, more than the limit of {MAX_CONFIG}"
        )));
    }
    let read = document::read(manifest, &config(&manifest.config)?)?;
    Ok(Contents { steps: read.steps, manifest: document.digest().clone(), origin, damaged: read.damaged })
}

fn choose<'a>(index: &'a Index, platform: &Platform) -> Result<&'a Descriptor> {
    if index.manifests.iter().any(|d| d.media_type.as_str() == document::BUILDKIT_TYPE) {
        return Err(document::buildkit("is a cache of BuildKit"));
    }
    kiln_oci::select(platform, &index.manifests)
        .ok_or_else(|| Error::input(format!("has no image for {platform}")))
}

fn layout(dir: &Path, target: &str, platform: &Platform) -> Result<Option<Contents>> {
    let Some(index) = read_index(dir).map_err(unreadable)? else { return Ok(None) };
    let Some(found) = index.manifests.iter().find(|d| is_called(d, target)) else { return Ok(None) };
    let mut document = read_document(dir, found)?;
    if let Some(inner) = document.index() {
        document = read_document(dir, choose(inner, platform)?)?;
    }
    let config = |descriptor: &Descriptor| read_blob(dir, descriptor, MAX_CONFIG).map_err(unreadable);
    contents(&document, &config, Origin::Layout(dir.to_owned())).map(Some)
}

/// Tells whether a manifest of an index has this tag or digest.
pub(super) fn is_called(descriptor: &Descriptor, target: &str) -> bool {
    descriptor.digest.as_str() == target || descriptor.annotations.get(REF_NAME).is_some_and(|n| n == target)
}

/// Reads the index of a layout; nothing if there is no layout.
pub(super) fn read_index(dir: &Path) -> Result<Option<Index>> {
    let path = dir.join("index.json");
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).on("open", &path),
    };
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG).read_to_end(&mut bytes).on("read", &path)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::input(format!("`{}` is damaged", path.display())).because(e))
}

/// Returns where a blob of a layout lies.
pub(super) fn blob_path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs").join(digest.algorithm()).join(digest.hex())
}

pub(super) fn read_document(dir: &Path, descriptor: &Descriptor) -> Result<Document> {
    let bytes = read_blob(dir, descriptor, MAX_DOCUMENT).map_err(unreadable)?;
    Document::parse(bytes, Some(&descriptor.media_type)).map_err(|e| Error::input("is damaged").because(e))
}

fn read_blob(dir: &Path, descriptor: &Descriptor, limit: u64) -> Result<Vec<u8>> {
    let path = blob_path(dir, &descriptor.digest);
    if descriptor.size > limit {
        return Err(Error::input(format!("`{}` is larger than {limit} bytes", path.display())));
    }
    let file = fs::File::open(&path).on("open", &path)?;
    let mut bytes = Vec::new();
    kiln_oci::Verifier::new(file, descriptor.digest.clone(), descriptor.size)
        .read_to_end(&mut bytes)
        .on("read", &path)?;
    Ok(bytes)
}

/// Returns an index with `manifest` under the name `tag`, in place of what had it.
pub(super) fn tagged(index: Option<Index>, manifest: &Descriptor, tag: &str) -> Index {
    let mut manifests = index.map_or_else(Vec::new, |index| index.manifests);
    manifests.retain(|d| d.annotations.get(REF_NAME).is_none_or(|name| name != tag));
    let mut entry = manifest.clone();
    entry.annotations.insert(REF_NAME.to_owned(), tag.to_owned());
    entry.other.insert("artifactType".to_owned(), CONFIG_TYPE.into());
    manifests.push(entry);
    manifests.sort_by(|a, b| a.annotations.get(REF_NAME).cmp(&b.annotations.get(REF_NAME)));
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.into()),
        manifests,
        annotations: std::collections::BTreeMap::new(),
        other: std::collections::BTreeMap::new(),
    }
}
