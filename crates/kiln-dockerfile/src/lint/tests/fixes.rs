//! Fixes: what a file is after them, and that nothing is left to find.

use super::*;

/// Fixes a file until there is nothing to fix.
fn fixed(source: &str) -> String {
    let mut text = source.to_owned();
    for _ in 0..4 {
        let (next, number) = apply(&text, &report(&text, &Facts::default()).findings);
        if number == 0 {
            return text;
        }
        text = next;
    }
    panic!("there is always something more to fix: {text}");
}

#[track_caller]
fn check_fix(source: &str, expect: &str) {
    assert_eq!(fixed(source), expect);
    assert_eq!(report(expect, &Facts::default()).findings, []);
}

/// Expects a finding that has no fix.
#[track_caller]
fn check_none(source: &str) {
    let findings = report(source, &Facts::default()).findings;
    assert!(!findings.is_empty(), "{source}");
    assert!(findings.iter().all(|found| found.fix.is_none()), "{source}: {findings:?}");
}

#[test]
fn casing() {
    check_fix(
        "from scratch as Base\nCOPY a b\nCOPY --from=Base c d\n",
        "FROM scratch AS base\nCOPY a b\nCOPY --from=Base c d\n",
    );
    check_fix("FROM scratch \\\n  # as it was\n  as a\n", "FROM scratch \\\n  # as it was\n  AS a\n");
    check_fix("FROM scratch\nEXPOSE 80/TCP 127.0.0.1:81:82/Udp\n", "FROM scratch\nEXPOSE 80/tcp 82/udp\n");
}

#[test]
fn pairs() {
    check_fix("FROM scratch\nENV a b\nLABEL c d  e\n", "FROM scratch\nENV a=b\nLABEL c=\"d  e\"\n");
    check_fix("FROM scratch\nENV a \"b c\"\n", "FROM scratch\nENV a=\"b c\"\n");
    check_fix("FROM scratch\nENV a b=c $PATH\n", "FROM scratch\nENV a=\"b=c $PATH\"\n");
    check_none("FROM scratch\nENV a it's \"b\"\n");
    check_none("FROM scratch\nENV a b \\\n  c\n");
}

#[test]
fn commands() {
    check_fix(
        "FROM scratch AS a\nENTRYPOINT node  server.js\nFROM scratch\nCMD start --port=80\n",
        "FROM scratch AS a\nENTRYPOINT [\"node\", \"server.js\"]\nFROM scratch\nCMD [\"start\", \"--port=80\"]\n",
    );
    check_none("FROM scratch\nCMD a && b\n");
    check_none("FROM scratch\nCMD exec a $B\n");
    // The form of one of them decides what the other means, here or in the base.
    check_none("FROM scratch\nENTRYPOINT a\nCMD b\n");
    check_none("FROM scratch AS a\nENTRYPOINT [\"a\"]\nFROM a\nCMD b\n");
    check_none("FROM unknown\nCMD b\n");
}

#[test]
fn paths_and_names() {
    check_fix("FROM scratch\nWORKDIR app\nWORKDIR b\n", "FROM scratch\nWORKDIR /app\nWORKDIR b\n");
    check_none("FROM scratch\nARG A=b\nWORKDIR $A\n");
    let mut facts = Facts::default();
    facts.bases.insert(0, image("linux/arm64", "linux/arm64", &[]));
    let text = "FROM base\nWORKDIR app\n";
    assert_eq!(apply(text, &report(text, &facts).findings).0, "FROM base\nWORKDIR /srv/app\n");
    check_fix(
        "FROM scratch\nMAINTAINER A <a@b>\n",
        "FROM scratch\nLABEL org.opencontainers.image.authors=\"A <a@b>\"\n",
    );
    check_none("FROM scratch\nMAINTAINER \"A\"\n");
    check_fix("FROM --platform=$TARGETPLATFORM  scratch\n", "FROM scratch\n");
}

#[test]
fn missing_declarations() {
    check_fix(
        "ARG A=1\nFROM scratch\nCOPY $A $A /\nCOPY ${A}b $TARGETARCH /\n",
        "ARG A=1\nFROM scratch\nARG A\nCOPY $A $A /\nARG TARGETARCH\nCOPY ${A}b $TARGETARCH /\n",
    );
    check_none("FROM scratch\nCOPY $A /\n");
}

#[test]
fn caches_and_empty_lines() {
    check_fix(
        "FROM scratch\nRUN apt-get update \\\n && apt-get install -y curl\n",
        "FROM scratch\nRUN apt-get update \\\n && apt-get install -y curl && rm -rf /var/lib/apt/lists/*\n",
    );
    check_none("FROM scratch\nRUN apt-get update; apt-get install -y curl\n");
    check_fix("FROM scratch\nCOPY a \\\n\n   \n b\n", "FROM scratch\nCOPY a \\\n b\n");
}
