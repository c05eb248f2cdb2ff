//! The ratios of an earlier run: lines of `RATIO NAME`, with `#` before comments.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{Measured, Outcome};

/// Returns a rate per million steps of the calibration.
pub(crate) fn ratio(measured: &Measured, loops: f64) -> f64 {
    measured.rate / (loops / 1e6)
}

/// Reads the ratios; without a file there are none.
pub(crate) fn read(path: &Path) -> BTreeMap<String, f64> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

fn parse(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(ratio, name)| Some((name.trim().to_owned(), ratio.parse().ok()?)))
        .collect()
}

/// Writes the ratios of this run.
pub(crate) fn write(path: &Path, measured: &[Measured], loops: f64) -> Outcome {
    let mut text =
        "# Rates of `cargo xtask bench --save`, per million steps of its calibration loop.\n".to_owned();
    text.extend(measured.iter().map(|m| format!("{:.4} {}\n", ratio(m, loops), m.name)));
    Ok(std::fs::write(path, text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_have_spaces() {
        let known = parse("# comment\n0.1250 pack gzip, one worker\nnonsense\n");
        assert_eq!(known, BTreeMap::from([("pack gzip, one worker".to_owned(), 0.125)]));
    }
}
