//! `--output` in the words of `docker buildx`: `type=oci,dest=image.tar`, or the path of a directory alone.
//!
//! Only the text is judged here. What depends on the file system (is `dest` a directory?) or on other options
//! (is there a name to push to?) is resolved in `settings`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ValueEnum as _;
use kiln::oci::Reference;
use kiln::request::Destination;

use super::{Compression, Parsed, tag};

/// Types as the user writes them.
const TYPES: [&str; 6] = ["oci", "docker", "registry", "image", "local", "tar"];
/// Attributes as the user writes them; `annotation.KEY` comes on top.
const ATTRIBUTES: [&str; 12] = [
    "type",
    "dest",
    "name",
    "tar",
    "push",
    "registry.insecure",
    "compression",
    "compression-level",
    "oci-mediatypes",
    "rewrite-timestamp",
    "force-compression",
    "store",
];

/// What becomes of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputKind {
    /// An OCI image layout.
    Oci,
    /// What `docker load` reads.
    Docker,
    /// kiln's store, and the registry if `push` is set.
    Image,
    /// The root file system as a directory.
    Local,
    /// The root file system as a tar file.
    Tar,
}

/// One `--output`, parsed but not yet resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputSpec {
    /// What becomes of the image.
    pub(crate) kind: OutputKind,
    /// Where to, for those types that write files.
    pub(crate) dest: Option<Destination>,
    /// Whether a layout is a tar file, if said.
    pub(crate) tar: Option<bool>,
    /// Whether it is pushed.
    pub(crate) push: bool,
    /// Whether the registry may be spoken to without trust.
    pub(crate) insecure: bool,
    /// Further names of the image.
    pub(crate) names: Vec<Reference>,
    /// Compression of layers.
    pub(crate) compression: Option<Compression>,
    /// Level of the compression.
    pub(crate) level: Option<u8>,
    /// Whether layers of the base image are converted.
    pub(crate) force: bool,
    /// Annotations of the manifest.
    pub(crate) annotations: BTreeMap<String, String>,
}

impl OutputSpec {
    fn new(kind: OutputKind) -> Self {
        Self {
            kind,
            dest: None,
            tar: None,
            push: false,
            insecure: false,
            names: Vec::new(),
            compression: None,
            level: None,
            force: false,
            annotations: BTreeMap::new(),
        }
    }
}

/// Parses the value of `--output`.
pub(crate) fn output(text: &str) -> Parsed<OutputSpec> {
    let fields = fields(text)?;
    if let [path] = fields.as_slice()
        && !path.contains('=')
    {
        return shorthand(path);
    }
    let mut pairs = Vec::new();
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is not KEY=VALUE"));
        };
        pairs.push((key.trim().to_ascii_lowercase(), value));
    }
    let Some((_, name)) = pairs.iter().rfind(|(key, _)| key == "type") else {
        return Err(format!("`type=` is missing: one of {}", TYPES.join(", ")));
    };
    let mut spec = of_type(name)?;
    for (key, value) in pairs.iter().filter(|(key, _)| key != "type") {
        attribute(&mut spec, key, value).map_err(|e| format!("`{key}={value}`: {e}"))?;
    }
    check_dest(&spec)?;
    Ok(spec)
}

/// A path alone means the root file system in this directory, and `-` a tar of it on standard output.
fn shorthand(path: &str) -> Parsed<OutputSpec> {
    match path {
        "" => Err("a path, or `type=…`, is expected".to_owned()),
        "-" => Ok(OutputSpec { dest: Some(Destination::Stdout), ..OutputSpec::new(OutputKind::Tar) }),
        path if TYPES.contains(&path) => {
            Err(format!("write `type={path}`, or `./{path}` for a directory of this name"))
        }
        path => Ok(OutputSpec {
            dest: Some(Destination::Path(PathBuf::from(path))),
            ..OutputSpec::new(OutputKind::Local)
        }),
    }
}

fn of_type(name: &str) -> Parsed<OutputSpec> {
    let kind = match name {
        "oci" => OutputKind::Oci,
        "docker" => OutputKind::Docker,
        "image" => OutputKind::Image,
        "registry" => return Ok(OutputSpec { push: true, ..OutputSpec::new(OutputKind::Image) }),
        "local" => OutputKind::Local,
        "tar" => OutputKind::Tar,
        other => {
            let meant = match kiln::dockerfile::suggest(other, &TYPES) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("the types are {}", TYPES.join(", ")),
            };
            return Err(format!("type `{other}` is not known: {meant}"));
        }
    };
    Ok(OutputSpec::new(kind))
}

fn attribute(spec: &mut OutputSpec, key: &str, value: &str) -> Parsed<()> {
    if let Some(name) = key.strip_prefix("annotation.").or_else(|| key.strip_prefix("annotation-manifest.")) {
        spec.annotations.insert(name.to_owned(), value.to_owned());
        return Ok(());
    }
    match key {
        "dest" if value.is_empty() => return Err("the path is empty".to_owned()),
        "dest" if value == "-" => spec.dest = Some(Destination::Stdout),
        "dest" => spec.dest = Some(Destination::Path(PathBuf::from(value))),
        "name" => {
            for name in value.split(',').filter(|name| !name.is_empty()) {
                spec.names.push(tag(name)?);
            }
        }
        "tar" if spec.kind == OutputKind::Oci => spec.tar = Some(boolean(value)?),
        "tar" => return Err("only for `type=oci`".to_owned()),
        "push" if spec.kind == OutputKind::Image => spec.push = boolean(value)?,
        "push" => return Err("only for `type=image`".to_owned()),
        "registry.insecure" => spec.insecure = boolean(value)?,
        "compression" => {
            spec.compression = Some(
                Compression::from_str(value, true)
                    .map_err(|_| "gzip, estargz, zstd and uncompressed are known".to_owned())?,
            );
        }
        "compression-level" => {
            spec.level = Some(value.parse().map_err(|_| "a level is a number, such as 3".to_owned())?);
        }
        "oci-mediatypes" | "rewrite-timestamp" | "store" if boolean(value)? => {}
        "oci-mediatypes" => return Err("kiln writes OCI media types only".to_owned()),
        "rewrite-timestamp" => return Err("kiln cuts times whenever there is a source date epoch".to_owned()),
        "store" => return Err("kiln always keeps what it built".to_owned()),
        "force-compression" => spec.force = boolean(value)?,
        other => {
            let meant = match kiln::dockerfile::suggest(other, &ATTRIBUTES) {
                Some(nearest) => format!("did you mean `{nearest}`?"),
                None => format!("the attributes are {}, annotation.KEY", ATTRIBUTES.join(", ")),
            };
            return Err(format!("attribute is not known: {meant}"));
        }
    }
    Ok(())
}

fn check_dest(spec: &OutputSpec) -> Parsed<()> {
    match (spec.kind, &spec.dest) {
        (OutputKind::Image, Some(_)) => {
            Err("this type writes no file: leave `dest=` out, or use `type=oci` or `type=docker`".to_owned())
        }
        (OutputKind::Docker, None) => Err("`dest=` is missing: kiln writes a file for `docker load`, \
             such as `type=docker,dest=image.tar`"
            .to_owned()),
        (OutputKind::Oci | OutputKind::Local | OutputKind::Tar, None) => {
            Err("`dest=` is missing: a path, or `-` for standard output".to_owned())
        }
        (OutputKind::Local, Some(Destination::Stdout)) => {
            Err("a directory cannot go to standard output: use `type=tar`".to_owned())
        }
        (OutputKind::Oci, Some(Destination::Stdout)) if spec.tar == Some(false) => {
            Err("a directory cannot go to standard output: leave `tar=false` out".to_owned())
        }
        _ => Ok(()),
    }
}

pub(super) fn boolean(value: &str) -> Parsed<bool> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "t" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

/// Splits at commas; a field in double quotes may hold commas, as in `type=image,"name=a,b"`.
pub(super) fn fields(text: &str) -> Parsed<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err("a double quote is not closed".to_owned());
    }
    fields.push(field);
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<Destination> {
        Some(Destination::Path(text.into()))
    }

    fn check(text: &str, expect: OutputSpec) {
        assert_eq!(output(text), Ok(expect), "{text}");
    }

    #[test]
    fn types_have_their_attributes() {
        let new = OutputSpec::new;
        check("type=oci,dest=x.tar", OutputSpec { dest: path("x.tar"), ..new(OutputKind::Oci) });
        check("type=oci,dest=-", OutputSpec { dest: Some(Destination::Stdout), ..new(OutputKind::Oci) });
        check(
            "type=oci,tar=false,dest=d",
            OutputSpec { dest: path("d"), tar: Some(false), ..new(OutputKind::Oci) },
        );
        check("type=docker,dest=x", OutputSpec { dest: path("x"), ..new(OutputKind::Docker) });
        check("type=registry", OutputSpec { push: true, ..new(OutputKind::Image) });
        check("push=true,type=image", OutputSpec { push: true, ..new(OutputKind::Image) });
        check("type=tar,dest=fs.tar", OutputSpec { dest: path("fs.tar"), ..new(OutputKind::Tar) });
        check("type=local,dest=out", OutputSpec { dest: path("out"), ..new(OutputKind::Local) });
    }

    #[test]
    fn a_path_alone_is_a_directory_and_a_dash_a_tar() {
        check("./out", OutputSpec { dest: path("./out"), ..OutputSpec::new(OutputKind::Local) });
        check("-", OutputSpec { dest: Some(Destination::Stdout), ..OutputSpec::new(OutputKind::Tar) });
    }

    #[test]
    fn names_with_commas_are_quoted() {
        let spec = output(
            "type=image,\"name=a,b.example/c:1\",compression=zstd,compression-level=3,force-compression=true",
        )
        .unwrap();
        let names: Vec<String> = spec.names.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["docker.io/library/a:latest", "b.example/c:1"]);
        assert_eq!((spec.compression, spec.level, spec.force), (Some(Compression::Zstd), Some(3), true));
        let spec = output("type=image,annotation.org.example.a=b=c").unwrap();
        assert_eq!(spec.annotations["org.example.a"], "b=c");
    }

    #[test]
    fn mistakes_are_explained() {
        let check = |text: &str, expect: &str| {
            let error = output(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        check("", "a path, or `type=…`, is expected");
        check("type=oic,dest=x", "did you mean `oci`?");
        check("type=nothing,dest=x", "the types are oci, docker");
        check("type=oci,dset=x", "`dset=x`: attribute is not known: did you mean `dest`?");
        check("dest=x", "`type=` is missing");
        check("oci", "write `type=oci`");
        check("type=oci", "`dest=` is missing");
        check("type=docker", "`docker load`");
        check("type=image,dest=x", "writes no file");
        check("type=local,dest=-", "use `type=tar`");
        check("type=oci,tar=false,dest=-", "leave `tar=false` out");
        check("type=oci,dest=x,compression-level=high", "a level is a number");
        check("type=oci,dest=x,force-compression=maybe", "expected `true` or `false`");
        check("type=oci,tar=maybe,dest=x", "expected `true` or `false`");
        check("type=docker,tar=false,dest=x", "only for `type=oci`");
        check("type=image,oci-mediatypes=false", "OCI media types only");
        check("type=oci,dest=x,compression=lzma", "gzip, estargz, zstd and uncompressed");
        check("type=oci,dest", "`dest` is not KEY=VALUE");
        check("type=image,\"name=a", "not closed");
    }
}
