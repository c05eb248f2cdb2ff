//! `cargo xtask example`: one real build with nothing but a Rust toolchain.
//!
//! ```text
//! this machine's sh, sed, cat … ─► base, an OCI layout ─┐
//! examples/hello ───────────────────────────────────────┴─► kiln build ─► hello, an OCI layout
//! ```
//!
//! Everything lies in `example/` of the target directory. The store is emptied at the end: files of an image may
//! belong to ids that only a user namespace can delete, and `cargo clean` is in none.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Outcome, cargo};

/// kiln's exit code when a machine cannot isolate commands.
const NO_SANDBOX: i32 = 4;

/// The programs of one run of the example.
#[derive(Debug)]
pub(crate) struct Programs {
    /// kiln itself.
    pub(crate) kiln: PathBuf,
    /// `kiln-host-base`, which makes the base image.
    pub(crate) base: PathBuf,
}

/// How a run of the example ended without a failure of kiln.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ran {
    /// The image was built; this is its digest.
    Built(String),
    /// This machine cannot isolate commands; kiln has said why and what would help.
    NoSandbox,
}

/// Builds kiln, runs the example and tells what there is to look at.
pub(crate) fn run() -> Outcome {
    let release = cargo::target_dir()?.join("release");
    cargo::run(&mut cargo::cargo(["build", "--release", "-p", "kiln-cli", "-p", "kiln-testkit"])?)?;
    let programs = Programs { kiln: release.join("kiln"), base: release.join("kiln-host-base") };
    match build(&programs)? {
        Ran::Built(digest) => tell(&programs, &digest),
        Ran::NoSandbox => {
            Err("the example has RUN steps, and this machine cannot isolate them; see above for what \
             would help, and docs/rootless.md for why"
                .to_owned())
        }
    }
}

/// Makes the base and builds the example twice, the second time without the cache.
pub(crate) fn build(programs: &Programs) -> Outcome<Ran> {
    let dir = cargo::target_dir()?.join("example");
    empty_store(programs, &dir);
    for old in ["base", "hello", "again"] {
        remove(&dir.join(old))?;
    }
    std::fs::create_dir_all(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    cargo::run(Command::new(&programs.base).arg("base").current_dir(&dir))?;
    let built = kiln_build(programs, &dir, &["-o", "type=oci,dest=hello,tar=false"]);
    let again = match &built {
        Ok(Ran::Built(_)) => {
            Some(kiln_build(programs, &dir, &["-o", "type=oci,dest=again,tar=false", "--no-cache"]))
        }
        _ => None,
    };
    empty_store(programs, &dir);
    let built = built?;
    if let Some(again) = again
        && again? != built
    {
        return Err("the second build gave another digest: a mistake in kiln".to_owned());
    }
    remove(&dir.join("again"))?;
    Ok(built)
}

fn kiln_build(programs: &Programs, dir: &Path, options: &[&str]) -> Outcome<Ran> {
    let mut command = Command::new(&programs.kiln);
    command
        .args(["build", "--store", "store", "--build-context", "base=oci-layout://base", "-t", "hello:1"])
        .args(options)
        .arg(cargo::root().join("examples/hello"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit());
    eprintln!("$ cd {} && kiln {}", dir.display(), words(&command));
    let output = command.output().map_err(|e| format!("cannot run {}: {e}", programs.kiln.display()))?;
    match output.status.code() {
        Some(0) => Ok(Ran::Built(String::from_utf8_lossy(&output.stdout).trim().to_owned())),
        Some(NO_SANDBOX) => Ok(Ran::NoSandbox),
        _ => Err(format!("`kiln build` failed ({})", output.status)),
    }
}

fn words(command: &Command) -> String {
    command.get_args().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Deletes the images and the cache of the example's store.
fn empty_store(programs: &Programs, dir: &Path) {
    if dir.join("store").exists() {
        // What stays behind costs space and harms nothing.
        cargo::succeeds(
            Command::new(&programs.kiln).args(["prune", "--all", "--store", "store"]).current_dir(dir),
        );
    }
}

fn remove(dir: &Path) -> Outcome {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {e}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn tell(programs: &Programs, digest: &str) -> Outcome {
    let hello = cargo::target_dir()?.join("example/hello");
    let hello = hello.display();
    println!(
        "
Built twice, the second time without the cache, and both gave {digest}.

The image is an OCI layout in {hello}.
Look at it with any of these:

  skopeo inspect oci:{hello}
  podman run --rm oci:{hello}
  cat {hello}/index.json

The Dockerfile is examples/hello/Dockerfile. Build one of your own with

  {} build -t NAME DIRECTORY",
        programs.kiln.display()
    );
    Ok(())
}
