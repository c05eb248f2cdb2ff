//! Build arguments that do nothing: a misspelt name must not pass in silence.

use kiln_dockerfile::instruction::{Arg, Instruction};
use kiln_oci::Platform;

use super::Source;
use super::vars::{PROXIES, platform_args};
use crate::request::BuildRequest;

/// Build arguments that change what kiln does, without an ARG in the file.
const EFFECTIVE: [&str; 8] = [
    "BUILDKIT_BUILD_NAME",
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
    "SOURCE_DATE_EPOCH",
];

/// Something to tell about a build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice(pub String);

/// Returns a notice for every build argument that seems to have no effect.
///
/// A trigger of a base image may declare one that is not seen here, which is why these are no errors.
#[must_use]
pub fn notices(request: &BuildRequest, source: &Source) -> Vec<Notice> {
    let tree = &source.tree;
    let in_stages = tree.stages.iter().flat_map(|s| &s.instructions).filter_map(|s| match &s.instruction {
        Instruction::Arg(arg) => Some(arg),
        _ => None,
    });
    let args: Vec<&Arg> = tree.global_args.iter().map(|s| &s.instruction).chain(in_stages).collect();
    let declared: Vec<&str> =
        args.iter().flat_map(|a| &a.declarations).map(|d| d.name.value.as_str()).collect();
    let host = Platform::host();
    let platform = platform_args(&host, &host, "");
    let mut notices = Vec::new();
    for name in request.build_args.keys().map(String::as_str) {
        let known = declared.contains(&name)
            || EFFECTIVE.contains(&name)
            || PROXIES.contains(&name)
            || platform.contains_key(name);
        if known {
            continue;
        }
        let text = if name.starts_with("BUILDKIT_") {
            format!("the build argument `{name}` has no effect in kiln")
        } else {
            match kiln_dockerfile::suggest(name, &declared) {
                Some(near) => {
                    format!("no ARG declares the build argument `{name}`; did you mean `{near}`?")
                }
                None if declared.is_empty() => {
                    format!("no ARG declares the build argument `{name}`, so that it has no effect")
                }
                None => format!(
                    "no ARG declares the build argument `{name}`; the file declares {}",
                    declared.join(", ")
                ),
            }
        };
        notices.push(Notice(text));
    }
    notices
}
