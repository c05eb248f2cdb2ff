//! Where the mounts of a command come from: as files, and as a digest for its key.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::{Digest, Hasher};

use super::keys::{Inputs, files_of, json, state};
use super::{Prepared, keys, remote};
use crate::error::{Error, Place, Result};
use crate::files::{SourceTree, ViewTree, digest};
use crate::graph::{CopyFrom, ExecOp, MountKind, MountSource, VertexId};
use crate::key::KeyBuilder;
use crate::mounts::{Files, Mounted, select};
use crate::rootfs::Rootfs;

/// The name of the file in a context that is a web address.
const FILE: &str = "context";

/// Adds the mounts of a command to its key: what they are and, of those that bring files, the files.
///
/// A mount whose files cannot be read goes to `errors`, so that the next one is looked at, too.
pub(super) fn mounts(
    inputs: &Inputs<'_>,
    op: &ExecOp,
    states: &[Digest],
    key: &mut KeyBuilder,
    errors: &mut Vec<Error>,
) -> Result<()> {
    for mount in &op.mounts {
        let name = mount.target().map_or("mount".to_owned(), |target| format!("mount {target}"));
        key.part(&name, json(mount)?);
        if let MountKind::Secret { id, .. } = &mount.kind
            && inputs.engine.grants.keyed.contains(id)
        {
            let value = inputs.engine.grants.secrets.get(id).map_or(&[][..], |value| value.reveal());
            key.secret(format!("secret {id}"), value);
        }
        let Some(source) = mount.source() else { continue };
        match &source.from {
            CopyFrom::Vertex(id) => {
                key.from(&inputs.plan.vertices[*id].meta.title, state(states, *id)?);
                key.part("path", &source.path);
            }
            from => match source_digest(inputs, source, mount.place.as_ref(), states) {
                Ok(digest) => {
                    let name = match from {
                        CopyFrom::Context(name) => files_of(name, &source.path),
                        _ => format!("files of {name}"),
                    };
                    key.part(name, digest.as_str());
                }
                Err(error) => errors.push(error.at(mount.place.clone())),
            },
        }
    }
    Ok(())
}

/// Returns what stands for the files of `source`: the content of a context's, the state of a step's.
///
/// # Errors
/// When a file of a context does not exist or cannot be read.
pub(super) fn source_digest(
    inputs: &Inputs<'_>,
    source: &MountSource,
    place: Option<&Place>,
    states: &[Digest],
) -> Result<Digest> {
    let mut hasher = Hasher::new();
    match &source.from {
        CopyFrom::Vertex(id) => {
            hasher.field(b"from");
            hasher.field(state(states, *id)?.as_str().as_bytes());
            hasher.field(source.path.as_bytes());
        }
        CopyFrom::Http(file) => {
            hasher.field(keys::http(file, inputs).as_str().as_bytes());
            hasher.field(source.path.as_bytes());
        }
        CopyFrom::Git(commit) => {
            hasher.field(keys::commit(commit).as_str().as_bytes());
            hasher.field(source.path.as_bytes());
        }
        CopyFrom::Context(name) => {
            hasher.field(b"context");
            let selected = select(context(name, place, inputs.contexts)?, source, place)?;
            digest(&selected, &Arc::new(Ignore::parse("").0), &mut hasher)?;
        }
    }
    Ok(hasher.finish())
}

fn context<'a>(
    name: &str,
    place: Option<&Place>,
    contexts: &'a BTreeMap<String, SourceTree>,
) -> Result<&'a SourceTree> {
    contexts.get(name).ok_or_else(|| {
        let error = match name {
            "" => Error::input("the mount needs a build context, and this build has only a Dockerfile").hint(
                "give a directory or a tar archive as the context, or say with `from=` where the files are",
            ),
            name => Error::input(format!("there is no context called `{name}`")),
        };
        error.at(place.cloned())
    })
}

impl Prepared<'_> {
    /// Makes the mounts of a command, whose inputs are `states`.
    pub(super) fn mounts(
        &self,
        mounts: &[crate::graph::Mount],
        states: &BTreeMap<VertexId, Arc<Rootfs>>,
    ) -> Result<Mounted> {
        let open = |source: &MountSource, place: Option<&Place>| self.mounted_files(source, place, states);
        let seeds = |source: &MountSource, place: Option<&Place>| {
            source_digest(&self.inputs(), source, place, &self.keys.states)
        };
        crate::mounts::prepare(self.engine, mounts, &open, &seeds)
    }

    fn mounted_files(
        &self,
        source: &MountSource,
        place: Option<&Place>,
        states: &BTreeMap<VertexId, Arc<Rootfs>>,
    ) -> Result<Files> {
        let id = match &source.from {
            CopyFrom::Vertex(id) => *id,
            CopyFrom::Context(name) => {
                let tree = context(name, place, &self.contexts)?.clone();
                return Ok(Files { tree, layers: None });
            }
            CopyFrom::Http(file) => {
                let name = source.path.trim_start_matches('/');
                let tree = remote::file(self.engine, file, if name.is_empty() { FILE } else { name })?;
                return Ok(Files { tree, layers: None });
            }
            CopyFrom::Git(commit) => {
                return Ok(Files { tree: remote::commit(self.engine, commit)?, layers: None });
            }
        };
        let rootfs = states.get(&id).ok_or_else(|| Error::internal("a mount came before its source"))?;
        let dirs = self.engine.all_files(&rootfs.layers)?;
        let layers = Arc::new(ViewTree::new(dirs, self.engine.ids())?);
        let what = format!("`{}`", self.plan.vertices[id].meta.title);
        let tree =
            SourceTree { tree: Arc::<ViewTree>::clone(&layers), ignore: None, ignore_file: None, what };
        Ok(Files { tree, layers: Some(layers) })
    }
}
