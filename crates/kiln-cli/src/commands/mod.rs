//! One file per command: each takes its arguments and ends in an exit code or a failure.

mod build;
mod cache;
mod check;
mod documents;
mod du;
mod explain;
mod history;
mod images;
mod prune;
mod registry;
mod version;

use std::path::PathBuf;

use kiln::Error;
use kiln::sandbox::{BuildNamespace, IdMap};

use crate::args::{RegistryCommand, StoreArgs, Subcommands};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::progress::Terminal;
use crate::settings::{self, Config, Process};

/// Runs a command.
pub(crate) fn run(command: Subcommands, env: &Env, terminal: Terminal) -> Outcome<Exit> {
    match command {
        Subcommands::Build(args) => build::run(&args, env, terminal),
        Subcommands::Check(args) => check::run(&args, env, terminal),
        Subcommands::Explain(args) => explain::run(&args, env),
        Subcommands::History(args) => history::run(&args, env),
        Subcommands::Images(args) => images::list(&args, env),
        Subcommands::Rmi(args) => images::remove(&args, env),
        Subcommands::Prune(args) => prune::run(&args, env),
        Subcommands::Du(args) => du::run(&args, env),
        Subcommands::Cache(command) => cache::run(&command, env),
        Subcommands::Registry(RegistryCommand::Serve(args)) => registry::serve(&args),
        Subcommands::Completions(args) => documents::completions(&args),
        Subcommands::Man(args) => documents::man(&args),
        Subcommands::Version(args) => version::run(&args),
    }
}

/// Enters the user namespace that kiln works in; there must be no second thread yet.
fn enter_namespace() -> Outcome<BuildNamespace> {
    let entered = kiln::sandbox::enter_build_namespace();
    Ok(entered.map_err(|e| {
        let mut error = Error::environment("cannot enter a user namespace to build in");
        error.hints.extend(e.hint.clone());
        error.because(e)
    })?)
}

/// Tells whether this is root of the machine or of the container, and not of a user namespace that kiln made.
fn is_root(namespace: &BuildNamespace) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match namespace.ids {
        IdMap::Host => true,
        // Where no namespace can be had, the user is who started kiln; `/proc/self` belongs to them.
        IdMap::None { .. } => std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0),
        IdMap::Range { .. } | IdMap::Single => false,
    }
}

/// Enters the namespace and returns the directory of the store: what commands on the store begin with.
fn enter_store(args: &StoreArgs, env: &Env) -> Outcome<PathBuf> {
    store_of(args, env, &enter_namespace()?)
}

/// Returns the directory of the store, as it is from within `namespace`.
fn store_of(args: &StoreArgs, env: &Env, namespace: &BuildNamespace) -> Outcome<PathBuf> {
    let config = Config::load(env)?;
    let process = Process { root: is_root(namespace), stdout_terminal: false };
    settings::store(args, env, &config.defaults, process)
}
