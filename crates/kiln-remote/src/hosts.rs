//! How to reach each registry: mirrors, trust, plain HTTP and proxies, as plain data.
//!
//! [`HostsConfig`] is read from the text of kiln's configuration file or built by hand; nothing here opens a
//! file or reads the environment. A mirror serves pulls only, and is asked under its own name and
//! credentials. Writes always go to the origin.
//!
//! ```toml
//! [registry."docker.io"]
//! mirrors = ["mirror.example:5000", "cache.example/hub"]
//!
//! [registry."127.0.0.1:5000"]
//! insecure = true
//!
//! [registry."registry.example"]
//! ca = "/etc/ssl/registry-ca.pem"
//! client_certificate = "/etc/ssl/me.pem"
//! client_key = "/etc/ssl/me.key"
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// The host that serves `docker.io`.
pub(crate) const DOCKER_HUB: &str = "registry-1.docker.io";

/// Settings for every registry that is not reached in the default way.
#[derive(Debug, Clone, Default)]
pub struct HostsConfig {
    /// Settings by host and port, or by registry name for mirrors.
    pub registry: BTreeMap<String, HostConfig>,
    /// What holds for hosts that have no entry.
    pub default: HostConfig,
    /// Whether loopback hosts may be spoken to over plain HTTP without being marked.
    pub loopback: Loopback,
}

/// Whether a host on this machine may be spoken to over plain HTTP when it does not speak TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Loopback {
    /// As Docker does: what does not leave the machine needs no TLS.
    #[default]
    MayUseHttp,
    /// Loopback hosts are like any other.
    NeedsTls,
}

/// Settings of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HostConfig {
    /// Hosts that are asked first for pulls, in order, each `host[:port][/path]`.
    pub mirrors: Vec<String>,
    /// Accept any certificate, and plain HTTP where the host does not speak TLS.
    pub insecure: bool,
    /// Accept any certificate, but no plain HTTP.
    pub skip_tls_verify: bool,
    /// Speak plain HTTP without trying TLS first.
    pub plain_http: bool,
    /// PEM file of authorities to trust besides the usual ones.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate chain that this client shows.
    pub client_certificate: Option<PathBuf>,
    /// PEM file of the key that belongs to it.
    pub client_key: Option<PathBuf>,
}

/// Says why a configuration file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostsError {
    /// The text is not TOML of the documented form.
    #[error("configuration is malformed: {0}")]
    Toml(String),
    /// An entry names no host.
    #[error("`{0}` is not a registry or mirror: expected `host[:port][/path]`, without scheme")]
    Name(String),
}

/// A configuration file, with the part that belongs to somebody else.
#[derive(Debug, Clone, Default)]
pub struct ConfigFile {
    /// The registries.
    pub hosts: HostsConfig,
    /// The `[defaults]` table as it stands.
    pub defaults: toml::Table,
}

impl HostsConfig {
    /// Reads kiln's configuration file; `[defaults]` is handed back as it stands.
    ///
    /// # Errors
    /// When the text is not TOML, has unknown tables or keys, or names something that is no host.
    pub fn parse_toml(text: &str) -> Result<ConfigFile, HostsError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(default)]
            registry: BTreeMap<String, HostConfig>,
            #[serde(default)]
            defaults: toml::Table,
        }
        let file: File =
            toml::from_str(text).map_err(|e| HostsError::Toml(e.to_string().trim().to_owned()))?;
        let mut hosts = Self::default();
        for (name, config) in file.registry {
            if name.contains('/') {
                return Err(HostsError::Name(name));
            }
            check_name(&name)?;
            config.mirrors.iter().try_for_each(|mirror| check_name(mirror))?;
            hosts.registry.insert(canonical(&name).to_owned(), config);
        }
        Ok(ConfigFile { hosts, defaults: file.defaults })
    }

    /// Returns the settings of `host`, creating them from the default ones.
    pub fn host_mut(&mut self, host: &str) -> &mut HostConfig {
        let default = self.default.clone();
        self.registry.entry(canonical(host).to_owned()).or_insert(default)
    }

    pub(crate) fn get(&self, host: &str) -> &HostConfig {
        let host = if host == DOCKER_HUB { kiln_oci::DEFAULT_REGISTRY } else { host };
        self.registry.get(host).unwrap_or(&self.default)
    }

    /// Returns how `host` may be spoken to.
    pub(crate) fn transport(&self, host: &str) -> Transport {
        let config = self.get(host);
        if config.plain_http {
            Transport::Http
        } else if config.insecure || (self.loopback == Loopback::MayUseHttp && is_loopback(host)) {
            Transport::HttpsOrHttp
        } else {
            Transport::Https
        }
    }

    /// Returns the hosts to ask for content of `registry`: its mirrors, then itself.
    pub(crate) fn endpoints(&self, registry: &str) -> Vec<Endpoint> {
        let mirrors = self.get(registry).mirrors.iter().map(|mirror| Endpoint::mirror(mirror));
        mirrors.chain([Endpoint::origin(registry)]).collect()
    }
}

/// How a host may be spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    Https,
    HttpsOrHttp,
    Http,
}

/// One place that serves a registry's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) host: String,
    /// What stands before the repository in paths, with its slash.
    pub(crate) prefix: String,
    pub(crate) role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Mirror,
    Origin,
}

impl Endpoint {
    pub(crate) fn origin(registry: &str) -> Self {
        let host = if registry == kiln_oci::DEFAULT_REGISTRY { DOCKER_HUB } else { registry };
        Self { host: host.to_owned(), prefix: String::new(), role: Role::Origin }
    }

    fn mirror(text: &str) -> Self {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        // A mirror written as `docker.io` means the host that serves it.
        Self { prefix, role: Role::Mirror, ..Self::origin(canonical(host)) }
    }
}

fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | DOCKER_HUB => kiln_oci::DEFAULT_REGISTRY,
        host => host,
    }
}

fn check_name(name: &str) -> Result<(), HostsError> {
    let host = name.split('/').next().unwrap_or_default();
    let valid = format!("{host}/x").parse::<kiln_oci::Reference>();
    let local = !host.contains(['.', ':']) && !host.is_empty();
    match valid {
        Ok(reference) if reference.registry() == canonical(host) || local => Ok(()),
        _ => Err(HostsError::Name(name.to_owned())),
    }
}

/// Returns the host without its port and brackets.
pub(crate) fn host_name(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    host.split(':').next().unwrap_or(host)
}

pub(crate) fn is_loopback(host: &str) -> bool {
    let name = host_name(host);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Proxies, as the caller found them in the environment.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// URL of the proxy for plain HTTP hosts.
    pub http: Option<String>,
    /// URL of the proxy for HTTPS hosts.
    pub https: Option<String>,
    /// Hosts, domains (`.example`), addresses and networks (`10.0.0.0/8`) that are reached directly, by commas.
    pub no_proxy: String,
}

impl std::fmt::Debug for ProxyConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |url: &Option<String>| url.as_deref().map(crate::redact_url);
        f.debug_struct("ProxyConfig")
            .field("http", &shown(&self.http))
            .field("https", &shown(&self.https))
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

impl ProxyConfig {
    /// Returns the proxy for a host; loopback hosts never have one.
    pub(crate) fn proxy_for(&self, scheme: &str, host: &str) -> Option<&str> {
        let proxy = if scheme == "https" { &self.https } else { &self.http };
        let proxy = proxy.as_deref().filter(|url| !url.is_empty())?;
        (!is_loopback(host) && !self.bypasses(host)).then_some(proxy)
    }

    fn bypasses(&self, host: &str) -> bool {
        let name = host_name(host).to_ascii_lowercase();
        let address = name.parse::<IpAddr>().ok();
        self.no_proxy.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty()).any(|entry| {
            let entry = entry.to_ascii_lowercase();
            if entry == "*" || entry == host {
                return true;
            }
            if let Some((network, bits)) = entry.split_once('/') {
                return address.is_some_and(|address| in_network(address, network, bits));
            }
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            name == host_name(domain) && (!domain.contains(':') || domain == host || address.is_some())
                || name.ends_with(&format!(".{domain}"))
        })
    }
}

fn in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else { return false };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let shift = 32_u32.saturating_sub(bits);
            a.to_bits().checked_shr(shift) == n.to_bits().checked_shr(shift)
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let shift = 128_u32.saturating_sub(bits);
            a.to_bits().checked_shr(shift) == n.to_bits().checked_shr(shift)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_sets_mirrors_and_trust_and_passes_defaults_on() {
        let file = HostsConfig::parse_toml(
            "[registry.\"docker.io\"]\nmirrors = [\"mirror.example:5000\", \"cache.example/hub\"]\n\
             [registry.\"10.0.0.1:5000\"]\ninsecure = true\n[defaults]\ncompression = \"zstd\"\n",
        )
        .unwrap();
        let hosts: Vec<String> =
            file.hosts.endpoints("docker.io").iter().map(|e| format!("{} {}", e.host, e.prefix)).collect();
        assert_eq!(hosts, ["mirror.example:5000 ", "cache.example hub/", "registry-1.docker.io "]);
        assert_eq!(file.hosts.transport("10.0.0.1:5000"), Transport::HttpsOrHttp);
        assert_eq!(file.hosts.transport("10.0.0.2:5000"), Transport::Https);
        assert_eq!(file.hosts.transport("127.0.0.1:1"), Transport::HttpsOrHttp);
        assert_eq!(file.defaults["compression"].as_str(), Some("zstd"));
    }

    #[test]
    fn mistakes_in_the_file_are_named() {
        let check = |text: &str, expect: &str| {
            let error = HostsConfig::parse_toml(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check("[registry.\"docker.io\"]\nmirror = []", "mirror");
        check("[registry.\"a.example\"]\nmirrors = [\"https://m.example\"]", "https://m.example");
        check("[registry.\"a.example/b\"]", "a.example/b");
        check("[registries]", "registries");
    }

    #[test]
    fn proxies_leave_loopback_and_named_hosts_alone() {
        let proxy = ProxyConfig {
            http: None,
            https: Some("http://u:p@proxy:3128".to_owned()),
            no_proxy: "internal.example,.corp, 10.0.0.0/8".to_owned(),
        };
        let check = |host: &str, expect: bool| {
            assert_eq!(proxy.proxy_for("https", host).is_some(), expect, "{host}");
        };
        check("registry.example", true);
        check("internal.example:5000", false);
        check("a.corp", false);
        check("10.1.2.3:5000", false);
        check("11.1.2.3", true);
        check("localhost:5000", false);
        assert_eq!(proxy.proxy_for("http", "registry.example"), None);
        assert!(!format!("{proxy:?}").contains("u:p"));
    }
}
