//! Layers on disk, against what the kernel makes of them where it lets us.

mod changes;
mod diffing;
mod merging;
mod overlay;
mod trees;
mod unpacking;
mod viewing;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_oci::layer::{
    Compression, Entry, EntryPath, Kind, LayerReader, LayerWriter, Limits, Precision, Timestamp,
};

use super::*;

/// A directory that is gone when the test is over.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("kiln-snapshot-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Returns a new directory.
    pub(super) fn dir(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed may leave directories without rights; those stay for whoever looks.
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

pub(super) type Content = Vec<(Entry, Vec<u8>)>;

pub(super) fn path(name: impl AsRef<[u8]>) -> EntryPath {
    EntryPath::new(name).unwrap()
}

pub(super) fn file(name: &str, content: &str) -> (Entry, Vec<u8>) {
    let kind = Kind::File { size: content.len() as u64 };
    (Entry::new(path(name), kind, 0o644), content.as_bytes().to_vec())
}

pub(super) fn directory(name: &str) -> (Entry, Vec<u8>) {
    (Entry::new(path(name), Kind::Directory, 0o755), vec![])
}

pub(super) fn symlink(name: &str, target: &str) -> (Entry, Vec<u8>) {
    (Entry::new(path(name), Kind::Symlink { target: target.into() }, 0o777), vec![])
}

pub(super) fn hard_link(name: &str, target: &str) -> (Entry, Vec<u8>) {
    (Entry::new(path(name), Kind::HardLink { target: path(target) }, 0o644), vec![])
}

pub(super) fn whiteout(name: &str) -> (Entry, Vec<u8>) {
    (Entry::whiteout(&path(name)), vec![])
}

pub(super) fn opaque(name: &str) -> (Entry, Vec<u8>) {
    (Entry::opaque(&path(name)), vec![])
}

pub(super) fn tar(entries: &Content) -> Vec<u8> {
    let mut writer =
        LayerWriter::new(Vec::new(), Compression::None, 1).unwrap().with_precision(Precision::Nanoseconds);
    for (entry, content) in entries {
        writer.append(entry, Some(&mut content.as_slice())).unwrap();
    }
    writer.finish().unwrap().sink
}

pub(super) fn unpack_into(dir: &Path, entries: &Content, ids: &dyn Ids) -> Result<Unpacked> {
    let tar = tar(entries);
    unpack(LayerReader::new(tar.as_slice(), Limits::default()).unwrap(), dir, ids)
}

/// Owners as the process that runs the test can show them.
pub(super) fn ids() -> Box<dyn Ids + Send> {
    if is_root() { Box::new(SameIds) } else { Box::new(one_id()) }
}

pub(super) fn one_id() -> OneId {
    OneId(Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() })
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Unpacks a stack of layers, given bottom first; returns their directories topmost first.
pub(super) fn stack(scratch: &Scratch, layers: &[Content]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        let dir = scratch.dir(&format!("layer-{i}"));
        unpack_into(&dir, layer, &*ids()).unwrap();
        out.insert(0, dir);
    }
    out
}

/// Entries by path, with content and, for files of several names, the first of them.
pub(super) type Shown = BTreeMap<EntryPath, (Entry, Vec<u8>, Option<EntryPath>)>;

/// Returns everything a view shows.
pub(super) fn shown(layers: &[PathBuf]) -> Shown {
    let view = View::with_ids(layers.to_vec(), Ported).unwrap();
    let mut first = BTreeMap::new();
    let mut out = BTreeMap::new();
    for visited in view.walk(&EntryPath::root()).unwrap() {
        let Visited { relative, entry, node } = visited.unwrap();
        let mut content = Vec::new();
        if matches!(entry.kind, Kind::File { .. }) {
            view.open_node(&node).unwrap().read_to_end(&mut content).unwrap();
        }
        let identity = (node.identity.device, node.identity.inode);
        let group = (node.identity.links > 1 && !node.is_directory())
            .then(|| first.entry(identity).or_insert_with(|| relative.clone()).clone());
        out.insert(relative, (entry, content, group));
    }
    out
}

/// The ids of [`ids`], in a form that a view can own.
pub(super) struct Ported;

impl Ids for Ported {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        ids().to_disk(container)
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        ids().to_container(disk)
    }
}

pub(super) fn collect(upper: &Path, lowers: &[PathBuf], stubs: &[PathBuf], options: Options) -> Content {
    let ids = ids();
    let changes = diff(upper, lowers, &*ids, stubs, options).unwrap();
    let mut out = Vec::new();
    for change in changes {
        let Change { entry, file } = change.unwrap();
        let mut content = Vec::new();
        if let Some(mut file) = file {
            file.read_to_end(&mut content).unwrap();
        }
        out.push((entry, content));
    }
    out
}

pub(super) fn names(entries: &Content) -> Vec<String> {
    entries.iter().map(|(e, _)| e.path.to_string()).collect()
}

pub(super) fn at(secs: i64) -> Timestamp {
    Timestamp::from_secs(secs)
}
