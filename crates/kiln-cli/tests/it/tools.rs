//! Programs of the host, for steps that need more than the base image has.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use kiln_testkit::{TestEnv, lane};

/// Puts a program of the host and its libraries into `ctx/tools`, for `COPY tools /`; says so where it is missing.
pub(crate) fn tool(env: &TestEnv, name: &str, what: &str) -> Option<()> {
    let program = lane::program(name, what)?;
    let output = Command::new("ldd").arg(&program).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        executable(env, &format!("ctx/tools{library}"), Path::new(library));
    }
    executable(env, &format!("ctx/tools/bin/{name}"), &program);
    Some(())
}

/// Copies a program or library of the host.
pub(crate) fn executable(env: &TestEnv, to: &str, from: &Path) {
    let copy = env.write(to, std::fs::read(from).unwrap());
    std::fs::set_permissions(copy, std::fs::Permissions::from_mode(0o755)).unwrap();
}
