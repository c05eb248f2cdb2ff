//! The embedded registry: OCI distribution 1.1 over HTTP, in memory or in a directory.
//!
//! It serves people who want a registry without installing one, and tests that want a registry that fails on
//! demand. Start at [`Registry::start`]. It is one process with one owner: no garbage collection, no
//! replication, no users beyond one name and password.

mod access;
mod answer;
mod content;
mod faults;
mod manifests;
mod routes;
mod storage;
mod uploads;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::TlsAcceptor;

pub use faults::Faults;

use crate::Secret;
use routes::Service;

/// A client that has not sent its headers after this is gone.
const HEADER_TIME: Duration = Duration::from_secs(60);
/// As many requests are remembered.
const LOG_LENGTH: usize = 10_000;

/// Is told about every request once it is answered.
pub type RequestObserver = Arc<dyn Fn(&Request) + Send + Sync>;

/// How to run a registry.
#[derive(Clone)]
pub struct RegistryConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where content is kept.
    pub storage: Storage,
    /// Who may do what.
    pub auth: Auth,
    /// Certificate and key; plain HTTP without.
    pub tls: Option<TlsFiles>,
    /// What to do wrong.
    pub faults: Faults,
    /// Is told about every request once it is answered.
    pub observer: Option<RequestObserver>,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            storage: Storage::Memory,
            auth: Auth::None,
            tls: None,
            faults: Faults::default(),
            observer: None,
        }
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("listen", &self.listen)
            .field("storage", &self.storage)
            .field("auth", &self.auth)
            .field("tls", &self.tls)
            .field("faults", &self.faults)
            .finish_non_exhaustive()
    }
}

/// Where a registry keeps content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In memory, gone at the end.
    Memory,
    /// In a directory, which is created.
    Directory(PathBuf),
}

/// Who may use a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Everybody, for everything.
    None,
    /// One user, by name and password in every request.
    Basic {
        /// Name.
        user: String,
        /// Password.
        password: Secret,
    },
    /// One user, by tokens that the registry's own token server hands out.
    Bearer {
        /// Name.
        user: String,
        /// Password.
        password: Secret,
        /// A refresh token that does as well as name and password.
        identity_token: Option<Secret>,
        /// What those get who show nothing.
        anonymous: Anonymous,
    },
}

/// What a token server gives to those who show nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    /// Tokens to pull with.
    Pull,
    /// Nothing.
    Nothing,
}

/// A server's certificate and key, as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own first.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// A request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// HTTP status of the answer; 0 where the connection was cut instead.
    pub status: u16,
    /// The scheme of the `Authorization` header, such as `Bearer`, or nothing.
    pub authorization: String,
}

/// Says why a registry cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on `{address}`")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The directory cannot be used.
    #[error("cannot use the directory `{}`", .path.display())]
    Storage {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error("cannot serve TLS")]
    Tls {
        /// Why.
        source: crate::Error,
    },
    /// The machine gives no threads.
    #[error("cannot start the threads for connections")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

/// The embedded registry.
#[derive(Debug)]
pub struct Registry;

/// A registry that runs until this is dropped.
pub struct Running {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What connections and the owner of a running registry both see.
pub(crate) struct Shared {
    log: Mutex<VecDeque<Request>>,
    observer: Option<RequestObserver>,
    faults: Mutex<Faults>,
}

impl Shared {
    fn record(&self, request: Request) {
        if let Some(observer) = &self.observer {
            observer(&request);
        }
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() == LOG_LENGTH {
            log.pop_front();
        }
        log.push_back(request);
    }
}

impl Registry {
    /// Starts a registry in threads of its own.
    ///
    /// # Errors
    /// When it cannot listen, or its directory or certificate cannot be used.
    pub fn start(config: RegistryConfig) -> Result<Running, StartError> {
        let store: Box<dyn storage::Store> = match &config.storage {
            Storage::Memory => Box::new(storage::Memory::default()),
            Storage::Directory(path) => Box::new(
                storage::Directory::open(path)
                    .map_err(|source| StartError::Storage { path: path.clone(), source })?,
            ),
        };
        let tls = config.tls.as_ref().map(|files| {
            crate::client::tls::server_config(&files.certificate, &files.key)
                .map(|config| TlsAcceptor::from(Arc::new(config)))
                .map_err(|source| StartError::Tls { source })
        });
        let tls = tls.transpose()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("kiln-registry")
            .enable_all()
            .build()
            .map_err(|source| StartError::Runtime { source })?;
        let listen = |source| StartError::Listen { address: config.listen, source };
        let listener = runtime.block_on(TcpListener::bind(config.listen)).map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let shared = Arc::new(Shared {
            log: Mutex::default(),
            observer: config.observer,
            faults: Mutex::new(config.faults),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let service = Service::new(store, config.auth, scheme, Arc::clone(&shared));
        runtime.spawn(accept(listener, tls, Arc::new(service)));
        Ok(Running { address, shared, runtime: Some(runtime) })
    }
}

impl Running {
    /// Returns the address that the registry listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address as the host of a reference, such as `127.0.0.1:5000`.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the latest requests, oldest first.
    #[must_use]
    pub fn log(&self) -> Vec<Request> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Changes what the registry does wrong.
    pub fn set_faults(&self, faults: Faults) {
        *self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
    }

    /// Returns what the registry still has to do wrong.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, tls.clone(), Arc::clone(&service)));
            }
            // Out of descriptors, usually: the connections at work will free some.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection. How it ends concerns nobody: the requests are in the log.
async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, service: Arc<Service>) {
    // Only makes small answers slower when it fails.
    drop(stream.set_nodelay(true));
    let service = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { service.answer(request).await }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    let ended = match tls {
        None => http.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => http.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => return,
        },
    };
    drop(ended);
}
