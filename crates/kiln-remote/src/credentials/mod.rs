//! Who the user is at each registry: Docker's and Podman's files, credential helpers, and what the caller adds.
//!
//! [`Credentials::load`] reads the files whose paths the caller names, in the caller's order; the first that
//! knows a registry answers for it. Within a file the order is: helper of the registry (`credHelpers`), entry
//! of the file (`auths`, longest path first), default helper (`credsStore`). Nothing is written, and no
//! environment is read: helpers get exactly the variables they are given.

mod config;
mod helper;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub use helper::HelperEnvironment;

use crate::Secret;
use config::DockerConfig;

/// How to prove who one is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// User name and password, or an access token in the place of a password.
    Basic {
        /// User name.
        username: String,
        /// Password.
        password: Secret,
    },
    /// A refresh token, exchanged at the token server for access tokens.
    IdentityToken(Secret),
    /// A token sent to the registry as it stands.
    RegistryToken(Secret),
}

/// Says why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The file exists and cannot be read.
    #[error("cannot read `{}`", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not the JSON that it should be.
    #[error("`{}` is malformed: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong; never holds a value of the file.
        reason: String,
    },
    /// The helper is not installed.
    #[error("credential helper `{helper}` is not on the search path")]
    HelperMissing {
        /// Name of the program.
        helper: String,
    },
    /// The helper cannot be run.
    #[error("cannot run credential helper `{helper}`")]
    HelperSpawn {
        /// Name of the program.
        helper: String,
        /// Why.
        source: std::io::Error,
    },
    /// The helper failed.
    #[error("credential helper `{helper}` failed for `{server}`: {message}")]
    HelperFailed {
        /// Name of the program.
        helper: String,
        /// What it was asked for.
        server: String,
        /// What it wrote to standard error, or how it ended.
        message: String,
    },
}

/// Every credential that is known, with those that helpers gave kept for the life of the process.
#[derive(Debug, Default)]
pub struct Credentials {
    added: BTreeMap<String, Credential>,
    files: Vec<DockerConfig>,
    environment: HelperEnvironment,
    // Held while a helper runs: ten pulls that start together ask once.
    helped: Mutex<BTreeMap<(String, String), Option<Credential>>>,
}

impl Credentials {
    /// Returns credentials for nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads those of `paths` that exist, in order of precedence.
    ///
    /// # Errors
    /// When a file exists and cannot be read or parsed.
    pub fn load(paths: &[PathBuf], environment: HelperEnvironment) -> Result<Self, CredentialsError> {
        let mut credentials = Self { environment, ..Self::default() };
        for path in paths {
            match std::fs::read(path) {
                Ok(bytes) => credentials.push_file(&bytes, path)?,
                Err(e) if absent(&e) => {}
                Err(source) => return Err(CredentialsError::Read { path: path.clone(), source }),
            }
        }
        Ok(credentials)
    }

    /// Reads the content of one `config.json` or `auth.json`; `path` is for messages.
    ///
    /// # Errors
    /// When the content is malformed.
    pub fn parse(
        content: &[u8],
        path: &Path,
        environment: HelperEnvironment,
    ) -> Result<Self, CredentialsError> {
        let mut credentials = Self { environment, ..Self::default() };
        credentials.push_file(content, path)?;
        Ok(credentials)
    }

    /// Sets the credential for a registry (`ghcr.io`), before any file.
    pub fn add(&mut self, registry: &str, credential: Credential) {
        self.added.insert(canonical(registry).to_owned(), credential);
    }

    /// Returns the credential for a repository of a registry; runs a helper where one is configured.
    ///
    /// # Errors
    /// When a helper is configured and fails for another reason than having no entry.
    pub fn get(&self, registry: &str, repository: &str) -> Result<Option<Credential>, CredentialsError> {
        let registry = canonical(registry);
        if let Some(credential) = self.added.get(registry) {
            return Ok(Some(credential.clone()));
        }
        for file in &self.files {
            if let Some(helper) = file.helper_of(registry, repository)
                && let Some(credential) = self.ask(helper, registry)?
            {
                return Ok(Some(credential));
            }
            if let Some(credential) = file.entry(registry, repository)? {
                return Ok(Some(credential));
            }
            if let Some(helper) = file.default_helper()
                && let Some(credential) = self.ask(helper, registry)?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    fn push_file(&mut self, content: &[u8], path: &Path) -> Result<(), CredentialsError> {
        self.files.push(DockerConfig::parse(content, path)?);
        Ok(())
    }

    fn ask(&self, helper: &str, registry: &str) -> Result<Option<Credential>, CredentialsError> {
        let server = if registry == kiln_oci::DEFAULT_REGISTRY { config::DOCKER_HUB_KEY } else { registry };
        let key = (helper.to_owned(), server.to_owned());
        let mut helped = self.helped.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = helped.get(&key) {
            return Ok(known.clone());
        }
        let credential = helper::get(helper, server, &self.environment)?;
        helped.insert(key, credential.clone());
        Ok(credential)
    }
}

/// A directory in the path that is a file is absence as well: `$HOME` may be `/dev/null` in a container.
fn absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Returns the name under which credentials of a host are looked up.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | crate::hosts::DOCKER_HUB => kiln_oci::DEFAULT_REGISTRY,
        host => host,
    }
}
