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
    // The second `a` is passed over for the directory, and so it does not count below.
    check("a\n!a/b\na", "a/b", false);
    check("a\n!a/b\na/b", "a/b", true);
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
        let ignore = ignore(text);
        let decision = ignore.matches(directory);
        assert_eq!(ignore.may_reinclude_below(decision, directory), expect, "{text:?} below {directory}");
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

/// The rule by the letter: for each directory on the way, remember of every pattern whether it matched when looked at.
fn literally(ignore: &Ignore, path: &str) -> bool {
    let mut seen = vec![false; ignore.patterns().len()];
    let mut out = false;
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for part in ends.map(|end| &path[..end]) {
        out = false;
        for (pattern, seen) in ignore.patterns().iter().zip(&mut seen) {
            *seen |= pattern.negated == out && pattern.rule.matches(part);
            if *seen {
                out = !pattern.negated;
            }
        }
    }
    out
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
        assert_eq!(decision.excluded, literally(&ignore, &path), "{text:?} on {path}, by the letter");
        // What pruning leaves unread must be excluded.
        for (index, _) in path.match_indices('/') {
            let directory = &path[..index];
            let decided = ignore.matches(directory);
            if decided.excluded && !ignore.may_reinclude_below(decided, directory) {
                assert!(decision.excluded, "{text:?} prunes {directory} and loses {path}");
            }
        }
    }
}

/// Fifty patterns as large repositories have them.
fn many_patterns() -> String {
    let mut text: String = (0..20).map(|n| format!("**/dir{n}/*.o{n}\n")).collect();
    text.extend((0..15).map(|n| format!("**/name{n}\nbuild{n}/\n")));
    text.truncate(text.len() - "build14/\n".len());
    text + "out\n!out/**/keep.txt\n"
}

/// Walks a made-up tree: 200 directories of 1000 files, and as many again in an excluded one. Returns paths and evaluations.
fn walk_many(ignore: &Ignore) -> (u64, u64, u64) {
    rule::EVALUATED.with(|count| count.set(0));
    let (mut paths, mut excluded) = (0, 0);
    for top in ["src", "out"] {
        let (_, outer) = ignore.enter(&ignore.root(), top);
        paths += 1;
        for directory in 0..100 {
            let name = format!("{top}/dir{directory}");
            let (_, state) = ignore.enter(&outer, &name);
            paths += 1;
            for file in 0..1000 {
                let found = ignore.decide(&state, &format!("{name}/file{file}.o{}", file % 60));
                paths += 1;
                excluded += u64::from(found.excluded);
            }
        }
    }
    (paths, excluded, rule::EVALUATED.with(std::cell::Cell::get))
}

#[test]
fn work_grows_with_paths_times_patterns_at_most() {
    let ignore = ignore(&many_patterns());
    let patterns = ignore.patterns().len() as u64;
    assert_eq!(patterns, 51);
    let (paths, excluded, evaluated) = walk_many(&ignore);
    // Files 0..1000 of dirN end in .oN for every sixtieth: 17 for N below 40, 16 above. All of `out` is excluded.
    assert_eq!(excluded, 20 * 17 + 100_000);
    // Below `src` the pattern with `!` is never looked at, and below `out` it is the only one.
    let tops = 2 * patterns;
    assert!(evaluated <= tops + paths / 2 * (patterns - 1) + paths / 2, "{evaluated} for {paths} paths");
}

#[test]
fn a_pattern_that_can_change_nothing_is_not_looked_at() {
    let evaluations = |text: &str, path: &str| {
        let ignore = ignore(text);
        rule::EVALUATED.with(|count| count.set(0));
        let _ = ignore.decide(&ignore.root(), path);
        rule::EVALUATED.with(std::cell::Cell::get)
    };
    assert_eq!(evaluations("a\nb\nc\n", "a"), 1);
    assert_eq!(evaluations("a\n!b\n!c\n", "x"), 1);
    assert_eq!(evaluations("!b\n!c\n", "b"), 0);
    assert_eq!(evaluations("a\n!b\nc\n", "a"), 2);
    // What is known of the parent is not asked again.
    let ignore = ignore("a\n");
    let (_, state) = ignore.enter(&ignore.root(), "a");
    rule::EVALUATED.with(|count| count.set(0));
    assert!(ignore.decide(&state, "a/b").excluded);
    assert_eq!(rule::EVALUATED.with(std::cell::Cell::get), 0);
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

/// Cases of the contract that moby/patternmatcher has with its users, found by reading its code.
#[test]
fn corners_are_those_of_patternmatcher() {
    // Nothing is trimmed but blanks around a line; blanks inside are part of the name, and case counts.
    check("a b", "a b", true);
    check("\ta\t", "a", true);
    check("A", "a", false);
    // `.` and `/` stand for the root, which cannot be left out.
    check(".", "a", false);
    check("/", "a", false);
    check("./", "a", false);
    check("..", "a", false);
    check("../a", "a", false);
    check("a/.", "a", true);
    check("a//b/", "a/b/c", true);
    // `!` may stand apart from its pattern, and only the first one means something.
    check("a\n! a", "a", false);
    check("a\n!/a/", "a", false);
    check("!a", "!a", false);
    check("\\!a", "!a", true);
    check("!!a\n", "!a", false);
    check("*\n!!a", "!a", false);
    // Only `^` negates a class, and a class may match a slash.
    check("[!a]", "!", true);
    check("[!a]", "b", false);
    check("a[^x]b", "a/b", true);
    check("a[.-0]b", "a/b", true);
    // Characters that mean something in regular expressions mean nothing here.
    check("a$", "a$", true);
    check("a|b", "a", false);
    check("a{1}", "a", false);
    check("^a", "^a", true);
    check("x*.c", "xy.c", true);
    check("x*.c", "xyzc", false);
    // Three stars are two and one.
    check("***", "a/b", true);
    check("a/***", "a/b/c", true);
    check("***/a", "x/y/a", true);
    // `a/**` is what lies in `a` at any depth; `**/a` is a whole last part, `**a` the end of a path.
    check("**/a", "ba", false);
    check("**a", "x/ba", true);
    check("**/a/b", "x/a/b/c", true);
    check("a/**\n!a/b/**", "a/b", true);
    check("a/**\n!a/b/**", "a/b/c", false);
    // A directory that is left out may hold what is taken in again, however deep.
    check("*\n!a/b/c", "a/b/c", false);
    check("*\n!a/b/c", "a/b/d", true);
    check("*\n!**/c", "a/b/c", false);
    check("**\n!a", "a/b", false);
    check("*/*\n!*/keep\n*/keep/no", "x/keep/no", true);
}
