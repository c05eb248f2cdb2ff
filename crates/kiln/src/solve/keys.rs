//! Cache keys: every part typed, framed by its length and in a fixed order, so that no two steps share one by chance.
//!
//! A key covers what can change the layer: the operation, the root file system below it, the files it takes, and how
//! kiln writes layers. It covers no title, no place and no time of a file.
//!
//! A linked COPY makes its layer without the root file system below it, and its key leaves that out: the layer is taken
//! from the cache on any base. Steps on top see both, so what they hash of their parent is its *state*, which covers
//! the chain, and differs from its key for such a step alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::{Digest, Hasher};

use super::mounts::source_digest;
use crate::address::GitTimes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{Assumptions, SourceTree, digest, select};
use crate::graph::{
    CopyAction, CopyFrom, FileAction, GitCommit, HttpFile, Layout, Mode, Onto, Op, Plan, VertexId,
};

/// Changed whenever the same inputs would give another layer than before.
const VERSION: &str = "kiln layer 2";

/// The keys of a plan, by vertex.
pub(super) struct Keys {
    /// What the layer of a step depends on.
    pub(super) steps: Vec<Digest>,
    /// What the whole root file system after a step depends on: a linked layer does not know what is below it.
    pub(super) states: Vec<Digest>,
}

/// Returns the keys of every vertex.
///
/// # Errors
/// When files of a context cannot be read or do not exist: every one of them is reported, not only the first.
pub(super) fn all(
    engine: &Engine,
    plan: &Plan,
    contexts: &BTreeMap<String, SourceTree>,
    base_read: &[bool],
) -> Result<Keys> {
    let mut keys: Vec<Digest> = Vec::with_capacity(plan.vertices.len());
    let mut states: Vec<Digest> = Vec::with_capacity(plan.vertices.len());
    let mut errors = Vec::new();
    for (id, vertex) in plan.vertices.iter().enumerate() {
        let mut hasher = Hasher::new();
        hasher.field(VERSION.as_bytes());
        hasher.field(&engine.epoch.to_le_bytes());
        hasher.field(format!("{:?}", engine.compression).as_bytes());
        let below = vertex.parent.map(|parent| key(&states, parent)).transpose()?;
        let linked = matches!(&vertex.op, Op::File(file) if file.onto == Onto::Nothing);
        if let Some(below) = below.filter(|_| !linked) {
            hasher.field(below.as_str().as_bytes());
        }
        match &vertex.op {
            Op::Scratch => hasher.field(b"scratch"),
            Op::Image(image) => {
                hasher.field(b"image");
                for (_, diff_id) in &image.layers {
                    hasher.field(diff_id.as_str().as_bytes());
                }
            }
            Op::Exec(exec) => {
                hasher.field(b"exec");
                let json =
                    serde_json::to_vec(exec).map_err(|e| Error::internal("cannot hash a step").because(e))?;
                hasher.field(&json);
                hasher.field(engine.scheme().as_bytes());
                for mount in &exec.mounts {
                    let Some(source) = mount.source() else { continue };
                    match source_digest(source, mount.place.as_ref(), engine.epoch, &states, contexts) {
                        Ok(digest) => hasher.field(digest.as_str().as_bytes()),
                        Err(error) => errors.push(error.at(mount.place.clone())),
                    }
                }
            }
            Op::File(file) => {
                onto(plan, id, base_read, file.onto, &mut hasher);
                for action in &file.actions {
                    let hashed = self::action(action, engine.epoch, &states, contexts, &mut hasher);
                    errors.extend(hashed.err().map(|e| e.at(vertex.meta.place.clone())));
                }
            }
        }
        let key = hasher.finish();
        let state = match below.filter(|_| linked) {
            None => key.clone(),
            Some(below) => {
                let mut hasher = Hasher::new();
                hasher.field(b"linked");
                hasher.field(below.as_str().as_bytes());
                hasher.field(key.as_str().as_bytes());
                hasher.finish()
            }
        };
        keys.push(key);
        states.push(state);
    }
    Error::first_of(errors).map_or(Ok(Keys { steps: keys, states }), Err)
}

/// What a file operation knows of its destination.
fn onto(plan: &Plan, id: VertexId, base_read: &[bool], onto: Onto, hasher: &mut Hasher) {
    if onto == Onto::Nothing {
        return hasher.field(b"link");
    }
    hasher.field(b"file");
    let read = base_read.get(id) == Some(&true);
    hasher.field(&[u8::from(read)]);
    let base = plan.chain(id).first().map(|base| &plan.vertices[*base].op);
    if let (Some(Op::Image(image)), false) = (base, read) {
        // Two bases of equal layers may tell different histories, and then destinations differ.
        Assumptions::new(&image.config, image.layers.len()).hash(hasher);
    }
}

fn action(
    action: &FileAction,
    epoch: i64,
    keys: &[Digest],
    contexts: &BTreeMap<String, SourceTree>,
    hasher: &mut Hasher,
) -> Result<()> {
    let owner_and_mode = |hasher: &mut Hasher, chown: Option<&str>, chmod: Option<&Mode>| {
        hasher.field(chown.unwrap_or("-").as_bytes());
        hasher.field(chmod.map_or("keep".to_owned(), ToString::to_string).as_bytes());
    };
    match action {
        FileAction::MakeDir { path, user } => {
            hasher.field(b"dir");
            hasher.field(path.as_bytes());
            hasher.field(user.as_bytes());
        }
        FileAction::Write { name, content, dest, chown, chmod } => {
            hasher.field(b"write");
            hasher.field(name.as_bytes());
            hasher.field(dest.as_bytes());
            owner_and_mode(hasher, chown.as_deref(), chmod.as_ref());
            hasher.field(content);
        }
        FileAction::Copy(copy) => {
            hasher.field(b"copy");
            hasher.field(copy.dest.as_bytes());
            hasher.field(&[u8::from(copy.unpack), u8::from(copy.layout == Layout::Parents)]);
            owner_and_mode(hasher, copy.chown.as_deref(), copy.chmod.as_ref());
            hasher.field(&copy.exclude.len().to_le_bytes());
            for pattern in &copy.exclude {
                hasher.field(pattern.as_bytes());
            }
            self::sources(copy, epoch, keys, contexts, hasher)?;
        }
    }
    Ok(())
}

/// Files of a context count by their content, files of another step by its key.
fn sources(
    copy: &CopyAction,
    epoch: i64,
    keys: &[Digest],
    contexts: &BTreeMap<String, SourceTree>,
    hasher: &mut Hasher,
) -> Result<()> {
    let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str))
        .map_err(|e| Error::input(format!("bad pattern in `--exclude`: {e}")))?;
    let exclude = Arc::new(exclude);
    for source in &copy.sources {
        match &copy.from {
            CopyFrom::Http(file) => {
                self::http(file, epoch, hasher);
                hasher.field(source.path.as_bytes());
            }
            CopyFrom::Git(commit) => {
                self::commit(commit, hasher);
                hasher.field(source.path.as_bytes());
            }
            CopyFrom::Vertex(id) => {
                hasher.field(b"from");
                hasher.field(key(keys, *id)?.as_str().as_bytes());
                hasher.field(source.path.as_bytes());
            }
            CopyFrom::Context(name) => {
                hasher.field(b"context");
                let tree =
                    contexts.get(name).ok_or_else(|| super::no_files(name).at(source.place.clone()))?;
                if let Some(time) = tree.tree.time().filter(|time| *time < epoch) {
                    hasher.field(&time.to_le_bytes());
                }
                for selected in select(tree, source, copy.layout)? {
                    digest(&selected, &exclude, hasher)?;
                }
            }
        }
    }
    Ok(())
}

/// A file of a web server is its content and its time, wherever it came from.
pub(super) fn http(file: &HttpFile, epoch: i64, hasher: &mut Hasher) {
    hasher.field(b"http");
    hasher.field(file.digest.as_str().as_bytes());
    // A later time is cut to the epoch in any case.
    let time = file.last_modified.filter(|time| *time < epoch);
    hasher.field(format!("{time:?}").as_bytes());
}

/// A commit says everything about its files and submodules, but not what of them is asked for.
pub(super) fn commit(commit: &GitCommit, hasher: &mut Hasher) {
    let address = &commit.address;
    hasher.field(b"git");
    hasher.field(commit.commit.as_bytes());
    hasher.field(address.subdir.as_bytes());
    hasher.field(&[u8::from(address.submodules), u8::from(address.times == GitTimes::Commit)]);
    if commit.keep_git_dir {
        hasher.field(address.remote.to_string().as_bytes());
        hasher.field(commit.reference.as_deref().unwrap_or_default().as_bytes());
    }
}

fn key(keys: &[Digest], id: VertexId) -> Result<&Digest> {
    keys.get(id).ok_or_else(|| Error::internal("a vertex comes before what it needs"))
}
