//! TLS for both ends: one provider, chosen here and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::error::{Error, TlsFault};
use crate::hosts::HostConfig;

/// Where distributions keep the certificates that the machine's owner trusts.
const SYSTEM_BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/kaniko/ssl/certs/ca-certificates.crt",
];

/// Which authorities are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roots {
    /// The authorities of the web, built in.
    pub embedded: bool,
    /// The first existing bundle of the operating system.
    pub system: bool,
    /// PEM files to trust besides; each has to exist.
    pub files: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self { embedded: true, system: true, files: Vec::new() }
    }
}

/// Returns the provider of cryptography; to change it is to change this line.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The authorities that hold for all hosts, read when the first host needs them: a local registry needs none.
#[derive(Debug)]
pub(crate) struct LazyRoots {
    roots: Roots,
    loaded: OnceLock<RootCertStore>,
}

impl LazyRoots {
    /// Reads the files that were named, so that a mistake in their names is told at once.
    pub(crate) fn new(roots: Roots) -> Result<Self, Error> {
        let lazy = Self { roots, loaded: OnceLock::new() };
        if !lazy.roots.files.is_empty() {
            lazy.get()?;
        }
        Ok(lazy)
    }

    fn get(&self) -> Result<&RootCertStore, Error> {
        if let Some(loaded) = self.loaded.get() {
            return Ok(loaded);
        }
        let store = load_roots(&self.roots)?;
        Ok(self.loaded.get_or_init(|| store))
    }
}

fn load_roots(roots: &Roots) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if roots.embedded {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let system = SYSTEM_BUNDLES.iter().map(Path::new).find(|path| path.is_file());
    if let Some(bundle) = system.filter(|_| roots.system) {
        // What the distribution ships is not the user's mistake: unreadable entries are left out.
        let certificates = CertificateDer::pem_file_iter(bundle).into_iter().flatten().flatten();
        store.add_parsable_certificates(certificates);
    }
    for file in &roots.files {
        add_file(&mut store, file, "every host")?;
    }
    Ok(store)
}

fn add_file(store: &mut RootCertStore, file: &Path, host: &str) -> Result<(), Error> {
    let config = |reason: String| Error::Config { host: host.to_owned(), reason };
    let certificates = certificates(file, host)?;
    let (added, _) = store.add_parsable_certificates(certificates);
    if added == 0 {
        return Err(config(format!("`{}` holds no certificate of an authority", file.display())));
    }
    Ok(())
}

fn certificates(file: &Path, host: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|e| Error::Config {
        host: host.to_owned(),
        reason: format!("cannot read certificates of `{}`: {e}", file.display()),
    })
}

/// Returns the TLS settings for one host.
pub(crate) fn client_config(
    host: &str,
    config: &HostConfig,
    shared: &LazyRoots,
) -> Result<ClientConfig, Error> {
    let fail = |reason: String| Error::Config { host: host.to_owned(), reason };
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| fail(e.to_string()))?;
    let builder = if config.insecure || config.skip_tls_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        let mut roots = shared.get()?.clone();
        if let Some(ca) = &config.ca {
            add_file(&mut roots, ca, host)?;
        }
        builder.with_root_certificates(roots)
    };
    match (&config.client_certificate, &config.client_key) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, host)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|e| fail(format!("cannot read the key `{}`: {e}", key.display())))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| fail(format!("client certificate: {e}")))
        }
        _ => Err(fail("`client_certificate` and `client_key` need each other".to_owned())),
    }
}

/// Returns the TLS settings of a server that shows the certificate chain in `certificate`.
pub(crate) fn server_config(certificate: &Path, key: &Path) -> Result<rustls::ServerConfig, Error> {
    let fail = |reason: String| Error::Config { host: "embedded registry".to_owned(), reason };
    let chain = certificates(certificate, "embedded registry")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| fail(format!("cannot read the key `{}`: {e}", key.display())))?;
    rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| fail(e.to_string()))
}

/// Finds the TLS library's error below a connection's, and what it means.
pub(crate) fn fault(error: &(dyn std::error::Error + 'static)) -> Option<TlsFault> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(match tls {
                rustls::Error::InvalidMessage(_) => TlsFault::PlainHttp,
                rustls::Error::InvalidCertificate(_) => TlsFault::Certificate,
                _ => TlsFault::Handshake,
            });
        }
        // An I/O error's `source()` skips the error that it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match wrapped {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Accepts every certificate, for hosts that the user marked so; signatures are still checked.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
