//! Arguments of `kiln build` about commands: what every RUN gets, in the words of `docker build` and `docker run`.

use clap::Args;
use kiln::remote::proxy::HostPattern;
use kiln::request::ExtraHost;
use kiln::sandbox::{Limit, Swap};

use crate::value::run::{self, Network};
use crate::value::size;

/// What commands get besides what the Dockerfile says.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "RUN")]
pub(crate) struct RunArgs {
    /// Network of a RUN that does not name one [default: default]
    #[arg(long, value_enum, value_name = "MODE")]
    pub(crate) network: Option<Network>,
    /// Host that commands may reach with --network=proxy, such as example.org, example.org:8080 or *.example.org; without
    /// a port, 80 and 443
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',', value_parser = run::host_pattern)]
    pub(crate) allow_host: Vec<HostPattern>,
    /// Line for /etc/hosts, such as `db:10.0.0.5` or `db=[fd00::5]`
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = run::extra_host)]
    pub(crate) add_host: Vec<ExtraHost>,
    /// Limit of each process, such as `nofile=1024:4096`; -1 is unlimited
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = run::ulimit)]
    pub(crate) ulimit: Vec<Limit>,
    /// Size of /dev/shm [default: 64MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub(crate) shm_size: Option<u64>,
    /// Memory of each command
    #[arg(short, long, value_name = "SIZE", value_parser = run::memory)]
    pub(crate) memory: Option<u64>,
    /// Memory and swap together, -1 for all swap there is [default: twice the memory]
    #[arg(long, value_name = "SIZE", value_parser = run::swap, requires = "memory", allow_hyphen_values = true)]
    pub(crate) memory_swap: Option<Swap>,
    /// Processors' time of each command, such as 1.5
    #[arg(long, value_name = "N", value_parser = run::cpus, conflicts_with_all = ["cpu_quota", "cpu_period"])]
    pub(crate) cpus: Option<u64>,
    /// Microseconds of processor time in each period
    #[arg(long, value_name = "MICROSECONDS", value_parser = run::microseconds)]
    pub(crate) cpu_quota: Option<u64>,
    /// Length of a period in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS", value_parser = run::microseconds)]
    pub(crate) cpu_period: Option<u64>,
    /// Weight of each command against others, where 1024 is the usual one
    #[arg(long, value_name = "WEIGHT", value_parser = clap::value_parser!(u64).range(2..=262_144))]
    pub(crate) cpu_shares: Option<u64>,
    /// Processors that commands may run on, such as 0-2,5
    #[arg(long, value_name = "LIST", value_parser = run::cpu_list)]
    pub(crate) cpuset_cpus: Option<String>,
    /// Memory nodes that commands may use, such as 0
    #[arg(long, value_name = "LIST", value_parser = run::cpu_list)]
    pub(crate) cpuset_mems: Option<String>,
    /// Processes and threads of each command at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pids_limit: Option<u64>,
    /// Control group to make those of commands in [default: that of kiln]
    #[arg(long, value_name = "PATH", value_parser = run::cgroup_parent)]
    pub(crate) cgroup_parent: Option<String>,
}
