//! Physical lines, and the logical lines that continuations make of them.
//!
//! A logical line is new text, so it remembers where each of its pieces came from; everything that is read
//! from it can say its place in the source.

use crate::source::{Span, Spanned};

/// A line of the file without its line break.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhysicalLine<'a> {
    pub(crate) content: &'a str,
    /// The line with its line break, which bodies of heredocs keep.
    pub(crate) raw: &'a str,
    pub(crate) start: usize,
    /// Counted from one.
    pub(crate) number: usize,
}

impl PhysicalLine<'_> {
    pub(crate) fn span(&self) -> Span {
        Span::new(self.start, self.start + self.content.len())
    }

    pub(crate) fn is_comment(&self) -> bool {
        self.content.trim_start().starts_with('#')
    }
}

/// The physical lines of a text, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Lines<'a> {
    source: &'a str,
    position: usize,
    number: usize,
}

impl<'a> Lines<'a> {
    /// Starts after a byte order mark.
    pub(crate) fn new(source: &'a str) -> Self {
        let position = if source.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { source, position, number: 0 }
    }

    pub(crate) fn offset(&self) -> usize {
        self.position
    }

    /// The number of the line last read.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn peek(&self) -> Option<PhysicalLine<'a>> {
        self.clone().next()
    }

    /// Skips a first line `#!…`, which lets a Dockerfile be an executable script.
    pub(crate) fn skip_shebang(&mut self) {
        if self.number == 0 && self.peek().is_some_and(|line| line.content.starts_with("#!")) {
            self.next();
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = PhysicalLine<'a>;

    fn next(&mut self) -> Option<PhysicalLine<'a>> {
        let rest = self.source.get(self.position..).filter(|rest| !rest.is_empty())?;
        let length = rest.find('\n').map_or(rest.len(), |newline| newline + 1);
        let raw = rest.get(..length)?;
        let start = self.position;
        self.position += length;
        self.number += 1;
        Some(PhysicalLine { content: raw.trim_end_matches(['\r', '\n']), raw, start, number: self.number })
    }
}

/// One instruction's text with its continuation lines joined.
#[derive(Debug, Clone)]
pub(crate) struct LogicalLine {
    pub(crate) text: String,
    /// Where runs of `text` come from: offset in `text`, offset in the source; ascending in both.
    segments: Vec<(usize, usize)>,
    pub(crate) span: Span,
    pub(crate) first_number: usize,
    pub(crate) last_number: usize,
    /// The first blank line inside the continuation.
    pub(crate) blank_line: Option<Span>,
}

impl LogicalLine {
    /// Reads on from a first line until no escape character ends the line.
    ///
    /// Comments and blank lines inside a continuation are dropped and the continuation goes on after them.
    /// White space at the start of continued lines stays, because a shell command may need it.
    pub(crate) fn read(first: PhysicalLine<'_>, lines: &mut Lines<'_>, escape: char) -> Self {
        let indent = first.content.len() - first.content.trim_start().len();
        let content = first.content.trim_start();
        let mut line = Self {
            text: String::new(),
            segments: Vec::new(),
            span: Span::new(first.start + indent, first.start + first.content.len()),
            first_number: first.number,
            last_number: first.number,
            blank_line: None,
        };
        let mut continued = line.append(content, first.start + indent, escape);
        while continued {
            let Some(next) = lines.next() else { break };
            if next.is_comment() {
                continue;
            }
            if next.content.trim_start().is_empty() {
                line.blank_line.get_or_insert(next.span());
                continue;
            }
            continued = line.append(next.content, next.start, escape);
            line.span.end = next.start + next.content.len();
            line.last_number = next.number;
        }
        line
    }

    /// Adds a physical line without its continuation sign and tells whether it had one.
    fn append(&mut self, content: &str, start: usize, escape: char) -> bool {
        self.segments.push((self.text.len(), start));
        let kept = content.trim_end_matches([' ', '\t']).strip_suffix(escape);
        // Two escape characters are an escaped one, which continues nothing.
        let kept = kept.filter(|kept| !kept.ends_with(escape));
        self.text.push_str(kept.unwrap_or(content));
        kept.is_some()
    }

    /// The whole line.
    pub(crate) fn piece(&self) -> Piece<'_> {
        Piece { line: self, start: 0, end: self.text.len() }
    }

    fn source_offset(&self, offset: usize) -> usize {
        let after = self.segments.partition_point(|(logical, _)| *logical <= offset);
        match after.checked_sub(1).and_then(|index| self.segments.get(index)) {
            Some((logical, source)) => source + (offset - logical),
            None => self.span.start,
        }
    }

    /// The place in the source of a range of the joined text.
    pub(crate) fn span_of(&self, start: usize, end: usize) -> Span {
        let from = self.source_offset(start);
        // The end is found through the last byte inside: the byte after it may be on another line.
        let to = if end > start { self.source_offset(end - 1) + 1 } else { from };
        Span::new(from, to)
    }
}

/// A part of a logical line that knows its place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece<'a> {
    line: &'a LogicalLine,
    start: usize,
    end: usize,
}

impl<'a> Piece<'a> {
    pub(crate) fn text(&self) -> &'a str {
        self.line.text.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn span(&self) -> Span {
        self.line.span_of(self.start, self.end)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// The piece and whatever follows it on its line.
    pub(crate) fn to_end_of_line(self) -> Self {
        Self { line: self.line, start: self.start, end: self.line.text.len() }
    }

    /// The part between two offsets into this piece.
    pub(crate) fn part(&self, start: usize, end: usize) -> Self {
        let start = (self.start + start).min(self.end);
        Self { line: self.line, start, end: (self.start + end).clamp(start, self.end) }
    }

    pub(crate) fn from(&self, start: usize) -> Self {
        self.part(start, self.end - self.start)
    }

    pub(crate) fn trim(&self) -> Self {
        let text = self.text();
        let start = text.len() - text.trim_start().len();
        self.part(start, start + text.trim().len())
    }

    /// Splits at the first run of blanks; the rest is empty when there is none.
    pub(crate) fn split_word(&self) -> (Self, Self) {
        let text = self.text();
        let end = text.find(is_blank).unwrap_or(text.len());
        let rest = text.get(end..).unwrap_or_default();
        let next = text.len() - rest.trim_start_matches(is_blank).len();
        (self.part(0, end), self.from(next))
    }

    /// The words between runs of blanks, without regard to quotes.
    pub(crate) fn words(&self) -> Vec<Self> {
        let mut words = Vec::new();
        let mut rest = self.trim();
        while !rest.is_empty() {
            let (word, after) = rest.split_word();
            words.push(word);
            rest = after;
        }
        words
    }

    pub(crate) fn spanned(&self) -> Spanned<String> {
        Spanned::new(self.text().to_owned(), self.span())
    }
}

/// The blanks that separate operands; other Unicode spaces may be part of a name.
pub(crate) fn is_blank(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}
