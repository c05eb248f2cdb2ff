//! Text for people: output of strangers made harmless, sizes, times, lines out of chunks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

/// Returns a line without anything that a terminal would obey: colour codes are taken out, other control
/// characters are written as `^X`. Tabs stay.
pub(crate) fn printable(line: &str) -> Cow<'_, str> {
    if !line.chars().any(is_control) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(length) = sequence(rest) {
            rest = rest.get(length..).unwrap_or_default();
            continue;
        }
        match c {
            '\u{7f}' => out.push_str("^?"),
            c if is_control(c) && c.is_ascii() => {
                out.push('^');
                // Caret notation: the control character plus 64, so that BEL (7) is `^G`.
                out.push(char::from(c as u8 + 64));
            }
            c if is_control(c) => {
                let _ = write!(out, "{}", c.escape_unicode());
            }
            c => out.push(c),
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    Cow::Owned(out)
}

/// Control characters, and those that turn the direction of text around.
fn is_control(c: char) -> bool {
    (c.is_control() && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the length of the sequence `ESC [ … letter` that `text` begins with: colour, cursor, clearing.
fn sequence(text: &str) -> Option<usize> {
    let body = text.strip_prefix("\u{1b}[")?;
    let end = body.find(|c: char| ('\u{40}'..='\u{7e}').contains(&c))?;
    let parameters = body.get(..end)?.chars().all(|c| ('\u{20}'..='\u{3f}').contains(&c));
    parameters.then_some(2 + end + 1)
}

/// Cuts chunks of output into lines.
///
/// A line ends at `\n`, at `\r\n`, and at a lone `\r`, so that each state of a progress bar is a line of a log.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: String,
    after_return: bool,
}

impl Lines {
    /// Adds a chunk and returns the lines that it completes.
    pub(crate) fn push(&mut self, chunk: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for c in chunk.chars() {
            let after_return = std::mem::replace(&mut self.after_return, c == '\r');
            match c {
                '\n' if after_return => {}
                '\n' | '\r' => lines.push(std::mem::take(&mut self.partial)),
                c => self.partial.push(c),
            }
        }
        lines
    }

    /// Returns what stands after the last line break.
    pub(crate) fn finish(&mut self) -> Option<String> {
        Some(std::mem::take(&mut self.partial)).filter(|partial| !partial.is_empty())
    }
}

/// Writes a number of bytes with three digits or so: `12.3 MB`.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    // Fractions of a byte do not matter: the result has one decimal.
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut number = bytes as f64;
    let mut unit = 0;
    // 999.95 would be shown as `1000.0`.
    while number >= 999.95 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{number:.1} {}", UNITS[unit]),
    }
}

/// Writes a rate; nothing when the time is too short to tell.
pub(crate) fn rate(bytes: u64, took: Duration) -> Option<String> {
    // Under a tenth of a second, start-up dominates.
    if took < Duration::from_millis(100) {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "one decimal is shown"
    )]
    let per_second = (bytes as f64 / took.as_secs_f64()) as u64;
    Some(format!("{}/s", size(per_second)))
}

/// Writes a time span: `0.4s`, `75.0s`, `12m05s`.
pub(crate) fn seconds(took: Duration) -> String {
    match took.as_secs() {
        0..100 => format!("{:.1}s", took.as_secs_f64()),
        whole @ 100..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        whole => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
    }
}

/// Returns rows as lines, every column as wide as its widest cell.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for row in rows {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(printable(padded.collect::<Vec<_>>().join("  ").trim_end()).as_ref());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_commands_the_terminal() {
        let check = |text: &str, expect: &str| assert_eq!(printable(text), expect);
        check("plain\ttab ü", "plain\ttab ü");
        check("\u{1b}[1;31mred\u{1b}[0m", "red");
        check("\u{1b}[2J\u{1b}[Hgone?", "gone?");
        check("\u{1b}]0;title\u{7}x", "^[]0;title^Gx");
        check("a\u{8}b\u{0}\u{7f}", "a^Hb^@^?");
        check("\u{9b}31m", "\\u{9b}31m");
        check("\u{202e}abc", "\\u{202e}abc");
        check("\u{1b}[", "^[[");
        check("\u{1b}[1\u{1b}[0mx", "^[[1x");
    }

    #[test]
    fn lines_come_out_of_chunks() {
        let mut lines = Lines::default();
        assert_eq!(lines.push("a\nb"), ["a"]);
        assert_eq!(lines.push("c\r"), ["bc"]);
        assert_eq!(lines.push("\n\nd\re"), ["", "d"]);
        assert_eq!(lines.finish(), Some("e".to_owned()));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn sizes_rates_and_times_are_short() {
        let check = |bytes: u64, expect: &str| assert_eq!(size(bytes), expect);
        check(0, "0 B");
        check(999, "999 B");
        check(1000, "1.0 kB");
        check(12_345_678, "12.3 MB");
        check(999_960, "1.0 MB");
        assert_eq!(rate(1_000_000, Duration::from_millis(500)).as_deref(), Some("2.0 MB/s"));
        assert_eq!(rate(1, Duration::ZERO), None);
        assert_eq!(seconds(Duration::from_millis(420)), "0.4s");
        assert_eq!(seconds(Duration::from_secs(725)), "12m05s");
        assert_eq!(seconds(Duration::from_secs(7_260)), "2h01m");
    }
}
