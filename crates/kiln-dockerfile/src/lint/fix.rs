//! Fixes carried out on a text.

use super::File;
use crate::diagnostic::{Diagnostic, Edit, Fix};
use crate::source::Span;

/// Removes the empty lines of a continued instruction, from the first of them to the end of the instruction.
pub(super) fn blank_lines(file: &File<'_>, first: Span) -> Fix {
    let escape = file.tree.directives.escape().character();
    let mut fix = Fix { edits: Vec::new() };
    let mut at = first.start;
    for line in file.source.get(at..).unwrap_or_default().split_inclusive('\n') {
        let text = line.trim();
        let span = Span::new(at, at + line.len());
        at = span.end;
        if text.is_empty() {
            fix.edits.push(Edit { span, replacement: String::new() });
        } else if !text.starts_with('#') && !text.ends_with(escape) {
            break;
        }
    }
    fix
}

/// Applies the fixes of findings and returns the new text with the number of fixes in it.
///
/// A fix that touches the same piece of text as one before it is left out; it is found again in the new text.
#[must_use]
pub fn apply(source: &str, findings: &[Diagnostic]) -> (String, usize) {
    let mut fixes: Vec<&[Edit]> =
        findings.iter().filter_map(|found| Some(found.fix.as_ref()?.edits.as_slice())).collect();
    fixes.sort_by_key(|edits| edits.first().map(|edit| edit.span));
    let mut edits: Vec<&Edit> = Vec::new();
    let mut free_from = 0;
    let mut applied = 0;
    for fix in fixes {
        let ascending = fix.is_sorted_by(|left, right| left.span.end <= right.span.start);
        let whole = fix.iter().all(|edit| source.get(edit.span.start..edit.span.end).is_some());
        let (Some(first), Some(last)) = (fix.first(), fix.last()) else { continue };
        // Equal insertions are one: two findings may ask for the same line.
        if first.span.start < free_from || !ascending || !whole || edits.last() == Some(&first) {
            continue;
        }
        free_from = last.span.end;
        edits.extend(fix);
        applied += 1;
    }
    let mut text = String::with_capacity(source.len());
    let mut at = 0;
    for edit in edits {
        text.push_str(source.get(at..edit.span.start).unwrap_or_default());
        text.push_str(&edit.replacement);
        at = edit.span.end;
    }
    text.push_str(source.get(at..).unwrap_or_default());
    (text, applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(edits: &[(usize, usize, &str)]) -> Diagnostic {
        let edit = |(start, end, text): &(usize, usize, &str)| Edit {
            span: Span::new(*start, *end),
            replacement: (*text).to_owned(),
        };
        let fix = Fix { edits: edits.iter().map(edit).collect() };
        Diagnostic::warning("X", Span::new(0, 0), "x").with_fix(Some(fix))
    }

    #[test]
    fn fixes_are_applied_where_they_do_not_overlap() {
        let check = |fixes: &[&[(usize, usize, &str)]], expect: &str, number: usize| {
            let findings: Vec<_> = fixes.iter().map(|edits| finding(edits)).collect();
            assert_eq!(apply("abcdef", &findings), (expect.to_owned(), number));
        };
        check(&[], "abcdef", 0);
        check(&[&[(0, 1, "X")], &[(3, 5, "")]], "Xbcf", 2);
        check(&[&[(3, 5, "")], &[(0, 1, "X")]], "Xbcf", 2);
        check(&[&[(0, 3, "X")], &[(2, 4, "Y")]], "Xdef", 1);
        check(&[&[(0, 1, "X"), (5, 6, "Y")], &[(2, 3, "Z")]], "XbcdeY", 1);
        check(&[&[(2, 2, "!")], &[(2, 2, "!")]], "ab!cdef", 1);
        check(&[&[(4, 99, "X")]], "abcdef", 0);
    }
}
