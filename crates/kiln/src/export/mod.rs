//! Where an image goes: a registry, kiln's store, a layout, an archive, a directory, a tar file.
//!
//! Every exporter leaves either the whole result under its name or nothing. What a user named is synced to disk
//! before it is renamed into place. What is there already is left alone, and the sentence about it says `unchanged`.

mod archive;
mod directory;
mod layout;
mod registry;
mod rootfs;
mod write;

use kiln_oci::Reference;

use crate::engine::Engine;
use crate::error::Result;
use crate::image::Image;
use crate::request::{Destination, Output};
use crate::rootfs::Rootfs;

pub(crate) use registry::Push;
pub(crate) use write::Target;

/// What an exporter works with.
pub(crate) struct Job<'a> {
    pub(crate) engine: &'a Engine,
    pub(crate) image: &'a Image,
    pub(crate) rootfs: &'a Rootfs,
    pub(crate) names: &'a [Reference],
    pub(crate) stdout: fn() -> Box<dyn std::io::Write + Send>,
}

/// Writes every output but the registry, and returns a sentence about each.
///
/// # Errors
/// When one cannot be written.
pub(crate) fn all(job: &Job<'_>, outputs: &[Output]) -> Result<Vec<String>> {
    let mut told = Vec::new();
    for output in outputs {
        job.engine.cancel.check()?;
        match output {
            Output::Registry => {}
            Output::Store => told.push(store(job)?),
            Output::OciLayout { dest, tar: false } => told.push(layout::directory(job, dest)?),
            Output::OciLayout { dest, tar: true } => told.push(archive::oci(job, dest)?),
            Output::DockerArchive { dest } => told.push(archive::docker(job, dest)?),
            Output::Local { dest } => told.push(directory::write(job, dest)?),
            Output::Tar { dest } => told.push(rootfs::tar(job, dest)?),
        }
    }
    Ok(told)
}

/// Keeps the image in kiln's store, complete, so that it can be used without its base's registry.
fn store(job: &Job<'_>) -> Result<String> {
    let store = &job.engine.store;
    for layer in &job.image.layers {
        job.engine.blob(layer)?;
    }
    store.write_blob(job.image.config_descriptor.media_type.as_str(), &job.image.config)?;
    let manifest = &job.image.manifest;
    store.write_blob(manifest.descriptor.media_type.as_str(), &manifest.bytes)?;
    let root = store.root().display();
    if job.names.is_empty() {
        store.put_image(None, &manifest.descriptor)?;
        return Ok(format!(
            "kept in the image store without a name; give it one with `-t`, or use it as `oci:{root}`"
        ));
    }
    for name in job.names {
        store.put_image(Some(name), &manifest.descriptor)?;
    }
    let name = &job.names[0];
    Ok(format!(
        "kept in the image store as `{}`; use it with `skopeo copy oci:{root}:{name} …` or `podman pull oci:{root}:{name}`",
        name.familiar()
    ))
}

fn shown(dest: &Destination) -> String {
    match dest {
        Destination::Path(path) => format!("`{}`", path.display()),
        Destination::Stdout => "standard output".to_owned(),
    }
}
