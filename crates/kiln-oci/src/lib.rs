//! OCI image words as types: digests, references, platforms, descriptors, manifests, configs, and layers
//! as tar streams.
//!
//! This crate knows the documents of the OCI image and distribution specifications and of Docker's schema 2,
//! and the canonical form of a layer. It opens no socket, reads no environment and writes no file: bytes go in
//! and come out. Start at [`Manifest`] for documents and at [`layer`] for tar streams.
//!
//! Unknown JSON fields survive a round trip, and a digest is always of bytes that were read or written, never
//! of a re-serialisation.

pub mod config;
mod descriptor;
mod digest;
pub mod layer;
mod manifest;
mod media_type;
mod platform;
mod reference;
mod time;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, RootFs};
pub use descriptor::Descriptor;
pub use digest::{Digest, DigestError, Hasher, Sum, Verifier};
pub use manifest::{Document, DocumentError, Index, MAX_LAYERS, Manifest};
pub use media_type::MediaType;
pub use platform::{Platform, PlatformError, select};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
pub use time::rfc3339;
