//! A commit's tree as files: modes 0644 and 0755, symbolic links kept, everything made anew.
//!
//! A tree comes from a stranger. Its names are checked, and nothing is opened that this code did not make a moment
//! before, so no link in it can lead a write elsewhere. Attributes (`.gitattributes`) are not applied: files are as
//! the repository holds them.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use gix_hash::ObjectId;
use gix_object::tree::EntryKind;
use gix_object::{Kind as ObjectKind, TreeRefIter};

use crate::error::{Error, Kind, Result};
use crate::gitdir::Keep;
use crate::objects::Objects;

/// Trees deeper than this are refused; paths end sooner.
const DEPTH: usize = 512;

/// A commit of another repository that belongs at a path of this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gitlink {
    /// Path in the tree.
    pub path: String,
    /// The commit.
    pub commit: ObjectId,
}

/// What a checkout found.
#[derive(Debug, Default)]
pub struct Checkout {
    /// Where submodules belong; the directories are there and empty.
    pub gitlinks: Vec<Gitlink>,
    /// The file `.gitmodules` at the top, if there is one.
    pub modules: Option<Vec<u8>>,
}

impl Objects {
    /// Writes the files of `tree` into the empty directory `dir`; at most `limit` bytes in all.
    ///
    /// # Errors
    /// When the tree has a name that cannot be, is too large, or the disk is full.
    pub fn checkout(&mut self, tree: ObjectId, dir: &Path, limit: u64) -> Result<Checkout> {
        self.write_tree(tree, dir, limit, None)
    }

    pub(crate) fn write_tree(
        &mut self,
        tree: ObjectId,
        dir: &Path,
        limit: u64,
        keep: Option<&mut Keep>,
    ) -> Result<Checkout> {
        let mut writer = Writer { objects: self, found: Checkout::default(), left: limit, keep };
        writer.directory(tree, dir, "", 0)?;
        Ok(writer.found)
    }
}

struct Writer<'a> {
    objects: &'a mut Objects,
    found: Checkout,
    left: u64,
    keep: Option<&'a mut Keep>,
}

impl Writer<'_> {
    fn directory(&mut self, tree: ObjectId, dir: &Path, path: &str, depth: usize) -> Result<()> {
        if depth > DEPTH {
            return Err(Error::content(format!("`{path}` lies deeper than {DEPTH} directories")));
        }
        let bytes = self.object(tree, ObjectKind::Tree)?;
        for entry in TreeRefIter::from_bytes(&bytes, gix_hash::Kind::Sha1) {
            let entry = entry.map_err(|e| Error::library(format!("tree {tree} is damaged"), e))?;
            let shown = join(path, entry.filename);
            check_name(entry.filename, &shown)?;
            let at = dir.join(std::ffi::OsStr::from_bytes(entry.filename));
            let id = entry.oid.to_owned();
            match entry.mode.kind() {
                EntryKind::Tree => {
                    make_dir(&at)?;
                    self.directory(id, &at, &shown, depth + 1)?;
                }
                EntryKind::Blob => self.file(id, &at, 0o644, &shown)?,
                EntryKind::BlobExecutable => self.file(id, &at, 0o755, &shown)?,
                EntryKind::Link => {
                    let target = self.object(id, ObjectKind::Blob)?;
                    let made = symlink(std::ffi::OsStr::from_bytes(&target), &at);
                    made.map_err(|e| Error::disk("make the link", &at, e))?;
                    self.index(id, 0o120_000, &shown);
                }
                EntryKind::Commit => {
                    make_dir(&at)?;
                    self.index(id, 0o160_000, &shown);
                    self.found.gitlinks.push(Gitlink { path: shown, commit: id });
                }
            }
        }
        Ok(())
    }

    fn object(&mut self, id: ObjectId, kind: ObjectKind) -> Result<Vec<u8>> {
        let bytes = self.objects.read(id, kind)?;
        if let Some(keep) = &mut self.keep {
            keep.object(id, kind, &bytes)?;
        }
        Ok(bytes)
    }

    fn index(&mut self, id: ObjectId, mode: u32, path: &str) {
        if let Some(keep) = &mut self.keep {
            keep.entry(id, mode, path);
        }
    }

    fn file(&mut self, id: ObjectId, at: &Path, mode: u32, shown: &str) -> Result<()> {
        let bytes = self.object(id, ObjectKind::Blob)?;
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            Error::content("the files of the repository are larger than the limit of this build")
        })?;
        let failed = |e| Error::disk("write", at, e);
        let mut file =
            fs::File::options().write(true).create_new(true).mode(mode).open(at).map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        // The mode does not depend on the umask of whoever builds.
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        self.index(id, 0o100_000 | mode, shown);
        if shown == ".gitmodules" {
            self.found.modules = Some(bytes);
        }
        Ok(())
    }
}

pub(crate) fn make_dir(at: &Path) -> Result<()> {
    let made = fs::create_dir(at).and_then(|()| fs::set_permissions(at, fs::Permissions::from_mode(0o755)));
    made.map_err(|e| Error::disk("create", at, e))
}

fn join(path: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") }
}

/// Refuses names that lead elsewhere or that Git itself would take for its own directory.
fn check_name(name: &[u8], shown: &str) -> Result<()> {
    let bad = matches!(name, b"" | b"." | b"..")
        || name.contains(&b'/')
        || name.contains(&0)
        || name.eq_ignore_ascii_case(b".git");
    if bad {
        return Err(Error::new(
            Kind::Content,
            format!("the repository has a file that cannot be: `{shown}`"),
        ));
    }
    Ok(())
}

impl Checkout {
    /// Returns where `link` belongs below `dir`.
    #[must_use]
    pub fn place(dir: &Path, link: &Gitlink) -> PathBuf {
        dir.join(&link.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let check = |name: &[u8], fine: bool| assert_eq!(check_name(name, "x").is_ok(), fine, "{name:?}");
        check(b"main.rs", true);
        check(b".gitignore", true);
        check(b"...", true);
        check(b"..", false);
        check(b".", false);
        check(b"", false);
        check(b"a/b", false);
        check(b".GIT", false);
    }
}
