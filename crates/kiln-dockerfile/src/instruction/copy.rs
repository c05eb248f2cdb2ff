//! `COPY` and `ADD`: files into the image.

use super::{Json, Request};
use crate::diagnostic::{Diagnostic, quote};
use crate::directive::Escape;
use crate::expand::expand_word;
use crate::flag::{FlagValue, Kind};
use crate::heredoc::{Heredoc, Opening};
use crate::line::Piece;
use crate::source::Spanned;

/// Where copied bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A path, a wildcard, or for ADD a URL; unexpanded.
    Path(Spanned<String>),
    /// A file written in the Dockerfile; its name is the delimiter.
    Heredoc(Heredoc),
}

/// `COPY`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// What is copied; never empty.
    pub sources: Vec<Source>,
    /// Where it goes, unexpanded.
    pub dest: Spanned<String>,
    /// `--from`: a stage, an image or a named context; never expanded.
    pub from: Option<Spanned<String>>,
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Spanned<String>>,
    /// `--link`
    pub link: Option<Spanned<bool>>,
    /// `--parents`
    pub parents: Option<Spanned<bool>>,
    /// `--exclude`, unexpanded; feed the values to [`crate::ignore::Ignore::from_patterns`].
    pub exclude: Vec<Spanned<String>>,
}

/// `ADD`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// What is added; never empty.
    pub sources: Vec<Source>,
    /// Where it goes, unexpanded.
    pub dest: Spanned<String>,
    /// `--chown`, unexpanded.
    pub chown: Option<Spanned<String>>,
    /// `--chmod`, unexpanded.
    pub chmod: Option<Spanned<String>>,
    /// `--link`
    pub link: Option<Spanned<bool>>,
    /// `--exclude`, unexpanded.
    pub exclude: Vec<Spanned<String>>,
    /// `--checksum`, unexpanded.
    pub checksum: Option<Spanned<String>>,
    /// `--keep-git-dir`
    pub keep_git_dir: Option<Spanned<bool>>,
    /// `--unpack`; when absent, local archives are unpacked and remote ones are not.
    pub unpack: Option<Spanned<bool>>,
}

pub(super) fn parse_copy(request: &mut Request<'_, '_>) -> Option<Copy> {
    let flags = request.take_flags(&[
        ("from", Kind::Value),
        ("chown", Kind::Value),
        ("chmod", Kind::Value),
        ("link", Kind::Switch),
        ("parents", Kind::Switch),
        ("exclude", Kind::Values),
    ]);
    let from = flags.value("from");
    if let Some(from) = from.as_ref().filter(|from| has_variable(&from.value)) {
        let message = "variables are not expanded in `--from`";
        let help = "write `FROM $IMAGE AS name` as a stage of its own, and use its name here";
        request.diagnostics.push(Diagnostic::error("variable-in-from", from.span, message).with_help(help));
    }
    let (sources, dest) = sources_and_dest(request)?;
    Some(Copy {
        sources,
        dest,
        from,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link"),
        parents: flags.switch("parents"),
        exclude: flags.values("exclude").map(FlagValue::spanned).collect(),
    })
}

pub(super) fn parse_add(request: &mut Request<'_, '_>) -> Option<Add> {
    let flags = request.take_flags(&[
        ("chown", Kind::Value),
        ("chmod", Kind::Value),
        ("link", Kind::Switch),
        ("exclude", Kind::Values),
        ("checksum", Kind::Value),
        ("keep-git-dir", Kind::Switch),
        ("unpack", Kind::Switch),
    ]);
    let (sources, dest) = sources_and_dest(request)?;
    Some(Add {
        sources,
        dest,
        chown: flags.value("chown"),
        chmod: flags.value("chmod"),
        link: flags.switch("link"),
        exclude: flags.values("exclude").map(FlagValue::spanned).collect(),
        checksum: flags.value("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

/// Tells whether expansion would change a name; a dollar sign alone is part of it.
fn has_variable(name: &str) -> bool {
    name.contains('$')
        && expand_word(name, Escape::Backslash, &|_| None).map_or(true, |found| found.text != name)
}

fn sources_and_dest(request: &mut Request<'_, '_>) -> Option<(Vec<Source>, Spanned<String>)> {
    let (mut operands, may_open) = match request.json() {
        Json::Strings(strings) => (strings, false),
        Json::No => (request.operands.words().iter().map(Piece::spanned).collect(), true),
        Json::Faulty => return None,
    };
    let dest = operands.pop().filter(|_| !operands.is_empty());
    let Some(dest) = dest else {
        let message = format!("{} needs at least one source and a destination", request.name);
        let whole = request.keyword.span().to(request.operands.span());
        request.missing_operand(whole, message);
        return None;
    };
    let mut heredocs = std::mem::take(&mut request.heredocs).into_iter().peekable();
    if Opening::parse(&dest.value).is_some() {
        let message = format!("{} cannot have a heredoc as its destination", request.name);
        let help = format!("a heredoc is a source: write `{} <<NAME <destination>`", request.name);
        let diagnostic = Diagnostic::error("heredoc-destination", dest.span, message);
        request.diagnostics.push(diagnostic.with_help(help));
        return None;
    }
    let mut sources = Vec::new();
    for operand in operands {
        let Some(opening) = Opening::parse(&operand.value) else {
            sources.push(Source::Path(operand));
            continue;
        };
        match heredocs.next_if(|heredoc| opening.opens(heredoc)) {
            Some(heredoc) => sources.push(Source::Heredoc(heredoc)),
            None => {
                let message = format!("{} opens no heredoc here", quote(&operand.value));
                let help = if may_open {
                    "is a quote open on this line, or is there a blank in a delimiter?"
                } else {
                    "the JSON form has no heredocs; write the operands without brackets and quotes"
                };
                let diagnostic = Diagnostic::error("invalid-heredoc", operand.span, message);
                request.diagnostics.push(diagnostic.with_help(help));
                return None;
            }
        }
    }
    if let Some(unused) = heredocs.next() {
        // Blanks split operands here even inside quotes, so such a delimiter is no single operand.
        let message = format!("heredoc {} is no source of {}", quote(&unused.name.value), request.name);
        let help = "write `<<NAME` without spaces";
        let diagnostic = Diagnostic::error("invalid-heredoc", unused.name.span, message);
        request.diagnostics.push(diagnostic.with_help(help));
        return None;
    }
    Some((sources, dest))
}
