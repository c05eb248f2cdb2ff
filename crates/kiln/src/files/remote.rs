//! Trees of what came from elsewhere: one file of a web server, or the files of a commit.

use std::fs::File;
use std::path::{Path, PathBuf};

use kiln_oci::layer::{Entry, EntryPath, Kind, Timestamp};

use super::context::ContextTree;
use super::tree::{Node, Tree};
use crate::error::{Error, FileContext as _, Result};

/// Mode of a file that came from a web server, as in BuildKit.
const MODE: u32 = 0o600;

/// One file, alone in its tree.
pub(crate) struct FileTree {
    path: PathBuf,
    entry: Entry,
}

impl FileTree {
    /// Shows the file at `path` under `name`, as changed at `time`.
    pub(crate) fn new(path: PathBuf, name: &str, size: u64, time: Option<i64>) -> Self {
        let mut entry = Entry::new(EntryPath::root().join(name.as_bytes()), Kind::File { size }, MODE);
        if let Some(time) = time {
            entry.mtime = Timestamp::from_secs(time);
        }
        Self { path, entry }
    }
}

impl Tree for FileTree {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        Ok((*path == self.entry.path).then(|| Node::new(self.entry.clone())))
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        Ok(if dir.is_root() { vec![self.entry.path.name().to_vec()] } else { Vec::new() })
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        if *path != self.entry.path {
            return Err(Error::internal(format!("there is no `{path}` in a tree of one file")));
        }
        File::open(&self.path).on("open", &self.path)
    }
}

/// The files of a commit, all with one time.
pub(crate) struct CommitTree {
    files: ContextTree,
    time: i64,
}

impl CommitTree {
    /// Opens the checkout in `dir`; without a `time`, files have that of the build.
    pub(crate) fn open(dir: &Path, name: &str, time: Option<i64>) -> Result<Self> {
        Ok(Self { files: ContextTree::open(dir, name)?, time: time.unwrap_or(i64::MAX) })
    }
}

impl Tree for CommitTree {
    fn stat(&self, path: &EntryPath) -> Result<Option<Node>> {
        let node = self.files.stat(path)?;
        Ok(node.map(|mut node| {
            node.entry.mtime = Timestamp::from_secs(self.time);
            node
        }))
    }

    fn list(&self, dir: &EntryPath) -> Result<Vec<Vec<u8>>> {
        self.files.list(dir)
    }

    fn open(&self, path: &EntryPath) -> Result<File> {
        self.files.open(path)
    }

    fn time(&self) -> Option<i64> {
        Some(self.time)
    }
}
