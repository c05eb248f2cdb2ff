//! Writing shared caches into an OCI layout directory.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use kiln_oci::{Digest, Index};

use super::document::{MAX_LAYERS, Written};
use super::place::{blob_path, is_called, read_document, read_index, tagged};
use crate::engine::Engine;
use crate::error::{Error, FileContext as _, Result};
use crate::rootfs::Layer;

const LAYOUT: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
/// Held while the index changes: builds may write to one directory at the same time.
const LOCK: &str = "kiln.lock";

/// Writes documents under their tags. With `collect`, blobs that only the earlier documents of these tags needed are
/// deleted, so that the directory holds what the caches in it need.
///
/// # Errors
/// When something cannot be written, or the directory holds something else.
pub(super) fn write(
    engine: &Engine,
    dir: &Path,
    layers: &[&Arc<Layer>],
    documents: &[(String, Written)],
    collect: bool,
) -> Result<()> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied && !dir.join("oci-layout").exists() && !dir.join(LOCK).exists() {
        return Err(Error::input(format!("`{}` is neither empty nor an OCI layout", dir.display()))
            .hint("name another directory"));
    }
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).on("create", &blobs)?;
    let lock_path = dir.join(LOCK);
    let lock =
        File::options().create(true).truncate(false).write(true).open(&lock_path).on("open", &lock_path)?;
    lock.lock().on("lock", &lock_path)?;
    let mut index = read_index(dir)?;
    let mut old = Vec::new();
    for layer in layers {
        let descriptor = layer.packed.wait()?.descriptor;
        let path = blob_path(dir, &descriptor.digest);
        if fs::metadata(&path).is_ok_and(|m| m.len() == descriptor.size) {
            continue;
        }
        let descriptor = engine.blob(layer)?;
        put(&path, &mut engine.store.open_blob(&descriptor)?)?;
    }
    for (tag, written) in documents {
        put(&blob_path(dir, &Digest::sha256(&written.config)), &mut written.config.as_slice())?;
        put(&blob_path(dir, written.manifest.digest()), &mut written.manifest.bytes.as_slice())?;
        if collect && let Some(index) = &index {
            old.extend(index.manifests.iter().filter(|d| is_called(d, tag)).cloned());
        }
        index = Some(tagged(index, &written.manifest.descriptor, tag));
    }
    put(&dir.join("oci-layout"), &mut &*LAYOUT)?;
    let Some(index) = index else { return Ok(()) };
    let bytes = serde_json::to_vec(&index)
        .map_err(|e| Error::internal("cannot write an index as JSON").because(e))?;
    put(&dir.join("index.json"), &mut bytes.as_slice())?;
    let old: BTreeSet<Digest> = old.iter().flat_map(|d| needed(dir, d, 0)).collect();
    let kept: BTreeSet<Digest> = index.manifests.iter().flat_map(|d| needed(dir, d, 0)).collect();
    for digest in old.difference(&kept) {
        // What cannot be deleted takes space and does no harm.
        let _ = fs::remove_file(blob_path(dir, digest));
    }
    Ok(())
}

/// Returns what a manifest or index of a layout needs, itself included.
fn needed(dir: &Path, descriptor: &kiln_oci::Descriptor, depth: u32) -> BTreeSet<Digest> {
    let mut found = BTreeSet::from([descriptor.digest.clone()]);
    let Ok(document) = read_document(dir, descriptor) else { return found };
    if let Some(manifest) = document.manifest() {
        found.extend(manifest.layers.iter().take(MAX_LAYERS).map(|layer| layer.digest.clone()));
        found.insert(manifest.config.digest.clone());
    }
    if let Some(Index { manifests, .. }) = document.index()
        && depth < 3
    {
        found.extend(manifests.iter().flat_map(|d| needed(dir, d, depth + 1)));
    }
    found
}

/// Writes a file under another name and renames it.
fn put(path: &Path, content: &mut dyn Read) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let tmp = path.with_file_name(format!(".{name}.{}.kiln", std::process::id()));
    let mut file = File::create(&tmp).on("create", &tmp)?;
    let copied = io::copy(content, &mut file).and_then(|_| file.sync_all());
    if let Err(e) = copied {
        let _ = fs::remove_file(&tmp);
        return Err(e).on("write", path);
    }
    fs::rename(&tmp, path).on("rename", path)
}
