//! Variables and quotes in one operand, with the rules of BuildKit's word processing.
//!
//! Start at [`expand_word`]: it replaces `$name` and `${…}` and removes quotes and escapes. [`expand_words`]
//! also splits at blanks outside quotes, for lists; [`expand_heredoc`] leaves quotes alone, for bodies.
//!
//! | form | value |
//! |---|---|
//! | `$v`, `${v}` | the value of `v`, or nothing |
//! | `${v:-word}`, `${v-word}` | `word` when `v` is unset; with the colon also when it is empty |
//! | `${v:+word}`, `${v+word}` | `word` when `v` is set; with the colon only when it is not empty |
//! | `${v:?word}`, `${v?word}` | an error with the message `word` when `v` is unset; with the colon also when empty |
//! | `${v#p}`, `${v##p}` | without the shortest, longest match of `p` at the start |
//! | `${v%p}`, `${v%%p}` | without the shortest, longest match of `p` at the end |
//! | `${v/p/word}`, `${v//p/word}` | with `word` in place of the first, of every match of `p` |
//!
//! A pattern `p` knows `*`, `?` and the backslash, no classes. Words nest.

mod substitute;

use std::collections::BTreeSet;
use std::ops::Range;

use crate::diagnostic::Diagnostic;
use crate::directive::Escape;
use crate::source::Span;

const ESCAPES: &str = "in a pattern a backslash escapes `*`, `?`, `\\`, `}` and `/` only";

/// How variables are looked up: the value, or none when the variable is not set.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// An expanded operand.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expanded {
    /// The text.
    pub text: String,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that stood for nothing because they are not set; those with a default are not here.
    pub undefined: BTreeSet<String>,
}

/// An operand expanded to a list.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpandedWords {
    /// The words.
    pub words: Vec<String>,
    /// The variables that were asked for and are set.
    pub used: BTreeSet<String>,
    /// The variables that stood for nothing because they are not set.
    pub undefined: BTreeSet<String>,
}

/// Why an operand cannot be expanded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExpandError {
    /// What is wrong.
    pub message: String,
    /// The bytes of the operand that are wrong.
    pub range: Range<usize>,
    /// The variable that has to have a value and has none.
    pub missing: Option<String>,
    /// The length of the operand.
    length: usize,
}

impl ExpandError {
    /// Makes a diagnostic of it, for an operand read from `span`.
    #[must_use]
    pub fn at(&self, span: Span) -> Diagnostic {
        // An operand that lost quotes on the way has other offsets than the source; then the whole is marked.
        let exact = span.end - span.start == self.length;
        let place =
            if exact { Span::new(span.start + self.range.start, span.start + self.range.end) } else { span };
        let diagnostic = Diagnostic::error("invalid-expansion", place, self.message.clone());
        match self.help() {
            Some(help) => diagnostic.with_help(help),
            None => diagnostic,
        }
    }

    fn help(&self) -> Option<&'static str> {
        let starts = |start: &str| self.message.starts_with(start);
        Some(match self.message.as_str() {
            "missing `}`" => "close `${` with `}`, or write `\\$` for a dollar sign that begins no variable",
            "bad substitution" => "write `${NAME}`, or `\\$` for a dollar sign that begins no variable",
            "a single quote has no end" => "close the quote, or put the value into double quotes",
            "a double quote has no end" => "close the quote, or write `\\\"` for one that encloses nothing",
            "a pattern ends in a backslash" => ESCAPES,
            _ if starts("invalid escape ") => ESCAPES,
            _ if starts("unsupported modifier ") => {
                "the modifiers are `:-`, `-`, `:+`, `+`, `:?`, `?`, `#`, `##`, `%`, `%%`, `/` and `//`"
            }
            _ if self.missing.is_some() && starts("variable ") => {
                "give it a value with ARG or ENV above this line, or declare it with ARG and pass `--build-arg`"
            }
            _ => return None,
        })
    }
}

/// Replaces variables and removes quotes and escapes.
///
/// # Errors
///
/// Returns an error for a quote or brace that stays open, an unknown modifier, a pattern that is none, a
/// required variable that is missing, or nesting deeper than any person writes.
pub fn expand_word(word: &str, escape: Escape, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
    let mut expander = Expander::new(word, escape, Quotes::Remove, lookup);
    let (text, _) = expander.all()?;
    Ok(Expanded { text, used: expander.used, undefined: expander.undefined })
}

/// Replaces variables, splits at blanks outside quotes, and removes quotes and escapes.
///
/// Blanks of an unquoted variable's value split as well.
///
/// # Errors
///
/// As [`expand_word`].
pub fn expand_words(word: &str, escape: Escape, lookup: &Lookup<'_>) -> Result<ExpandedWords, ExpandError> {
    let mut expander = Expander::new(word, escape, Quotes::Remove, lookup);
    expander.splits = true;
    let (_, words) = expander.all()?;
    Ok(ExpandedWords { words, used: expander.used, undefined: expander.undefined })
}

/// Replaces variables in the body of a heredoc of COPY or ADD.
///
/// Quotes stay. A backslash, whatever the escape directive says, is removed and saves the next character.
///
/// # Errors
///
/// As [`expand_word`], without the quotes.
pub fn expand_heredoc(body: &str, lookup: &Lookup<'_>) -> Result<Expanded, ExpandError> {
    let mut expander = Expander::new(body, Escape::Backslash, Quotes::Keep, lookup);
    let (text, _) = expander.all()?;
    Ok(Expanded { text, used: expander.used, undefined: expander.undefined })
}

/// The most text, in bytes, that all variables of one operand may stand for together.
///
/// `ENV A=$A$A` doubles with every line and `${a//?/$b}` multiplies, so a short file could ask for more than
/// there is memory. No operand comes near this: the kernel takes 128 KiB for one argument.
pub const LONGEST: usize = 1 << 20;

/// What happens to quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quotes {
    Remove,
    Keep,
}

/// What happens to an escape character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escapes {
    Remove,
    /// It stays together with what it escapes: a pattern reads it again.
    Keep,
}

/// The deepest nesting of `${…}`. Each level is a call, so without a limit a text could exhaust the stack.
const DEEPEST: usize = 100;

struct Expander<'a> {
    source: &'a str,
    at: usize,
    escape: char,
    quotes: Quotes,
    lookup: &'a Lookup<'a>,
    depth: usize,
    /// What is left of [`LONGEST`].
    room: usize,
    /// Whether words are wanted, or the text alone.
    splits: bool,
    used: BTreeSet<String>,
    undefined: BTreeSet<String>,
}

impl<'a> Expander<'a> {
    fn new(source: &'a str, escape: Escape, quotes: Quotes, lookup: &'a Lookup<'a>) -> Self {
        Self {
            source,
            at: 0,
            escape: escape.character(),
            quotes,
            lookup,
            depth: 0,
            room: LONGEST,
            splits: false,
            used: BTreeSet::new(),
            undefined: BTreeSet::new(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at..)?.chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        if found {
            self.at += wanted.len_utf8();
        }
        found
    }

    /// An error about the text from `start` to where the reading is.
    fn error(&self, start: usize, message: impl Into<String>) -> ExpandError {
        ExpandError {
            message: message.into(),
            range: start..self.at.max(start),
            missing: None,
            length: self.source.len(),
        }
    }

    fn all(&mut self) -> Result<(String, Vec<String>), ExpandError> {
        self.until(None, Escapes::Remove, 0)
    }

    /// Reads on to a sign, or to the end when there is none. `start` is where an error begins.
    fn until(
        &mut self,
        stop: Option<char>,
        escapes: Escapes,
        start: usize,
    ) -> Result<(String, Vec<String>), ExpandError> {
        let mut text = String::new();
        let mut words = Words { wanted: self.splits, ..Words::default() };
        while let Some(character) = self.peek() {
            if stop == Some(character) {
                self.next();
                return Ok((text, words.finish()));
            }
            match character {
                '$' => {
                    let value = self.dollar()?;
                    words.add_value(&value);
                    text.push_str(&value);
                }
                '\'' | '"' if self.quotes == Quotes::Remove => {
                    let value =
                        if character == '"' { self.double_quoted(escapes)? } else { self.single_quoted()? };
                    words.add_quoted(&value);
                    text.push_str(&value);
                }
                escape if escape == self.escape => {
                    self.next();
                    if escapes == Escapes::Keep {
                        words.add_escaped(escape);
                        text.push(escape);
                    }
                    // An escape character at the end escapes nothing.
                    if let Some(escaped) = self.next() {
                        words.add_escaped(escaped);
                        text.push(escaped);
                    }
                }
                other => {
                    self.next();
                    words.add(other);
                    text.push(other);
                }
            }
        }
        match stop {
            None => Ok((text, words.finish())),
            Some('}') => Err(self.error(start, "missing `}`")),
            Some(sign) => Err(self.error(start, format!("missing `{sign}`"))),
        }
    }

    fn single_quoted(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        let rest = self.source.get(self.at..).unwrap_or_default();
        let Some(end) = rest.find('\'') else {
            self.at = self.source.len();
            return Err(self.error(start, "a single quote has no end"));
        };
        self.at += end + 1;
        Ok(rest.get(..end).unwrap_or_default().to_owned())
    }

    fn double_quoted(&mut self, escapes: Escapes) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(self.error(start, "a double quote has no end")),
                Some('"') => {
                    self.next();
                    return Ok(text);
                }
                Some('$') => text.push_str(&self.dollar()?),
                Some(escape) if escape == self.escape => {
                    self.next();
                    if escapes == Escapes::Keep {
                        text.push(escape);
                    }
                    match self.peek() {
                        None => {}
                        Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.escape => {
                            self.next();
                            text.push(escaped);
                        }
                        // Before anything else an escape character is an ordinary one.
                        Some(_) => text.push(escape),
                    }
                }
                Some(other) => {
                    self.next();
                    text.push(other);
                }
            }
        }
    }
}

/// Collects the words of a list.
#[derive(Default)]
struct Words {
    wanted: bool,
    words: Vec<String>,
    word: String,
}

impl Words {
    fn add(&mut self, character: char) {
        if !character.is_whitespace() {
            self.word.push(character);
        } else if !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
        }
    }

    fn add_escaped(&mut self, character: char) {
        self.word.push(character);
    }

    fn add_value(&mut self, value: &str) {
        if self.wanted {
            value.chars().for_each(|character| self.add(character));
        }
    }

    fn add_quoted(&mut self, text: &str) {
        self.word.push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

#[cfg(test)]
mod tests;
