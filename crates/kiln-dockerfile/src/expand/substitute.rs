//! `$name` and `${…}`: names, modifiers and their patterns.

use super::{Escapes, ExpandError, Expander};
use crate::pattern::{self, Token, push_literal};

/// The most characters of a message in `${v:?message}`: it may hold variables, and nobody reads a page of them.
const LONGEST_MESSAGE: usize = 500;

impl Expander<'_> {
    /// Reads from a dollar sign and returns what stands for it.
    pub(super) fn dollar(&mut self) -> Result<String, ExpandError> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            let value = self.value_or_nothing(&name);
            return self.counted(value, start);
        }
        self.next();
        if self.depth >= super::DEEPEST {
            return Err(self.error(start, "variables are nested too deeply"));
        }
        self.depth += 1;
        let value = self.braces(start);
        self.depth -= 1;
        self.counted(value?, start)
    }

    /// Counts a value against what all of them may have together.
    fn counted(&mut self, value: String, start: usize) -> Result<String, ExpandError> {
        match self.room.checked_sub(value.len()) {
            Some(room) => {
                self.room = room;
                Ok(value)
            }
            None => Err(self.too_long(start)),
        }
    }

    fn too_long(&self, start: usize) -> ExpandError {
        let limit = super::LONGEST >> 20;
        self.error(start, format!("the variables of one operand stand for more than {limit} MiB"))
    }

    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        if self.peek().is_none() {
            return Err(self.error(start, "missing `}`"));
        }
        let name = self.name();
        // A name may be missing in front of these: nothing is called so, so it is unset.
        if name.is_empty() && !matches!(self.peek(), Some('+' | '%' | '/')) {
            self.next();
            return Err(self.error(start, "bad substitution"));
        }
        let mut modifier = match self.next() {
            None => return Err(self.error(start, "missing `}`")),
            Some('}') => return Ok(self.value_or_nothing(&name)),
            Some(modifier) => modifier,
        };
        if modifier == '/' {
            return self.replaced(&name, start);
        }
        let empty_is_unset = modifier == ':';
        if empty_is_unset {
            modifier = self.next().ok_or_else(|| self.error(start, "missing `}`"))?;
        }
        match modifier {
            '-' | '+' | '?' => {
                let (word, _) = self.until(Some('}'), Escapes::Remove, start)?;
                let value = self.value(&name);
                let set = value.filter(|value| !(empty_is_unset && value.is_empty()));
                match (modifier, set) {
                    ('-', Some(value)) | ('?', Some(value)) => Ok(value),
                    ('-', None) | ('+', Some(_)) => Ok(word),
                    ('+', None) => Ok(String::new()),
                    _ => {
                        let error = self.error(start, self.missing(&name, &word));
                        Err(ExpandError { missing: Some(name), ..error })
                    }
                }
            }
            '#' | '%' if !empty_is_unset => {
                let (word, _) = self.until(Some('}'), Escapes::Keep, start)?;
                let (longest, word) = match word.strip_prefix(modifier) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let tokens = self.pattern(word, start)?;
                let value = self.value_or_nothing(&name);
                Ok(if modifier == '#' {
                    without_start(&tokens, value, longest)
                } else {
                    without_end(&tokens, value, longest)
                })
            }
            other => {
                let colon = if empty_is_unset { ":" } else { "" };
                Err(self.error(start, format!("unsupported modifier `{colon}{other}` in substitution")))
            }
        }
    }

    fn replaced(&mut self, name: &str, start: usize) -> Result<String, ExpandError> {
        let every = self.take('/');
        let (word, _) = self.until(Some('/'), Escapes::Keep, start)?;
        let (replacement, _) = self.until(Some('}'), Escapes::Keep, start)?;
        let tokens = self.pattern(&word, start)?;
        let value = self.value_or_nothing(name);
        replace(&tokens, &value, &replacement, every, self.room).ok_or_else(|| self.too_long(start))
    }

    fn missing(&self, name: &str, word: &str) -> String {
        if !word.is_empty() {
            let short: String = word.chars().take(LONGEST_MESSAGE).collect();
            let more = if short.len() < word.len() { "…" } else { "" };
            return format!("{name}: {short}{more}");
        }
        match (self.lookup)(name) {
            None => format!("variable `{name}` must be set"),
            Some(_) => format!("variable `{name}` must not be empty"),
        }
    }

    fn value(&mut self, name: &str) -> Option<String> {
        let value = (self.lookup)(name);
        if value.is_some() {
            self.used.insert(name.to_owned());
        }
        value
    }

    fn value_or_nothing(&mut self, name: &str) -> String {
        let value = self.value(name);
        if value.is_none() {
            self.undefined.insert(name.to_owned());
        }
        value.unwrap_or_default()
    }

    /// Reads a name: letters, digits and `_`; or only digits; or one sign of the shell's own parameters. Digits
    /// are those of ASCII; `²` and `Ⅷ` end a name.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let Some(first) = self.peek() else { return name };
        if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            self.next();
            name.push(first);
            return name;
        }
        let only_digits = first.is_ascii_digit();
        while let Some(character) = self.peek() {
            let part = if only_digits {
                character.is_ascii_digit()
            } else {
                let letter = character.is_alphabetic() && !character.is_numeric();
                letter || character.is_ascii_digit() || character == '_'
            };
            if !part {
                break;
            }
            self.next();
            name.push(character);
        }
        name
    }

    /// Reads a pattern. Its escape is the backslash whatever the escape directive says.
    fn pattern(&self, word: &str, start: usize) -> Result<Vec<Token>, ExpandError> {
        let mut tokens: Vec<Token> = Vec::new();
        let mut characters = word.chars().peekable();
        while let Some(character) = characters.next() {
            match character {
                '*' if tokens.last() != Some(&Token::Star) => tokens.push(Token::Star),
                '*' => {}
                '?' => tokens.push(Token::One),
                '\\' => match characters.next() {
                    // The brace and the slash needed an escape because of what is around the pattern.
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => push_literal(&mut tokens, escaped),
                    Some(other) => {
                        return Err(self.error(start, format!("invalid escape `\\{other}` in a pattern")));
                    }
                    None => return Err(self.error(start, "a pattern ends in a backslash")),
                },
                other => push_literal(&mut tokens, other),
            }
        }
        Ok(tokens)
    }
}

/// Wildcards do not match line breaks.
const BARRIER: char = '\n';

fn without_start(tokens: &[Token], value: String, longest: bool) -> String {
    let ends = pattern::ends(tokens, &value, BARRIER);
    let end = if longest { ends.last() } else { ends.first() };
    match end {
        Some(end) => value.get(*end..).unwrap_or_default().to_owned(),
        None => value,
    }
}

fn reversed(text: &str) -> String {
    text.chars().rev().collect()
}

fn reversed_tokens(tokens: &[Token]) -> Vec<Token> {
    let turned = |token: &Token| match token {
        Token::Literal(text) => Token::Literal(reversed(text)),
        other => other.clone(),
    };
    tokens.iter().rev().map(turned).collect()
}

/// A match at the end is one at the start of the reversed text.
fn without_end(tokens: &[Token], value: String, longest: bool) -> String {
    let ends = pattern::ends(&reversed_tokens(tokens), &reversed(&value), BARRIER);
    let end = if longest { ends.last() } else { ends.first() };
    match end {
        Some(end) => value.get(..value.len() - end).unwrap_or_default().to_owned(),
        None => value,
    }
}

/// Replaces the longest match at the leftmost place, or every match from left to right; nothing when that gives
/// more text than there is room for.
fn replace(tokens: &[Token], value: &str, replacement: &str, every: bool, room: usize) -> Option<String> {
    let mut text = String::new();
    let mut at = 0;
    let mut found = false;
    for start in starts(tokens, value) {
        let rest = value.get(start..).unwrap_or_default();
        let length = pattern::ends(tokens, rest, BARRIER).last().copied().unwrap_or_default();
        // A place inside the match before is passed, and an empty match directly behind it is part of it.
        if start < at || (length == 0 && start == at && found) {
            continue;
        }
        text.push_str(value.get(at..start).unwrap_or_default());
        text.push_str(replacement);
        at = start + length;
        found = true;
        if text.len() > room {
            return None;
        }
        if !every {
            break;
        }
    }
    text.push_str(value.get(at..).unwrap_or_default());
    (text.len() <= room).then_some(text)
}

/// Returns every place where a match starts, in ascending order: where the reversed pattern ends in the reversed
/// text. To try one place after the other would take quadratic time.
fn starts(tokens: &[Token], value: &str) -> Vec<usize> {
    let (tokens, turned) = (reversed_tokens(tokens), reversed(value));
    let everywhere = turned.char_indices().map(|(at, _)| at).chain([turned.len()]).collect();
    let ends = pattern::ends_from(&tokens, &turned, everywhere, BARRIER);
    ends.into_iter().rev().map(|end| value.len() - end).collect()
}
