//! Values of options, each parsed from its text by a pure function whose error says what was expected.
//!
//! Nothing here looks at files, the environment or other options: that is the work of `settings`.

mod cache;
mod call;
mod filter;
mod grants;
mod history;
mod output;
mod pairs;
pub(crate) mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use kiln::address::{self, GitAddress, Short, Url};
use kiln::oci::{Platform, Reference};
use kiln::request::{CompressionChoice, EpochChoice, IsolationChoice, NamedContext};
use kiln::sandbox::Requested;

pub(crate) use cache::{cache_from, cache_to};
pub(crate) use call::{Call, CallFormat, Method, call};
pub(crate) use filter::{Filter, filter};
pub(crate) use grants::{SecretFrom, SecretSpec, SshSpec, entitlement, secret, ssh};
pub(crate) use history::{BuildNumber, RecordFormat, build_number};
pub(crate) use output::{OutputKind, OutputSpec, output};
pub(crate) use pairs::{BuildArg, annotation, build_arg, label};

/// Result of a parser: clap puts the text behind the name of the option.
pub(crate) type Parsed<T> = Result<T, String>;

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// A live view on a terminal, plain lines elsewhere
    Auto,
    /// A live view
    Tty,
    /// Lines, for logs
    Plain,
    /// One JSON object per line
    Json,
    /// Warnings and errors only
    Quiet,
}

/// A way to compress layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Compression {
    /// Understood by every container runtime
    Gzip,
    /// gzip whose files can be fetched one by one, for runtimes with the stargz snapshotter
    Estargz,
    /// Smaller and faster; needs a runtime of 2021 or later
    Zstd,
    /// No compression
    Uncompressed,
}

/// Isolation of RUN steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Isolation {
    /// The strongest that works here
    Auto,
    /// A user namespace with a range of ids
    Userns,
    /// A user namespace with a single id; other owners and users are emulated
    UsernsSingle,
    /// Another root directory, guarded by Landlock: for root in a container with default rights
    Chroot,
    /// No sandbox: a build with RUN is refused
    None,
}

impl Isolation {
    /// Returns the stronger of two conditions.
    pub(crate) fn stronger(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let strength = |isolation: &Self| match isolation {
            Self::Auto | Self::None => 0,
            Self::Chroot => 1,
            Self::UsernsSingle => 2,
            Self::Userns => 3,
        };
        one.into_iter().chain(other).max_by_key(strength)
    }
}

impl From<Isolation> for IsolationChoice {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Auto => Self::Auto,
            Isolation::Userns => Self::Userns,
            Isolation::UsernsSingle => Self::UsernsSingle,
            Isolation::Chroot => Self::Chroot,
            Isolation::None => Self::None,
        }
    }
}

impl From<Isolation> for Requested {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Auto => Self::Auto,
            Isolation::Userns => Self::Userns,
            Isolation::UsernsSingle => Self::UsernsSingle,
            Isolation::Chroot => Self::Chroot,
            Isolation::None => Self::None,
        }
    }
}

/// A profile that kiln carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// The system calls of a default container, namespaces and mounts: for container engines and kubelets
    Seccomp,
    /// User namespaces with their rights: for machines with AppArmor
    Apparmor,
    /// The same for kiln in a pod
    ApparmorPod,
}

/// A format of listings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns, for people
    Table,
    /// One JSON array, for programs
    Json,
}

/// A format of `kiln check`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum CheckFormat {
    /// An excerpt for each finding, for people
    #[default]
    Text,
    /// One JSON object, for programs
    Json,
    /// SARIF 2.1.0, for code review tools
    Sarif,
}

/// What `--print` shows in place of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Print {
    /// The build request, with everything resolved, as JSON
    Request,
}

/// Puts a compression and its level together.
pub(crate) fn compression(kind: Compression, level: Option<u8>) -> Parsed<CompressionChoice> {
    let within = |range: std::ops::RangeInclusive<u8>, name: &str| match level {
        Some(level) if !range.contains(&level) => {
            Err(format!("{name} has levels {} to {}, not {level}", range.start(), range.end()))
        }
        level => Ok(level),
    };
    match kind {
        Compression::Gzip => Ok(CompressionChoice::Gzip(within(1..=9, "gzip")?)),
        Compression::Estargz => Ok(CompressionChoice::Estargz(within(1..=9, "estargz")?)),
        Compression::Zstd => Ok(CompressionChoice::Zstd(within(1..=22, "zstd")?)),
        Compression::Uncompressed if level.is_some() => {
            Err("there is no level of compression without compression".to_owned())
        }
        Compression::Uncompressed => Ok(CompressionChoice::Uncompressed),
    }
}

/// Parses the time of an image: a number, or the name of something that has a time.
pub(crate) fn epoch(text: &str) -> Parsed<EpochChoice> {
    match (text.trim(), text.trim().parse()) {
        ("", _) => {
            Err("expected seconds since 1970, `context`, or the name of a context or stage".to_owned())
        }
        (_, Ok(seconds)) => Ok(EpochChoice::Seconds(seconds)),
        (word, Err(_)) => Ok(EpochChoice::Of(word.to_owned())),
    }
}

/// What an address of something elsewhere is.
pub(crate) enum Elsewhere {
    /// A commit.
    Git(Box<GitAddress>),
    /// A file of a web server.
    Http(Url),
}

/// Parses an address of a repository or a web server; `None` for everything else.
pub(crate) fn elsewhere(text: &str) -> Option<Parsed<Elsewhere>> {
    match GitAddress::parse(text, Short::Allowed) {
        Some(Ok(address)) => Some(Ok(Elsewhere::Git(Box::new(address)))),
        Some(Err(why)) => Some(Err(format!("`{}` is no address of a commit: {why}", address::mask(text)))),
        None => address::is_http(text).then(|| Ok(Elsewhere::Http(Url::new(text)))),
    }
}

/// Parses `name=SOURCE`: a directory, a repository, a web address, `docker-image://REF` or
/// `oci-layout://PATH[:tag|@digest]`.
pub(crate) fn build_context(text: &str) -> Parsed<(String, NamedContext)> {
    let Some((name, source)) = text.split_once('=') else {
        return Err("expected NAME=SOURCE, such as `alpine=docker-image://alpine:3.20`".to_owned());
    };
    if name.is_empty() || source.is_empty() {
        return Err("name and source must not be empty".to_owned());
    }
    if let Some(found) = elsewhere(source) {
        let source = match found? {
            Elsewhere::Git(address) => NamedContext::Git(address),
            Elsewhere::Http(url) => NamedContext::Http(url),
        };
        return Ok((name.to_ascii_lowercase(), source));
    }
    let source = match source.split_once("://") {
        None => NamedContext::Directory(PathBuf::from(source)),
        Some(("docker-image", reference)) => NamedContext::Image(self::reference(reference)?),
        Some(("oci-layout", layout)) => oci_layout(layout)?,
        Some((scheme, _)) => {
            let nearest =
                kiln::dockerfile::suggest(scheme, &["docker-image", "oci-layout", "https", "ssh", "git"]);
            let meant = nearest.map(|s| format!(", did you mean `{s}://`?")).unwrap_or_default();
            return Err(format!("`{scheme}://` is not known{meant}"));
        }
    };
    Ok((name.to_ascii_lowercase(), source))
}

fn oci_layout(text: &str) -> Parsed<NamedContext> {
    let (path, target) = match text.split_once('@') {
        Some((path, digest)) => {
            digest.parse::<kiln::oci::Digest>().map_err(|e| e.to_string())?;
            (path, Some(digest))
        }
        None => match text.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (text, None),
        },
    };
    if path.is_empty() {
        return Err("the path of the layout is missing".to_owned());
    }
    Ok(NamedContext::OciLayout { path: PathBuf::from(path), target: target.map(str::to_owned) })
}

/// Parses an image reference.
pub(crate) fn reference(text: &str) -> Parsed<Reference> {
    text.parse().map_err(|e: kiln::oci::ReferenceError| e.reason.to_owned())
}

/// Parses the name for an image: a reference without a digest, which only the build can know.
pub(crate) fn tag(text: &str) -> Parsed<Reference> {
    let reference = reference(text)?;
    match reference.digest() {
        Some(_) => Err("a name for a new image cannot have a digest".to_owned()),
        None => Ok(reference),
    }
}

/// Parses one platform.
pub(crate) fn platform(text: &str) -> Parsed<Platform> {
    if text.contains(',') {
        return Err("one platform per build: run one build for each and join them in an index".to_owned());
    }
    text.parse().map_err(|_| "expected `os/architecture[/variant]`, for example `linux/arm64`".to_owned())
}

/// Parses `docker.io=HOST[/PATH]`, the mirror of a registry.
pub(crate) fn mirror(text: &str) -> Parsed<(String, String)> {
    match text.split_once('=') {
        Some((registry, mirror)) => Ok((host(registry)?, self::mirror_address(mirror)?)),
        None => Err("expected REGISTRY=MIRROR, such as `docker.io=mirror.example:5000`".to_owned()),
    }
}

fn mirror_address(text: &str) -> Parsed<String> {
    let (name, path) = text.split_once('/').unwrap_or((text, ""));
    let host = host(name)?;
    let path = path.trim_end_matches('/');
    Ok(if path.is_empty() { host } else { format!("{host}/{path}") })
}

/// Parses the name of a registry, `host[:port]`.
pub(crate) fn host(text: &str) -> Parsed<String> {
    let valid = |c: char| c.is_ascii_alphanumeric() || ".-_:[]".contains(c);
    if text.contains("://") {
        return Err(format!("`{text}` has a scheme: write `host[:port]` only"));
    }
    if text.is_empty() || !text.chars().all(valid) {
        return Err(format!("`{text}` is not a registry: write `host[:port]`"));
    }
    Ok(text.to_owned())
}

/// Parses a duration such as `90s`, `24h`, `1h30m`, `7d`.
pub(crate) fn duration(text: &str) -> Parsed<Duration> {
    let expected = || "expected a number with a unit, such as `90s`, `30m`, `24h`, `7d`".to_owned();
    let mut rest = text;
    let mut seconds = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(expected)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let factor: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "w" => 7 * 24 * 3600,
            _ => return Err(expected()),
        };
        let part = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or_else(expected)?;
        seconds = seconds.checked_add(part).ok_or_else(expected)?;
        rest = tail;
    }
    if text.is_empty() { Err(expected()) } else { Ok(Duration::from_secs(seconds)) }
}

/// Parses a size such as `512MiB`; units are powers of 1024, as in Docker.
pub(crate) fn size(text: &str) -> Parsed<u64> {
    kiln::dockerfile::instruction::parse_size(text)
        .ok_or_else(|| "expected a size such as `512MiB` or `10GiB`".to_owned())
}

/// Puts pairs in order; of two with one key the last wins.
pub(crate) fn last_wins<V: Clone>(pairs: &[(String, V)]) -> BTreeMap<String, V> {
    pairs.iter().cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_directories_images_and_layouts() {
        let check = |text: &str, expect: NamedContext| {
            assert_eq!(build_context(&format!("Base={text}")), Ok(("base".to_owned(), expect)));
        };
        let layout = |path: &str, target: Option<&str>| NamedContext::OciLayout {
            path: path.into(),
            target: target.map(str::to_owned),
        };
        check("../lib", NamedContext::Directory("../lib".into()));
        check("docker-image://alpine:3", NamedContext::Image("alpine:3".parse().unwrap()));
        check("oci-layout://./out", layout("./out", None));
        check("oci-layout://./out:v1", layout("./out", Some("v1")));
        check("oci-layout:///a:b/out", layout("/a:b/out", None));
        let digest = format!("sha256:{}", "0".repeat(64));
        check(&format!("oci-layout://out@{digest}"), layout("out", Some(&digest)));
    }

    #[test]
    fn contexts_may_lie_elsewhere() {
        let git = |text: &str| match build_context(&format!("a={text}")).unwrap().1 {
            NamedContext::Git(address) => address.to_string(),
            other => panic!("{text} is {other:?}"),
        };
        assert_eq!(git("https://h/r.git#v1:docs"), "https://h/r.git#v1:docs");
        assert_eq!(git("git@h:r"), "git@h:r");
        assert_eq!(git("github.com/u/r"), "https://github.com/u/r");
        let file = build_context("a=https://h/r.tar").unwrap().1;
        assert_eq!(file, NamedContext::Http(Url::new("https://h/r.tar")));
    }

    #[test]
    fn times_are_numbers_or_names() {
        assert_eq!(epoch("-1"), Ok(EpochChoice::Seconds(-1)));
        assert_eq!(epoch("context"), Ok(EpochChoice::Of("context".to_owned())));
        assert!(epoch(" ").is_err());
    }

    #[test]
    fn wrong_contexts_are_explained() {
        let check = |text: &str, expect: &str| {
            let error = build_context(text).unwrap_err();
            assert!(error.contains(expect), "{error}");
        };
        check("dir", "expected NAME=SOURCE");
        check("a=", "must not be empty");
        check("a=docker-imag://x", "did you mean `docker-image://`?");
        check("a=https://example.com/x.git?tga=1", "did you mean `tag`?");
        check("a=htps://example.com/x.git", "did you mean `https://`?");
        check("a=oci-layout://x@sha256:0", "is not a digest");
    }

    #[test]
    fn durations_have_units() {
        let check = |text: &str, expect: Option<u64>| {
            assert_eq!(duration(text).ok(), expect.map(Duration::from_secs), "{text}");
        };
        check("90s", Some(90));
        check("24h", Some(86_400));
        check("1h30m", Some(5_400));
        check("7d", Some(604_800));
        check("0s", Some(0));
        check("", None);
        check("24", None);
        check("h", None);
        check("1.5h", None);
        check("99999999999999999999s", None);
        check("9999999999999999999w", None);
    }

    #[test]
    fn platforms_come_one_at_a_time() {
        assert_eq!(platform("linux/arm64/v8").unwrap().to_string(), "linux/arm64");
        assert!(platform("linux/amd64,linux/arm64").unwrap_err().contains("one platform per build"));
        assert!(platform("linux/").unwrap_err().contains("expected"));
    }

    #[test]
    fn names_of_new_images_have_no_digest() {
        assert_eq!(tag("app").unwrap().to_string(), "docker.io/library/app:latest");
        assert!(tag(&format!("app@sha256:{}", "0".repeat(64))).unwrap_err().contains("cannot have a digest"));
    }

    #[test]
    fn mirrors_and_hosts_have_no_scheme() {
        let pair = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(mirror("docker.io=m.example:5000/hub/"), pair("docker.io", "m.example:5000/hub"));
        assert!(mirror("m.example").unwrap_err().contains("expected REGISTRY=MIRROR"));
        assert!(host("http://x").unwrap_err().contains("has a scheme"));
        assert_eq!(host("[::1]:5000").unwrap(), "[::1]:5000");
    }

    #[test]
    fn levels_belong_to_their_compression() {
        assert_eq!(compression(Compression::Gzip, Some(9)), Ok(CompressionChoice::Gzip(Some(9))));
        assert_eq!(compression(Compression::Zstd, None), Ok(CompressionChoice::Zstd(None)));
        assert_eq!(compression(Compression::Gzip, Some(10)).unwrap_err(), "gzip has levels 1 to 9, not 10");
        assert_eq!(
            compression(Compression::Estargz, Some(0)).unwrap_err(),
            "estargz has levels 1 to 9, not 0"
        );
        assert!(compression(Compression::Uncompressed, Some(1)).is_err());
    }
}
