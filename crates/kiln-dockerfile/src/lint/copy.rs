//! COPY and ADD: sources that the ignore file leaves out.

use super::variables::Words;
use crate::diagnostic::quote;
use crate::ignore::{Ignore, clean_path};
use crate::instruction::{Add, Copy, Source};
use crate::source::Spanned;

pub(super) fn copy(words: &mut Words<'_, '_>, copy: &Copy) {
    for flag in [&copy.chown, &copy.chmod].into_iter().flatten() {
        words.word(flag);
    }
    let sources = sources(words, &copy.sources);
    if copy.from.is_none() {
        ignored(words, "COPY", &sources);
    }
    dest(words, &copy.dest, &sources);
}

pub(super) fn add(words: &mut Words<'_, '_>, add: &Add) {
    for flag in [&add.chown, &add.chmod, &add.checksum].into_iter().flatten() {
        words.word(flag);
    }
    let sources = sources(words, &add.sources);
    let files: Vec<_> = sources.iter().filter(|source| !is_remote(&source.value)).cloned().collect();
    ignored(words, "ADD", &files);
    dest(words, &add.dest, &sources);
}

/// A URL or a git repository is no file of the context.
fn is_remote(source: &str) -> bool {
    source.contains("://") || source.starts_with("git@")
}

/// Returns the paths with variables replaced, without those that are not known.
fn sources(words: &mut Words<'_, '_>, sources: &[Source]) -> Vec<Spanned<String>> {
    let mut known = Vec::new();
    for source in sources {
        match source {
            Source::Path(path) => known.extend(words.word(path).map(|value| Spanned::new(value, path.span))),
            Source::Heredoc(heredoc) => words.heredoc(heredoc),
        }
    }
    known
}

fn ignored(words: &mut Words<'_, '_>, keyword: &str, sources: &[Spanned<String>]) {
    let Some(ignore) = words.linter.input.ignore else { return };
    // What a pattern with `!` takes in again may be just the part that is copied.
    if ignore.is_empty() || ignore.patterns().iter().any(|pattern| pattern.negated) {
        return;
    }
    for source in sources {
        let path = clean_path(&source.value);
        let path = path.trim_start_matches('/');
        let excluded = match path {
            "" | "." => excludes_all(ignore),
            path => ignore.matches(path).excluded,
        };
        if excluded {
            let message =
                format!("{keyword} cannot find {}: the ignore file leaves it out", quote(&source.value));
            let help = "change the ignore file, or leave the source out";
            words.linter.warn("CopyIgnoredFile", source.span, message, help);
        }
    }
}

/// The root of the context is never ignored itself, but everything in it can be.
fn excludes_all(ignore: &Ignore) -> bool {
    ignore.patterns().iter().any(|pattern| matches!(pattern.text.as_str(), "*" | "**" | "**/*"))
}

/// Remembers what the instruction puts where.
fn dest(words: &mut Words<'_, '_>, dest: &Spanned<String>, sources: &[Spanned<String>]) {
    let Some(dest) = words.word(dest) else { return };
    let workdir = words.state.workdir.clone();
    words.state.made.copied(&dest, sources.iter().map(|source| source.value.as_str()), workdir.as_deref());
}
