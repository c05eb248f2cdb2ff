//! `kiln version`.

use kiln::oci::Platform;

use crate::args::VersionArgs;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::stdout;

/// The codecs that decide the bytes of layers, as the workspace pins them.
const CODECS: [(&str, &str); 4] =
    [("flate2", "1.1.10"), ("zlib-rs", "0.6.8"), ("zstd", "0.14.3"), ("tar", "0.4.46")];

/// Prints the version.
pub(super) fn run(args: &VersionArgs) -> Outcome<Exit> {
    let mut lines = vec![format!("kiln {}", env!("CARGO_PKG_VERSION"))];
    if args.verbose {
        lines.push(format!("platform {}", Platform::host()));
        lines.extend(CODECS.map(|(name, version)| format!("{name} {version}")));
    }
    stdout::print(&format!("{}\n", lines.join("\n")))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codecs_are_those_of_the_workspace() {
        let workspace = include_str!("../../../../Cargo.toml");
        for (name, version) in CODECS {
            let pin = |line: &&str| {
                line.starts_with(&format!("{name} =")) && line.contains(&format!("\"={version}\""))
            };
            assert!(workspace.lines().any(|line| pin(&line)), "{name} {version}");
        }
    }
}
