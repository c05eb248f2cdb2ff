//! One pattern as something that matches quickly.
//!
//! Most patterns of real files are a name, a name at any depth, or a suffix; these need one comparison. Of the
//! others most paths are turned away by the text that the pattern starts or ends with.

use crate::pattern::{self, PatternError, Token};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rule {
    /// The path itself.
    Exact(String),
    /// Everything that starts with this text: `a/**` and `a**`.
    Prefix(String),
    /// Everything that ends with this text: `**a`, `**/a`. With a slash in front the path itself as well.
    Suffix(String),
    /// All else.
    Wildcard { tokens: Vec<Token>, start: String, end: String },
}

impl Rule {
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        let tokens = tokens(pattern)?;
        if let Some(rule) = Self::simple(pattern) {
            return Ok(rule);
        }
        let literal = |token: Option<&Token>| match token {
            Some(Token::Literal(text)) => text.clone(),
            _ => String::new(),
        };
        let (start, end) = (literal(tokens.first()), literal(tokens.last()));
        Ok(Self::Wildcard { tokens, start, end })
    }

    fn simple(pattern: &str) -> Option<Self> {
        let plain = |text: &str| !text.contains(['*', '?', '[', ']', '\\']);
        if plain(pattern) {
            return Some(Self::Exact(pattern.to_owned()));
        }
        if let Some(prefix) = pattern.strip_suffix("**").filter(|prefix| plain(prefix)) {
            return Some(Self::Prefix(prefix.to_owned()));
        }
        let suffix = pattern.strip_prefix("**").filter(|suffix| plain(suffix))?;
        Some(Self::Suffix(suffix.to_owned()))
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        #[cfg(test)]
        EVALUATED.with(|count| count.set(count.get() + 1));
        match self {
            Self::Exact(text) => path == text,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path),
            Self::Wildcard { tokens, start, end } => {
                path.starts_with(start.as_str())
                    && path.ends_with(end.as_str())
                    && pattern::matches(tokens, path, '/')
            }
        }
    }

    /// Tells whether a path that starts with a directory and its slash could match.
    pub(super) fn may_match_below(&self, directory: &str) -> bool {
        match self {
            Self::Exact(text) => text.starts_with(directory),
            Self::Prefix(prefix) => prefix.starts_with(directory) || directory.starts_with(prefix.as_str()),
            Self::Suffix(_) => true,
            Self::Wildcard { tokens, .. } => pattern::may_match_below(tokens, directory, '/'),
        }
    }
}

#[cfg(test)]
thread_local! {
    /// How often a pattern was matched on this thread: what tests bound.
    pub(super) static EVALUATED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Reads the syntax of Go's `filepath.Match` with `**` added. A slash after `**` belongs to it.
fn tokens(pattern: &str) -> Result<Vec<Token>, PatternError> {
    let mut tokens = Vec::new();
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                tokens.push(if characters.peek().is_none() { Token::Rest } else { Token::Directories });
            }
            '*' => tokens.push(Token::Star),
            '?' => tokens.push(Token::One),
            '[' => tokens.push(pattern::class(&mut characters)?),
            '\\' => pattern::push_literal(&mut tokens, characters.next().ok_or(PatternError)?),
            other => pattern::push_literal(&mut tokens, other),
        }
    }
    Ok(tokens)
}
