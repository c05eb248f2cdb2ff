//! What is in the store, what each of it takes, and who needs it. Start at [`Store::survey`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kiln_oci::{Digest, Document, Index};
use serde::Serialize;

use super::cache_mounts::{is_busy, slots};
use super::size::{blocks, disk_use, list, own_blocks};
use super::{BOOT, Record, Store, blobs};
use crate::error::{Error, FileContext as _, Result};

/// What an entry of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// What a step with a given key gave.
    Record,
    /// The files of a layer, or of a context for a mount.
    Snapshot,
    /// A compressed layer, or a manifest or config, that no image of the store needs.
    Layer,
    /// A directory of `RUN --mount=type=cache`.
    CacheMount,
    /// A file of a web server, and what is remembered of its address.
    Http,
    /// The files of a commit.
    Git,
    /// What is remembered of the files of a build context.
    Context,
    /// A blob that an image of the store needs.
    Image,
    /// The record of a build.
    History,
}

impl EntryKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Layer,
        Self::Snapshot,
        Self::Record,
        Self::CacheMount,
        Self::Http,
        Self::Git,
        Self::Context,
        Self::Image,
        Self::History,
    ];

    /// Returns the word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Snapshot => "snapshot",
            Self::Layer => "layer",
            Self::CacheMount => "cache-mount",
            Self::Http => "http",
            Self::Git => "git",
            Self::Context => "context",
            Self::Image => "image",
            Self::History => "history",
        }
    }
}

/// One entry of the store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name: a digest without algorithm, the id of a cache mount, what a checkout is called.
    pub id: String,
    /// What it holds, for people, where that is known.
    pub description: Option<String>,
    /// Bytes on disk.
    pub size: u64,
    /// When a build used it last.
    pub used: SystemTime,
    /// Whether a living process uses it.
    pub in_use: bool,
    pub(super) path: PathBuf,
    /// The file whose time is that of the last use.
    pub(super) mark: PathBuf,
    /// The blob without which it is useless.
    pub(super) blob: Option<String>,
}

impl Entry {
    /// Tells whether `kiln prune` may delete it now: images and the history are not cache.
    #[must_use]
    pub fn is_reclaimable(&self) -> bool {
        !self.in_use && !matches!(self.kind, EntryKind::Image | EntryKind::History)
    }
}

/// A number of entries and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// How many.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
}

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.entries += 1;
        self.bytes += bytes;
    }
}

/// What is in the store.
#[derive(Debug, Default)]
pub struct Survey {
    /// Every entry, by path.
    pub entries: Vec<Entry>,
    /// Bytes of everything else: folders, locks, indexes, and what running builds are writing.
    pub other: u64,
}

impl Survey {
    /// Returns the bytes that the store takes on disk.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.other + self.entries.iter().map(|entry| entry.size).sum::<u64>()
    }
}

impl Store {
    /// Looks at everything in the store. Nothing that it looks at counts as used.
    ///
    /// # Errors
    /// When a folder cannot be listed, or `index.json` is damaged.
    pub fn survey(&self) -> Result<Survey> {
        let root = self.root();
        let needed = Needed::read(root)?;
        let mut entries = Vec::new();
        let titles = self.records(&mut entries)?;
        self.blobs(&needed, &titles, &mut entries)?;
        self.directories(&titles, &mut entries)?;
        for (path, meta) in list(&root.join("contexts"))? {
            entries.push(entry(EntryKind::Context, &path, blocks(&meta), &meta));
        }
        for (path, meta) in list(&root.join("inputs"))? {
            let mut entry = entry(EntryKind::Record, &path, blocks(&meta), &meta);
            entry.description = Some("files that a step took".to_owned());
            entry.blob = titles.records.get(&name(&path)).cloned();
            entries.push(entry);
        }
        for (path, meta) in list(&root.join("history"))? {
            entries.push(entry(EntryKind::History, &path, disk_use(&path), &meta));
        }
        self.inner.leases.alone(|uses| {
            let used = |path: &Path| {
                path.strip_prefix(root).is_ok_and(|path| uses.contains(path.to_string_lossy().as_ref()))
            };
            for entry in &mut entries {
                let blob = entry.blob.as_ref().map(|name| root.join(blobs::FOLDER).join(name));
                entry.in_use = match entry.kind {
                    EntryKind::CacheMount => is_busy(&entry.path),
                    _ => used(&entry.path) || blob.is_some_and(|blob| used(&blob)),
                };
            }
            Ok(())
        })?;
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Survey { entries, other: self.other()? })
    }

    /// Adds records, and what is remembered of web servers; returns what is known of blobs and snapshots.
    fn records(&self, entries: &mut Vec<Entry>) -> Result<Titles> {
        let mut titles = Titles::default();
        for (path, meta) in list(&self.root().join("records"))? {
            let bytes = fs::read(&path).unwrap_or_default();
            let mut entry = entry(EntryKind::Record, &path, blocks(&meta), &meta);
            if let Ok(record) = serde_json::from_slice::<Record>(&bytes) {
                for packed in record.layers.values() {
                    let blob = packed.descriptor.digest.hex().to_owned();
                    titles.snapshots.insert(packed.diff_id.hex().to_owned(), record.title.clone());
                    titles.blobs.insert(blob.clone(), record.title.clone());
                    // A layer in two compressions is rare: the record goes with the first.
                    entry.blob.get_or_insert(blob);
                }
                if let Some(snapshot) = record.snapshot {
                    titles.snapshots.insert(snapshot, record.title.clone());
                }
                entry.description = Some(record.title);
                titles.records.extend(entry.blob.clone().map(|blob| (name(&path), blob)));
            }
            entries.push(entry);
        }
        for (path, meta) in list(&self.root().join("http"))? {
            let json: serde_json::Value = fs::read(&path)
                .ok()
                .and_then(|bytes| serde_json::from_slice(&bytes).ok())
                .unwrap_or_default();
            let text = |name: &str| json.get(name).and_then(|value| value.as_str()).map(str::to_owned);
            let mut entry = entry(EntryKind::Http, &path, blocks(&meta), &meta);
            entry.description = text("url");
            entry.blob = text("digest")
                .and_then(|digest| digest.parse::<Digest>().ok())
                .map(|digest| digest.hex().to_owned());
            if let (Some(blob), Some(url)) = (&entry.blob, &entry.description) {
                titles.files.insert(blob.clone(), url.clone());
            }
            entries.push(entry);
        }
        Ok(titles)
    }

    fn blobs(&self, needed: &Needed, titles: &Titles, entries: &mut Vec<Entry>) -> Result<()> {
        for (path, meta) in list(&self.root().join(blobs::FOLDER))? {
            let name = name(&path);
            let (kind, title) = match (titles.blobs.get(&name), titles.files.get(&name)) {
                _ if needed.by.contains_key(&name) => (EntryKind::Image, titles.blobs.get(&name)),
                (None, Some(url)) => (EntryKind::Http, Some(url)),
                (title, _) => (EntryKind::Layer, title),
            };
            let description = title.cloned().unwrap_or_else(|| content(&path).to_owned());
            let mut entry = entry(kind, &path, blocks(&meta), &meta);
            entry.description = Some(description);
            entries.push(entry);
        }
        Ok(())
    }

    /// Adds snapshots, checkouts and cache mounts.
    fn directories(&self, titles: &Titles, entries: &mut Vec<Entry>) -> Result<()> {
        let mut add = |kind, path: &Path, meta: &Metadata, description: Option<String>| {
            let mut entry = entry(kind, path, self.remembered_size(path, None), meta);
            entry.mark = path.join(BOOT);
            entry.used = used(&entry.mark).unwrap_or(entry.used);
            entry.description = description;
            entries.push(entry);
        };
        for (scheme, _) in list(&self.root().join("snapshots"))? {
            for (path, meta) in list(&scheme)? {
                let name = name(&path);
                let of_context = || name.starts_with("context-").then(|| "files of a context".to_owned());
                let title = titles.snapshots.get(&name).cloned();
                add(EntryKind::Snapshot, &path, &meta, title.or_else(of_context));
            }
        }
        for (path, meta) in list(&self.root().join("git"))? {
            let commit = name(&path).split('-').next().map(|commit| format!("commit {commit}"));
            add(EntryKind::Git, &path, &meta, commit);
        }
        for slot in slots(self.root())? {
            let Ok(meta) = fs::metadata(&slot.dir) else { continue };
            let mut entry = entry(EntryKind::CacheMount, &slot.dir, 0, &meta);
            entry.mark = slot.dir.join(super::cache_mounts::LOCK);
            entry.used = slot.used;
            entry.size = self.cache_size(&slot.dir, &entry.mark, slot.used)?;
            if let Some(identity) = slot.identity {
                let namespace =
                    (!identity.namespace.is_empty()).then(|| format!("of {}", identity.namespace));
                entry.description = namespace;
                entry.id = identity.id;
            }
            entries.push(entry);
        }
        Ok(())
    }

    /// Counts a cache mount; remembers the sum if no command had the cache meanwhile.
    fn cache_size(&self, dir: &Path, mark: &Path, used_at: SystemTime) -> Result<u64> {
        if self.inner.leases.alone(|_| Ok(is_busy(dir) || used(mark) != Some(used_at)))? {
            return Ok(disk_use(dir));
        }
        // Who takes the cache while it is counted sets its time, so that the sum is not believed, whatever it is.
        Ok(self.remembered_size(dir, Some(used_at)))
    }

    /// Returns the bytes of everything that is no entry, without this process's own folder.
    fn other(&self) -> Result<u64> {
        let root = self.root();
        let mut bytes = own_blocks(root) + own_blocks(&root.join("blobs"));
        for (path, meta) in list(root)? {
            bytes += match name(&path).as_str() {
                "records" | "inputs" | "http" | "git" | "contexts" | "history" => blocks(&meta),
                "snapshots" => blocks(&meta) + list(&path)?.iter().map(|(_, meta)| blocks(meta)).sum::<u64>(),
                "blobs" => own_blocks(&root.join(blobs::FOLDER)),
                "cache-mounts" => blocks(&meta) + cache_folders(&path)?,
                "tmp" => {
                    let mine = self.inner.leases.dir();
                    let all = list(&path)?;
                    let others = all.iter().filter(|(path, _)| path != mine);
                    blocks(&meta) + others.map(|(path, _)| disk_use(path)).sum::<u64>()
                }
                _ => disk_use(&path),
            };
        }
        Ok(bytes)
    }
}

/// Returns the bytes of the folders above cache mounts, and of their descriptions.
fn cache_folders(top: &Path) -> Result<u64> {
    let mut bytes = 0;
    for (scheme, meta) in list(top)? {
        bytes += blocks(&meta);
        for (key, meta) in list(&scheme)? {
            bytes += blocks(&meta);
            bytes += list(&key)?.iter().filter(|(_, m)| !m.is_dir()).map(|(_, m)| blocks(m)).sum::<u64>();
        }
    }
    Ok(bytes)
}

/// What records say about other entries.
#[derive(Default)]
struct Titles {
    /// The blob that a record is about, by its key.
    records: BTreeMap<String, String>,
    blobs: BTreeMap<String, String>,
    snapshots: BTreeMap<String, String>,
    /// Addresses of files of web servers.
    files: BTreeMap<String, String>,
}

fn entry(kind: EntryKind, path: &Path, size: u64, meta: &Metadata) -> Entry {
    let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    let id = name(path);
    let (path, mark) = (path.to_owned(), path.to_owned());
    Entry { kind, id, description: None, size, used, in_use: false, path, mark, blob: None }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the time of the last use; `None` when the entry is gone.
pub(super) fn used(mark: &Path) -> Option<SystemTime> {
    fs::symlink_metadata(mark).and_then(|meta| meta.modified()).ok()
}

/// Tells by its first byte what a blob is of which nothing else is known.
fn content(path: &Path) -> &'static str {
    let mut first = [0];
    match fs::File::open(path).and_then(|mut file| file.read_exact(&mut first)) {
        Ok(()) if first == *b"{" => "manifest or config",
        _ => "layer of an image",
    }
}

/// What the images of the store need.
#[derive(Debug, Default)]
pub(super) struct Needed {
    /// `index.json` as it was.
    index: Vec<u8>,
    /// The images that need a blob.
    pub(super) by: BTreeMap<String, BTreeSet<Digest>>,
}

impl Needed {
    /// Reads what is needed now.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut needed = Self { index: index(root)?, by: BTreeMap::new() };
        if needed.index.is_empty() {
            return Ok(needed);
        }
        let top: Index = serde_json::from_slice(&needed.index).map_err(|e| {
            Error::environment(format!("`{}/index.json` is damaged", root.display()))
                .because(e)
                .hint("delete this file: the images it lists are forgotten, their layers stay in the cache")
        })?;
        for image in &top.manifests {
            let mut todo = vec![(image.digest.clone(), image.media_type.clone())];
            while let Some((digest, media_type)) = todo.pop() {
                let new = needed.note(&digest, &image.digest);
                let bytes = fs::read(root.join(blobs::FOLDER).join(digest.hex())).ok().filter(|_| new);
                let Some(document) = bytes.and_then(|b| Document::parse(b, Some(&media_type)).ok()) else {
                    continue;
                };
                if let Some(index) = document.index() {
                    todo.extend(index.manifests.iter().map(|d| (d.digest.clone(), d.media_type.clone())));
                }
                if let Some(manifest) = document.manifest() {
                    for part in manifest.layers.iter().chain([&manifest.config]) {
                        needed.note(&part.digest, &image.digest);
                    }
                }
            }
        }
        Ok(needed)
    }

    fn note(&mut self, blob: &Digest, image: &Digest) -> bool {
        self.by.entry(blob.hex().to_owned()).or_default().insert(image.clone())
    }

    /// Tells whether the images are still those that were read.
    pub(super) fn is_current(&self, root: &Path) -> Result<bool> {
        Ok(index(root)? == self.index)
    }
}

fn index(root: &Path) -> Result<Vec<u8>> {
    let path = root.join("index.json");
    match fs::read(&path) {
        Ok(bytes) => Ok(bytes),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).on("read", &path),
    }
}
