//! Whether the store holds what it says, and what to remove where it does not. Start at [`Store::fsck`].
//!
//! ```text
//! blobs     read whole and compared with their names           ([`content`])
//! records   parsed; their layers are here, in the size they say
//! images    manifest, config and layers are here
//! snapshots of this boot: every file of the layer is there, with the layer's content   ([`snapshots`])
//! the rest  checkouts, cache mounts, indexes of contexts, notes on web files, build records, temporary files
//!           ([`rest`])
//! ```
//!
//! Nothing here is in the way of a build: whatever is looked at may be used, and may vanish. So a fault is looked at
//! again before it is reported, at a moment when nobody can delete anything, and it is removed only if no living process
//! uses it. Everything but an image and a cache mount can be made again: the next build that wants it does so. What is
//! not checked: the content of a cache mount, which is its commands' own, and a snapshot whose layer is not here.

mod content;
mod rest;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kiln_oci::Descriptor;
use serde::Serialize;

use super::{Store, StoredImage, blobs, cache_mounts, leases};
use crate::error::{Error, FileContext as _, Result};

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultKind {
    /// A blob that is not what its name says.
    Blob,
    /// A cache record that cannot be read, or that says something else than the blob it names.
    Record,
    /// The list of images cannot be read.
    Index,
    /// An image that lacks a part.
    Image,
    /// Files of a layer that are not those of the layer.
    Snapshot,
    /// A commit's files that cannot be used.
    Checkout,
    /// A cache mount of which nobody knows whose it is.
    CacheMount,
    /// Something that is remembered of a context, a web file or a build, and cannot be read.
    Memory,
    /// A temporary file of a process that is gone.
    Rubbish,
}

impl FaultKind {
    /// Returns the word for it, as JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blob => "blob",
            Self::Record => "record",
            Self::Index => "index",
            Self::Image => "image",
            Self::Snapshot => "snapshot",
            Self::Checkout => "checkout",
            Self::CacheMount => "cache-mount",
            Self::Memory => "memory",
            Self::Rubbish => "rubbish",
        }
    }
}

/// What became of a fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is there; nobody asked for a repair.
    Found,
    /// It was removed.
    Repaired,
    /// A running build uses it, so that it stays for now.
    InUse,
    /// It cannot be removed, for this reason.
    Failed(String),
}

/// Something that is wrong with the store.
#[derive(Debug, Clone, Serialize)]
pub struct Fault {
    /// What kind of thing.
    pub kind: FaultKind,
    /// Where it is, below the store.
    pub path: PathBuf,
    /// What is wrong.
    pub cause: String,
    /// What that means for builds.
    pub consequence: &'static str,
    /// What became of it.
    pub state: State,
    /// What is missing, where something is: should it be here after all, there is no fault.
    #[serde(skip)]
    lacks: Option<PathBuf>,
    /// The image that has to be forgotten.
    #[serde(skip)]
    image: Option<Descriptor>,
}

impl Fault {
    fn new(kind: FaultKind, path: PathBuf, cause: impl Into<String>) -> Self {
        let consequence = match kind {
            FaultKind::Blob => "a build that needs it fails, or makes it again",
            FaultKind::Record => "the step that it is about runs again",
            FaultKind::Index => "no image of the store can be used, and nothing be pruned",
            FaultKind::Image => "a build on this image fails, or pulls it again",
            FaultKind::Snapshot => "commands and COPY see other files than the image has",
            FaultKind::Checkout => "the commit is fetched again",
            FaultKind::CacheMount => "no build finds this cache, and it takes space",
            FaultKind::Memory => "what it is about is read or fetched again",
            FaultKind::Rubbish => "it takes space",
        };
        Self { kind, path, cause: cause.into(), consequence, state: State::Found, lacks: None, image: None }
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of blobs.
    pub bytes: u64,
    /// Cache records.
    pub records: u64,
    /// Images.
    pub images: u64,
    /// Snapshots that were compared with their layers.
    pub snapshots: u64,
    /// Snapshots of which only the outside was looked at: their layer is not here, or the machine was restarted since.
    pub snapshots_unknown: u64,
    /// Records whose layers are not here. Such a step is looked for in shared caches, or runs again.
    pub records_without_layer: u64,
    /// Everything else.
    pub others: u64,
    /// Processes that are gone and had left temporary files, which were removed when the store was opened.
    pub cleared: u64,
}

/// The result of [`Store::fsck`].
#[derive(Debug, Default)]
pub struct Fsck {
    /// What is wrong, by path.
    pub faults: Vec<Fault>,
    /// What was looked at.
    pub checked: Checked,
}

impl Fsck {
    /// Tells whether nothing is wrong, or nothing any more.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.faults.iter().all(|fault| fault.state == State::Repaired)
    }
}

/// Whether what is broken is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Only looked at.
    No,
    /// Removed, unless a running build uses it.
    Yes,
}

/// What one check tells the next.
struct Look<'a> {
    store: &'a Store,
    report: Fsck,
    /// Blobs that are not what their names say.
    bad: BTreeSet<String>,
    /// The layer of a snapshot, by the snapshot's name.
    layers: BTreeMap<String, Descriptor>,
}

impl Look<'_> {
    fn root(&self) -> &Path {
        self.store.root()
    }

    fn fault(&mut self, kind: FaultKind, path: &Path, cause: impl Into<String>) -> &mut Fault {
        let inside = path.strip_prefix(self.root()).unwrap_or(path).to_owned();
        let at = self.report.faults.len();
        self.report.faults.push(Fault::new(kind, inside, cause));
        &mut self.report.faults[at]
    }

    /// Returns what is wrong with the blob of a descriptor, and the path that lacks if it does.
    fn blob(&self, descriptor: &Descriptor) -> Option<(String, PathBuf)> {
        let path = PathBuf::from(blobs::FOLDER).join(descriptor.digest.hex());
        let short = descriptor.digest.short();
        if self.bad.contains(descriptor.digest.hex()) {
            return Some((format!("its blob {short} is damaged"), path));
        }
        match std::fs::metadata(self.root().join(&path)) {
            Err(_) => Some((format!("its blob {short} is not in the store"), path)),
            Ok(meta) if meta.len() != descriptor.size => {
                let (is, says) = (meta.len(), descriptor.size);
                Some((format!("its blob {short} has {is} bytes, and should have {says}"), path))
            }
            Ok(_) => None,
        }
    }
}

impl Store {
    /// Verifies the store under `root`, beside any builds that run.
    ///
    /// # Errors
    /// When the store cannot be opened, or a folder of it not be listed. What is wrong *in* it is in the result.
    pub fn fsck(root: &Path, repair: Repair) -> Result<Fsck> {
        if !root.join("format").exists() {
            return Ok(Fsck::default());
        }
        let cleared = leases::dead(&root.join("tmp")).map_or(0, |dead| dead.len() as u64);
        let store = Self::open(root)?;
        let mut look =
            Look { store: &store, report: Fsck::default(), bad: BTreeSet::new(), layers: BTreeMap::new() };
        look.report.checked.cleared = cleared;
        look.content()?;
        look.records()?;
        look.images()?;
        look.snapshots()?;
        look.rest()?;
        let mut report = look.report;
        report.faults.sort_by(|a, b| a.path.cmp(&b.path));
        let removed = store.inner.leases.alone(|uses| {
            report.faults.retain(|fault| store.is_still(fault));
            match repair {
                Repair::Yes => Ok(store.take_away(&mut report.faults, uses)),
                Repair::No => Ok(Vec::new()),
            }
        })?;
        // What was moved away is deleted when builds have their turn again.
        for path in removed {
            kiln_sandbox::remove_tree(&path).on("remove", &path)?;
        }
        if repair == Repair::Yes {
            store.forget_broken_images(&mut report.faults)?;
        }
        Ok(report)
    }

    /// Tells whether a fault is there, at a moment when nobody can delete anything.
    fn is_still(&self, fault: &Fault) -> bool {
        let lacking = |path: &PathBuf| !self.root().join(path).exists();
        let there = self.root().join(&fault.path).symlink_metadata().is_ok();
        let image = fault.image.as_ref().is_none_or(|image| {
            self.images().is_ok_and(|all| all.iter().any(|stored| stored.descriptor == *image))
        });
        there && image && fault.lacks.as_ref().is_none_or(lacking)
    }

    /// Moves away what no living process uses; returns where it lies.
    fn take_away(&self, faults: &mut [Fault], uses: &BTreeSet<String>) -> Vec<PathBuf> {
        let mut moved = Vec::new();
        for fault in faults.iter_mut().filter(|fault| fault.image.is_none()) {
            let path = self.root().join(&fault.path);
            let busy = match fault.kind {
                FaultKind::CacheMount => cache_mounts::is_busy(&path),
                _ => uses.contains(fault.path.to_string_lossy().as_ref()),
            };
            if busy {
                fault.state = State::InUse;
                continue;
            }
            let target = self.tmp_path();
            fault.state = match std::fs::rename(&path, &target) {
                Ok(()) => State::Repaired,
                Err(e) => State::Failed(e.to_string()),
            };
            moved.push(target);
        }
        moved
    }

    /// Takes the images that lack a part out of `index.json`.
    fn forget_broken_images(&self, faults: &mut [Fault]) -> Result<()> {
        for fault in faults.iter_mut() {
            let Some(broken) = &fault.image else { continue };
            for image in self.images()?.iter().filter(|image| image.descriptor == *broken) {
                self.remove_image(image)?;
            }
            fault.state = State::Repaired;
        }
        Ok(())
    }
}

fn failed(error: &Error) -> String {
    error.causes().into_iter().fold(error.message.clone(), |all, cause| format!("{all}: {cause}"))
}

/// Returns an image's name for people.
fn title(image: &StoredImage) -> String {
    image.name.as_ref().map_or_else(|| image.descriptor.digest.short().to_owned(), ToString::to_string)
}
