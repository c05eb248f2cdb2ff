//! Shared caches: where results of steps are read from and written to.

use std::fmt;
use std::path::PathBuf;

use kiln_oci::Reference;
use serde::Serialize;

/// A shared cache to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheSource {
    /// A cache under one reference, or an image with a cache in it.
    Registry(Reference),
    /// A cache in an OCI layout directory.
    Local {
        /// The directory.
        src: PathBuf,
        /// Its tag or digest there; absent: `latest`.
        target: Option<String>,
    },
    /// A repository with one manifest for each step.
    Repository(CacheRepository),
}

/// A shared cache to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheExport {
    /// Where to.
    pub target: CacheTarget,
    /// Which steps.
    pub extent: CacheExtent,
    /// Whether a cache that cannot be written fails the build, in place of a warning.
    pub is_strict: bool,
}

/// Where a shared cache is written to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheTarget {
    /// Under one reference.
    Registry(Reference),
    /// Into an OCI layout directory.
    Local {
        /// The directory.
        dest: PathBuf,
        /// Its tag there; absent: `latest`.
        tag: Option<String>,
    },
    /// Into the image itself.
    Inline,
    /// Into a repository, one manifest for each step.
    Repository(CacheRepository),
}

/// A repository with one manifest for each step, tagged with its key: kaniko's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheRepository {
    /// A repository of a registry; tag and digest of the reference do not count.
    Registry(Reference),
    /// An OCI layout directory.
    Layout(PathBuf),
}

impl fmt::Display for CacheRepository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => f.write_str(&reference.name()),
            Self::Layout(dir) => write!(f, "oci:{}", dir.display()),
        }
    }
}

/// Which steps a shared cache gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CacheExtent {
    /// Those whose layers the image has.
    Min,
    /// All of them.
    Max,
}
