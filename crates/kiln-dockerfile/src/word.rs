//! Words of operands: split at blanks outside quotes, with quotes and escapes left in place.
//!
//! Quotes are removed later, by [`crate::expand`], together with the replacement of variables.

use crate::line::Piece;

/// Splits at white space that is neither quoted nor escaped.
pub(crate) fn split(piece: Piece<'_>, escape: char) -> Vec<Piece<'_>> {
    ranges(piece.text(), escape, Heredocs::No)
        .0
        .into_iter()
        .map(|range| piece.part(range.start, range.end))
        .collect()
}

/// Whether `<<` has a meaning among the words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heredocs {
    No,
    /// Blanks after `<<` belong to its word: `<< EOF` is one.
    Yes,
}

/// The ranges of the words of a text, and whether every quote was closed.
pub(crate) fn ranges(text: &str, escape: char, heredocs: Heredocs) -> (Vec<std::ops::Range<usize>>, bool) {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        if quote.is_none() && character.is_whitespace() {
            if let Some(start) = start.take() {
                words.push(start..at);
            }
            continue;
        }
        let word_start = *start.get_or_insert(at);
        // Nothing can be escaped between single quotes.
        if character == escape && quote != Some('\'') {
            if characters.next().is_none() {
                // An escape character at the very end escapes nothing and is dropped.
                if at > word_start {
                    words.push(word_start..at);
                }
                return (words, quote.is_none());
            }
            continue;
        }
        let opens = heredocs == Heredocs::Yes && quote.is_none() && character == '<';
        if opens && characters.next_if(|(_, next)| *next == '<').is_some() {
            while characters.next_if(|(_, next)| matches!(next, ' ' | '\t' | '\r')).is_some() {}
            continue;
        }
        match quote {
            None if matches!(character, '\'' | '"') => quote = Some(character),
            Some(sign) if sign == character => quote = None,
            _ => {}
        }
    }
    words.extend(start.map(|start| start..text.len()));
    (words, quote.is_none())
}

/// Tells whether expansion leaves an operand as it is, so that its value can be checked now.
pub(crate) fn is_literal(text: &str) -> bool {
    !text.contains(['$', '"', '\'', '\\', '`'])
}

/// Reads a boolean with the spellings of Go.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let found: Vec<&str> =
            ranges(text, '\\', Heredocs::No).0.into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn words_keep_their_quotes() {
        check("", &[]);
        check("  ", &[]);
        check("a b", &["a", "b"]);
        check("  a\t b ", &["a", "b"]);
        check(r#"a="b c" d"#, &[r#"a="b c""#, "d"]);
        check(r"a='b c' d", &["a='b c'", "d"]);
        check(r"a=b\ c d", &[r"a=b\ c", "d"]);
        check(r#"a="b\" c" d"#, &[r#"a="b\" c""#, "d"]);
        check(r"a='b\' c", &[r"a='b\'", "c"]);
        check(r#"a='"' b"#, &[r#"a='"'"#, "b"]);
        check(r#"a="b"#, &[r#"a="b"#]);
        check(r"a\", &["a"]);
        check(r"\", &[]);
        check(r#"a="b\"#, &[r#"a="b"#]);
        check("ä=ö ü", &["ä=ö", "ü"]);
    }

    #[test]
    fn the_escape_character_can_be_a_backtick() {
        let text = r"a=c:\ b`  c";
        let found: Vec<&str> =
            ranges(text, '`', Heredocs::No).0.into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, [r"a=c:\", "b` ", "c"]);
    }

    #[test]
    fn open_quotes_are_noticed() {
        let closed = |text: &str| ranges(text, '\\', Heredocs::No).1;
        assert!(closed("a 'b'"));
        assert!(!closed("it's"));
        assert!(!closed("\"a"));
    }
}
