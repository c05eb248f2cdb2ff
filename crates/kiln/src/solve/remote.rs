//! Sources that lie elsewhere, opened when a step reads them.

use std::io::Read as _;
use std::sync::Arc;

use crate::address::GitTimes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fetch;
use crate::files::{CommitTree, FileTree, SourceTree};
use crate::graph::{GitCommit, HttpFile};

/// Opens a file of a web server under the name that the instruction has for it.
pub(super) fn file(engine: &Engine, file: &HttpFile, name: &str) -> Result<SourceTree> {
    let damaged = |e| {
        Error::environment(format!("the file from `{}` is damaged in the store", file.url))
            .because(e)
            .hint("run `kiln prune` and build again")
    };
    let mut blob = engine.store.open_blob(&fetch::http::blob(file))?;
    let mut buffer = vec![0; 128 << 10];
    // To the end, where a blob that is not what its name says gives an error.
    while blob.read(&mut buffer).map_err(damaged)? > 0 {
        engine.cancel.check()?;
    }
    let path = engine.store.blob_path(&file.digest)?;
    Ok(SourceTree {
        tree: Arc::new(FileTree::new(path, name, file.size, file.last_modified)),
        ignore: None,
        ignore_file: None,
        what: format!("`{}`", file.url),
    })
}

/// Opens the files of a commit.
pub(super) fn commit(engine: &Engine, commit: &GitCommit) -> Result<SourceTree> {
    let files = fetch::git::tree(engine, commit)
        .map_err(|e| e.within(format!("cannot fetch `{}`", commit.address)))?;
    let time = (commit.address.times == GitTimes::Commit).then_some(files.time);
    Ok(SourceTree {
        tree: Arc::new(CommitTree::open(&files.dir, &commit.address.to_string(), time)?),
        ignore: None,
        ignore_file: None,
        what: format!("`{}`", commit.address),
    })
}
