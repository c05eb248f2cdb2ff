//! One layer into a directory of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{BufRead as _, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kiln_oci::Digest;
use kiln_oci::layer::{Content, Entry, EntryPath, Kind, LayerReader, Timestamp, Whiteout};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::attributes::{self, DEVICE, OPAQUE, OWNER};
use super::error::{Error, Result, Trying as _};
use super::tree::{self, Absent, Tree};
use super::{Ids, Owner};

/// What came out of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the uncompressed stream; the caller compares it with the image's config.
    pub diff_id: Digest,
    /// Entries, whiteouts included.
    pub entries: u64,
    /// Bytes written to files.
    pub bytes: u64,
    /// Directories that the layer uses without an entry for them: root's, with mode 0755.
    pub implied: Vec<EntryPath>,
    /// Owners of links, pipes and sockets that neither the disk nor an attribute can show.
    pub owners: BTreeMap<EntryPath, Owner>,
    /// Owners that are recorded in an attribute, where a command can come across them.
    pub recorded: u64,
    /// Extended attributes that the file system or the kernel refused.
    pub skipped_xattrs: u64,
    /// Devices that stand as empty files with a record, because this process must not create them.
    pub placeholders: u64,
}

/// Unpacks a layer into `dir`, an empty directory that nobody else writes to, as an overlay lower directory.
///
/// Nothing is synchronised to disk; a caller that must survive a crash makes the directory visible under its
/// final name only after a sync of its own. After an error the directory holds a part of the layer.
///
/// # Errors
/// When the layer is damaged or hostile, a hard link names a file outside of the layer, or the file system
/// refuses something that the image cannot do without.
pub fn unpack<R: Read>(mut reader: LayerReader<R>, dir: &Path, ids: &dyn Ids) -> Result<Unpacked> {
    let mut unpacker = Unpacker::new(dir, ids)?;
    while let Some((entry, mut content)) = reader.next()? {
        unpacker.place(&entry, &mut content)?;
    }
    unpacker.settle_directories()?;
    let summary = reader.finish()?;
    Ok(Unpacked {
        diff_id: summary.diff_id,
        entries: summary.entries,
        bytes: unpacker.bytes,
        implied: unpacker.tree.implied,
        owners: unpacker.owners,
        recorded: unpacker.recorded,
        skipped_xattrs: unpacker.skipped_xattrs,
        placeholders: unpacker.placeholders,
    })
}

/// What a directory gets when nothing will be written into it any more.
struct Settle {
    mode: u32,
    mtime: Timestamp,
}

struct Unpacker<'a> {
    tree: Tree,
    ids: &'a dyn Ids,
    /// What files get that this process creates.
    created: Owner,
    /// Bits that creation takes away.
    mask: u32,
    settle: BTreeMap<EntryPath, Settle>,
    whiteouts: BTreeSet<EntryPath>,
    owners: BTreeMap<EntryPath, Owner>,
    recorded: u64,
    bytes: u64,
    skipped_xattrs: u64,
    placeholders: u64,
}

impl<'a> Unpacker<'a> {
    fn new(dir: &Path, ids: &'a dyn Ids) -> Result<Self> {
        let tree = Tree::open(dir)?;
        // One file shows the mask, default access lists and the group of files in this directory: known once,
        // they save two calls for almost every entry.
        let probe = || {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = fs::openat(tree.root(), ".kiln-probe", flags, Mode::from_raw_mode(0o777))?;
            let stat = fs::fstat(&fd)?;
            fs::unlinkat(tree.root(), ".kiln-probe", AtFlags::empty())?;
            Ok::<_, Errno>(stat)
        };
        let stat = probe().trying("create a file in", dir)?;
        Ok(Self {
            tree,
            ids,
            created: Owner { uid: stat.st_uid, gid: stat.st_gid },
            mask: 0o777 & !stat.st_mode,
            settle: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            owners: BTreeMap::new(),
            recorded: 0,
            bytes: 0,
            skipped_xattrs: 0,
            placeholders: 0,
        })
    }

    fn place<R: Read>(&mut self, entry: &Entry, content: &mut Content<'_, R>) -> Result<()> {
        // The reader refuses names that lead through whiteouts.
        match entry.path.whiteout().unwrap_or(None) {
            Some(Whiteout::Metadata) => return Ok(()),
            Some(Whiteout::Opaque(dir)) => return self.hide_below(&dir),
            Some(Whiteout::Remove(path)) => return self.hide(&path),
            None => {}
        }
        let Some(parent) = entry.path.parent() else {
            return self.dress_directory(None, entry);
        };
        self.enter(&parent)?;
        let path = self.tree.current_path().join(entry.path.name());
        match &entry.kind {
            Kind::File { .. } => self.file(&path, entry, content),
            Kind::Directory => self.directory(&path, entry),
            Kind::HardLink { target } => self.hard_link(&path, entry, target),
            Kind::Symlink { target } => {
                self.make(&path, |dir, name| fs::symlinkat(target.as_slice(), dir, name))?;
                self.dress_special(&path, entry)
            }
            Kind::Fifo => self.node(&path, entry, FileType::Fifo, 0),
            Kind::CharDevice { major, minor } => {
                self.node(&path, entry, FileType::CharacterDevice, fs::makedev(*major, *minor))
            }
            Kind::BlockDevice { major, minor } => {
                self.node(&path, entry, FileType::BlockDevice, fs::makedev(*major, *minor))
            }
        }
    }

    /// Makes `path` the current directory, creating what is missing.
    fn enter(&mut self, path: &EntryPath) -> Result<BorrowedFd<'_>> {
        if let Err(Error::NotDirectory(obstacle)) = self.tree.enter(path, Absent::Create) {
            // A removal of the layers below does not concern what this layer brings under the same name.
            if !self.whiteouts.contains(&obstacle) {
                return Err(Error::NotDirectory(obstacle));
            }
            self.hide_below(&obstacle)?;
        }
        self.tree.enter(path, Absent::Create)?.ok_or_else(|| Error::Missing(path.clone()))
    }

    /// Returns the directory of `path`, a real path: one that leads through no link.
    fn parent(&mut self, path: &EntryPath) -> Result<BorrowedFd<'_>> {
        self.enter(&path.parent().unwrap_or_default())
    }

    /// Creates something at `path`, in place of what is there.
    fn make<T>(
        &mut self,
        path: &EntryPath,
        create: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T> {
        let dir = self.parent(path)?;
        match create(dir, path.name()) {
            Err(Errno::EXIST) => {}
            done => return done.trying("create", path),
        }
        self.replace(path)?;
        let dir = self.parent(path)?;
        create(dir, path.name()).trying("create", path)
    }

    /// Removes what is at `path`, because a later entry of the layer has the same name.
    fn replace(&mut self, path: &EntryPath) -> Result<()> {
        let dir = self.parent(path)?;
        tree::remove(dir, path.name()).trying("replace", path)?;
        self.tree.forget();
        // Paths order by component, so what was below stands together.
        let below = |p: &EntryPath| p.starts_with(path);
        let gone: Vec<_> =
            self.settle.range(path.clone()..).map(|(p, _)| p.clone()).take_while(below).collect();
        for path in gone {
            self.settle.remove(&path);
        }
        let gone: Vec<_> = self.whiteouts.range(path.clone()..).cloned().take_while(below).collect();
        for path in gone {
            self.whiteouts.remove(&path);
        }
        self.owners.retain(|p, _| !p.starts_with(path));
        self.tree.implied.retain(|p| !p.starts_with(path));
        Ok(())
    }

    fn file<R: Read>(&mut self, path: &EntryPath, entry: &Entry, content: &mut Content<'_, R>) -> Result<()> {
        let fd = self.create_file(path, entry.mode)?;
        let written = write(&fd, content).map_err(|e| match e {
            // The reader wraps its errors to fit `BufRead`.
            Failure::Layer(e) => Error::Layer(e.downcast().unwrap_or_else(kiln_oci::layer::Error::Read)),
            Failure::File(e) => Error::File { action: "write", path: path.as_path().to_owned(), source: e },
        })?;
        self.bytes += written;
        self.dress_file(&fd, path, entry)
    }

    fn create_file(&mut self, path: &EntryPath, mode: u32) -> Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        self.make(path, |dir, name| fs::openat(dir, name, flags, Mode::from_raw_mode(mode & 0o777)))
    }

    /// Gives a new regular file its attributes, in the order in which none undoes another.
    fn dress_file(&mut self, fd: &OwnedFd, path: &EntryPath, entry: &Entry) -> Result<()> {
        let record = self.chown(entry, |owner| {
            fs::fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
        });
        let record = record.trying("change the owner of", path)?;
        // Attributes need write permission, which the mode may lack, so the mode comes behind them.
        let late = entry.mode & 0o200 == 0;
        let xattrs = !entry.xattrs.is_empty() || record.is_some();
        if late && xattrs {
            fs::fchmod(fd, Mode::from_raw_mode(0o600)).trying("change the mode of", path)?;
        }
        if xattrs {
            self.set_xattrs(entry, record, |name, value| fs::fsetxattr(fd, name, value, XattrFlags::empty()))
                .trying("set the attributes of", path)?;
        }
        if (late && xattrs) || entry.mode & (0o7000 | self.mask) != 0 {
            fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).trying("change the mode of", path)?;
        }
        fs::futimens(fd, &times(entry.mtime)).trying("change the times of", path)
    }

    fn directory(&mut self, path: &EntryPath, entry: &Entry) -> Result<()> {
        // While the layer is unpacked, its directories can be written to whatever their mode says.
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | 0o700);
        let dir = self.parent(path)?;
        match fs::mkdirat(dir, path.name(), mode) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let is_directory = tree::type_of(dir, path.name()).trying("inspect", path)?;
                if is_directory != Some(FileType::Directory) {
                    let hidden = self.whiteouts.contains(path);
                    self.replace(path)?;
                    let dir = self.parent(path)?;
                    fs::mkdirat(dir, path.name(), mode).trying("create the directory", path)?;
                    if hidden {
                        self.hide_below(path)?;
                    }
                }
            }
            Err(e) => return Err(e).trying("create the directory", path),
        }
        self.dress_directory(Some(path), entry)
    }

    /// Gives a directory its attributes; the last of them when everything is unpacked.
    fn dress_directory(&mut self, path: Option<&EntryPath>, entry: &Entry) -> Result<()> {
        let path = path.cloned().unwrap_or_default();
        if let Some(place) = self.tree.implied.iter().position(|p| *p == path) {
            self.tree.implied.swap_remove(place);
        }
        let fd = self.enter(&path)?.try_clone_to_owned().trying("open", &path)?;
        let record = self
            .chown(entry, |owner| {
                fs::fchown(&fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))
            })
            .trying("change the owner of", &path)?;
        self.set_xattrs(entry, record, |name, value| fs::fsetxattr(&fd, name, value, XattrFlags::empty()))
            .trying("set the attributes of", &path)?;
        self.settle.insert(path, Settle { mode: entry.mode, mtime: entry.mtime });
        Ok(())
    }

    fn hard_link(&mut self, path: &EntryPath, entry: &Entry, target: &EntryPath) -> Result<()> {
        let missing = || Error::LinkTargetMissing { path: entry.path.clone(), target: target.clone() };
        let parent = target.parent().unwrap_or_default();
        let from = self.tree.enter(&parent, Absent::Report)?.ok_or_else(missing)?;
        let from = from.try_clone_to_owned().trying("open", &parent)?;
        let real = self.tree.current_path().join(target.name());
        if real == *path {
            return Ok(());
        }
        let found = tree::type_of(from.as_fd(), target.name()).trying("inspect", target)?;
        if found.is_none() || self.whiteouts.contains(&real) {
            return Err(missing());
        }
        if found == Some(FileType::Directory) {
            return Err(Error::File {
                action: "link to the directory",
                path: target.as_path().to_owned(),
                source: Errno::ISDIR.into(),
            });
        }
        // What is in the way may hold the target; then it is gone with it, and the link has nothing to name.
        self.make(path, |dir, name| fs::linkat(&from, target.name(), dir, name, AtFlags::empty())).map_err(
            |e| match e {
                Error::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => missing(),
                other => other,
            },
        )
    }

    fn node(&mut self, path: &EntryPath, entry: &Entry, kind: FileType, device: u64) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let made = self.make(path, |dir, name| match fs::mknodat(dir, name, kind, mode, device) {
            Err(Errno::PERM) if kind != FileType::Fifo => Ok(false),
            done => done.map(|()| true),
        })?;
        if made {
            return self.dress_special(path, entry);
        }
        let fd = self.create_file(path, entry.mode)?;
        let record =
            attributes::format_device(kind == FileType::BlockDevice, fs::major(device), fs::minor(device));
        fs::fsetxattr(&fd, DEVICE, record.as_bytes(), XattrFlags::empty())
            .trying("record the device", path)?;
        // Always, so that one look at a file tells whether it is what it seems.
        let owner = attributes::format_owner(Owner { uid: entry.uid, gid: entry.gid });
        fs::fsetxattr(&fd, OWNER, owner.as_bytes(), XattrFlags::empty())
            .trying("record the owner of", path)?;
        // Commands see another `/dev`, so that the usual devices of a base image are no reason to look for records.
        let covered = path.components().next() == Some(b"dev");
        self.recorded += u64::from(!covered);
        self.placeholders += 1;
        self.dress_file(&fd, path, entry)
    }

    /// Gives a link, a pipe or a device its attributes.
    fn dress_special(&mut self, path: &EntryPath, entry: &Entry) -> Result<()> {
        let dir = self.parent(path)?.try_clone_to_owned().trying("open", path)?;
        let name = path.name();
        let lost = self
            .chown(entry, |owner| {
                let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                fs::chownat(&dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            })
            .trying("change the owner of", path)?;
        if let Some(owner) = lost {
            self.owners.insert(path.clone(), owner);
        }
        if !entry.xattrs.is_empty() {
            let through = attributes::through_proc(dir.as_fd(), Path::new(OsStr::from_bytes(name)));
            self.set_xattrs(entry, None, |key, value| {
                fs::lsetxattr(&through, key, value, XattrFlags::empty())
            })
            .trying("set the attributes of", path)?;
        }
        if !matches!(entry.kind, Kind::Symlink { .. }) && entry.mode & (0o7000 | self.mask) != 0 {
            // Not a link, as it was just made, so there is nothing to follow.
            fs::chmodat(&dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .trying("change the mode of", path)?;
        }
        fs::utimensat(&dir, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .trying("change the times of", path)
    }

    /// Changes the owner where it differs from what creation gave; returns the owner that must be recorded. Such a file
    /// goes to the image's root, since to a command it must not belong to nobody.
    fn chown(
        &self,
        entry: &Entry,
        change: impl Fn(Owner) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<Option<Owner>> {
        let owner = Owner { uid: entry.uid, gid: entry.gid };
        let to_root = || match self.ids.to_disk(Owner::default()) {
            Some(root) if root != self.created => change(root),
            _ => Ok(()),
        };
        let Some(disk) = self.ids.to_disk(owner) else { return to_root().map(|()| Some(owner)) };
        if disk == self.created {
            return Ok(None);
        }
        match change(disk) {
            // The map promised more than the kernel allows, as it does for ids outside of a user namespace.
            Err(Errno::INVAL) => to_root().map(|()| Some(owner)),
            done => done.map(|()| None),
        }
    }

    fn set_xattrs(
        &mut self,
        entry: &Entry,
        record: Option<Owner>,
        set: impl Fn(&str, &[u8]) -> rustix::io::Result<()>,
    ) -> rustix::io::Result<()> {
        for (name, value) in &entry.xattrs {
            if attributes::is_private(name) {
                self.skipped_xattrs += 1;
                continue;
            }
            match set(name, value) {
                Ok(()) => {}
                Err(Errno::PERM | Errno::OPNOTSUPP | Errno::ACCESS | Errno::INVAL) => {
                    self.skipped_xattrs += 1;
                }
                Err(e) => return Err(e),
            }
        }
        match record {
            Some(owner) => {
                self.recorded += 1;
                set(OWNER, attributes::format_owner(owner).as_bytes())
            }
            None => Ok(()),
        }
    }

    /// Hides `path` of the layers below, unless this layer has it too.
    fn hide(&mut self, path: &EntryPath) -> Result<()> {
        let parent = path.parent().unwrap_or_default();
        self.enter(&parent)?;
        let real = self.tree.current_path().join(path.name());
        let dir = self.parent(&real)?;
        match tree::type_of(dir, path.name()).trying("inspect", path)? {
            // An earlier entry stays; what it hides has to be hidden inside of it.
            Some(FileType::Directory) => return self.hide_below(&real),
            Some(_) => return Ok(()),
            None => {}
        }
        attributes::make_whiteout(dir, path.name()).trying("record the removal of", path)?;
        self.whiteouts.insert(real);
        Ok(())
    }

    /// Hides everything that the layers below have in the directory `path`.
    fn hide_below(&mut self, path: &EntryPath) -> Result<()> {
        if self.whiteouts.contains(path) {
            self.replace(path)?;
        }
        let fd = self.enter(path)?;
        fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty()).trying("mark as opaque", path)
    }

    fn settle_directories(&mut self) -> Result<()> {
        // Directories without an entry look alike wherever and whenever the layer is unpacked.
        let mut implied = self.tree.implied.clone();
        implied.extend((!self.settle.contains_key(&EntryPath::root())).then(EntryPath::root));
        for path in &implied {
            self.dress_directory(Some(path), &Entry::new(path.clone(), Kind::Directory, 0o755))?;
        }
        implied.retain(|path| !path.is_root());
        implied.sort();
        self.tree.implied = implied;
        let settle = std::mem::take(&mut self.settle);
        // Children first: a mode may forbid the way to them, and the time of a parent is the last thing to set.
        for (path, Settle { mode, mtime }) in settle.into_iter().rev() {
            let fd = self.enter(&path)?;
            // Creation applied the mask and left the owner all rights.
            let mode = Mode::from_raw_mode(mode);
            fs::fchmod(fd, mode).trying("change the mode of", &path)?;
            fs::futimens(fd, &times(mtime)).trying("change the times of", &path)?;
        }
        Ok(())
    }
}

enum Failure {
    Layer(std::io::Error),
    File(std::io::Error),
}

/// Writes the content; holes of a sparse file stay holes.
fn write<R: Read>(fd: &OwnedFd, content: &mut Content<'_, R>) -> std::result::Result<u64, Failure> {
    let failed = |e: Errno| Failure::File(e.into());
    let (mut position, mut written, mut sparse) = (0_u64, 0_u64, false);
    loop {
        let hole = content.skip_hole();
        if hole > 0 {
            position += hole;
            sparse = true;
        }
        let buffer = content.fill_buf().map_err(Failure::Layer)?;
        if buffer.is_empty() {
            break;
        }
        let result =
            if sparse { rustix::io::pwrite(fd, buffer, position) } else { rustix::io::write(fd, buffer) };
        let count = match result {
            Err(Errno::INTR) => continue,
            done => done.map_err(failed)?,
        };
        content.consume(count);
        position += count as u64;
        written += count as u64;
    }
    if sparse {
        fs::ftruncate(fd, position).map_err(failed)?;
    }
    Ok(written)
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
