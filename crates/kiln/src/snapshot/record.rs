//! What a command changed in a directory that holds everything, as the upper directory of an overlay would hold it.
//!
//! The tree is walked side by side with the index that was taken before. Whatever has another stamp goes into `upper`, be it really
//! changed or not: [`diff`](super::diff) compares it with the layers below, as it does with what an overlay copied up
//! without need. Removed names become whiteouts, and a directory that is another one becomes opaque.
//!
//! The walk writes the index for the next command at the same time. Files that the command linked are separated
//! afterwards, each name a file of its own, as the next command would find them in an overlay.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use kiln_oci::layer::EntryPath;
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, XattrFlags};

use super::attributes::{OPAQUE, make_whiteout};
use super::copy::{self, DIRECTORY, Devices, as_path};
use super::error::{Result, Trying as _};
use super::index::{IndexReader, IndexWriter, Stamp};

/// Writes the index of the tree `root` to `index`; returns how many entries it has.
///
/// When this returns, the clock of the file system has gone on: no later change can have a time that is in the index.
///
/// # Errors
/// When the tree cannot be read or the index cannot be written.
pub fn take_index(root: &Path, index: &Path) -> Result<u64> {
    walk(root, None, index, None).map(|walked| walked.entries)
}

/// Compares the tree `root` with `index` and puts what changed into `upper`, an empty directory; `next` becomes the index of the tree
/// as it is now. `spare` is an existing directory on the same file system as `root`. Nobody else may use the tree.
///
/// # Errors
/// When the tree cannot be read, or something cannot be copied.
pub fn record(root: &Path, index: &Path, next: &Path, upper: &Path, spare: &Path) -> Result<()> {
    let before = IndexReader::open(index).trying("read", index)?;
    let walked = walk(root, Some(before), next, Some(upper))?;
    separate(root, &walked.linked, spare)
}

/// What a walk came across.
struct Walked {
    entries: u64,
    /// Names of files that have several.
    linked: Vec<EntryPath>,
}

/// A directory on the way.
struct Level {
    path: EntryPath,
    dir: OwnedFd,
    /// Names still to come, last first.
    names: Vec<(Vec<u8>, Stamp)>,
    /// Whether the index knows this directory, so that what it has there and is gone was removed.
    is_known: bool,
    /// Whether it stands where the index has another.
    is_other: bool,
    upper: Option<OwnedFd>,
}

struct Walker {
    before: Option<IndexReader>,
    now: IndexWriter,
    /// Whether changes are wanted.
    recording: bool,
    stack: Vec<Level>,
    /// Where in `upper` the first name of a file with several is.
    first_names: BTreeMap<u64, EntryPath>,
    walked: Walked,
}

fn walk(root: &Path, before: Option<IndexReader>, now: &Path, upper: Option<&Path>) -> Result<Walked> {
    let open = |path: &Path| fs::openat(CWD, path, DIRECTORY, Mode::empty()).trying("open", path);
    let dir = open(root)?;
    let names = list(&dir).trying("list", root)?;
    let top = Level {
        path: EntryPath::root(),
        dir,
        names,
        is_known: before.is_some(),
        is_other: false,
        upper: upper.map(open).transpose()?,
    };
    let mut walker = Walker {
        before,
        now: IndexWriter::create(now).trying("write", now)?,
        recording: upper.is_some(),
        stack: vec![top],
        first_names: BTreeMap::new(),
        walked: Walked { entries: 0, linked: Vec::new() },
    };
    while !walker.stack.is_empty() {
        walker.step()?;
    }
    walker.now.finish().trying("write", now)?;
    Ok(walker.walked)
}

impl Walker {
    fn depth(&self) -> u32 {
        u32::try_from(self.stack.len()).unwrap_or(u32::MAX - 1)
    }

    fn step(&mut self) -> Result<()> {
        let depth = self.depth();
        let Some(level) = self.stack.last_mut() else { return Ok(()) };
        let old = self.before.as_ref().filter(|_| level.is_known).and_then(|before| before.peek(depth));
        let gone = match (level.names.last(), old) {
            (None, None) => return self.leave(),
            (None, Some(old)) => Some(old.name.clone()),
            (Some((name, _)), Some(old)) if old.name < *name => Some(old.name.clone()),
            _ => None,
        };
        if let Some(name) = gone {
            self.skip()?;
            return self.remove(&name);
        }
        let Some((name, stamp)) = level.names.pop() else { return Ok(()) };
        let before = old.filter(|old| old.name == name).map(|old| old.stamp);
        self.visit(&name, stamp, before)
    }

    fn skip(&mut self) -> Result<()> {
        self.before.as_mut().map_or(Ok(()), IndexReader::skip).trying("read", "the index")
    }

    /// Notes a name that is there, and what it was before.
    fn visit(&mut self, name: &[u8], stamp: Stamp, before: Option<Stamp>) -> Result<()> {
        let same = before.is_some_and(|before| before.is_same_directory(&stamp));
        if same {
            self.before.as_mut().map_or(Ok(()), IndexReader::advance).trying("read", "the index")?;
        } else if before.is_some() {
            self.skip()?;
        }
        if stamp.is_unknown_to_layers() {
            return self.forget(name, before.is_some());
        }
        self.now.add(self.depth(), name, &stamp).trying("write", "the index")?;
        self.walked.entries += 1;
        let changed = self.recording && before != Some(stamp);
        if stamp.kind() == FileType::Directory {
            let is_other = before.is_some_and(|before| before.kind() == FileType::Directory) && !same;
            self.enter(name, same, is_other)?;
            return if changed { self.upper().map(drop) } else { Ok(()) };
        }
        if stamp.has_names() {
            let Some(level) = self.stack.last() else { return Ok(()) };
            self.walked.linked.push(level.path.join(name));
        }
        if changed { self.copy(name, &stamp) } else { Ok(()) }
    }

    fn enter(&mut self, name: &[u8], is_known: bool, is_other: bool) -> Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        let path = level.path.join(name);
        let dir = copy::open(level.dir.as_fd(), name).trying("open", &path)?;
        let names = list(&dir).trying("list", &path)?;
        self.stack.push(Level { path, dir, names, is_known, is_other, upper: None });
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        let Some(level) = self.stack.pop() else { return Ok(()) };
        let Some(upper) = level.upper.filter(|_| !self.stack.is_empty()) else { return Ok(()) };
        let dress = || -> std::io::Result<()> {
            if level.is_other {
                fs::fsetxattr(&upper, OPAQUE, b"y", XattrFlags::empty())?;
            }
            copy::dress_directory(level.dir.as_fd(), upper.as_fd())
        };
        dress().trying("set the attributes of", &level.path)
    }

    /// Removes what a layer cannot tell, so that the next command finds what it would find in the layer.
    fn forget(&mut self, name: &[u8], was_there: bool) -> Result<()> {
        let Some(level) = self.stack.last() else { return Ok(()) };
        if self.recording {
            fs::unlinkat(&level.dir, as_path(name), AtFlags::empty())
                .trying("remove", level.path.join(name))?;
        }
        if was_there { self.remove(name) } else { Ok(()) }
    }

    fn remove(&mut self, name: &[u8]) -> Result<()> {
        let path = self.stack.last().map(|level| level.path.join(name)).unwrap_or_default();
        match self.upper()? {
            Some(upper) => make_whiteout(upper.as_fd(), name).trying("record the removal of", path),
            None => Ok(()),
        }
    }

    fn copy(&mut self, name: &[u8], stamp: &Stamp) -> Result<()> {
        self.upper()?;
        let Some(level) = self.stack.last() else { return Ok(()) };
        let Some(upper) = &level.upper else { return Ok(()) };
        let path = level.path.join(name);
        let key = stamp.inode;
        if stamp.has_names() {
            if let Some(first) = self.first_names.get(&key) {
                let Some(top) = self.stack.first().and_then(|top| top.upper.as_ref()) else { return Ok(()) };
                return fs::linkat(top, first.as_path(), upper, as_path(name), AtFlags::empty())
                    .trying("link", &path);
            }
            self.first_names.insert(key, path.clone());
        }
        let stat =
            fs::statat(&level.dir, as_path(name), AtFlags::SYMLINK_NOFOLLOW).trying("inspect", &path)?;
        copy::copy(level.dir.as_fd(), upper.as_fd(), name, &stat, Devices::Kept).trying("copy", &path)
    }

    /// Returns the current directory in `upper`, made with all above it; `None` when changes are not wanted.
    fn upper(&mut self) -> Result<Option<&OwnedFd>> {
        let start = self.stack.iter().rposition(|level| level.upper.is_some());
        let Some(start) = start.filter(|_| self.recording) else { return Ok(None) };
        for index in start + 1..self.stack.len() {
            let (above, below) = self.stack.split_at_mut(index);
            let (Some(parent), Some(level)) =
                (above.last().and_then(|p| p.upper.as_ref()), below.first_mut())
            else {
                return Ok(None);
            };
            let name = level.path.name();
            fs::mkdirat(parent, as_path(name), Mode::RWXU).trying("create the directory", &level.path)?;
            level.upper = Some(copy::open(parent.as_fd(), name).trying("open", &level.path)?);
        }
        Ok(self.stack.last().and_then(|level| level.upper.as_ref()))
    }
}

/// Makes every name of a file with several a file of its own. The directories keep their times.
fn separate(root: &Path, linked: &[EntryPath], spare: &Path) -> Result<()> {
    if linked.is_empty() {
        return Ok(());
    }
    let open = |path: &Path| fs::openat(CWD, path, DIRECTORY, Mode::empty()).trying("open", path);
    let (root, spare) = (open(root)?, open(spare)?);
    for path in linked {
        let parent = path.parent().unwrap_or_default();
        let dir = match parent.is_root() {
            true => root.try_clone().trying("open", &parent)?,
            false => copy::open(root.as_fd(), parent.as_bytes()).trying("open", &parent)?,
        };
        let name = path.name();
        let stat = fs::statat(&dir, as_path(name), AtFlags::SYMLINK_NOFOLLOW).trying("inspect", path)?;
        if stat.st_nlink < 2 {
            continue;
        }
        let before = fs::fstat(&dir).trying("inspect", &parent)?;
        let part = || -> std::io::Result<()> {
            copy::copy(dir.as_fd(), spare.as_fd(), name, &stat, Devices::Kept)?;
            fs::renameat(&spare, as_path(name), &dir, as_path(name))?;
            Ok(fs::futimens(&dir, &copy::times(&before))?)
        };
        part().trying("separate from its other names", path)?;
    }
    Ok(())
}

/// Returns the names in a directory with their stamps, last first.
fn list(dir: &OwnedFd) -> std::io::Result<Vec<(Vec<u8>, Stamp)>> {
    let mut out = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            out.push((name.to_vec(), Stamp::of(dir.as_fd(), name)?));
        }
    }
    out.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
    Ok(out)
}
