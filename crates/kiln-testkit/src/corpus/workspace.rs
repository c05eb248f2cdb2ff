//! The files of one case on disk, with the modes that the case says and not those of the checkout.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Case;
use super::case::{Archive, Extra};
use crate::Person;
use crate::git::Repositories;

/// A copy of a case's folder. It is removed when this is dropped.
#[derive(Debug)]
pub struct Workspace {
    /// The folder: `Dockerfile`, `context/`, and what else the case has.
    pub root: PathBuf,
}

impl Workspace {
    /// Copies the folder of `case` to `root`, makes what git cannot keep, and gives all of it to `person`.
    ///
    /// # Errors
    /// When a file cannot be made: the message names it.
    pub fn make(case: &Case, root: &Path, person: &Person) -> Result<Self, String> {
        let named = |path: &Path| {
            let path = path.display().to_string();
            move |e: io::Error| format!("{path}: {e}")
        };
        copy(&case.dir, root).map_err(named(root))?;
        let context = root.join("context");
        fs::create_dir_all(&context).map_err(named(&context))?;
        for extra in &case.context {
            let path = root.join(&extra.path);
            make(root, &path, extra).map_err(named(&path))?;
        }
        for (id, content) in &case.secrets {
            let path = root.join(format!("secret-{id}"));
            fs::write(&path, content).map_err(named(&path))?;
        }
        let workspace = Self { root: root.to_owned() };
        // What is served stays with who serves it.
        let served = case.serve.as_ref().map(|dir| root.join(dir));
        own(person, root, served.as_deref()).map_err(named(root))?;
        // Modes come last: a directory that nobody may enter cannot be filled.
        for extra in case.context.iter().rev() {
            if let Some(mode) = extra.mode {
                let path = root.join(&extra.path);
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(named(&path))?;
            }
            attributes(&root.join(&extra.path), extra).map_err(named(&root.join(&extra.path)))?;
        }
        Ok(workspace)
    }

    /// Returns the Dockerfile of the case: beside the context, or in it.
    #[must_use]
    pub fn dockerfile(&self) -> PathBuf {
        let beside = self.root.join("Dockerfile");
        if beside.exists() { beside } else { self.root.join("context/Dockerfile") }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Root can remove what nobody may enter; for others a leftover in the temporary folder is no failure.
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            let executable = entry.metadata()?.permissions().mode() & 0o100 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        }
    }
    Ok(())
}

fn make(root: &Path, path: &Path, extra: &Extra) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if let Some(target) = &extra.symlink {
        std::os::unix::fs::symlink(target, path)?;
    } else if let Some(first) = &extra.hardlink {
        fs::hard_link(root.join(first), path)?;
    } else if extra.fifo {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    } else if extra.dir {
        fs::create_dir_all(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    } else if let Some(size) = extra.size {
        fs::write(path, vec![0_u8; usize::try_from(size).unwrap_or_default()])?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    } else if let Some(content) = &extra.content {
        fs::write(path, content)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))?;
    } else if let Some(archive) = &extra.archive {
        pack(root, path, archive)?;
    } else if let Some(of) = &extra.repository {
        commit(&root.join(of), path)?;
    }
    Ok(())
}

/// Makes a repository of one commit that has the same name wherever and whenever it is made.
fn commit(of: &Path, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::other("a repository needs a directory to be in"));
    };
    let repositories = Repositories::new(parent.to_owned(), "a repository of the corpus")
        .ok_or_else(|| io::Error::other("there is no git"))?;
    let name = name.to_string_lossy();
    repositories.init(&name);
    copy(of, path)?;
    repositories.commit(&name, &[]);
    repositories.git(&name, &["tag", "v1"]);
    Ok(())
}

/// Packs a directory with the machine's `tar`, as people do.
fn pack(root: &Path, path: &Path, archive: &Archive) -> io::Result<()> {
    let mut command = Command::new("tar");
    command.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@1000000000"]);
    match archive.compression.as_deref() {
        None | Some("none") => {}
        Some(kind) => {
            command.arg(format!("--{kind}"));
        }
    }
    let of = root.join(&archive.of);
    let mut names: Vec<_> =
        fs::read_dir(&of)?.map(|e| e.map(|e| e.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    let status = command.arg("-cf").arg(path).arg("-C").arg(&of).args(names).stdin(Stdio::null()).status()?;
    if !status.success() {
        return Err(io::Error::other("tar failed"));
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

fn attributes(path: &Path, extra: &Extra) -> io::Result<()> {
    for (name, digits) in &extra.xattrs {
        let byte = |at: usize| {
            digits.get(at..at + 2).and_then(|d| u8::from_str_radix(d, 16).ok()).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("`{digits}` are not bytes in hexadecimal digits"),
                )
            })
        };
        let value: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect::<io::Result<_>>()?;
        rustix::fs::setxattr(path, name.as_str(), &value, rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

fn own(person: &Person, path: &Path, except: Option<&Path>) -> io::Result<()> {
    if except == Some(path) {
        return Ok(());
    }
    person.give(path)?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            own(person, &entry?.path(), except)?;
        }
    }
    Ok(())
}
