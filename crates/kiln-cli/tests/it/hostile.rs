//! Files that no person wrote: each is answered soon, with one clear error or a build, and never with a panic.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::env;

/// What an answer may take in a test build on a busy machine; a quadratic reader would need minutes.
const SOON: Duration = Duration::from_secs(20);

/// Builds a file and expects code 1 with these parts, and no more output than a person scrolls through.
#[track_caller]
fn check(what: &str, dockerfile: impl AsRef<[u8]>, parts: &[&str]) {
    let outcome = build(what, dockerfile.as_ref());
    outcome.fails(1, &["error: "]);
    outcome.fails(1, parts);
    assert!(!outcome.stderr.contains("panicked"), "{what}: {}", outcome.stderr);
    let lines = outcome.stderr.lines().count();
    assert!(lines < 400, "{what}: {lines} lines of errors");
    let longest = outcome.stderr.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 10_000, "{what}: a line of {longest} bytes");
}

#[track_caller]
fn build(what: &str, dockerfile: &[u8]) -> kiln_testkit::Outcome {
    let env = env();
    env.write("ctx/Dockerfile", dockerfile);
    let start = Instant::now();
    let outcome = env.kiln(["build", "ctx"]);
    let took = start.elapsed();
    assert!(took < SOON, "{what} took {took:?}");
    outcome
}

#[test]
fn files_that_are_no_dockerfile() {
    check("empty", "", &["the file has no instructions"]);
    check("blanks", " \n\t\n", &["the file has no instructions"]);
    check("comments", "# a\n# b\n", &["the file has no instructions"]);
    check("NUL", "FROM scratch\nENV a=\0b\n", &["the file has a NUL byte", "is this the right file?"]);
    check("program", b"\x7fELF\x02\x01\x01\0\0\0\0\xff\xfe\x80".repeat(1000), &["is this the right file?"]);
    check("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xfd", &["is this the right file?"]);
    let mut tar = vec![0; 2048];
    tar[..8].copy_from_slice(b"app/file");
    tar[257..262].copy_from_slice(b"ustar");
    check("tar", tar, &["is this the right file?"]);
    check("invalid UTF-8", b"FROM scratch\nLABEL a=\xc3\x28\n", &["not valid UTF-8", "Dockerfile:2:9"]);
    let wide = |order: fn(u16) -> [u8; 2], mark: [u8; 2]| -> Vec<u8> {
        mark.into_iter().chain("FROM scratch\n".encode_utf16().flat_map(order)).collect()
    };
    check("UTF-16", wide(u16::to_le_bytes, [0xff, 0xfe]), &["the file is UTF-16", "save it as UTF-8"]);
    check("UTF-16", wide(u16::to_be_bytes, [0xfe, 0xff]), &["the file is UTF-16", "save it as UTF-8"]);
    check("old line ends", "FROM scratch\rENV a=b\rENV c=d\r", &["carriage returns only", "line feeds"]);
    check("prose", "the quick brown fox\n".repeat(100_000), &["unknown instruction `the`", "not shown"]);
}

#[test]
fn heredocs_without_end_and_without_measure() {
    check("open", "FROM scratch\nCOPY <<EOF /a\nx\n", &["heredoc `EOF` has no end", "only `EOF`"]);
    let large = format!("FROM scratch\nCOPY <<EOF /a\n{}EOF\n", "0123456789abcde\n".repeat(6_250_000));
    check("100 MB", large, &["larger than 64 MiB"]);
    check("open heredocs", format!("FROM scratch\n{}", "RUN <<E\n".repeat(100_000)), &["has no end"]);
}

#[test]
fn long_lines() {
    let line = format!("FROM scratch\nRNU {}\n", "x".repeat(64_000_000));
    check("64 MB", line, &["unknown instruction `RNU`", "did you mean `RUN`?", "Dockerfile:2:1"]);
    let line = format!("FROM scratch\nENV {}\n", "x".repeat(1_000_000));
    check("one word", line, &["ENV must have two operands", "Dockerfile:2:5"]);
    let nested = format!("FROM scratch\nENV a={}x{}\n", "${b:-".repeat(100_000), "}".repeat(100_000));
    check("nested", nested, &["nested too deeply", "Dockerfile:2:"]);
    let continued = format!("FROM scratch\nRNU a \\\n{}b\n", " c \\\n".repeat(1_000_000));
    check("continued", continued, &["unknown instruction `RNU`"]);
}

#[test]
fn many_lines() {
    let lines = format!("FROM scratch\n{}NV a=b\n", "ENV a=b\n".repeat(100_000));
    check("100,000 lines", lines, &["did you mean `ENV`?", "Dockerfile:100002:1"]);
    let lines = format!("FROM scratch\n{}", "COPY --frm=a b c\n".repeat(100_000));
    check("faulty flags", lines, &["did you mean `--from`?", "99950 further errors are not shown"]);
    let lines = format!("FROM scratch\n{}", "ARG --x A\n".repeat(10_000));
    let outcome = build("warnings", lines.as_bytes());
    outcome.ok();
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

#[test]
fn many_names() {
    let mut stages = String::new();
    for number in 0..100_000 {
        writeln!(stages, "FROM scratch AS s{number}").unwrap();
    }
    stages += "FROM scratch AS last\nCOPY --from=s9 /a /b\nFROM s5\nCOPY --from=99999 /a /b\n";
    check("stages", stages, &["cannot find `/a`", "Dockerfile:100004"]);
    let args = |count: usize| {
        (0..count).fold(String::new(), |mut text, number| {
            writeln!(text, "ARG A{number}").unwrap();
            text
        })
    };
    check("global arguments", args(1_000_000) + "FROM $NONE\n", &["no ARG declares `NONE`"]);
    // Each of these is a line of the history as well, so there are fewer.
    check("arguments", format!("FROM scratch\n{}COPY a b\n", args(200_000)), &["COPY cannot find `a`"]);
}

#[test]
fn names_that_lead_nowhere_or_in_circles() {
    check(
        "circle",
        "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n",
        &["copies from a later stage", "Dockerfile:2:13"],
    );
    check("itself", "FROM scratch AS a\nCOPY --from=a /x /\n", &["copies from itself"]);
    check("number", "FROM scratch\nCOPY --from=3 /x /\n", &["there is no stage 3"]);
    check("directives", "# escape=`\n# escape=`\nFROM scratch\n", &["only one `escape` directive"]);
}

#[test]
fn values_that_grow() {
    let doubled = format!("FROM scratch\nENV a=x\n{}", "ENV a=$a$a\n".repeat(100));
    check("doubled", doubled, &["stand for more than 1 MiB", "Dockerfile:"]);
    let multiplied =
        "FROM scratch\nARG a=0123456789abcdef0123456789abcdef\nLABEL x=${a//?/${a//?/${a//?/${a//?/$a}}}}\n";
    check("multiplied", multiplied, &["stand for more than 1 MiB", "Dockerfile:3:"]);
}
