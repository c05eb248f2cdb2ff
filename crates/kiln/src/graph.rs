//! What a build will do, as data: operations in a graph, and the image that comes out.
//!
//! A frontend makes a [`Plan`]; nothing in this room has an effect. [`Meta`] is for people and never enters a
//! cache key.

mod mode;
mod mount;

use std::collections::BTreeMap;

use kiln_oci::{Descriptor, Digest, ImageConfig, Platform};
use serde::Serialize;

pub use mode::{Changes, Mode};
pub use mount::{FileOwner, Mount, MountKind, MountSource};

use crate::address::{GitAddress, Url};
use crate::error::Place;
use crate::rootfs::Origin;

/// Index of a vertex in [`Plan::vertices`].
pub type VertexId = usize;

/// One build, ready to run.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Operations; a vertex comes after everything it needs.
    pub vertices: Vec<Vertex>,
    /// The image, one for each platform.
    pub images: Vec<ImageSpec>,
}

/// One operation and what it works on.
#[derive(Debug, Clone)]
pub struct Vertex {
    /// What is done.
    pub op: Op,
    /// The root file system it is done to.
    pub parent: Option<VertexId>,
    /// Done anew, whatever the cache has.
    pub fresh: bool,
    /// For people.
    pub meta: Meta,
}

/// How a vertex is shown.
#[derive(Debug, Clone)]
pub struct Meta {
    /// Such as `[build 2/5] RUN make`.
    pub title: String,
    /// The instruction.
    pub place: Option<Place>,
}

impl Meta {
    /// Returns the title without stage and number: `RUN make` of `[build 2/5] RUN make`.
    #[must_use]
    pub fn instruction(&self) -> &str {
        self.title.split_once("] ").map_or(self.title.as_str(), |(_, instruction)| instruction)
    }
}

/// An operation. Each but `Image` and `Scratch` makes one layer.
#[derive(Debug, Clone)]
pub enum Op {
    /// A base image.
    Image(Box<BaseImage>),
    /// No files at all.
    Scratch,
    /// A command.
    Exec(Box<ExecOp>),
    /// Files copied, written or made.
    File(FileOp),
}

/// A base image whose documents are known.
#[derive(Debug, Clone)]
pub struct BaseImage {
    /// As the user wrote it.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
    /// Layers with the digests of their uncompressed tars, base first.
    pub layers: Vec<(Descriptor, Digest)>,
    /// Where the layers can be had from.
    pub origin: Origin,
    /// Its config.
    pub config: ImageConfig,
    /// Its platform.
    pub platform: Platform,
}

/// Network of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// The network that kiln itself has.
    Host,
    /// Loopback only.
    None,
    /// Loopback, and a proxy there that leads to allowed hosts.
    Proxy,
}

/// A command in a root file system.
#[derive(Debug, Clone, Serialize)]
pub struct ExecOp {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Environment that does not count for the cache: proxies.
    #[serde(skip)]
    pub hidden_env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: String,
    /// User, `name|uid[:group|gid]`; empty is root.
    pub user: String,
    /// The name of the machine that the command sees.
    pub hostname: String,
    /// Network.
    pub network: Network,
    /// Platform of the programs that it runs, in its normal form.
    pub platform: Platform,
    /// Files that exist only while the command runs, by absolute path.
    pub scripts: BTreeMap<String, String>,
    /// Mounts, parents before what lies in them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    /// Runs with every capability of its user namespace and without a system call filter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// Changes to files, which together make one layer.
#[derive(Debug, Clone)]
pub struct FileOp {
    /// In the order in which they are done.
    pub actions: Vec<FileAction>,
    /// What they are done to.
    pub onto: Onto,
}

/// Where copied files come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CopyFrom {
    /// The build context (empty name) or a named one.
    Context(String),
    /// Another root file system.
    Vertex(VertexId),
    /// A file of a web server.
    Http(Box<HttpFile>),
    /// Files of a commit.
    Git(Box<GitCommit>),
}

/// A file of a web server, which the store has as a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpFile {
    /// Where it came from.
    pub url: Url,
    /// Digest of its content.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
    /// When the server says that it was changed last, in seconds since 1970.
    pub last_modified: Option<i64>,
}

/// A commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitCommit {
    /// What the user asked for.
    pub address: GitAddress,
    /// The full name of the reference that was found.
    pub reference: Option<String>,
    /// Id of what it names: the commit, or an annotated tag.
    pub object: String,
    /// Id of the commit.
    pub commit: String,
    /// Whether `.git` is among the files.
    pub keep_git_dir: bool,
}

/// One change to files.
#[derive(Debug, Clone)]
pub enum FileAction {
    /// Files from elsewhere.
    Copy(CopyAction),
    /// A file with this content.
    Write {
        /// Name of the file when `dest` is a directory.
        name: String,
        /// Content.
        content: Vec<u8>,
        /// Where to; a trailing `/` makes it a directory.
        dest: String,
        /// Owner.
        chown: Option<String>,
        /// Mode.
        chmod: Option<Mode>,
    },
    /// A directory, unless it exists.
    MakeDir {
        /// Absolute path.
        path: String,
        /// Owner, `name|uid[:group|gid]`; empty is root.
        user: String,
    },
}

/// A COPY or ADD.
#[derive(Debug, Clone)]
pub struct CopyAction {
    /// Where from.
    pub from: CopyFrom,
    /// Paths or patterns.
    pub sources: Vec<CopySource>,
    /// Absolute path; a trailing `/` makes it a directory.
    pub dest: String,
    /// Owner, `name|uid[:group|gid]`.
    pub chown: Option<String>,
    /// Mode.
    pub chmod: Option<Mode>,
    /// Unpack local archives, as ADD does.
    pub unpack: bool,
    /// Patterns relative to the source that are left out.
    pub exclude: Vec<String>,
    /// What of a source's path is made again below the destination.
    pub layout: Layout,
}

/// How paths of sources become paths below the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A file keeps its name, a directory gives its content.
    Flat,
    /// Everything keeps its path, from the root of the source or from behind `/./`.
    Parents,
}

/// Whether a file operation looks at what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Links of the destination are followed, directories keep what they have.
    Parent,
    /// The layer is made as if nothing were there, and is the same on every base: `--link`.
    Nothing,
}

/// A source operand.
#[derive(Debug, Clone)]
pub struct CopySource {
    /// `COPY` or `ADD`, for messages.
    pub instruction: &'static str,
    /// Path or pattern.
    pub path: String,
    /// The operand in the Dockerfile.
    pub place: Option<Place>,
}

/// The image to assemble.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Its root file system.
    pub rootfs: VertexId,
    /// Config with the base's history and layers; those of the build are added at assembly.
    pub config: ImageConfig,
    /// What each instruction did, in order: the text and, if it made a layer, its vertex.
    pub history: Vec<(String, Option<VertexId>)>,
    /// Platform.
    pub platform: Platform,
}

impl Op {
    /// Returns where the operation takes files from, besides the root file system that it is done to.
    #[must_use]
    pub fn sources(&self) -> Vec<&CopyFrom> {
        match self {
            Self::File(file) => file
                .actions
                .iter()
                .filter_map(|action| match action {
                    FileAction::Copy(copy) => Some(&copy.from),
                    FileAction::Write { .. } | FileAction::MakeDir { .. } => None,
                })
                .collect(),
            Self::Exec(exec) => exec.mounts.iter().filter_map(Mount::source).map(|s| &s.from).collect(),
            Self::Image(_) | Self::Scratch => Vec::new(),
        }
    }
}

/// Tells whether an owner, `name|uid[:group|gid]`, can be understood without the files of an image.
#[must_use]
pub fn is_numeric(owner: &str) -> bool {
    let number = |s: &str| s.parse::<u32>().is_ok();
    match owner.split_once(':') {
        Some((user, group)) => number(user) && number(group),
        None => owner.is_empty() || number(owner),
    }
}

impl Plan {
    /// Returns the chain of `id`: the vertex and its parents, base first.
    #[must_use]
    pub fn chain(&self, id: VertexId) -> Vec<VertexId> {
        let mut chain = vec![id];
        let mut at = id;
        while let Some(parent) = self.vertices[at].parent {
            chain.push(parent);
            at = parent;
        }
        chain.reverse();
        chain
    }

    /// Returns the vertices that `id` needs besides its parent.
    #[must_use]
    pub fn inputs(&self, id: VertexId) -> Vec<VertexId> {
        let vertex = |from: &CopyFrom| match from {
            CopyFrom::Vertex(id) => Some(*id),
            CopyFrom::Context(_) | CopyFrom::Http(_) | CopyFrom::Git(_) => None,
        };
        self.vertices[id].op.sources().into_iter().filter_map(vertex).collect()
    }

    /// Puts vertex `to[id]` in the place of every vertex `id`, wherever one is named.
    pub fn redirect(&mut self, to: &[VertexId]) {
        let copied = |from: &mut CopyFrom| {
            if let CopyFrom::Vertex(id) = from {
                *id = to[*id];
            }
        };
        for vertex in &mut self.vertices {
            vertex.parent = vertex.parent.map(|parent| to[parent]);
            match &mut vertex.op {
                Op::Image(_) | Op::Scratch => {}
                Op::Exec(exec) => {
                    exec.mounts.iter_mut().filter_map(Mount::source_mut).for_each(|s| copied(&mut s.from));
                }
                Op::File(file) => {
                    for action in &mut file.actions {
                        if let FileAction::Copy(copy) = action {
                            copied(&mut copy.from);
                        }
                    }
                }
            }
        }
        for image in &mut self.images {
            image.rootfs = to[image.rootfs];
            for (_, vertex) in &mut image.history {
                *vertex = vertex.map(|id| to[id]);
            }
        }
    }

    /// Tells of every vertex whether a step looks into the files of its base: then destinations are looked up there.
    ///
    /// It is decided from the plan alone, before anything runs, so that the answer, and with it the layer,
    /// does not depend on what this machine's cache holds.
    #[must_use]
    pub fn bases_read(&self) -> Vec<bool> {
        let mut bases: Vec<VertexId> = Vec::with_capacity(self.vertices.len());
        for (id, vertex) in self.vertices.iter().enumerate() {
            bases.push(vertex.parent.map_or(id, |parent| bases[parent]));
        }
        let mut read = vec![false; self.vertices.len()];
        for (id, vertex) in self.vertices.iter().enumerate() {
            if matches!(vertex.op, Op::Exec(_)) {
                read[bases[id]] = true;
            }
            for input in self.inputs(id) {
                read[bases[input]] = true;
            }
        }
        bases.into_iter().map(|base| read[base]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_files() {
        for (user, expect) in
            [("", true), ("0", true), ("1:2", true), ("app", false), ("1:app", false), ("app:1", false)]
        {
            assert_eq!(is_numeric(user), expect, "{user}");
        }
    }
}
