//! The rules of the house, checked on every run: who may import whom, and what no file may hold.
//!
//! Every rule is a pure function from the text of files to a list of [`Finding`]s; this module reads the files
//! and prints. A rule that has an exception names it in its own table, with the reason.

mod imports;
mod rooms;
mod text;

use std::path::{Path, PathBuf};

use crate::{Outcome, cargo};

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// The file, from the root of the workspace, and the line if there is one.
    place: String,
    /// What is wrong and what to do.
    message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into() }
    }
}

/// One file of the workspace.
#[derive(Debug)]
struct SourceFile {
    /// Its path from the root of the workspace, with `/`.
    path: String,
    text: String,
}

/// Checks the whole workspace.
pub(crate) fn run() -> Outcome {
    let root = cargo::root();
    let (sources, manifests) = read(&root)?;
    let mut found = imports::check(&manifests);
    found.extend(rooms::check(&sources));
    found.extend(text::check(&sources));
    for long in text::long(&sources) {
        println!("note: {}: {}", long.place, long.message);
    }
    for finding in &found {
        println!("{}: {}", finding.place, finding.message);
    }
    match found.len() {
        0 => {
            println!("tidy: {} files, {} manifests, nothing to say", sources.len(), manifests.len());
            Ok(())
        }
        1 => Err("a rule of the house is broken".to_owned()),
        count => Err(format!("rules of the house are broken in {count} places")),
    }
}

/// Reads every Rust file and every manifest of the workspace.
fn read(root: &Path) -> Outcome<(Vec<SourceFile>, Vec<SourceFile>)> {
    let (mut sources, mut manifests) = (Vec::new(), Vec::new());
    for top in ["crates", "xtask", "fuzz/src", "fuzz/fuzz_targets"] {
        let mut todo = vec![root.join(top)];
        while let Some(dir) = todo.pop() {
            for path in list(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.is_dir() {
                    todo.push(path);
                } else if name == "Cargo.toml" {
                    manifests.push(open(root, &path)?);
                } else if name.ends_with(".rs") {
                    sources.push(open(root, &path)?);
                }
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    manifests.sort_by(|a, b| a.path.cmp(&b.path));
    Ok((sources, manifests))
}

fn list(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}

fn open(root: &Path, path: &Path) -> Outcome<SourceFile> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    Ok(SourceFile { path: path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned(), text })
}

/// Returns the lines of a file that are code of the product, with their numbers: no comments, no unit tests.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().take_while(|(_, line)| *line != "#[cfg(test)]");
    lines.map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Tells whether a file holds tests or measurements and nothing else.
fn is_test(path: &str) -> bool {
    path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("/tests.rs")
        || path.contains("kiln-testkit/")
}
