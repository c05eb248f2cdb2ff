//! What commands get: options that say one thing in several ways, put together.

use std::collections::BTreeMap;

use kiln::request::RunOptions;
use kiln::sandbox::{CgroupLimits, Swap};

use crate::args::RunArgs;
use crate::failure::{Failure, Outcome};
use crate::value::run::Network;

/// Returns the options of commands; of two limits with one name the last counts.
pub(super) fn options(args: &RunArgs) -> Outcome<RunOptions> {
    if let (Some(memory), Some(Swap::Bytes(both))) = (args.memory, args.memory_swap)
        && both < memory
    {
        return Err(Failure::usage(
            "`--memory-swap` is less than `--memory`",
            "it is memory and swap together; the same number for both allows no swap",
        ));
    }
    if !args.allow_host.is_empty() && args.network != Some(Network::Proxy) {
        return Err(Failure::usage(
            "`--allow-host` is for `--network=proxy`, and there is none",
            "add `--network=proxy`, so that commands reach these hosts and no others",
        ));
    }
    let ulimits: BTreeMap<_, _> = args.ulimit.iter().map(|limit| (limit.resource, *limit)).collect();
    Ok(RunOptions {
        network: args.network.map(Into::into).unwrap_or_default(),
        allow_hosts: args.allow_host.clone(),
        hosts: args.add_host.clone(),
        ulimits: ulimits.into_values().collect(),
        shm_size: args.shm_size,
        resources: CgroupLimits {
            memory: args.memory,
            memory_swap: args.memory_swap,
            cpu_quota: args.cpu_quota.or(args.cpus),
            cpu_period: args.cpu_period,
            cpu_shares: args.cpu_shares,
            cpuset_cpus: args.cpuset_cpus.clone(),
            cpuset_mems: args.cpuset_mems.clone(),
            pids: args.pids_limit,
            parent: args.cgroup_parent.clone(),
        },
    })
}
