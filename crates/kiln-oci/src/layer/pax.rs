//! PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record in decimal.

use std::collections::BTreeMap;

/// Records of one extended header, sorted by key.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<String, Vec<u8>>);

impl Records {
    pub(super) fn set(&mut self, key: String, value: Vec<u8>) {
        self.0.insert(key, value);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (key, value) in &self.0 {
            // The length counts its own digits, so growing by one digit may take a second round.
            let rest = key.len() + value.len() + 3;
            let mut length = rest + digits(rest);
            length = rest + digits(length);
            out.extend_from_slice(length.to_string().as_bytes());
            out.push(b' ');
            out.extend_from_slice(key.as_bytes());
            out.push(b'=');
            out.extend_from_slice(value);
            out.push(b'\n');
        }
        out
    }
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |d| d as usize + 1)
}

/// Key and value of a record.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits the body of an extended header into keys and values, in the order they stand.
pub(super) fn parse(mut body: &[u8]) -> Result<Vec<Record<'_>>, &'static str> {
    let mut out = Vec::new();
    while !body.is_empty() {
        let space = body.iter().take(20).position(|b| *b == b' ').ok_or("PAX record without a length")?;
        let (head, _) = body.split_at(space);
        let length = decimal(head).and_then(|n| usize::try_from(n).ok()).ok_or("PAX length is no number")?;
        let record = body.get(space + 1..length).ok_or("PAX record runs past its header")?;
        let record = record.strip_suffix(b"\n").ok_or("PAX record does not end in a newline")?;
        let equals = record.iter().position(|b| *b == b'=').ok_or("PAX record without `=`")?;
        let (key, value) = record.split_at(equals);
        if key.is_empty() {
            return Err("PAX record without a key");
        }
        out.push((key, value.get(1..).unwrap_or_default()));
        body = body.get(length..).unwrap_or_default();
    }
    Ok(out)
}

/// Parses an unsigned decimal number without sign or spaces.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a time, `[-]SECONDS[.FRACTION]`; digits past nanoseconds are dropped.
pub(super) fn time(text: &[u8]) -> Option<super::Timestamp> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let dot = text.iter().position(|b| *b == b'.').unwrap_or(text.len());
    let (whole, fraction) = text.split_at(dot);
    let fraction = fraction.get(1..).unwrap_or_default();
    let secs = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i: usize| fraction.get(i).map_or(0, |b| u32::from(b - b'0'));
    let nanos = (0..9).fold(0, |sum, i| sum * 10 + digit(i));
    Some(match (negative, nanos) {
        (false, _) => super::Timestamp { secs, nanos },
        (true, 0) => super::Timestamp { secs: -secs, nanos: 0 },
        (true, _) => super::Timestamp { secs: (-secs).checked_sub(1)?, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        let check = |value: usize, expect: usize| {
            let mut records = Records::default();
            records.set("k".to_owned(), vec![b'v'; value]);
            let body = records.encode();
            assert_eq!(body.len(), expect);
            assert_eq!(parse(&body).unwrap(), [(b"k".as_slice(), vec![b'v'; value].as_slice())]);
        };
        check(0, 5);
        check(4, 9);
        check(5, 11);
        check(93, 99);
        check(94, 101);
        check(95, 102);
    }

    #[test]
    fn damaged_records_are_refused() {
        let check = |body: &str, expect: &str| assert_eq!(parse(body.as_bytes()), Err(expect), "{body}");
        check("x a=b\n", "PAX length is no number");
        check("-6 a=b\n", "PAX length is no number");
        check("99 a=b\n", "PAX record runs past its header");
        check("1 a=b\n", "PAX record runs past its header");
        check("6 a=bc", "PAX record does not end in a newline");
        check("6 abc\n", "PAX record without `=`");
        check("5 =b\n", "PAX record without a key");
        check("99999999999999999999999", "PAX record without a length");
    }

    #[test]
    fn times_have_signs_and_fractions() {
        let check = |text: &str, expect: Option<(i64, u32)>| {
            let found = time(text.as_bytes()).map(|t| (t.secs, t.nanos));
            assert_eq!(found, expect, "{text}");
        };
        check("12", Some((12, 0)));
        check("12.5", Some((12, 500_000_000)));
        check("-1.75", Some((-2, 250_000_000)));
        check("1.1234567899", Some((1, 123_456_789)));
        check("-0.000000001", Some((-1, 999_999_999)));
        check("1.", Some((1, 0)));
        check("", None);
        check("1.x", None);
        check("+1", None);
        check("9223372036854775808", None);
    }
}
