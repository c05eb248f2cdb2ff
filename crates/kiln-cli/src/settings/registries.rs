//! How registries are reached: hosts, proxies and the places where credentials are found.

use std::path::PathBuf;
use std::sync::Arc;

use kiln::Error;
use kiln::oci::Reference;
use kiln::remote::{ClientConfig, Credentials, HelperEnvironment, HostsConfig, ProxyConfig, Roots};

use super::Config;
use crate::args::BuildArgs;
use crate::env::{self, Env};
use crate::failure::Outcome;

/// What a client of registries is made from; no file of credentials was read yet.
#[derive(Debug)]
pub(crate) struct Registries {
    /// How to reach each host.
    pub(crate) hosts: HostsConfig,
    /// Proxies of the environment.
    pub(crate) proxy: ProxyConfig,
    /// Files with credentials, in the order in which they are asked.
    pub(crate) credential_files: Vec<PathBuf>,
    /// What credential helpers see.
    pub(crate) helpers: HelperEnvironment,
    /// File of authorities to trust besides the usual ones.
    pub(crate) authorities: Option<PathBuf>,
}

impl Registries {
    /// Puts the options on top of the configuration.
    pub(crate) fn resolve(args: &BuildArgs, tags: &[Reference], env: &Env, config: &Config) -> Self {
        let mut hosts = config.hosts.clone();
        // Mirrors of the command line are asked before those of the configuration, in their order.
        for (registry, mirror) in args.registry_mirror.iter().rev() {
            hosts.host_mut(registry).mirrors.insert(0, mirror.clone());
        }
        for host in &args.insecure_registry {
            hosts.host_mut(host).insecure = true;
        }
        if args.output.iter().any(|output| output.insecure) {
            for tag in tags {
                hosts.host_mut(tag.registry()).insecure = true;
            }
        }
        Self {
            hosts,
            proxy: proxy(env),
            credential_files: credential_files(env),
            helpers: helpers(env),
            authorities: env.path(env::SSL_CERT_FILE),
        }
    }

    /// Reads the credentials and returns the configuration of a client.
    pub(crate) fn client_config(&self) -> Outcome<ClientConfig> {
        let credentials = Credentials::load(&self.credential_files, self.helpers.clone()).map_err(|e| {
            Error::input("cannot use the credentials for registries")
                .because(e)
                .hint("repair the file, or write it anew with `docker login` or `podman login`")
        })?;
        Ok(ClientConfig {
            hosts: self.hosts.clone(),
            credentials: Arc::new(credentials),
            proxy: self.proxy.clone(),
            roots: Roots { files: self.authorities.iter().cloned().collect(), ..Roots::default() },
            ..ClientConfig::default()
        })
    }
}

fn proxy(env: &Env) -> ProxyConfig {
    let all = env.either_case(env::ALL_PROXY);
    ProxyConfig {
        http: env.either_case(env::HTTP_PROXY).or_else(|| all.clone()),
        https: env.either_case(env::HTTPS_PROXY).or(all),
        no_proxy: env.either_case(env::NO_PROXY).unwrap_or_default(),
    }
}

/// Returns the files of Docker and Podman: what a variable names comes before what is found in the usual places.
fn credential_files(env: &Env) -> Vec<PathBuf> {
    let named =
        [env.path(env::REGISTRY_AUTH_FILE), env.path(env::DOCKER_CONFIG).map(|dir| dir.join("config.json"))];
    let usual = [
        env.path(env::HOME).map(|home| home.join(".docker/config.json")),
        env.path(env::XDG_RUNTIME_DIR).map(|dir| dir.join("containers/auth.json")),
        env.xdg(env::XDG_CONFIG_HOME, ".config").map(|dir| dir.join("containers/auth.json")),
    ];
    let docker_named = env.get(env::DOCKER_CONFIG).is_some();
    // DOCKER_CONFIG stands in for `~/.docker`, it does not come on top.
    let usual = usual.into_iter().skip(usize::from(docker_named));
    named.into_iter().chain(usual).flatten().collect()
}

fn helpers(env: &Env) -> HelperEnvironment {
    HelperEnvironment {
        path: env.raw(env::PATH).unwrap_or_default().to_owned(),
        variables: env.all().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    }
}
