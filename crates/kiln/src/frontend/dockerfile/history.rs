//! The history of an image in the words that Docker and BuildKit use, so that what reads them reads kiln's.
//!
//! Values are shown expanded. BuildKit ends the lines of steps that change files with `# buildkit`; kiln does not.

use std::fmt::Write as _;
use std::time::Duration;

/// Returns a list as Go prints it: `[a b]`.
pub(super) fn list(values: &[String]) -> String {
    format!("[{}]", values.join(" "))
}

/// Returns a list of quoted strings as Go prints it: `["a" "b c"]`.
pub(super) fn quoted(values: &[String]) -> String {
    let quoted: Vec<String> = values.iter().map(|value| quote(value)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Returns `ENV a=b c=d`, or the same for LABEL.
pub(super) fn pairs(keyword: &str, pairs: &[(String, String)]) -> String {
    let mut text = keyword.to_owned();
    for (key, value) in pairs {
        let _ = write!(text, " {key}={value}");
    }
    text
}

/// Returns the history of a HEALTHCHECK.
pub(super) fn healthcheck(check: &kiln_oci::Healthcheck) -> String {
    let time = |nanos: u64| duration(Duration::from_nanos(nanos));
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&check.test),
        time(check.interval),
        time(check.timeout),
        time(check.start_period),
        time(check.start_interval),
        check.retries
    )
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if c.is_ascii_control() => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Returns a time as Go prints it: `1m30s`, `500ms`, `0s`.
fn duration(time: Duration) -> String {
    let nanos = time.as_nanos();
    let fraction = |unit: u128| {
        let rest = format!("{:0width$}", nanos % unit, width = unit.ilog10() as usize);
        let rest = rest.trim_end_matches('0');
        if rest.is_empty() { String::new() } else { format!(".{rest}") }
    };
    match nanos {
        0 => "0s".to_owned(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}{}µs", n / 1_000, fraction(1_000)),
        n if n < 1_000_000_000 => format!("{}{}ms", n / 1_000_000, fraction(1_000_000)),
        _ => {
            let seconds = time.as_secs();
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let mut out = String::new();
            if hours > 0 {
                let _ = write!(out, "{hours}h");
            }
            if seconds >= 60 {
                let _ = write!(out, "{minutes}m");
            }
            let _ = write!(out, "{}{}s", seconds % 60, fraction(1_000_000_000));
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_go_prints_them() {
        for (nanos, expect) in [
            (0, "0s"),
            (1, "1ns"),
            (1_500, "1.5µs"),
            (500_000_000, "500ms"),
            (1_000_000_000, "1s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (5_400_500_000_000, "1h30m0.5s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), expect);
        }
    }

    #[test]
    fn words_are_quoted_as_in_go() {
        let words = ["a".to_owned(), "b \"c\"\n\\".to_owned(), "\u{1}ä".to_owned()];
        assert_eq!(quoted(&words), r#"["a" "b \"c\"\n\\" "\x01ä"]"#);
        assert_eq!(list(&words[..1]), "[a]");
    }
}
