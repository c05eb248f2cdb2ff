//! One file per command: each takes its arguments and ends in an exit code or a failure.

mod build;
mod cache;
mod check;
mod doctor;
mod documents;
mod du;
mod explain;
mod fsck;
mod history;
mod images;
mod prune;
mod registry;
mod version;

use std::path::PathBuf;

use kiln::Error;
use kiln::sandbox::{BuildNamespace, Requested};

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
        Subcommands::Fsck(args) => fsck::run(&args, env),
        Subcommands::Doctor(args) => doctor::run(&args, env),
        Subcommands::Cache(command) => cache::run(&command, env),
        Subcommands::Registry(RegistryCommand::Serve(args)) => registry::serve(&args),
        Subcommands::Completions(args) => documents::completions(&args),
        Subcommands::Man(args) => documents::man(&args),
        Subcommands::Version(args) => version::run(&args),
    }
}

/// Enters the user namespace that kiln works in; there must be no second thread yet.
fn enter_namespace(isolation: Requested) -> Outcome<BuildNamespace> {
    let entered = kiln::sandbox::enter_build_namespace(isolation);
    Ok(entered.map_err(|e| {
        let mut error = Error::environment("cannot enter a user namespace to build in");
        error.hints.extend(e.hint.clone());
        error.because(e)
    })?)
}

/// Enters the namespace and returns the directory of the store: what commands on the store begin with.
fn enter_store(args: &StoreArgs, env: &Env) -> Outcome<PathBuf> {
    store_of(args, env, &enter_namespace(Requested::Auto)?)
}

/// Returns the directory of the store, as it is from within `namespace`.
fn store_of(args: &StoreArgs, env: &Env, namespace: &BuildNamespace) -> Outcome<PathBuf> {
    let config = Config::load(env)?;
    let process = Process { root: namespace.is_root, stdout_terminal: false };
    settings::store(args, env, &config.defaults, process)
}
