//! Variable expansion: no panic, the same answer twice, no more text than is allowed, words without stray blanks.

use kiln_dockerfile::Escape;
use kiln_dockerfile::expand::{LONGEST, expand_heredoc, expand_word, expand_words};

/// The variables that are set: empty, short, long, with blanks, with what patterns are made of.
fn lookup(name: &str) -> Option<String> {
    Some(match name {
        "e" => String::new(),
        "a" => "a".to_owned(),
        "l" => "0123456789abcdef".repeat(4),
        "w" => " x  y\tz\u{a0}q ".to_owned(),
        "p" => "/usr/local/lib/*.so?\\ä😀\n/x".to_owned(),
        "d" => "$a${a}\"'`\\".to_owned(),
        _ => return None,
    })
}

/// Checks one word with both escape characters, as one word, as a list and as a body.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for escape in [Escape::Backslash, Escape::Backtick] {
        let word = expand_word(&text, escape, &lookup);
        assert_eq!(word, expand_word(&text, escape, &lookup), "two readings differ");
        let words = expand_words(&text, escape, &lookup);
        assert_eq!(word.is_err(), words.is_err(), "a word and a list have different faults");
        match (word, words) {
            (Ok(word), Ok(words)) => {
                assert!(word.text.len() <= LONGEST + text.len());
                assert_eq!((&word.used, &word.undefined), (&words.used, &words.undefined));
                assert!(word.undefined.iter().all(|name| lookup(name).is_none()));
                assert!(word.used.iter().all(|name| lookup(name).is_some()));
                assert!(words.words.iter().map(String::len).sum::<usize>() <= word.text.len());
                if !text.contains(['$', '"', '\'', escape.character()]) {
                    assert_eq!(word.text, text, "nothing in it has a meaning");
                    assert_eq!(words.words, text.split_whitespace().collect::<Vec<_>>());
                }
            }
            (Err(error), _) => {
                assert!(text.get(error.range.clone()).is_some(), "{error:?}");
                assert!(error.message.len() < 3000 + text.len());
            }
            (Ok(_), Err(_)) => unreachable!("they agree"),
        }
    }
    if let Ok(body) = expand_heredoc(&text, &lookup) {
        assert!(body.text.len() <= LONGEST + text.len());
        assert!(text.contains(['$', '\\']) || body.text == text);
    }
}
