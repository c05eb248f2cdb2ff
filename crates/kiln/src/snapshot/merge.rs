//! Several layers of a stack as one directory that stands for all of them.
//!
//! An overlay has room for 500 lower directories, and each costs time at every mount. So long stacks are shortened:
//! a run of layers becomes one directory with what they add up to. What they *hide* must be kept too, since there are
//! layers below: whiteouts stay, and a directory that stands where a layer of the run hid something becomes opaque.
//! (An overlay mount of the run would lose both: it shows what is there, not what is not.)
//!
//! ```text
//! topmost has        a lower layer of the run has     result
//! file, whiteout     anything                         the same file, by a hard link
//! directory          the same directory               one directory, attributes of the topmost
//! directory          file or whiteout, or is opaque   an opaque directory, what is further down is hidden
//! ```
//!
//! Nothing is copied: files are hard links to those of the layers, which nobody writes to.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kiln_oci::layer::EntryPath;
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::attributes::{self, OPAQUE, OWNER, file_type, is_opaque};
use super::error::{Result, Trying as _};
use super::{Owner, read_owners};

/// What an error of [`merge`] says was tried when a hard link was refused.
pub const LINK: &str = "link";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Makes `into`, an empty directory on the same file system, stand for `layers` (topmost first) in a stack.
///
/// Returns the owners that have to be written beside it with [`write_owners`](super::write_owners). After an error
/// `into` holds a part.
///
/// # Errors
/// When a layer cannot be read, or the file system refuses a hard link or an attribute.
pub fn merge(layers: &[PathBuf], into: &Path) -> Result<BTreeMap<EntryPath, Owner>> {
    let open = |path: &PathBuf| {
        let fd = fs::openat(CWD, path, DIRECTORY, Mode::empty()).trying("open the layer", path)?;
        Ok((fd, read_owners(path)?))
    };
    let layers = layers.iter().map(open).collect::<Result<Vec<_>>>()?;
    let into = fs::openat(CWD, into, DIRECTORY, Mode::empty()).trying("open", into)?;
    let mut merger = Merger { layers, into, owners: BTreeMap::new() };
    let all = (0..merger.layers.len()).collect();
    let mut todo = vec![Task::Fill(Merged { path: EntryPath::root(), sources: all, opaque: false })];
    while let Some(task) = todo.pop() {
        match task {
            Task::Fill(directory) => {
                let below = merger.fill(&directory)?;
                // Attributes come last: what is put into a directory changes its time, and a mode may forbid it.
                todo.push(Task::Dress(directory));
                todo.extend(below.into_iter().map(Task::Fill));
            }
            Task::Dress(directory) => merger.dress(&directory)?,
        }
    }
    Ok(merger.owners)
}

enum Task {
    Fill(Merged),
    Dress(Merged),
}

/// A directory of the result.
struct Merged {
    path: EntryPath,
    /// Layers that make it up, topmost first.
    sources: Vec<usize>,
    /// Whether the run hides what is below it here.
    opaque: bool,
}

/// What a name in a directory becomes.
struct Named {
    stat: Stat,
    sources: Vec<usize>,
    opaque: bool,
    /// Whether nothing further down counts.
    closed: bool,
}

struct Merger {
    layers: Vec<(OwnedFd, BTreeMap<EntryPath, Owner>)>,
    into: OwnedFd,
    owners: BTreeMap<EntryPath, Owner>,
}

impl Merger {
    /// Makes everything in a directory but what is in its directories, which are returned.
    fn fill(&mut self, directory: &Merged) -> Result<Vec<Merged>> {
        let target = open(self.into.as_fd(), &directory.path)?;
        let (mut names, mut opened) = (BTreeMap::new(), BTreeMap::new());
        for index in &directory.sources {
            let Some((layer, _)) = self.layers.get(*index) else { continue };
            let source = open(layer.as_fd(), &directory.path)?;
            collect(*index, &source, &mut names).trying("list", &directory.path)?;
            opened.insert(*index, source);
        }
        let mut below = Vec::new();
        for (name, found) in names {
            let path = directory.path.join(&name);
            if file_type(&found.stat) == FileType::Directory {
                fs::mkdirat(&target, &name, Mode::RWXU).trying("create the directory", &path)?;
                below.push(Merged { path, sources: found.sources, opaque: found.opaque });
                continue;
            }
            let Some(index) = found.sources.first() else { continue };
            let Some(source) = opened.get(index) else { continue };
            fs::linkat(source, &name, &target, &name, AtFlags::empty()).trying(LINK, &path)?;
            let owner = self.layers.get(*index).and_then(|(_, owners)| owners.get(&path));
            if let Some(owner) = owner {
                self.owners.insert(path, *owner);
            }
        }
        Ok(below)
    }

    /// Gives a directory the attributes that the topmost layer has for it.
    fn dress(&self, directory: &Merged) -> Result<()> {
        let path = &directory.path;
        let Some((layer, _)) = directory.sources.first().and_then(|top| self.layers.get(*top)) else {
            return Ok(());
        };
        let (source, target) = (open(layer.as_fd(), path)?, open(self.into.as_fd(), path)?);
        let stat = fs::fstat(&source).trying("inspect", path)?;
        fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
            .trying("change the owner of", path)?;
        copy_xattrs(source.as_fd(), target.as_fd()).trying("set the attributes of", path)?;
        if directory.opaque {
            fs::fsetxattr(&target, OPAQUE, b"y", XattrFlags::empty())
                .trying("set the attributes of", path)?;
        }
        fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777)).trying("change the mode of", path)?;
        fs::futimens(&target, &times(&stat)).trying("change the times of", path)
    }
}

/// Adds the names that a layer has in a directory to those of the layers above it.
fn collect(index: usize, source: &OwnedFd, names: &mut BTreeMap<Vec<u8>, Named>) -> rustix::io::Result<()> {
    for entry in fs::Dir::read_from(source)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || names.get(name).is_some_and(|known| known.closed) {
            continue;
        }
        let stat = fs::statat(source, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)?;
        let directory = file_type(&stat) == FileType::Directory;
        let opaque = directory && is_opaque(source.as_fd(), as_path(name))?;
        match names.get_mut(name) {
            None => {
                let closed = !directory || opaque;
                names.insert(name.to_vec(), Named { stat, sources: vec![index], opaque, closed });
            }
            Some(known) => {
                if directory {
                    known.sources.push(index);
                }
                known.opaque = opaque || !directory;
                known.closed = known.opaque;
            }
        }
    }
    Ok(())
}

/// Opens a directory of a layer; all components on the way are known to be directories.
fn open(layer: BorrowedFd<'_>, path: &EntryPath) -> Result<OwnedFd> {
    let name = if path.is_root() { Path::new(".") } else { path.as_path() };
    fs::openat(layer, name, DIRECTORY, Mode::empty()).trying("open", path)
}

fn as_path(name: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt as _;
    Path::new(std::ffi::OsStr::from_bytes(name))
}

/// Copies all attributes but those of overlays, which say how a directory relates to what was below it once.
fn copy_xattrs(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let of_source = attributes::through_proc(source, Path::new("."));
    let kept = attributes::xattrs(&of_source)?;
    let kept = kept.into_iter().filter(|(name, _)| name == OWNER || !attributes::is_private(name));
    for (name, value) in kept {
        match fs::fsetxattr(target, name.as_str(), &value, XattrFlags::empty()) {
            // Labels are set by the policy of the machine.
            Err(Errno::PERM | Errno::OPNOTSUPP) if name.starts_with("security.") => {}
            done => done?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |secs, nanos| Timespec { tv_sec: secs, tv_nsec: nanos };
    Timestamps {
        last_access: time(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: time(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}
