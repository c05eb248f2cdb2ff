//! Files of a stage, an image or a context under a path of the command.

use std::io::PipeWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::Hasher;
use kiln_oci::layer::{Compression, Kind, LayerReader, LayerWriter, Limits};
use kiln_sandbox::MountKind as SandboxKind;

use crate::engine::Engine;
use crate::error::{Error, Place, Result};
use crate::files::{Selected, SourceTree, ViewTree, digest, select_path, write_tree};
use crate::graph::{CopySource, MountSource};
use crate::snapshot::unpack;
use crate::store::PendingSnapshot;

/// The files that a mount comes from.
pub(crate) struct Files {
    /// As a tree to read.
    pub(crate) tree: SourceTree,
    /// As layers on disk, unless they are those of a context.
    pub(crate) layers: Option<Arc<ViewTree>>,
}

/// The name of a file or directory in a snapshot of its own.
const NAME: &str = "m";

/// Returns what the path of `source` is in `tree`.
pub(crate) fn select(tree: &SourceTree, source: &MountSource, place: Option<&Place>) -> Result<Selected> {
    let path = source.path.clone();
    select_path(tree, &CopySource { instruction: "RUN --mount", path, place: place.cloned() })
}

/// Returns the mount of `source`, and the copy that has to live as long as it, if there is one.
pub(super) fn bind(
    engine: &Engine,
    files: &Files,
    source: &MountSource,
    readonly: bool,
    place: Option<&Place>,
) -> Result<(SandboxKind, Option<PendingSnapshot>)> {
    let selected = select(&files.tree, source, place)?;
    if selected.node.entry.kind == Kind::Directory {
        let lower = match &files.layers {
            Some(layers) => directories(layers, &selected)?,
            None => vec![snapshot(engine, &selected)?],
        };
        return Ok((SandboxKind::OverlayDir { lower, readonly }, None));
    }
    if !readonly {
        // What the command writes into the one file has to go nowhere.
        let copy = copy(engine, &selected)?;
        let source = copy.fs().join(NAME);
        return Ok((SandboxKind::Bind { source, readonly: false, recursive: false }, Some(copy)));
    }
    let source = match &files.layers {
        Some(layers) => {
            let node = layers.view().lookup(&selected.path)?;
            node.ok_or_else(|| Error::internal(format!("`{}` is gone", selected.path)))?.host
        }
        None => snapshot(engine, &selected)?,
    };
    Ok((SandboxKind::Bind { source, readonly: true, recursive: false }, None))
}

/// Returns the directories of the layers that make up a directory, topmost first.
fn directories(layers: &ViewTree, selected: &Selected) -> Result<Vec<PathBuf>> {
    let view = layers.view();
    if view.is_empty() {
        return Ok(Vec::new());
    }
    let node = view.lookup(&selected.path)?;
    Ok(node.map(|node| view.directories(&node)).unwrap_or_default())
}

/// Returns a path with what is selected of a context, as a COPY would bring it; equal content is kept once.
fn snapshot(engine: &Engine, selected: &Selected) -> Result<PathBuf> {
    let content = || -> Result<String> {
        let mut hasher = Hasher::new();
        hasher.field(&engine.epoch.to_le_bytes());
        digest(selected, &Arc::new(Ignore::parse("").0), &mut hasher)?;
        Ok(format!("context-{}", hasher.finish().hex()))
    };
    let id = content()?;
    let scheme = engine.scheme();
    let _lock = engine.store.lock(&format!("layer-{scheme}-{id}"))?;
    if let Some(dir) = engine.store.snapshot(scheme, &id) {
        return Ok(dir.join(NAME));
    }
    let copy = copy(engine, selected)?;
    // It will be found under this name by later builds, so it must not hold anything else.
    if content()? != id {
        return Err(Error::input(format!("{} changed while a mount of it was made", selected.from.what))
            .hint("do not change the context while it is built"));
    }
    Ok(copy.commit(scheme, &id)?.join(NAME))
}

/// Copies what is selected into a directory of its own, under [`NAME`].
pub(super) fn copy(engine: &Engine, selected: &Selected) -> Result<PendingSnapshot> {
    let pending = engine.store.begin_snapshot()?;
    let dir = pending.fs();
    let pipe = |e| Error::environment("cannot make a pipe for the files of a mount").because(e);
    let (reader, writer) = std::io::pipe().map_err(pipe)?;
    let (written, unpacked) = std::thread::scope(|scope| {
        let written = scope.spawn(move || write(engine, selected, writer));
        let unpacked = unpack_into(engine, reader, &dir);
        (written.join(), unpacked)
    });
    let written = written.map_err(|_| Error::internal("the thread that reads files for a mount panicked"))?;
    // When one side fails, the other does too; a pipe that is broken is never the cause.
    match (written, unpacked) {
        (Err(error), Err(_)) if !is_broken_pipe(&error) => Err(error),
        (_, Err(error)) | (Err(error), Ok(())) => Err(error),
        (Ok(()), Ok(())) => Ok(pending),
    }
}

/// Returns where [`copy`] put what it copied.
pub(super) fn copied(copy: &PendingSnapshot) -> PathBuf {
    copy.fs().join(NAME)
}

fn write(engine: &Engine, selected: &Selected, pipe: PipeWriter) -> Result<()> {
    let failed = |e| Error::layer("cannot copy the files of a mount", e);
    let mut writer = LayerWriter::new(pipe, Compression::None, 1).map_err(failed)?;
    write_tree(selected, NAME, engine.epoch, &|| engine.cancel.check(), &mut writer)?;
    writer.finish().map_err(failed)?;
    Ok(())
}

fn unpack_into(engine: &Engine, pipe: std::io::PipeReader, dir: &Path) -> Result<()> {
    let failed = |e: Error| e.within("cannot copy the files of a mount");
    let reader = LayerReader::new(pipe, Limits::default())
        .map_err(|e| failed(Error::layer("cannot read them back", e)))?;
    unpack(reader, dir, &engine.ids()).map_err(|e| failed(e.into()))?;
    Ok(())
}

fn is_broken_pipe(error: &Error) -> bool {
    let cause = error.source.as_ref().and_then(|source| source.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
