//! The configuration file: registries in the words of `kiln-remote`, and defaults for options.
//!
//! ```toml
//! [defaults]
//! store = "/cache/kiln"
//! keep-storage = "20GiB"
//! compression = "zstd"
//! compression-level = 3
//! isolation = "auto"
//! require-isolation = "userns"
//! jobs = 4
//! cache-ignore-umask = true
//! progress = "plain"
//!
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000"]
//! ```
//!
//! `/etc/kiln/config.toml` is read first, then `$XDG_CONFIG_HOME/kiln/config.toml`, whose entries replace those
//! of the same name. `KILN_CONFIG` names one file in place of both, and that one has to exist.

use std::io::ErrorKind;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use kiln::remote::HostsConfig;
use serde::{Deserialize, Deserializer};

use super::unreadable;
use crate::env::{self, Env};
use crate::failure::Outcome;
use crate::value::{self, Compression, Isolation, ProgressMode};

/// Settings for every user of the machine.
const SYSTEM: &str = "/etc/kiln/config.toml";

/// The configuration of this machine and this user.
#[derive(Debug, Default)]
pub(crate) struct Config {
    /// How registries are reached.
    pub(crate) hosts: HostsConfig,
    /// Defaults for options.
    pub(crate) defaults: Defaults,
}

/// Defaults for options that are not given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Defaults {
    /// For `--store`.
    pub(crate) store: Option<PathBuf>,
    /// For `--keep-storage`.
    #[serde(deserialize_with = "size")]
    pub(crate) keep_storage: Option<u64>,
    /// For `--compression`.
    #[serde(deserialize_with = "choice")]
    pub(crate) compression: Option<Compression>,
    /// For `--compression-level`, with the compression above.
    pub(crate) compression_level: Option<u8>,
    /// For `--isolation`.
    #[serde(deserialize_with = "choice")]
    pub(crate) isolation: Option<Isolation>,
    /// For `--require-isolation`; no file and no option makes it weaker.
    #[serde(deserialize_with = "choice")]
    pub(crate) require_isolation: Option<Isolation>,
    /// For `--jobs`.
    pub(crate) jobs: Option<NonZeroUsize>,
    /// For `--cache-ignore-umask`.
    pub(crate) cache_ignore_umask: Option<bool>,
    /// For `--progress`.
    #[serde(deserialize_with = "choice")]
    pub(crate) progress: Option<ProgressMode>,
}

/// Reads one of the words that the option of the same name takes.
fn choice<'de, D: Deserializer<'de>, T: ValueEnum>(deserializer: D) -> Result<Option<T>, D::Error> {
    let word = String::deserialize(deserializer)?;
    T::from_str(&word, false).map(Some).map_err(|_| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|v| Some(v.to_possible_value()?.get_name().to_owned()))
            .collect();
        serde::de::Error::custom(format!("`{word}` is not one of {}", known.join(", ")))
    })
}

/// Reads a size in the words of the option.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let word = String::deserialize(deserializer)?;
    value::size(&word)
        .map(Some)
        .map_err(|why| serde::de::Error::custom(format!("`{word}` is no size: {why}")))
}

impl Config {
    /// Reads the configuration files of this machine.
    pub(crate) fn load(env: &Env) -> Outcome<Self> {
        let mut config = Self::default();
        if let Some(path) = env.path(env::KILN_CONFIG) {
            let text = std::fs::read_to_string(&path).map_err(|e| unreadable(&path, e))?;
            config.add(&text, &path)?;
            return Ok(config);
        }
        let user = env.xdg(env::XDG_CONFIG_HOME, ".config").map(|dir| dir.join("kiln/config.toml"));
        for path in [Some(PathBuf::from(SYSTEM)), user].into_iter().flatten() {
            match std::fs::read_to_string(&path) {
                Ok(text) => config.add(&text, &path)?,
                Err(e) if is_absence(e.kind()) => {}
                Err(e) => return Err(unreadable(&path, e)),
            }
        }
        Ok(config)
    }

    /// Adds the text of a file; what it says replaces what was said before.
    pub(crate) fn add(&mut self, text: &str, path: &Path) -> Outcome<()> {
        let file = HostsConfig::parse_toml(text).map_err(|e| unreadable(path, e))?;
        self.hosts.registry.extend(file.hosts.registry);
        let new: Defaults =
            file.defaults.try_into().map_err(|e| unreadable(path, format!("`[defaults]`: {e}")))?;
        let old = std::mem::take(&mut self.defaults);
        // A level without a kind belongs to the kind that is in force; a new kind drops the old level.
        let level = if new.compression.is_some() { None } else { old.compression_level };
        self.defaults = Defaults {
            store: new.store.or(old.store),
            keep_storage: new.keep_storage.or(old.keep_storage),
            compression: new.compression.or(old.compression),
            compression_level: new.compression_level.or(level),
            isolation: new.isolation.or(old.isolation),
            require_isolation: Isolation::stronger(new.require_isolation, old.require_isolation),
            jobs: new.jobs.or(old.jobs),
            cache_ignore_umask: new.cache_ignore_umask.or(old.cache_ignore_umask),
            progress: new.progress.or(old.progress),
        };
        Ok(())
    }
}

/// A home that is a file (`/dev/null` in some containers) or that may not be entered has no settings.
fn is_absence(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied)
}
