//! Findings as SARIF 2.1.0, the format that code review tools read.
//!
//! Regions count lines and characters from one; their end is the place after the last character.

use std::collections::BTreeMap;

use kiln::dockerfile::Diagnostic;
use kiln::dockerfile::lint::{RULES, Rule};
use serde_json::{Value, json};

use super::{Page, Place};

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";

/// Renders the findings.
pub(crate) fn sarif(page: &Page<'_>) -> Value {
    let numbers: BTreeMap<&str, usize> = RULES.iter().enumerate().map(|(at, rule)| (rule.name, at)).collect();
    let location = json!({ "uri": uri(&page.file) });
    let findings = page.checked.findings.iter().map(|found| result(page, found, &numbers, &location));
    let errors = page.checked.errors.iter().map(|failed| {
        let mut value = json!({ "level": "error", "message": { "text": failed.message } });
        let span = failed.place.as_ref().map_or(0..0, |place| place.span.clone());
        value["locations"] = locations(page.place(span.start, span.end), &location);
        value
    });
    let results: Vec<Value> = findings.chain(errors).collect();
    let notifications = page.checked.unchecked.iter().map(|left| {
        let text = format!("{} was not checked for `{}`: {}", left.rule, left.image, left.reason);
        json!({ "level": "note", "message": { "text": text }, "associatedRule": { "id": left.rule } })
    });
    let notifications: Vec<Value> = notifications.collect();
    let rules: Vec<Value> = RULES.iter().map(rule).collect();
    json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "kiln",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "artifacts": [{ "location": location }],
            "invocations": [{
                "executionSuccessful": true,
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    })
}

fn rule(rule: &Rule) -> Value {
    let entry = super::entry(rule.name).unwrap_or(rule.summary);
    let mut value = json!({
        "id": rule.name,
        "name": rule.name,
        "shortDescription": { "text": format!("{}.", rule.summary) },
        "help": { "text": why(entry), "markdown": entry },
        "defaultConfiguration": { "level": "warning", "enabled": !rule.experimental },
    });
    if let Some(url) = rule.url() {
        value["helpUri"] = url.into();
    }
    value
}

/// The entry of a rule up to its examples.
fn why(entry: &str) -> &str {
    entry.split("\nBad:").next().unwrap_or(entry).trim()
}

fn result(page: &Page<'_>, found: &Diagnostic, numbers: &BTreeMap<&str, usize>, location: &Value) -> Value {
    let text = match &found.help {
        Some(help) => format!("{}; {help}", found.message),
        None => found.message.clone(),
    };
    let mut value = json!({
        "ruleId": found.code,
        "level": if page.checked.strict { "error" } else { "warning" },
        "message": { "text": text },
        "locations": locations(page.place(found.span.start, found.span.end), location),
    });
    if let Some(number) = numbers.get(found.code) {
        value["ruleIndex"] = (*number).into();
    }
    if let Some(fix) = &found.fix {
        let replacements: Vec<Value> = fix
            .edits
            .iter()
            .map(|edit| {
                json!({
                    "deletedRegion": region(page.place(edit.span.start, edit.span.end)),
                    "insertedContent": { "text": edit.replacement },
                })
            })
            .collect();
        value["fixes"] = json!([{
            "description": { "text": found.help.as_deref().unwrap_or("apply the change") },
            "artifactChanges": [{ "artifactLocation": location, "replacements": replacements }],
        }]);
    }
    value
}

fn locations(place: Place, location: &Value) -> Value {
    json!([{ "physicalLocation": { "artifactLocation": location, "region": region(place) } }])
}

fn region(place: Place) -> Value {
    json!({
        "startLine": place.start.0.line,
        "startColumn": place.start.0.column,
        "endLine": place.end.0.line,
        "endColumn": place.end.0.column,
    })
}

/// Writes a path as a URI reference.
fn uri(path: &str) -> String {
    let mut out = String::new();
    if path.starts_with('/') {
        out.push_str("file://");
    }
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&percent(other)),
        }
    }
    out
}

fn percent(byte: u8) -> String {
    format!("%{byte:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_become_uris() {
        assert_eq!(uri("a/My Dockerfile"), "a/My%20Dockerfile");
        assert_eq!(uri("/x/ä"), "file:///x/%C3%A4");
    }
}
