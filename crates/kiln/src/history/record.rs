//! What is kept of one build, as plain data: `build.json`.

use kiln_oci::{Descriptor, Digest};
use serde::{Deserialize, Serialize};

use super::Number;
use crate::key::Part;
use crate::progress::StepId;

/// Version of [`BuildRecord`]; a record of another version is not read.
pub const VERSION: u32 = 1;

/// One build that ended. No value of a secret is in it, and of a variable whose name says that it holds one no more than a
/// fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildRecord {
    /// [`VERSION`].
    pub version: u32,
    /// Its number in this store.
    pub number: Number,
    /// The same for builds of the same thing; see [`lineage`](super::lineage).
    pub lineage: String,
    /// When it began, RFC 3339 in UTC.
    pub started: String,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// What was asked for.
    pub request: RequestSummary,
    /// How RUN was cut off, absent when there was none.
    pub isolation: Option<String>,
    /// What names of the Dockerfile stood for.
    pub pins: Vec<PinRecord>,
    /// The steps that the result needed, in the order of the plan.
    pub steps: Vec<StepRecord>,
    /// What was moved over the network, in the order in which it was done.
    pub transfers: Vec<TransferRecord>,
    /// What commands asked for through their proxy (`--network=proxy`), in the order in which it ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fetches: Vec<FetchRecord>,
    /// What the build warned of.
    pub warnings: Vec<String>,
}

/// How a build ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Outcome {
    /// With an image.
    Done {
        /// Digest of the manifest.
        digest: Digest,
        /// Digest of the config.
        config_digest: Digest,
        /// Layers of the image.
        layers: usize,
        /// Compressed size of all layers in bytes.
        size: u64,
        /// Where it went, one sentence each.
        outputs: Vec<String>,
    },
    /// With an error.
    Failed {
        /// What did not work.
        message: String,
        /// Why, from the outermost cause to the innermost.
        causes: Vec<String>,
        /// File and line, where there is one.
        place: Option<String>,
        /// The step that failed first, if it was a step.
        step: Option<StepId>,
    },
    /// It was stopped by the user.
    Interrupted,
}

/// What a build was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestSummary {
    /// The context as it was given.
    pub context: String,
    /// The Dockerfile as it was given, `Dockerfile` by default.
    pub dockerfile: String,
    /// The stage, absent for the last one.
    pub target: Option<String>,
    /// The platform.
    pub platform: String,
    /// Names of the image.
    pub tags: Vec<String>,
    /// Names of the build arguments that were given.
    pub build_args: Vec<String>,
    /// What was to become of the image.
    pub outputs: Vec<String>,
    /// Whether every step was to be done anew.
    pub no_cache: bool,
}

/// What a name stood for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRecord {
    /// As it stands in the Dockerfile, without passwords.
    pub name: String,
    /// Digest of a manifest or a file, or the id of a commit.
    pub digest: String,
}

/// How far a step came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepStatus {
    /// The cache had its layer.
    Cached,
    /// It was done.
    Done,
    /// It failed.
    Failed,
    /// It ran when the build ended for another reason.
    Stopped,
    /// It had not begun when the build ended.
    #[default]
    NotReached,
}

/// One step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number.
    pub id: StepId,
    /// What it does, such as `[build 2/5] RUN make`.
    pub title: String,
    /// File and line, such as `Dockerfile:7`.
    pub place: Option<String>,
    /// How far it came.
    pub status: StepStatus,
    /// When it began, in milliseconds after the build.
    pub started_ms: u64,
    /// How long it took, in milliseconds, without the packing that goes on behind a RUN.
    pub took_ms: u64,
    /// How long its layer was being packed, in milliseconds.
    pub packed_ms: u64,
    /// Digest of everything it depends on.
    pub key: Option<Digest>,
    /// What the key is made of.
    pub parts: Vec<Part>,
    /// Why it was not in the cache, where that is known.
    pub reason: Option<String>,
    /// Its layer.
    pub layer: Option<Descriptor>,
    /// Digest of the uncompressed layer.
    pub diff_id: Option<Digest>,
}

/// What a command asked for through its proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRecord {
    /// The step.
    pub step: StepId,
    /// The method, `CONNECT` for a tunnel.
    pub method: String,
    /// The address, without credentials; of a tunnel host and port.
    pub target: String,
    /// The status that the command got: of the server, or 403 and 502 of the proxy.
    pub status: u16,
    /// Bytes that went out, without heads.
    pub sent: u64,
    /// Bytes that came back.
    pub received: u64,
}

/// Bytes to or from somewhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// What was moved, such as `pull 0123456789ab`.
    pub name: String,
    /// When it began, in milliseconds after the build.
    pub started_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How much was moved.
    pub bytes: u64,
}
