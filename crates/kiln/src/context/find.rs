//! Finds the Dockerfile and the ignore file of a context of this machine.
//!
//! A context may be a stranger's: a repository that was cloned, an archive. So a file that is found *in* it is taken from
//! it and from nowhere else. A link in its place that leads out is refused, because what is wrong with a file is shown with
//! its text, and that file might be a key. What `-f` names outside of the context is the user's own, links included.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use kiln_dockerfile::ignore::Ignore;
use kiln_sandbox::rootdir::{Escape, RootDir};
use rustix::io::Errno;

use super::{Context, MAX_DOCKERFILE};
use crate::error::{Error, FileContext as _, Place, Result};
use crate::request::DockerfileSource;

/// The names that a Dockerfile has when nobody says another.
const NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];

/// Opens the Dockerfile, and returns its path with it.
pub(super) fn dockerfile(source: &DockerfileSource, dir: Option<&Path>) -> Result<(PathBuf, File)> {
    let missing = |name: &str| {
        let place = dir.map_or_else(
            || "there is no context to look into".to_owned(),
            |d| format!("looked in `{}`", d.display()),
        );
        Error::input(format!("no Dockerfile: `{name}` does not exist"))
            .because(io::Error::new(io::ErrorKind::NotFound, place))
    };
    let names = match source {
        DockerfileSource::File(path) => {
            if path.is_file() && !dir.is_some_and(|dir| path.starts_with(dir)) {
                return Ok((path.clone(), File::open(path).on("open", path)?));
            }
            // As it stands, or as a name in the context.
            let inside = dir.and_then(|dir| path.strip_prefix(dir).ok()).unwrap_or(path);
            vec![inside.to_owned()]
        }
        DockerfileSource::Default | DockerfileSource::Stdin => NAMES.iter().map(PathBuf::from).collect(),
    };
    for name in &names {
        if let Some((dir, file)) = dir.filter(|_| name.is_relative()).map(|dir| (dir, inside(dir, name))) {
            match file? {
                Some(file) => return Ok((dir.join(name), file)),
                None => continue,
            }
        }
    }
    Err(match source {
        DockerfileSource::File(path) => missing(&path.display().to_string()).hint("name it with `-f FILE`"),
        DockerfileSource::Default | DockerfileSource::Stdin => {
            missing("Dockerfile").hint("name it with `-f FILE`, or give the directory that holds it")
        }
    })
}

/// Opens a file of a context; `None` when there is nothing of this name.
fn inside(dir: &Path, name: &Path) -> Result<Option<File>> {
    let shown = name.display();
    let failed = |why: io::Error| Error::input(format!("cannot read `{shown}` of the context")).because(why);
    let root = RootDir::open_with(dir, Escape::Refused).map_err(|e| failed(e.source))?;
    let errno = match root.open_file(name) {
        Ok(file) => return Ok(Some(file)),
        Err(e) => e,
    };
    let link = root.lstat(name).is_ok_and(|meta| meta.kind == kiln_sandbox::rootdir::Kind::Symlink);
    match errno.errno().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) if !link => Ok(None),
        Some(Errno::XDEV | Errno::NOENT | Errno::LOOP) => {
            Err(Error::input(format!("`{shown}` is a symbolic link that leads to no file of the context"))
                .hint("put the file itself there; a Dockerfile from elsewhere is named with `-f FILE`"))
        }
        Some(Errno::ISDIR) => Err(Error::input(format!("`{shown}` is a directory, and should be a file"))),
        Some(Errno::INVAL | Errno::NXIO) => {
            Err(Error::input(format!("`{shown}` is a pipe, a socket or a device, and should be a file")))
        }
        _ => Err(failed(errno.source)),
    }
}

/// Finds the ignore file: `<Dockerfile>.dockerignore` wins over `.dockerignore`, and that over `.containerignore`.
pub(super) fn with_ignore(dir: Option<PathBuf>, name: String, dockerfile: Option<&Path>) -> Result<Context> {
    let own = dockerfile.map(|d| {
        let mut name = d.as_os_str().to_owned();
        name.push(".dockerignore");
        PathBuf::from(name)
    });
    let shared = dir.iter().flat_map(|d| [d.join(".dockerignore"), d.join(".containerignore")]);
    for path in own.into_iter().chain(shared) {
        let file = match dir.as_deref().and_then(|d| Some((d, path.strip_prefix(d).ok()?))) {
            Some((dir, inner)) => inside(dir, inner)?,
            // Beside a Dockerfile from elsewhere.
            None if path.is_file() => Some(File::open(&path).on("open", &path)?),
            None => None,
        };
        let Some(file) = file else { continue };
        let mut bytes = Vec::new();
        file.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes).on("read", &path)?;
        let shown =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        if bytes.len() as u64 > MAX_DOCKERFILE {
            return Err(Error::input(format!("`{shown}` is larger than {} MiB", MAX_DOCKERFILE >> 20)));
        }
        let text = String::from_utf8_lossy(&bytes);
        let (ignore, faults) = Ignore::parse(text.strip_prefix('\u{feff}').unwrap_or(&text));
        if let Some(fault) = faults.into_iter().find(kiln_dockerfile::Diagnostic::is_error) {
            let place =
                Place { file: shown, text: text.into_owned().into(), span: fault.span.start..fault.span.end };
            return Err(Error::input(fault.message).at(Some(place)));
        }
        return Ok(Context { dir, name, ignore, ignore_file: Some(shown), time: None });
    }
    Ok(Context { dir, name, ignore: Ignore::parse("").0, ignore_file: None, time: None })
}
