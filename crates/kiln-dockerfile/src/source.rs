//! Places in the source text: byte spans, and the lines and columns people read.

/// A half-open range of byte offsets into the source text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// Makes a span; an end before the start gives an empty span at the start.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Returns the smallest span that holds both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// Returns the text that the span covers, or nothing when it is not a range of `source`.
    #[must_use]
    pub fn text(self, source: &str) -> &str {
        source.get(self.start..self.end).unwrap_or_default()
    }
}

/// A value and the place it was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// What was read.
    pub value: T,
    /// Where it was read.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Puts a value and its place together.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// Changes the value and keeps the place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), span: self.span }
    }
}

/// A place as a person reads it: both numbers start at one, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

/// Returns the place of a byte offset.
///
/// An offset past the end is the end; an offset inside a character is that character. This reads the text
/// from its start; use a [`SourceMap`] for more than a few look-ups.
#[must_use]
pub fn locate(source: &str, offset: usize) -> Location {
    let before = before(source, offset);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    Location { line, column: characters(before.get(line_start..).unwrap_or_default()) + 1 }
}

/// The text before an offset, cut at a character's border.
fn before(source: &str, offset: usize) -> &str {
    let mut end = offset.min(source.len());
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    source.get(..end).unwrap_or_default()
}

/// The number of characters a person counts: a byte order mark is invisible.
fn characters(text: &str) -> usize {
    text.chars().filter(|character| *character != '\u{feff}').count()
}

/// A source text with the starts of its lines, for many look-ups.
#[derive(Debug, Clone)]
pub struct SourceMap<'a> {
    source: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> SourceMap<'a> {
    /// Finds the lines of a text.
    #[must_use]
    pub fn new(source: &'a str) -> Self {
        let after_newlines = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(after_newlines.map(|(index, _)| index + 1)).collect();
        Self { source, line_starts }
    }

    /// Returns the place of a byte offset, with the rules of [`locate`].
    #[must_use]
    pub fn locate(&self, offset: usize) -> Location {
        let end = before(self.source, offset).len();
        let line = self.line_starts.partition_point(|start| *start <= end);
        let start = line.checked_sub(1).and_then(|index| self.line_starts.get(index)).copied().unwrap_or(0);
        Location { line, column: characters(self.source.get(start..end).unwrap_or_default()) + 1 }
    }

    /// Returns a line by its number, counted from one, without its line break.
    #[must_use]
    pub fn line(&self, number: usize) -> Option<&'a str> {
        let start = *self.line_starts.get(number.checked_sub(1)?)?;
        let end = self.line_starts.get(number).copied().unwrap_or(self.source.len());
        Some(self.source.get(start..end)?.trim_end_matches(['\n', '\r']))
    }

    /// Returns the number of lines; a text that ends in a line break has an empty last one.
    #[must_use]
    pub fn line_count(&self) -> usize {
        self.line_starts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locate_counts_characters_from_one() {
        let check = |source: &str, offset: usize, line: usize, column: usize| {
            assert_eq!(locate(source, offset), Location { line, column }, "locate {offset} in {source:?}");
            let map = SourceMap::new(source);
            assert_eq!(map.locate(offset), Location { line, column }, "map {offset} in {source:?}");
        };
        check("", 0, 1, 1);
        check("", 9, 1, 1);
        check("ab\ncd", 0, 1, 1);
        check("ab\ncd", 2, 1, 3);
        check("ab\ncd", 3, 2, 1);
        check("ab\ncd", 99, 2, 3);
        check("a\n", 2, 2, 1);
        check("äb", 2, 1, 2);
        check("äb", 1, 1, 1);
        check("\u{feff}FROM", 3, 1, 1);
    }

    #[test]
    fn lines_lose_their_line_breaks() {
        let map = SourceMap::new("a\r\nb\n");
        assert_eq!(map.line(1), Some("a"));
        assert_eq!(map.line(2), Some("b"));
        assert_eq!(map.line(3), Some(""));
        assert_eq!(map.line(4), None);
        assert_eq!(map.line(0), None);
    }
}
