//! `$name` and `${…}`: names, modifiers and their patterns.

use super::{Escapes, ExpandError, Expander};
use crate::pattern::{self, Token, push_literal};

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
            return Ok(self.value_or_nothing(&name));
        }
        self.next();
        if self.depth >= super::DEEPEST {
            return Err(self.error(start, "variables are nested too deeply"));
        }
        self.depth += 1;
        let value = self.braces(start);
        self.depth -= 1;
        value
    }

    fn braces(&mut self, start: usize) -> Result<String, ExpandError> {
        if self.peek().is_none() {
            return Err(self.error(start, "missing `}`"));
        }
        let name = self.name();
        if name.is_empty() {
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
                    _ => Err(self.error(start, self.missing(&name, &word))),
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
        Ok(replace(&tokens, &value, &replacement, every))
    }

    fn missing(&self, name: &str, word: &str) -> String {
        if !word.is_empty() {
            return format!("{name}: {word}");
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

    /// Reads a name: letters, digits and `_`; or only digits; or one sign of the shell's own parameters.
    fn name(&mut self) -> String {
        let mut name = String::new();
        let Some(first) = self.peek() else { return name };
        if matches!(first, '@' | '*' | '#' | '?' | '-' | '$' | '!') {
            self.next();
            name.push(first);
            return name;
        }
        let only_digits = first.is_numeric();
        while let Some(character) = self.peek() {
            let part = if only_digits {
                character.is_numeric()
            } else {
                character.is_alphanumeric() || character == '_'
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

/// A match at the end is one at the start of the reversed text.
fn without_end(tokens: &[Token], value: String, longest: bool) -> String {
    let reversed = |text: &str| text.chars().rev().collect::<String>();
    let turned = |token: &Token| match token {
        Token::Literal(text) => Token::Literal(reversed(text)),
        other => other.clone(),
    };
    let tokens: Vec<Token> = tokens.iter().rev().map(turned).collect();
    let ends = pattern::ends(&tokens, &reversed(&value), BARRIER);
    let end = if longest { ends.last() } else { ends.first() };
    match end {
        Some(end) => value.get(..value.len() - end).unwrap_or_default().to_owned(),
        None => value,
    }
}

/// Replaces the longest match at the leftmost place, or every match from left to right.
fn replace(tokens: &[Token], value: &str, replacement: &str, every: bool) -> String {
    let mut text = String::new();
    let mut at = 0;
    let mut matched_to = None;
    let mut done = false;
    loop {
        let rest = value.get(at..).unwrap_or_default();
        let length = if done { None } else { pattern::ends(tokens, rest, BARRIER).last().copied() };
        // An empty match directly behind another match is part of it.
        if let Some(length) = length.filter(|length| *length > 0 || matched_to != Some(at)) {
            text.push_str(replacement);
            done = !every;
            at += length;
            matched_to = Some(at);
            if length > 0 {
                continue;
            }
        } else if length.is_none() && tokens.first() == Some(&Token::Star) {
            // What a leading `*` cannot reach from here it cannot reach from further on in this line.
            let line = rest.find(BARRIER).unwrap_or(rest.len());
            text.push_str(rest.get(..line).unwrap_or_default());
            at += line;
        }
        let Some(character) = value.get(at..).and_then(|rest| rest.chars().next()) else { return text };
        text.push(character);
        at += character.len_utf8();
    }
}
