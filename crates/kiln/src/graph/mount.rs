//! Mounts of a command, as data.

use serde::Serialize;

use super::CopyFrom;
use crate::error::Place;
use crate::store::Sharing;

/// Files that a command sees and its layer does not keep.
///
/// What is serialised counts for the cache, so what a step may not depend on is left out; files that are mounted
/// count by their content, which `solve` adds.
#[derive(Debug, Clone, Serialize)]
pub struct Mount {
    /// What is mounted, and where.
    pub kind: MountKind,
    /// The mount in the Dockerfile.
    #[serde(skip)]
    pub place: Option<Place>,
}

/// The kinds of mount. Targets are absolute paths.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MountKind {
    /// Files of a context, a stage or an image.
    Bind {
        /// Where it is mounted.
        target: String,
        /// The files.
        #[serde(skip)]
        source: MountSource,
        /// Refuses writes; otherwise they are thrown away.
        readonly: bool,
    },
    /// A directory kept from build to build.
    Cache {
        /// Where it is mounted.
        target: String,
        /// Its name; what is in a cache must not decide about a layer, nor must its name.
        #[serde(skip)]
        id: String,
        /// Keeps the caches of one project apart from those of others.
        #[serde(skip)]
        namespace: String,
        /// How commands share it.
        #[serde(skip)]
        sharing: Sharing,
        /// What an empty cache starts with.
        #[serde(skip)]
        seed: Option<MountSource>,
        /// Mode of a new cache that starts empty.
        mode: Option<u32>,
        /// Owner of a new cache that starts empty.
        uid: Option<u32>,
        /// Group of a new cache that starts empty.
        gid: Option<u32>,
        /// Refuses writes.
        readonly: bool,
    },
    /// Memory.
    Tmpfs {
        /// Where it is mounted.
        target: String,
        /// Limit in bytes.
        size: Option<u64>,
        /// Permission bits.
        mode: u32,
        /// Refuses writes.
        readonly: bool,
    },
    /// A secret of the build; its value counts for nothing.
    Secret {
        /// Its name.
        id: String,
        /// The file, if there is to be one.
        target: Option<String>,
        /// The variable, if there is to be one.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Owner, group and mode of the file.
        owner: FileOwner,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// Its name.
        id: String,
        /// The socket.
        target: String,
        /// Whether the step fails without it.
        required: bool,
        /// Owner, group and mode of the socket.
        owner: FileOwner,
    },
}

/// Who may use a file that kiln makes for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FileOwner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Where the files of a mount come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSource {
    /// The context, stage or image.
    pub from: CopyFrom,
    /// The path in it; `/` is all of it.
    pub path: String,
}

impl Mount {
    /// Returns where the files come from that the command finds in the mount.
    #[must_use]
    pub fn source(&self) -> Option<&MountSource> {
        match &self.kind {
            MountKind::Bind { source, .. } => Some(source),
            MountKind::Cache { seed, .. } => seed.as_ref(),
            MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
        }
    }

    /// See [`Mount::source`].
    pub(super) fn source_mut(&mut self) -> Option<&mut MountSource> {
        match &mut self.kind {
            MountKind::Bind { source, .. } => Some(source),
            MountKind::Cache { seed, .. } => seed.as_mut(),
            MountKind::Tmpfs { .. } | MountKind::Secret { .. } | MountKind::Ssh { .. } => None,
        }
    }

    /// Returns the path of the mount; a secret may be a variable only.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match &self.kind {
            MountKind::Bind { target, .. }
            | MountKind::Cache { target, .. }
            | MountKind::Tmpfs { target, .. }
            | MountKind::Ssh { target, .. } => Some(target),
            MountKind::Secret { target, .. } => target.as_deref(),
        }
    }
}
