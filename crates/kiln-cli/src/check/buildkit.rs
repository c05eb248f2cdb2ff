//! The answers to `--call` in the shapes of BuildKit: its lint, outline and targets requests.

use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln::Checked;
use kiln::dockerfile::describe::{Given, Outline};
use kiln::dockerfile::lint::{Rule, rule};
use serde_json::{Map, Value, json};

use super::Page;

/// Renders findings as the result of BuildKit's lint request. Places are whole lines there.
pub(crate) fn lint(page: &Page<'_>) -> Value {
    let lines = |start: usize, end: usize| {
        let place = page.place(start, end.max(start + 1) - 1);
        location(&(place.start.0.line..=place.end.0.line))
    };
    let warnings: Vec<Value> = page
        .checked
        .findings
        .iter()
        .map(|found| {
            let mut value = Map::new();
            let known = rule(found.code);
            add(&mut value, "ruleName", Some(found.code));
            add(&mut value, "description", known.map(|rule| rule.summary));
            add(&mut value, "url", known.and_then(Rule::url).as_deref());
            add(&mut value, "detail", Some(&found.message));
            value.insert("location".to_owned(), lines(found.span.start, found.span.end));
            value.into()
        })
        .collect();
    let mut value = json!({
        "warnings": warnings,
        "sources": [{
            "filename": page.checked.file,
            "data": STANDARD.encode(page.checked.text.as_bytes()),
            "language": "Dockerfile",
        }],
    });
    if let Some(error) = page.checked.errors.first() {
        let place = error.place.as_ref().map(|place| lines(place.span.start, place.span.end));
        value["buildError"] =
            json!({ "message": error.message, "location": place.unwrap_or_else(|| json!({})) });
    }
    value
}

/// Renders what the target can be given.
pub(crate) fn outline(checked: &Checked, outline: &Outline) -> Value {
    let mut value = Map::new();
    add(&mut value, "name", outline.name.as_deref());
    add(&mut value, "description", outline.description.as_deref());
    let arguments = outline.arguments.iter().map(|argument| {
        let mut value = Map::new();
        value.insert("name".to_owned(), argument.name.clone().into());
        add(&mut value, "description", argument.description.as_deref());
        add(&mut value, "value", Some(&argument.value));
        value.insert("location".to_owned(), location(&argument.lines));
        value.into()
    });
    list(&mut value, "args", arguments.collect());
    list(&mut value, "secrets", given(&outline.secrets, "name"));
    list(&mut value, "ssh", given(&outline.ssh, "name"));
    list(&mut value, "cache", given(&outline.caches, "ID"));
    value.insert("sources".to_owned(), sources(checked));
    value.into()
}

/// Renders the stages.
pub(crate) fn targets(checked: &Checked) -> Value {
    let targets = checked.targets.iter().map(|target| {
        let mut value = Map::new();
        add(&mut value, "name", target.name.as_deref());
        if target.default {
            value.insert("default".to_owned(), true.into());
        }
        add(&mut value, "description", target.description.as_deref());
        add(&mut value, "base", Some(&target.base));
        add(&mut value, "platform", target.platform.as_deref());
        value.insert("location".to_owned(), location(&target.lines));
        value.into()
    });
    let targets: Vec<Value> = targets.collect();
    json!({ "targets": targets, "sources": sources(checked) })
}

/// Lays out the stages for people.
pub(crate) fn targets_table(checked: &Checked) -> String {
    let mut rows = vec![vec!["TARGET".to_owned(), "BASE".to_owned(), "DESCRIPTION".to_owned()]];
    for target in &checked.targets {
        let name = match (&target.name, target.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        rows.push(vec![name, target.base.clone(), target.description.clone().unwrap_or_default()]);
    }
    table(&rows)
}

/// Lays out what the target can be given for people.
pub(crate) fn outline_table(outline: &Outline) -> String {
    let mut tables = Vec::new();
    let name = outline.name.clone().unwrap_or_else(|| "(default)".to_owned());
    let mut head = vec![vec!["TARGET:".to_owned(), name]];
    if let Some(description) = &outline.description {
        head.push(vec!["DESCRIPTION:".to_owned(), description.clone()]);
    }
    tables.push(table(&head));
    if !outline.arguments.is_empty() {
        let mut rows = vec![vec!["BUILD ARG".to_owned(), "VALUE".to_owned(), "DESCRIPTION".to_owned()]];
        rows.extend(outline.arguments.iter().map(|argument| {
            let description = argument.description.clone().unwrap_or_default();
            vec![argument.name.clone(), argument.value.clone(), description]
        }));
        tables.push(table(&rows));
    }
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if !list.is_empty() {
            let mut rows = vec![vec![title.to_owned(), "REQUIRED".to_owned()]];
            let required = |given: &Given| if given.required { "true" } else { "" }.to_owned();
            rows.extend(list.iter().map(|given| vec![given.name.clone(), required(given)]));
            tables.push(table(&rows));
        }
    }
    if !outline.caches.is_empty() {
        let mut rows = vec![vec!["CACHE".to_owned()]];
        rows.extend(outline.caches.iter().map(|cache| vec![cache.name.clone()]));
        tables.push(table(&rows));
    }
    tables.join("\n")
}

/// Adds a text that is not empty.
fn add(value: &mut Map<String, Value>, key: &str, text: Option<&str>) {
    if let Some(text) = text.filter(|text| !text.is_empty()) {
        value.insert(key.to_owned(), text.into());
    }
}

fn list(value: &mut Map<String, Value>, key: &str, list: Vec<Value>) {
    if !list.is_empty() {
        value.insert(key.to_owned(), list.into());
    }
}

fn given(list: &[Given], key: &str) -> Vec<Value> {
    let one = |given: &Given| {
        let mut value = json!({ key: given.name });
        if given.required {
            value["required"] = true.into();
        }
        value["location"] = location(&given.lines);
        value
    };
    list.iter().map(one).collect()
}

fn location(lines: &RangeInclusive<usize>) -> Value {
    json!({ "ranges": [{ "start": { "line": lines.start() }, "end": { "line": lines.end() } }] })
}

fn sources(checked: &Checked) -> Value {
    json!([STANDARD.encode(checked.text.as_bytes())])
}

/// Lays out columns with three blanks between them.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |text: &String| crate::text::printable(text).into_owned();
    let width =
        |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|text| cell(text).chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|at| width(at).unwrap_or(0)).collect();
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(text, width)| format!("{:width$}", cell(text))).collect();
        out.push_str(cells.join("   ").trim_end());
        out.push('\n');
    }
    out
}
