//! Parser directives: the `# key=value` comments that must come before anything else.

use crate::diagnostic::{Diagnostic, quote};
use crate::json;
use crate::line::Lines;
use crate::source::{Span, Spanned};

/// The character that escapes others and continues lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Escape {
    /// `\`, the default.
    #[default]
    Backslash,
    /// `` ` ``, for Windows paths.
    Backtick,
}

impl Escape {
    /// Returns the character.
    #[must_use]
    pub fn character(self) -> char {
        match self {
            Self::Backslash => '\\',
            Self::Backtick => '`',
        }
    }
}

/// The directives of a file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Directives {
    /// `# syntax=`: the frontend image, and whatever follows the first space.
    pub syntax: Option<Spanned<String>>,
    /// `# escape=`.
    pub escape: Option<Spanned<Escape>>,
    /// `# check=`; read it with [`Check::parse`].
    pub check: Option<Spanned<String>>,
}

impl Directives {
    /// Returns the escape character in force.
    #[must_use]
    pub fn escape(&self) -> Escape {
        self.escape.map_or_else(Escape::default, |escape| escape.value)
    }

    /// Returns the frontend image of `# syntax=` without the words after it.
    #[must_use]
    pub fn syntax_image(&self) -> Option<&str> {
        self.syntax.as_ref().map(|syntax| first_word(&syntax.value))
    }
}

/// Which rules a `check` directive means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckRules {
    /// `all`.
    All,
    /// A list of names.
    Named(Vec<String>),
}

impl Default for CheckRules {
    fn default() -> Self {
        Self::Named(Vec::new())
    }
}

impl CheckRules {
    /// Tells whether a rule is meant, without regard to case.
    #[must_use]
    pub fn contains(&self, rule: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.iter().any(|name| name.eq_ignore_ascii_case(rule)),
        }
    }

    fn parse(value: &str) -> Self {
        if value.trim().eq_ignore_ascii_case("all") {
            return Self::All;
        }
        let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
        Self::Named(names.map(str::to_owned).collect())
    }
}

/// The meaning of `skip=…;error=…;experimental=…`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Check {
    /// Rules that are not applied.
    pub skip: CheckRules,
    /// Whether findings fail the build.
    pub error: bool,
    /// Experimental rules that are applied.
    pub experimental: CheckRules,
}

impl Check {
    /// Reads the value of a `check` directive.
    ///
    /// # Errors
    ///
    /// Returns the message for an unknown key or a value that is not a boolean.
    pub fn parse(value: &str) -> Result<Self, String> {
        let mut check = Self::default();
        for part in value.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| format!("check option {} must be of the form `key=value`", quote(part)))?;
            match key.trim().to_ascii_lowercase().as_str() {
                "skip" => check.skip = CheckRules::parse(value),
                "experimental" => check.experimental = CheckRules::parse(value),
                "error" => {
                    check.error = crate::word::parse_bool(value.trim())
                        .ok_or_else(|| format!("check option `error` cannot be {}", quote(value)))?;
                }
                other => return Err(format!("unknown check option {}", quote(other))),
            }
        }
        Ok(check)
    }
}

/// One `key = value` found in a comment.
struct Found<'a> {
    key: &'a str,
    value: &'a str,
    value_start: usize,
}

/// Splits `# key = value` when the text after the comment sign has that form.
fn split<'a>(content: &'a str, start: usize, sign: &str) -> Option<Found<'a>> {
    let body = content.trim_start().strip_prefix(sign)?.trim_start();
    let equals = body.find('=')?;
    let (key, value) = body.split_at_checked(equals)?;
    let key = key.trim_end();
    let mut letters = key.chars();
    let well_formed = letters.next().is_some_and(|first| first.is_ascii_alphabetic())
        && letters.all(|letter| letter.is_ascii_alphanumeric());
    let value_text = value.get(1..)?.trim();
    if !well_formed || value_text.is_empty() {
        return None;
    }
    let value_offset = content.len() - value.get(1..)?.trim_start().len();
    Some(Found { key, value: value_text, value_start: start + value_offset })
}

/// Reads the directives from the start of a file and leaves `lines` at the first other line.
pub(crate) fn parse(lines: &mut Lines<'_>, diagnostics: &mut Vec<Diagnostic>) -> Directives {
    let mut directives = Directives::default();
    lines.skip_shebang();
    while let Some(line) = lines.peek() {
        let Some(found) = split(line.content, line.start, "#") else { break };
        let key = found.key.to_ascii_lowercase();
        let span = Span::new(found.value_start, found.value_start + found.value.len());
        let value = Spanned::new(found.value.to_owned(), span);
        let seen = match key.as_str() {
            "syntax" => directives.syntax.replace(value).is_some(),
            "check" => {
                if let Err(message) = Check::parse(&value.value) {
                    diagnostics.push(Diagnostic::error("invalid-check", span, message));
                }
                directives.check.replace(value).is_some()
            }
            "escape" => match escape(&value) {
                Ok(escape) => directives.escape.replace(escape).is_some(),
                Err(diagnostic) => {
                    diagnostics.push(diagnostic);
                    false
                }
            },
            _ => break,
        };
        if seen {
            let message = format!("only one `{key}` directive can be used");
            diagnostics.push(Diagnostic::error("duplicate-directive", line.span(), message));
        }
        lines.next();
    }
    directives
}

fn escape(value: &Spanned<String>) -> Result<Spanned<Escape>, Diagnostic> {
    let escape = match value.value.as_str() {
        "\\" => Escape::Backslash,
        "`" => Escape::Backtick,
        other => {
            let message = format!("escape character {} is neither a backslash nor a backtick", quote(other));
            return Err(Diagnostic::error("invalid-escape", value.span, message));
        }
    };
    Ok(Spanned::new(escape, value.span))
}

fn first_word(value: &str) -> &str {
    value.split_once(' ').map_or(value, |(first, _)| first)
}

/// Returns the frontend image that a file asks for, in any of the three forms: `# syntax=`, `// syntax=`
/// for languages with such comments, and a JSON object with a `syntax` key.
#[must_use]
pub fn detect_syntax(source: &str) -> Option<Spanned<String>> {
    for sign in ["#", "//"] {
        let mut lines = Lines::new(source);
        lines.skip_shebang();
        for line in lines {
            let Some(found) = split(line.content, line.start, sign) else { break };
            match found.key.to_ascii_lowercase().as_str() {
                "syntax" => {
                    let image = first_word(found.value);
                    let span = Span::new(found.value_start, found.value_start + image.len());
                    return Some(Spanned::new(image.to_owned(), span));
                }
                "check" | "escape" => {}
                _ => break,
            }
        }
    }
    json::object_string(source, "syntax")
}
