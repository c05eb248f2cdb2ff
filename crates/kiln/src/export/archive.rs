//! OCI layouts and Docker archives as one tar file.
//!
//! Every member is known before the first byte is written, down to its offset, because blobs have sizes and their names
//! are digests:
//!
//! ```text
//! blobs/  blobs/sha256/  blobs/sha256/DIGEST ...  index.json  [manifest.json]  oci-layout
//! ```
//!
//! So a file that is there can be compared without reading its layers: equal length, equal headers, equal documents. If all
//! of it is equal the file stays as it is, and no layer has to be on this machine. Where the image is another one, the
//! layers that both have are copied from the old file by the kernel, neither fetched nor hashed again: they were checked
//! when it was written, and it got its name only after it was on disk. The new file takes the name when it is complete.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use kiln_oci::Digest;
use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp, tar_header, tar_padding};
use serde_json::json;

use super::layout::{LAYOUT, index, json_bytes};
use super::write::{TAR_END, Target, existing};
use super::{Job, shown};
use crate::error::{Error, FileContext as _, Result};
use crate::request::Destination;
use crate::rootfs::Layer;

/// More members than any archive of an image has; who names another file as `dest` shall not wait for it to be read.
const MAX_MEMBERS: usize = 4096;

/// A tar file that is not written yet.
struct Archive<'a> {
    job: &'a Job<'a>,
    members: Vec<Member>,
}

struct Member {
    header: Vec<u8>,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    /// A layer and the size of its blob.
    Layer(Arc<Layer>, u64),
}

impl Content {
    fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Layer(_, size) => *size,
        }
    }
}

impl Member {
    /// Length with header and padding.
    fn length(&self) -> u64 {
        let size = self.content.size();
        self.header.len() as u64 + size + tar_padding(size).len() as u64
    }
}

/// Writes the layout as one tar file.
pub(super) fn oci(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let mut archive = Archive::of(job)?;
    archive.file("index.json", json_bytes(&index(job, Vec::new()))?)?;
    archive.file("oci-layout", LAYOUT.to_vec())?;
    archive.write(dest, "an OCI archive", "skopeo copy oci-archive:… …")
}

/// Writes what `docker save` writes: an OCI layout with a `manifest.json`, which `docker load` of any age reads.
pub(super) fn docker(job: &Job<'_>, dest: &Destination) -> Result<String> {
    let mut archive = Archive::of(job)?;
    let tags: Vec<String> =
        job.names.iter().filter(|n| n.tag().is_some()).map(kiln_oci::Reference::familiar).collect();
    let mut layers = Vec::new();
    for layer in &job.image.layers {
        layers.push(blob_name(&layer.packed.wait()?.descriptor.digest));
    }
    let manifest = json!([{
        "Config": blob_name(&job.image.config_descriptor.digest),
        "RepoTags": tags,
        "Layers": layers,
    }]);
    archive.file("index.json", json_bytes(&index(job, Vec::new()))?)?;
    archive.file("manifest.json", json_bytes(&manifest)?)?;
    archive.file("oci-layout", LAYOUT.to_vec())?;
    archive.write(dest, "a Docker archive", "docker load -i …")
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl<'a> Archive<'a> {
    /// Returns an archive of every blob once, in the order of the digests.
    fn of(job: &'a Job<'a>) -> Result<Self> {
        let mut archive = Self { job, members: Vec::new() };
        archive.directory("blobs")?;
        archive.directory("blobs/sha256")?;
        let image = job.image;
        let mut blobs = BTreeMap::new();
        for layer in &image.layers {
            let descriptor = layer.packed.wait()?.descriptor;
            blobs.insert(descriptor.digest, Content::Layer(Arc::clone(layer), descriptor.size));
        }
        blobs.insert(image.config_descriptor.digest.clone(), Content::Bytes(image.config.clone()));
        blobs.insert(image.manifest.digest().clone(), Content::Bytes(image.manifest.bytes.clone()));
        for (digest, content) in blobs {
            archive.member(&blob_name(&digest), content)?;
        }
        Ok(archive)
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        let header = self.header(path, Kind::Directory, 0o755)?;
        self.members.push(Member { header, content: Content::Bytes(Vec::new()) });
        Ok(())
    }

    fn file(&mut self, path: &str, bytes: Vec<u8>) -> Result<()> {
        self.member(path, Content::Bytes(bytes))
    }

    fn member(&mut self, path: &str, content: Content) -> Result<()> {
        let header = self.header(path, Kind::File { size: content.size() }, 0o644)?;
        self.members.push(Member { header, content });
        Ok(())
    }

    fn header(&self, path: &str, kind: Kind, mode: u32) -> Result<Vec<u8>> {
        let path =
            EntryPath::new(path).map_err(|e| Error::internal("a bad name in an archive").because(e))?;
        let mut entry = Entry::new(path, kind, mode);
        entry.mtime = Timestamp::from_secs(self.job.engine.epoch);
        tar_header(&entry).map_err(|e| Error::environment("cannot write the archive").because(e))
    }

    fn write(self, dest: &Destination, what: &str, usage: &str) -> Result<String> {
        let mut old = Old::open(dest);
        if old.as_ref().is_some_and(|old| old.is(&self.members)) {
            return Ok(format!("unchanged: {} is {what} of this image already", shown(dest)));
        }
        let mut target = Target::create(dest, self.job.stdout)?;
        let here = match dest {
            Destination::Path(path) => path.as_path(),
            Destination::Stdout => std::path::Path::new("standard output"),
        };
        for member in &self.members {
            self.job.engine.cancel.check()?;
            target.write_all(&member.header).on("write", here)?;
            match &member.content {
                Content::Bytes(bytes) => target.write_all(bytes).on("write", here)?,
                Content::Layer(layer, size) => {
                    let copied = match &mut old {
                        Some(old) => old.copy(&member.header, *size, &mut target).on("write", here)?,
                        None => false,
                    };
                    if !copied {
                        let descriptor = self.job.engine.blob(layer)?;
                        let mut reader = self.job.engine.store.open_blob(&descriptor)?;
                        io::copy(&mut reader, &mut target).on("write", here)?;
                    }
                }
            }
            target.write_all(tar_padding(member.content.size())).on("write", here)?;
        }
        target.write_all(&TAR_END).on("write", here)?;
        target.finish()?;
        Ok(format!("written as {what} to {}; use it with `{usage}`", shown(dest)))
    }
}

/// The file that has the name by now.
struct Old {
    file: File,
    length: u64,
    /// Where the content of each blob begins, by the header before it: it has the name, which is the digest, and the size.
    blobs: BTreeMap<Vec<u8>, u64>,
}

impl Old {
    fn open(dest: &Destination) -> Option<Self> {
        let file = existing(dest)?;
        let length = file.metadata().ok()?.len();
        let mut old = Self { file, length, blobs: BTreeMap::new() };
        old.find_blobs();
        Some(old)
    }

    /// Reads the headers as far as they are those of a layout that kiln wrote.
    fn find_blobs(&mut self) {
        let mut offset = 0;
        for _ in 0..MAX_MEMBERS {
            let mut header = vec![0; 512];
            if self.file.read_exact_at(&mut header, offset).is_err() {
                return;
            }
            let name = header.get(..100).unwrap_or_default();
            let size = header.get(124..135).and_then(|octal| std::str::from_utf8(octal).ok());
            let Some(size) = size.and_then(|octal| u64::from_str_radix(octal, 8).ok()) else { return };
            offset += 512;
            if name.starts_with(b"blobs/sha256/") && size > 0 && offset + size <= self.length {
                self.blobs.insert(header, offset);
            }
            offset += size + tar_padding(size).len() as u64;
        }
    }

    /// Tells whether the file is what these members would make, going by the names of its layers.
    fn is(&self, members: &[Member]) -> bool {
        let length: u64 = members.iter().map(Member::length).sum();
        if self.length != length + TAR_END.len() as u64 {
            return false;
        }
        let mut offset = 0;
        for member in members {
            let content = offset + member.header.len() as u64;
            let same = match &member.content {
                Content::Bytes(bytes) => self.holds(offset, &member.header) && self.holds(content, bytes),
                Content::Layer(..) => self.holds(offset, &member.header),
            };
            if !same {
                return false;
            }
            offset += member.length();
        }
        self.holds(offset, &TAR_END)
    }

    fn holds(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut there = vec![0; bytes.len()];
        self.file.read_exact_at(&mut there, offset).is_ok() && there == bytes
    }

    /// Copies the content behind `header`; `false` when the file has none such.
    fn copy(&mut self, header: &[u8], size: u64, target: &mut Target) -> io::Result<bool> {
        let Some(offset) = self.blobs.get(header) else { return Ok(false) };
        self.file.seek(SeekFrom::Start(*offset))?;
        target.append(&mut (&mut self.file).take(size), size)?;
        Ok(true)
    }
}
