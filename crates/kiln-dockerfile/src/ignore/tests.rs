use super::*;

fn ignore(text: &str) -> Ignore {
    let (ignore, diagnostics) = Ignore::parse(text);
    assert_eq!(diagnostics, [], "{text}");
    ignore
}

/// Decides as a walker does, directory by directory.
fn walk<'a>(ignore: &'a Ignore, path: &str) -> Decision<'a> {
    let mut state = ignore.root();
    for (index, _) in path.match_indices('/') {
        state = ignore.enter(&state, &path[..index]).1;
    }
    let decision = ignore.decide(&state, path);
    assert_eq!(ignore.enter(&state, path).0, decision, "{path}");
    decision
}

fn check(text: &str, path: &str, excluded: bool) {
    let ignore = ignore(text);
    assert_eq!(ignore.matches(path).excluded, excluded, "{text:?} on {path}");
    assert_eq!(walk(&ignore, path), ignore.matches(path), "{text:?} on {path}, walking");
}

#[test]
fn patterns_are_anchored_at_the_root() {
    check("a", "a", true);
    check("a", "b/a", false);
    check("a", "ab", false);
    check("/a", "a", true);
    check("./a/", "a", true);
    check("x/../a", "a", true);
    check("a/b", "a/b", true);
    check("a/b", "a", false);
    check("  a  ", "a", true);
    check("*", "a", true);
    check("*", "a/b", true);
    check("*/b", "a/b", true);
    check("*/b", "b", false);
    check("*/*/b", "x/y/b", true);
}

#[test]
fn a_directory_matches_its_children() {
    check("a", "a/b/c", true);
    check("a/b", "a/b/c", true);
    check("a/*", "a/b/c", true);
    check("a/*", "a", false);
    check("*/temp*", "x/temporary/y", true);
}

#[test]
fn comments_start_in_the_first_column() {
    check("# a", "a", false);
    check("#a\na", "a", true);
    check(" #a", "#a", true);
    check("\n \n\t\na\n", "a", true);
    check("\u{feff}a", "a", true);
    check("a\r\nb\r\n", "a", true);
}

#[test]
fn the_last_match_wins() {
    check("*.md\n!README.md", "README.md", false);
    check("*.md\n!README.md", "x.md", true);
    check("!README.md\n*.md", "README.md", true);
    check("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true);
    check("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false);
    check("a\n!a/b", "a/b", false);
    check("a\n!a/b", "a/b/c", false);
    check("a\n!a/b", "a/c", true);
    check("a\n!a/b\na", "a/b", true);
    check("!  a\n", "a", false);
    check("a\n!/a", "a", false);
}

#[test]
fn wildcards() {
    check("*.go", "main.go", true);
    check("*.go", "x/main.go", false);
    check("a?c", "abc", true);
    check("a?c", "a/c", false);
    check("[a-c]x", "bx", true);
    check("[^a-c]x", "bx", false);
    check("[^a-c]x", "dx", true);
    check(r"\*", "*", true);
    check(r"\*", "a", false);
    check(r"a\b", "ab", true);
    check("a.c", "abc", false);
    check("a+", "aa", false);
    check("(a)", "(a)", true);
    check("a*b*c", "axbyc", true);
    check("a*b*c", "axbyd", false);
    check("ä?", "äö", true);
}

#[test]
fn double_stars() {
    check("**", "a", true);
    check("**", "a/b", true);
    check("**/a", "a", true);
    check("**/a", "x/a", true);
    check("**/a", "x/y/a", true);
    check("**/a", "x/ya", false);
    check("**a", "xa", true);
    check("**/*.go", "main.go", true);
    check("**/*.go", "x/y/main.go", true);
    check("**/*.go", "x/y/main.rs", false);
    check("a/**", "a/b", true);
    check("a/**", "a/b/c", true);
    check("a/**", "a", false);
    check("a**", "ab/c", true);
    check("a/**/b", "a/b", true);
    check("a/**/b", "a/x/y/b", true);
    check("a/**/b", "a/x/yb", false);
    check("a**b", "ab", true);
    check("a**b", "axx/b", true);
    check("a**b", "axb", false);
    check("**/a/**/b", "x/a/y/b", true);
    check("**/a**b", "x/a/ab", true);
    check("*a**b", "xaab", true);
    check("**/node_modules/**", "x/node_modules/y", true);
    check("**/foo/bar/**", "x/foo/bar/y", true);
    check("**/.git", ".git/config", true);
}

#[test]
fn faulty_patterns_are_reported() {
    let (ignore, diagnostics) = Ignore::parse("a\n[\n!\nb\\\n");
    assert_eq!(ignore.patterns().len(), 1);
    let found: Vec<_> =
        diagnostics.iter().map(|found| (found.code, found.span, found.message.as_str())).collect();
    assert_eq!(
        found,
        [
            ("invalid-pattern", Span::new(2, 3), "syntax error in pattern `[`"),
            ("invalid-pattern", Span::new(4, 5), "the pattern `!` takes nothing in"),
            ("invalid-pattern", Span::new(6, 8), "syntax error in pattern `b\\`"),
        ]
    );
}

#[test]
fn decisions_name_their_pattern() {
    let ignore = ignore("# comment\n*.md\n!a.md\n");
    let by = |path: &str| ignore.matches(path).pattern.map(|pattern| (pattern.line, pattern.text.clone()));
    assert_eq!(by("x.md"), Some((2, "*.md".to_owned())));
    assert_eq!(by("a.md"), Some((3, "a.md".to_owned())));
    assert_eq!(by("a.rs"), None);
}

#[test]
fn directories_without_a_later_exception_need_not_be_read() {
    let check = |text: &str, directory: &str, expect: bool| {
        assert_eq!(ignore(text).may_reinclude_below(directory), expect, "{text:?} below {directory}");
    };
    check("a", "a", false);
    check("a\n!a/b", "a", true);
    check("a\n!a/b/c", "a/b", true);
    check("a\n!b", "a", false);
    check("a\n!ab/c", "a", false);
    check("!a/b\na", "a", false);
    check("*\n!src", "target", false);
    check("*\n!src/main.rs", "src", true);
    check("*\n!**/x", "target", true);
    check("*\n!*/x", "target", true);
    check("*\n!*/x", "target/debug", false);
    check("*\n!t*/x", "src", false);
    check("*\n!a/**", "a", true);
    check("*\n!a/**", "b", false);
    check("*\n![s-t]*/x", "target", true);
}

#[test]
fn exclude_flags_are_lists() {
    let ignore = Ignore::from_patterns(["*.txt", "", "!a.txt", "#b"]).unwrap();
    assert!(ignore.matches("b.txt").excluded);
    assert!(!ignore.matches("a.txt").excluded);
    assert!(ignore.matches("#b").excluded);
    assert!(Ignore::from_patterns(["["]).is_err());
}

#[test]
fn paths_are_cleaned_as_in_go() {
    let check = |path: &str, expect: &str| assert_eq!(clean_path(path), expect, "{path}");
    check("", ".");
    check(".", ".");
    check("a//b/", "a/b");
    check("./a/./b", "a/b");
    check("a/../b", "b");
    check("a/..", ".");
    check("../a", "../a");
    check("../../a", "../../a");
    check("/..", "/");
    check("/../a", "/a");
    check("/", "/");
    check("//a", "/a");
}

#[test]
fn walking_agrees_with_single_decisions() {
    let parts = ["a", "b", "ab", "c.go", "x"];
    let patterns = [
        "a", "*", "**/b", "!a/b", "a/**", "!**/c.go", "*.go", "a*b", "!*", "**/a/**", "?", "!a/**/b", "x/*",
        "**b",
    ];
    let mut seed: u64 = 7;
    let mut next = |limit: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap() % limit
    };
    for _ in 0..3000 {
        let text: Vec<&str> = (0..=next(4)).map(|_| patterns[next(patterns.len())]).collect();
        let path: Vec<&str> = (0..=next(3)).map(|_| parts[next(parts.len())]).collect();
        let (text, path) = (text.join("\n"), path.join("/"));
        let ignore = ignore(&text);
        let decision = walk(&ignore, &path);
        assert_eq!(decision, ignore.matches(&path), "{text:?} on {path}");
        // What pruning leaves unread must be excluded.
        for (index, _) in path.match_indices('/') {
            let directory = &path[..index];
            if ignore.matches(directory).excluded && !ignore.may_reinclude_below(directory) {
                assert!(decision.excluded, "{text:?} prunes {directory} and loses {path}");
            }
        }
    }
}

#[test]
fn many_paths_are_decided_quickly() {
    let patterns: String = (0..50).map(|index| format!("**/dir{index}/*.o{index}\n")).collect();
    let ignore = ignore(&patterns);
    let start = std::time::Instant::now();
    let mut excluded = 0;
    for directory in 0..200 {
        let name = format!("src/dir{directory}");
        let (_, state) = ignore.enter(&ignore.enter(&ignore.root(), "src").1, &name);
        for file in 0..1000 {
            let found = ignore.decide(&state, &format!("{name}/file{file}.o{}", file % 60));
            excluded += usize::from(found.excluded);
        }
    }
    assert_eq!(excluded, 50 * 17 - 10);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn unlucky_patterns_take_no_exponential_time() {
    let pattern = format!("{}b", "*a".repeat(50));
    let start = std::time::Instant::now();
    assert!(!ignore(&pattern).matches(&"a".repeat(2000)).excluded);
    let pattern = format!("{}b", "**/a/*".repeat(50));
    assert!(!ignore(&pattern).matches(&"a/".repeat(1000)).excluded);
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
