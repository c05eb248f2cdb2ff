//! A `.git` directory for a checkout: what `--keep-git-dir` leaves, with equal bytes wherever it is made.
//!
//! Objects are written one by one instead of as the pack that the server sent, because no two servers send equal packs.
//! The history ends at the commit (`shallow`), the head is detached, and the index knows no times.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use gix_hash::ObjectId;
use gix_object::Kind as ObjectKind;

use crate::checkout::{Checkout, make_dir};
use crate::error::{Error, Result};
use crate::objects::Objects;

/// What a kept `.git` directory says about where it came from.
#[derive(Debug, Clone)]
pub struct Head {
    /// The commit.
    pub commit: ObjectId,
    /// The reference that was asked for, if it was one.
    pub reference: Option<String>,
    /// The address of the repository, without credentials.
    pub url: String,
}

/// A `.git` directory in the making.
pub(crate) struct Keep {
    dir: PathBuf,
    written: BTreeSet<ObjectId>,
    entries: Vec<(String, ObjectId, u32)>,
}

impl Objects {
    /// As [`checkout`](Self::checkout), with a `.git` directory beside the files.
    ///
    /// # Errors
    /// As `checkout`.
    pub fn checkout_with_git_dir(
        &mut self,
        tree: ObjectId,
        dir: &Path,
        limit: u64,
        head: &Head,
    ) -> Result<Checkout> {
        let mut keep = Keep::new(dir)?;
        let commit = self.read(head.commit, ObjectKind::Commit)?;
        keep.object(head.commit, ObjectKind::Commit, &commit)?;
        let found = self.write_tree(tree, dir, limit, Some(&mut keep))?;
        keep.finish(head)?;
        Ok(found)
    }
}

impl Keep {
    fn new(top: &Path) -> Result<Self> {
        let dir = top.join(".git");
        for folder in ["", "objects", "refs", "refs/heads", "refs/tags"] {
            make_dir(&dir.join(folder))?;
        }
        Ok(Self { dir, written: BTreeSet::new(), entries: Vec::new() })
    }

    /// Writes an object, once.
    pub(crate) fn object(&mut self, id: ObjectId, kind: ObjectKind, bytes: &[u8]) -> Result<()> {
        if !self.written.insert(id) {
            return Ok(());
        }
        let hex = id.to_string();
        let folder = self.dir.join("objects").join(&hex[..2]);
        if !folder.exists() {
            make_dir(&folder)?;
        }
        let path = folder.join(&hex[2..]);
        let failed = |e| Error::disk("write", &path, e);
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::new(6));
        write!(encoder, "{kind} {}\0", bytes.len())
            .and_then(|()| encoder.write_all(bytes))
            .map_err(failed)?;
        write(&path, &encoder.finish().map_err(failed)?)
    }

    pub(crate) fn entry(&mut self, id: ObjectId, mode: u32, path: &str) {
        self.entries.push((path.to_owned(), id, mode));
    }

    fn finish(mut self, head: &Head) -> Result<()> {
        let commit = head.commit.to_string();
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
             [remote \"origin\"]\n\turl = {}\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n",
            head.url
        );
        write(&self.dir.join("config"), config.as_bytes())?;
        write(&self.dir.join("HEAD"), format!("{commit}\n").as_bytes())?;
        write(&self.dir.join("shallow"), format!("{commit}\n").as_bytes())?;
        if let Some(name) = head.reference.as_deref().filter(|name| is_plain(name)) {
            write(&self.dir.join("packed-refs"), format!("{commit} {name}\n").as_bytes())?;
        }
        let index = self.index()?;
        write(&self.dir.join("index"), &index)
    }

    /// Returns the index, version 2. Every time and size is 0, so `git` looks at the files itself.
    fn index(&mut self) -> Result<Vec<u8>> {
        /// Times, device, inode, which nothing here has an answer for.
        const UNKNOWN: [u8; 24] = [0; 24];
        self.entries.sort();
        let mut out = Vec::from(*b"DIRC\0\0\0\x02");
        out.extend(u32::try_from(self.entries.len()).unwrap_or(u32::MAX).to_be_bytes());
        for (path, id, mode) in &self.entries {
            let start = out.len();
            out.extend(UNKNOWN);
            out.extend(mode.to_be_bytes());
            // Owner, group and size.
            out.extend([0; 12]);
            out.extend(id.as_slice());
            out.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).min(0xfff).to_be_bytes());
            out.extend(path.as_bytes());
            // At least one, up to a multiple of eight.
            let padding = 8 - (out.len() - start) % 8;
            out.extend(std::iter::repeat_n(0, padding));
        }
        let mut hasher = gix_hash::hasher(gix_hash::Kind::Sha1);
        hasher.update(&out);
        let digest = hasher.try_finalize().map_err(|e| Error::content("cannot hash the index").because(e))?;
        out.extend(digest.as_slice());
        Ok(out)
    }
}

/// Tells whether a reference's name can stand in a file of lines.
fn is_plain(name: &str) -> bool {
    name.starts_with("refs/") && !name.contains(char::is_whitespace)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let written =
        fs::write(path, bytes).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
    written.map_err(|e| Error::disk("write", path, e))
}
