//! Git repositories as sources of files: what a server's references are now, one commit, its tree on disk.
//!
//! Start at [`Remote`]: [`Remote::references`] asks the server what it has, [`Remote::fetch`] brings one commit,
//! without its history, and [`Objects`] reads it and writes its tree. There is no repository on disk between the two
//! and no configuration of Git is read. This crate knows neither the store nor Dockerfiles. HTTP goes through
//! [`Web`], which the caller implements, so that proxies, certificates and credentials are the caller's;
//! `git://` opens a connection, and `ssh` runs the program `ssh`.

mod checkout;
mod error;
mod fetch;
mod gitdir;
mod http;
mod modules;
mod objects;
mod references;
mod remote;
mod ssh;

pub use checkout::{Checkout, Gitlink};
pub use error::{Error, Kind, Result};
pub use gitdir::Head;
pub use gix_hash::ObjectId;
pub use http::{Answer, Web};
pub use modules::{Submodule, absolute, submodules};
pub use objects::{Commit, Objects};
pub use references::{Found, Reference, choose};
pub use remote::Remote;

/// Reads a full object id.
#[must_use]
pub fn parse_id(text: &str) -> Option<ObjectId> {
    (text.len() == 40).then(|| ObjectId::from_hex(text.as_bytes()).ok()).flatten()
}
