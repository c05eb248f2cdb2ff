//! Heredocs: bodies of files written on the lines after an instruction.

use std::borrow::Cow;

use crate::line::{Lines, LogicalLine};
use crate::source::{Span, Spanned};
use crate::word;

/// A heredoc: `[fd]<<[-]NAME` on the instruction's line and its body below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The delimiter without quotes, at the place of the whole opening word; the file's name in COPY and ADD.
    pub name: Spanned<String>,
    /// The number before `<<`; the shell's business in RUN.
    pub descriptor: Option<u32>,
    /// `<<-`: leading tabs are removed from the body.
    pub strip_tabs: bool,
    /// Whether variables in the body are replaced: no part of the delimiter was quoted.
    pub expand: bool,
    /// The body as written, every line with its line break, tabs included.
    pub body: Spanned<String>,
}

impl Heredoc {
    /// Returns the body without the tabs that `<<-` removes.
    #[must_use]
    pub fn content(&self) -> Cow<'_, str> {
        if !self.strip_tabs {
            return Cow::Borrowed(&self.body.value);
        }
        Cow::Owned(self.body.value.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect())
    }
}

/// What may stand between `<<` and the delimiter.
const BLANKS: [char; 5] = [' ', '\t', '\r', '\n', '\u{c}'];

/// The opening word of a heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opening {
    name: String,
    descriptor: Option<u32>,
    strip_tabs: bool,
    expand: bool,
}

impl Opening {
    /// Reads a word; the backslash is the escape character whatever the directive says.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        let after_digits = word.trim_start_matches(|character: char| character.is_ascii_digit());
        let digits = word.get(..word.len() - after_digits.len())?;
        let after_sign = after_digits.strip_prefix("<<")?;
        let (strip_tabs, quoted) = match after_sign.strip_prefix('-') {
            Some(rest) => (true, rest.trim_start_matches(BLANKS)),
            None => (false, after_sign.trim_start_matches(BLANKS)),
        };
        if quoted.contains('<') {
            return None;
        }
        let (name, expand) = unquote(quoted)?;
        Some(Self { name, descriptor: digits.parse().ok(), strip_tabs, expand })
    }

    /// Tells whether a heredoc that was read is the one that this word opens.
    pub(crate) fn opens(&self, heredoc: &Heredoc) -> bool {
        self.name == heredoc.name.value
    }
}

/// Removes quotes and escapes from a delimiter. It is none when a quote stays open, nothing remains, or it is
/// more than one word. Tells also whether variables of the body are replaced, which a quote prevents and an
/// escape does not.
fn unquote(quoted: &str) -> Option<(String, bool)> {
    let mut name = String::new();
    let mut expand = true;
    let mut quote = None;
    let mut characters = quoted.chars().peekable();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (None, '\'' | '"') => {
                quote = Some(character);
                expand = false;
            }
            (Some(sign), _) if sign == character => quote = None,
            (None, blank) if blank.is_whitespace() => return None,
            (None, '\\') => name.extend(characters.next()),
            (Some('"'), '\\') if matches!(characters.peek(), Some('"' | '\\' | '$')) => {
                name.extend(characters.next());
            }
            _ => name.push(character),
        }
    }
    (quote.is_none() && !name.is_empty()).then_some((name, expand))
}

/// Finds the openings on a line, in order, with their spans.
///
/// A line with an open quote has none: its `<<` may be inside the quote.
pub(crate) fn openings(line: &LogicalLine) -> Vec<Spanned<Opening>> {
    if !line.text.contains("<<") {
        return Vec::new();
    }
    let (words, closed) = word::ranges(&line.text, '\\', word::Heredocs::Yes);
    if !closed {
        return Vec::new();
    }
    let opening = |range: std::ops::Range<usize>| {
        let opening = Opening::parse(line.text.get(range.clone())?)?;
        Some(Spanned::new(opening, line.span_of(range.start, range.end)))
    };
    words.into_iter().filter_map(opening).collect()
}

/// Reads the body of a heredoc up to its terminator.
///
/// # Errors
///
/// Returns the heredoc with all of the remaining text when the terminator is missing.
pub(crate) fn read(opening: Spanned<Opening>, lines: &mut Lines<'_>) -> Result<Heredoc, Heredoc> {
    let span = opening.span;
    let Opening { name, descriptor, strip_tabs, expand } = opening.value;
    let start = lines.offset();
    let mut body = String::new();
    let mut end = start;
    let mut terminated = false;
    for line in lines.by_ref() {
        let candidate = if strip_tabs { line.content.trim_start_matches('\t') } else { line.content };
        if candidate == name {
            terminated = true;
            break;
        }
        body.push_str(line.raw);
        end = line.start + line.raw.len();
    }
    let body = Spanned::new(body, Span::new(start, end));
    let heredoc = Heredoc { name: Spanned::new(name, span), descriptor, strip_tabs, expand, body };
    if terminated { Ok(heredoc) } else { Err(heredoc) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_are_read() {
        let check = |word: &str, name: &str, descriptor: Option<u32>, strip_tabs: bool, expand: bool| {
            let expect = Opening { name: name.to_owned(), descriptor, strip_tabs, expand };
            assert_eq!(Opening::parse(word), Some(expect), "{word}");
        };
        check("<<EOF", "EOF", None, false, true);
        check("<<-EOF", "EOF", None, true, true);
        check("3<<EOF", "EOF", Some(3), false, true);
        check("0<<-'EOF'", "EOF", Some(0), true, false);
        check("<<\"E F\"", "E F", None, false, false);
        check("<<E'O'F", "EOF", None, false, false);
        check("<<\\EOF", "EOF", None, false, true);
        check("<<eo\\'f", "eo'f", None, false, true);
        check("<<'e'o\\'f", "eo'f", None, false, false);
        check("<<$EOF", "$EOF", None, false, true);
        check("<< EOF", "EOF", None, false, true);
        check("<< -EOF", "-EOF", None, false, true);
        check("<<file.txt", "file.txt", None, false, true);
        check("<<EOF|cat", "EOF|cat", None, false, true);
    }

    #[test]
    fn other_words_are_no_heredocs() {
        for word in
            ["", "<<", "<<-", "<EOF", "<<<EOF", "a<<EOF", "<<''", "<<'EOF", "<<A<<B", "<<A b", "$((1<<2))"]
        {
            assert_eq!(Opening::parse(word), None, "{word}");
        }
    }
}
