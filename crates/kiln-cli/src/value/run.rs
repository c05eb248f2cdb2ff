//! Values of options about commands: `--add-host`, `--ulimit`, `--memory` and their like.

use clap::ValueEnum;
use kiln::remote::proxy::HostPattern;
use kiln::request::{ExtraHost, NetworkChoice};
use kiln::sandbox::{Limit, Resource, Swap};

use super::Parsed;

/// The network of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Network {
    /// The network of the machine
    Default,
    /// The network of the machine; kiln has no other
    Host,
    /// A loopback interface and nothing else
    None,
    /// A loopback interface, and a proxy to the hosts of --allow-host that keeps a record
    Proxy,
}

impl From<Network> for NetworkChoice {
    fn from(network: Network) -> Self {
        match network {
            Network::Default => Self::Default,
            Network::Host => Self::Host,
            Network::None => Self::None,
            Network::Proxy => Self::Proxy,
        }
    }
}

/// Parses a host that the proxy leads to.
pub(crate) fn host_pattern(text: &str) -> Parsed<HostPattern> {
    text.parse().map_err(|error: kiln::remote::proxy::PatternError| error.to_string())
}

/// Parses `NAME:ADDRESS` or `NAME=ADDRESS`, with brackets around an address of IPv6 or without.
pub(crate) fn extra_host(text: &str) -> Parsed<ExtraHost> {
    let expected = "expected NAME:ADDRESS, such as `db:10.0.0.5` or `db=[fd00::5]`";
    let (name, address) =
        text.split_once('=').or_else(|| text.split_once(':')).ok_or_else(|| expected.to_owned())?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(format!("`{name}` is no name of a host; {expected}"));
    }
    if address == "host-gateway" {
        return Err(format!(
            "`host-gateway` is the machine as a container on a bridge sees it, and commands of kiln are on the \
             machine's own network: write `{name}:127.0.0.1`"
        ));
    }
    let bare = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    let address = bare.parse().map_err(|_| format!("`{address}` is no address; {expected}"))?;
    Ok(ExtraHost { name: name.to_owned(), address })
}

/// Parses `NAME=SOFT[:HARD]`, with the names and units of `setrlimit`; -1 is unlimited.
pub(crate) fn ulimit(text: &str) -> Parsed<Limit> {
    let (name, limits) =
        text.split_once('=').ok_or("expected NAME=SOFT[:HARD], such as `nofile=1024:4096`")?;
    let names = Resource::NAMES.map(|(name, _)| name);
    let (_, resource) = Resource::NAMES.into_iter().find(|(known, _)| *known == name).ok_or_else(|| {
        let nearest = kiln::dockerfile::suggest(name, &names);
        let meant = nearest.map_or_else(
            || format!(": it is one of {}", names.join(", ")),
            |near| format!(", did you mean `{near}`?"),
        );
        format!("`{name}` is no limit{meant}")
    })?;
    let number = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        text => text.parse().map(Some).map_err(|_| format!("`{text}` is no number; -1 is unlimited")),
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err("the soft limit is above the hard one".to_owned());
    }
    Ok(Limit { resource, soft, hard })
}

/// Less than this would not hold the sandbox's own first process; Docker has the same bound.
const LEAST_MEMORY: u64 = 6 << 20;

/// Parses an amount of memory that a command can start in.
pub(crate) fn memory(text: &str) -> Parsed<u64> {
    match super::size(text)? {
        size if size < LEAST_MEMORY => Err("less than 6MiB is not enough to start a command".to_owned()),
        size => Ok(size),
    }
}

/// Parses a size, or -1.
pub(crate) fn swap(text: &str) -> Parsed<Swap> {
    if text == "-1" { Ok(Swap::Unlimited) } else { super::size(text).map(Swap::Bytes) }
}

/// Parses a number of processors, such as `1.5`, to microseconds in each tenth of a second.
pub(crate) fn cpus(text: &str) -> Parsed<u64> {
    let expected = || "expected a number of processors from 0.01, such as `1.5`".to_owned();
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("00000".chars()).take(5).collect();
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| expected())? };
    let fraction: u64 = digits.parse().map_err(|_| expected())?;
    let quota = whole.checked_mul(100_000).and_then(|quota| quota.checked_add(fraction));
    quota.filter(|quota| *quota >= LEAST_TIME).ok_or_else(expected)
}

/// The kernel schedules in nothing shorter.
const LEAST_TIME: u64 = 1000;

/// Parses a stretch of processor time.
pub(crate) fn microseconds(text: &str) -> Parsed<u64> {
    text.parse()
        .ok()
        .filter(|time| *time >= LEAST_TIME)
        .ok_or_else(|| "expected microseconds, from 1000".to_owned())
}

/// Parses a list of processors or memory nodes.
pub(crate) fn cpu_list(text: &str) -> Parsed<String> {
    let number = |text: &str| text.parse::<u32>().ok();
    let range = |text: &str| match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)).is_some_and(|(first, last)| first <= last),
        None => number(text).is_some(),
    };
    if text.split(',').all(range) {
        Ok(text.to_owned())
    } else {
        Err("expected a list such as `0-2,5`".to_owned())
    }
}

/// Parses the path of a control group from the root of its hierarchy.
pub(crate) fn cgroup_parent(text: &str) -> Parsed<String> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !text.trim_matches('/').split('/').all(plain) {
        return Err("expected a path from the root of the hierarchy, such as `/ci/builds`".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_addresses_of_both_versions() {
        let check = |text: &str, address: &str| {
            let expect = ExtraHost { name: "db".to_owned(), address: address.parse().unwrap() };
            assert_eq!(extra_host(text), Ok(expect), "{text}");
        };
        check("db:10.0.0.5", "10.0.0.5");
        check("db=10.0.0.5", "10.0.0.5");
        check("db:[fd00::5]", "fd00::5");
        check("db=fd00::5", "fd00::5");
        check("db:fd00::5", "fd00::5");
        let fault = |text: &str, expect: &str| {
            let error = extra_host(text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        fault("db", "NAME:ADDRESS");
        fault("db:10.0.0", "`10.0.0` is no address");
        fault("d b:10.0.0.1", "`d b` is no name");
        fault("host.docker.internal:host-gateway", "write `host.docker.internal:127.0.0.1`");
    }

    #[test]
    fn limits_have_the_names_of_docker() {
        let check = |text: &str, soft: Option<u64>, hard: Option<u64>| {
            assert_eq!(ulimit(text), Ok(Limit { resource: Resource::Nofile, soft, hard }), "{text}");
        };
        check("nofile=1024", Some(1024), Some(1024));
        check("nofile=1024:4096", Some(1024), Some(4096));
        check("nofile=1024:-1", Some(1024), None);
        check("nofile=-1", None, None);
        assert!(ulimit("nofiles=1").unwrap_err().contains("did you mean `nofile`?"));
        assert!(ulimit("xyz=1").unwrap_err().contains("memlock"));
        assert!(ulimit("nofile=2:1").unwrap_err().contains("above the hard one"));
        assert!(ulimit("nofile=-1:1").unwrap_err().contains("above the hard one"));
        assert!(ulimit("nofile").unwrap_err().contains("NAME=SOFT"));
    }

    #[test]
    fn processors_become_a_quota() {
        assert_eq!(cpus("1.5"), Ok(150_000));
        assert_eq!(cpus("2"), Ok(200_000));
        assert_eq!(cpus(".25"), Ok(25_000));
        for text in ["0", "-1", "x", "0.001", "1.x"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn groups_and_lists_are_checked() {
        assert!(cgroup_parent("/ci/builds").is_ok() && cgroup_parent("system.slice").is_ok());
        assert!(cgroup_parent("../x").is_err() && cgroup_parent("/").is_err());
        assert!(cpu_list("0-2,5").is_ok());
        assert!(cpu_list("2-0").is_err() && cpu_list("a").is_err() && cpu_list("").is_err());
        assert!(memory("1m").is_err());
        assert_eq!(memory("64m"), Ok(64 << 20));
        assert_eq!(swap("-1"), Ok(Swap::Unlimited));
    }
}
