//! What was measured as text for people: a sentence and a table in Markdown.

use std::fmt::Write as _;

use super::data::{Kind, Results};
use super::statistics::exponent;

/// Processor times below it are too few ticks of the clock for an exponent, in seconds.
const TOO_SHORT: f64 = 0.1;

/// Says on which machine it was measured.
pub(crate) fn machine(results: &Results) -> String {
    let m = &results.machine;
    let memory = (m.memory_bytes as f64 / f64::from(1 << 30)).round();
    let loads = results.measurements.iter().map(|m| m.load);
    let (least, most) = loads.fold((f64::INFINITY, 0_f64), |(a, b), load| (a.min(load), b.max(load)));
    format!(
        "{} processors ({}), {memory} GiB of memory, {}, Linux {}; load average {least:.1} to {most:.1} while measuring.",
        m.cores, m.processor, m.file_system, m.kernel
    )
}

/// Returns the table; its last column is the exponent of the processor time from the size before to this one.
pub(crate) fn markdown(results: &Results) -> String {
    let mut out = "| size | build | time | processor time | memory | store | grows with exponent |\n\
                   |---:|---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    for kind in Kind::ALL {
        for (build, points) in results.series(kind) {
            for (index, m) in points.iter().enumerate() {
                let before = index.checked_sub(1).map(|before| (points[before].size, points[before].cpu_s));
                let grown = before
                    .filter(|(_, cpu)| *cpu >= TOO_SHORT)
                    .and_then(|before| exponent(before, (m.size, m.cpu_s)))
                    .map_or_else(|| "–".to_owned(), |e| format!("{e:.2}"));
                let unit = kind.unit();
                // Writing to a string cannot fail.
                let _ = writeln!(
                    out,
                    "| {} {unit} | {build} | {} s | {} s | {} | {} | {grown} |",
                    count(m.size),
                    seconds(m.wall_s),
                    seconds(m.cpu_s),
                    mebibytes(m.memory_bytes),
                    mebibytes(m.store_bytes)
                );
            }
        }
    }
    out.trim_end().to_owned()
}

/// Writes a number with commas between thousands, and with as many places as it needs up to three.
pub(crate) fn count(number: f64) -> String {
    let text = format!("{number:.3}");
    let (whole, places) = text.split_once('.').unwrap_or((&text, ""));
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    let places = places.trim_end_matches('0');
    if places.is_empty() { out } else { format!("{out}.{places}") }
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{s:.2}"),
        s if s < 100.0 => format!("{s:.1}"),
        s => format!("{s:.0}"),
    }
}

fn mebibytes(bytes: u64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let shown = if mebibytes < 10.0 { (mebibytes * 10.0).round() / 10.0 } else { mebibytes.round() };
    format!("{} MiB", count(shown))
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::{measurement, results};
    use super::*;

    #[test]
    fn numbers_are_written_as_people_read_them() {
        let check = |number, expect: &str| assert_eq!(count(number), expect);
        check(1000.0, "1,000");
        check(500_000.0, "500,000");
        check(0.1, "0.1");
        check(8.0, "8");
        check(0.002, "0.002");
        assert_eq!(
            (mebibytes(512 << 10), mebibytes(4 << 30)),
            ("0.5 MiB".to_owned(), "4,096 MiB".to_owned())
        );
        assert_eq!([0.014, 3.26, 123.4].map(seconds), ["0.01", "3.3", "123"]);
    }

    #[test]
    fn a_row_says_how_its_cost_grew_unless_the_clock_was_too_coarse() {
        let all = results(vec![
            measurement(Kind::Steps, "RUN true", 10.0, 0.01),
            measurement(Kind::Steps, "RUN true", 100.0, 1.0),
            measurement(Kind::Steps, "RUN true", 1000.0, 10.0),
        ]);
        let table = markdown(&all);
        let ends: Vec<&str> = table.lines().skip(2).filter_map(|row| row.rsplit("| ").next()).collect();
        assert_eq!(ends, ["– |", "– |", "1.00 |"]);
        assert!(
            table.contains("| 1,000 instructions | RUN true | 10.0 s | 10.0 s | 20 MiB | 1 MiB |"),
            "{table}"
        );
        assert!(machine(&all).contains("4 processors (Example <1>), 8 GiB of memory, ext4, Linux 6.1.0"));
    }
}
