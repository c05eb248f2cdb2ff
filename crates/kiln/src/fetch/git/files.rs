//! The files of a commit in the store, with those of its submodules.

use std::fs;
use std::path::{Path, PathBuf};

use kiln_git::{Checkout, Gitlink, Head, ObjectId};
use kiln_oci::Hasher;

use super::GitFiles;
use super::server::{failed, remote};
use crate::address::{GitAddress, Short, Url};
use crate::engine::{Engine, Transfer};
use crate::error::{Error, FileContext as _, Result};
use crate::graph::GitCommit;

/// Submodules of submodules end here: a repository can name itself.
const DEPTH: usize = 16;
/// No single file of a repository is larger; each is in memory once.
const LARGEST_FILE: usize = 2 << 30;

pub(super) fn tree(engine: &Engine, commit: &GitCommit) -> Result<GitFiles> {
    let name = name(commit);
    let _lock = engine.store.lock(&format!("git-{name}"))?;
    if let Some(found) = stored(engine, &name) {
        return Ok(found);
    }
    let work = engine.store.tmp_path();
    fs::create_dir(&work).on("create", &work)?;
    let transfer = Transfer::new(&engine.sink, format!("fetch {}", commit.address), None);
    let job = Job { engine, submodules: commit.address.submodules };
    let id = |text: &str| kiln_git::parse_id(text).ok_or_else(|| Error::internal("a pin without a commit"));
    let head = commit.keep_git_dir.then(|| head(commit)).transpose()?;
    let tree = work.join("tree");
    let made = job.checkout(
        &commit.address.remote,
        (id(&commit.object)?, id(&commit.commit)?),
        &tree,
        head.as_ref(),
        DEPTH,
    );
    engine.cancel.check()?;
    let time = made?;
    transfer.done();
    fs::write(work.join("time"), time.to_string()).on("write", &work)?;
    engine.store.commit_git(&work, &name)?;
    stored(engine, &name).ok_or_else(|| Error::internal("a checkout vanished"))
}

/// Returns the name of a checkout: the commit, and what else decides its files.
fn name(commit: &GitCommit) -> String {
    let mut hasher = Hasher::new();
    hasher.field(&[u8::from(commit.address.submodules), u8::from(commit.keep_git_dir)]);
    if commit.keep_git_dir {
        hasher.field(commit.address.remote.to_string().as_bytes());
        hasher.field(commit.reference.as_deref().unwrap_or_default().as_bytes());
    }
    let digest = hasher.finish();
    format!("{}-{}", commit.commit, digest.short())
}

fn head(commit: &GitCommit) -> Result<Head> {
    let id = kiln_git::parse_id(&commit.commit).ok_or_else(|| Error::internal("a pin without a commit"))?;
    let reference = commit.reference.clone().filter(|name| name != "HEAD");
    Ok(Head { commit: id, reference, url: commit.address.remote.to_string() })
}

fn stored(engine: &Engine, name: &str) -> Option<GitFiles> {
    let dir = engine.store.git(name)?;
    let time = fs::read_to_string(dir.join("time")).ok()?.parse().ok()?;
    Some(GitFiles { dir: dir.join("tree"), time })
}

struct Job<'a> {
    engine: &'a Engine,
    submodules: bool,
}

impl Job<'_> {
    /// Fetches a commit and writes its files into the new directory `dir`; returns the time of the commit.
    fn checkout(
        &self,
        url: &Url,
        (object, commit): (ObjectId, ObjectId),
        dir: &Path,
        head: Option<&Head>,
        depth: usize,
    ) -> Result<i64> {
        let pack = self.engine.store.tmp_path();
        fs::create_dir(&pack).on("create", &pack)?;
        let done = self.files(url, (object, commit), dir, head, &pack);
        let removed = fs::remove_dir_all(&pack).on("remove", &pack);
        let (found, time) = done?;
        removed?;
        if self.submodules {
            for link in &found.gitlinks {
                self.submodule(url, &found, link, dir, depth)?;
            }
        }
        Ok(time)
    }

    fn files(
        &self,
        url: &Url,
        (object, commit): (ObjectId, ObjectId),
        dir: &Path,
        head: Option<&Head>,
        pack: &Path,
    ) -> Result<(Checkout, i64)> {
        if !dir.exists() {
            fs::create_dir(dir).on("create", dir)?;
        }
        let limit = self.engine.limits.layer_size;
        let remote = remote(self.engine, url);
        let mut objects = remote.fetch(object, commit, pack, LARGEST_FILE).map_err(failed)?;
        let info = objects.commit(commit).map_err(failed)?;
        let found = match head {
            Some(head) => objects.checkout_with_git_dir(info.tree, dir, limit, head),
            None => objects.checkout(info.tree, dir, limit),
        };
        Ok((found.map_err(failed)?, info.time))
    }

    fn submodule(
        &self,
        parent: &Url,
        found: &Checkout,
        link: &Gitlink,
        dir: &Path,
        depth: usize,
    ) -> Result<()> {
        let skip = "add `?submodules=false` to the address to build without submodules";
        let modules = kiln_git::submodules(found.modules.as_deref().unwrap_or_default());
        let Some(module) = modules.iter().find(|m| m.path == link.path) else {
            return Err(Error::input(format!(
                "`.gitmodules` of `{parent}` does not say where `{}` is",
                link.path
            ))
            .hint(skip));
        };
        if module.skipped {
            return Ok(());
        }
        let url = Url::new(kiln_git::absolute(parent.reveal(), &module.url));
        let within = |e: Error| {
            e.within(format!("cannot fetch the submodule `{}` from `{url}`", link.path)).hint(skip)
        };
        if depth == 0 {
            return Err(within(Error::input(format!("submodules lie more than {DEPTH} deep"))));
        }
        if !at_a_server(&url) {
            return Err(within(Error::input("its address is not that of a server")));
        }
        let place: PathBuf = Checkout::place(dir, link);
        self.checkout(&url, (link.commit, link.commit), &place, None, depth - 1).map(drop).map_err(within)
    }
}

/// Tells whether a submodule is at a server: a repository must not choose files of the machine that builds.
fn at_a_server(url: &Url) -> bool {
    let text = url.reveal();
    crate::address::is_http(text)
        || GitAddress::parse(text, Short::Path).is_some_and(|address| address.is_ok())
}
