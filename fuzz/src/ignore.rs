//! Ignore files: a walk through a tree and a look at one path decide alike, and nothing that a walk passes over
//! would have been taken in.

use kiln_dockerfile::ignore::{Ignore, clean_path};
use kiln_dockerfile::{SourceMap, glob};

/// Paths that every file is asked about.
const PATHS: [&str; 8] =
    ["a", "a/b", "a/b/c.go", ".git/config", "src/main.rs", "ä/😀", "node_modules/x/y/z", "a.b/-[x]"];

/// The longest list of paths and the longest path; beyond, only time is spent.
const MOST: usize = 32;

/// Checks one ignore file; after a NUL byte follow paths, each ended by another.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let (ignore, diagnostics) = Ignore::parse(file);
    let map = SourceMap::new(file);
    for diagnostic in &diagnostics {
        assert!(file.get(diagnostic.span.start..diagnostic.span.end).is_some(), "{diagnostic:?}");
        assert!(map.locate(diagnostic.span.start).line <= map.line_count());
    }
    let given = parts.take(MOST).map(clean_path).filter(|path| path.split('/').count() <= MOST);
    let given: Vec<String> =
        given.filter(|path| !path.starts_with(['/', '.']) || path.starts_with(".g")).collect();
    for path in PATHS.into_iter().chain(given.iter().map(String::as_str)) {
        walk(&ignore, path);
        for pattern in ignore.patterns() {
            let _ = glob::matches(&pattern.text, path);
        }
    }
    for line in file.lines() {
        let clean = clean_path(line);
        assert_eq!(clean, clean_path(&clean), "{line:?}");
    }
}

/// Walks from the root to a path.
fn walk(ignore: &Ignore, path: &str) {
    let mut state = ignore.root();
    let mut passed_over = None;
    for (at, _) in path.match_indices('/') {
        let directory = &path[..at];
        let plain = ignore.matches(directory);
        let (decision, entered) = ignore.enter(&state, directory);
        assert_eq!(decision, plain, "the directory {directory:?} of {path:?}");
        assert_eq!(ignore.decide(&state, directory), plain, "the directory {directory:?} as a file");
        if decision.excluded && !ignore.may_reinclude_below(decision, directory) {
            passed_over.get_or_insert(directory);
        }
        state = entered;
    }
    let plain = ignore.matches(path);
    assert_eq!(ignore.decide(&state, path), plain, "{path:?}");
    if let Some(directory) = passed_over {
        assert!(plain.excluded, "{path:?} is taken in, but {directory:?} is not read");
    }
}
