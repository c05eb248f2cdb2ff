//! Findings as one JSON object of kiln's own shape; docs/checks.md describes it.

use kiln::Error;
use kiln::dockerfile::Diagnostic;
use kiln::dockerfile::lint::{Rule, rule};
use serde_json::{Value, json};

use super::{Page, Place};

/// The version of the shape: a key may be added under the same number, and none may go.
const VERSION: u32 = 1;

/// Renders the findings.
pub(crate) fn json(page: &Page<'_>) -> Value {
    let findings: Vec<Value> = page.checked.findings.iter().map(|found| finding(page, found)).collect();
    let errors: Vec<Value> = page.checked.errors.iter().map(|failed| error(page, failed)).collect();
    let unchecked = page.checked.unchecked.iter().map(|left| {
        let line = page.place(left.place.span.start, left.place.span.end).start.0.line;
        json!({ "rule": left.rule, "image": left.image, "line": line, "reason": left.reason })
    });
    let unchecked: Vec<Value> = unchecked.collect();
    json!({
        "version": VERSION,
        "file": page.file,
        "findings": findings,
        "errors": errors,
        "unchecked": unchecked,
    })
}

fn finding(page: &Page<'_>, found: &Diagnostic) -> Value {
    let place = page.place(found.span.start, found.span.end);
    let mut value = json!({
        "rule": found.code,
        "level": if page.checked.strict { "error" } else { "warning" },
        "message": found.message,
        "help": found.help,
        "url": rule(found.code).and_then(Rule::url),
        "start": start(place),
        "end": end(place),
    });
    if let Some(fix) = &found.fix {
        let edits = fix.edits.iter().map(|edit| {
            let place = page.place(edit.span.start, edit.span.end);
            json!({ "start": start(place), "end": end(place), "replacement": edit.replacement })
        });
        value["fix"] = edits.collect();
    }
    value
}

fn error(page: &Page<'_>, failed: &Error) -> Value {
    let mut value = json!({ "message": failed.message, "help": failed.hints });
    if let Some(place) = &failed.place {
        let place = page.place(place.span.start, place.span.end);
        value["start"] = start(place);
        value["end"] = end(place);
    }
    value
}

fn start(place: Place) -> Value {
    let (location, offset) = place.start;
    json!({ "line": location.line, "column": location.column, "offset": offset })
}

fn end(place: Place) -> Value {
    let (location, offset) = place.end;
    json!({ "line": location.line, "column": location.column, "offset": offset })
}
