//! The root file system as files in a directory.
//!
//! A file that is there with the same bytes stays as it is, so that programs which watch the directory see what changed.
//! Only comparing tells: all files of a context have one time, and a size says nothing. Files of the directory that the
//! image does not have are left alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Result as IoResult};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kiln_oci::layer::{Entry, EntryPath, Kind};
use kiln_sandbox::RootDir;
use kiln_sandbox::rootdir::{self, Metadata, Node, Time};

use super::Job;
use super::rootfs::view;
use crate::error::{Error, FileContext as _, Result};
use crate::files::ViewTree;
use crate::snapshot;

/// Writes the merged files into a directory; owners are set where this user may set them.
pub(super) fn write(job: &Job<'_>, dest: &Path) -> Result<String> {
    fs::create_dir_all(dest).on("create", dest)?;
    let tree = view(job)?;
    let root = RootDir::open(dest).map_err(|e| failed(dest, e))?;
    let mut out = Directory { dest, root, tree: &tree, links: BTreeMap::new(), changed: false, foreign: 0 };
    let mut directories = Vec::new();
    for visited in tree.view().walk(&EntryPath::root())? {
        job.engine.cancel.check()?;
        let visited = visited?;
        if visited.entry.path.is_root() {
            continue;
        }
        if visited.entry.kind == Kind::Directory {
            out.directory(&visited.entry)?;
            directories.push(visited.entry);
        } else if out.node(&visited.entry, &visited.node)? {
            out.attributes(&visited.entry)?;
        }
    }
    // Last, and the deepest first: a directory may forbid writing, and writing into it changes its time.
    for entry in directories.iter().rev() {
        out.attributes(entry)?;
    }
    let note = if out.foreign == 0 {
        String::new()
    } else {
        let count = out.foreign;
        format!(
            "; {count} owners or devices could not be set, because this user may not (`type=tar` keeps them)"
        )
    };
    Ok(match out.changed {
        true => format!("written as a root file system to `{}`{note}", dest.display()),
        false => format!("unchanged: `{}` has this root file system already{note}", dest.display()),
    })
}

fn failed(dest: &Path, error: rootdir::Error) -> Error {
    Error::environment(format!("cannot write into `{}`", dest.display())).because(error)
}

struct Directory<'a> {
    dest: &'a Path,
    root: RootDir,
    tree: &'a ViewTree,
    /// The first path of every file with several.
    links: BTreeMap<(u64, u64), EntryPath>,
    changed: bool,
    /// Owners and devices that could not be set.
    foreign: u64,
}

impl Directory<'_> {
    fn failed(&self, error: rootdir::Error) -> Error {
        failed(self.dest, error)
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.changed = true;
        if self.root.lstat(path).is_ok() {
            self.root.remove_all(path).map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry) -> Result<()> {
        let path = entry.path.as_path();
        if self.root.lstat(path).is_ok_and(|there| there.kind == rootdir::Kind::Directory) {
            return Ok(());
        }
        self.remove(path)?;
        self.root.create_dir(path, 0o700).map_err(|e| self.failed(e))
    }

    /// Puts anything but a directory there; `false` when it has no attributes of its own to be set.
    fn node(&mut self, entry: &Entry, node: &snapshot::Node) -> Result<bool> {
        let path = entry.path.as_path();
        let there = self.root.lstat(path).ok();
        let identity = node.identity;
        if identity.links > 1 {
            if let Some(first) = self.links.get(&(identity.device, identity.inode)).cloned() {
                let first = first.as_path();
                let original = self.root.lstat(first).map_err(|e| self.failed(e))?;
                if there.is_none_or(|there| (there.device, there.inode) != (original.device, original.inode))
                {
                    self.remove(path)?;
                    self.root.hardlink(first, path).map_err(|e| self.failed(e))?;
                }
                return Ok(false);
            }
            self.links.insert((identity.device, identity.inode), entry.path.clone());
        }
        // A name of the same file elsewhere would change with it.
        let there = there.filter(|there| there.links == identity.links);
        match &entry.kind {
            Kind::File { size } => self.file(path, *size, node, there)?,
            Kind::Symlink { target } => {
                let target = Path::new(std::ffi::OsStr::from_bytes(target));
                if !self.root.readlink(path).is_ok_and(|there| there == target) {
                    self.remove(path)?;
                    self.root.symlink(target, path).map_err(|e| self.failed(e))?;
                }
            }
            Kind::Fifo if there.is_some_and(|there| there.kind == rootdir::Kind::Fifo) => {}
            Kind::Fifo => {
                self.remove(path)?;
                self.root.mknod(path, Node::Fifo, 0o600).map_err(|e| self.failed(e))?;
            }
            _ => {
                if self.root.lstat(path).is_ok() {
                    self.remove(path)?;
                }
                self.foreign += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn file(&mut self, path: &Path, size: u64, node: &snapshot::Node, there: Option<Metadata>) -> Result<()> {
        let open = || self.tree.view().open_node(node);
        if there.is_some_and(|there| there.kind == rootdir::Kind::File && there.size == size)
            && let Ok(old) = self.root.open_file(path)
            && equal(open()?, old).on("compare", &self.dest.join(path))?
        {
            return Ok(());
        }
        let mut source = open()?;
        self.remove(path)?;
        let mut file = self.root.create_file(path, 0o600).map_err(|e| self.failed(e))?;
        std::io::copy(&mut source, &mut file).on("write", &self.dest.join(path))?;
        Ok(())
    }

    /// Sets owner, mode and time where they differ.
    fn attributes(&mut self, entry: &Entry) -> Result<()> {
        let path = entry.path.as_path();
        let mut there = self.root.lstat(path).map_err(|e| self.failed(e))?;
        if (there.uid, there.gid) != (entry.uid, entry.gid) {
            if self.root.chown(path, entry.uid, entry.gid).is_ok() {
                self.changed = true;
                // The kernel takes set-user-id bits away from what changes hands.
                there = self.root.lstat(path).map_err(|e| self.failed(e))?;
            } else if (entry.uid, entry.gid) != (0, 0) {
                self.foreign += 1;
            }
        }
        if there.mode != entry.mode && !matches!(entry.kind, Kind::Symlink { .. }) {
            self.root.chmod(path, entry.mode).map_err(|e| self.failed(e))?;
            self.changed = true;
        }
        let time = Time { seconds: entry.mtime.secs, nanoseconds: entry.mtime.nanos };
        if there.modified != time {
            self.root.set_times(path, time, time).map_err(|e| self.failed(e))?;
            self.changed = true;
        }
        Ok(())
    }
}

/// Tells whether two files of equal size have equal bytes.
fn equal(one: File, other: File) -> IoResult<bool> {
    let (mut one, mut other) =
        (BufReader::with_capacity(1 << 17, one), BufReader::with_capacity(1 << 17, other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let count = left.len().min(right.len());
        if left.get(..count) != right.get(..count) {
            return Ok(false);
        }
        if count == 0 {
            return Ok(left.len() == right.len());
        }
        one.consume(count);
        other.consume(count);
    }
}
