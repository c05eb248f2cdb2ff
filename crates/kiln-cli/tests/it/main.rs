//! The command, run as people run it: every test starts the real binary in an environment of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod add;
mod add_git;
mod add_http;
mod build;
mod caches;
mod check;
mod chroot;
mod conformance;
mod context_index;
mod copy;
mod debian;
mod environments;
mod environments_deploy;
mod errors;
mod explain;
mod export;
mod faults;
mod fsck;
mod gc;
mod history;
mod hostile;
mod hostile_archives;
mod hostile_commands;
mod hostile_contexts;
mod hostile_dockerfiles;
mod hostile_packed;
mod hostile_registry;
mod hostile_tar;
mod hostile_ways;
mod hostile_world;
mod isolation;
mod kaniko;
mod keys;
mod language;
mod lazy;
mod link;
mod memory;
mod messages;
mod mounts;
mod outputs;
mod owners;
mod parallel;
mod platforms;
mod proxy;
mod registries;
mod remote_contexts;
mod reproducible;
mod run;
mod run_options;
mod scale;
mod secrets;
mod shared_cache;
mod shared_cache_faults;
mod shared_cache_kinds;
mod store;
mod tools;

use kiln_testkit::{Person, TestEnv};

/// The program under test.
const KILN: &str = env!("CARGO_BIN_EXE_kiln");

fn env() -> TestEnv {
    TestEnv::new(KILN)
}

fn env_of(person: Person) -> TestEnv {
    TestEnv::of(KILN, person)
}
