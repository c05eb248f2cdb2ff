//! Just enough JSON: arrays of strings as operands, with the place of every string.
//!
//! Written by hand because the tree needs spans, because text that is not JSON is an ordinary shell command
//! here and no error, and because nesting must not use the stack.

use crate::source::{Span, Spanned};

/// What a text is, read as the JSON form of an instruction.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Array {
    /// An array of strings with their ranges, quotes included.
    Strings(Vec<(String, std::ops::Range<usize>)>),
    /// A well-formed array with something else inside.
    NotStrings,
    /// No JSON array: the shell form.
    NotJson,
}

/// Reads a text as an array of strings.
pub(crate) fn parse_array(text: &str) -> Array {
    if !text.trim_start().starts_with('[') {
        return Array::NotJson;
    }
    let mut reader = Reader { text, at: text.len() - text.trim_start().len() };
    reader.array().unwrap_or(Array::NotJson)
}

/// Returns a string member of a text that is one JSON object from `start` on.
pub(crate) fn object_string(text: &str, start: usize, key: &str) -> Option<Spanned<String>> {
    let mut reader = Reader { text, at: start };
    let mut found = None;
    reader.blanks();
    reader.take(b'{')?;
    reader.blanks();
    if reader.take(b'}').is_some() {
        return None;
    }
    loop {
        reader.blanks();
        let name = reader.string()?;
        reader.blanks();
        reader.take(b':')?;
        reader.blanks();
        let from = reader.at;
        if reader.peek() == Some(b'"') {
            let value = reader.string()?;
            if name == key {
                found = Some(Spanned::new(value, Span::new(from, reader.at)));
            }
        } else {
            reader.skip_value()?;
        }
        reader.blanks();
        if reader.take(b',').is_none() {
            break;
        }
    }
    reader.take(b'}')?;
    reader.blanks();
    if reader.at == text.len() { found } else { None }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn array(&mut self) -> Option<Array> {
        let mut strings = Vec::new();
        let mut only_strings = true;
        self.take(b'[')?;
        self.blanks();
        let mut more = self.take(b']').is_none();
        while more {
            self.blanks();
            let from = self.at;
            if self.peek() == Some(b'"') {
                let value = self.string()?;
                strings.push((value, from..self.at));
            } else {
                self.skip_value()?;
                only_strings = false;
            }
            self.blanks();
            more = self.take(b',').is_some();
            if !more {
                self.take(b']')?;
            }
        }
        self.blanks();
        if self.at != self.text.len() {
            return None;
        }
        Some(if only_strings { Array::Strings(strings) } else { Array::NotStrings })
    }

    fn string(&mut self) -> Option<String> {
        self.take(b'"')?;
        let mut value = String::new();
        loop {
            let character = self.text.get(self.at..)?.chars().next()?;
            self.at += character.len_utf8();
            match character {
                '"' => return Some(value),
                '\\' => value.push(self.escape()?),
                control if u32::from(control) < 0x20 => return None,
                other => value.push(other),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let sign = self.peek()?;
        self.at += 1;
        Some(match sign {
            b'"' | b'\\' | b'/' => char::from(sign),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode()?,
            _ => return None,
        })
    }

    /// Reads the digits of `\uXXXX`, and the second half of a surrogate pair; half a pair alone is replaced.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hexadecimal()?;
        if let Some(character) = char::from_u32(first) {
            return Some(character);
        }
        let after_first = self.at;
        if first < 0xdc00 && self.take(b'\\').and_then(|()| self.take(b'u')).is_some() {
            let second = self.hexadecimal()?;
            if (0xdc00..0xe000).contains(&second) {
                return char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00));
            }
        }
        self.at = after_first;
        Some(char::REPLACEMENT_CHARACTER)
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Passes over any value; open arrays and objects are kept in a list instead of on the stack.
    fn skip_value(&mut self) -> Option<()> {
        let mut open: Vec<u8> = Vec::new();
        loop {
            self.blanks();
            let mut complete = true;
            match self.peek()? {
                b'[' => {
                    self.at += 1;
                    self.blanks();
                    if self.take(b']').is_none() {
                        open.push(b'[');
                        complete = false;
                    }
                }
                b'{' => {
                    self.at += 1;
                    self.blanks();
                    if self.take(b'}').is_none() {
                        open.push(b'{');
                        self.key()?;
                        complete = false;
                    }
                }
                b'"' => drop(self.string()?),
                b'-' | b'0'..=b'9' => self.number()?,
                _ => self.literal()?,
            }
            while complete {
                let Some(container) = open.last().copied() else { return Some(()) };
                self.blanks();
                if self.take(b',').is_some() {
                    if container == b'{' {
                        self.key()?;
                    }
                    complete = false;
                } else {
                    self.take(if container == b'{' { b'}' } else { b']' })?;
                    open.pop();
                }
            }
        }
    }

    fn key(&mut self) -> Option<()> {
        self.blanks();
        self.string()?;
        self.blanks();
        self.take(b':')
    }

    fn literal(&mut self) -> Option<()> {
        let rest = self.text.get(self.at..)?;
        let word = ["true", "false", "null"].into_iter().find(|word| rest.starts_with(word))?;
        self.at += word.len();
        Some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.take(b'0').is_none() {
            self.digits()?;
        }
        if self.take(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }

    fn digits(&mut self) -> Option<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > from).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_of_strings() {
        let check = |text: &str, expect: &[&str]| match parse_array(text) {
            Array::Strings(found) => {
                assert_eq!(
                    found.iter().map(|(value, _)| value.as_str()).collect::<Vec<_>>(),
                    expect,
                    "{text}"
                );
            }
            other => panic!("{text}: {other:?}"),
        };
        check("[]", &[]);
        check(" [ ] ", &[]);
        check(r#"["a"]"#, &["a"]);
        check(r#"[ "a" , "b c","" ]"#, &["a", "b c", ""]);
        check(r#"["\"\\\/\b\f\n\r\t"]"#, &["\"\\/\u{8}\u{c}\n\r\t"]);
        check(r#"["\u00e4\ud83d\ude00"]"#, &["ä😀"]);
        check(
            r#"["\ud83d", "\ude00", "\ud83dx", "\ud83d\u0041"]"#,
            &["\u{fffd}", "\u{fffd}", "\u{fffd}x", "\u{fffd}A"],
        );
        check(r#"["ä"]"#, &["ä"]);
    }

    #[test]
    fn other_arrays_are_told_from_no_json() {
        let check = |text: &str, expect: Array| assert_eq!(parse_array(text), expect, "{text}");
        for text in [r#"["a", 1]"#, "[null]", "[true]", "[-1.5e+3]", "[[]]", r#"[{"a":[{}, 0]}, "b"]"#] {
            check(text, Array::NotStrings);
        }
        for text in [
            "",
            "a",
            "[",
            "[a]",
            "['a']",
            r#"["a",]"#,
            r#"["a" "b"]"#,
            r#"["a"] b"#,
            r#"["a"#,
            "[01]",
            "[1.]",
            "[,]",
            r#"["\x"]"#,
            r#"["\u12"]"#,
            "[\"a\tb\"]",
            r#"["\ud83d\u12"]"#,
            "[{]",
            r#"[{"a"}]"#,
            r#"["a"]]"#,
        ] {
            check(text, Array::NotJson);
        }
        check(&"[".repeat(100_000), Array::NotJson);
        check(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), Array::NotStrings);
    }

    #[test]
    fn ranges_cover_the_quotes() {
        let Array::Strings(found) = parse_array(r#" ["a", "b"]"#) else { panic!() };
        assert_eq!(found.into_iter().map(|(_, range)| range).collect::<Vec<_>>(), [2..5, 7..10]);
    }

    #[test]
    fn a_member_of_an_object() {
        let check = |text: &str, expect: Option<&str>| {
            assert_eq!(
                object_string(text, 0, "syntax").map(|found| found.value),
                expect.map(str::to_owned),
                "{text}"
            );
        };
        check(r#"{"syntax": "a/b"}"#, Some("a/b"));
        check(r#" { "x": [1, {"y": 2}], "syntax" : "a" , "z": null } "#, Some("a"));
        check(r#"{"syntax": 1}"#, None);
        check("{}", None);
        check(r#"{"syntax": "a"} x"#, None);
        check("FROM a", None);
    }
}
