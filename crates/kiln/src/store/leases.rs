//! Who uses what, so that nothing is deleted under a running build.
//!
//! ```text
//! locks/gate      flock: shared while a process adds to its list, exclusive while something is taken away
//! tmp/NAME.lock   flock, held as long as the process NAME lives
//! tmp/NAME/uses   what that process uses: paths below the store, one on each line
//! ```
//!
//! A process that wants an entry of the store writes its path into its own list *first*, with the gate held shared, and
//! looks whether the entry exists *then*. Whoever deletes holds the gate alone, reads the lists of all living processes,
//! and moves into its own folder under `tmp` only what is in none. So for every entry and every process one of two
//! things comes first: the line, and then the entry stays as long as the process lives; or the move, and then the
//! process does not find the entry and makes or fetches it again. A new entry gets its name with the gate held, too, so
//! that it cannot be taken for an older one of the same name.
//!
//! No clock is in this argument, and an entry that no living process uses is free at once, however long others run. The
//! gate is held for one line or for a few renames; files are deleted after it is given back. A list ends with its
//! process, because a lock does, even after SIGKILL; what such a process left under `tmp` is removed by the next that
//! opens the store.

use std::collections::BTreeSet;
use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, FileContext as _, Result};

/// The list in a process's folder.
const USES: &str = "uses";
/// An empty directory in the store, for when the disk is full.
const SPARE: &str = "spare";
/// The name of the gate among the locks.
pub(super) const GATE: &str = "gate";

/// This process's folder under `tmp`, and what it uses.
#[derive(Debug)]
pub(super) struct Leases {
    dir: PathBuf,
    book: Mutex<Book>,
    _alive: File,
}

#[derive(Debug)]
struct Book {
    /// One open file for all threads: a lock belongs to it, so the mutex is held as long as the lock is.
    gate: File,
    uses: File,
    held: BTreeSet<String>,
}

impl Leases {
    /// Makes this process's folder, and removes the folders of processes that are gone.
    pub(super) fn open(root: &Path) -> Result<Self> {
        let path = root.join("locks").join(GATE);
        let gate = open_lock(&path)?;
        gate.lock().on("lock", &path)?;
        let parent = root.join("tmp");
        // With the gate held alone, nobody is between making his lock file and locking it.
        let (dir, alive) = own_folder(root)?;
        let dead = dead(&parent)?;
        for (number, lock) in dead.iter().enumerate() {
            // What is somebody else's may not be moved; its owner removes it.
            let _ = fs::rename(lock.with_extension(""), dir.join(format!("dead-{number}")));
            let _ = fs::remove_file(lock);
        }
        gate.unlock().on("unlock", &path)?;
        for number in 0..dead.len() {
            let _ = kiln_sandbox::remove_tree(&dir.join(format!("dead-{number}")));
        }
        let path = dir.join(USES);
        let uses = File::options().create_new(true).append(true).open(&path).on("create", &path)?;
        let book = Mutex::new(Book { gate, uses, held: BTreeSet::new() });
        Ok(Self { dir, book, _alive: alive })
    }

    /// Returns this process's folder under `tmp`.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that what lies or will lie at `entry`, a path below the store, stays; tells whether that is new.
    pub(super) fn take(&self, entry: &str) -> Result<bool> {
        if self.book().held.contains(entry) {
            return Ok(false);
        }
        self.take_with(entry, || Ok(())).map(|()| true)
    }

    /// Does the same, and calls `act` before anybody can delete anything.
    pub(super) fn take_with<T>(&self, entry: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut book = self.book();
        book.gate.lock_shared().on("lock", Path::new(GATE))?;
        let done = book.note(entry).on("write", &self.dir.join(USES)).and_then(|()| act());
        let _ = book.gate.unlock();
        done
    }

    /// Calls `act` while nobody can delete anything.
    pub(super) fn shared<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let book = self.book();
        book.gate.lock_shared().on("lock", Path::new(GATE))?;
        let done = act();
        let _ = book.gate.unlock();
        done
    }

    /// Calls `act` with what living processes use, while nobody can begin to use anything: it has to be quick.
    pub(super) fn alone<T>(&self, act: impl FnOnce(&BTreeSet<String>) -> Result<T>) -> Result<T> {
        let book = self.book();
        book.gate.lock().on("lock", Path::new(GATE))?;
        let done = used(self.dir.parent().unwrap_or(Path::new("/"))).and_then(|used| act(&used));
        let _ = book.gate.unlock();
        done
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // Best effort: what stays is removed by the next process that opens the store.
        let _ = kiln_sandbox::remove_tree(&self.dir);
        let _ = fs::remove_file(self.dir.with_extension("lock"));
    }
}

impl Book {
    fn note(&mut self, entry: &str) -> std::io::Result<()> {
        if !self.held.contains(entry) {
            // The line break comes first: a line that a full disk cut off then spoils no other.
            self.uses.write_all(format!("\n{entry}").as_bytes())?;
            self.held.insert(entry.to_owned());
        }
        Ok(())
    }
}

pub(super) fn open_lock(path: &Path) -> Result<File> {
    File::options().create(true).truncate(false).write(true).open(path).on("open", path)
}

/// Waits for the lock at `path`. Lock files are deleted when nobody holds them, so that the file may be gone by the time
/// that its lock is had: such a lock keeps nobody out.
pub(super) fn wait_for(path: &Path) -> Result<File> {
    loop {
        let file = open_lock(path)?;
        file.lock().on("lock", path)?;
        if is_named(&file, path)? {
            return Ok(file);
        }
    }
}

/// Takes the lock at `path` if nobody holds it.
pub(super) fn try_for(path: &Path) -> Result<Option<File>> {
    loop {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) if is_named(&file, path)? => return Ok(Some(file)),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e).on("lock", path),
        }
    }
}

fn is_named(file: &File, path: &Path) -> Result<bool> {
    let mine = file.metadata().on("stat", path)?;
    Ok(fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (mine.dev(), mine.ino())))
}

/// Returns the lock files of every process that has the store open, and of those that had.
fn locks(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(parent).on("list", parent)?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|e| e == "lock")).collect())
}

/// Tells whether the process of a lock file is gone; in doubt it lives.
fn is_dead(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|file| file.try_lock().is_ok())
}

/// Returns the lock files of processes that are gone.
pub(super) fn dead(parent: &Path) -> Result<Vec<PathBuf>> {
    Ok(locks(parent)?.into_iter().filter(|lock| is_dead(lock)).collect())
}

/// Returns what living processes use.
fn used(parent: &Path) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for lock in locks(parent)?.iter().filter(|lock| !is_dead(lock)) {
        let list = lock.with_extension("").join(USES);
        match fs::read_to_string(&list) {
            Ok(text) => all.extend(text.lines().map(str::to_owned)),
            // It has just begun, or is just ending.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            // Nothing is deleted in doubt.
            Err(e) => return Err(e).on("read", &list),
        }
    }
    Ok(all)
}

fn own_folder(root: &Path) -> Result<(PathBuf, File)> {
    let (parent, spare) = (root.join("tmp"), root.join(SPARE));
    for attempt in 0..1000_u32 {
        let name = format!("{}-{attempt}", std::process::id());
        let (dir, lock) = (parent.join(&name), parent.join(format!("{name}.lock")));
        let file = match File::options().create_new(true).write(true).open(&lock) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.on("create", &lock)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(e)) => return Err(e).on("lock", &lock),
        }
        let _ = kiln_sandbox::remove_tree(&dir);
        match fs::create_dir(&dir) {
            // On a full disk a file can still be made, mostly, but no directory: then the spare one is taken, so that
            // `kiln prune` can always begin.
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                fs::rename(&spare, &dir).map_err(|_| e).on("create", &dir)?;
            }
            made => {
                made.on("create", &dir)?;
                let _ = fs::create_dir(&spare);
            }
        }
        return Ok((dir, file));
    }
    Err(Error::environment(format!("no free name for a temporary folder in `{}`", parent.display())))
}
