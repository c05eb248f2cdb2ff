//! The command, run as people run it: every test starts the real binary in an environment of its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod build;
mod debian;
mod errors;
mod language;
mod lazy;
mod memory;
mod outputs;
mod registries;
mod reproducible;
mod run;
mod store;

use kiln_testkit::{Person, TestEnv};

/// The program under test.
const KILN: &str = env!("CARGO_BIN_EXE_kiln");

fn env() -> TestEnv {
    TestEnv::new(KILN)
}

fn env_of(person: Person) -> TestEnv {
    TestEnv::of(KILN, person)
}
