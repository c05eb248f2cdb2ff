//! The parser: no panic, places inside the text, the same answer twice, and lines joined by hand mean the same.

use kiln_dockerfile::{
    Dockerfile, Escape, Instruction, SourceMap, Statement, detect_syntax, parse, parse_bytes, parse_trigger,
};

/// Checks one file.
pub fn check(data: &[u8]) {
    let (file, diagnostics) = parse_bytes(data);
    assert_eq!((&file, &diagnostics), (&parse_bytes(data).0, &parse_bytes(data).1), "two readings differ");
    for diagnostic in &diagnostics {
        assert!(diagnostic.span.end <= data.len(), "{diagnostic:?}");
        assert!(diagnostic.message.len() < 1000, "{diagnostic:?}");
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    assert!(diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span.start));
    let map = SourceMap::new(text);
    for (start, end) in spans(&format!("{file:?}{diagnostics:?}{:?}", detect_syntax(text))) {
        assert!(text.get(start..end).is_some(), "{start}..{end} is no part of {text:?}");
        assert!(map.locate(end).line <= map.line_count());
    }
    order(&file);
    if diagnostics.iter().any(kiln_dockerfile::Diagnostic::is_error) {
        return;
    }
    for statement in file.stages.iter().flat_map(|stage| &stage.instructions) {
        joined(&file, statement);
        // A trigger is read without the directives of the file it comes from.
        if let Instruction::Onbuild(onbuild) = &statement.instruction
            && file.directives.escape() == Escape::Backslash
        {
            let (trigger, faults) = parse_trigger(&onbuild.trigger.value);
            let faulty = faults.iter().any(kiln_dockerfile::Diagnostic::is_error);
            assert!(trigger.is_some() && !faulty, "{onbuild:?}: {faults:?}");
        }
    }
}

/// Instructions follow one another, in lines and in bytes.
fn order(file: &Dockerfile) {
    let (mut byte, mut line) = (0, 0);
    for stage in &file.stages {
        let from = (stage.from.span, &stage.from.lines);
        let rest = stage.instructions.iter().map(|statement| (statement.span, &statement.lines));
        for (span, lines) in std::iter::once(from).chain(rest) {
            assert!(span.start >= byte && *lines.start() > line && lines.end() >= lines.start());
            (byte, line) = (span.end, *lines.end());
        }
    }
}

/// An instruction written on one line means what it means on several.
fn joined(file: &Dockerfile, statement: &Statement) {
    let escape = file.directives.escape().character();
    let text = &statement.original;
    if text.contains("<<") || text.ends_with(escape) || text.contains(['\n', '\u{feff}']) {
        return;
    }
    let (again, _) = parse(&format!("# escape={escape}\nFROM a\n{text}\n"));
    let found = again.stages.first().and_then(|stage| stage.instructions.first());
    let found = found.map(|statement| without_spans(&format!("{:?}", statement.instruction)));
    assert_eq!(found.as_deref(), Some(without_spans(&format!("{:?}", statement.instruction)).as_str()));
}

/// Finds the spans in what `Debug` says of a tree, so that no node can be forgotten.
fn spans(debug: &str) -> Vec<(usize, usize)> {
    let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut found = Vec::new();
    for part in outside_strings(debug) {
        for piece in part.split("Span { start: ").skip(1) {
            let (start, rest) = piece.split_at(number(piece));
            let rest = rest.strip_prefix(", end: ").expect("a span has an end");
            let end = &rest[..number(rest)];
            found.push((start.parse().expect("a number"), end.parse().expect("a number")));
        }
    }
    found
}

fn without_spans(debug: &str) -> String {
    let mut text = String::new();
    let mut rest = debug;
    while let Some(at) = rest.find("Span { start: ") {
        text.push_str(&rest[..at]);
        rest = rest[at..].split_once('}').map_or("", |(_, after)| after);
    }
    text + rest
}

/// Splits `Debug` output at its string literals, which are left out.
fn outside_strings(debug: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside, mut escaped) = (0, false, false);
    for (at, byte) in debug.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if inside => escaped = true,
            b'"' if inside => (inside, start) = (false, at + 1),
            b'"' => {
                parts.push(&debug[start..at]);
                inside = true;
            }
            _ => {}
        }
    }
    if !inside {
        parts.push(&debug[start..]);
    }
    parts
}
