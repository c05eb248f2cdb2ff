//! BuildKit's rules; the cases follow what its own code reports.

use super::*;

#[test]
fn stage_name_casing() {
    check("FROM scratch AS BadName\n", &[("StageNameCasing", "BadName")]);
    clean("FROM scratch AS good-name\n");
    clean("FROM scratch\n");
}

#[test]
fn from_as_casing() {
    check("FROM scratch as a\n", &[("FromAsCasing", "as")]);
    check("from scratch AS a\n", &[("FromAsCasing", "AS")]);
    check("FROM scratch As a\n", &[("FromAsCasing", "As")]);
    check("FROM as as as\nRUN a\n", &[("FromAsCasing", "as")]);
    clean("FROM scratch AS a\n");
    clean("from scratch as a\n");
    // The keyword itself is the fault.
    check("From scratch as a\nFROM scratch AS b\n", &[("ConsistentInstructionCasing", "From")]);
}

#[test]
fn no_empty_continuation() {
    check("FROM scratch\nCOPY a \\\n\n  b\n", &[("NoEmptyContinuation", "")]);
    clean("FROM scratch\nCOPY a \\\n# comment\n  b\n");
    clean("FROM scratch\n\n\nCOPY a b\n");
    clean("FROM scratch\nCOPY <<EOF /x\n\n\nEOF\n");
}

#[test]
fn consistent_instruction_casing() {
    const RULE: &str = "ConsistentInstructionCasing";
    check("FROM scratch\ncopy a /foo\nCOPY a /bar\n", &[(RULE, "copy")]);
    check("from scratch\nCOPY a /foo\ncopy a /bar\n", &[(RULE, "COPY")]);
    check("frOM scratch as a\nfrom scratch as b\n", &[(RULE, "frOM")]);
    check("from scratch\nCOPY a /b\nCOPY a /c\nCOPY a /d\n", &[(RULE, "from")]);
    check("FROM scratch\nlabel a=b\n", &[(RULE, "label")]);
    clean("from scratch\ncopy a /b\n");
    clean("FROM scratch\nCOPY a /b\n");
    // Arguments above the first FROM do not count.
    clean("arg A=1\nFROM scratch\nCOPY a /b\n");
}

#[test]
fn duplicate_stage_name() {
    check("FROM scratch AS b\nFROM scratch AS b\n", &[("DuplicateStageName", "b")]);
    let mixed = [("DuplicateStageName", "B"), ("StageNameCasing", "B")];
    check("FROM scratch AS b\nFROM scratch AS B\n", &mixed);
    clean("FROM scratch AS b1\nFROM scratch AS b2\n");
    clean("FROM scratch AS a\nFROM a\n");
}

#[test]
fn reserved_stage_name() {
    check(
        "FROM scratch AS scratch\nFROM scratch AS context\n",
        &[("ReservedStageName", "scratch"), ("ReservedStageName", "context")],
    );
    clean("FROM scratch\n");
    clean("FROM scratch AS contexts\n");
}

#[test]
fn json_args_recommended() {
    const RULE: &str = "JSONArgsRecommended";
    check("FROM scratch\nCMD mycommand\n", &[(RULE, "CMD mycommand")]);
    check("FROM scratch\nENTRYPOINT mycommand\n", &[(RULE, "ENTRYPOINT mycommand")]);
    check("FROM scratch\nCMD\n", &[(RULE, "CMD")]);
    clean("FROM scratch\nCMD [\"mycommand\"]\n");
    clean("FROM scratch\nSHELL [\"/bin/s\"]\nCMD a\nENTRYPOINT b\n");
    clean("FROM scratch AS base\nSHELL [\"/bin/s\"]\nFROM base\nCMD mycommand\n");
    clean("FROM scratch\nHEALTHCHECK CMD mycommand\nRUN mycommand\n");
    let mut facts = Facts::default();
    facts.bases.insert(0, BaseFacts { has_shell: true, ..image("linux/arm64", "linux/arm64", &[]) });
    check_with(&facts, "FROM windows\nCMD mycommand\n", &[]);
}

#[test]
fn maintainer_deprecated() {
    check("FROM scratch\nMAINTAINER me@example.org\n", &[("MaintainerDeprecated", "MAINTAINER")]);
    clean("FROM scratch\nLABEL org.opencontainers.image.authors=\"me@example.org\"\n");
    clean("FROM scratch\nLABEL maintainer=me\n");
}

#[test]
fn undefined_arg_in_from() {
    const RULE: &str = "UndefinedArgInFrom";
    check("FROM --platform=$BULIDPLATFORM scratch\n", &[(RULE, "$BULIDPLATFORM")]);
    check("ARG tag=latest\nFROM busybox:${tag}${version} AS b\n", &[(RULE, "busybox:${tag}${version}")]);
    check("FROM scratch AS a\nARG late=1\nFROM a${late} AS c\n", &[(RULE, "a${late}")]);
    clean("ARG base=scratch\nFROM $base\nCOPY a b\n");
    clean("FROM --platform=$BUILDPLATFORM scratch\n");
    clean("ARG DEBUG\nFROM scratch${DEBUG}\n");
    clean("FROM scra${DEBUG:-tch}\n");
    let help = report("FROM --platform=$BULIDPLATFORM scratch\n", &Facts::default()).findings.remove(0).help;
    assert_eq!(help.as_deref(), Some("did you mean `$BUILDPLATFORM`?"));
}

#[test]
fn workdir_relative_path() {
    const RULE: &str = "WorkdirRelativePath";
    check("FROM scratch\nWORKDIR app/\n", &[(RULE, "app/")]);
    check("FROM scratch\nARG A=b\nWORKDIR $A\n", &[(RULE, "$A")]);
    clean("FROM scratch AS a\nWORKDIR /app\nFROM a\nWORKDIR sub\n");
    clean("FROM scratch\nWORKDIR /app\nWORKDIR sub\n");
    check("FROM scratch\nWORKDIR a\nWORKDIR b\n", &[(RULE, "a")]);
    clean("FROM scratch\nWORKDIR c:/app\n");
    clean("FROM unknown\nWORKDIR $FROM_THE_BASE\n");
}

#[test]
fn undefined_var() {
    const RULE: &str = "UndefinedVar";
    check("FROM scratch\nCOPY $foo .\n", &[(RULE, "$foo")]);
    check("FROM scratch\nARG V=$foo\n", &[(RULE, "$foo")]);
    check("FROM scratch\nENV A=$foo B=$A\n", &[(RULE, "$foo"), (RULE, "$A")]);
    check(
        "FROM scratch\nLABEL a=$b\nUSER $c\nVOLUME $d\nSTOPSIGNAL $e\n",
        &[(RULE, "$b"), (RULE, "$c"), (RULE, "$d"), (RULE, "$e")],
    );
    check("FROM scratch\nCOPY <<EOF /x\n$foo\nEOF\n", &[(RULE, "<<EOF")]);
    check("FROM scratch\nRUN --mount=type=cache,target=$foo a\n", &[(RULE, "$foo")]);
    check("ARG A=1\nFROM scratch\nCOPY $A /\n", &[(RULE, "$A")]);
    check("FROM scratch AS a\nENV A=1\nFROM scratch\nCOPY $A /\n", &[(RULE, "$A")]);
    clean("FROM scratch\nARG foo=1\nCOPY $foo .\n");
    clean("FROM scratch\nARG foo\nCOPY $foo .\n");
    clean("ARG foo=1\nFROM scratch\nARG foo\nCOPY $foo .\n");
    clean("FROM scratch AS a\nENV A=1\nFROM a\nCOPY $A /\n");
    clean("FROM scratch\nENV PATH=/x:$PATH\nCOPY ${foo:-x} /\n");
    clean("FROM scratch\nRUN echo $foo\nCMD [\"$foo\"]\n");
    clean("FROM scratch\nCOPY '$foo' \\$foo /\n");
    clean("FROM scratch\nCOPY <<'EOF' /x\n$foo\nEOF\n");
    let help =
        report("FROM scratch\nENV COLOUR=1\nCOPY $COLUOR /\n", &Facts::default()).findings.remove(0).help;
    assert_eq!(help.as_deref(), Some("did you mean `$COLOUR`?"));
}

#[test]
fn undefined_var_asks_the_base() {
    let source = "FROM debian\nCOPY $FROM_BASE $TYPO /\n";
    let unknown = report(source, &Facts::default());
    assert_eq!(unknown.findings, []);
    let rules: Vec<_> = unknown.unchecked.iter().map(|found| (found.rule, found.image.as_str())).collect();
    assert_eq!(rules, [("InvalidBaseImagePlatform", "debian"), ("UndefinedVar", "debian")]);
    let mut facts = Facts::default();
    facts.bases.insert(0, image("linux/arm64", "linux/arm64", &[("FROM_BASE", "x")]));
    check_with(&facts, source, &[("UndefinedVar", "$TYPO")]);
    assert_eq!(report(source, &facts).unchecked, []);
    // The file shows what is meant: the variable has no other source.
    check(
        "ARG V=1\nFROM debian\nCOPY $V $TARGETARCH /\n",
        &[("UndefinedVar", "$V"), ("UndefinedVar", "$TARGETARCH")],
    );
}

#[test]
fn multiple_instructions_disallowed() {
    const RULE: &str = "MultipleInstructionsDisallowed";
    check("FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\n", &[(RULE, "CMD [\"a\"]")]);
    check("FROM scratch\nENTRYPOINT [\"a\"]\nENTRYPOINT [\"b\"]\n", &[(RULE, "ENTRYPOINT [\"a\"]")]);
    check("FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK CMD [\"b\"]\n", &[(RULE, "HEALTHCHECK NONE")]);
    clean("FROM scratch AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n");
    clean("FROM scratch\nCMD [\"a\"]\nENTRYPOINT [\"b\"]\n");
    clean("FROM scratch\nCMD [\"a\"]\n# check=skip=MultipleInstructionsDisallowed\nCMD [\"b\"]\n");
}

#[test]
fn legacy_key_value_format() {
    const RULE: &str = "LegacyKeyValueFormat";
    check("FROM scratch\nENV a b c\n", &[(RULE, "a b c")]);
    check("FROM scratch\nLABEL a b\n", &[(RULE, "a b")]);
    clean("FROM scratch\nENV a=\"b c\" d=e\n");
    clean("FROM scratch\nLABEL a=b\n");
    clean("FROM scratch\nONBUILD ENV a b\n");
}

#[test]
fn invalid_base_image_platform() {
    let check = |found: &str, source: &str, expect: &[(&str, &str)]| {
        let mut facts = Facts::default();
        facts.bases.insert(0, image(found, "linux/arm64", &[]));
        check_with(&facts, source, expect);
    };
    check("linux/amd64", "FROM a\n", &[("InvalidBaseImagePlatform", "a")]);
    check("windows/arm64", "FROM a\n", &[("InvalidBaseImagePlatform", "a")]);
    check("linux/arm64", "FROM a\n", &[]);
    // An image that names no platform runs anywhere.
    check("", "FROM a\n", &[]);
}

#[test]
fn redundant_target_platform() {
    const RULE: &str = "RedundantTargetPlatform";
    check("FROM --platform=$TARGETPLATFORM scratch\n", &[(RULE, "$TARGETPLATFORM")]);
    check("FROM --platform=${TARGETPLATFORM} scratch\n", &[(RULE, "${TARGETPLATFORM}")]);
    clean("FROM --platform=$BUILDPLATFORM scratch\n");
    clean("ARG X=\nFROM --platform=$X$TARGETPLATFORM scratch\n");
    clean("FROM scratch\n");
}

#[test]
fn secrets_used_in_arg_or_env() {
    const RULE: &str = "SecretsUsedInArgOrEnv";
    check("FROM scratch\nARG SECRET_PASSPHRASE\n", &[(RULE, "SECRET_PASSPHRASE")]);
    check("FROM scratch\nENV password=bar secret=baz\n", &[(RULE, "password"), (RULE, "secret")]);
    check(
        "FROM scratch\nARG super_duper_secret_token=foo auth=bar\n",
        &[(RULE, "super_duper_secret_token"), (RULE, "auth")],
    );
    check(
        "FROM scratch\nENV apikey=bar sunflower=foo\nENV git_key=\n",
        &[(RULE, "apikey"), (RULE, "git_key")],
    );
    clean(
        "FROM scratch\nENV PUBLIC_KEY=\nARG public_token\nARG SECRET_PASSPHRASE_FILE\nARG AUTH_MODULE_VERSION\n",
    );
    clean("FROM scratch\nENV KEYBOARD=us AUTHOR=me TOKENIZER=1\n");
    clean("ARG TOKEN=1\nFROM scratch\n");
}

#[test]
fn invalid_default_arg_in_from() {
    const RULE: &str = "InvalidDefaultArgInFrom";
    let mut facts = Facts { build_args: text(&[("TAG", "1.0")]), ..Facts::default() };
    check_with(&facts, "ARG TAG\nFROM busybox:${TAG}\n", &[(RULE, "busybox:${TAG}")]);
    facts.build_args = text(&[("BASE", "scratch")]);
    check_with(&facts, "ARG BASE\nFROM $BASE\n", &[(RULE, "$BASE")]);
    clean("ARG TAG=latest\nFROM busybox:${TAG}\n");
    clean("ARG VARIANT\nFROM busybox:stable${VARIANT}\n");
    clean("ARG VARIANT\nFROM ${VARIANT:-busybox}\n");
}

#[test]
fn from_platform_flag_const_disallowed() {
    const RULE: &str = "FromPlatformFlagConstDisallowed";
    check("FROM --platform=linux/amd64 scratch\n", &[(RULE, "linux/amd64")]);
    check("FROM --platform=linux/amd64 scratch AS base\n", &[(RULE, "linux/amd64")]);
    clean("FROM --platform=linux/amd64 scratch AS build_amd64\n");
    clean("FROM --platform=linux/amd64 scratch AS linux\n");
    clean("ARG P=linux/amd64\nFROM --platform=$P scratch\n");
}

#[test]
fn copy_ignored_file() {
    const RULE: &str = "CopyIgnoredFile";
    let check = |ignore: &str, source: &str, expect: &[(&str, &str)]| {
        let facts = Facts { ignore: Some(Ignore::parse(ignore).0), ..Facts::default() };
        check_with(&facts, source, expect);
    };
    let both = [(RULE, "Dockerfile"), (RULE, "Dockerfile")];
    check("Dockerfile\n", "FROM scratch\nCOPY Dockerfile .\nADD Dockerfile /windy\n", &both);
    check("*/tmp/*\n", "FROM scratch\nCOPY ./a/tmp/x /\n", &[(RULE, "./a/tmp/x")]);
    check("dist\n", "FROM scratch\nARG D=dist\nCOPY /$D/app /\n", &[(RULE, "/$D/app")]);
    check("*\n", "FROM scratch\nCOPY . .\n", &[(RULE, ".")]);
    check(".*\n", "FROM scratch\nCOPY . .\n", &[]);
    check("foobar\n", "FROM scratch AS base\nCOPY a /foobar\nFROM base\nCOPY --from=base /foobar /b\n", &[]);
    check("**\n!Dockerfile\n", "FROM scratch\nCOPY ./Dockerfile .\n", &[]);
    check("x\n", "FROM scratch\nADD https://example.com/x /\n", &[]);
    check("", "FROM scratch\nCOPY x /\n", &[]);
}

#[test]
fn invalid_definition_description() {
    const RULE: &str = "InvalidDefinitionDescription";
    let on = |rest: &str| format!("# check=experimental={RULE}\n{rest}");
    check(&on("# bar this\nARG foo=bar\n# base the base\nFROM scratch AS base\n"), &[(RULE, "ARG foo=bar")]);
    check(&on("# BasE the base\nFROM scratch AS base\n"), &[(RULE, "FROM scratch AS base")]);
    check(&on("FROM scratch\n# bad\nARG foo=baz bar=qux\n"), &[(RULE, "ARG foo=baz bar=qux")]);
    clean(&on("# foo this is foo\nARG foo=bar\n# baz this\nARG bar=1 baz=2\nFROM scratch\n"));
    clean(&on("# bad\n#\nFROM scratch AS base\n# bad\nCOPY a b\n# any\nFROM scratch\n"));
    clean("# bar this\nARG foo=bar\nFROM scratch\n");
}

#[test]
fn expose_proto_casing() {
    const RULE: &str = "ExposeProtoCasing";
    check("FROM scratch\nEXPOSE 80/TcP 81/udp\n", &[(RULE, "80/TcP")]);
    check("FROM scratch\nARG P=80/TCP\nEXPOSE $P\n", &[(RULE, "$P")]);
    clean("FROM scratch\nEXPOSE 80/tcp 81\n");
    clean("FROM scratch\nARG P=80\nEXPOSE $P ${P}/udp\n");
}

#[test]
fn expose_invalid_format() {
    const RULE: &str = "ExposeInvalidFormat";
    check("FROM scratch\nEXPOSE 127.0.0.1:80:80\n", &[(RULE, "127.0.0.1:80:80")]);
    check("FROM scratch\nEXPOSE 8080:80 81\n", &[(RULE, "8080:80")]);
    clean("FROM scratch\nEXPOSE 80 81/udp 8000-8010\n");
    clean("FROM scratch\nARG P=80\nEXPOSE $P\n");
}

#[test]
fn a_build_looks_into_the_stages_that_it_needs() {
    let source = "FROM scratch AS first\nCOPY $foo .\nFROM scratch AS second\nCOPY $bar .\n";
    let (foo, bar) = (("UndefinedVar", "$foo"), ("UndefinedVar", "$bar"));
    check(source, &[foo, bar]);
    check_with(&Facts { scope: Scope::Target, ..Facts::default() }, source, &[bar]);
    check_with(&Facts { target: Some("first"), ..Facts::default() }, source, &[foo]);
    let used = format!("{source}FROM scratch\nCOPY --from=first a b\nRUN --mount=from=1 x\n");
    check_with(&Facts { scope: Scope::Target, ..Facts::default() }, &used, &[foo, bar]);
}
