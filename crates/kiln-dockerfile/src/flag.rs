//! Flags: the `--name` and `--name=value` words between an instruction's name and its operands.
//!
//! Every instruction is looked at for flags, also those that know none: `CMD --help` is an unknown flag.

use crate::diagnostic::{Diagnostic, quote};
use crate::line::Piece;
use crate::source::{Span, Spanned};
use crate::suggest::{suggest, worthwhile};

/// Text that lost quotes and escapes on the way and still knows the place of every character.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FlagValue {
    text: String,
    /// The place of every character of `text`.
    spans: Vec<Span>,
    /// Where an empty text is.
    at: Span,
}

impl FlagValue {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn push(&mut self, character: char, span: Span) {
        self.text.push(character);
        self.spans.push(span);
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn characters(&self) -> impl Iterator<Item = (char, Span)> + '_ {
        self.text.chars().zip(self.spans.iter().copied())
    }

    pub(crate) fn span(&self) -> Span {
        match (self.spans.first(), self.spans.last()) {
            (Some(first), Some(last)) => first.to(*last),
            _ => self.at,
        }
    }

    pub(crate) fn spanned(&self) -> Spanned<String> {
        Spanned::new(self.text.clone(), self.span())
    }

    /// Splits at the first `=`.
    pub(crate) fn split_equals(&self) -> (Self, Option<Self>) {
        let Some(equals) = self.text.chars().position(|character| character == '=') else {
            return (self.clone(), None);
        };
        let mut name = Self { at: self.span(), ..Self::default() };
        let mut value = Self { at: self.span(), ..Self::default() };
        for (index, (character, span)) in self.characters().enumerate() {
            match index.cmp(&equals) {
                std::cmp::Ordering::Less => name.push(character, span),
                std::cmp::Ordering::Equal => value.at = Span::new(span.end, span.end),
                std::cmp::Ordering::Greater => value.push(character, span),
            }
        }
        (name, Some(value))
    }
}

/// One flag as written.
#[derive(Debug, Clone)]
pub(crate) struct Flag {
    pub(crate) name: Spanned<String>,
    pub(crate) value: Option<FlagValue>,
    pub(crate) span: Span,
}

/// What a flag of an instruction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--name`, `--name=true`, `--name=false`.
    Switch,
    /// `--name=value`, once.
    Value,
    /// `--name=value`, any number of times.
    Values,
}

/// Separates the flags from the operands.
///
/// A flag loses its quotes and escapes here.
pub(crate) fn split<'a>(arguments: Piece<'a>, escape: char) -> (Vec<Flag>, Piece<'a>) {
    let text = arguments.text();
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        at += rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        if !rest.starts_with("--") {
            return (flags, arguments.from(at).trim());
        }
        let (word, length) = read_word(arguments.from(at), escape);
        let span = arguments.part(at, at + length).span();
        at += length;
        if word.text() == "--" {
            return (flags, arguments.from(at).trim());
        }
        let (name, value) = word.split_equals();
        let mut name = name.spanned();
        name.value = name.value.strip_prefix("--").unwrap_or_default().to_owned();
        name.span = Span::new((name.span.start + 2).min(name.span.end), name.span.end);
        flags.push(Flag { name, value, span });
    }
}

/// Reads one word, removes its quotes and returns how much text it took.
fn read_word(piece: Piece<'_>, escape: char) -> (FlagValue, usize) {
    let mut word = FlagValue { at: piece.part(0, 0).span(), ..FlagValue::default() };
    let mut quote = None;
    let mut characters = piece.text().char_indices();
    while let Some((mut at, mut character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, at),
            None if character == '\'' || character == '"' => {
                quote = Some(character);
                continue;
            }
            Some(sign) if character == sign => {
                quote = None;
                continue;
            }
            _ => {}
        }
        if character == escape {
            let Some(escaped) = characters.next() else { break };
            (at, character) = escaped;
        }
        word.push(character, piece.part(at, at + character.len_utf8()).span());
    }
    (word, piece.text().len())
}

/// The flags of one instruction after they were checked against what the instruction knows.
#[derive(Debug)]
pub(crate) struct Flags {
    found: Vec<Flag>,
}

impl Flags {
    /// Keeps the known, well-formed flags and reports the others.
    pub(crate) fn check(
        instruction: &str,
        flags: Vec<Flag>,
        known: &[(&'static str, Kind)],
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Self {
        let mut found: Vec<Flag> = Vec::new();
        for flag in flags {
            let name = flag.name.value.as_str();
            let kind = known.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
            let fault = match kind {
                None => Some(unknown(instruction, &flag, known, worthwhile(diagnostics))),
                Some(Kind::Value) if found.iter().any(|other| other.name.value == name) => {
                    Some(duplicate(&flag))
                }
                Some(Kind::Switch) if found.iter().any(|other| other.name.value == name) => {
                    Some(duplicate(&flag))
                }
                Some(Kind::Value | Kind::Values) if flag.value.is_none() => {
                    let message = format!("flag `--{name}` needs a value");
                    let help = format!("write `--{name}=<value>`");
                    Some(Diagnostic::error("missing-flag-value", flag.span, message).with_help(help))
                }
                Some(Kind::Switch) => flag.value.as_ref().and_then(|value| wrong_switch(name, value)),
                Some(Kind::Value | Kind::Values) => None,
            };
            match fault {
                Some(fault) => diagnostics.push(fault),
                None => found.push(flag),
            }
        }
        Self { found }
    }

    /// Returns the value of a flag that is given once at most.
    pub(crate) fn value(&self, name: &str) -> Option<Spanned<String>> {
        self.values(name).next().map(FlagValue::spanned)
    }

    /// Returns the values of a flag that may be repeated.
    pub(crate) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a FlagValue> {
        self.found.iter().filter(move |flag| flag.name.value == name).filter_map(|flag| flag.value.as_ref())
    }

    /// Returns a switch when it was given.
    pub(crate) fn switch(&self, name: &str) -> Option<Spanned<bool>> {
        let flag = self.found.iter().find(|flag| flag.name.value == name)?;
        let on = flag.value.as_ref().is_none_or(|value| value.text().eq_ignore_ascii_case("true"));
        Some(Spanned::new(on, flag.span))
    }
}

fn unknown(instruction: &str, flag: &Flag, known: &[(&'static str, Kind)], suggests: bool) -> Diagnostic {
    let name = &flag.name.value;
    let message = format!("unknown flag {} of {instruction}", quote(&format!("--{name}")));
    let names: Vec<&str> = known.iter().map(|(known, _)| *known).collect();
    let near = if suggests { suggest(name, &names) } else { None };
    let suggestion = near.map(|near| format!("--{near}"));
    let diagnostic = Diagnostic::error("unknown-flag", flag.span, message);
    match (suggestion, known) {
        (Some(near), _) => diagnostic.with_suggestion(Some(&near)),
        (None, []) => diagnostic.with_help(format!(
            "{instruction} has no flags; write `{instruction} -- …` when the operand starts with two hyphens"
        )),
        (None, _) => diagnostic.with_help(format!("{instruction} knows `--{}`", names.join("`, `--"))),
    }
}

fn duplicate(flag: &Flag) -> Diagnostic {
    let message = format!("flag `--{}` is given twice", flag.name.value);
    Diagnostic::error("duplicate-flag", flag.span, message).with_help("keep one of them")
}

fn wrong_switch(name: &str, value: &FlagValue) -> Option<Diagnostic> {
    let text = value.text();
    if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        return None;
    }
    let message = match text {
        "" => format!("flag `--{name}` has no value after `=`"),
        _ => format!("flag `--{name}` cannot be {}", quote(text)),
    };
    let help = format!("write `--{name}`, `--{name}=true` or `--{name}=false`");
    Some(Diagnostic::error("invalid-flag-value", value.span(), message).with_help(help))
}
