//! Cache keys of a plan: every part typed, framed by its length and in a fixed order, so that no two steps share one by
//! chance.
//!
//! A key covers what can change the layer: the operation, the root file system below it, the files it takes, and how
//! kiln writes layers. It covers no title, no place, no time of a file and no compression: a layer that is there in
//! another compression is converted.
//!
//! A linked COPY makes its layer without the root file system below it, and its key leaves that out: the layer is taken
//! from the cache on any base. Steps on top see both, so what they hash of their parent is its *state*, which covers
//! the chain, and differs from its key for such a step alone.
//!
//! This first key of a step names its inputs by how they are made. The second one ([`Key::by_content`]) names them by
//! what they hold, and can be asked for when they have been made: `schedule` does so for an operation that was
//! seen before.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_dockerfile::lint::looks_secret;
use kiln_oci::{Digest, Hasher};
use serde::Serialize;

use super::below::Below;
use super::mounts::mounts;
use crate::address::GitTimes;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files::{Assumptions, SourceTree, digest, select};
use crate::graph::{
    BaseImage, CopyAction, CopyFrom, ExecOp, FileAction, FileOp, GitCommit, HttpFile, Layout, Mode, Network,
    Onto, Op, Plan, VertexId,
};
use crate::key::{FILES, Key, KeyBuilder, VARIABLE};

/// Changed whenever the same inputs would give another layer than before.
const VERSION: &str = "layer 3";

/// More variables than this are one part of a key: they are there to explain a miss, and must not fill the memory.
const VARIABLES: usize = 200;

/// The keys of a plan, by vertex.
pub(super) struct Keys {
    /// What the layer of a step depends on.
    pub(super) steps: Vec<Key>,
    /// What the whole root file system after a step depends on: a linked layer does not know what is below it.
    pub(super) states: Vec<Digest>,
}

/// What the keys of all steps are made from.
pub(super) struct Inputs<'a> {
    pub(super) engine: &'a Engine,
    pub(super) plan: &'a Plan,
    pub(super) below: &'a Below,
    pub(super) contexts: &'a BTreeMap<String, SourceTree>,
    /// Of every vertex, whether a step looks into the files of its base.
    pub(super) base_read: &'a [bool],
}

/// Returns the keys of every vertex.
///
/// # Errors
/// When files of a context cannot be read or do not exist: every one of them is reported, not only the first.
pub(super) fn all(inputs: &Inputs<'_>) -> Result<Keys> {
    let plan = inputs.plan;
    let mut keys = Keys { steps: Vec::with_capacity(plan.vertices.len()), states: Vec::new() };
    let mut errors = Vec::new();
    for (id, vertex) in plan.vertices.iter().enumerate() {
        let mut key = KeyBuilder::new(VERSION, kind(&vertex.op));
        key.remark("instruction", vertex.meta.instruction());
        key.part("time", inputs.engine.epoch.to_string());
        let below = vertex.parent.map(|parent| state(&keys.states, parent)).transpose()?.cloned();
        let linked = matches!(&vertex.op, Op::File(file) if file.onto == Onto::Nothing);
        if let Some(below) = below.as_ref().filter(|_| !linked) {
            key.below(below);
        }
        match &vertex.op {
            Op::Scratch => {}
            Op::Image(image) => self::image(image, &mut key),
            Op::Exec(op) => exec(inputs, op, &keys.states, &mut key, &mut errors)?,
            Op::File(file) => {
                onto(inputs, id, file, &mut key);
                for (index, action) in file.actions.iter().enumerate() {
                    let hashed = self::action(inputs, (index, action), &keys.states, &mut key);
                    errors.extend(hashed.err().map(|e| e.at(vertex.meta.place.clone())));
                }
            }
        }
        let key = key.finish();
        keys.states.push(match below.filter(|_| linked) {
            None => key.digest.clone(),
            Some(below) => {
                let mut hasher = Hasher::new();
                hasher.field(b"linked");
                hasher.field(below.as_str().as_bytes());
                hasher.field(key.digest.as_str().as_bytes());
                hasher.finish()
            }
        });
        keys.steps.push(key);
    }
    Error::first_of(errors).map_or(Ok(keys), Err)
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Scratch => "scratch",
        Op::Image(_) => "image",
        Op::Exec(_) => "exec",
        Op::File(FileOp { onto: Onto::Nothing, .. }) => "linked files",
        Op::File(_) => "files",
    }
}

/// A base counts by the files that it gives, not by its name.
fn image(image: &BaseImage, key: &mut KeyBuilder) {
    let mut layers = Hasher::new();
    for (_, diff_id) in &image.layers {
        layers.field(diff_id.as_str().as_bytes());
    }
    key.remark("image", format!("{}@{}", image.name, image.digest));
    key.part("layers", layers.finish().as_str());
}

pub(super) fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("cannot hash a step").because(e))
}

fn exec(
    inputs: &Inputs<'_>,
    op: &ExecOp,
    states: &[Digest],
    key: &mut KeyBuilder,
    errors: &mut Vec<Error>,
) -> Result<()> {
    let ExecOp {
        args,
        env,
        hidden_env: _,
        cwd,
        user,
        hostname,
        network,
        platform,
        scripts,
        mounts: _,
        insecure,
    } = op;
    key.part("command", json(args)?);
    if env.len() <= VARIABLES {
        for (name, value) in env {
            let part = format!("{VARIABLE} {name}");
            if looks_secret(name) { key.secret(part, value.as_bytes()) } else { key.part(part, value) }
        }
    } else {
        key.part("variables", json(env)?);
    }
    key.part("directory", cwd);
    key.part("user", user);
    key.part("host name", hostname);
    key.part(
        "network",
        match network {
            Network::Host => "host",
            Network::None => "none",
            Network::Proxy => "proxy",
        },
    );
    key.part("platform", platform.to_string());
    let options = &inputs.engine.run;
    for host in &options.hosts {
        // As in BuildKit, the name alone: the address is where something is, not what it is.
        key.part("added host", &host.name);
    }
    for limit in &options.ulimits {
        let shown = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
        let value = format!("{}:{}", shown(limit.soft), shown(limit.hard));
        key.part(format!("ulimit {}", limit.resource.name()), value);
    }
    if let Some(size) = options.shm_size {
        key.part("size of /dev/shm", size.to_string());
    }
    for (path, content) in scripts {
        key.part(format!("script {path}"), content);
    }
    key.part("security", if *insecure { "insecure" } else { "sandbox" });
    key.part("owners", inputs.engine.owners());
    mounts(inputs, op, states, key, errors)
}

/// What a file operation knows of its destination.
fn onto(inputs: &Inputs<'_>, id: VertexId, file: &FileOp, key: &mut KeyBuilder) {
    if file.onto == Onto::Nothing {
        return;
    }
    let read = inputs.base_read.get(id) == Some(&true);
    key.part("base", if read { "looked at" } else { "assumed" });
    let base = &inputs.plan.vertices[inputs.below.base(id)].op;
    if let (Op::Image(image), false) = (base, read) {
        // Two bases of equal layers may tell different histories, and then destinations differ.
        let mut hasher = Hasher::new();
        Assumptions::new(&image.config, image.layers.len()).hash(&mut hasher);
        key.part("assumptions about the base", hasher.finish().as_str());
    }
}

fn action(
    inputs: &Inputs<'_>,
    (index, action): (usize, &FileAction),
    states: &[Digest],
    key: &mut KeyBuilder,
) -> Result<()> {
    let named = |name: &str| if index == 0 { name.to_owned() } else { format!("{name} ({})", index + 1) };
    let attributes = |key: &mut KeyBuilder, chown: Option<&str>, chmod: Option<&Mode>| {
        key.part(named("owner"), chown.unwrap_or("-"));
        key.part(named("mode"), chmod.map_or("keep".to_owned(), ToString::to_string));
    };
    match action {
        FileAction::MakeDir { path, user } => {
            key.part(named("new directory"), path);
            key.part(named("owner"), user);
        }
        FileAction::Write { name, content, dest, chown, chmod } => {
            key.part(named("name"), name);
            key.part(named("destination"), dest);
            attributes(key, chown.as_deref(), chmod.as_ref());
            key.part(named("content"), content);
        }
        FileAction::Copy(copy) => {
            key.part(named("destination"), &copy.dest);
            key.part(named("archives"), if copy.unpack { "unpacked" } else { "copied" });
            key.part(named("parents"), if copy.layout == Layout::Parents { "kept" } else { "left out" });
            attributes(key, copy.chown.as_deref(), copy.chmod.as_ref());
            for pattern in &copy.exclude {
                key.part(named("exclude"), pattern);
            }
            sources(inputs, copy, states, key)?;
        }
    }
    Ok(())
}

/// Files of a context count by their content, files of another step by its key.
fn sources(inputs: &Inputs<'_>, copy: &CopyAction, states: &[Digest], key: &mut KeyBuilder) -> Result<()> {
    let exclude = excluded(copy)?;
    for source in &copy.sources {
        match &copy.from {
            CopyFrom::Http(file) => {
                key.part(format!("{} (web)", source.path), self::http(file, inputs).as_str());
            }
            CopyFrom::Git(commit) => {
                key.part(format!("{} (git)", source.path), self::commit(commit).as_str());
            }
            CopyFrom::Vertex(id) => {
                key.from(&inputs.plan.vertices[*id].meta.title, state(states, *id)?);
                key.part("path", &source.path);
            }
            CopyFrom::Context(name) => {
                let tree = inputs
                    .contexts
                    .get(name)
                    .ok_or_else(|| super::no_files(name).at(source.place.clone()))?;
                if let Some(time) = tree.tree.time().filter(|time| *time < inputs.engine.epoch) {
                    key.part("time of the files", time.to_string());
                }
                let mut hasher = Hasher::new();
                for selected in select(tree, source, copy.layout)? {
                    digest(&selected, &exclude, &mut hasher)?;
                }
                key.part(files_of(name, &source.path), hasher.finish().as_str());
            }
        }
    }
    Ok(())
}

/// Returns what `--exclude` leaves out.
pub(super) fn excluded(copy: &CopyAction) -> Result<Arc<Ignore>> {
    let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str));
    exclude.map(Arc::new).map_err(|e| Error::input(format!("bad pattern in `--exclude`: {e}")))
}

/// Returns the name of the part for files of a context.
pub(super) fn files_of(context: &str, path: &str) -> String {
    if context.is_empty() { format!("{FILES} {path}") } else { format!("{FILES} {context}: {path}") }
}

/// A file of a web server is its content and its time, wherever it came from.
pub(super) fn http(file: &HttpFile, inputs: &Inputs<'_>) -> Digest {
    let mut hasher = Hasher::new();
    hasher.field(file.digest.as_str().as_bytes());
    // A later time is cut to the epoch in any case.
    let time = file.last_modified.filter(|time| *time < inputs.engine.epoch);
    hasher.field(format!("{time:?}").as_bytes());
    hasher.finish()
}

/// A commit says everything about its files and submodules, but not what of them is asked for.
pub(super) fn commit(commit: &GitCommit) -> Digest {
    let mut hasher = Hasher::new();
    let address = &commit.address;
    hasher.field(commit.commit.as_bytes());
    hasher.field(address.subdir.as_bytes());
    hasher.field(&[u8::from(address.submodules), u8::from(address.times == GitTimes::Commit)]);
    if commit.keep_git_dir {
        hasher.field(address.remote.to_string().as_bytes());
        hasher.field(commit.reference.as_deref().unwrap_or_default().as_bytes());
    }
    hasher.finish()
}

pub(super) fn state(states: &[Digest], id: VertexId) -> Result<&Digest> {
    states.get(id).ok_or_else(|| Error::internal("a vertex comes before what it needs"))
}
