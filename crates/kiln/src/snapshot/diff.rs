//! What a step changed, from the upper directory of its overlay.
//!
//! Only the upper directory is walked. Everything in it differs from the layers below, was copied up without
//! a change, or is the mark of a removal:
//!
//! ```text
//! character device 0:0             -> .wh.NAME               when the layers below show NAME
//! directory, user.overlay.opaque   -> .wh..wh..opq, first    when the layers below show the directory
//! same as the layers below show    -> nothing
//! ```
//!
//! A directory comes when it changed itself or when something in it did, so that whoever applies the layer
//! finds its attributes there. Its time alone is no change: it moves with every file that comes and goes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use kiln_oci::layer::{Entry, EntryPath, Kind, LayerWriter, Timestamp};
use rustix::fs::{self, CWD, Mode, OFlags, Stat};

use super::attributes::{self, Identity, is_opaque, is_whiteout};
use super::error::{Error, Result, Trying as _};
use super::view::View;
use super::{Ids, Owner, read_owners};

/// What happens to modification times of entries that come into the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClampMtime {
    /// They stay.
    #[default]
    Keep,
    /// Later ones become this; earlier ones stay.
    To(Timestamp),
}

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// What happens to modification times.
    pub clamp: ClampMtime,
}

/// One entry of the layer that a step makes.
#[derive(Debug)]
pub struct Change {
    /// The entry.
    pub entry: Entry,
    /// Its content, for a regular file.
    pub file: Option<File>,
}

/// Returns what `upper` changes of `lowers` (topmost first), in the order of a layer.
///
/// `stubs` are paths in `upper` that exist only because something was mounted there: an empty file or
/// directory at such a path is left out, unless the layers below have it too. `ids` translates the owners on
/// disk, and what is written beside `upper` is the owner of what can show none. Nobody may write to the directories meanwhile.
///
/// # Errors
/// When a directory cannot be opened. What happens later shows in the items.
pub fn diff<'a>(
    upper: &Path,
    lowers: &[PathBuf],
    ids: &'a dyn Ids,
    stubs: &[PathBuf],
    options: Options,
) -> Result<Changes<'a>> {
    let fd = fs::openat(CWD, upper, DIRECTORY, Mode::empty()).trying("open", upper)?;
    let names = list(fd.as_fd()).trying("list", upper)?;
    let stubs = stubs.iter().filter_map(|p| EntryPath::rooted(p.as_os_str().as_bytes()).ok()).collect();
    Ok(Changes {
        lower: View::new(lowers.to_vec())?,
        owners: read_owners(upper)?,
        ids,
        stubs,
        options,
        stack: vec![Level { path: EntryPath::root(), fd, names, compare: !lowers.is_empty(), pending: None }],
        ready: VecDeque::new(),
        first_names: BTreeMap::new(),
    })
}

/// Writes all changes into a layer; returns how many there were.
///
/// # Errors
/// When a file cannot be read or the layer cannot be written.
pub fn pack<W: Write>(changes: Changes<'_>, writer: &mut LayerWriter<W>) -> Result<u64> {
    let mut count = 0;
    for change in changes {
        let Change { entry, mut file } = change?;
        writer.append(&entry, file.as_mut().map(|f| f as &mut dyn Read))?;
        count += 1;
    }
    Ok(count)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The changes of a step: an iterator that walks as it is asked.
pub struct Changes<'a> {
    lower: View,
    /// Owners that the upper directory itself cannot show.
    owners: BTreeMap<EntryPath, Owner>,
    ids: &'a dyn Ids,
    stubs: BTreeSet<EntryPath>,
    options: Options,
    stack: Vec<Level>,
    ready: VecDeque<Change>,
    /// First path of every file that has several.
    first_names: BTreeMap<(u64, u64), EntryPath>,
}

struct Level {
    path: EntryPath,
    fd: OwnedFd,
    /// Names still to come, last first.
    names: Vec<Found>,
    /// Whether the layers below show anything here.
    compare: bool,
    /// The directory's own entry, as long as nothing needed it.
    pending: Option<Entry>,
}

struct Found {
    name: Vec<u8>,
    stat: Stat,
}

impl Changes<'_> {
    fn step(&mut self) -> Result<bool> {
        let Some(level) = self.stack.last_mut() else { return Ok(false) };
        let Some(found) = level.names.pop() else {
            self.stack.pop();
            return Ok(true);
        };
        let path = level.path.join(&found.name);
        if is_whiteout(&found.stat) {
            self.removed(&path)?;
            return Ok(true);
        }
        if let Some(why) = path.unfit() {
            return Err(Error::Unfit { path, why });
        }
        let name = Path::new(OsStr::from_bytes(&found.name));
        let Some(mut entry) = attributes::entry(level.fd.as_fd(), name, path, &found.stat, self.ids)? else {
            return Ok(true);
        };
        if let Some(owner) = self.owners.get(&entry.path) {
            (entry.uid, entry.gid) = (owner.uid, owner.gid);
        }
        if entry.kind == Kind::Directory {
            self.directory(&found, entry)?;
        } else {
            self.file(&found, entry)?;
        }
        Ok(true)
    }

    fn removed(&mut self, path: &EntryPath) -> Result<()> {
        if self.comparing() && self.lower.lookup(path)?.is_some() {
            self.emit(Entry::whiteout(path), None);
        }
        Ok(())
    }

    fn directory(&mut self, found: &Found, entry: Entry) -> Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let path = entry.path.clone();
        let name = Path::new(OsStr::from_bytes(&found.name));
        let fd = fs::openat(&level.fd, name, DIRECTORY, Mode::empty()).trying("open", &path)?;
        let opaque = is_opaque(level.fd.as_fd(), name).trying("inspect", &path)?;
        let names = list(fd.as_fd()).trying("list", &path)?;

        let below = if level.compare { self.lower.lookup(&path)? } else { None };
        let below = below.filter(super::Node::is_directory);
        let before = below.as_ref().map_or(Ok(None), |node| self.lower_entry(node))?;
        // An opaque directory is a new one, but its own attributes may still be those of the old.
        let hides = opaque && below.is_some();
        let changed = hides
            || before.is_none_or(|mut before| {
                before.mtime = entry.mtime;
                before != entry
            });
        let compare = below.is_some() && !opaque;
        let stub = below.is_none() && self.stubs.contains(&path);
        self.stack.push(Level { path: path.clone(), fd, names, compare, pending: Some(entry) });
        if changed && !stub {
            self.emit_parents();
        }
        if hides {
            self.emit(Entry::opaque(&path), None);
        }
        Ok(())
    }

    fn file(&mut self, found: &Found, entry: Entry) -> Result<()> {
        let several = found.stat.st_nlink > 1;
        let below = if self.comparing() { self.lower.lookup(&entry.path)? } else { None };
        match &below {
            None => {
                let empty = matches!(entry.kind, Kind::File { size: 0 });
                if empty && self.stubs.contains(&entry.path) {
                    return Ok(());
                }
            }
            // Copying up separates the names of a file, so one that has several was linked by this step. Its
            // unchanged names come too: only in one layer can they be names of one file.
            Some(node) if !several => {
                if self.lower_entry(node)?.as_ref() == Some(&entry) {
                    return Ok(());
                }
            }
            Some(_) => {}
        }
        let identity = Identity::of(&found.stat);
        let key = (identity.device, identity.inode);
        if several && let Some(first) = self.first_names.get(&key) {
            let kind = Kind::HardLink { target: first.clone() };
            let link = Entry { kind, xattrs: BTreeMap::new(), ..entry };
            self.emit(link, None);
            return Ok(());
        }
        if several {
            self.first_names.insert(key, entry.path.clone());
        }
        let file = match entry.kind {
            Kind::File { .. } => Some(self.open(&found.name, &entry.path)?),
            _ => None,
        };
        self.emit(entry, file);
        Ok(())
    }

    fn open(&self, name: &[u8], path: &EntryPath) -> Result<File> {
        let dir = self.stack.last().map_or(CWD, |level| level.fd.as_fd());
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(fs::openat(dir, name, flags, Mode::empty()).trying("open", path)?))
    }

    fn comparing(&self) -> bool {
        self.stack.last().is_some_and(|level| level.compare)
    }

    fn lower_entry(&self, node: &super::Node) -> Result<Option<Entry>> {
        self.lower.entry_with(node, self.ids)
    }

    /// Queues an entry behind the directories that lead to it.
    fn emit(&mut self, entry: Entry, file: Option<File>) {
        self.emit_parents();
        self.queue(entry, file);
    }

    fn emit_parents(&mut self) {
        let pending: Vec<Entry> = self.stack.iter_mut().filter_map(|level| level.pending.take()).collect();
        for entry in pending {
            self.queue(entry, None);
        }
    }

    fn queue(&mut self, mut entry: Entry, file: Option<File>) {
        if let ClampMtime::To(epoch) = self.options.clamp {
            entry.mtime = entry.mtime.min(epoch);
        }
        self.ready.push_back(Change { entry, file });
    }
}

impl Iterator for Changes<'_> {
    type Item = Result<Change>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    // What follows a gap must not look like the whole.
                    self.stack.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

impl std::fmt::Debug for Changes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("lower", &self.lower).finish_non_exhaustive()
    }
}

/// Returns what is in a directory, in reverse of the order in which it comes into the layer.
fn list(dir: BorrowedFd<'_>) -> std::io::Result<Vec<Found>> {
    let mut out = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let stat = fs::statat(dir, entry.file_name(), fs::AtFlags::SYMLINK_NOFOLLOW)?;
        out.push(Found { name: name.to_vec(), stat });
    }
    let key = |found: &Found| {
        let name = EntryPath::root().join(&found.name);
        if is_whiteout(&found.stat) { name.to_whiteout() } else { name }
    };
    out.sort_by_cached_key(|found| std::cmp::Reverse(key(found)));
    Ok(out)
}
