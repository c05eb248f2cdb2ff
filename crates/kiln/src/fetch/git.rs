//! Commits of git repositories: what a reference means now, and the files of a commit as a directory of the store.
//!
//! ```text
//! git/NAME/boot    the boot that wrote it: after another it is fetched again, as snapshots are made again
//! git/NAME/time    of the commit, in seconds since 1970
//! git/NAME/tree/   the files
//! ```
//!
//! `NAME` is the commit, with a digest of what else decides the files: submodules, and whatever a kept `.git` says.

#[cfg(feature = "git")]
mod files;
#[cfg(feature = "git")]
mod server;

use std::path::{Path, PathBuf};

use crate::address::GitAddress;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::graph::GitCommit;

/// The files of a commit.
#[derive(Debug)]
pub(crate) struct GitFiles {
    /// Where they are; the directory that the address names.
    pub(crate) dir: PathBuf,
    /// When the commit was made.
    pub(crate) time: i64,
}

/// Finds out which commit `address` means now.
///
/// # Errors
/// When the server cannot be reached, or has no such reference, or it leads to another commit than is required.
#[cfg(feature = "git")]
pub(crate) fn resolve(engine: &Engine, address: &GitAddress, keep_git_dir: bool) -> Result<GitCommit> {
    server::resolve(engine, address, keep_git_dir)
}

/// Returns the files of a commit, fetching them unless the store has them.
///
/// # Errors
/// When they cannot be fetched, or lack the directory that the address names.
#[cfg(feature = "git")]
pub(crate) fn tree(engine: &Engine, commit: &GitCommit) -> Result<GitFiles> {
    let mut files = files::tree(engine, commit)?;
    files.dir = directory(&files.dir, &commit.address)?;
    Ok(files)
}

#[cfg(not(feature = "git"))]
pub(crate) fn resolve(_: &Engine, address: &GitAddress, _: bool) -> Result<GitCommit> {
    Err(Error::input(format!("cannot read the repository `{address}`: this kiln was built without git"))
        .hint("build kiln with its feature `git`, or clone the repository before the build"))
}

#[cfg(not(feature = "git"))]
pub(crate) fn tree(engine: &Engine, commit: &GitCommit) -> Result<GitFiles> {
    resolve(engine, &commit.address, commit.keep_git_dir).and_then(|_| {
        let dir = directory(Path::new(""), &commit.address)?;
        Ok(GitFiles { dir, time: 0 })
    })
}

/// Returns the directory of the checkout that an address names; no link leads there.
fn directory(top: &Path, address: &GitAddress) -> Result<PathBuf> {
    let mut dir = top.to_owned();
    for part in address.subdir.split('/').filter(|part| !part.is_empty()) {
        dir.push(part);
        if !std::fs::symlink_metadata(&dir).is_ok_and(|meta| meta.is_dir()) {
            return Err(Error::input(format!("`{}` has no directory `{}`", address.remote, address.subdir)));
        }
    }
    Ok(dir)
}
