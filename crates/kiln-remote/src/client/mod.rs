//! The registry client: pulls, pushes and everything that makes them survive a real network.
//!
//! [`Client`] is the one type to start at. Its methods block the calling thread; inside, a small runtime of
//! its own drives the connections, so the caller needs none. Do not call it from an asynchronous task.
//! The client keeps no content: what comes is handed on as it arrives, and is verified on the way.

mod auth;
mod blob;
mod body;
mod call;
mod location;
mod pull;
mod push;
mod retry;

pub(crate) mod tls;
mod token;
mod transport;
mod upload;
mod web;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_oci::{Descriptor, Digest, Document, Reference};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

pub use blob::BlobReader;
pub use retry::Retries;
pub use tls::Roots;
pub use upload::{Delivery, UploadSource, Uploaded};
pub use web::{WebAnswer, WebMethod, WebReader, WebRequest};

use crate::credentials::Credentials;
use crate::error::Error;
use crate::hosts::{HostsConfig, ProxyConfig};
use transport::Host;
pub use transport::percent_decode;

/// Is told how many bytes of a blob have passed so far; the number falls when a transfer starts over. For an
/// upload that is what was read from the source, at most a megabyte ahead of what the registry has.
pub type Observer = Arc<dyn Fn(u64) + Send + Sync>;

/// Everything that a client has to know.
#[derive(Clone)]
pub struct ClientConfig {
    /// How to reach each registry.
    pub hosts: HostsConfig,
    /// Who the user is.
    pub credentials: Arc<Credentials>,
    /// Proxies.
    pub proxy: ProxyConfig,
    /// Which authorities are trusted.
    pub roots: Roots,
    /// What the client calls itself.
    pub user_agent: String,
    /// How failures are tried again.
    pub retries: Retries,
    /// How long to wait for what.
    pub timeouts: Timeouts,
    /// How many requests, downloads and uploads run at once on one host, each counted for itself.
    pub concurrency: usize,
    /// Size of a piece where a registry takes uploads only in pieces; one piece per upload is in memory.
    pub chunk: usize,
    /// Is told what the client does beyond what it was asked, such as trying again.
    pub notices: Option<Arc<dyn Fn(Notice) + Send + Sync>>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            hosts: HostsConfig::default(),
            credentials: Arc::default(),
            proxy: ProxyConfig::default(),
            roots: Roots::default(),
            user_agent: concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned(),
            retries: Retries::default(),
            timeouts: Timeouts::default(),
            concurrency: 6,
            // Object stores behind registries take no piece under 5 MiB but the last.
            chunk: 5 << 20,
            notices: None,
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("hosts", &self.hosts)
            .field("proxy", &self.proxy)
            .field("retries", &self.retries)
            .field("timeouts", &self.timeouts)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// A connection, with name resolution, proxy and TLS.
    pub connect: Duration,
    /// The head of an answer after a request, or progress while a body is sent.
    pub answer: Duration,
    /// The next bytes of an answer.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { connect: Duration::from_secs(30), answer: minute, idle: minute }
    }
}

/// Something that the client does by itself and that a person may want to know.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Notice {
    /// A request failed and is sent again.
    Retrying {
        /// The failure.
        error: Error,
        /// The wait before the next attempt.
        after: Duration,
    },
    /// A mirror failed, and the next host is asked.
    MirrorFailed {
        /// The failure, which names the mirror.
        error: Error,
    },
}

/// A client of registries. Clones share connections, tokens and the right to cancel.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    config: ClientConfig,
    roots: tls::LazyRoots,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    jitter: retry::Jitter,
    cancelled: watch::Sender<bool>,
    // Taken out when the last clone goes, so that it ends without waiting for its tasks.
    runtime: Option<Runtime>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("config", &self.shared.config).finish_non_exhaustive()
    }
}

/// Makes everything that a client does fail quickly.
#[derive(Debug, Clone)]
pub struct CancelHandle(watch::Sender<bool>);

impl CancelHandle {
    /// Ends every pending and every later operation with [`Error::Cancelled`].
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Client {
    /// Returns a client; no connection is made yet.
    ///
    /// # Errors
    /// When a certificate file of the configuration cannot be read, or the machine gives no threads.
    pub fn new(config: ClientConfig) -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .max_blocking_threads(16)
            .thread_name("kiln-remote")
            .enable_all()
            .build()
            .map_err(|source| Error::Runtime { source: Arc::new(source) })?;
        let roots = tls::LazyRoots::new(config.roots.clone())?;
        let shared = Shared {
            config,
            roots,
            hosts: Mutex::default(),
            jitter: retry::Jitter::default(),
            cancelled: watch::Sender::new(false),
            runtime: Some(runtime),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns the handle that ends every operation of this client and its clones.
    #[must_use]
    pub fn cancel_handle(&self) -> CancelHandle {
        CancelHandle(self.shared.cancelled.clone())
    }

    /// Returns the descriptor of what `reference` names now, without fetching it where the registry allows.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or does not have it.
    pub fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        self.shared.block(self.shared.resolve(reference))
    }

    /// Fetches the manifest or index that `reference` names; content asked for by digest is verified.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve), and when the document is over 4 MiB, malformed, or not what its digest
    /// says.
    pub fn document(&self, reference: &Reference) -> Result<Document, Error> {
        self.shared.block(self.shared.document(reference))
    }

    /// Opens a blob of the repository of `reference`. The reader verifies what it gives, so content is to be
    /// trusted only after it has returned its end; it goes on by itself where a connection was lost.
    ///
    /// # Errors
    /// When no host has the blob, or none can be reached.
    pub fn blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        observer: Option<Observer>,
    ) -> Result<BlobReader, Error> {
        let download = self.shared.block(blob::open(&self.shared, reference, descriptor))?;
        Ok(BlobReader::new(Arc::clone(&self.shared), download, observer))
    }

    /// Tells whether the registry itself, no mirror, has the blob in the repository of `target`.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses.
    pub fn exists(&self, target: &Reference, digest: &Digest) -> Result<bool, Error> {
        self.shared.block(self.shared.exists(target, digest))
    }

    /// Makes the blob of repository `from` one of repository `target` without moving it; `false` when the
    /// registry would not.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses `target`.
    pub fn mount(&self, target: &Reference, digest: &Digest, from: &Reference) -> Result<bool, Error> {
        self.shared.block(self.shared.mount(target, digest, from))
    }

    /// Uploads a blob into the repository of `target`, also while it is still being produced.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses, or the source fails.
    pub fn upload(
        &self,
        target: &Reference,
        source: &Arc<dyn UploadSource>,
        observer: Option<Observer>,
    ) -> Result<Uploaded, Error> {
        self.shared.block(upload::upload(&self.shared, target, source, observer))
    }

    /// Stores a manifest or index under the tag of `target`, or under its own digest where there is no tag.
    ///
    /// # Errors
    /// When the registry cannot be reached or refuses, or `target` names another digest.
    pub fn put_document(&self, target: &Reference, document: &Document) -> Result<Descriptor, Error> {
        self.shared.block(self.shared.put_document(target, document))
    }

    /// Tells whether `target` names exactly this document at the registry itself, no mirror; a registry that does not
    /// say counts as one that does not have it.
    ///
    /// # Errors
    /// When the registry cannot be reached.
    pub fn names_document(&self, target: &Reference, document: &Digest) -> Result<bool, Error> {
        self.shared.block(self.shared.names_document(target, document))
    }

    /// Returns every tag of the repository of `reference`, in the registry's order.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or does not have the repository.
    pub fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        self.shared.block(self.shared.tags(reference))
    }

    /// Deletes the manifest or tag that `reference` names.
    ///
    /// # Errors
    /// When the registry cannot be reached, refuses, or does not have it.
    pub fn delete(&self, reference: &Reference) -> Result<(), Error> {
        self.shared.block(self.shared.delete(reference))
    }
}

impl Shared {
    /// Runs `work` on the calling thread until it ends or the client is cancelled.
    fn block<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let Some(runtime) = &self.runtime else { return Err(Error::Cancelled) };
        let mut cancelled = self.cancelled.subscribe();
        runtime.block_on(async {
            tokio::select! {
                biased;
                _ = cancelled.wait_for(|cancelled| *cancelled) => Err(Error::Cancelled),
                result = Box::pin(work) => result,
            }
        })
    }

    /// Returns the host of that name, created at first sight.
    fn host(&self, name: &str) -> Result<Arc<Host>, Error> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = hosts.get(name) {
            return Ok(Arc::clone(host));
        }
        let host = Arc::new(Host::new(name, &self.config, &self.roots)?);
        hosts.insert(name.to_owned(), Arc::clone(&host));
        Ok(host)
    }

    fn notice(&self, notice: Notice) {
        if let Some(notices) = &self.config.notices {
            notices(notice);
        }
    }
}
