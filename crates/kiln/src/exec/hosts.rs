//! `/etc/hosts` of a command.

use crate::graph::Network;
use crate::request::ExtraHost;

/// What a command without the machine's network knows, as in BuildKit.
const LOOPBACK: &[u8] = b"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Returns the file: added hosts first, because the first line with a name counts, then what the machine knows, where
/// the command is on its network, then the name of the sandbox, which `sudo` and others look up.
pub(super) fn file(machine: &[u8], network: Network, hostname: &str, extra: &[ExtraHost]) -> Vec<u8> {
    let mut file: Vec<u8> =
        extra.iter().flat_map(|host| format!("{}\t{}\n", host.address, host.name).into_bytes()).collect();
    match network {
        Network::Host => file.extend_from_slice(machine),
        Network::None | Network::Proxy => file.extend_from_slice(LOOPBACK),
    }
    if !file.is_empty() && !file.ends_with(b"\n") {
        file.push(b'\n');
    }
    let is_known = file.split(|&byte| byte == b'\n').any(|line| {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
        let mut words = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        words.next().is_some() && words.any(|word| word == hostname.as_bytes())
    });
    if !is_known {
        file.extend_from_slice(format!("127.0.0.1\t{hostname}\n").as_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(machine: &str, network: Network, extra: &[(&str, &str)], expect: &str) {
        let extra: Vec<ExtraHost> = extra
            .iter()
            .map(|(name, address)| ExtraHost { name: (*name).to_owned(), address: address.parse().unwrap() })
            .collect();
        let file = file(machine.as_bytes(), network, "builder", &extra);
        assert_eq!(String::from_utf8(file).unwrap(), expect);
    }

    #[test]
    fn added_hosts_come_before_those_of_the_machine() {
        check(
            "127.0.0.1 localhost\n10.0.0.1 db",
            Network::Host,
            &[("db", "10.9.9.9"), ("six", "fd00::1")],
            "10.9.9.9\tdb\nfd00::1\tsix\n127.0.0.1 localhost\n10.0.0.1 db\n127.0.0.1\tbuilder\n",
        );
    }

    #[test]
    fn the_name_of_the_sandbox_is_known_once() {
        check("127.0.0.1 localhost builder # b\n", Network::Host, &[], "127.0.0.1 localhost builder # b\n");
        check("# 1 builder\n", Network::Host, &[], "# 1 builder\n127.0.0.1\tbuilder\n");
        check("", Network::Host, &[("builder", "10.0.0.1")], "10.0.0.1\tbuilder\n");
    }

    #[test]
    fn without_a_network_the_machines_hosts_are_unknown() {
        let expect = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tbuilder\n";
        check("10.0.0.1 db\n", Network::None, &[], expect);
    }
}
