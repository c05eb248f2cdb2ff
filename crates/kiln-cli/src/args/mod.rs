//! The command line as it is written: one struct per command, with the help that users read.
//!
//! Arguments are parsed here and nothing is decided: what they mean together with the environment and the
//! configuration file is the work of `settings`.

mod build;
mod cache;
mod check;
mod doctor;
mod explain;
mod history;
mod run;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use build::BuildArgs;
pub(crate) use cache::{CacheCommand, CacheExportArgs, CacheImportArgs, CacheLsArgs};
pub(crate) use check::CheckArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use explain::ExplainArgs;
pub(crate) use history::{
    HistoryArgs, HistoryCommand, HistoryLogArgs, HistoryLsArgs, HistoryRmArgs, HistoryShowArgs,
};
pub(crate) use run::RunArgs;
pub(crate) use store::{DuArgs, FsckArgs, PruneArgs, StoreArgs};

use crate::value::ListFormat;
use crate::{env, exit};

/// Builds OCI images from Dockerfiles, without a daemon and without root.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Subcommands,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Look for mistakes in a Dockerfile without building it
    Check(Box<CheckArgs>),
    /// Tell why the steps of a build were not in the cache
    Explain(ExplainArgs),
    /// List the builds of this store, and what they did
    History(HistoryArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Remove images from the store
    Rmi(RmiArgs),
    /// Delete the build cache, all of it or what was used least recently
    Prune(PruneArgs),
    /// Show what takes space in the store
    Du(DuArgs),
    /// Verify the store, and remove what is broken in it
    Fsck(FsckArgs),
    /// Try every isolation that RUN could have here, and tell what the others need
    Doctor(DoctorArgs),
    /// List, export and import the caches of `RUN --mount=type=cache`
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Run a registry on this machine
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Print the completion script of a shell
    Completions(CompletionsArgs),
    /// Print the manual page, or write all pages to a directory
    Man(ManArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Arguments of `kiln images`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln images
  kiln images --format json | jq -r '.[].digest'")]
pub(crate) struct ImagesArgs {
    /// How the list is printed
    #[arg(long, value_enum, default_value = "table", value_name = "FORMAT")]
    pub(crate) format: ListFormat,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// Arguments of `kiln rmi`.
#[derive(Debug, Args)]
#[command(after_help = "What an image needs stays in the cache until `kiln prune`.

Examples:
  kiln rmi app:1.0 app:latest")]
pub(crate) struct RmiArgs {
    /// Names of the images, or digests as `kiln images` lists them
    #[arg(required = true, value_name = "NAME")]
    pub(crate) names: Vec<String>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// The commands of `kiln registry`.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Serve a registry until it is stopped
    Serve(ServeArgs),
}

/// Arguments of `kiln registry serve`.
#[derive(Debug, Args)]
#[command(after_help = "The registry has no passwords and no TLS: it is for this machine and for tests.

Examples:
  kiln registry serve
  kiln registry serve --listen 127.0.0.1:0 --dir /tmp/registry")]
pub(crate) struct ServeArgs {
    /// Address and port; port 0 picks a free one
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Directory for the content; without it, everything is in memory and gone at the end
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments of `kiln completions`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln completions bash > /etc/bash_completion.d/kiln
  kiln completions fish > ~/.config/fish/completions/kiln.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    pub(crate) shell: Shell,
}

/// Arguments of `kiln man`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kiln man | man -l -
  kiln man build | man -l -
  kiln man --dir /usr/share/man/man1")]
pub(crate) struct ManArgs {
    /// Write one page per command to this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    pub(crate) dir: Option<PathBuf>,
    /// The command whose page is printed, such as `build` or `registry serve`
    #[arg(value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

/// Arguments of `kiln version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Print the platform and the codecs too, which decide the bytes of layers
    #[arg(long, short)]
    pub(crate) verbose: bool,
}

/// Returns the command line with its tables of exit codes and variables.
pub(crate) fn command() -> Command {
    let command = Cli::command();
    command.after_help("`kiln COMMAND --help` has examples.").after_long_help(format!(
        "`kiln COMMAND --help` has examples.\n\nExit codes:\n{}\n\nEnvironment:\n{}\n\nConfiguration: \
         /etc/kiln/config.toml, then kiln/config.toml in $XDG_CONFIG_HOME",
        table(&exit::TABLE),
        table(&env::TABLE)
    ))
}

/// Lays out a table of two columns, indented as clap indents its own.
fn table(rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let row = |(name, text): &(&str, &str)| format!("  {name:width$}  {text}");
    rows.iter().map(row).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn parse(arguments: &[&str]) -> Result<Cli, clap::Error> {
        let matches = command().try_get_matches_from([&["kiln"], arguments].concat())?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn every_command_has_a_help_text() {
        fn visit(command: &Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(visit);
        }
        visit(&command());
    }

    #[test]
    fn a_build_takes_what_docker_takes() {
        let cli = parse(&[
            "build",
            "-f",
            "Dockerfile.dev",
            "-t",
            "a",
            "-t",
            "b:1",
            "--build-arg",
            "A=1",
            "--build-arg=B",
            "--target",
            "x",
            "--no-cache",
            "--pull",
            "-o",
            "type=oci,dest=x.tar",
            "-q",
            ".",
        ])
        .unwrap();
        let Subcommands::Build(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.tag.len(), 2);
        assert_eq!(args.build_arg.len(), 2);
        assert_eq!(args.output.len(), 1);
        assert_eq!(args.context, PathBuf::from("."));
        assert!(args.no_cache && args.pull && args.quiet && !args.push);
    }

    #[test]
    fn mistakes_are_usage_errors_that_name_the_option() {
        let check = |arguments: &[&str], expect: &[&str]| {
            let error = parse(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            for part in expect {
                assert!(error.to_string().contains(part), "{error}");
            }
        };
        check(&["biuld", "."], &["unrecognized subcommand 'biuld'", "build"]);
        check(&["build"], &["<CONTEXT>"]);
        check(&["build", "--taget", "x", "."], &["--taget", "--target"]);
        check(&["build", "-o", "type=oic,dest=x", "."], &["--output", "did you mean `oci`?"]);
        check(&["build", "-t", "A B", "."], &["--tag"]);
        check(&["prune", "--older-than", "1"], &["--older-than", "24h"]);
        check(&["prune", "--keep-storage", "much"], &["--keep-storage", "`10GiB`"]);
        check(&["prune", "--filter", "typ=layer"], &["did you mean `type`?", "until, type, id"]);
        check(&["prune", "--filter", "type=snapshots"], &["did you mean `snapshot`?", "cache-mount"]);
        check(&["prune", "--filter", "until"], &["KEY=VALUE"]);
    }
}
