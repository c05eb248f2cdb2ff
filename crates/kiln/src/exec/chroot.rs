//! What a command needs where nothing can be mounted: a root that holds everything, and copies in the place of mounts.

use std::path::PathBuf;

use kiln_sandbox::{ExecSpec, Mode, MountKind};

use crate::engine::{Engine, WorkingRoot};
use crate::error::{FileContext as _, Result};
use crate::progress::StepId;
use crate::snapshot::{Top, copy_into};

/// Copies that go when the command has ended.
#[derive(Debug, Default)]
pub(super) struct Copies(Vec<PathBuf>);

impl Drop for Copies {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = kiln_sandbox::remove_tree(path);
        }
    }
}

/// Changes `spec` so that it needs no mount, where this build's isolation has none.
///
/// # Errors
/// When files cannot be copied.
pub(super) fn prepare(
    engine: &Engine,
    step: StepId,
    spec: &mut ExecSpec,
) -> Result<(Option<WorkingRoot>, Copies)> {
    let mut copies = Copies::default();
    if engine.isolation().mode != Mode::Chroot {
        return Ok((None, copies));
    }
    let root = engine.working_root(&spec.lower, step)?;
    spec.upper = root.fs();
    spec.work = root.work();
    spec.lower.clear();
    for mount in &mut spec.mounts {
        let source = match &mount.kind {
            MountKind::OverlayDir { lower, .. } => directory(engine, &mut copies, lower)?,
            MountKind::Bind { source, readonly: true, .. } => {
                let kind = std::fs::symlink_metadata(source).on("look at", source)?.file_type();
                if kind.is_dir() {
                    directory(engine, &mut copies, std::slice::from_ref(source))?
                } else if kind.is_file() {
                    let path = engine.store.tmp_path();
                    copy_into(source, &path)?;
                    copies.0.push(path.clone());
                    path
                } else {
                    continue;
                }
            }
            _ => continue,
        };
        mount.kind = MountKind::Bind { source, readonly: false, recursive: false };
    }
    Ok((Some(root), copies))
}

fn directory(engine: &Engine, copies: &mut Copies, layers: &[PathBuf]) -> Result<PathBuf> {
    let path = engine.store.tmp_path();
    std::fs::create_dir(&path).on("create", &path)?;
    copies.0.push(path.clone());
    engine.lay_over(layers, &path, Top::Taken)?;
    Ok(path)
}
