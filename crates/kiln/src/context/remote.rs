//! Build contexts that were fetched, and what is different about them: their files are a stranger's.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_dockerfile::ignore::Ignore;
use kiln_sandbox::RootDir;

use super::{Context, Fetched, Opened, fill, is_archive, read_limited, unpack};
use crate::error::{Error, Result};
use crate::request::{BuildRequest, ContextSource, DockerfileSource};
use crate::store::Store;

/// Names that a Dockerfile has when nobody says which.
const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Opens a context that was fetched, and finds its Dockerfile.
pub(super) fn open(
    fetched: Fetched,
    request: &BuildRequest,
    store: &Store,
    stdin: fn() -> Box<dyn Read + Send>,
) -> Result<Opened> {
    let (dir, name, time, stamped) = match fetched {
        Fetched::Directory { dir, name, time, stamped } => (dir, name, time, stamped),
        Fetched::File { mut file, name, time } => {
            let failed = |e: io::Error| {
                Error::input(format!("cannot read the build context from `{name}`")).because(e)
            };
            let mut head = vec![0; 512];
            let filled = fill(&mut file, &mut head).map_err(failed)?;
            head.truncate(filled);
            let archive = is_archive(&head);
            let whole = Box::new(io::Cursor::new(head).chain(file));
            if !archive {
                return dockerfile_alone(whole, name, time, request, stdin);
            }
            let dir = unpack(store, whole, &name, request.limits.layer_size)?;
            let time = time.or_else(|| newest(&dir));
            (dir, name, time, false)
        }
    };
    let context = Context {
        dir: Some(dir.clone()),
        name: name.clone(),
        ignore: Ignore::parse("").0,
        ignore_file: None,
        time: time.filter(|_| stamped),
    };
    if request.dockerfile == DockerfileSource::Stdin {
        let text = read_limited(stdin(), "standard input")?;
        return Ok(Opened { context, dockerfile: "Dockerfile".to_owned(), text, path: None, time });
    }
    let root = RootDir::open(&dir)
        .map_err(|e| Error::input(format!("cannot open the build context `{name}`")).because(e))?;
    let (path, file) = dockerfile(&request.dockerfile, &root, &name)?;
    let shown = path.display().to_string();
    let text = read_limited(Box::new(file), &shown)?;
    Ok(Opened { context, dockerfile: shown, text, path: None, time })
}

/// A file that is no archive is the Dockerfile, and there is no context.
fn dockerfile_alone(
    whole: Box<dyn Read + Send>,
    name: String,
    time: Option<i64>,
    request: &BuildRequest,
    stdin: fn() -> Box<dyn Read + Send>,
) -> Result<Opened> {
    let text = match &request.dockerfile {
        DockerfileSource::Default => read_limited(whole, &name)?,
        DockerfileSource::Stdin => read_limited(stdin(), "standard input")?,
        DockerfileSource::File(path) => {
            return Err(Error::input(format!(
                "there is no `{}` in `{name}`, which is one file",
                path.display()
            ))
            .hint("leave out `-f`: a file that is no archive is the Dockerfile"));
        }
    };
    if text.trim_ascii_start().first() == Some(&b'<') {
        return Err(Error::input(format!("`{name}` is a web page, and a build context is a tar or a Dockerfile"))
            .hint("did you mean a repository? its address ends in `.git`: `https://HOST/NAME.git#REFERENCE:DIRECTORY`"));
    }
    let context = Context { dir: None, name, ignore: Ignore::parse("").0, ignore_file: None, time: None };
    Ok(Opened { context, dockerfile: "Dockerfile".to_owned(), text, path: None, time })
}

/// Finds the Dockerfile in the context and nowhere else; links in it lead nowhere else either.
fn dockerfile(source: &DockerfileSource, root: &RootDir, name: &str) -> Result<(PathBuf, File)> {
    let wanted: Vec<PathBuf> = match source {
        DockerfileSource::File(path) => vec![path.clone()],
        DockerfileSource::Default | DockerfileSource::Stdin => NAMES.iter().map(PathBuf::from).collect(),
    };
    for path in &wanted {
        match root.open_file(path) {
            Ok(file) => return Ok((path.clone(), file)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => {
                return Err(Error::input(format!("cannot read `{}` of `{name}`", path.display())).because(e));
            }
        }
    }
    let missing = wanted.first().map(|p| p.display().to_string()).unwrap_or_default();
    Err(Error::input(format!("no Dockerfile: `{name}` has no `{missing}`"))
        .hint("`-f FILE` names a file in the context; a directory of it is named in the address, `URL#REFERENCE:DIRECTORY`"))
}

/// Returns the time of an archive of this machine, unpacked in `dir`; a directory has none.
pub(super) fn archive_time(request: &BuildRequest, dir: Option<&Path>) -> Option<i64> {
    let archive = matches!(request.context, ContextSource::Archive(_) | ContextSource::Stdin);
    dir.filter(|_| archive).and_then(newest)
}

/// Returns the time of the newest file below `dir`.
fn newest(dir: &Path) -> Option<i64> {
    let mut newest = None;
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).ok()?.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                todo.push(entry.path());
            } else if meta.is_file() {
                newest = newest.max(Some(meta.mtime()));
            }
        }
    }
    newest
}
