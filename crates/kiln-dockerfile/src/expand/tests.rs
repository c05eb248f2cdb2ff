use super::*;

fn lookup(name: &str) -> Option<String> {
    let value = match name {
        "a" => "A",
        "empty" => "",
        "path" => "/usr/local/bin",
        "file" => "archive.tar.gz",
        "words" => "one two",
        "quoted" => "it's",
        "star" => "a*b",
        "lines" => "x\ny",
        "sharp" => "ä-ö-ü",
        _ => return None,
    };
    Some(value.to_owned())
}

fn check(word: &str, expect: &str) {
    let found = expand_word(word, Escape::Backslash, &lookup);
    assert_eq!(found.as_ref().map(|found| found.text.as_str()), Ok(expect), "{word}");
}

fn check_error(word: &str, message: &str) {
    let found = expand_word(word, Escape::Backslash, &lookup).map(|found| found.text);
    match found {
        Err(error) => assert_eq!(error.message, message, "{word}"),
        Ok(text) => panic!("{word} became {text}"),
    }
}

#[test]
fn plain_variables() {
    check("", "");
    check("x", "x");
    check("$a", "A");
    check("${a}", "A");
    check("x${a}y", "xAy");
    check("$a.b", "A.b");
    check("$a$a", "AA");
    check("$none", "");
    check("[${none}]", "[]");
    check("$", "$");
    check("a$", "a$");
    check("$ a", "$ a");
    check("$.", "$.");
    check("$1x", "x");
    check("$$", "");
    check("ä$a ö", "äA ö");
}

#[test]
fn quotes_and_escapes() {
    check("'$a'", "$a");
    check("\"$a\"", "A");
    check("a'b c'd", "ab cd");
    check("\"it's\"", "it's");
    check("'say \"x\"'", "say \"x\"");
    check(r"\$a", "$a");
    check(r"\a", "a");
    check(r"\\", r"\");
    check(r"a\", "a");
    check(r#""\$a \" \\ \n""#, r#"$a " \ \n"#);
    check(r"'\$a'", r"\$a");
    check("$quoted", "it's");
    check("''", "");
}

#[test]
fn the_escape_character_can_be_a_backtick() {
    let check = |word: &str, expect: &str| {
        assert_eq!(expand_word(word, Escape::Backtick, &lookup).unwrap().text, expect, "{word}");
    };
    check(r"c:\windows", r"c:\windows");
    check("`$a", "$a");
    check("\"`\"\"", "\"");
}

#[test]
fn defaults_and_alternatives() {
    check("${a:-x}", "A");
    check("${a-x}", "A");
    check("${none:-x}", "x");
    check("${none-x}", "x");
    check("${empty:-x}", "x");
    check("${empty-x}", "");
    check("${a:+x}", "x");
    check("${a+x}", "x");
    check("${none:+x}", "");
    check("${none+x}", "");
    check("${empty:+x}", "");
    check("${empty+x}", "x");
    check("${a:?x}", "A");
    check("${empty?x}", "");
    check("${none:-}", "");
    check("${none:-'}'}", "}");
    check(r"${none:-\}}", "}");
    check("${none:-a b}", "a b");
}

#[test]
fn words_nest() {
    check("${none:-$a}", "A");
    check("${none:-${none:-${a}}}", "A");
    check("${none:-\"${none:-x y}\"}", "x y");
    check("${a:+${path#/usr}}", "/local/bin");
    check("\"${none:-\"x\"}\"", "x");
    check("${file%${none:-.gz}}", "archive.tar");
}

#[test]
fn required_variables() {
    check_error("${none:?no value}", "none: no value");
    check_error("${none?no value}", "none: no value");
    check_error("${empty:?no value}", "empty: no value");
    check_error("${none:?}", "variable `none` must be set");
    check_error("${empty:?}", "variable `empty` must not be empty");
}

#[test]
fn patterns_at_the_start_and_the_end() {
    check("${path#/}", "usr/local/bin");
    check("${path#*/}", "usr/local/bin");
    check("${path##*/}", "bin");
    check("${path#x}", "/usr/local/bin");
    check("${path%/*}", "/usr/local");
    check("${path%%/*}", "");
    check("${file%.*}", "archive.tar");
    check("${file%%.*}", "archive");
    check("${file#????}", "ive.tar.gz");
    check("${file%??}", "archive.tar.");
    check(r"${star#a\*}", "b");
    check(r"${star%\*b}", "a");
    check("${star#*}", "a*b");
    check("${star##*}", "");
    check("${file#[a]}", "archive.tar.gz");
    check(r"${path#\/usr}", "/local/bin");
    check("${sharp%-?}", "ä-ö");
    check("${sharp#?-}", "ö-ü");
    check("${none#x}", "");
    check("${lines##*}", "\ny");
}

#[test]
fn replacements() {
    check("${path/\\//:}", ":usr/local/bin");
    check("${path//\\//:}", ":usr:local:bin");
    check("${file/./-}", "archive-tar.gz");
    check("${file//./-}", "archive-tar-gz");
    check("${file//a/}", "rchive.tr.gz");
    check("${file/tar*/x}", "archive.x");
    check("${file//?/x}", "xxxxxxxxxxxxxx");
    check("${file/nothing/x}", "archive.tar.gz");
    check("${a/A/$path}", "/usr/local/bin");
    check("${file/${none:-tar}/zip}", "archive.zip.gz");
    check("${file//*x/y}", "archive.tar.gz");
    check("${lines//*y/z}", "x\nz");
    check("${a//*/x}", "x");
}

#[test]
fn faults_have_names() {
    check_error("${", "missing `}`");
    check_error("${a", "missing `}`");
    check_error("${a:", "missing `}`");
    check_error("${a:-x", "missing `}`");
    check_error("${}", "bad substitution");
    check_error("${:}", "bad substitution");
    check_error("${{a}}", "bad substitution");
    check_error("${a!x}", "unsupported modifier `!` in substitution");
    check_error("${a:x}", "unsupported modifier `:x` in substitution");
    check_error("${a:#x}", "unsupported modifier `:#` in substitution");
    check_error("${a/x}", "missing `/`");
    check_error("${a/x/", "missing `}`");
    check_error("'a", "a single quote has no end");
    check_error("\"a", "a double quote has no end");
    check_error("\"${a", "missing `}`");
    check_error("\"${a\"", "unsupported modifier `\"` in substitution");
    check_error(r"${a#\x}", r"invalid escape `\x` in a pattern");
}

#[test]
fn faults_have_places() {
    let range = |word: &str| expand_word(word, Escape::Backslash, &lookup).unwrap_err().range;
    assert_eq!(range("ab 'c"), 3..5);
    assert_eq!(range("ab${none?}cd"), 2..10);
    assert_eq!(range("äb${}"), 3..6);
    let error = expand_word("x${}", Escape::Backslash, &lookup).unwrap_err();
    assert_eq!(error.at(Span::new(10, 14)).span, Span::new(11, 14));
    assert_eq!(error.at(Span::new(10, 99)).span, Span::new(10, 99));
}

#[test]
fn nesting_has_a_limit() {
    let nested = |depth: usize| format!("{}x{}", "${none:-".repeat(depth), "}".repeat(depth));
    check(&nested(DEEPEST), "x");
    check_error(&nested(DEEPEST + 1), "variables are nested too deeply");
    check_error(&nested(200_000), "variables are nested too deeply");
}

#[test]
fn names_are_recorded() {
    let check = |word: &str, used: &[&str], undefined: &[&str]| {
        let found = expand_word(word, Escape::Backslash, &lookup).unwrap();
        assert_eq!(found.used.iter().collect::<Vec<_>>(), used, "{word}");
        assert_eq!(found.undefined.iter().collect::<Vec<_>>(), undefined, "{word}");
    };
    check("$a ${path} $a", &["a", "path"], &[]);
    check("$none ${other}", &[], &["none", "other"]);
    check("${none:-x} ${none+x}", &[], &[]);
    check("${none:-$a}", &["a"], &[]);
    check("${none#x}", &[], &["none"]);
    check("'$a'", &[], &[]);
}

#[test]
fn lists_split_at_blanks_outside_quotes() {
    let check = |word: &str, expect: &[&str]| {
        assert_eq!(expand_words(word, Escape::Backslash, &lookup).unwrap().words, expect, "{word}");
    };
    check("", &[]);
    check("a b", &["a", "b"]);
    check("  a   b ", &["a", "b"]);
    check("$words", &["one", "two"]);
    check("x$words", &["xone", "two"]);
    check("\"$words\"", &["one two"]);
    check("'a b' c", &["a b", "c"]);
    check(r"a\ b", &["a b"]);
    check("$none", &[]);
    check("${none:-a b}", &["a", "b"]);
}

#[test]
fn bodies_keep_their_quotes() {
    let check =
        |body: &str, expect: &str| assert_eq!(expand_heredoc(body, &lookup).unwrap().text, expect, "{body}");
    check("\"$a\" '$a'\n", "\"A\" 'A'\n");
    check("it's\n", "it's\n");
    check("\\$a\n", "$a\n");
    check("\\\n", "\n");
    check("\\\\\n", "\\\n");
    check("${none:-\"x\"}", "\"x\"");
}
