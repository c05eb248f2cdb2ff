//! Arguments of `kiln check`.

use std::path::PathBuf;

use clap::Args;
use kiln::oci::Platform;
use kiln::request::NamedContext;

use super::{BuildArgs, StoreArgs};
use crate::value::{self, BuildArg, CheckFormat};

/// Arguments of `kiln check`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Prints what it finds to standard output and exits with 1 when that is anything. Builds nothing; of base
images, only manifests and configs are fetched.

`# check=skip=RULE` at the top of the file, or above an instruction, leaves a rule out.

Examples:
  kiln check
  kiln check --fix .
  kiln check --explain UndefinedVar
  kiln check --offline -f app.Dockerfile .
  kiln check --format sarif . > check.sarif"
)]
pub(crate) struct CheckArgs {
    /// Directory of the build context, a tar file, or `-` for a tar or a Dockerfile on standard input
    #[arg(value_name = "CONTEXT", default_value = ".")]
    pub(crate) context: PathBuf,

    /// Dockerfile, or `-` for standard input [default: Dockerfile in the context]
    #[arg(short, long, value_name = "FILE", help_heading = "Input")]
    pub(crate) file: Option<PathBuf>,
    /// Look only into what this stage needs [default: every stage]
    #[arg(long, value_name = "STAGE", help_heading = "Input")]
    pub(crate) target: Option<String>,
    /// Value for ARG; NAME alone takes it from the environment
    #[arg(long, value_name = "NAME[=VALUE]", value_parser = value::build_arg, help_heading = "Input")]
    pub(crate) build_arg: Vec<BuildArg>,
    /// Other files or another base image under a name, as for `kiln build`
    #[arg(long, value_name = "NAME=SOURCE", value_parser = value::build_context, help_heading = "Input")]
    pub(crate) build_context: Vec<(String, NamedContext)>,
    /// Platform of the image [default: that of this machine]
    #[arg(long, value_name = "OS/ARCH", value_parser = value::platform, help_heading = "Input")]
    pub(crate) platform: Option<Platform>,

    /// How findings are printed
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT", help_heading = "Output")]
    pub(crate) format: CheckFormat,
    /// Change the Dockerfile where that needs no thought, and print what is left
    #[arg(long, help_heading = "Output")]
    pub(crate) fix: bool,
    /// Print what a rule is about, and nothing else
    #[arg(long, value_name = "RULE", help_heading = "Rules", conflicts_with_all = ["fix", "format"])]
    pub(crate) explain: Option<String>,
    /// Find base images that are not named by digest too
    #[arg(long, help_heading = "Rules")]
    pub(crate) locked: bool,
    /// Ask no registry, and leave out what depends on base images
    #[arg(long, help_heading = "Registries")]
    pub(crate) offline: bool,
    /// Registry that may be spoken to over plain HTTP or with any certificate
    #[arg(long, value_name = "HOST", value_parser = value::host, help_heading = "Registries")]
    pub(crate) insecure_registry: Vec<String>,
    /// Mirror that is asked first for images of a registry
    #[arg(long, value_name = "REGISTRY=MIRROR", value_parser = value::mirror, help_heading = "Registries")]
    pub(crate) registry_mirror: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

impl CheckArgs {
    /// Returns the build that is looked at.
    pub(crate) fn build(&self) -> BuildArgs {
        BuildArgs {
            context: self.context.clone(),
            file: self.file.clone(),
            target: self.target.clone(),
            build_arg: self.build_arg.clone(),
            build_context: self.build_context.clone(),
            platform: self.platform.clone(),
            insecure_registry: self.insecure_registry.clone(),
            registry_mirror: self.registry_mirror.clone(),
            store: self.store.clone(),
            ..BuildArgs::default()
        }
    }
}
