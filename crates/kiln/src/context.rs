//! Build contexts: opens what the user gave as a directory of files, and says which of them are ignored.
//!
//! A directory is used where it lies. An archive, from a file or from standard input, is unpacked into the
//! store's temporary folder first, through the same reader that refuses hostile layers.

mod find;
mod remote;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{Form, LayerReader, Limits};
use rustix::process::{getegid, geteuid};

use crate::error::{Error, FileContext as _, Result};
use crate::request::{BuildRequest, ContextSource, DockerfileSource};
use crate::snapshot::{OneId, Owner, unpack as unpack_layer};
use crate::store::Store;

/// An open build context.
#[derive(Debug)]
pub(crate) struct Context {
    /// Where its files are; absent for a context without files.
    pub(crate) dir: Option<PathBuf>,
    /// What the user called it, for messages.
    pub(crate) name: String,
    /// What is left out.
    pub(crate) ignore: Ignore,
    /// Name of the ignore file, for messages.
    pub(crate) ignore_file: Option<String>,
    /// The time of all of its files; absent is that of the build.
    pub(crate) time: Option<i64>,
}

/// A build context that was fetched. No ignore file applies to it, and nothing in it leads out of it.
#[derive(Debug)]
pub(crate) enum Fetched {
    /// Files.
    Directory {
        /// Where they are.
        dir: PathBuf,
        /// What the user called it.
        name: String,
        /// The time that it has, and whether its files have it too.
        time: Option<i64>,
        /// Whether files have that time.
        stamped: bool,
    },
    /// A tar file or a Dockerfile.
    File {
        /// The file.
        file: File,
        /// What the user called it.
        name: String,
        /// The time that it has.
        time: Option<i64>,
    },
}

/// A context together with the Dockerfile that it is built by.
#[derive(Debug)]
pub(crate) struct Opened {
    /// The files.
    pub(crate) context: Context,
    /// Name of the Dockerfile, for messages.
    pub(crate) dockerfile: String,
    /// Its bytes.
    pub(crate) text: Vec<u8>,
    /// Where it lies; absent when it came from standard input.
    pub(crate) path: Option<PathBuf>,
    /// The time that the context has: of the commit, of the file, of an archive's newest member.
    pub(crate) time: Option<i64>,
}

/// A Dockerfile larger than this is refused: it is meant to be something else.
const MAX_DOCKERFILE: u64 = 64 << 20;

/// Opens the context and reads the Dockerfile of a request.
///
/// # Errors
/// When either does not exist or cannot be read, or both come from standard input.
pub(crate) fn open(
    request: &BuildRequest,
    store: &Store,
    stdin: fn() -> Box<dyn Read + Send>,
    fetched: Option<Fetched>,
) -> Result<Opened> {
    if let Some(fetched) = fetched {
        return remote::open(fetched, request, store, stdin);
    }
    check(request)?;
    let mut piped = None;
    let (dir, name) = match &request.context {
        ContextSource::Directory(dir) => {
            let meta = fs::metadata(dir).map_err(|e| no_context(dir).because(e))?;
            if !meta.is_dir() {
                return Err(no_context(dir).hint("give a directory, a tar file, or `-` for standard input"));
            }
            (Some(dir.clone()), dir.display().to_string())
        }
        ContextSource::Archive(path) => {
            let file = File::open(path).map_err(|e| no_context(path).because(e))?;
            let name = path.display().to_string();
            (Some(unpack(store, Box::new(file), &name, request.limits.layer_size)?), name)
        }
        ContextSource::Stdin => {
            let mut input = stdin();
            let mut head = vec![0; 512];
            let filled = fill(&mut input, &mut head).map_err(no_stdin)?;
            head.truncate(filled);
            let whole = Box::new(io::Cursor::new(head.clone()).chain(input));
            if is_archive(&head) {
                let name = "standard input".to_owned();
                (Some(unpack(store, whole, &name, request.limits.layer_size)?), name)
            } else {
                piped = Some(read_limited(whole, "standard input")?);
                (None, "standard input".to_owned())
            }
        }
        ContextSource::Empty => (None, "empty".to_owned()),
        ContextSource::Git(_) | ContextSource::Http(_) => {
            return Err(Error::internal("a build context was not fetched"));
        }
    };
    let (dockerfile, text, path) = match (piped, &request.dockerfile) {
        (Some(text), DockerfileSource::Default) => ("Dockerfile".to_owned(), text, None),
        (Some(_), _) => {
            return Err(Error::input("standard input is neither a tar archive nor needed as a Dockerfile")
                .hint("leave out `-f`, or give the context as a directory"));
        }
        (None, DockerfileSource::Stdin) => {
            ("Dockerfile".to_owned(), read_limited(stdin(), "standard input")?, None)
        }
        (None, source) => {
            let (path, file) = find::dockerfile(source, dir.as_deref())?;
            let shown =
                dir.as_deref().and_then(|d| path.strip_prefix(d).ok()).unwrap_or(&path).display().to_string();
            (shown.clone(), read_limited(Box::new(file), &shown)?, Some(path))
        }
    };
    let time = remote::archive_time(request, dir.as_deref());
    let context = find::with_ignore(dir, name, path.as_deref())?;
    Ok(Opened { context, dockerfile, text, path, time })
}

fn check(request: &BuildRequest) -> Result<()> {
    if request.context == ContextSource::Stdin && request.dockerfile == DockerfileSource::Stdin {
        return Err(Error::input("context and Dockerfile cannot both come from standard input")
            .hint("give one of them as a file"));
    }
    Ok(())
}

impl Context {
    /// Opens a directory given by name, with its own ignore file.
    ///
    /// # Errors
    /// When it is no directory, or its ignore file cannot be read.
    pub(crate) fn directory(dir: &Path, name: &str) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::input(format!("context `{name}` is not a directory: `{}`", dir.display())));
        }
        find::with_ignore(Some(dir.to_owned()), name.to_owned(), None)
    }
}

fn no_context(path: &Path) -> Error {
    Error::input(format!("cannot use `{}` as a build context", path.display()))
}

fn no_stdin(error: io::Error) -> Error {
    Error::input("cannot read the build context from standard input").because(error)
}

fn fill(input: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match input.read(&mut buf[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Tells an archive, plain or compressed, from a Dockerfile by its first bytes.
pub(crate) fn is_archive(head: &[u8]) -> bool {
    let compressed: [&[u8]; 4] =
        [&[0x1f, 0x8b], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh", &[0xfd, b'7', b'z', b'X', b'Z', 0]];
    compressed.iter().any(|magic| head.starts_with(magic)) || head.get(257..262) == Some(b"ustar")
}

fn read_limited(input: Box<dyn Read + Send>, name: &str) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    input
        .take(MAX_DOCKERFILE + 1)
        .read_to_end(&mut text)
        .map_err(|e| Error::input(format!("cannot read the Dockerfile from {name}")).because(e))?;
    if text.len() as u64 > MAX_DOCKERFILE {
        return Err(Error::input(format!(
            "the Dockerfile from {name} is larger than {} MiB",
            MAX_DOCKERFILE >> 20
        )));
    }
    Ok(text)
}

/// Unpacks a context archive; owners and times do not matter in a context, so files belong to whoever builds.
///
/// It may hold `most` bytes.
fn unpack(store: &Store, input: Box<dyn Read + Send>, name: &str, most: u64) -> Result<PathBuf> {
    let failed = |e: Box<dyn std::error::Error + Send + Sync>| {
        Error::input(format!("cannot unpack the build context from {name}")).because(e)
    };
    let dir = store.tmp_path();
    fs::create_dir(&dir).on("create", &dir)?;
    let limits = Limits { max_unpacked: most, ..Limits::default() };
    let reader = LayerReader::threaded_as(Form::Archive, input, limits).map_err(|e| failed(e.into()))?;
    let me = Owner { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    unpack_layer(reader, &dir, &OneId(me)).map_err(|e| {
        let limit = matches!(&e, crate::snapshot::Error::Layer(kiln_oci::layer::Error::Limit { .. }));
        let error = failed(e.into());
        if limit {
            error.hint("raise the limit with `--max-layer-size SIZE` if you trust the context")
        } else {
            error
        }
    })?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
        assert!(is_archive(&[0x1f, 0x8b, 8]));
        assert!(!is_archive(b"FROM scratch\n"));
        assert!(!is_archive(b""));
    }
}
