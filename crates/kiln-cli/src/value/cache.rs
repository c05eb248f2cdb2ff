//! `--cache-from` and `--cache-to` in the words of `docker buildx`: `type=registry,ref=NAME,mode=max`, or a name alone.

use std::path::PathBuf;

use kiln::oci::Digest;
use kiln::request::{CacheExport, CacheExtent, CacheRepository, CacheSource, CacheTarget};

use super::output::{boolean, fields};
use super::{Parsed, reference};

/// Types as the user writes them.
const TYPES: [&str; 4] = ["registry", "local", "inline", "repository"];
/// Types of BuildKit that kiln has not.
const FOREIGN: [&str; 3] = ["gha", "s3", "azblob"];
/// Attributes as the user writes them.
const ATTRIBUTES: [&str; 10] = [
    "type",
    "ref",
    "src",
    "dest",
    "tag",
    "digest",
    "mode",
    "ignore-error",
    "image-manifest",
    "oci-mediatypes",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Registry,
    Local,
    Inline,
    Repository,
}

/// The attributes of one option.
#[derive(Default)]
struct Attributes {
    name: Option<String>,
    src: Option<PathBuf>,
    dest: Option<PathBuf>,
    tag: Option<String>,
    digest: Option<String>,
    extent: Option<CacheExtent>,
    is_strict: bool,
}

/// Parses the value of `--cache-from`.
pub(crate) fn cache_from(text: &str) -> Parsed<CacheSource> {
    let Some((kind, attributes)) = parse(text)? else {
        return reference(text).map(CacheSource::Registry);
    };
    let Attributes { name, src, dest, tag, digest, extent, .. } = attributes;
    if extent.is_some() {
        return Err(
            "`mode=` is for `--cache-to`: what is in a cache is decided when it is written".to_owned()
        );
    }
    if dest.is_some() {
        return Err("`dest=` is for `--cache-to`: write `src=`".to_owned());
    }
    match kind {
        Kind::Registry => reference(&required(name, "ref=REFERENCE")?).map(CacheSource::Registry),
        Kind::Local => {
            let src = required(src, "src=DIRECTORY")?;
            if let Some(digest) = &digest {
                digest.parse::<Digest>().map_err(|e| format!("`digest={digest}`: {e}"))?;
            }
            Ok(CacheSource::Local { src, target: digest.or(tag) })
        }
        Kind::Inline => Err("the cache is in an image: name it with `type=registry,ref=IMAGE`".to_owned()),
        Kind::Repository => repository(&required(name, "ref=REPOSITORY")?).map(CacheSource::Repository),
    }
}

/// Parses the value of `--cache-to`.
pub(crate) fn cache_to(text: &str) -> Parsed<CacheExport> {
    let Some((kind, attributes)) = parse(text)? else {
        let target = CacheTarget::Registry(super::tag(text)?);
        return Ok(CacheExport { target, extent: CacheExtent::Min, is_strict: false });
    };
    let Attributes { name, src, dest, tag, digest, extent, is_strict } = attributes;
    if src.is_some() {
        return Err("`src=` is for `--cache-from`: write `dest=`".to_owned());
    }
    if digest.is_some() {
        return Err("`digest=` is for `--cache-from`: a digest is the outcome of a build".to_owned());
    }
    // BuildKit's default is the small one; a repository with one manifest for each step is there to have all of them.
    let usual = if kind == Kind::Repository { CacheExtent::Max } else { CacheExtent::Min };
    let target = match kind {
        Kind::Registry => CacheTarget::Registry(super::tag(&required(name, "ref=REFERENCE")?)?),
        Kind::Local => CacheTarget::Local { dest: required(dest, "dest=DIRECTORY")?, tag },
        Kind::Inline if extent == Some(CacheExtent::Max) => {
            return Err("an image has its own layers only: `mode=max` needs `type=registry`".to_owned());
        }
        Kind::Inline => CacheTarget::Inline,
        Kind::Repository => CacheTarget::Repository(repository(&required(name, "ref=REPOSITORY")?)?),
    };
    Ok(CacheExport { target, extent: extent.unwrap_or(usual), is_strict })
}

fn required<T>(value: Option<T>, what: &str) -> Parsed<T> {
    value.ok_or_else(|| format!("`{what}` is missing"))
}

fn repository(text: &str) -> Parsed<CacheRepository> {
    match text.strip_prefix("oci:") {
        Some("") => Err("`oci:` needs a directory".to_owned()),
        Some(dir) => Ok(CacheRepository::Layout(PathBuf::from(dir))),
        None => reference(text).map(CacheRepository::Registry),
    }
}

/// Splits the attributes of a type; nothing if it is a name alone.
fn parse(text: &str) -> Parsed<Option<(Kind, Attributes)>> {
    let fields = fields(text)?;
    if let [name] = fields.as_slice()
        && !name.contains('=')
    {
        return match name.as_str() {
            "" => Err("a name, or `type=…`, is expected".to_owned()),
            kind if TYPES.contains(&kind) || FOREIGN.contains(&kind) => {
                Err(format!("write `type={kind}`, or `docker.io/library/{kind}` for an image of this name"))
            }
            _ => Ok(None),
        };
    }
    let mut pairs = Vec::new();
    for field in &fields {
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!("`{field}` is not KEY=VALUE"));
        };
        pairs.push((key.trim().to_ascii_lowercase(), value));
    }
    let Some((_, kind)) = pairs.iter().rfind(|(key, _)| key == "type") else {
        return Err(format!("`type=` is missing: one of {}", TYPES.join(", ")));
    };
    let kind = of_type(kind)?;
    let mut out = Attributes::default();
    for (key, value) in pairs.iter().filter(|(key, _)| key != "type") {
        attribute(kind, &mut out, key, value).map_err(|e| format!("`{key}={value}`: {e}"))?;
    }
    Ok(Some((kind, out)))
}

fn of_type(name: &str) -> Parsed<Kind> {
    match name {
        "registry" => Ok(Kind::Registry),
        "local" => Ok(Kind::Local),
        "inline" => Ok(Kind::Inline),
        "repository" => Ok(Kind::Repository),
        foreign if FOREIGN.contains(&foreign) => Err(format!(
            "kiln has no caches of type `{foreign}`: the types are {}; `type=local` writes a directory that a CI \
             system can keep, `type=registry` needs nothing but a registry",
            TYPES.join(", ")
        )),
        other => Err(match kiln::dockerfile::suggest(other, &TYPES) {
            Some(nearest) => format!("type `{other}` is not known: did you mean `{nearest}`?"),
            None => format!("type `{other}` is not known: the types are {}", TYPES.join(", ")),
        }),
    }
}

fn attribute(kind: Kind, out: &mut Attributes, key: &str, value: &str) -> Parsed<()> {
    let only = |allowed: bool, what: &str| if allowed { Ok(()) } else { Err(format!("only for {what}")) };
    let registry = matches!(kind, Kind::Registry | Kind::Repository);
    match key {
        "ref" | "src" | "dest" | "tag" | "digest" if value.is_empty() => return Err("it is empty".to_owned()),
        "ref" => {
            only(registry, "`type=registry` and `type=repository`")?;
            out.name = Some(value.to_owned());
        }
        "src" | "dest" | "tag" | "digest" => {
            only(kind == Kind::Local, "`type=local`")?;
            match key {
                "src" => out.src = Some(PathBuf::from(value)),
                "dest" => out.dest = Some(PathBuf::from(value)),
                "tag" => out.tag = Some(value.to_owned()),
                _ => out.digest = Some(value.to_owned()),
            }
        }
        "mode" => {
            out.extent = Some(match value {
                "min" => CacheExtent::Min,
                "max" => CacheExtent::Max,
                _ => return Err("expected `min` or `max`".to_owned()),
            });
        }
        // Without the word, kiln warns and goes on.
        "ignore-error" => out.is_strict = !boolean(value)?,
        "image-manifest" | "oci-mediatypes" if boolean(value)? => {}
        "image-manifest" | "oci-mediatypes" => return Err("kiln writes OCI image manifests only".to_owned()),
        "compression" | "compression-level" | "force-compression" => {
            return Err("the layers of a cache are those of the build: use `--compression`".to_owned());
        }
        other => {
            return Err(match kiln::dockerfile::suggest(other, &ATTRIBUTES) {
                Some(nearest) => format!("attribute is not known: did you mean `{nearest}`?"),
                None => format!("attribute is not known: they are {}", ATTRIBUTES.join(", ")),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln::oci::Reference;

    use super::*;

    fn name(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn sources_have_the_words_of_buildx() {
        let check = |text: &str, expect: CacheSource| assert_eq!(cache_from(text), Ok(expect), "{text}");
        let local = |src: &str, target: Option<&str>| CacheSource::Local {
            src: src.into(),
            target: target.map(str::to_owned),
        };
        check("r.example/app:cache", CacheSource::Registry(name("r.example/app:cache")));
        check("type=registry,ref=app:cache", CacheSource::Registry(name("app:cache")));
        check("src=c,type=local", local("c", None));
        check("type=local,src=c,tag=t", local("c", Some("t")));
        let digest = Digest::sha256(b"");
        check(&format!("type=local,src=c,tag=t,digest={digest}"), local("c", Some(digest.as_str())));
        let repository = |r| CacheSource::Repository(r);
        check("type=repository,ref=r.example/c", repository(CacheRepository::Registry(name("r.example/c"))));
        check("type=repository,ref=oci:/c", repository(CacheRepository::Layout("/c".into())));
    }

    #[test]
    fn targets_have_the_words_of_buildx() {
        let check = |text: &str, target: CacheTarget, extent: CacheExtent, is_strict: bool| {
            assert_eq!(cache_to(text), Ok(CacheExport { target, extent, is_strict }), "{text}");
        };
        let registry = || CacheTarget::Registry(name("r.example/app:c"));
        check("r.example/app:c", registry(), CacheExtent::Min, false);
        check("type=registry,ref=r.example/app:c,mode=max", registry(), CacheExtent::Max, false);
        check("type=registry,ref=r.example/app:c,ignore-error=false", registry(), CacheExtent::Min, true);
        check("type=registry,ref=r.example/app:c,image-manifest=true", registry(), CacheExtent::Min, false);
        check("type=inline", CacheTarget::Inline, CacheExtent::Min, false);
        let local = CacheTarget::Local { dest: "d".into(), tag: None };
        check("type=local,dest=d,mode=max", local, CacheExtent::Max, false);
        let repository = CacheTarget::Repository(CacheRepository::Registry(name("r.example/c")));
        check("type=repository,ref=r.example/c", repository, CacheExtent::Max, false);
    }

    #[test]
    fn mistakes_are_explained() {
        let from = |text: &str, expect: &str| {
            let error = cache_from(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        let to = |text: &str, expect: &str| {
            let error = cache_to(text).unwrap_err();
            assert!(error.contains(expect), "{text}: {error}");
        };
        from("", "a name, or `type=…`");
        from("type=gha", "the types are registry, local, inline, repository");
        to("type=s3,region=x", "no caches of type `s3`");
        to("azblob", "write `type=azblob`");
        from("type=regsitry,ref=a", "did you mean `registry`?");
        from("type=registry", "`ref=REFERENCE` is missing");
        from("type=registry,ref=a,mode=max", "`mode=` is for `--cache-to`");
        from("type=local,dest=a", "`dest=` is for `--cache-to`");
        to("type=local,src=a", "`src=` is for `--cache-from`");
        from("type=inline", "`type=registry,ref=IMAGE`");
        to("type=inline,mode=max", "needs `type=registry`");
        to("type=inline,ref=a", "only for `type=registry`");
        to("type=registry,ref=a,mode=all", "expected `min` or `max`");
        to("type=registry,ref=a,compression=zstd", "use `--compression`");
        to("type=registry,ref=a,oci-mediatypes=false", "OCI image manifests only");
        to("type=registry,rfe=a", "did you mean `ref`?");
        to("ref=a", "`type=` is missing");
        to("type=local,dest", "`dest` is not KEY=VALUE");
        to(&format!("a@{}", Digest::sha256(b"")), "digest");
    }
}
