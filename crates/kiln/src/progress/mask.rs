//! Values of secrets taken out of text that is shown or kept.
//!
//! A command that prints its secret writes it into its output, and output goes to screens, logs and records. Here every
//! known value is replaced by `***`, also when it arrives in pieces.
//!
//! What is looked for: the whole value without the white space around it, and each of its lines without theirs, so that a
//! key of many lines is hidden however it is printed. What is shorter than [`SHORTEST`] bytes is let through: it would hide
//! half of all words and keep no secret. What a command makes of a value, such as its base64, is not recognised.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Shorter values and lines are not looked for, in bytes.
pub const SHORTEST: usize = 4;
/// What stands in the place of a value.
const STARS: &[u8] = b"***";

/// The values that must not be shown; cheap to clone.
#[derive(Clone, Default)]
pub struct Mask {
    inner: Arc<Inner>,
}

struct Inner {
    /// What is looked for by its first bytes, the longest first.
    needles: Needles,
    /// The bytes that something begins with: most bytes of most output are not among them.
    first: [bool; 256],
}

impl Default for Inner {
    fn default() -> Self {
        Self { needles: Needles::new(), first: [false; 256] }
    }
}

type Needles = BTreeMap<[u8; SHORTEST], Vec<Box<[u8]>>>;

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask(***)")
    }
}

impl Mask {
    /// Returns a mask for these values.
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut needles = Needles::new();
        let mut add = |text: &[u8]| {
            let text = text.trim_ascii();
            if let Some(first) = text.first_chunk() {
                needles.entry(*first).or_default().push(text.into());
            }
        };
        for value in values {
            add(value);
            value.split(|byte| matches!(byte, b'\n' | b'\r')).for_each(&mut add);
        }
        for alike in needles.values_mut() {
            alike.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
            alike.dedup();
        }
        let mut first = [false; 256];
        needles.keys().for_each(|needle| first[usize::from(needle[0])] = true);
        Self { inner: Arc::new(Inner { needles, first }) }
    }

    /// Returns `text` with every value replaced.
    #[must_use]
    pub fn text(&self, text: &str) -> String {
        let mut masked = Masked::new(self);
        let mut out = masked.push(text.as_bytes());
        out.extend(masked.finish());
        String::from_utf8_lossy(&out).into_owned()
    }

    /// Tells what `bytes` begins with.
    fn at(&self, bytes: &[u8], more: More) -> Found {
        let Some(first) = bytes.first_chunk() else {
            // Too short for every needle, and the beginning of one perhaps.
            let begins = || {
                let mut low = [0; SHORTEST];
                low[..bytes.len()].copy_from_slice(bytes);
                self.inner.needles.range(low..).next().is_some_and(|(needle, _)| needle.starts_with(bytes))
            };
            return if more == More::MayCome && begins() { Found::Perhaps } else { Found::Nothing };
        };
        for needle in self.inner.needles.get(first).into_iter().flatten() {
            if bytes.starts_with(needle) {
                return Found::Value(needle.len());
            }
            if more == More::MayCome && needle.starts_with(bytes) {
                return Found::Perhaps;
            }
        }
        Found::Nothing
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    MayCome,
    Never,
}

enum Found {
    Nothing,
    /// A value may begin here and go on in what comes next.
    Perhaps,
    /// A value of so many bytes.
    Value(usize),
}

/// One stream of bytes behind a mask.
#[derive(Debug)]
pub struct Masked {
    mask: Mask,
    /// The beginning of a value perhaps: never longer than the longest one.
    held: Vec<u8>,
}

impl Masked {
    /// Begins a stream.
    #[must_use]
    pub fn new(mask: &Mask) -> Self {
        Self { mask: mask.clone(), held: Vec::new() }
    }

    /// Takes the next bytes and returns those that can be shown by now.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        if self.mask.inner.needles.is_empty() {
            return bytes.to_vec();
        }
        self.held.extend_from_slice(bytes);
        self.take(More::MayCome)
    }

    /// Returns what was held back, at the end of the stream.
    pub fn finish(&mut self) -> Vec<u8> {
        self.take(More::Never)
    }

    fn take(&mut self, more: More) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        while let Some((byte, behind)) = rest.split_first() {
            if !self.mask.inner.first[usize::from(*byte)] {
                out.push(*byte);
                rest = behind;
                continue;
            }
            match self.mask.at(rest, more) {
                Found::Nothing => {
                    out.push(*byte);
                    rest = behind;
                }
                Found::Perhaps => break,
                Found::Value(length) => {
                    out.extend_from_slice(STARS);
                    rest = &rest[length..];
                }
            }
        }
        let left = rest.len();
        self.held.drain(..self.held.len() - left);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        Mask::new(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn values_become_stars() {
        let check = |values: &[&str], text: &str, expect: &str| assert_eq!(mask(values).text(text), expect);
        check(&["hunter2"], "is hunter2, hunter", "is ***, hunter");
        check(&["hunter2\n"], "hunter2hunter2\n", "******\n");
        check(&[], "hunter2", "hunter2");
        check(&["abc"], "abc", "abc");
        check(&["first line\n  second\nxy\n"], "second\nfirst line\nxy", "***\n***\nxy");
        check(&["first line\n  second\nxy\n"], "<first line\n  second\nxy>", "<***>");
        // The longer of two that begin alike, and the shorter where the longer does not follow.
        check(&["pass", "password"], "password passwort", "*** ***wort");
        check(&["aaab"], "aaaab", "a***");
    }

    #[test]
    fn a_value_in_pieces_is_found_wherever_it_is_cut() {
        let text = b"x hunter2 y hunter3 hunt";
        for first in 0..text.len() {
            for second in first..text.len() {
                let mut masked = Masked::new(&mask(&["hunter2", "hunter2 y hunter4"]));
                let mut out = masked.push(&text[..first]);
                out.extend(masked.push(&text[first..second]));
                out.extend(masked.push(&text[second..]));
                out.extend(masked.finish());
                assert_eq!(String::from_utf8_lossy(&out), "x *** y hunter3 hunt", "{first} {second}");
            }
        }
    }

    #[test]
    fn what_cannot_be_a_value_is_not_held_back() {
        let mut masked = Masked::new(&mask(&["hunter2"]));
        assert_eq!(masked.push(b"Password? "), b"Password? ");
        assert_eq!(masked.push(b"hun"), b"");
        assert_eq!(masked.push(b"dred\n"), b"hundred\n");
    }
}
