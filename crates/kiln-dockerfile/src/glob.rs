//! Wildcards of `COPY` and `ADD` sources, with the rules of Go's `filepath.Match`.
//!
//! `*` is any text and `?` any character without `/`, `[a-z]` and `[^a-z]` are classes, a backslash takes the
//! next character as it is. `**` has no special meaning.

use crate::pattern::{self, Token};

pub use crate::pattern::PatternError;

/// A pattern ready to match many names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    ///
    /// Returns an error for an unclosed or empty class and for a backslash at the end.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let mut tokens = Vec::new();
        let mut characters = pattern.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '*' if tokens.last() != Some(&Token::Star) => tokens.push(Token::Star),
                '*' => {}
                '?' => tokens.push(Token::One),
                '[' => tokens.push(pattern::class(&mut characters)?),
                '\\' => pattern::push_literal(&mut tokens, characters.next().ok_or(PatternError)?),
                other => pattern::push_literal(&mut tokens, other),
            }
        }
        Ok(Self { tokens })
    }

    /// Tells whether the pattern matches a whole name.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        pattern::matches(&self.tokens, name, '/')
    }
}

/// Tells whether a pattern matches a whole name.
///
/// # Errors
///
/// Returns an error for an unclosed or empty class and for a backslash at the end.
pub fn matches(pattern: &str, name: &str) -> Result<bool, PatternError> {
    Ok(Glob::new(pattern)?.matches(name))
}

/// Tells whether a path has a wildcard, so that it may name any number of files.
#[must_use]
pub fn has_wildcard(path: &str) -> bool {
    let mut characters = path.chars();
    while let Some(character) = characters.next() {
        match character {
            '*' | '?' | '[' => return true,
            '\\' => drop(characters.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_in_go() {
        let check = |pattern: &str, name: &str, expect: bool| {
            assert_eq!(matches(pattern, name), Ok(expect), "{pattern} on {name}");
        };
        check("abc", "abc", true);
        check("*", "abc", true);
        check("*", "", true);
        check("*c", "abc", true);
        check("a*", "a", true);
        check("a*", "ab/c", false);
        check("a*/b", "abc/b", true);
        check("a*/b", "a/c/b", false);
        check("a*b*c*d*e*/f", "axbxcxdxe/f", true);
        check("a*b*c*d*e*/f", "axbxcxdxexxx/fff", false);
        check("a*b?c*x", "abxbbxdbxebxczzx", true);
        check("a*b?c*x", "abxbbxdbxebxczzy", false);
        check("ab[c]", "abc", true);
        check("ab[b-d]", "abc", true);
        check("ab[e-g]", "abc", false);
        check("ab[^c]", "abc", false);
        check("ab[^e-g]", "abc", true);
        check(r"a\*b", "a*b", true);
        check(r"a\*b", "ab", false);
        check("a?b", "a☺b", true);
        check("a[^a]b", "a☺b", true);
        check("a???b", "a☺b", false);
        check("[a-ζ]*", "α", true);
        check("*[a-ζ]", "A", false);
        check("a?b", "a/b", false);
        check("a*b", "a/b", false);
        check(r"[\]a]", "]", true);
        check(r"[\-]", "-", true);
        check(r"[x\-]", "z", false);
        check("a]", "a]", true);
        check("**", "a/b", false);
        check("*x", "xxx", true);
        check("", "", true);
        check("", "a", false);
    }

    #[test]
    fn broken_patterns() {
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", r"\", "[a-b-c]", "[", "[^", "[^bc", "a[", "[]", r"[a\"]
        {
            assert_eq!(matches(pattern, "a"), Err(PatternError), "{pattern}");
        }
    }

    #[test]
    fn wildcards_are_seen() {
        let check = |path: &str, expect: bool| assert_eq!(has_wildcard(path), expect, "{path}");
        check("a/b", false);
        check("a*", true);
        check("a?", true);
        check("[a]", true);
        check(r"a\*", false);
        check(r"a\\*", true);
        check(r"a\", false);
    }
}
