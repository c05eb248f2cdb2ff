//! What a case serves over HTTP, for ADD: files of a directory, and repositories in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::git::Repositories;
use crate::web::{Received, Reply, WebServer};

/// `Last-Modified` of every file: 2001-09-09 01:46:40, the second 1000000000.
const LAST_MODIFIED: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

/// Serves the files below `dir`, until the answer is dropped. A path with `.git/` is a repository's.
#[must_use]
pub fn serve(dir: &Path) -> WebServer {
    let dir = dir.to_owned();
    WebServer::start(move |request| answer(&dir, request))
}

fn answer(dir: &Path, request: &Received) -> Reply {
    if request.path.contains(".git/") {
        return match Repositories::new(dir.to_owned(), "a repository of the corpus") {
            Some(repositories) => repositories.backend(request),
            None => Reply::new(404, ""),
        };
    }
    match file(dir, &request.path).and_then(|path| fs::read(path).ok()) {
        Some(content) => Reply::new(200, content).with("last-modified", LAST_MODIFIED),
        None => Reply::new(404, ""),
    }
}

fn file(dir: &Path, target: &str) -> Option<PathBuf> {
    let path = target.split(['?', '#']).next()?.trim_start_matches('/');
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let path = dir.join(path);
    path.is_file().then_some(path)
}
