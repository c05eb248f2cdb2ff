//! What becomes of the image, from `--output`, `--push` and what lies at `dest` already.

use std::path::Path;

use kiln::oci::Reference;
use kiln::request::{Destination, Output};

use crate::args::BuildArgs;
use crate::failure::{Failure, Outcome};
use crate::value::{OutputKind, OutputSpec};

/// Resolves the outputs of a build; without any, the image stays in the store.
pub(super) fn resolve(args: &BuildArgs, tags: &[Reference], stdout_terminal: bool) -> Outcome<Vec<Output>> {
    let mut outputs = Vec::new();
    let push = args.push || args.output.iter().any(|spec| spec.push);
    for spec in &args.output {
        match spec.kind {
            // `type=registry` and `type=image,push=true` push only, as they do in `docker buildx`.
            OutputKind::Image if push => {}
            OutputKind::Image => outputs.push(Output::Store),
            OutputKind::Oci => outputs.push(oci(spec)?),
            OutputKind::Docker => outputs.push(Output::DockerArchive { dest: file(spec)? }),
            OutputKind::Tar => outputs.push(Output::Tar { dest: file(spec)? }),
            OutputKind::Local => {
                outputs.extend(path(spec).map(|dest| Output::Local { dest: dest.to_owned() }));
            }
        }
    }
    if push {
        if tags.is_empty() {
            return Err(Failure::usage(
                "there is no name to push the image to",
                "name it: `--tag registry.example/app:1.0 --push`",
            ));
        }
        outputs.push(Output::Registry);
    }
    if outputs.is_empty() {
        outputs.push(Output::Store);
    }
    check_stdout(&outputs, stdout_terminal)?;
    Ok(outputs)
}

/// Tells whether an output goes to standard output.
pub(super) fn is_stdout(output: &Output) -> bool {
    match output {
        Output::OciLayout { dest, .. } | Output::DockerArchive { dest } | Output::Tar { dest } => {
            *dest == Destination::Stdout
        }
        Output::Store | Output::Registry | Output::Local { .. } => false,
    }
}

fn check_stdout(outputs: &[Output], stdout_terminal: bool) -> Outcome<()> {
    match outputs.iter().filter(|output| is_stdout(output)).count() {
        0 => Ok(()),
        1 if stdout_terminal => Err(Failure::usage(
            "the image would be written to the terminal",
            "redirect standard output, or give `dest=` a path",
        )),
        1 => Ok(()),
        _ => Err(Failure::usage("two outputs go to standard output", "give one of them `dest=` a path")),
    }
}

/// A layout is a tar file unless `tar=false` is said, or what `dest` names is a directory.
fn oci(spec: &OutputSpec) -> Outcome<Output> {
    let directory = path(spec).is_some_and(is_directory);
    if directory && spec.tar == Some(true) {
        return Err(not_a_file(spec));
    }
    let tar = spec.tar.unwrap_or(!directory);
    Ok(Output::OciLayout { dest: destination(spec)?, tar })
}

fn file(spec: &OutputSpec) -> Outcome<Destination> {
    if path(spec).is_some_and(is_directory) {
        return Err(not_a_file(spec));
    }
    destination(spec)
}

fn destination(spec: &OutputSpec) -> Outcome<Destination> {
    let missing = || Failure::usage("`dest=` is missing", "give a path, or `-` for standard output");
    spec.dest.clone().ok_or_else(missing)
}

fn path(spec: &OutputSpec) -> Option<&Path> {
    match &spec.dest {
        Some(Destination::Path(path)) => Some(path),
        _ => None,
    }
}

fn is_directory(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/") || path.is_dir()
}

fn not_a_file(spec: &OutputSpec) -> Failure {
    let path = path(spec).unwrap_or(Path::new("-")).display();
    Failure::usage(
        format!("the output goes to a file, but `{path}` is a directory"),
        "name a file in it; only `type=oci` and `type=local` can be directories",
    )
}
