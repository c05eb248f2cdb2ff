//! What is wrong with a text, and where: data for a renderer, never printed here.

use crate::source::Span;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The text has a meaning, probably not the wanted one.
    Warning,
    /// The text has no meaning; nothing may be built from it.
    Error,
}

/// One finding about the source text.
///
/// The message is a lower-case fragment without a final period that quotes input in backticks, so that it
/// reads after `error: `.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The name of the rule, stable for suppression lists and tests: an error's in kebab-case, that of a check
    /// as in [`crate::lint::RULES`].
    pub code: &'static str,
    /// The offending text.
    pub span: Span,
    /// What is wrong.
    pub message: String,
    /// What to do next, when that is known.
    pub help: Option<String>,
    /// The change that puts it right, when no thought is needed for that.
    pub fix: Option<Fix>,
}

/// A change of the source text that puts it right as its author surely meant it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// The edits, in order and without overlap; never empty.
    pub edits: Vec<Edit>,
}

/// One replacement of a piece of the source text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// What is replaced; empty for an insertion.
    pub span: Span,
    /// What comes in its place.
    pub replacement: String,
}

impl Fix {
    /// Makes a fix of one edit.
    #[must_use]
    pub fn replace(span: Span, replacement: impl Into<String>) -> Self {
        Self { edits: vec![Edit { span, replacement: replacement.into() }] }
    }
}

impl Diagnostic {
    /// Makes an error without help.
    #[must_use]
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, span, message: message.into(), help: None, fix: None }
    }

    /// Makes a warning without help.
    #[must_use]
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    /// Adds the change that puts it right, when there is one.
    #[must_use]
    pub fn with_fix(self, fix: Option<Fix>) -> Self {
        Self { fix: fix.or(self.fix), ..self }
    }

    /// Adds ``did you mean `x`?`` when there is a suggestion.
    #[must_use]
    pub fn with_suggestion(self, suggestion: Option<&str>) -> Self {
        match suggestion {
            Some(name) => self.with_help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Tells whether this is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

/// The longest piece of input that a message repeats; a fault in a minified line must not flood the log.
const QUOTE_LIMIT: usize = 60;

/// Puts input into backticks, shortened and without control characters.
pub(crate) fn quote(input: &str) -> String {
    let mut quoted = String::from("`");
    for (index, character) in input.chars().enumerate() {
        if index == QUOTE_LIMIT {
            quoted.push('…');
            break;
        }
        if character.is_control() {
            quoted.extend(character.escape_default());
        } else {
            quoted.push(character);
        }
    }
    quoted.push('`');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_input_is_short_and_printable() {
        assert_eq!(quote("a b"), "`a b`");
        assert_eq!(quote("a\u{1b}[0m\n"), "`a\\u{1b}[0m\\n`");
        assert_eq!(quote(&"x".repeat(100)), format!("`{}…`", "x".repeat(60)));
    }
}
