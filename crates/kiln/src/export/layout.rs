//! OCI image layouts (OCI image specification, `image-layout.md`) and Docker archives.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerWriter, Timestamp};
use kiln_oci::{Descriptor, Index, MediaType};
use serde_json::json;

use super::write::{Target, beside};
use super::{Job, shown};
use crate::error::{Error, FileContext as _, Result};
use crate::request::Destination;
use crate::store::REF_NAME;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns the index of a layout that holds the image under its names.
fn index(job: &Job<'_>, existing: Vec<Descriptor>) -> Index {
    let names: Vec<String> = job.names.iter().map(ToString::to_string).collect();
    let manifest = &job.image.manifest.descriptor;
    let mut manifests = existing;
    manifests.retain(|d| match d.annotations.get(REF_NAME) {
        Some(name) => !names.contains(name),
        None => d.digest != manifest.digest,
    });
    let mut entry = manifest.clone();
    entry.platform = Some(job.image.platform.clone());
    if names.is_empty() {
        manifests.push(entry.clone());
    }
    for name in names {
        let mut named = entry.clone();
        named.annotations.insert(REF_NAME.to_owned(), name);
        manifests.push(named);
    }
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.into()),
        manifests,
        annotations: std::collections::BTreeMap::new(),
        other: std::collections::BTreeMap::new(),
    }
}

fn json_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("cannot write a document as JSON").because(e))
}

/// Writes a layout directory; one that exists gets the image added, and blobs that it has are left alone.
pub(super) fn directory(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let Destination::Path(dir) = dest else {
        return Err(
            Error::input("an OCI layout directory cannot go to standard output").hint("write `tar=true`")
        );
    };
    let existing = match fs::read(dir.join("index.json")) {
        Ok(bytes) => serde_json::from_slice::<Index>(&bytes).map_err(|e| {
            Error::input(format!("`{}` holds a damaged OCI layout", dir.display()))
                .because(e)
                .hint("name another directory, or delete this one")
        })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let empty = fs::read_dir(dir).map_or(true, |mut d| d.next().is_none());
            if !empty && !dir.join("oci-layout").exists() {
                return Err(Error::input(format!("`{}` is neither empty nor an OCI layout", dir.display()))
                    .hint("name an empty directory"));
            }
            index(&Job { names: &[], ..copy(job) }, Vec::new())
        }
        Err(e) => return Err(e).on("read", &dir.join("index.json")),
    };
    let fresh = !dir.join("index.json").exists();
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).on("create", &blobs)?;
    for layer in &job.image.layers {
        let descriptor = job.engine.blob(layer)?;
        let path = blobs.join(descriptor.digest.hex());
        if fs::metadata(&path).is_ok_and(|m| m.len() == descriptor.size) {
            continue;
        }
        let mut reader = job.engine.store.open_blob(&descriptor)?;
        put(&path, &mut reader)?;
    }
    put(&blobs.join(job.image.config_descriptor.digest.hex()), &mut job.image.config.as_slice())?;
    put(&blobs.join(job.image.manifest.digest().hex()), &mut job.image.manifest.bytes.as_slice())?;
    put(&dir.join("oci-layout"), &mut &*LAYOUT)?;
    let manifests = if fresh { Vec::new() } else { existing.manifests };
    put(&dir.join("index.json"), &mut json_bytes(&index(job, manifests))?.as_slice())?;
    Ok(format!("written as an OCI layout to {}", shown(dest)))
}

fn copy<'a>(job: &Job<'a>) -> Job<'a> {
    Job { engine: job.engine, image: job.image, rootfs: job.rootfs, names: job.names, stdout: job.stdout }
}

fn put(path: &Path, content: &mut dyn Read) -> Result<()> {
    let tmp = beside(path);
    let mut file = fs::File::create(&tmp).on("create", &tmp)?;
    let copied = io::copy(content, &mut file).and_then(|_| file.sync_all());
    if let Err(e) = copied {
        let _ = fs::remove_file(&tmp);
        return Err(e).on("write", path);
    }
    fs::rename(&tmp, path).on("rename", path)
}

/// A tar file of files and blobs, in a fixed order and with the time of the build.
struct Archive<'a> {
    writer: LayerWriter<Target>,
    job: &'a Job<'a>,
}

impl<'a> Archive<'a> {
    fn create(job: &'a Job<'a>, dest: &Destination) -> Result<Self> {
        let target = Target::create(dest, job.stdout)?;
        let writer = LayerWriter::new(target, Compression::None, 1).map_err(failed)?;
        Ok(Self { writer, job })
    }

    fn entry(&mut self, path: &str, kind: Kind, mode: u32, content: &mut dyn Read) -> Result<()> {
        let path =
            EntryPath::new(path).map_err(|e| Error::internal("a bad name in an archive").because(e))?;
        let mut entry = Entry::new(path, kind, mode);
        entry.mtime = Timestamp::from_secs(self.job.engine.epoch);
        self.writer.append(&entry, Some(content)).map_err(failed)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.entry(path, Kind::Directory, 0o755, &mut io::empty())
    }

    fn file(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        self.entry(path, Kind::File { size: bytes.len() as u64 }, 0o644, &mut &*bytes)
    }

    fn layer(&mut self, path: &str, descriptor: &Descriptor) -> Result<()> {
        let mut reader = self.job.engine.store.open_blob(descriptor)?;
        self.entry(path, Kind::File { size: descriptor.size }, 0o644, &mut reader)
    }

    fn finish(self) -> Result<()> {
        self.writer.finish().map_err(failed)?.sink.finish()
    }
}

fn failed(error: kiln_oci::layer::Error) -> Error {
    Error::environment("cannot write the archive").because(error)
}

/// Writes the layout as one tar file.
pub(super) fn archive(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let layers = blobs(job)?;
    let mut archive = Archive::create(job, dest)?;
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    archive.all_blobs(&layers)?;
    archive.file("index.json", &json_bytes(&index(job, Vec::new()))?)?;
    archive.file("oci-layout", LAYOUT)?;
    archive.finish()?;
    Ok(format!("written as an OCI archive to {}; use it with `skopeo copy oci-archive:… …`", shown(dest)))
}

/// Writes what `docker save` writes: an OCI layout with a `manifest.json`, which `docker load` of any age reads.
pub(super) fn docker(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let layers = blobs(job)?;
    let mut archive = Archive::create(job, dest)?;
    archive.directory("blobs")?;
    archive.directory("blobs/sha256")?;
    archive.all_blobs(&layers)?;
    let blob = |d: &Descriptor| format!("blobs/sha256/{}", d.digest.hex());
    let tags: Vec<String> =
        job.names.iter().filter(|n| n.tag().is_some()).map(kiln_oci::Reference::familiar).collect();
    let manifest = json!([{
        "Config": blob(&job.image.config_descriptor),
        "RepoTags": tags,
        "Layers": layers.iter().map(blob).collect::<Vec<_>>(),
    }]);
    archive.file("index.json", &json_bytes(&index(job, Vec::new()))?)?;
    archive.file("manifest.json", &json_bytes(&manifest)?)?;
    archive.file("oci-layout", LAYOUT)?;
    archive.finish()?;
    Ok(format!("written as a Docker archive to {}; use it with `docker load -i …`", shown(dest)))
}

/// Fetches what is still elsewhere and returns the layers' descriptors.
fn blobs(job: &Job<'_>) -> Result<Vec<Descriptor>> {
    job.image.layers.iter().map(|layer| job.engine.blob(layer)).collect()
}

impl Archive<'_> {
    /// Writes every blob once, in the order of the digests.
    fn all_blobs(&mut self, layers: &[Descriptor]) -> Result<()> {
        let config = (self.job.image.config_descriptor.digest.clone(), Some(self.job.image.config.clone()));
        let manifest =
            (self.job.image.manifest.digest().clone(), Some(self.job.image.manifest.bytes.clone()));
        let mut all: std::collections::BTreeMap<_, _> = [config, manifest].into();
        all.extend(layers.iter().map(|d| (d.digest.clone(), None)));
        for (digest, bytes) in all {
            let path = format!("blobs/sha256/{}", digest.hex());
            match (bytes, layers.iter().find(|d| d.digest == digest)) {
                (Some(bytes), _) => self.file(&path, &bytes)?,
                (None, Some(layer)) => self.layer(&path, layer)?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}
