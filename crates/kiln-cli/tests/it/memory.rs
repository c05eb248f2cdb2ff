//! Memory stays flat whatever the size of the input.

use std::io::Write as _;
use std::process::Command;

use kiln_remote::server::{Registry, RegistryConfig, Storage};
use kiln_testkit::lane;

use crate::env;

/// Size of the one large file of the context in bytes.
const SIZE: usize = 256 << 20;
/// What kiln may take at its peak, in KiB; each scenario of the benchmark has to stay under it.
const MOST: u64 = 100 << 10;

/// Returns the peak of resident memory in KiB of a run of kiln, which has to succeed.
fn peak(time: &std::path::Path, kiln: &Command) -> u64 {
    let mut command = Command::new(time);
    command.args(["-f", "peak %M"]).arg(kiln.get_program()).args(kiln.get_args());
    command.env_clear().current_dir(kiln.get_current_dir().unwrap());
    command.envs(kiln.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    told.lines().find_map(|l| l.strip_prefix("peak ")?.parse().ok()).unwrap()
}

#[test]
fn a_large_file_is_packed_pushed_and_pulled_in_little_memory() {
    let Some(time) = lane::program("time", "measuring memory") else { return };
    let env = env();
    let storage = Storage::Directory(env.root.join("registry"));
    let registry = Registry::start(RegistryConfig { storage, ..RegistryConfig::default() }).unwrap();
    let name = format!("{}/large:1", registry.host());
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY large /large\n");
    let mut large = std::fs::File::create(env.root.join("ctx/large")).unwrap();
    let mut state = 1_u64;
    let mut block = vec![0; 1 << 20];
    for n in 0..SIZE / block.len() {
        for byte in &mut block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Every other block compresses, as programs do.
            *byte = if n % 2 == 0 { state.to_le_bytes()[7] } else { state.to_le_bytes()[7] & 15 };
        }
        large.write_all(&block).unwrap();
    }
    drop(large);
    let pushed = peak(&time, &env.command(["build", "-t", &name, "--push", "ctx"]));
    assert!(pushed < MOST, "packing and pushing took {pushed} KiB");
    env.kiln(["prune", "--all"]).ok();
    // `/bin/` is a place where the base has to be looked at, so it is pulled and unpacked.
    env.write("child/Dockerfile", format!("FROM {name}\nCOPY Dockerfile /bin/\n"));
    let pulled = peak(&time, &env.command(["build", "-o", "type=oci,dest=out.tar", "child"]));
    assert!(pulled < MOST, "pulling and unpacking took {pulled} KiB");
    // The same file from an archive that ADD unpacks.
    let Some(tar) = lane::program("tar", "memory of ADD") else { return };
    let packed =
        Command::new(tar).args(["-czf", "ctx/a.tgz", "-C", "ctx", "large"]).current_dir(&env.root).status();
    assert!(packed.unwrap().success());
    env.write("ctx/Dockerfile", "FROM scratch\nADD a.tgz /\n");
    let added = peak(&time, &env.command(["build", "-o", "type=oci,dest=added.tar", "ctx"]));
    assert!(added < MOST, "unpacking an archive took {added} KiB");
}
