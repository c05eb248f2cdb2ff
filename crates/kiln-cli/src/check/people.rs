//! Findings as people read them: an excerpt of the file with the place marked, and what to write instead.

use std::collections::{BTreeMap, BTreeSet};

use annotate_snippets::renderer::DEFAULT_TERM_WIDTH;
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};
use kiln::dockerfile::{Diagnostic, Edit, Fix};

use super::Page;
use crate::report;
use crate::style::Style;
use crate::text::printable;

/// Renders the findings and the errors of the file, each as a block of lines.
pub(crate) fn people(page: &Page<'_>, style: Style) -> String {
    let mut blocks: Vec<String> =
        page.checked.findings.iter().map(|finding| block(page, finding, style)).collect();
    blocks.extend(page.checked.errors.iter().map(|error| report::render(error, style)));
    blocks.join("\n")
}

/// Renders one finding.
fn block(page: &Page<'_>, finding: &Diagnostic, style: Style) -> String {
    let title = printable(&finding.message).into_owned();
    let level = if page.checked.strict { Level::ERROR } else { Level::WARNING };
    let window = Window::around(page, finding);
    let span = window.within(finding.span.start, finding.span.end);
    let snippet = window.snippet().path(printable(&page.file).into_owned());
    let snippet = snippet.annotation(AnnotationKind::Primary.span(span));
    let mut report = vec![level.primary_title(title).id(finding.code).element(snippet)];
    let help = finding.help.as_deref().map(|help| Level::HELP.secondary_title(printable(help).into_owned()));
    // A line that is only taken away cannot be seen in a new text.
    let visible =
        |fix: &&Fix| fix.edits.iter().any(|edit| !edit.replacement.is_empty() || !is_blank(page, edit));
    match (help, finding.fix.as_ref().filter(visible)) {
        (Some(help), Some(fix)) => {
            let patches = fix.edits.iter().map(|edit| {
                Patch::new(window.within(edit.span.start, edit.span.end), edit.replacement.as_str())
            });
            report.push(help.element(window.patched().patches(patches)));
        }
        (Some(help), None) => report.push(Group::with_title(help)),
        (None, _) => {}
    }
    let renderer = if style.is_coloured() { Renderer::styled() } else { Renderer::plain() };
    format!("{}\n", renderer.term_width(DEFAULT_TERM_WIDTH).render(&report))
}

fn is_blank(page: &Page<'_>, edit: &Edit) -> bool {
    edit.span.text(&page.checked.text).trim().is_empty()
}

/// The lines of the file that a finding needs: to render one of many must not take the time of the whole file.
struct Window<'a> {
    text: &'a str,
    start: usize,
    line: usize,
}

impl<'a> Window<'a> {
    fn around(page: &'a Page<'_>, finding: &Diagnostic) -> Self {
        let edits = finding.fix.iter().flat_map(|fix| &fix.edits).map(|edit| edit.span);
        let whole = edits.fold(finding.span, kiln::dockerfile::Span::to);
        let text: &str = &page.checked.text;
        let before = text.get(..whole.start).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let after = text.get(whole.end..).unwrap_or_default();
        let end = after.find('\n').map_or(text.len(), |newline| whole.end + newline + 1);
        let line = page.map.locate(whole.start).line;
        Self { text: text.get(start..end).unwrap_or_default(), start, line }
    }

    fn within(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        let place = |offset: usize| offset.saturating_sub(self.start).min(self.text.len());
        place(start)..place(end)
    }

    fn snippet(&self) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
        Snippet::source(self.text).line_start(self.line)
    }

    fn patched(&self) -> Snippet<'a, Patch<'a>> {
        Snippet::source(self.text).line_start(self.line)
    }
}

/// Returns what remains to be said: what was left out, and how much was found.
pub(crate) fn summary(page: &Page<'_>, fixed: usize) -> String {
    let mut lines = Vec::new();
    if fixed > 0 {
        lines.push(format!("{} fixed in {}", count(fixed, "finding"), page.file));
    }
    let mut rules: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for left in &page.checked.unchecked {
        rules.entry((&left.image, &left.reason)).or_default().insert(left.rule);
    }
    for ((image, reason), rules) in rules {
        let rules: Vec<&str> = rules.into_iter().collect();
        lines.push(format!("note: not checked for `{image}`, because {reason}: {}", rules.join(", ")));
    }
    let (findings, errors) = (page.checked.findings.len(), page.checked.errors.len());
    let fixable = page.checked.findings.iter().filter(|finding| finding.fix.is_some()).count();
    lines.push(match (findings, errors) {
        (0, 0) => format!("nothing found in {}", page.file),
        (0, _) => format!("{} in {}", count(errors, "error"), page.file),
        (_, 0) => format!("{} in {}", count(findings, "finding"), page.file),
        _ => format!("{} and {} in {}", count(findings, "finding"), count(errors, "error"), page.file),
    });
    if fixable > 0 {
        lines.push(format!("hint: `kiln check --fix` repairs {fixable} of them"));
    }
    lines.iter().map(|line| format!("{}\n", printable(line))).collect()
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
