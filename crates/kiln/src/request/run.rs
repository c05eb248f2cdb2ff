//! What every RUN of a build gets besides what the Dockerfile says: network, hosts, limits.

use std::net::IpAddr;

use kiln_remote::proxy::HostPattern;
use kiln_sandbox::{CgroupLimits, Limit};
use serde::{Serialize, Serializer};

/// Options of all commands of a build; the default is what Docker gives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RunOptions {
    /// The network of a RUN that names none, or `default`.
    pub network: NetworkChoice,
    /// Hosts that a command may reach through the proxy.
    #[serde(serialize_with = "texts")]
    pub allow_hosts: Vec<HostPattern>,
    /// Lines for `/etc/hosts`, in the order in which they were given.
    pub hosts: Vec<ExtraHost>,
    /// Limits of each process, in the order of their resources.
    pub ulimits: Vec<Limit>,
    /// Size of `/dev/shm` in bytes; absent: 64 MiB.
    pub shm_size: Option<u64>,
    /// Limits of each command with all that it starts. They decide whether a command succeeds and not what it makes, so
    /// they count for no cache.
    pub resources: CgroupLimits,
}

fn texts<S: Serializer>(patterns: &[HostPattern], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(patterns.iter().map(ToString::to_string))
}

/// The network of commands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkChoice {
    /// That of the machine, and any RUN may say so or ask for none.
    #[default]
    Default,
    /// That of the machine, as above: kiln has no other.
    Host,
    /// A loopback interface. A RUN that asks for the machine's needs the entitlement `network.host`.
    None,
    /// A loopback interface with a proxy that leads to allowed hosts and keeps a record; otherwise as above.
    Proxy,
}

/// A name that commands can look up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExtraHost {
    /// The name.
    pub name: String,
    /// Its address. It counts for no cache, only the name does, as in BuildKit.
    pub address: IpAddr,
}
