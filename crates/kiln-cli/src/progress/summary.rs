//! The last words about a build that went well.

use std::time::Duration;

use kiln::Receipt;

use crate::text::{printable, seconds, size};

/// Returns what was built in one line, then one line for each output.
pub(super) fn lines(receipt: &Receipt, took: Duration) -> Vec<String> {
    let plural = |n: usize, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let steps = plural(receipt.steps as usize, "step");
    let cached = match receipt.cached {
        0 => String::new(),
        cached => format!(" ({cached} from the cache)"),
    };
    let layers = plural(receipt.layers, "layer");
    let (took, size) = (seconds(took), size(receipt.size));
    let mut lines = vec![format!("built {} in {took}: {steps}{cached}, {layers}, {size}", receipt.digest)];
    lines.extend(receipt.outputs.iter().map(|output| printable(output).into_owned()));
    lines
}
