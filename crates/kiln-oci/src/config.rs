//! Image configs: the OCI config with the fields that Docker adds to it.
//!
//! Field order is that of Docker and BuildKit, so that a person who compares two configs sees the same picture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Digest;

/// An image config (OCI `config.md`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Architecture in Go's words.
    #[serde(default)]
    pub architecture: String,
    /// Variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Operating system in Go's words.
    #[serde(default)]
    pub os: String,
    /// Defaults of a container made from the image.
    #[serde(default)]
    pub config: ContainerConfig,
    /// The layers by the digests of their uncompressed tars.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One entry for each instruction, base first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub history: Vec<History>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Defaults of a container (OCI `config.md`, property `config`, and Docker's additions).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// User, `name|uid[:group|gid]`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub user: String,
    /// Ports, `80/tcp` each.
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// Environment, `NAME=value` each.
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "nullable")]
    pub env: Vec<String>,
    /// Entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Arguments of the entry point, or the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// How to see that a container is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker's mark for a command in shell form.
    #[serde(default, skip_serializing_if = "is_default")]
    pub args_escaped: bool,
    /// Mount points for data.
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Value>,
    /// Directory that a container starts in.
    #[serde(default, skip_serializing_if = "is_default")]
    pub working_dir: String,
    /// Instructions for images built from this one.
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "nullable")]
    pub on_build: Vec<String>,
    /// Labels.
    #[serde(default, skip_serializing_if = "is_default", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    /// Signal that stops a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Shell of the shell form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Fields that this version does not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// A health check; durations are nanoseconds, 0 inherits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `NONE`, or `CMD` and arguments, or `CMD-SHELL` and a command line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub interval: u64,
    /// Time after which a check has failed.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeout: u64,
    /// Time in which failures do not count.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_period: u64,
    /// Time between checks in the start period.
    #[serde(default, skip_serializing_if = "is_default")]
    pub start_interval: u64,
    /// Failures in a row that make a container unhealthy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub retries: u64,
}

/// The layers of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// Digests of the uncompressed layer tars, base first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// What one instruction did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Which builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// True when the instruction made no layer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub empty_layer: bool,
}

impl ContainerConfig {
    /// Returns the value of environment variable `name`.
    #[must_use]
    pub fn env_value(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find_map(|entry| entry.split_once('=').filter(|(n, _)| *n == name))
            .map(|(_, value)| value)
    }

    /// Sets environment variable `name`, in place when it exists.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let is_it = |e: &&mut String| e.split_once('=').is_some_and(|(n, _)| n == name);
        match self.env.iter_mut().find(is_it) {
            Some(old) => *old = entry,
            None => self.env.push(entry),
        }
    }
}

fn layers() -> String {
    "layers".to_owned()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Docker writes `null` for an empty list or map.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_fields_nulls_and_unknown_fields_survive() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":["A=1"],"Labels":null,"OnBuild":null,
            "Healthcheck":{"Test":["CMD","x"],"Interval":1000},"Shell":["/bin/bash","-c"],"ArgsEscaped":true,
            "StopTimeout":3},"rootfs":{"type":"layers","diff_ids":[]},"os.version":"1","container":"c"}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let again = serde_json::to_value(&config).unwrap();
        assert_eq!(again["config"]["StopTimeout"], 3);
        assert_eq!(again["config"]["Healthcheck"]["Interval"], 1000);
        assert_eq!(again["config"]["ArgsEscaped"], true);
        assert_eq!(again["os.version"], "1");
        assert!(again["config"].get("Labels").is_none());
    }

    #[test]
    fn environment_is_replaced_in_place() {
        let mut config = ContainerConfig::default();
        config.set_env("A", "1");
        config.set_env("AB", "2");
        config.set_env("A", "3=4");
        assert_eq!(config.env, ["A=3=4", "AB=2"]);
        assert_eq!(config.env_value("A"), Some("3=4"));
    }
}
