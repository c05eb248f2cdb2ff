//! Arguments of `kiln build`, in the habit of `docker buildx build`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kiln::oci::{Platform, Reference};
use kiln::request::{CacheExport, CacheSource, Entitlement, EpochChoice, NamedContext};

use super::{RunArgs, StoreArgs};
use crate::value::{
    self, BuildArg, Compression, Isolation, OutputSpec, Print, ProgressMode, RecordFormat, SecretSpec,
    SshSpec,
};

/// Arguments of `kiln build`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Prints the digest of the image to standard output, and what happens to standard error.
Without --output or --push the image is kept in kiln's store (see `kiln images`).

Examples:
  kiln build -t app .
  kiln build -t registry.example/app:1.0 --push .
  kiln build -t app -o type=docker,dest=- . | docker load
  kiln build -o type=oci,dest=app.tar --platform linux/arm64 .
  kiln build --secret id=npmrc,src=$HOME/.npmrc --ssh default .
  kiln build --cache-from registry.example/app:cache --cache-to type=registry,ref=registry.example/app:cache,mode=max .
  kiln build --target test -o ./results .
  kiln build -t app https://git.example/app.git#main
  kiln build -f - . < other.Dockerfile"
)]
pub(crate) struct BuildArgs {
    /// Directory of the build context, a tar file, or `-` for a tar or a Dockerfile on standard input; a git repository
    /// (https://HOST/NAME.git[#REFERENCE[:DIRECTORY]]), or the web address of a tar or a Dockerfile
    #[arg(value_name = "CONTEXT")]
    pub(crate) context: PathBuf,

    /// Dockerfile, or `-` for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE", help_heading = "Input")]
    pub(crate) file: Option<PathBuf>,
    /// Stage to build [default: the last one]
    #[arg(long, value_name = "STAGE", help_heading = "Input")]
    pub(crate) target: Option<String>,
    /// Value for ARG; NAME alone takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = value::build_arg, help_heading = "Input")]
    pub(crate) build_arg: Vec<BuildArg>,
    /// Other files or another base image under a name: a directory, a git repository, a web address,
    /// docker-image://REFERENCE or oci-layout://PATH[:TAG]; NAME::OS/ARCH is for that platform only
    #[arg(long, value_name = "NAME=SOURCE", value_parser = value::build_context, help_heading = "Input")]
    pub(crate) build_context: Vec<(String, NamedContext)>,
    /// Platform of the image [default: that of this machine]
    #[arg(long, value_name = "OS/ARCH", value_parser = value::platform, help_heading = "Input")]
    pub(crate) platform: Option<Platform>,
    /// Secret for `RUN --mount=type=secret`; `id=NAME` alone takes the variable or else the file of that name; with
    /// `cache-key` its value counts for the cache
    #[arg(long, value_name = "id=NAME[,src=FILE|,env=VARIABLE][,cache-key]", value_parser = value::secret, help_heading = "Input")]
    pub(crate) secret: Vec<SecretSpec>,
    /// SSH agent for `RUN --mount=type=ssh` [default socket: that in $SSH_AUTH_SOCK]
    #[arg(long, value_name = "default|ID[=SOCKET[,raw]]", value_parser = value::ssh, help_heading = "Input")]
    pub(crate) ssh: Vec<SshSpec>,
    /// Look base images up in their registry although the store has them
    #[arg(long, help_heading = "Input")]
    pub(crate) pull: bool,

    /// Name of the image
    #[arg(short, long, value_name = "NAME", value_parser = value::tag, help_heading = "Image")]
    pub(crate) tag: Vec<Reference>,
    /// Label of the image
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::label, help_heading = "Image")]
    pub(crate) label: Vec<(String, String)>,
    /// Annotation of the manifest
    #[arg(long, value_name = "KEY=VALUE", value_parser = value::annotation, help_heading = "Image")]
    pub(crate) annotation: Vec<(String, String)>,
    /// Compression of new layers [default: gzip]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Image")]
    pub(crate) compression: Option<Compression>,
    /// Level of the compression: 1 to 9 for gzip and estargz, 1 to 22 for zstd
    #[arg(long, value_name = "LEVEL", help_heading = "Image")]
    pub(crate) compression_level: Option<u8>,
    /// Convert layers of the base image that are compressed in another way
    #[arg(long, help_heading = "Image")]
    pub(crate) force_compression: bool,
    /// Cut times in the image to this many seconds since 1970, for images that are equal bit by bit; or to the time
    /// of `context`, or of the context or stage of that name
    #[arg(long, value_name = "SECONDS", value_parser = value::epoch, allow_negative_numbers = true)]
    #[arg(help_heading = "Image")]
    pub(crate) source_date_epoch: Option<EpochChoice>,

    /// What becomes of the image: type=oci|docker|tar|local with dest=PATH, type=image|registry, or a
    /// directory for the files of the image
    #[arg(short, long, value_name = "OUTPUT", value_parser = value::output, help_heading = "Output")]
    pub(crate) output: Vec<OutputSpec>,
    /// Push the image under every name
    #[arg(long, help_heading = "Output")]
    pub(crate) push: bool,
    /// Write digests and names to this file as JSON
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) metadata_file: Option<PathBuf>,
    /// Write the image id, the digest of the config, to this file
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) iidfile: Option<PathBuf>,
    /// Write where the time went to this file: trace events for https://ui.perfetto.dev, or those of OpenTelemetry if
    /// the name ends in .otlp.json
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) trace: Option<PathBuf>,
    /// How progress is shown [default: auto]
    #[arg(long, value_enum, value_name = "MODE", help_heading = "Output")]
    pub(crate) progress: Option<ProgressMode>,
    /// Show warnings and errors only
    #[arg(short, long, conflicts_with = "progress", help_heading = "Output")]
    pub(crate) quiet: bool,
    /// Print this in place of a build
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Output")]
    pub(crate) print: Option<Print>,
    /// Tell in place of a build which steps the cache has, and why not the others
    #[arg(long, value_enum, value_name = "FORMAT", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "text", conflicts_with_all = ["call", "check", "print"], help_heading = "Output")]
    pub(crate) explain: Option<RecordFormat>,
    /// Look at the Dockerfile in place of a build: check, outline or targets, with `,format=json` if wanted
    #[arg(long, value_name = "METHOD", value_parser = value::call, help_heading = "Output")]
    pub(crate) call: Option<value::Call>,
    /// Short for --call=check
    #[arg(long, conflicts_with = "call", help_heading = "Output")]
    pub(crate) check: bool,

    /// Registry that may be spoken to over plain HTTP or with any certificate
    #[arg(long, value_name = "HOST", value_parser = value::host, help_heading = "Registries")]
    pub(crate) insecure_registry: Vec<String>,
    /// Mirror that is asked first for images of a registry
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = value::mirror, help_heading = "Registries")]
    pub(crate) registry_mirror: Vec<(String, String)>,

    /// Shared cache to read: a name in a registry, or type=registry,ref=NAME, type=local,src=DIR, or
    /// type=repository,ref=NAME
    #[arg(long, value_name = "CACHE", value_parser = value::cache_from, help_heading = "Cache")]
    pub(crate) cache_from: Vec<CacheSource>,
    /// Shared cache to write: a name in a registry, or type=registry,ref=NAME, type=local,dest=DIR, type=inline, or
    /// type=repository,ref=NAME; with `mode=max` every step, not only those whose layers the image has
    #[arg(long, value_name = "CACHE", value_parser = value::cache_to, help_heading = "Cache")]
    pub(crate) cache_to: Vec<CacheExport>,
    /// Do every step anew
    #[arg(long, help_heading = "Cache")]
    pub(crate) no_cache: bool,
    /// Do the steps of this stage anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',', help_heading = "Cache")]
    pub(crate) no_cache_filter: Vec<String>,
    /// Do steps anew whose result in the cache is older than this, such as 24h or 7d
    #[arg(long, value_name = "DURATION", value_parser = value::duration, help_heading = "Cache")]
    pub(crate) cache_ttl: Option<Duration>,
    /// Give files of contexts the modes that a checkout under the umask 022 has, so that everybody's umask gives the same
    /// image and finds the same cache
    #[arg(long, help_heading = "Machine")]
    pub(crate) cache_ignore_umask: bool,
    /// Allow RUN more than usual: security.insecure for `--security=insecure`, network.host for `--network=host` in a build
    /// that has less
    #[arg(long, value_name = "WHAT", value_parser = value::entitlement, help_heading = "Machine")]
    pub(crate) allow: Vec<Entitlement>,
    /// Isolation of RUN [default: auto]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Machine")]
    pub(crate) isolation: Option<Isolation>,
    /// Refuse to run commands with less than this isolation, whatever the machine gives
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Machine")]
    pub(crate) require_isolation: Option<Isolation>,
    /// Run commands in an isolation that lacks a part of its walls too, such as `chroot` on a kernel without Landlock
    #[arg(long, help_heading = "Machine")]
    pub(crate) allow_weak_isolation: bool,
    /// Steps that may run at once [default: four for each processor, at least eight]
    #[arg(long, visible_alias = "max-parallelism", value_name = "N", value_parser = jobs, help_heading = "Machine")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Bytes that one layer of a base image may unpack to [default: 64GiB]
    #[arg(long, value_name = "SIZE", value_parser = value::size, help_heading = "Machine")]
    pub(crate) max_layer_size: Option<u64>,
    /// Layers that a base image may have [default: 400]
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub(crate) max_layers: Option<usize>,
    /// After the build, delete what was used least recently until the store takes no more than this [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = value::size, help_heading = "Machine")]
    pub(crate) keep_storage: Option<u64>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

fn jobs(text: &str) -> value::Parsed<NonZeroUsize> {
    text.parse().map_err(|_| "expected a number from 1".to_owned())
}
