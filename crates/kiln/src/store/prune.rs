//! Deleting what is not needed, while builds may run.
//!
//! First everything is looked at ([`Survey`]), then what may go is put in order, least recently used first, and moved
//! into this process's folder under `tmp`, a few entries at a time; each is looked at again at the moment of the move
//! ([`super::leases`]). Deletion proper comes after the move, so that a build never waits for it, and a process that is
//! killed meanwhile leaves rubbish, which the next one removes, and no torn entry.
//!
//! A blob takes along the records that name it, records first: a record without its layer would be asked for in vain.
//! A snapshot takes nothing along, because it can be unpacked again. The images of the store keep their blobs, unless
//! they are asked for; then an image is forgotten before its first blob goes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::survey::{Needed, used};
use super::{Amount, Entry, EntryKind, Store, Survey, blobs, cache_mounts, leases, size};
use crate::error::{Error, FileContext as _, Result};

/// So many entries are moved before builds get their turn.
const AT_ONCE: usize = 32;

/// What to delete. Everything that is given must hold of an entry.
#[derive(Debug, Clone, Default)]
pub struct PruneOptions {
    /// Images too, not only the cache.
    pub images: bool,
    /// Only what was not used for so long.
    pub older_than: Option<Duration>,
    /// Only entries of all these kinds.
    pub kinds: Vec<EntryKind>,
    /// Only cache mounts with all these ids.
    pub ids: Vec<String>,
    /// No more than it takes to bring the whole store down to so many bytes.
    pub keep: Option<u64>,
    /// No more than it takes until so many bytes of the file system are free.
    pub free: Option<u64>,
    /// Nothing; only tell what would go.
    pub dry_run: bool,
}

/// What was deleted.
#[derive(Debug, Default)]
pub struct Pruned {
    /// What went, in order.
    pub entries: Vec<Entry>,
    /// Entries that would have gone and stay, because a running build uses them.
    pub in_use: u64,
    /// Bytes that the store takes on disk now.
    pub left: u64,
    /// Bytes above the limits that could not be freed.
    pub over: u64,
    /// The first failure to delete something; the rest was deleted.
    pub failed: Option<Error>,
}

impl Pruned {
    /// Returns how much of each kind went.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<EntryKind, Amount> {
        let mut kinds: BTreeMap<EntryKind, Amount> = BTreeMap::new();
        for entry in &self.entries {
            kinds.entry(entry.kind).or_default().add(entry.size);
        }
        kinds
    }
}

impl PruneOptions {
    fn wants(&self, entry: &Entry, now: SystemTime) -> bool {
        let kind = match entry.kind {
            EntryKind::History => return false,
            EntryKind::Image if !self.images => return false,
            kind => kind,
        };
        let idle = || now.duration_since(entry.used).unwrap_or_default();
        self.kinds.iter().all(|wanted| *wanted == kind)
            && (self.ids.is_empty() || kind == EntryKind::CacheMount)
            && self.ids.iter().all(|id| *id == entry.id)
            && self.older_than.is_none_or(|age| idle() >= age)
    }

    /// Returns how many bytes have to go; `None` where there is no limit to reach.
    fn goal(&self, survey: &Survey, root: &Path) -> Result<Option<u64>> {
        let above = self.keep.map(|keep| survey.total().saturating_sub(keep));
        let lacking = match self.free {
            None => None,
            Some(wanted) => {
                let space = rustix::fs::statvfs(root).map_err(std::io::Error::from).on("look at", root)?;
                Some(wanted.saturating_sub(space.f_bavail * space.f_frsize))
            }
        };
        Ok(above.max(lacking))
    }
}

impl Store {
    /// Deletes what `options` ask for in the store under `root`, least recently used first; never what a running build
    /// uses, nor, unless they are asked for, what the images of the store need.
    ///
    /// # Errors
    /// When the store cannot be opened or looked at. What cannot be deleted is in [`Pruned::failed`].
    pub fn prune(root: &Path, options: &PruneOptions) -> Result<Pruned> {
        if !root.join("format").exists() {
            return Ok(Pruned::default());
        }
        let store = Self::open(root)?;
        let survey = store.survey()?;
        let mut work = Work::new(&store, &survey, options)?;
        let order = order(&survey, options);
        for few in order.chunks(AT_ONCE) {
            if work.is_done() {
                break;
            }
            let moved = store.inner.leases.alone(|uses| work.take_away(few, uses))?;
            for path in moved {
                let removed = kiln_sandbox::remove_tree(&path).on("remove", &path);
                work.note(removed);
            }
        }
        if !options.dry_run {
            tidy(&store)?;
        }
        Ok(work.finish())
    }
}

/// Returns what may go, least recently used first.
///
/// A record was asked for before its layer was, so it is as old as its layer: of the two, the record goes first.
fn order(survey: &Survey, options: &PruneOptions) -> Vec<usize> {
    let now = SystemTime::now();
    let blobs: BTreeMap<&str, SystemTime> =
        survey.entries.iter().filter(|e| is_blob(e)).map(|e| (e.id.as_str(), e.used)).collect();
    let last = |entry: &Entry| {
        let blob = entry.blob.as_deref().and_then(|blob| blobs.get(blob));
        blob.map_or(entry.used, |blob| entry.used.max(*blob))
    };
    let mut order: Vec<usize> =
        (0..survey.entries.len()).filter(|i| options.wants(&survey.entries[*i], now)).collect();
    // Of what was used at the same time, the largest goes first: the fewest things are lost.
    order.sort_by_key(|i| {
        let entry = &survey.entries[*i];
        (last(entry), entry.kind, Reverse(entry.size))
    });
    order
}

fn is_blob(entry: &Entry) -> bool {
    entry.path.parent().is_some_and(|parent| parent.ends_with(blobs::FOLDER))
}

struct Work<'a> {
    store: &'a Store,
    survey: &'a Survey,
    options: &'a PruneOptions,
    /// The entries that name a blob.
    named_by: BTreeMap<&'a str, Vec<usize>>,
    needed: Needed,
    goal: Option<u64>,
    gone: BTreeSet<usize>,
    freed: u64,
    pruned: Pruned,
}

impl<'a> Work<'a> {
    fn new(store: &'a Store, survey: &'a Survey, options: &'a PruneOptions) -> Result<Self> {
        let mut named_by: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (i, entry) in survey.entries.iter().enumerate() {
            if let Some(blob) = &entry.blob {
                named_by.entry(blob).or_default().push(i);
            }
        }
        Ok(Self {
            store,
            survey,
            options,
            named_by,
            needed: Needed::read(store.root())?,
            goal: options.goal(survey, store.root())?,
            gone: BTreeSet::new(),
            freed: 0,
            pruned: Pruned::default(),
        })
    }

    fn is_done(&self) -> bool {
        self.goal.is_some_and(|goal| self.freed >= goal)
    }

    /// Moves entries away, for who has the gate alone; returns where they lie now.
    fn take_away(&mut self, few: &[usize], uses: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
        // After the lists were read: a build that has ended since has named its image before.
        if !self.needed.is_current(self.store.root())? {
            self.needed = Needed::read(self.store.root())?;
        }
        let mut moved = Vec::new();
        for i in few.iter().copied() {
            if self.is_done() {
                break;
            }
            let entry = &self.survey.entries[i];
            // Whoever used it since the survey made it the newest of all.
            if self.gone.contains(&i) || used(&entry.mark) != Some(entry.used) {
                continue;
            }
            if self.is_in_use(entry, uses) {
                self.pruned.in_use += 1;
                continue;
            }
            if is_blob(entry) {
                if !self.forget_images(entry)? {
                    continue;
                }
                for record in self.named_by.get(entry.id.as_str()).cloned().unwrap_or_default() {
                    self.move_away(record, &mut moved);
                }
            }
            self.move_away(i, &mut moved);
        }
        Ok(moved)
    }

    fn is_in_use(&self, entry: &Entry, uses: &BTreeSet<String>) -> bool {
        if entry.kind == EntryKind::CacheMount {
            return cache_mounts::is_busy(&entry.path);
        }
        let inside = entry.path.strip_prefix(self.store.root()).unwrap_or(&entry.path);
        let blob = entry.blob.as_ref().map(|blob| format!("{}/{blob}", blobs::FOLDER));
        uses.contains(inside.to_string_lossy().as_ref()) || blob.is_some_and(|blob| uses.contains(&blob))
    }

    /// Takes the images that need a blob out of `index.json`; tells whether the blob may go.
    fn forget_images(&self, blob: &Entry) -> Result<bool> {
        let Some(images) = self.needed.by.get(&blob.id) else { return Ok(true) };
        if self.options.images && !self.options.dry_run {
            for image in self.store.images()? {
                if images.contains(&image.descriptor.digest) {
                    self.store.remove_image(&image)?;
                }
            }
        }
        Ok(self.options.images)
    }

    fn move_away(&mut self, i: usize, moved: &mut Vec<PathBuf>) {
        let entry = &self.survey.entries[i];
        if !self.gone.insert(i) {
            return;
        }
        if !self.options.dry_run {
            let target = self.store.tmp_path();
            match fs::rename(&entry.path, &target) {
                Ok(()) => moved.push(target),
                // Another `kiln prune` was quicker.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
                Err(e) => return self.note(Err(e).on("remove", &entry.path)),
            }
        }
        self.freed += entry.size;
        self.pruned.entries.push(entry.clone());
    }

    fn note(&mut self, done: Result<()>) {
        if let Err(error) = done {
            self.pruned.failed.get_or_insert(error);
        }
    }

    fn finish(mut self) -> Pruned {
        self.pruned.left = self.survey.total().saturating_sub(self.freed);
        self.pruned.over = self.goal.unwrap_or(0).saturating_sub(self.freed);
        self.pruned
    }
}

/// Removes what is left of entries that are gone: folders of cache mounts without a cache, locks that nobody holds.
fn tidy(store: &Store) -> Result<()> {
    let locks = store.root().join("locks");
    for (path, _) in size::list(&locks)? {
        if path.file_name().is_some_and(|name| name == leases::GATE) {
            continue;
        }
        // Whoever waits for it meanwhile looks whether the file is still there (`leases::wait_for`).
        if let Ok(lock) = fs::File::open(&path)
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_file(&path);
        }
    }
    store.inner.leases.alone(|_| cache_mounts::remove_empty(store.root()))
}
