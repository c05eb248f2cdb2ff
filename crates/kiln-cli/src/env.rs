//! The environment: every variable that kiln reads, and the only place that reads them.
//!
//! The whole environment is taken once at the start, as a value; everything else gets this value. A variable
//! that is set to nothing counts as not set, save for `--build-arg NAME`, which passes an empty value on.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Directory of kiln's store; `--store` comes first.
pub(crate) const KILN_STORE: &str = "KILN_STORE";
/// Size that the store is brought down to after a build; `--keep-storage` comes first.
pub(crate) const KILN_KEEP_STORAGE: &str = "KILN_KEEP_STORAGE";
/// Path of the configuration file, in place of the usual two.
pub(crate) const KILN_CONFIG: &str = "KILN_CONFIG";
/// Whether files of contexts have the modes of the umask 022, `true` or `false`; `--cache-ignore-umask` comes first.
pub(crate) const KILN_CACHE_IGNORE_UMASK: &str = "KILN_CACHE_IGNORE_UMASK";
/// File for the trace of a build; `--trace` comes first.
pub(crate) const KILN_TRACE: &str = "KILN_TRACE";
/// The span that a build is a part of, as W3C Trace Context writes it.
pub(crate) const TRACEPARENT: &str = "TRACEPARENT";
/// Seconds since 1970 that times in the image are cut to; `--source-date-epoch` comes first.
pub(crate) const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";
/// Directory with Docker's `config.json`, which holds credentials.
pub(crate) const DOCKER_CONFIG: &str = "DOCKER_CONFIG";
/// Podman's credentials file.
pub(crate) const REGISTRY_AUTH_FILE: &str = "REGISTRY_AUTH_FILE";
/// Proxy for registries that are reached over plain HTTP; not passed on to RUN.
pub(crate) const HTTP_PROXY: &str = "HTTP_PROXY";
/// Proxy for registries that are reached over HTTPS; not passed on to RUN.
pub(crate) const HTTPS_PROXY: &str = "HTTPS_PROXY";
/// Proxy for registries where neither of the two above is set.
pub(crate) const ALL_PROXY: &str = "ALL_PROXY";
/// Hosts that are reached without a proxy.
pub(crate) const NO_PROXY: &str = "NO_PROXY";
/// File of authorities that registries are trusted by, besides those of the system.
pub(crate) const SSL_CERT_FILE: &str = "SSL_CERT_FILE";
/// Turns colour off when set.
pub(crate) const NO_COLOR: &str = "NO_COLOR";
/// Set by CI systems: progress is plain there although some give a terminal.
pub(crate) const CI: &str = "CI";
/// Kind of the terminal; `dumb` has neither colour nor a live view.
pub(crate) const TERM: &str = "TERM";
/// Home directory, for the default places of the store, the configuration and the credentials.
pub(crate) const HOME: &str = "HOME";
/// Where programs keep data, `~/.local/share` by default: the store is in its `kiln`.
pub(crate) const XDG_DATA_HOME: &str = "XDG_DATA_HOME";
/// Where programs keep settings, `~/.config` by default: the configuration is in its `kiln/config.toml`.
pub(crate) const XDG_CONFIG_HOME: &str = "XDG_CONFIG_HOME";
/// Where Podman keeps credentials for the time of a login.
pub(crate) const XDG_RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";

/// Socket of the SSH agent that `--ssh` without a socket means.
pub(crate) const SSH_AUTH_SOCK: &str = "SSH_AUTH_SOCK";

/// Where credential helpers are looked for.
pub(crate) const PATH: &str = "PATH";

/// The variables with what they do, as the help text shows them.
pub(crate) const TABLE: [(&str, &str); 19] = [
    (KILN_STORE, "directory of the store"),
    (KILN_KEEP_STORAGE, "size that the store is brought down to after a build"),
    (KILN_CONFIG, "configuration file, in place of the usual ones"),
    (KILN_CACHE_IGNORE_UMASK, "`true` for --cache-ignore-umask"),
    (KILN_TRACE, "file for the trace of a build, as --trace"),
    (TRACEPARENT, "span that the build is a part of, for a trace of OpenTelemetry"),
    (SOURCE_DATE_EPOCH, "times in the image are cut to this many seconds since 1970"),
    (DOCKER_CONFIG, "directory with Docker's config.json, for credentials"),
    (REGISTRY_AUTH_FILE, "Podman's auth.json, for credentials"),
    (HTTP_PROXY, "proxy for registries over plain HTTP, lower case too"),
    (HTTPS_PROXY, "proxy for registries over HTTPS, lower case too"),
    (ALL_PROXY, "proxy for both, lower case too"),
    (NO_PROXY, "hosts that are reached directly, lower case too"),
    (SSL_CERT_FILE, "authorities to trust besides those of the system"),
    (SSH_AUTH_SOCK, "socket of the agent for `--ssh default`"),
    (NO_COLOR, "no colour"),
    (CI, "plain progress unless --progress says otherwise"),
    (XDG_DATA_HOME, "the store is in its directory kiln"),
    (XDG_CONFIG_HOME, "the configuration file is kiln/config.toml in it"),
];

/// The environment of this process, taken once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Env {
    variables: BTreeMap<OsString, OsString>,
}

impl Env {
    /// Takes the environment of this process.
    pub(crate) fn of_process() -> Self {
        Self { variables: std::env::vars_os().collect() }
    }

    /// Makes an environment of these variables.
    #[cfg(test)]
    pub(crate) fn of<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self { variables: variables.map(|(name, value)| (name.into(), value.into())).into() }
    }

    /// Returns a variable as it stands, even when empty.
    pub(crate) fn raw(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str)
    }

    /// Returns a variable that is set to something.
    pub(crate) fn get(&self, name: &str) -> Option<&OsStr> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    /// Returns a variable as text, with what is no UTF-8 replaced.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// Returns a variable as a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from)
    }

    /// Returns a variable in lower case or, where that is not set, in upper case, as `curl` looks for proxies.
    pub(crate) fn either_case(&self, name: &str) -> Option<String> {
        self.text(&name.to_ascii_lowercase()).or_else(|| self.text(name))
    }

    /// Returns a directory of the XDG specification; a relative one is ignored, as it demands.
    pub(crate) fn xdg(&self, name: &str, below_home: &str) -> Option<PathBuf> {
        let given = self.path(name).filter(|path| path.is_absolute());
        given.or_else(|| self.path(HOME).map(|home| home.join(Path::new(below_home))))
    }

    /// Returns every variable, for programs that kiln starts.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&OsStr, &OsStr)> {
        self.variables.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_variable_is_not_set_but_can_be_passed_on() {
        let env = Env::of([("NO_COLOR", ""), ("http_proxy", "http://p")]);
        assert_eq!(env.get(NO_COLOR), None);
        assert_eq!(env.raw(NO_COLOR), Some(OsStr::new("")));
        assert_eq!(env.either_case(HTTP_PROXY).as_deref(), Some("http://p"));
    }

    #[test]
    fn relative_xdg_directories_are_ignored() {
        let env = Env::of([("HOME", "/home/me"), ("XDG_DATA_HOME", "data")]);
        assert_eq!(env.xdg(XDG_DATA_HOME, ".local/share"), Some(PathBuf::from("/home/me/.local/share")));
    }
}
