//! OCI image layouts (OCI image specification, `image-layout.md`) as directories.
//!
//! Only what changes is written. A blob that is there in full size stays, and is not even fetched: its name says what
//! it holds, and the exporter that wrote it synced it before it got that name.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use kiln_oci::{Descriptor, Index, MediaType};

use super::write::beside;
use super::{Job, shown};
use crate::error::{Error, FileContext as _, Result};
use crate::request::Destination;
use crate::store::REF_NAME;

/// Content of `oci-layout`.
pub(super) const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// Returns the index of a layout that holds the image under its names; what `existing` has of it keeps its place.
pub(super) fn index(job: &Job<'_>, existing: Vec<Descriptor>) -> Index {
    let mut entry = job.image.manifest.descriptor.clone();
    entry.platform = Some(job.image.platform.clone());
    let mut wanted: Vec<Descriptor> = Vec::new();
    for name in job.names {
        let mut named = entry.clone();
        named.annotations.insert(REF_NAME.to_owned(), name.to_string());
        wanted.push(named);
    }
    if wanted.is_empty() {
        wanted.push(entry);
    }
    let mut manifests: Vec<Descriptor> = Vec::new();
    for there in existing {
        let name = there.annotations.get(REF_NAME);
        let same = |new: &Descriptor| match name {
            Some(name) => new.annotations.get(REF_NAME) == Some(name),
            None => new.digest == there.digest,
        };
        match wanted.iter().position(same) {
            Some(found) => manifests.push(wanted.remove(found)),
            None if name.is_none() && there.digest == job.image.manifest.descriptor.digest => {}
            None => manifests.push(there),
        }
    }
    manifests.append(&mut wanted);
    Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.into()),
        manifests,
        annotations: std::collections::BTreeMap::new(),
        other: std::collections::BTreeMap::new(),
    }
}

pub(super) fn json_bytes(value: &impl serde::Serialize) -> Result<Vec<u8>> {
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
    let mut changed = false;
    for layer in &job.image.layers {
        let descriptor = layer.packed.wait()?.descriptor;
        let path = blobs.join(descriptor.digest.hex());
        if !has(&path, descriptor.size) {
            let descriptor = job.engine.blob(layer)?;
            put(&path, &mut job.engine.store.open_blob(&descriptor)?)?;
            changed = true;
        }
    }
    let documents = [
        (&job.image.config_descriptor, &job.image.config),
        (&job.image.manifest.descriptor, &job.image.manifest.bytes),
    ];
    for (descriptor, bytes) in documents {
        let path = blobs.join(descriptor.digest.hex());
        changed |= put_if_other(&path, bytes)?;
    }
    changed |= put_if_other(&dir.join("oci-layout"), LAYOUT)?;
    let manifests = if fresh { Vec::new() } else { existing.manifests };
    // The index names the image, so it comes last.
    changed |= put_if_other(&dir.join("index.json"), &json_bytes(&index(job, manifests))?)?;
    Ok(match changed {
        true => format!("written as an OCI layout to {}", shown(dest)),
        false => format!("unchanged: {} is an OCI layout with this image already", shown(dest)),
    })
}

fn has(path: &Path, size: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() == size)
}

/// Writes a small file unless it has this content, and tells whether it did.
fn put_if_other(path: &Path, bytes: &[u8]) -> Result<bool> {
    if has(path, bytes.len() as u64) && fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(false);
    }
    put(path, &mut &*bytes)?;
    Ok(true)
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
