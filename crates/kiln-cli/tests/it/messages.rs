//! What people see when a Dockerfile has a fault, word for word: `messages.txt` beside this file is the table.
//!
//! A case is `=== name`, the file, `---` and the message. `KILN_UPDATE_MESSAGES=1` writes the messages anew; then
//! read every one that changed: it has to say what was asked, the line and the column, why, and what to do.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use crate::env;

struct Case<'a> {
    name: &'a str,
    dockerfile: &'a str,
    message: &'a str,
}

fn cases(table: &str) -> Vec<Case<'_>> {
    let case = |text| {
        let (name, rest): (&str, &str) = str::split_once(text, '\n').unwrap();
        let (dockerfile, message) = rest.split_once("---\n").unwrap();
        Case { name, dockerfile, message }
    };
    table.split("=== ").skip(1).map(case).collect()
}

#[test]
fn messages_are_those_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/messages.txt");
    let table = std::fs::read_to_string(&path).unwrap();
    let update = std::env::var_os("KILN_UPDATE_MESSAGES").is_some();
    let env = env();
    env.write("ctx/src/main.c", "c");
    env.write("ctx/dist/app", "app");
    env.write("ctx/.dockerignore", "# built files\n\ndist/\n");
    let mut found = String::new();
    for case in cases(&table) {
        env.write("ctx/Dockerfile", case.dockerfile);
        let outcome = env.kiln(["build", "ctx"]);
        // What comes before tells how far the build went.
        let message = outcome.stderr.find("error: ").map_or("", |at| &outcome.stderr[at..]);
        if !update {
            assert_eq!(outcome.code, Some(1), "{}: {}", case.name, outcome.stderr);
            assert_eq!(message.trim_end(), case.message.trim_end(), "{}\n{}", case.name, case.dockerfile);
        }
        write!(found, "=== {}\n{}---\n{}\n\n", case.name, case.dockerfile, message.trim_end()).unwrap();
    }
    if update {
        std::fs::write(&path, found).unwrap();
    }
}

#[test]
fn the_table_is_long_and_has_no_case_twice() {
    let table = include_str!("messages.txt");
    let cases = cases(table);
    let first = |case: &Case<'_>| case.message.lines().next().unwrap_or_default().to_owned();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    let messages: BTreeSet<String> = cases.iter().map(first).collect();
    assert_eq!(names.len(), cases.len());
    assert!(messages.len() >= 80, "{} different messages", messages.len());
    for case in &cases {
        assert!(case.message.contains("--> Dockerfile"), "{} names no place", case.name);
    }
}
