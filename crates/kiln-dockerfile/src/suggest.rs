//! "Did you mean": the nearest known word to a misspelt one.

use crate::diagnostic::Diagnostic;

/// Longer words are not compared: no name in the language is that long, and the comparison is quadratic.
const LONGEST_WORD: usize = 40;

/// After so many faults no more suggestions are made: they do not help such a file, and each takes time.
const MOST: usize = 1000;

/// Tells whether another suggestion is worth its time.
pub(crate) fn worthwhile(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.len() < MOST
}

/// Returns the candidate nearest to `name`, without regard to case, if any is near enough to be meant.
///
/// Near enough is one edit for words up to five letters and two edits above; an exchange of two neighbours
/// is one edit. An exact match is no suggestion. Of equally near candidates the first wins.
#[must_use]
pub fn suggest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let wanted: Vec<char> = name.chars().take(LONGEST_WORD + 1).flat_map(char::to_lowercase).collect();
    if wanted.is_empty() || wanted.len() > LONGEST_WORD {
        return None;
    }
    let allowed = if wanted.len() <= 5 { 1 } else { 2 };
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let letters: Vec<char> = candidate.chars().flat_map(char::to_lowercase).collect();
        if letters.len().abs_diff(wanted.len()) > allowed {
            continue;
        }
        let edits = distance(&wanted, &letters);
        // A candidate that shares no letter with the word is not a misspelling of it.
        let near = edits > 0 && edits <= allowed && edits < letters.len().max(2);
        if near && best.is_none_or(|(fewest, _)| edits < fewest) {
            best = Some((edits, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The number of insertions, removals, replacements and exchanges of neighbours between two words.
fn distance(from: &[char], to: &[char]) -> usize {
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, from_letter) in from.iter().enumerate() {
        let mut current = Vec::with_capacity(to.len() + 1);
        let mut left = row + 1;
        current.push(left);
        for (column, to_letter) in to.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX / 2);
            let replace = at(&last, column) + usize::from(from_letter != to_letter);
            let mut best = replace.min(at(&last, column + 1) + 1).min(left + 1);
            let exchanged = column > 0
                && row > 0
                && from.get(row - 1) == Some(to_letter)
                && to.get(column - 1) == Some(from_letter);
            if exchanged {
                best = best.min(at(&before_last, column - 1) + 1);
            }
            current.push(best);
            left = best;
        }
        before_last = std::mem::replace(&mut last, current);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestions_are_near_words_only() {
        let known = ["RUN", "COPY", "ENTRYPOINT", "ENV", "EXPOSE"];
        let check = |name: &str, expect: Option<&str>| assert_eq!(suggest(name, &known), expect, "{name}");
        check("RNU", Some("RUN"));
        check("rum", Some("RUN"));
        check("COPPY", Some("COPY"));
        check("ENTRYPONIT", Some("ENTRYPOINT"));
        check("ENTRYPOIT", Some("ENTRYPOINT"));
        check("EXPOES", Some("EXPOSE"));
        check("RUN", None);
        check("BANANA", None);
        check("", None);
        check("x", None);
        check(&"E".repeat(1000), None);
    }

    #[test]
    fn distance_is_symmetric() {
        let letters = |word: &str| word.chars().collect::<Vec<_>>();
        for (left, right, edits) in
            [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)]
        {
            assert_eq!(distance(&letters(left), &letters(right)), edits);
            assert_eq!(distance(&letters(right), &letters(left)), edits);
        }
    }
}
