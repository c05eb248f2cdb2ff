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
                other => {
                    let options = "the options are `skip`, `error` and `experimental`";
                    return Err(format!("unknown check option {}: {options}", quote(other)));
                }
            }
        }
        Ok(check)
    }
}

/// One `key = value` found in a comment.
struct Found<'a> {
    /// In lower case.
    key: String,
    value: &'a str,
    span: Span,
}

/// What stands around a value and is no part of it.
const BLANKS: [char; 5] = [' ', '\t', '\n', '\r', '\u{c}'];

/// Splits `# key = value` when the text has that form, the comment sign first, and the key is a directive's.
fn split<'a>(content: &'a str, start: usize, sign: &str) -> Option<Found<'a>> {
    let body = content.strip_prefix(sign)?.trim_start();
    let (key, value) = body.split_once('=')?;
    let key = key.trim_end_matches(BLANKS).to_ascii_lowercase();
    if !matches!(key.as_str(), "syntax" | "check" | "escape") {
        return None;
    }
    let trimmed = value.trim_matches(BLANKS);
    // A value of blanks only is a value, the last of them; an empty one is none.
    let from = match trimmed {
        "" => value.char_indices().next_back()?.0,
        _ => value.len() - value.trim_start_matches(BLANKS).len(),
    };
    let value_text = if trimmed.is_empty() { value.get(from..)? } else { trimmed };
    let from = start + content.len() - value.len() + from;
    Some(Found { key, value: value_text, span: Span::new(from, from + value_text.len()) })
}

impl Found<'_> {
    fn spanned(&self) -> Spanned<String> {
        Spanned::new(self.value.to_owned(), self.span)
    }
}

/// Reads the directives from the start of a file and leaves `lines` at the first other line.
///
/// BuildKit reads the top of a file twice. The parser looks for `escape`: it allows blanks in front of `#` and
/// takes a first line `#!…` for a comment, which ends the directives. `syntax` and `check` are looked for by
/// [`detect`].
pub(crate) fn parse(lines: &mut Lines<'_>, diagnostics: &mut Vec<Diagnostic>) -> Directives {
    let mut directives = Directives {
        syntax: detect(lines.clone(), "#", "syntax"),
        check: detect(lines.clone(), "#", "check"),
        escape: None,
    };
    if let Some(check) = &directives.check
        && let Err(message) = Check::parse(&check.value)
    {
        diagnostics.push(Diagnostic::error("invalid-check", check.span, message));
    }
    let mut seen = Vec::new();
    while let Some(line) = lines.peek() {
        let content = line.content.trim_start();
        let start = line.start + line.content.len() - content.len();
        let Some(found) = split(content, start, "#") else { break };
        if seen.contains(&found.key) {
            let message = format!("only one `{}` directive can be used", found.key);
            let diagnostic = Diagnostic::error("duplicate-directive", line.span(), message);
            diagnostics.push(diagnostic.with_help("remove one of them"));
        } else if found.key == "escape" {
            match escape(&found.spanned()) {
                Ok(escape) => directives.escape = Some(escape),
                Err(diagnostic) => diagnostics.push(diagnostic),
            }
        }
        seen.push(found.key);
        lines.next();
    }
    directives
}

/// Finds one directive after a first line `#!…`, which lets a Dockerfile be an executable script. The comment
/// sign has to be the first character of the line.
fn detect(mut lines: Lines<'_>, sign: &str, key: &str) -> Option<Spanned<String>> {
    lines.skip_shebang();
    let mut seen = Vec::new();
    for line in lines {
        let found = split(line.content, line.start, sign)?;
        if found.key == key {
            return Some(found.spanned());
        }
        if seen.contains(&found.key) {
            return None;
        }
        seen.push(found.key);
    }
    None
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
    let mut lines = Lines::new(source);
    let found = detect(lines.clone(), "#", "syntax").or_else(|| detect(lines.clone(), "//", "syntax"));
    if let Some(found) = found {
        let image = first_word(&found.value).to_owned();
        let span = Span::new(found.span.start, found.span.start + image.len());
        return Some(Spanned::new(image, span));
    }
    lines.skip_shebang();
    json::object_string(source, lines.offset(), "syntax")
}
