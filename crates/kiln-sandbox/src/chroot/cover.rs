//! What stands at a path of the root while a command runs, in the place of what the image has there.
//!
//! Without mounts a path is covered by two renames: what is there goes into a folder beside the root, and what shall be
//! seen comes in. Uncovering does the reverse, newest first, so that the image's file is back untouched whatever the
//! command did at that path. Directories keep their times. What has to be made to have a place at all is a stub, as under a mount.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::error::{Context as _, Error};
use crate::helper::targets::{Ground, Targets};
use crate::remove::remove_at;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A root with paths that are covered; dropping it uncovers them.
#[derive(Debug)]
pub(super) struct Covers {
    targets: Targets,
    /// Holds what was covered, under numbers, and what is being prepared, as `new`.
    held: OwnedFd,
    covers: Vec<Cover>,
    has_devices: bool,
}

#[derive(Debug)]
struct Cover {
    parent: OwnedFd,
    name: OsString,
    /// Where what covers goes when it is taken away; it is removed otherwise.
    back: Option<PathBuf>,
}

/// The name in the folder of what is being prepared.
const NEW: &str = "new";

impl Covers {
    /// Opens a root; `work`, on the same file system, keeps what is covered.
    pub(super) fn new(root: &Path, work: &Path) -> Result<Self, Error> {
        let open =
            |path: &Path| rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()).step_at("open", path);
        let held = work.join("held");
        crate::remove::remove_tree(&held).step_at("clear", &held)?;
        std::fs::create_dir(&held).step_at("create", &held)?;
        Ok(Self {
            targets: Targets::new(open(root)?)?,
            held: open(&held)?,
            covers: Vec::new(),
            has_devices: true,
        })
    }

    /// Returns the root.
    pub(super) fn root(&self) -> &OwnedFd {
        self.targets.root()
    }

    /// Returns the paths that exist only because something was to stand there.
    pub(super) fn stubs(&self) -> Vec<PathBuf> {
        self.targets.stubs.clone()
    }

    /// Tells whether the devices in it are devices.
    pub(super) fn has_devices(&self) -> bool {
        self.has_devices
    }

    /// Notes that empty files stand for devices, which have to be handed over at every opening.
    pub(super) fn lacks_devices(&mut self) {
        self.has_devices = false;
    }

    /// Returns where the next thing is to be prepared: a folder, and a free name in it.
    pub(super) fn workbench(&self) -> (&OwnedFd, &'static str) {
        (&self.held, NEW)
    }

    /// Covers `path` with what was prepared.
    pub(super) fn cover(&mut self, path: &Path, ground: Ground) -> Result<(), Error> {
        let place = self.place(path, ground)?;
        let taken = rustix::fs::renameat(&self.held, NEW, &place.parent, &place.name);
        self.settle(place, path, taken, None)
    }

    /// Covers `path` with something of the machine, which is there again afterwards, as the command left it.
    pub(super) fn lend(&mut self, source: &Path, path: &Path, ground: Ground) -> Result<(), Error> {
        let place = self.place(path, ground)?;
        let taken = rustix::fs::renameat(CWD, source, &place.parent, &place.name);
        self.settle(place, path, taken, Some(source.to_owned()))
    }

    /// Takes away what is at `path`; the image's symlinks are followed inside the root.
    fn place(&mut self, path: &Path, ground: Ground) -> Result<Place, Error> {
        const STEP: &str = "make room at";
        let found = self.targets.ground(path, ground)?;
        let real = self.targets.real_name(&found).step_at(STEP, path)?;
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(Error::new(STEP)
                .path(path)
                .cause("isolation `chroot` has no mounts, and the root cannot be put aside")
                .hint("choose a directory below it as the target"));
        };
        let parent = self.targets.open(parent).step_at(STEP, path)?;
        let times = times(&parent).step_at(STEP, path)?;
        rustix::fs::renameat(&parent, name, &self.held, self.covers.len().to_string())
            .step_at(STEP, path)
            .map_err(explain_rename)?;
        Ok(Place { parent, name: name.to_owned(), times })
    }

    fn settle(
        &mut self,
        place: Place,
        path: &Path,
        taken: Result<(), Errno>,
        back: Option<PathBuf>,
    ) -> Result<(), Error> {
        let Place { parent, name, times } = place;
        if taken.is_err() {
            let _ = rustix::fs::renameat(&self.held, self.covers.len().to_string(), &parent, &name);
        }
        let _ = set_times(&parent, &times);
        taken.step_at("put in place", path).map_err(explain_rename)?;
        self.covers.push(Cover { parent, name, back });
        Ok(())
    }

    /// Uncovers everything; the first failure is reported, and the others are tried all the same.
    pub(super) fn remove(mut self) -> Result<(), Error> {
        self.uncover_all()
    }

    fn uncover_all(&mut self) -> Result<(), Error> {
        let mut first = Ok(());
        while let Some(cover) = self.covers.pop() {
            let uncovered = self.uncover(&cover, &self.covers.len().to_string());
            first = first.and(uncovered.step_at("uncover", &cover.name));
        }
        first
    }

    fn uncover(&self, cover: &Cover, number: &str) -> Result<(), Errno> {
        let Cover { parent, name, back } = cover;
        let times = times(parent)?;
        let lent = back.as_ref().map(|back| rustix::fs::renameat(parent, name, CWD, back));
        if lent != Some(Ok(())) {
            // Nothing to give back, or somebody else has made one anew meanwhile.
            remove_at(std::os::fd::AsFd::as_fd(parent), name)?;
        }
        match rustix::fs::renameat(&self.held, number, parent, name) {
            Ok(()) => set_times(parent, &times),
            // The command has removed the directory, and with it what was in it.
            Err(Errno::NOENT) => remove_at(std::os::fd::AsFd::as_fd(&self.held), number.as_ref()),
            Err(errno) => Err(errno),
        }
    }
}

impl Drop for Covers {
    fn drop(&mut self) {
        let _ = self.uncover_all();
    }
}

/// A place from which what was there has been taken away.
struct Place {
    parent: OwnedFd,
    name: OsString,
    times: Timestamps,
}

fn times(dir: &OwnedFd) -> Result<Timestamps, Errno> {
    let stat = rustix::fs::fstat(dir)?;
    let time = |seconds, nanoseconds| Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Ok(Timestamps {
        last_access: time(stat.st_atime as _, stat.st_atime_nsec as _),
        last_modification: time(stat.st_mtime as _, stat.st_mtime_nsec as _),
    })
}

fn set_times(dir: &OwnedFd, times: &Timestamps) -> Result<(), Errno> {
    rustix::fs::utimensat(dir, ".", times, AtFlags::empty())
}

fn explain_rename(error: Error) -> Error {
    match error.errno.map(Errno::from_raw_os_error) {
        Some(Errno::XDEV) => error
            .cause("it lies on another file system, or in a layer of the container that kiln runs in")
            .hint("put kiln's store (--store) on a volume"),
        _ => error,
    }
}
