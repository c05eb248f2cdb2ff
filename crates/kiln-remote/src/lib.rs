//! Images that live elsewhere: registries, authentication, transfers, and a registry to test against.
//!
//! Everything that kiln says by HTTP is said here, also to web servers and git servers ([`Client::web`]). Start at [`Client`] to pull and push, at [`Credentials`] for
//! who the user is, at [`HostsConfig`] for how to reach a registry, and at [`server`] for the embedded
//! registry. The public face blocks; no asynchronous type leaves the crate. It reads no environment and
//! decides nothing about builds.
//!
//! ```no_run
//! use kiln_remote::{Client, ClientConfig};
//!
//! let client = Client::new(ClientConfig::default())?;
//! let reference = "registry.example/team/app:v1".parse()?;
//! let document = client.document(&reference)?;
//! for layer in document.manifest().into_iter().flat_map(|manifest| &manifest.layers) {
//!     std::io::copy(&mut client.blob(&reference, layer, None)?, &mut std::io::sink())?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod client;
mod credentials;
mod error;
mod hosts;
pub mod proxy;
mod secret;
pub mod server;

pub use client::{
    BlobReader, CancelHandle, Client, ClientConfig, Delivery, Notice, Observer, Retries, Roots, Timeouts,
    UploadSource, Uploaded, WebAnswer, WebMethod, WebReader, WebRequest, percent_decode,
};
pub use credentials::{Credential, Credentials, CredentialsError, HelperEnvironment};
pub use error::{Asked, Cause, Error, ErrorKind, Fault, Login, TlsFault};
pub use hosts::{ConfigFile, HostConfig, HostsConfig, HostsError, Loopback, ProxyConfig};
pub use secret::{Secret, redact_url};
