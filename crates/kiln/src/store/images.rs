//! The images of the store: an `index.json` as of an OCI image layout, one descriptor for each name.

use std::fs::File;
use std::io::Write as _;

use kiln_oci::{Descriptor, Document, ImageConfig, Index, MediaType, Reference};

use crate::error::{Error, FileContext as _, Result};
use crate::store::Store;

/// The annotation by which tools find an image in a layout (OCI image specification, `annotations.md`).
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// An image of the store.
#[derive(Debug, Clone)]
pub struct StoredImage {
    /// Its name, absent for an image that was built without one.
    pub name: Option<Reference>,
    /// Its manifest or index.
    pub descriptor: Descriptor,
}

impl Store {
    fn index(&self) -> Result<Index> {
        let path = self.root().join("index.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                Error::environment(format!("`{}` is damaged", path.display())).because(e).hint(
                    "delete this file: the images it lists are forgotten, their layers stay in the cache",
                )
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Index {
                schema_version: 2,
                media_type: Some(MediaType::OCI_INDEX.into()),
                manifests: Vec::new(),
                annotations: std::collections::BTreeMap::new(),
                other: std::collections::BTreeMap::new(),
            }),
            Err(e) => Err(e).on("read", &path),
        }
    }

    fn change_index(&self, change: impl FnOnce(&mut Index)) -> Result<()> {
        let _lock = self.lock("index")?;
        let mut index = self.index()?;
        change(&mut index);
        let bytes = serde_json::to_vec(&index)
            .map_err(|e| Error::internal("cannot write `index.json`").because(e))?;
        let (tmp, path) = (self.tmp_path(), self.root().join("index.json"));
        let mut file = File::create_new(&tmp).on("create", &tmp)?;
        file.write_all(&bytes).on("write", &tmp)?;
        file.sync_all().on("sync", &tmp)?;
        std::fs::rename(&tmp, &path).on("rename", &path)
    }

    /// Returns every image, in the order of their making.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn images(&self) -> Result<Vec<StoredImage>> {
        let image = |d: Descriptor| StoredImage {
            name: d.annotations.get(REF_NAME).and_then(|n| n.parse().ok()),
            descriptor: d,
        };
        Ok(self.index()?.manifests.into_iter().map(image).collect())
    }

    /// Names an image whose manifest, config and layers are in the store.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn put_image(&self, name: Option<&Reference>, descriptor: &Descriptor) -> Result<()> {
        let mut entry = descriptor.clone();
        let name = name.map(ToString::to_string);
        if let Some(name) = &name {
            entry.annotations.insert(REF_NAME.to_owned(), name.clone());
        }
        self.change_index(|index| {
            index.manifests.retain(|d| match &name {
                Some(name) => d.annotations.get(REF_NAME) != Some(name),
                None => d.digest != entry.digest,
            });
            index.manifests.push(entry);
        })
    }

    /// Forgets an image as [`Store::images`] gave it; tells whether it was still there. Its blobs stay until pruned.
    ///
    /// # Errors
    /// When the index cannot be written.
    pub fn remove_image(&self, image: &StoredImage) -> Result<bool> {
        let mut found = false;
        self.change_index(|index| {
            index.manifests.retain(|d| {
                let this = *d == image.descriptor;
                found |= this;
                !this
            });
        })?;
        Ok(found)
    }

    /// Returns the image called `name`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn find_image(&self, name: &Reference) -> Result<Option<StoredImage>> {
        Ok(self.images()?.into_iter().find(|i| i.name.as_ref() == Some(name)))
    }

    /// Returns manifest and config of a stored image; `None` when a blob is missing or damaged.
    #[must_use]
    pub fn image_documents(&self, descriptor: &Descriptor) -> Option<(Document, ImageConfig)> {
        let bytes = self.read_blob(descriptor)?;
        let document = Document::parse(bytes, Some(&descriptor.media_type)).ok()?;
        let config = self.read_blob(&document.manifest()?.config)?;
        Some((document, serde_json::from_slice(&config).ok()?))
    }
}
