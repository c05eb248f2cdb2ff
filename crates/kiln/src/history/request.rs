//! A request in the few words that a record keeps of it.

use std::path::Path;

use super::RequestSummary;
use crate::request::{BuildRequest, CacheMode, ContextSource, Destination, DockerfileSource, Output};

/// Returns what is the same for two builds of the same thing: context, Dockerfile, stage and platform.
///
/// Directories and files of this machine are named by their canonical paths, everything else as the user named it.
#[must_use]
pub fn lineage(request: &BuildRequest) -> String {
    let context = match &request.context {
        ContextSource::Directory(path) | ContextSource::Archive(path) => canonical(path),
        other => context(other),
    };
    let dockerfile = match &request.dockerfile {
        DockerfileSource::File(path) => canonical(path),
        other => dockerfile(other),
    };
    let target = request.target.as_deref().unwrap_or_default();
    let platform = request.target_platform();
    format!("context {context}\ndockerfile {dockerfile}\ntarget {target}\nplatform {platform}\n")
}

impl RequestSummary {
    /// Summarises `request`.
    #[must_use]
    pub fn of(request: &BuildRequest) -> Self {
        Self {
            context: context(&request.context),
            dockerfile: dockerfile(&request.dockerfile),
            target: request.target.clone(),
            platform: request.target_platform().to_string(),
            tags: request.tags.iter().map(ToString::to_string).collect(),
            build_args: request.build_args.keys().cloned().collect(),
            outputs: request.outputs.iter().map(output).collect(),
            no_cache: request.cache == CacheMode::WriteOnly,
        }
    }
}

fn canonical(path: &Path) -> String {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

fn context(source: &ContextSource) -> String {
    match source {
        ContextSource::Directory(path) | ContextSource::Archive(path) => path.display().to_string(),
        ContextSource::Stdin => "-".to_owned(),
        ContextSource::Git(address) => address.to_string(),
        ContextSource::Http(url) => url.to_string(),
        ContextSource::Empty => "none".to_owned(),
    }
}

fn dockerfile(source: &DockerfileSource) -> String {
    match source {
        DockerfileSource::Default => "Dockerfile".to_owned(),
        DockerfileSource::File(path) => path.display().to_string(),
        DockerfileSource::Stdin => "-".to_owned(),
    }
}

fn output(output: &Output) -> String {
    let to = |dest: &Destination| match dest {
        Destination::Path(path) => path.display().to_string(),
        Destination::Stdout => "-".to_owned(),
    };
    match output {
        Output::Store => "image".to_owned(),
        Output::Registry => "registry".to_owned(),
        Output::OciLayout { dest, .. } => format!("oci {}", to(dest)),
        Output::DockerArchive { dest } => format!("docker {}", to(dest)),
        Output::Local { dest } => format!("local {}", dest.display()),
        Output::Tar { dest } => format!("tar {}", to(dest)),
    }
}
