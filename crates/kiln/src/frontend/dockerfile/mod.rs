//! The Dockerfile frontend: syntax tree in, plan out.
//!
//! [`Source::parse`] reads the file, [`lower`] is a pure function of request, tree and pins. It does not fetch: a
//! base image that it has no [`Pins`] for comes back as [`Lowered::Wanted`], the caller resolves it and asks
//! again. That is the only loop in a build, and it ends because every round names images not named before.

mod args;
mod base;
pub mod checks;
mod epoch;
mod files;
mod history;
mod lower;
mod mounts;
mod names;
mod remote;
mod run;
mod stage;
mod vars;
mod words;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use kiln_dockerfile::{Diagnostic, Dockerfile, Span};
use kiln_oci::{Digest, Platform};

use crate::address::{GitAddress, Url};
use crate::error::{Error, Place, Result};
use crate::graph::{BaseImage, GitCommit, HttpFile, Plan};
use crate::request::BuildRequest;

pub use args::{Notice, notices};
pub use epoch::{EpochSource, epoch_source};
pub use lower::lower;

/// A Dockerfile that was read without an error.
#[derive(Debug)]
pub struct Source {
    /// Name as the user gave it.
    pub name: String,
    /// The text.
    pub text: Arc<str>,
    /// The tree.
    pub tree: Dockerfile,
    /// What the parser found that is no error; the checks show it.
    pub warnings: Vec<Diagnostic>,
}

impl Source {
    /// Parses `bytes`.
    ///
    /// # Errors
    /// When the file is not a Dockerfile; every fault of the file is reported, not only the first. To those of
    /// the language come those of the names in it, which need no more than `request`.
    pub fn parse(name: &str, bytes: &[u8], request: &BuildRequest) -> Result<Self> {
        let (tree, diagnostics) = kiln_dockerfile::parse_bytes(bytes);
        // What is shown of the file shows no password; stars keep every place where it is.
        let text: Arc<str> = crate::address::mask(&kiln_dockerfile::decode(bytes)).into();
        let (errors, warnings): (Vec<_>, Vec<_>) = diagnostics.into_iter().partition(Diagnostic::is_error);
        let source = Self { name: name.to_owned(), text, tree, warnings };
        let mut errors: Vec<Error> = errors.into_iter().map(|fault| source.error(fault)).collect();
        if errors.is_empty() {
            return Ok(source);
        }
        if let Err(mut error) = lower(request, &source, &Pins::new()) {
            errors.extend(std::mem::take(&mut error.also));
            errors.push(error);
        }
        // What has no place, such as a target that was not read, may be the consequence of another fault.
        errors.retain(|e| e.place.is_some());
        // All are in one file, whose text need not be compared.
        let span = |e: &Error| e.place.as_ref().map(|p| (p.span.start, p.span.end));
        errors.sort_by_key(|e| span(e).map(|(start, _)| start));
        errors.dedup_by(|b, a| span(a) == span(b));
        Error::first_of(errors).map_or(Ok(source), Err)
    }

    pub(super) fn error(&self, diagnostic: Diagnostic) -> Error {
        let mut error = Error::input(diagnostic.message).at(Some(self.place(diagnostic.span)));
        error.hints.extend(diagnostic.help);
        error
    }

    /// Returns the place of `span`.
    #[must_use]
    pub fn place(&self, span: Span) -> Place {
        Place { file: self.name.clone(), text: Arc::clone(&self.text), span: span.start..span.end }
    }
}

/// A name that a build needs resolved.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As written, variables replaced; for what lies elsewhere, without credentials.
    pub name: String,
    /// What the name is.
    pub ask: Ask,
    /// For which platform.
    pub platform: Platform,
    /// Where it is asked for.
    pub place: Option<Place>,
    /// The stage that was perhaps meant, should there be no such image.
    pub similar: Option<String>,
}

impl Wanted {
    /// Returns its key in [`Pins`].
    #[must_use]
    pub fn key(&self) -> (String, String) {
        match &self.ask {
            Ask::Name => pin_key(&self.name, &self.platform),
            ask => ask.key(),
        }
    }
}

/// What has to be asked for.
#[derive(Debug, Clone)]
pub enum Ask {
    /// An image, or a context given by `--build-context`.
    Name,
    /// A file of a web server, perhaps with the digest it has to have.
    Http(Url, Option<Digest>),
    /// A commit, and whether `.git` is wanted too.
    Git(Box<GitAddress>, bool),
}

impl Ask {
    /// Returns the key in [`Pins`] of what lies elsewhere, which no name of an image is equal to.
    #[must_use]
    pub fn key(&self) -> (String, String) {
        match self {
            Self::Name => Default::default(),
            Self::Http(url, checksum) => {
                let checksum = checksum.as_ref().map_or("", |digest| digest.as_str());
                (url.reveal().to_owned(), format!("http {checksum}"))
            }
            Self::Git(address, keep) => {
                (address.remote.reveal().to_owned(), format!("git {address:?} {keep}"))
            }
        }
    }
}

/// What a name stands for.
#[derive(Debug, Clone)]
pub enum Pin {
    /// An image.
    Image(Box<BaseImage>),
    /// A directory of files, given by `--build-context`.
    Directory(PathBuf),
    /// A file of a web server.
    Http(Box<HttpFile>),
    /// A commit of a repository.
    Git(Box<GitCommit>),
}

/// Everything that names stand for in this build: the lock.
pub type Pins = BTreeMap<(String, String), Pin>;

/// The key of a name in [`Pins`].
#[must_use]
pub fn pin_key(name: &str, platform: &Platform) -> (String, String) {
    (name.to_owned(), platform.to_string())
}

/// What lowering gives.
#[derive(Debug)]
pub enum Lowered {
    /// The plan.
    Plan(Plan),
    /// Names that have to be resolved first.
    Wanted(Vec<Wanted>),
}
