//! Wildcard matching shared by paths, ignore files and variable modifiers.
//!
//! A match is computed as the set of places that the text can be at after each token. That takes no more
//! than tokens times text, where backtracking could take exponential time on an unlucky pattern.

use std::ops::RangeInclusive;

/// One step of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// This text.
    Literal(String),
    /// One character, but not the barrier.
    One,
    /// Any number of characters, but not the barrier.
    Star,
    /// One character of a class, the barrier included.
    Class { negated: bool, ranges: Vec<RangeInclusive<char>> },
    /// Nothing, or anything that ends in the barrier.
    Directories,
    /// Anything.
    Rest,
}

/// Adds a character to the literal at the end of a pattern.
pub(crate) fn push_literal(tokens: &mut Vec<Token>, character: char) {
    if let Some(Token::Literal(text)) = tokens.last_mut() {
        text.push(character);
    } else {
        tokens.push(Token::Literal(character.to_string()));
    }
}

/// Tells whether a pattern matches the whole of a text.
pub(crate) fn matches(tokens: &[Token], text: &str, barrier: char) -> bool {
    ends(tokens, text, barrier).last() == Some(&text.len())
}

/// Returns where a match that starts at the start of the text can end, in ascending order.
pub(crate) fn ends(tokens: &[Token], text: &str, barrier: char) -> Vec<usize> {
    ends_from(tokens, text, vec![0], barrier)
}

/// Returns where a match that starts at one of the given places can end; both in ascending order.
pub(crate) fn ends_from(tokens: &[Token], text: &str, mut places: Vec<usize>, barrier: char) -> Vec<usize> {
    for token in tokens {
        places = advance(token, text, &places, barrier);
        if places.is_empty() {
            break;
        }
    }
    places
}

/// Tells whether a pattern could match a text that starts with `prefix`; it says yes when in doubt.
pub(crate) fn may_match_below(tokens: &[Token], prefix: &str, barrier: char) -> bool {
    let mut places = vec![0];
    for token in tokens {
        let cut_short = |place: &usize| match token {
            Token::Literal(literal) => prefix.get(*place..).is_some_and(|rest| literal.starts_with(rest)),
            Token::Directories | Token::Rest => true,
            Token::One | Token::Star | Token::Class { .. } => *place == prefix.len(),
        };
        if places.iter().any(cut_short) {
            return true;
        }
        places = advance(token, prefix, &places, barrier);
        if places.is_empty() {
            return false;
        }
    }
    // The pattern ended before or at the end of the prefix; it matches nothing that goes on after it.
    false
}

fn advance(token: &Token, text: &str, places: &[usize], barrier: char) -> Vec<usize> {
    let rest = |place: usize| text.get(place..).unwrap_or_default();
    let first = |place: usize| rest(place).chars().next();
    match token {
        Token::Literal(literal) => {
            let matching = places.iter().filter(|place| rest(**place).starts_with(literal.as_str()));
            matching.map(|place| place + literal.len()).collect()
        }
        Token::One => {
            let step = |place: &usize| {
                first(*place).filter(|found| *found != barrier).map(|found| place + found.len_utf8())
            };
            places.iter().filter_map(step).collect()
        }
        Token::Class { negated, ranges } => {
            let within = |found: char| ranges.iter().any(|range| range.contains(&found)) != *negated;
            let step = |place: &usize| {
                first(*place).filter(|found| within(*found)).map(|found| place + found.len_utf8())
            };
            places.iter().filter_map(step).collect()
        }
        Token::Star => star(text, places, barrier),
        Token::Directories => directories(text, places, barrier),
        Token::Rest => {
            let Some(from) = places.first().copied() else { return Vec::new() };
            let mut all: Vec<usize> = rest(from).char_indices().map(|(index, _)| from + index).collect();
            all.push(text.len());
            all
        }
    }
}

fn star(text: &str, places: &[usize], barrier: char) -> Vec<usize> {
    let mut reached: Vec<usize> = Vec::new();
    for place in places {
        let mut at = *place;
        // Places are ascending, so what is behind the last one reached is known already.
        if reached.last().is_some_and(|last| *last >= at) {
            continue;
        }
        reached.push(at);
        for character in text.get(at..).unwrap_or_default().chars() {
            if character == barrier {
                break;
            }
            at += character.len_utf8();
            reached.push(at);
        }
    }
    reached
}

fn directories(text: &str, places: &[usize], barrier: char) -> Vec<usize> {
    let Some(from) = places.first().copied() else { return Vec::new() };
    let mut reached = places.to_vec();
    let tail = text.get(from..).unwrap_or_default();
    reached.extend(tail.match_indices(barrier).map(|(index, found)| from + index + found.len()));
    reached.sort_unstable();
    reached.dedup();
    reached
}

/// A pattern that is not well-formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct PatternError;

/// Reads `[…]` from after its bracket.
pub(crate) fn class(
    characters: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Result<Token, PatternError> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && characters.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = class_character(characters)?;
        let high = if characters.next_if_eq(&'-').is_some() { class_character(characters)? } else { low };
        ranges.push(low..=high);
    }
}

fn class_character(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<char, PatternError> {
    match characters.next() {
        None | Some('-' | ']') => Err(PatternError),
        Some('\\') => characters.next().ok_or(PatternError),
        Some(character) => Ok(character),
    }
}
