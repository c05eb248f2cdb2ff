//! `.dockerignore`: which paths of a context are left out.
//!
//! Start at [`Ignore::parse`]. A path is given relative to the root of the context, with `/` between its parts
//! and without `.` or `..`. Of all patterns that match the path or one of its parents the last one decides:
//! an ordinary pattern leaves the path out, one with `!` takes it in again.
//!
//! Patterns are gone through in order, as BuildKit does, and one that could change nothing at its turn is not looked
//! at: an ordinary pattern where the path is out already, one with `!` where it is in. That shows in one corner. A
//! pattern that was passed over for a directory does not count for what lies in it, so of `a`, `!a/b`, `a` the last
//! takes nothing back.
//!
//! A walker that goes through a tree keeps an [`IgnoreState`] per directory, so that no pattern is matched
//! against the same parent twice, and asks [`Ignore::may_reinclude_below`] before it passes over an excluded
//! directory.

mod rule;

use rule::Rule;

use crate::diagnostic::{Diagnostic, quote};
use crate::line::Lines;
use crate::source::Span;

/// The patterns of a file, ready to match.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// The pattern in its shortest form, without `!` and the leading `/`.
    pub text: String,
    /// Whether it takes paths in again.
    pub negated: bool,
    /// The line of the file, or the place in the list; counted from one.
    pub line: usize,
    rule: Rule,
}

/// What was decided about a path, and by which pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the path is left out.
    pub excluded: bool,
    /// The pattern that decided; none when no pattern matches.
    pub pattern: Option<&'a Pattern>,
}

/// What is known about a directory: the last pattern that matches it or one of its parents.
///
/// That pattern matches everything below as well, so no pattern before it can decide anything there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IgnoreState {
    last: Option<usize>,
}

impl Ignore {
    /// Reads the text of an ignore file. A faulty pattern is reported and has no effect.
    #[must_use]
    pub fn parse(source: &str) -> (Self, Vec<Diagnostic>) {
        let mut patterns = Vec::new();
        let mut diagnostics = Vec::new();
        for line in Lines::new(source) {
            // A comment starts in the first column; an indented `#` is part of a name.
            if line.content.starts_with('#') || line.content.trim().is_empty() {
                continue;
            }
            match Pattern::new(&relative(line.content), line.number) {
                Ok(pattern) => patterns.push(pattern),
                Err(message) => diagnostics.push(invalid(line.span(), message)),
            }
        }
        (Self { patterns }, diagnostics)
    }

    /// Reads a list of patterns, as `COPY --exclude` gives them: none is a comment, and a leading `/` stays.
    ///
    /// # Errors
    ///
    /// Returns the message about the first faulty pattern.
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let filled = patterns.into_iter().enumerate().filter(|(_, text)| !text.trim().is_empty());
        let read = filled.map(|(index, text)| Pattern::new(text, index + 1));
        Ok(Self { patterns: read.collect::<Result<_, _>>()? })
    }

    /// Returns the patterns in order.
    #[must_use]
    pub fn patterns(&self) -> &[Pattern] {
        &self.patterns
    }

    /// Tells whether no path can be excluded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.iter().all(|pattern| pattern.negated)
    }

    /// Decides about one path without knowledge of its parents.
    #[must_use]
    pub fn matches(&self, path: &str) -> Decision<'_> {
        let mut state = self.root();
        for (end, _) in path.match_indices('/') {
            state = self.enter(&state, path.get(..end).unwrap_or_default()).1;
        }
        self.decide(&state, path)
    }

    /// Returns what is known about the root of the context, which nothing excludes.
    #[must_use]
    pub fn root(&self) -> IgnoreState {
        IgnoreState::default()
    }

    /// Decides about a path whose directory is known; for paths that have no children.
    #[must_use]
    pub fn decide(&self, parent: &IgnoreState, path: &str) -> Decision<'_> {
        self.enter(parent, path).0
    }

    /// Decides about a directory and returns what its children need to know.
    #[must_use]
    pub fn enter(&self, parent: &IgnoreState, path: &str) -> (Decision<'_>, IgnoreState) {
        let mut state = *parent;
        let mut excluded = self.decision(state).excluded;
        for (index, pattern) in self.patterns.iter().enumerate().skip(parent.last.map_or(0, |last| last + 1))
        {
            if pattern.negated == excluded && pattern.rule.matches(path) {
                excluded = !pattern.negated;
                state.last = Some(index);
            }
        }
        (self.decision(state), state)
    }

    fn decision(&self, state: IgnoreState) -> Decision<'_> {
        let pattern = state.last.and_then(|last| self.patterns.get(last));
        Decision { excluded: pattern.is_some_and(|pattern| !pattern.negated), pattern }
    }

    /// Tells whether a path below a directory could be taken in again, when `decision` was made about the directory.
    ///
    /// When not, an excluded directory need not be read. It says yes when in doubt.
    #[must_use]
    pub fn may_reinclude_below(&self, decision: Decision<'_>, directory: &str) -> bool {
        let prefix = format!("{directory}/");
        // A pattern before the one that excludes the directory cannot win below it.
        let later =
            self.patterns.iter().rev().take_while(|pattern| {
                decision.pattern.is_none_or(|deciding| !std::ptr::eq(*pattern, deciding))
            });
        later.filter(|pattern| pattern.negated).any(|pattern| pattern.rule.may_match_below(&prefix))
    }

    /// Tells whether an ordinary pattern could match a path below a directory; it says yes when in doubt.
    #[must_use]
    pub fn may_match_below(&self, directory: &str) -> bool {
        let prefix = format!("{directory}/");
        self.patterns.iter().filter(|pattern| !pattern.negated).any(|p| p.rule.may_match_below(&prefix))
    }
}

impl Pattern {
    fn new(text: &str, line: usize) -> Result<Self, String> {
        let text = clean_path(text.trim());
        let (negated, text) = match text.strip_prefix('!') {
            Some("") => return Err("the pattern `!` takes nothing in".to_owned()),
            Some(rest) => (true, rest.to_owned()),
            None => (false, text),
        };
        let rule = Rule::new(&text).map_err(|error| format!("{error} {}", quote(&text)))?;
        Ok(Self { text, negated, line, rule })
    }
}

fn invalid(span: Span, message: String) -> Diagnostic {
    Diagnostic::error("invalid-pattern", span, message)
}

/// Makes a line of an ignore file relative to the root of the context and keeps its `!`.
fn relative(line: &str) -> String {
    let line = line.trim();
    let (sign, pattern) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest.trim()),
        None => ("", line),
    };
    if pattern.is_empty() {
        return sign.to_owned();
    }
    let clean = clean_path(pattern);
    let relative = clean.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&clean);
    format!("{sign}{relative}")
}

/// Returns the shortest path with the same meaning, as Go's `filepath.Clean` does: without `.`, without
/// doubled or trailing slashes, and with `..` taken into account. An empty path is `.`.
#[must_use]
pub fn clean_path(path: &str) -> String {
    let absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            other => parts.push(other),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

#[cfg(test)]
mod tests;
