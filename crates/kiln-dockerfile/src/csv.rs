//! One record of comma-separated fields, as `--mount` and `--device` have.

use crate::flag::FlagValue;

/// Splits a record; a field in double quotes may hold commas, and `""` is a quote in it.
///
/// # Errors
///
/// Returns the message for a quote that does not enclose a whole field.
pub(crate) fn parse(record: &FlagValue) -> Result<Vec<FlagValue>, &'static str> {
    let mut fields = Vec::new();
    let mut field = FlagValue::empty();
    let mut characters = record.characters().peekable();
    loop {
        if characters.peek().is_some_and(|(character, _)| *character == '"') {
            characters.next();
            loop {
                match characters.next() {
                    None => return Err("a quoted field has no closing quote"),
                    Some(('"', _)) => match characters.peek().copied() {
                        Some(('"', span)) => {
                            characters.next();
                            field.push('"', span);
                        }
                        Some((',', _)) | None => break,
                        Some(_) => return Err("a quoted field goes on after its closing quote"),
                    },
                    Some((character, span)) => field.push(character, span),
                }
            }
        }
        loop {
            match characters.next() {
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
                Some((',', _)) => break,
                Some(('"', _)) => return Err("a quote inside a field that is not quoted"),
                Some((character, span)) => field.push(character, span),
            }
        }
        fields.push(std::mem::replace(&mut field, FlagValue::empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Span;

    fn value(text: &str) -> FlagValue {
        let mut value = FlagValue::empty();
        for (index, character) in text.char_indices() {
            value.push(character, Span::new(index, index + character.len_utf8()));
        }
        value
    }

    #[test]
    fn fields_are_split_at_commas_outside_quotes() {
        let check = |text: &str, expect: &[&str]| {
            let fields = parse(&value(text)).unwrap();
            assert_eq!(fields.iter().map(FlagValue::text).collect::<Vec<_>>(), expect, "{text}");
        };
        check("", &[""]);
        check("a", &["a"]);
        check("a,b", &["a", "b"]);
        check("a,,b,", &["a", "", "b", ""]);
        check(r#""a,b",c"#, &["a,b", "c"]);
        check(r#""a""b""#, &[r#"a"b"#]);
        check(r#""""#, &[""]);
    }

    #[test]
    fn quotes_enclose_whole_fields() {
        for text in [r#"a"b"#, r#""a"#, r#""a"b"#] {
            assert!(parse(&value(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_know_their_place() {
        let fields = parse(&value(r#"ab,"c""#)).unwrap();
        assert_eq!(fields[0].span(), Span::new(0, 2));
        assert_eq!(fields[1].span(), Span::new(4, 5));
    }
}
