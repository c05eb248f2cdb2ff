//! Durations as `HEALTHCHECK` writes them: `1h30m`, `1.5s`, `100ms`.

use std::time::Duration;

/// Reads a duration of numbers with units `h`, `m`, `s`, `ms`, `us` or `ns`; `0` needs no unit.
///
/// # Errors
///
/// Returns the reason when the text is no duration, is negative, or does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    if text.starts_with('-') && !text.trim_start_matches(['-', '0']).is_empty() {
        return Err("a duration cannot be negative");
    }
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err("a duration needs a number");
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let (whole, after_whole) = digits(rest);
        let (fraction, after_number) = match after_whole.strip_prefix('.') {
            Some(after_point) => digits(after_point),
            None => ("", after_whole),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err("a duration is made of numbers and units");
        }
        let unit_length = after_number.find(|c: char| c == '.' || c.is_ascii_digit());
        let (unit, after_unit) =
            after_number.split_at_checked(unit_length.unwrap_or(after_number.len())).unwrap_or_default();
        let scale = scale(unit).ok_or(if unit.is_empty() {
            "a duration needs a unit: `h`, `m`, `s`, `ms`, `us` or `ns`"
        } else {
            "the units of a duration are `h`, `m`, `s`, `ms`, `us` and `ns`"
        })?;
        let amount = amount(whole, fraction, scale).ok_or("a duration cannot be longer than 292 years")?;
        nanoseconds += amount;
        if nanoseconds > LONGEST {
            return Err("a duration cannot be longer than 292 years");
        }
        rest = after_unit;
    }
    let nanoseconds = u64::try_from(nanoseconds).map_err(|_| "a duration cannot be longer than 292 years")?;
    Ok(Duration::from_nanos(nanoseconds))
}

/// The image config stores durations as signed nanoseconds.
const LONGEST: u128 = i64::MAX as u128;

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or_default()
}

fn scale(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => return None,
    })
}

fn amount(whole: &str, fraction: &str, scale: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut amount = whole.checked_mul(scale)?;
    let mut part = scale;
    for digit in fraction.bytes() {
        // Digits of a fraction below one nanosecond are dropped.
        amount = amount.checked_add(part * u128::from(digit - b'0') / 10)?;
        part /= 10;
        if part == 0 {
            break;
        }
    }
    (amount <= LONGEST).then_some(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |text: &str, nanoseconds: u64| {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)), "{text}");
        };
        check("0", 0);
        check("-0", 0);
        check("0s", 0);
        check("5s", 5_000_000_000);
        check("+5s", 5_000_000_000);
        check("1h2m3s", 3_723_000_000_000);
        check("1.5s", 1_500_000_000);
        check(".5s", 500_000_000);
        check("1.s", 1_000_000_000);
        check("100ms", 100_000_000);
        check("7us", 7_000);
        check("7µs", 7_000);
        check("3ns", 3);
        check("0.0000000001s", 0);
    }

    #[test]
    fn no_durations() {
        for text in [
            "",
            "+",
            "5",
            "s",
            ".s",
            "5x",
            "-5s",
            "5s ",
            "1h 2m",
            "99999999999999h",
            "1e3s",
            "9".repeat(60).as_str(),
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
