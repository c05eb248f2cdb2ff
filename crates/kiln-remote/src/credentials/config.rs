//! The `config.json` of Docker and the `auth.json` of Podman, as far as they hold credentials.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::{Credential, CredentialsError};
use crate::Secret;

/// Docker's key for its own registry, from the days of the first protocol.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Files written by other tools leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Secret,
    username: String,
    password: Secret,
    identitytoken: Secret,
    registrytoken: Secret,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Option<Entry>>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: String,
}

/// One parsed file.
pub(super) struct DockerConfig {
    path: PathBuf,
    file: File,
}

impl fmt::Debug for DockerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registries: Vec<&String> = self.file.auths.keys().collect();
        f.debug_struct("DockerConfig").field("path", &self.path).field("auths", &registries).finish()
    }
}

impl DockerConfig {
    pub(super) fn parse(content: &[u8], path: &Path) -> Result<Self, CredentialsError> {
        let path = path.to_owned();
        let blank = content.iter().all(u8::is_ascii_whitespace);
        if blank {
            return Ok(Self { path, file: File::default() });
        }
        let file: File = serde_json::from_slice(content).map_err(|e| CredentialsError::Malformed {
            path: path.clone(),
            // The parser's own words may quote the value at fault, which may be a password.
            reason: format!("line {} column {} is not as expected", e.line(), e.column()),
        })?;
        let auths = file.auths.into_iter().map(|(key, entry)| (normal(&key), entry)).collect();
        let cred_helpers = file.cred_helpers.into_iter().map(|(key, name)| (normal(&key), name)).collect();
        Ok(Self { path, file: File { auths, cred_helpers, ..file } })
    }

    /// Returns the helper that is named for this registry.
    pub(super) fn helper_of(&self, registry: &str, repository: &str) -> Option<&str> {
        let name = keys(registry, repository).find_map(|key| self.file.cred_helpers.get(&key))?;
        Some(name.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns the helper for every registry that has none of its own.
    pub(super) fn default_helper(&self) -> Option<&str> {
        Some(self.file.creds_store.as_str()).filter(|name| !name.is_empty())
    }

    /// Returns what the file itself holds for the repository.
    pub(super) fn entry(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialsError> {
        for key in keys(registry, repository) {
            if let Some(Some(entry)) = self.file.auths.get(&key)
                && let Some(credential) = self.credential(&key, entry)?
            {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    fn credential(&self, key: &str, entry: &Entry) -> Result<Option<Credential>, CredentialsError> {
        if !entry.registrytoken.is_empty() {
            return Ok(Some(Credential::RegistryToken(entry.registrytoken.clone())));
        }
        if !entry.identitytoken.is_empty() {
            return Ok(Some(Credential::IdentityToken(entry.identitytoken.clone())));
        }
        if !entry.auth.is_empty() {
            let malformed = || CredentialsError::Malformed {
                path: self.path.clone(),
                reason: format!("`auth` of `{key}` is not base64 of `user:password`"),
            };
            let bytes = BASE64.decode(entry.auth.reveal().trim()).map_err(|_| malformed())?;
            let text = String::from_utf8(bytes).map_err(|_| malformed())?;
            let (username, password) = text.split_once(':').ok_or_else(malformed)?;
            // Old clients padded the password with zero bytes.
            let password = Secret::new(password.trim_end_matches('\0'));
            return Ok(Some(Credential::Basic { username: username.to_owned(), password }));
        }
        if entry.username.is_empty() {
            return Ok(None);
        }
        Ok(Some(Credential::Basic { username: entry.username.clone(), password: entry.password.clone() }))
    }
}

/// Brings a key of the file to `host[:port][/path]`.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://"));
    // A path after a scheme is a protocol version (`/v1/`), without one it is a repository.
    let name = match bare {
        Some(url) => url.split('/').next().unwrap_or(url),
        None => key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2"),
    };
    match name.split_once('/') {
        Some((host, path)) => format!("{}/{path}", super::canonical(host)),
        None => super::canonical(name).to_owned(),
    }
}

/// Returns the keys that may hold the credential, longest first: `host/a/b`, `host/a`, `host`.
fn keys(registry: &str, repository: &str) -> impl Iterator<Item = String> {
    let full = if repository.is_empty() { registry.to_owned() } else { format!("{registry}/{repository}") };
    std::iter::successors(Some(full), |key| key.rsplit_once('/').map(|(parent, _)| parent.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::super::{Credentials, HelperEnvironment};
    use super::*;

    fn check(file: &str, registry: &str, repository: &str, expect: Option<(&str, &str)>) {
        let credentials =
            Credentials::parse(file.as_bytes(), Path::new("config.json"), HelperEnvironment::default())
                .unwrap();
        let found = credentials.get(registry, repository).unwrap();
        let expect = expect.map(|(username, password)| Credential::Basic {
            username: username.to_owned(),
            password: Secret::new(password),
        });
        assert_eq!(found, expect, "{registry}/{repository}");
    }

    #[test]
    fn keys_of_every_age_are_found() {
        let hub = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}"#;
        check(hub, "docker.io", "library/debian", Some(("u", "p")));
        check(hub, "registry-1.docker.io", "library/debian", Some(("u", "p")));
        check(hub, "ghcr.io", "a/b", None);
        check(
            r#"{"auths":{"docker.io":{"username":"u","password":"p"}}}"#,
            "docker.io",
            "a/b",
            Some(("u", "p")),
        );
        check(
            r#"{"auths":{"https://r.example:5000":{"auth":"dTpw"}}}"#,
            "r.example:5000",
            "a",
            Some(("u", "p")),
        );
        // `u:p:q` without padding.
        check(r#"{"auths":{"r.example":{"auth":"dTpwOnE"}}}"#, "r.example", "a", Some(("u", "p:q")));
        check(r#"{"auths":{"r.example":{}}}"#, "r.example", "a", None);
        check("", "r.example", "a", None);
    }

    #[test]
    fn the_longest_path_wins() {
        let file = r#"{"auths":{
            "r.example":{"username":"all","password":"1"},
            "r.example/team":{"username":"team","password":"2"},
            "r.example/team/app":{"username":"app","password":"3"}}}"#;
        check(file, "r.example", "team/app", Some(("app", "3")));
        check(file, "r.example", "team/other", Some(("team", "2")));
        check(file, "r.example", "teamwork", Some(("all", "1")));
    }

    #[test]
    fn a_malformed_file_is_named_and_not_quoted() {
        let broken = br#"{"auths":{"r.example":{"password":hunter2}}}"#;
        let environment = HelperEnvironment::default();
        let error =
            Credentials::parse(broken, Path::new("config.json"), environment).unwrap_err().to_string();
        assert!(
            error.contains("`config.json` is malformed: line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
