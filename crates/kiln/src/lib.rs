//! The build engine: from a [`request::BuildRequest`] to an image in a registry or on disk.
//!
//! A library that never prints, reads no environment and ends no process: it takes plain data, emits
//! [`progress::Event`]s and returns values. Start at [`build()`]. Which room may import which is in ARCHITECTURE.md, and
//! checked.

pub mod address;
pub mod build;
mod cache;
pub mod cache_mounts;
pub mod cancel;
pub mod check;
mod context;
mod engine;
pub mod error;
mod exec;
mod export;
mod fetch;
mod files;
pub mod frontend;
pub mod graph;
pub mod history;
pub mod image;
pub mod key;
mod mounts;
mod pin;
pub mod progress;
pub mod request;
pub mod rootfs;
pub mod snapshot;
mod solve;
pub mod store;

pub use build::{EngineConfig, Expected, Receipt, build, explain};
pub use cancel::Cancel;
pub use check::{Checked, check};
pub use error::{Error, ErrorKind, Result};
pub use kiln_dockerfile as dockerfile;
pub use kiln_oci as oci;
pub use kiln_remote as remote;
pub use kiln_sandbox as sandbox;
