//! Everything a user can ask of one build, resolved to plain data.
//!
//! A command line, a configuration file or a test makes a [`BuildRequest`]; nothing below this room looks at
//! arguments, the environment or the clock.

mod cache;
mod run;
mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use kiln_oci::{Platform, Reference};
use serde::Serialize;

use crate::address::{GitAddress, Url};
pub use cache::{CacheExport, CacheExtent, CacheRepository, CacheSource, CacheTarget};
pub use run::{ExtraHost, NetworkChoice, RunOptions};
pub use secret::{Entitlement, Secret, SecretSource, SshAgent};

/// One build.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BuildRequest {
    /// Where the files come from.
    pub context: ContextSource,
    /// Other names for contexts and base images, by name in lower case.
    pub named_contexts: BTreeMap<String, NamedContext>,
    /// Where the Dockerfile is.
    pub dockerfile: DockerfileSource,
    /// Stage to build, the last one if absent.
    pub target: Option<String>,
    /// Values for ARG.
    pub build_args: BTreeMap<String, String>,
    /// Platform of the image, if one was asked for; absent: that of the base, and of this machine.
    pub platform: Option<Platform>,
    /// Labels to set last.
    pub labels: BTreeMap<String, String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// What becomes of the image; never empty.
    pub outputs: Vec<Output>,
    /// How new layers are compressed.
    pub compression: CompressionChoice,
    /// Whether layers of the base image with another compression are converted.
    pub force_compression: bool,
    /// Whether results of earlier builds are used.
    pub cache: CacheMode,
    /// Results that are older than this count for nothing.
    pub cache_ttl: Option<Duration>,
    /// Which modes the files of contexts have.
    pub modes: ContextModes,
    /// Shared caches that are read, in the order in which they are asked.
    pub cache_from: Vec<CacheSource>,
    /// Shared caches that are written.
    pub cache_to: Vec<CacheExport>,
    /// Stages whose steps are done anew although the cache has them.
    pub no_cache_stages: Vec<String>,
    /// Whether base images are looked up in their registry although a local image has the name.
    pub pull: bool,
    /// What times in the image are cut to.
    pub source_date_epoch: Option<EpochChoice>,
    /// Isolation asked for RUN.
    pub isolation: IsolationWish,
    /// What commands get besides what the Dockerfile says.
    pub run: RunOptions,
    /// What a base image may at most be.
    pub limits: ImageLimits,
    /// Steps that may run at once; absent: as many as there are processors.
    pub jobs: Option<usize>,
    /// `HTTP_PROXY` and its like, given to RUN but kept out of history and cache keys.
    pub proxy_args: BTreeMap<String, String>,
    /// Secrets that a RUN may ask for, by id.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Ids of secrets whose value counts for the cache: a RUN that asks for one runs again when it changes.
    pub keyed_secrets: BTreeSet<String>,
    /// SSH agents that a RUN may ask for, by id.
    pub ssh: BTreeMap<String, SshAgent>,
    /// What a RUN may do beyond the usual.
    pub allow: BTreeSet<Entitlement>,
}

impl BuildRequest {
    /// Returns the platform that base images are taken for unless their FROM says otherwise.
    #[must_use]
    pub fn target_platform(&self) -> Platform {
        self.platform.clone().unwrap_or_else(Platform::host)
    }

    /// Returns the key of the named context that takes the place of `name`, a stage or an image.
    ///
    /// `alpine`, `alpine:latest` and `docker.io/library/alpine` are one name, as in BuildKit.
    /// A context called `name::os/architecture` serves that platform only, and wins there.
    pub(crate) fn context_named(&self, name: &str, platform: &Platform) -> Option<&str> {
        if self.named_contexts.is_empty() {
            return None;
        }
        let normal = |name: &str| {
            let familiar = name.parse::<Reference>().ok().map(|r| r.to_string());
            familiar.map(|n| n.strip_suffix(":latest").unwrap_or(&n).to_owned())
        };
        let lower = name.to_ascii_lowercase();
        let wanted = normal(&lower);
        let platform = platform.to_string();
        let serves = |key: &str, this_platform_only: bool| {
            let (name, own) = key.split_once("::").map_or((key, None), |(name, own)| (name, Some(own)));
            let same_platform = if this_platform_only { own == Some(&platform) } else { own.is_none() };
            same_platform && (name == lower || (wanted.is_some() && normal(name) == wanted))
        };
        let mut keys = self.named_contexts.keys().map(String::as_str);
        keys.clone().find(|key| serves(key, true)).or_else(|| keys.find(|key| serves(key, false)))
    }

    /// Tells whether the steps of the stage called `name` are done anew.
    #[must_use]
    pub fn is_stage_fresh(&self, name: &str) -> bool {
        self.no_cache_stages.iter().any(|stage| stage.eq_ignore_ascii_case(name))
    }
}

/// Which time an image gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EpochChoice {
    /// Seconds since 1970.
    Seconds(i64),
    /// The time of `context`, or of a context or stage of that name.
    Of(String),
}

/// Where the build context comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContextSource {
    /// A directory.
    Directory(PathBuf),
    /// A tar file, compressed or not.
    Archive(PathBuf),
    /// Standard input: a tar stream, or a Dockerfile when it is no archive.
    Stdin,
    /// A commit of a git repository.
    Git(Box<GitAddress>),
    /// A tar file of a web server, or a Dockerfile when it is no archive.
    Http(Url),
    /// No files at all.
    Empty,
}

/// Where the Dockerfile comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DockerfileSource {
    /// `Dockerfile` in the context, or `dockerfile`.
    Default,
    /// A file, looked up from the working directory as `docker buildx build` does, then in the context.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// What a name given by `--build-context` stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamedContext {
    /// A directory of files.
    Directory(PathBuf),
    /// An image in a registry.
    Image(Reference),
    /// A commit of a git repository.
    Git(Box<GitAddress>),
    /// A file of a web server, called `context`.
    Http(Url),
    /// An image in an OCI layout directory, by tag or digest, or the only one.
    OciLayout {
        /// The layout directory.
        path: PathBuf,
        /// Tag or digest.
        target: Option<String>,
    },
}

/// What becomes of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Output {
    /// Kept in kiln's own image store.
    Store,
    /// Pushed under every tag.
    Registry,
    /// An OCI image layout, as a directory or as a tar file.
    OciLayout {
        /// Where to.
        dest: Destination,
        /// Tar file instead of a directory.
        tar: bool,
    },
    /// What `docker save` writes and `docker load` reads.
    DockerArchive {
        /// Where to.
        dest: Destination,
    },
    /// The root file system as a directory.
    Local {
        /// Where to.
        dest: PathBuf,
    },
    /// The root file system as one tar file.
    Tar {
        /// Where to.
        dest: Destination,
    },
}

/// A file, or standard output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// A path.
    Path(PathBuf),
    /// Standard output.
    Stdout,
}

/// Compression of new layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CompressionChoice {
    /// gzip, with a level of 1 to 9 or kiln's default.
    Gzip(Option<u8>),
    /// eStargz, which is gzip whose files can be fetched one by one, with a level of 1 to 9 or kiln's default. Steps make
    /// gzip layers, and those of the image are converted at its end.
    Estargz(Option<u8>),
    /// zstd, with a level of 1 to 22 or kiln's default.
    Zstd(Option<u8>),
    /// None.
    Uncompressed,
}

/// Whether earlier results are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheMode {
    /// Use and keep.
    ReadWrite,
    /// Do everything anew, and keep.
    WriteOnly,
}

/// Which modes the files of contexts have, in cache keys and in layers alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContextModes {
    /// Those on disk.
    #[default]
    OnDisk,
    /// Those that a checkout under the umask 022 gives: 0644, or 0755 for directories and for what its owner may execute.
    /// Set-id and sticky bits stay.
    Usual,
}

/// What a base image may at most be: a bomb is refused before it fills the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ImageLimits {
    /// Bytes that one layer unpacks to.
    pub layer_size: u64,
    /// Number of layers; an overlay mount takes 500 at most.
    pub layers: usize,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self { layer_size: 64 << 30, layers: 400 }
    }
}

/// What is wanted of the isolation of RUN steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct IsolationWish {
    /// The one that was asked for.
    pub choice: IsolationChoice,
    /// The weakest that will do; `none` and `auto` set no condition.
    pub require: IsolationChoice,
    /// Takes one that lacks a part of its walls.
    pub allow_weak: bool,
}

impl Default for IsolationWish {
    fn default() -> Self {
        Self { choice: IsolationChoice::Auto, require: IsolationChoice::None, allow_weak: false }
    }
}

/// Isolation of RUN steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IsolationChoice {
    /// The strongest that works here.
    Auto,
    /// User namespace with a range of ids.
    Userns,
    /// User namespace with one id.
    UsernsSingle,
    /// Another root directory, guarded by Landlock.
    Chroot,
    /// None: a build with RUN is refused.
    None,
}
