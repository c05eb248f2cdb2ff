//! Errors as people read them, in one shape.
//!
//! ```text
//! error: COPY cannot find `dist/app` in the build context
//!   --> Dockerfile:14:6
//!    |
//! 14 | COPY dist/app /usr/bin/app
//!    |      ^^^^^^^^
//! caused by: `.dockerignore:3` excludes `dist/`
//! last lines of its output:
//!   | …
//! hint: add `!dist/app` to .dockerignore
//! ```
//!
//! The excerpt is made by `annotate-snippets`; causes, output and hints follow flush left, so that `grep hint:`
//! works on a log. Rendering is a pure function of the error and the colour: a terminal and a log show one text.

use std::borrow::Cow;

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use kiln::error::Place;
use kiln::{Error, ErrorKind};

use crate::style::Style;
use crate::text::printable;

/// What to do about a mistake in kiln.
pub(crate) const REPORT_REQUEST: &str =
    "this is a bug in kiln: please report it with these lines, the command line and `kiln version --verbose`";

/// Renders an error and those that are reported with it, each as a block of lines.
pub(crate) fn render(error: &Error, style: Style) -> String {
    let mut out = String::new();
    let mut left = MOST_ERRORS;
    append(&mut out, error, style, &mut left);
    let hidden = count(error).saturating_sub(MOST_ERRORS);
    if hidden > 0 {
        out.push('\n');
        entry(&mut out, &style.error("error"), &format!("{hidden} further errors are not shown"));
    }
    out
}

/// Nobody reads more: a file with so many errors is the wrong file, or has one mistake at its top.
const MOST_ERRORS: usize = 50;

fn append(out: &mut String, error: &Error, style: Style, left: &mut usize) {
    if *left == 0 {
        return;
    }
    if !out.is_empty() {
        out.push('\n');
    }
    *left -= 1;
    out.push_str(&block(error, style));
    for other in also(error) {
        append(out, other, style, left);
    }
}

fn count(error: &Error) -> usize {
    1 + also(error).map(count).sum::<usize>()
}

/// Returns what an error is reported with; `Error::within` keeps these in the error that it wraps.
fn also(error: &Error) -> impl Iterator<Item = &Error> {
    let mut wrapped = Some(error);
    std::iter::from_fn(move || {
        let this = wrapped?;
        wrapped = this.source.as_ref().and_then(|source| source.downcast_ref());
        Some(this.also.iter())
    })
    .flatten()
}

fn block(error: &Error, style: Style) -> String {
    let mut out = heading(error, style);
    for cause in error.causes() {
        entry(&mut out, &style.cause("caused by"), &cause);
    }
    if !error.tail.is_empty() {
        out.push_str(&style.cause("last lines of its output:"));
        out.push('\n');
        for line in &error.tail {
            out.push_str(&format_line("  | ", &printable(line)));
        }
    }
    for hint in &error.hints {
        entry(&mut out, &style.hint("hint"), hint);
    }
    if error.kind == ErrorKind::Internal {
        entry(&mut out, &style.hint("hint"), REPORT_REQUEST);
    }
    out
}

/// Returns the first line and, where the place is known, the excerpt below it.
fn heading(error: &Error, style: Style) -> String {
    let Some((place, excerpt)) = error.place.as_ref().and_then(|place| Some((place, excerpt(place)?))) else {
        let mut out = String::new();
        entry(&mut out, &style.error("error"), &error.message);
        if let Some(place) = &error.place {
            let (line, column) = place.line_column();
            let file = printable(&place.file);
            let shown = if is_within(place) { format!("{file}:{line}:{column}") } else { file.into_owned() };
            out.push_str(&format_line("  --> ", &shown));
        }
        return out;
    };
    let title = short(&error.message);
    let file = printable(&place.file);
    let snippet = Snippet::source(excerpt.lines)
        .line_start(excerpt.number)
        .path(file.as_ref())
        .annotation(AnnotationKind::Primary.span(excerpt.span));
    let renderer = if style.is_coloured() { Renderer::styled() } else { Renderer::plain() };
    let report = [Level::ERROR.primary_title(title.as_ref()).element(snippet)];
    let rendered = renderer.term_width(DEFAULT_TERM_WIDTH).render(&report);
    format!("{rendered}\n")
}

/// The lines that a place is on.
struct Excerpt<'a> {
    lines: &'a str,
    /// The number of the first of them.
    number: usize,
    /// The place in `lines`.
    span: std::ops::Range<usize>,
}

/// The most text that is shown of a file; longer lines were not written by a person and help nobody.
const LONGEST_EXCERPT: usize = 8 << 10;

/// Returns the lines to show, unless they are too long or the place is none.
fn excerpt(place: &Place) -> Option<Excerpt<'_>> {
    let span = place.span.clone();
    let before = place.text.get(..span.start)?;
    let inside = place.text.get(span.clone())?;
    let after = place.text.get(span.end..)?;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    // A place that ends in a line break does not reach into the next line.
    let end = match inside.ends_with('\n') {
        true => span.end,
        false => span.end + after.find('\n').unwrap_or(after.len()),
    };
    let lines = place.text.get(start..end)?;
    let number = before.matches('\n').count() + 1;
    (lines.len() <= LONGEST_EXCERPT).then_some(Excerpt {
        lines,
        number,
        span: span.start - start..span.end - start,
    })
}

/// A place is shown only when its span lies in its text, on the borders of characters.
fn is_within(place: &Place) -> bool {
    place.text.get(place.span.clone()).is_some()
}

/// Appends `label: text`; further lines of the text are indented, so that they cannot pass for entries.
fn entry(out: &mut String, label: &str, text: &str) {
    for (i, line) in text.trim_end().split('\n').enumerate() {
        let line = short(line);
        out.push_str(&if i == 0 {
            format_line(&format!("{label}: "), &line)
        } else {
            format_line("  ", &line)
        });
    }
}

/// The most characters of one line of a message: some repeat what stands in the file.
const LONGEST_LINE: usize = 2000;

fn short(line: &str) -> Cow<'_, str> {
    match line.char_indices().nth(LONGEST_LINE) {
        Some((end, _)) => Cow::Owned(format!("{}…", printable(line.get(..end).unwrap_or_default()))),
        None => printable(line),
    }
}

fn format_line(prefix: &str, text: &str) -> String {
    format!("{}\n", format!("{prefix}{text}").trim_end())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const TEXT: &str = "FROM scratch\nCOPY dist/app /usr/bin/app\nRUN a \\\n  && b\n";

    fn place(part: &str) -> Option<Place> {
        let start = TEXT.find(part).unwrap();
        let span = start..start + part.len();
        Some(Place { file: "Dockerfile".to_owned(), text: Arc::from(TEXT), span })
    }

    fn check(error: &Error, expect: &str) {
        assert_eq!(render(error, Style::Plain), expect);
    }

    #[test]
    fn an_error_has_place_cause_and_hint() {
        let error = Error::input("COPY cannot find `dist/app` in the build context")
            .at(place("dist/app"))
            .because("`.dockerignore:3` excludes `dist/`")
            .hint("add `!dist/app` to .dockerignore");
        check(
            &error,
            "\
error: COPY cannot find `dist/app` in the build context
 --> Dockerfile:2:6
  |
2 | COPY dist/app /usr/bin/app
  |      ^^^^^^^^
caused by: `.dockerignore:3` excludes `dist/`
hint: add `!dist/app` to .dockerignore
",
        );
    }

    #[test]
    fn a_failed_step_shows_its_last_lines() {
        let mut error = Error::new(kiln::ErrorKind::Step(2), "`RUN a && b` ended with exit code 2");
        error.place = place("RUN a \\\n  && b");
        error.tail = vec!["b: not found".to_owned(), "\u{1b}[31mred\u{1b}[0m".to_owned()];
        check(
            &error,
            "\
error: `RUN a && b` ended with exit code 2
 --> Dockerfile:3:1
  |
3 | / RUN a \\
4 | |   && b
  | |______^
last lines of its output:
  | b: not found
  | red
",
        );
    }

    #[test]
    fn errors_of_one_file_follow_each_other() {
        let mut error = Error::input("first").hint("one");
        error.also.push(Error::input("second"));
        check(&error, "error: first\nhint: one\n\nerror: second\n");
        check(
            &error.within("cannot read the Dockerfile"),
            "\
error: cannot read the Dockerfile
caused by: first
hint: one

error: second
",
        );
    }

    #[test]
    fn causes_are_not_repeated_and_stay_in_their_lines() {
        let error = Error::input("cannot read `x`: gone").because("gone");
        check(&error, "error: cannot read `x`: gone\n");
        let error = Error::input("bad").because("line 1\nhint: line 2\n").hint("real");
        check(&error, "error: bad\ncaused by: line 1\n  hint: line 2\nhint: real\n");
    }

    #[test]
    fn long_lines_and_long_lists_are_cut() {
        let text = format!("FROM a\n{}", "x".repeat(10_000));
        let place = Place { file: "Dockerfile".to_owned(), text: Arc::from(text.as_str()), span: 10..11 };
        check(&Error::input("bad").at(Some(place)), "error: bad\n  --> Dockerfile:2:4\n");
        let mut error = Error::input("first");
        error.also = (0..100).map(|number| Error::input(format!("next {number}"))).collect();
        let rendered = render(&error, Style::Plain);
        assert!(
            rendered.ends_with("\nerror: next 48\n\nerror: 51 further errors are not shown\n"),
            "{rendered}"
        );
    }

    #[test]
    fn a_place_outside_of_its_text_is_named_without_excerpt() {
        let place = Place { file: "Dockerfile".to_owned(), text: Arc::from(""), span: 4..9 };
        check(&Error::input("bad").at(Some(place)), "error: bad\n  --> Dockerfile\n");
    }

    #[test]
    fn a_bug_asks_for_a_report() {
        check(&Error::internal("cannot happen"), &format!("error: cannot happen\nhint: {REPORT_REQUEST}\n"));
    }

    #[test]
    fn colour_changes_no_word() {
        let error = Error::input("bad").at(place("dist/app")).because("why").hint("do");
        let coloured = render(&error, Style::Coloured);
        assert!(coloured.contains("\u{1b}["));
        let mut plain = String::new();
        for line in coloured.lines() {
            plain.push_str(printable(line).trim_end());
            plain.push('\n');
        }
        assert_eq!(plain, render(&error, Style::Plain));
    }
}
