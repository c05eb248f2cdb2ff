//! Layer directories laid over one another in one directory, by copying: for commands where nothing can be mounted.
//!
//! The result is what an overlay mount of them would show, with two differences that protect others: no file is shared with a layer
//! by a hard link, because commands write in place, and a device of the image is an empty file with a record.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use kiln_oci::layer::EntryPath;
use rustix::fs::{self, CWD, FileType, Mode, Stat};
use rustix::io::Errno;

use super::attributes::{file_type, is_opaque, is_whiteout};
use super::copy::{self, DIRECTORY, Devices, as_path};
use super::error::{Result, Trying as _};
use super::tree;

/// What happens to the attributes of the directory itself that is laid over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Top {
    /// They stay: a root looks the same in every build.
    Kept,
    /// They become those of the layer.
    Taken,
}

/// Lays `layer` over what `into` holds; `go_on` is asked before every entry and may end it with an error.
///
/// # Errors
/// When a file cannot be read or made, or `go_on` fails. `into` holds a part then.
pub fn apply(layer: &Path, into: &Path, top: Top, go_on: &dyn Fn() -> std::io::Result<()>) -> Result<()> {
    let open = |path: &Path| fs::openat(CWD, path, DIRECTORY, Mode::empty()).trying("open", path);
    let (from, to) = (open(layer)?, open(into)?);
    let names = list(&from).trying("list", layer)?;
    let mut stack = vec![Level { path: EntryPath::root(), from, to, names }];
    loop {
        let is_top = stack.len() == 1;
        let Some(level) = stack.last_mut() else { return Ok(()) };
        let Some((name, stat)) = level.names.pop() else {
            if !is_top || top == Top::Taken {
                // Last, since what comes into a directory changes its time, and a mode may forbid it.
                copy::dress_directory(level.from.as_fd(), level.to.as_fd())
                    .trying("set the attributes of", &level.path)?;
            }
            stack.pop();
            continue;
        };
        let path = level.path.join(&name);
        go_on().trying("copy", &path)?;
        if let Some(below) = level.place(&name, &stat, path)? {
            stack.push(below);
        }
    }
}

/// Copies the file `from` to `to`, which must not exist.
///
/// # Errors
/// When it cannot be read or made.
pub fn copy_into(from: &Path, to: &Path) -> Result<()> {
    let part = |path: &Path| -> Result<(OwnedFd, Vec<u8>)> {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let dir = fs::openat(CWD, parent, DIRECTORY, Mode::empty()).trying("open", parent)?;
        Ok((dir, path.file_name().unwrap_or_default().as_encoded_bytes().to_vec()))
    };
    let ((from_dir, name), (to_dir, new)) = (part(from)?, part(to)?);
    let stat =
        fs::statat(&from_dir, as_path(&name), fs::AtFlags::SYMLINK_NOFOLLOW).trying("inspect", from)?;
    copy::copy(from_dir.as_fd(), to_dir.as_fd(), &name, &stat, Devices::Recorded).trying("copy", from)?;
    if name != new {
        fs::renameat(&to_dir, as_path(&name), &to_dir, as_path(&new)).trying("rename", to)?;
    }
    Ok(())
}

struct Level {
    path: EntryPath,
    from: OwnedFd,
    to: OwnedFd,
    /// Names still to come.
    names: Vec<(Vec<u8>, Stat)>,
}

impl Level {
    /// Lays one name over what is there; returns the directory to go on with if it is one.
    fn place(&self, name: &[u8], stat: &Stat, path: EntryPath) -> Result<Option<Self>> {
        let to = self.to.as_fd();
        if is_whiteout(stat) {
            return remove(to, name).trying("remove", &path).map(|()| None);
        }
        if file_type(stat) != FileType::Directory {
            let copy = || copy::copy(self.from.as_fd(), to, name, stat, Devices::Recorded);
            match copy() {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    remove(to, name).trying("replace", &path)?;
                    copy().trying("copy", &path)?;
                }
                done => done.trying("copy", &path)?,
            }
            return Ok(None);
        }
        let make = || fs::mkdirat(to, as_path(name), Mode::RWXU);
        match make() {
            Err(Errno::EXIST) => {
                let there = tree::type_of(to, name).trying("inspect", &path)?;
                let hides = is_opaque(self.from.as_fd(), as_path(name)).trying("inspect", &path)?;
                if hides || there != Some(FileType::Directory) {
                    remove(to, name).trying("replace", &path)?;
                    make().trying("create the directory", &path)?;
                }
            }
            done => done.trying("create the directory", &path)?,
        }
        let from = copy::open(self.from.as_fd(), name).trying("open", &path)?;
        let to = copy::open(to, name).trying("open", &path)?;
        let names = list(&from).trying("list", &path)?;
        Ok(Some(Self { path, from, to, names }))
    }
}

fn remove(dir: std::os::fd::BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
    match tree::remove(dir, name) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}

fn list(dir: &OwnedFd) -> std::io::Result<Vec<(Vec<u8>, Stat)>> {
    let mut out = Vec::new();
    for entry in fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            out.push((name.to_bytes().to_vec(), fs::statat(dir, name, fs::AtFlags::SYMLINK_NOFOLLOW)?));
        }
    }
    Ok(out)
}
