//! Stat indexes: what the files of a context directory were when they were hashed, so that they are not read again.
//!
//! ```text
//!        ContextIndex ── visit ──► Visit: look up, hash if need be, record ──► a run of new entries
//!  old index + runs ── commit ──► new index, renamed into place ──► Evidence: what the keys of this build have seen
//! ```
//!
//! **When an entry is trusted.** Size, both times, inode and device have to be the same, *and* the entry has to be
//! *settled*: both times were at least [`SETTLE`] older than the moment when hashing began. The kernel takes times from a
//! clock that ticks every few milliseconds, and some file systems keep whole seconds (ext3, many servers) or two (FAT):
//! content that changes twice within a tick has one time. A file that was left alone for longer than a tick cannot change
//! without a new ctime, which no call can set. That is git's remedy for its "racy" index entries, applied to every entry
//! by itself, with more of a margin. A time in the future says nothing about the past and is never trusted. The mode is no
//! part of this: whoever changes it changes the ctime.
//!
//! BuildKit's client sends a file again when size, mtime, mode, owner or link differ (fsutil, `sameFile`): its daemon may
//! be another machine, to which inodes say nothing, and a restored mtime deceives it. Here inode and ctime can be asked.
//!
//! What is not settled is kept too, as evidence for this build, and is hashed again by the next.
//!
//! An index never fails a build. What is torn, foreign or not there is as if nothing was known.

mod cursor;
mod format;
mod merge;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_oci::layer::EntryPath;
use kiln_oci::{Hasher, Sum};
use kiln_sandbox::rootdir::Time;

use cursor::Cursor;
use format::{Index, Writer};
pub(crate) use format::{Known, Stamp};
use merge::{Bits, Learnt, create};

use crate::error::{FileContext as _, Result};
use crate::store::Store;

/// Seconds that a file has to be left alone before its times are trusted: the coarsest clock, that of FAT.
const SETTLE: i64 = 2;

/// New entries of so many walks are merged at once: each is an open file.
const MAX_RUNS: usize = 16;

/// Returns what is wrong with the file of an index. A build takes such a file, or such a part of it, for unknown.
pub(super) fn damage(file: File) -> Option<String> {
    let Some(index) = Index::read(file) else { return Some("it is no stat index, or a torn one".to_owned()) };
    let mut block = Vec::new();
    let torn = |n: &usize| {
        index.load(*n, &mut block);
        block.is_empty()
    };
    let number = (0..index.blocks()).find(torn)?;
    Some(format!("block {} of {} is damaged", number + 1, index.blocks()))
}

/// Tells the time of this machine.
pub(crate) type Clock = fn() -> Time;

/// Tells the time by the clock that the kernel takes the times of files from.
pub(crate) fn system_clock() -> Time {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

/// Tells whether a file had been left alone for long enough at `now`.
fn settled(stamp: &Stamp, now: Time) -> bool {
    let newest = stamp.modified.max(stamp.changed);
    newest.seconds.checked_add(SETTLE).is_some_and(|seconds| Time { seconds, ..newest } <= now)
}

/// The stat index of one context directory, as one build uses it.
pub(crate) struct ContextIndex {
    store: Store,
    path: PathBuf,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    learnt: Learnt,
    /// A merged index that was not moved into place yet.
    unsaved: Option<PathBuf>,
    /// Set when something that was learnt is lost: then absence proves nothing.
    lossy: bool,
    /// What the keys were made of; outer `None` before the first commit.
    evidence: Option<Option<Arc<Index>>>,
    /// What was selected for keys, by an identity, as a digest without contents; `None` when two walks disagreed.
    shapes: BTreeMap<Sum, Option<Sum>>,
}

impl ContextIndex {
    /// Opens the index of the context directory `dir`; `None` when the directory has no path of its own.
    pub(crate) fn open(store: &Store, dir: &Path, clock: Clock) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt as _;
        let dir = fs::canonicalize(dir).ok()?;
        let mut hasher = Hasher::new();
        hasher.field(dir.as_os_str().as_bytes());
        let path = store.using("contexts", hasher.finish().hex()).ok()?;
        let base = File::open(&path).ok().and_then(Index::read).map(Arc::new);
        let learnt = Learnt { base, ..Learnt::default() };
        let state = Mutex::new(State { learnt, ..State::default() });
        Some(Self { store: store.clone(), path, clock, state })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to look at files, in the order of a walk.
    pub(crate) fn visit(&self) -> Visit<'_> {
        let base = self.state().learnt.base.clone();
        let cursor = base.clone().map(Cursor::new);
        let now = (self.clock)();
        let (used, kept) = (Bits::default(), Bits::default());
        Visit {
            index: self,
            base,
            cursor,
            now,
            used,
            kept,
            doubt: None,
            run: None,
            runs: Vec::new(),
            lossy: false,
        }
    }

    /// Writes what was learnt, if anything was; from the first time on there is [`Evidence`].
    ///
    /// # Errors
    /// When it cannot be written. That costs the next build time, and nothing else.
    pub(crate) fn commit(&self) -> Result<()> {
        let mut state = self.state();
        if state.learnt.has_news() {
            let merged = state.learnt.merge(&self.store);
            state.lossy |= merged.is_err();
            state.unsaved = Some(merged?);
        }
        if state.evidence.is_none() && !state.lossy {
            state.evidence = Some(state.learnt.base.clone());
        }
        let Some(new) = state.unsaved.take() else { return Ok(()) };
        fs::rename(&new, &self.path).on("rename", &new)
    }

    /// Returns what the keys of this build have seen; `None` when that is not known.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        let base = self.state().evidence.clone()?;
        Some(Evidence(base.map(Cursor::new)))
    }

    /// Remembers what a key has seen of the selection `of`, besides contents.
    pub(crate) fn saw(&self, of: Sum, shape: Sum) {
        let mut state = self.state();
        let known = state.shapes.entry(of).or_insert(Some(shape));
        *known = known.filter(|known| *known == shape);
    }

    /// Tells whether `shape` is what the keys have seen of the selection `of`.
    pub(crate) fn is_as_seen(&self, of: Sum, shape: Sum) -> bool {
        self.state().shapes.get(&of).is_some_and(|known| *known == Some(shape))
    }
}

impl std::fmt::Debug for ContextIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ContextIndex").field("path", &self.path).finish_non_exhaustive()
    }
}

/// One walk through files of a context.
#[derive(Debug)]
pub(crate) struct Visit<'a> {
    index: &'a ContextIndex,
    base: Option<Arc<Index>>,
    cursor: Option<Cursor>,
    /// When it began.
    now: Time,
    used: Bits,
    kept: Bits,
    /// The entry of the file that was looked up last and was not trusted.
    doubt: Option<(u32, Known)>,
    run: Option<Writer>,
    runs: Vec<Arc<Index>>,
    lossy: bool,
}

impl Visit<'_> {
    /// Returns the sha256 of the file `path` if it is known and trusted.
    pub(crate) fn look_up(&mut self, path: &EntryPath, stamp: &Stamp) -> Option<Sum> {
        self.doubt = self.cursor.as_mut()?.find(path.as_bytes());
        let (entry, known) = self.doubt?;
        if known.stamp != *stamp || !known.settled || !settled(stamp, self.now) {
            return None;
        }
        self.used.set(entry);
        Some(known.sum)
    }

    /// Returns the time, to be asked before a file is read.
    pub(crate) fn now(&self) -> Time {
        (self.index.clock)()
    }

    /// Records the file that was looked up last. It was hashed from `began` on and was `stamp` before and after.
    pub(crate) fn record(&mut self, path: &EntryPath, stamp: &Stamp, sum: Sum, began: Time) {
        let known = Known { stamp: *stamp, settled: settled(stamp, began), sum };
        match self.doubt {
            Some((entry, old)) if old == known => self.used.set(entry),
            _ => self.lossy |= self.append(path.as_bytes(), &known).is_err(),
        }
    }

    fn append(&mut self, path: &[u8], known: &Known) -> Result<()> {
        if self.run.as_ref().is_some_and(|run| format::order(run.last(), path).is_ge()) {
            self.end_run()?;
        }
        let run = match &mut self.run {
            Some(run) => run,
            none => {
                let name = self.index.store.tmp_path();
                let file = create(&name)?;
                // Nobody else has to find it.
                let _ = fs::remove_file(&name);
                none.insert(Writer::new(file).on("write", &name)?)
            }
        };
        run.push(path, known).on("write", &self.index.path)
    }

    fn end_run(&mut self) -> Result<()> {
        let Some(run) = self.run.take() else { return Ok(()) };
        let file = run.finish().on("write", &self.index.path)?;
        self.runs.extend(Index::read(file).map(Arc::new));
        Ok(())
    }

    /// Says that nobody will look at `path` and what is below it, so that its absence means nothing.
    pub(crate) fn pass_over(&mut self, path: &EntryPath) {
        let Some(cursor) = &mut self.cursor else { return };
        let from = cursor.seek(path.as_bytes(), false);
        let to = cursor.seek(path.as_bytes(), true);
        (from..to).for_each(|entry| self.kept.set(entry));
    }

    /// Ends the walk; `walked` is the directory that it went through to its end.
    pub(crate) fn finish(mut self, walked: Option<&EntryPath>) {
        self.lossy |= self.end_run().is_err();
        let range = walked
            .zip(self.cursor.as_mut())
            .map(|(top, cursor)| (cursor.seek(top.as_bytes(), false), cursor.seek(top.as_bytes(), true)));
        let mut state = self.index.state();
        state.lossy |= self.lossy;
        let same = match (&state.learnt.base, &self.base) {
            (Some(theirs), Some(mine)) => Arc::ptr_eq(theirs, mine),
            (None, None) => true,
            _ => false,
        };
        // Otherwise another walk has written an index meanwhile, whose entries have other numbers.
        if same {
            state.learnt.used.add(&self.used);
            state.learnt.kept.add(&self.kept);
            state.learnt.walked.extend(range);
        }
        state.learnt.runs.append(&mut self.runs);
        if state.learnt.runs.len() >= MAX_RUNS {
            match state.learnt.merge(&self.index.store) {
                Ok(merged) => {
                    if let Some(old) = state.unsaved.replace(merged) {
                        let _ = fs::remove_file(old);
                    }
                }
                Err(_) => state.lossy = true,
            }
        }
    }
}

/// What the keys of a build have seen of a context's files.
#[derive(Debug)]
pub(crate) struct Evidence(Option<Cursor>);

impl Evidence {
    /// Returns what the file `path` was.
    pub(crate) fn of(&mut self, path: &EntryPath) -> Option<Known> {
        self.0.as_mut()?.find(path.as_bytes()).map(|(_, known)| known)
    }
}
