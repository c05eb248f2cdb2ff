//! What every file has and what no file may hold.

use super::{Finding, SourceFile, code, is_test};

/// A file longer than this is listed.
const SOFT: usize = 400;
/// A file longer than this is an error: split it by idea.
const HARD: usize = 800;

/// Where `unsafe` may be written.
const UNSAFE: &str = "crates/kiln-sandbox/src/sys";

/// What only programs do, not libraries: the call, and what to do in its place.
const AMBIENT: [(&str, &str); 8] = [
    ("println!", "emit an event; `kiln-cli` prints"),
    ("print!", "emit an event; `kiln-cli` prints"),
    ("eprintln!", "emit an event; `kiln-cli` prints"),
    ("eprint!", "emit an event; `kiln-cli` prints"),
    ("std::env::var", "take the value as an argument; `kiln-cli` reads the environment"),
    ("env::var_os", "take the value as an argument; `kiln-cli` reads the environment"),
    ("env::vars", "take the value as an argument; `kiln-cli` reads the environment"),
    ("process::exit", "return an error; `kiln-cli` ends the process"),
];

/// Who does so all the same, and why.
const EXCEPTIONS: [(&str, &str, &str); 1] = [(
    "crates/kiln-sandbox/src/build_namespace.rs",
    "std::env::var",
    "the mark by which the program knows that it was executed again, set and removed by this room alone",
)];

/// Checks every rule on every file.
pub(super) fn check(sources: &[SourceFile]) -> Vec<Finding> {
    let mut found = Vec::new();
    for source in sources {
        found.extend(header(source));
        found.extend(length(source));
        found.extend(unsafe_code(source));
        found.extend(ambient(source));
    }
    found.extend(forgotten_tests(sources));
    found
}

/// Returns the files that are longer than they should be, which is no error yet.
pub(super) fn long(sources: &[SourceFile]) -> Vec<Finding> {
    let lines = |source: &SourceFile| source.text.lines().count();
    let long = sources.iter().filter(|s| lines(s) > SOFT && !s.path.ends_with("/tests.rs"));
    long.map(|s| Finding::new(&s.path, format!("{} lines, more than {SOFT}", lines(s)))).collect()
}

fn length(source: &SourceFile) -> Option<Finding> {
    let lines = source.text.lines().count();
    let message = || format!("{lines} lines, more than {HARD}: split it by idea");
    (lines > HARD && !source.path.ends_with("/tests.rs")).then(|| Finding::new(&source.path, message()))
}

fn header(source: &SourceFile) -> Option<Finding> {
    let exempt = source.path.ends_with("/tests.rs") || source.text.starts_with("//!");
    let message = "does not open with `//!`: say what this file does and what it refuses to do";
    (!exempt).then(|| Finding::new(&source.path, message))
}

fn unsafe_code(source: &SourceFile) -> Vec<Finding> {
    if source.path.starts_with(UNSAFE) {
        return Vec::new();
    }
    let starts = ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern ", "unsafe trait "];
    let written = |line: &str| starts.iter().any(|start| position_of_word(line, start).is_some());
    code(&source.text)
        .filter(|(_, line)| written(line))
        .map(|(line, _)| {
            Finding::new(format!("{}:{line}", source.path), format!("`unsafe` belongs in {UNSAFE}"))
        })
        .collect()
}

fn ambient(source: &SourceFile) -> Vec<Finding> {
    let program = ["crates/kiln-cli/", "xtask/"].iter().any(|dir| source.path.starts_with(dir));
    if program || is_test(&source.path) {
        return Vec::new();
    }
    let excepted =
        |call: &str| EXCEPTIONS.iter().any(|(path, what, _)| *path == source.path && *what == call);
    let mut found = Vec::new();
    for (line, text) in code(&source.text) {
        for (call, remedy) in AMBIENT.iter().filter(|(call, _)| position_of_word(text, call).is_some()) {
            if !excepted(call) {
                found.push(Finding::new(
                    format!("{}:{line}", source.path),
                    format!("`{call}` in a library: {remedy}"),
                ));
            }
        }
    }
    found
}

/// Finds a word that does not continue another one, outside of a string that quotes it.
fn position_of_word(line: &str, word: &str) -> Option<usize> {
    line.match_indices(word).map(|(at, _)| at).find(|&at| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '"' && c != '`')
    })
}

/// Finds files beside a `tests/it/main.rs` that it does not name: cargo would never compile them.
fn forgotten_tests(sources: &[SourceFile]) -> Vec<Finding> {
    let mut found = Vec::new();
    for main in sources.iter().filter(|s| s.path.ends_with("/tests/it/main.rs")) {
        let dir = main.path.trim_end_matches("main.rs");
        for source in sources {
            let Some(name) = source.path.strip_prefix(dir).filter(|name| *name != "main.rs") else {
                continue;
            };
            let name = name.trim_end_matches(".rs").trim_end_matches("/mod");
            let named = main.text.lines().any(|line| line.trim() == format!("mod {name};"));
            if !named && !name.contains('/') {
                found.push(Finding::new(
                    &source.path,
                    format!("is not compiled: add `mod {name};` to {}", main.path),
                ));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expect: &[&str]) {
        let found = super::check(&[SourceFile { path: path.to_owned(), text: text.to_owned() }]);
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.message.contains(expect), "{found:?}");
        }
    }

    #[test]
    fn a_file_says_what_it_is_for() {
        check("crates/kiln/src/a.rs", "//! Does a.\n", &[]);
        check("crates/kiln/src/a.rs", "fn a() {}\n", &["does not open with `//!`"]);
        check("crates/kiln/src/a/tests.rs", "fn a() {}\n", &[]);
    }

    #[test]
    fn a_file_ends_before_its_reader_gives_up() {
        let text = format!("//! Long.\n{}", "\n".repeat(HARD));
        check("crates/kiln/src/a.rs", &text, &["801 lines"]);
        check("crates/kiln/src/a/tests.rs", &text, &[]);
    }

    #[test]
    fn unsafe_code_has_one_place() {
        check("crates/kiln/src/a.rs", "//! A.\nlet x = unsafe { f() };\n", &["`unsafe` belongs in"]);
        check("crates/kiln-sandbox/src/sys/a.rs", "//! A.\nlet x = unsafe { f() };\n", &[]);
        check("crates/kiln/src/a.rs", "//! A.\n// an unsafe { idea }\nlet not_unsafe = 1;\n", &[]);
    }

    #[test]
    fn libraries_take_what_they_need_as_arguments() {
        check("crates/kiln/src/a.rs", "//! A.\nprintln!(\"a\");\n", &["`println!` in a library"]);
        check("crates/kiln/src/a.rs", "//! A.\nlet home = std::env::var(\"HOME\");\n", &["`std::env::var`"]);
        check("crates/kiln/src/a.rs", "//! A.\n#[cfg(test)]\nmod tests { fn f() { println!(); } }\n", &[]);
        check("crates/kiln-cli/src/a.rs", "//! A.\neprintln!(\"a\");\n", &[]);
        check("crates/kiln-cli/src/a.rs", "//! A.\nstd::process::exit(1);\n", &[]);
    }

    #[test]
    fn every_file_of_tests_is_compiled() {
        let file = |path: &str, text: &str| SourceFile {
            path: format!("crates/kiln/tests/it/{path}"),
            text: text.to_owned(),
        };
        let found = forgotten_tests(&[
            file("main.rs", "mod a;\nmod c;\n"),
            file("a.rs", ""),
            file("b.rs", ""),
            file("c/mod.rs", ""),
        ]);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].place.ends_with("b.rs"), "{found:?}");
    }
}
