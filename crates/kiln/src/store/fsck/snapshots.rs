//! Unpacked layers against the layers that they were made from.
//!
//! A snapshot may hold more than its layer: an overlay copies the directories above a changed file. So every entry of
//! the layer is looked for in the snapshot, and not the other way round. Owners and times are not compared: how they are
//! kept depends on who unpacked it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use kiln_oci::Descriptor;
use kiln_oci::layer::{Content, Entry, EntryPath, Kind, LayerReader, Limits, Whiteout};
use kiln_sandbox::rootdir::{Kind as FileKind, RootDir};

use super::{FaultKind, Look, blobs};
use crate::error::{FileContext as _, Result};
use crate::store::BOOT;
use crate::store::size::list;

/// Faults of one snapshot that are named; it is removed as a whole.
const NAMED: usize = 3;
/// Bytes that are compared at once.
const CHUNK: usize = 64 << 10;

impl Look<'_> {
    /// Looks at every snapshot.
    pub(super) fn snapshots(&mut self) -> Result<()> {
        for (scheme, _) in list(&self.root().join("snapshots"))? {
            for (dir, _) in list(&scheme)? {
                let boot = match fs::read_to_string(dir.join(BOOT)) {
                    Ok(boot) => boot,
                    // Pruned meanwhile, or made without: nobody believes it either way.
                    Err(_) if !dir.exists() => continue,
                    Err(e) => {
                        self.fault(
                            FaultKind::Snapshot,
                            &dir,
                            format!("it has no readable mark `{BOOT}`: {e}"),
                        );
                        continue;
                    }
                };
                if boot != self.store.inner.boot {
                    // After a restart nobody uses it.
                    self.report.checked.snapshots_unknown += 1;
                    continue;
                }
                let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let layer = self.layers.get(&name).filter(|layer| !self.bad.contains(layer.digest.hex()));
                match self.compare(&dir.join("fs"), layer) {
                    Ok(true) => self.report.checked.snapshots += 1,
                    Ok(false) => self.report.checked.snapshots_unknown += 1,
                    Err(_) if !dir.exists() => {}
                    Err(cause) => drop(self.fault(FaultKind::Snapshot, &dir, cause)),
                }
            }
        }
        Ok(())
    }

    /// Compares a snapshot with its layer; tells whether there was one to compare it with.
    fn compare(&self, files: &Path, layer: Option<&Descriptor>) -> std::result::Result<bool, String> {
        let root = RootDir::open(files).map_err(|e| format!("its directory `fs` cannot be opened: {e}"))?;
        let Some(layer) = layer else { return Ok(false) };
        let Ok(blob) = File::open(self.root().join(blobs::FOLDER).join(layer.digest.hex())) else {
            return Ok(false);
        };
        let wrong = differences(blob, &root).map_err(|e| super::failed(&e))?;
        if wrong.is_empty() {
            return Ok(true);
        }
        let mut cause: Vec<String> =
            wrong.iter().take(NAMED).map(|(path, what)| format!("`{path}` {what}")).collect();
        if wrong.len() > NAMED {
            cause.push(format!("{} more differ", wrong.len() - NAMED));
        }
        Err(format!("not what its layer {} has: {}", layer.digest.short(), cause.join(", ")))
    }
}

/// Returns what a snapshot has otherwise than its layer.
fn differences(blob: File, root: &RootDir) -> Result<BTreeMap<EntryPath, &'static str>> {
    let limits = Limits { max_unpacked: u64::MAX, max_entries: u64::MAX, max_ratio: None };
    let damaged = |e| crate::Error::layer("cannot read its layer", e);
    let mut reader = LayerReader::new(blob, limits).map_err(damaged)?;
    let mut wrong: BTreeMap<EntryPath, &'static str> = BTreeMap::new();
    while let Some((entry, mut content)) = reader.next().map_err(damaged)? {
        let path = match entry.path.whiteout().unwrap_or(None) {
            Some(Whiteout::Remove(path)) => path,
            Some(Whiteout::Opaque(_) | Whiteout::Metadata) => continue,
            None => entry.path.clone(),
        };
        let verdict = verdict(&entry, &path, &mut content, root);
        // A later entry replaces an earlier one of the same name, and what was below it.
        if entry.kind != Kind::Directory {
            wrong.retain(|other, _| !other.starts_with(&path));
        }
        match verdict.on("compare", path.as_path())? {
            None => drop(wrong.remove(&path)),
            Some(what) => drop(wrong.insert(path, what)),
        }
    }
    Ok(wrong)
}

/// Returns what is wrong with one entry.
fn verdict<R: Read>(
    entry: &Entry,
    path: &EntryPath,
    content: &mut Content<'_, R>,
    root: &RootDir,
) -> io::Result<Option<&'static str>> {
    let Ok(meta) = root.lstat(path.as_path()) else { return Ok(Some("is missing")) };
    if *path != entry.path {
        // It is removed from the layers below, unless the layer brings it as well.
        return Ok(None);
    }
    let same_kind = match &entry.kind {
        Kind::File { .. } | Kind::HardLink { .. } if meta.is_whiteout() => false,
        Kind::File { .. } => meta.kind == FileKind::File,
        Kind::Directory => meta.kind == FileKind::Directory,
        Kind::Symlink { .. } => meta.kind == FileKind::Symlink,
        Kind::HardLink { .. } => meta.kind != FileKind::Directory,
        Kind::Fifo => meta.kind == FileKind::Fifo,
        // Who may not make a device has an empty file in its place.
        Kind::CharDevice { .. } => matches!(meta.kind, FileKind::CharacterDevice | FileKind::File),
        Kind::BlockDevice { .. } => matches!(meta.kind, FileKind::BlockDevice | FileKind::File),
    };
    if !same_kind {
        return Ok(Some("is a file of another kind"));
    }
    match &entry.kind {
        Kind::Symlink { target } => {
            let found = root.readlink(path.as_path()).map_err(io::Error::other)?;
            let same = found.as_os_str().as_encoded_bytes() == target.as_slice();
            Ok((!same).then_some("leads elsewhere"))
        }
        Kind::File { size } if meta.size != *size => Ok(Some("has another size")),
        Kind::File { .. } => {
            let Ok(file) = root.open_file(path.as_path()) else { return Ok(Some("cannot be opened")) };
            Ok((!same_content(content, file)?).then_some("has another content"))
        }
        _ => Ok(None),
    }
}

fn same_content(layer: &mut impl Read, mut file: File) -> io::Result<bool> {
    let (mut ours, mut theirs) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        let n = layer.read(&mut ours)?;
        let (ours, theirs) = (ours.get(..n).unwrap_or_default(), theirs.get_mut(..n).unwrap_or_default());
        if n == 0 {
            return Ok(true);
        }
        match file.read_exact(theirs) {
            Ok(()) if ours == theirs => {}
            Ok(()) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}
