//! What a file operation will write: sources found, destinations decided, nothing read yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{EntryPath, Kind};

use super::archive;
use super::dest::Destination;
use super::select::{Selected, SourceTree, select};
use super::tree::{Tree as _, resolve};
use super::users::Accounts;
use crate::error::{Error, Result};
use crate::graph::{CopyAction, FileAction, FileOp, Mode, is_numeric};

/// What a file operation writes, decided but not read yet.
pub(crate) struct Plan {
    pub(super) streams: Vec<Stream>,
}

/// One source on its way to one destination.
pub(super) struct Stream {
    pub(super) dest: EntryPath,
    pub(super) what: What,
    pub(super) attributes: Attributes,
}

pub(super) enum What {
    /// The content of a directory.
    Directory(Box<Selected>, Arc<Ignore>),
    /// One file, link or special file.
    File(Box<Selected>),
    /// The content of an archive.
    Archive(Box<Selected>),
    /// A file with this content.
    Content(Vec<u8>),
    /// An empty directory.
    MakeDir,
}

/// What `--chown` and `--chmod` say.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    pub(super) owner: Option<(u32, u32)>,
    pub(super) mode: Option<Mode>,
}

impl Plan {
    /// Decides where everything goes. When `dest` then needs files, the plan was a guess: make it again with files.
    ///
    /// # Errors
    /// When a source does not exist or a destination is in the way.
    pub(crate) fn new(
        op: &FileOp,
        sources: &dyn Fn(&CopyAction) -> Result<SourceTree>,
        dest: &Destination,
    ) -> Result<Self> {
        let mut plan = Self { streams: Vec::new() };
        let mut made = BTreeSet::new();
        for action in &op.actions {
            match action {
                FileAction::Copy(copy) => plan.copy(copy, &sources(copy)?, dest, &mut made)?,
                FileAction::Write { name, content, dest: to, chown, chmod } => {
                    let attributes = attributes(dest, chown.as_deref(), chmod.as_ref())?;
                    let path = file_path(dest, to, name.as_bytes(), &made)?;
                    let what = What::Content(content.clone());
                    plan.streams.push(Stream { dest: path, what, attributes });
                }
                FileAction::MakeDir { path, user } => plan.make_dir(path, user, dest)?,
            }
        }
        Ok(plan)
    }

    fn make_dir(&mut self, path: &str, user: &str, dest: &Destination) -> Result<()> {
        let attributes = attributes(dest, Some(user).filter(|u| !u.is_empty()), None)?;
        let path = resolve(dest, &absolute(path)?)?;
        match dest.stat(&path)?.map(|n| n.entry.kind) {
            Some(Kind::Directory) => {}
            Some(_) => return Err(Error::input(format!("`/{path}` is not a directory"))),
            None => self.streams.push(Stream { dest: path, what: What::MakeDir, attributes }),
        }
        Ok(())
    }

    fn copy(
        &mut self,
        copy: &CopyAction,
        from: &SourceTree,
        dest: &Destination,
        made: &mut BTreeSet<EntryPath>,
    ) -> Result<()> {
        let attributes = attributes(dest, copy.chown.as_deref(), copy.chmod.as_ref())?;
        let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str))
            .map_err(|e| Error::input(format!("bad pattern in `--exclude`: {e}")))?;
        let exclude = Arc::new(exclude);
        for source in &copy.sources {
            for selected in select(from, source, copy.layout)? {
                let attributes = attributes.clone();
                let is_directory = selected.node.entry.kind == Kind::Directory;
                let is_archive = copy.unpack && !is_directory && archive::is_archive(&selected);
                if !is_directory && !is_archive {
                    let path = file_path(dest, &copy.dest, &selected.name, made)?;
                    let what = What::File(Box::new(selected));
                    self.streams.push(Stream { dest: path, what, attributes });
                    continue;
                }
                let path = directory_path(dest, &copy.dest).map_err(|e| e.at(source.place.clone()))?;
                made.insert(path.clone());
                let selected = Box::new(selected);
                let what = if is_archive {
                    What::Archive(selected)
                } else {
                    What::Directory(selected, Arc::clone(&exclude))
                };
                self.streams.push(Stream { dest: path, what, attributes });
            }
        }
        Ok(())
    }
}

fn absolute(path: &str) -> Result<EntryPath> {
    EntryPath::rooted(path).map_err(|e| Error::input(format!("`{path}` cannot be a destination")).because(e))
}

/// Decides the path of a directory that is filled.
fn directory_path(dest: &Destination, to: &str) -> Result<EntryPath> {
    let path = resolve(dest, &absolute(to)?)?;
    match dest.stat(&path)?.map(|n| n.entry.kind) {
        // What comes in merges with what is there, and of that nothing is known yet.
        Some(Kind::Directory) if dest.is_assumed(&path) => dest.require_files(),
        Some(Kind::Directory) | None => {}
        Some(_) if path.is_root() => {}
        Some(_) => {
            return Err(Error::input(format!("cannot copy to non-directory `/{path}`"))
                .hint("a directory's content can only go into a directory"));
        }
    }
    Ok(path)
}

/// Decides the path of one file: below the destination when that is a directory, else the destination itself.
fn file_path(dest: &Destination, to: &str, name: &[u8], made: &BTreeSet<EntryPath>) -> Result<EntryPath> {
    let path = resolve(dest, &absolute(to)?)?;
    let kind = dest.stat(&path)?.map(|n| n.entry.kind);
    let is_dir = to.ends_with('/') || path.is_root() || kind == Some(Kind::Directory) || made.contains(&path);
    if !is_dir {
        return Ok(path);
    }
    if kind.is_some_and(|k| k != Kind::Directory) && !path.is_root() {
        return Err(Error::input(format!("cannot copy into `/{path}`: it is not a directory")));
    }
    // A heredoc may have any word for its name.
    let shown = String::from_utf8_lossy(name);
    let name = EntryPath::new(name)
        .map_err(|e| Error::input(format!("`{shown}` cannot be a file of `/{path}`")).because(e))?;
    let path = path.join(name.as_bytes());
    match dest.stat(&path)?.map(|n| n.entry.kind) {
        Some(Kind::Directory) => {
            Err(Error::input(format!("cannot replace the directory `/{path}` by a file")))
        }
        _ => Ok(path),
    }
}

fn attributes(dest: &Destination, chown: Option<&str>, mode: Option<&Mode>) -> Result<Attributes> {
    let mode = mode.cloned();
    let Some(user) = chown else { return Ok(Attributes { owner: None, mode }) };
    let accounts = match dest {
        Destination::Exact(tree) if !is_numeric(user) => Accounts::read(tree.as_ref())?,
        // The plan is a guess then, and is made again with the files.
        Destination::Lazy { .. } if !is_numeric(user) && dest.require_contents() => {
            return Ok(Attributes { owner: Some((0, 0)), mode });
        }
        _ => Accounts::default(),
    };
    Ok(Attributes { owner: Some(accounts.owner(user)?), mode })
}
