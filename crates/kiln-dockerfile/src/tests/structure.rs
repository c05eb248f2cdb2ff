//! Directives, comments, continuations and stages.

use super::{check_fault, check_faults, stage, statement, value};
use crate::{
    Check, CheckRules, Escape, Instruction, Location, SourceMap, Span, detect_syntax, parse, parse_bytes,
};

#[test]
fn a_file_has_directives_arguments_and_stages() {
    let source = "# syntax=docker/dockerfile:1 x\n# escape=`\n# check=skip=all\nARG V=1\nFROM a:$V AS One\nRUN x\n\
                  FROM --platform=$BUILDPLATFORM one as two\nFROM two\n";
    let (file, diagnostics) = parse(source);
    assert_eq!(diagnostics, []);
    assert_eq!(value(&file.directives.syntax), Some("docker/dockerfile:1 x"));
    assert_eq!(file.directives.syntax_image(), Some("docker/dockerfile:1"));
    assert_eq!(file.directives.escape(), Escape::Backtick);
    assert_eq!(value(&file.directives.check), Some("skip=all"));
    assert_eq!(file.global_args.len(), 1);
    assert_eq!(file.stages.len(), 3);
    assert_eq!(file.stages[0].from.instruction.image.value, "a:$V");
    assert_eq!(value(&file.stages[0].name), Some("one"));
    assert_eq!(value(&file.stages[1].from.instruction.platform), Some("$BUILDPLATFORM"));
    assert_eq!(file.stages[2].name, None);
    assert_eq!(file.stage("ONE").map(|(index, _)| index), Some(0));
    assert_eq!(file.stage("three"), None);
}

#[test]
fn directives_end_at_the_first_other_line() {
    let escape = |source: &str| parse(source).0.directives.escape();
    assert_eq!(escape("# escape=`\nFROM a"), Escape::Backtick);
    assert_eq!(escape("#escape = `\nFROM a"), Escape::Backtick);
    assert_eq!(escape("  # eSCAPE=`  \r\nFROM a"), Escape::Backtick);
    assert_eq!(escape("#!/usr/bin/env x\n# escape=`\nFROM a"), Escape::Backslash);
    assert_eq!(escape("\u{feff}# escape=`\nFROM a"), Escape::Backtick);
    assert_eq!(escape("# syntax=x\n# escape=`\nFROM a"), Escape::Backtick);
    assert_eq!(escape("\n# escape=`\nFROM a"), Escape::Backslash);
    assert_eq!(escape("# a comment\n# escape=`\nFROM a"), Escape::Backslash);
    assert_eq!(escape("# unknown=x\n# escape=`\nFROM a"), Escape::Backslash);
    assert_eq!(escape("FROM a\n# escape=`\n"), Escape::Backslash);
    assert_eq!(escape("# escape\n# escape=`\nFROM a"), Escape::Backslash);
}

#[test]
fn faulty_directives() {
    check_faults(
        "# escape=x\nFROM a\n",
        &[("invalid-escape", "escape character `x` is neither a backslash nor a backtick")],
    );
    check_faults(
        "# escape=`\n# escape=\\\nFROM a\n",
        &[("duplicate-directive", "only one `escape` directive can be used")],
    );
    check_faults(
        "# check=skp=all\nFROM a\n",
        &[(
            "invalid-check",
            "unknown check option `skp`: the options are `skip`, `error` and `experimental`",
        )],
    );
}

#[test]
fn check_directives() {
    let check = Check::parse("skip=StageNameCasing, FromAsCasing;error=true;experimental=all").unwrap();
    assert!(check.error);
    assert!(check.skip.contains("fromascasing"));
    assert!(!check.skip.contains("Other"));
    assert_eq!(check.experimental, CheckRules::All);
    assert_eq!(Check::parse(""), Ok(Check::default()));
    assert!(Check::parse("error=maybe").is_err());
    assert!(Check::parse("error").is_err());
}

#[test]
fn syntax_is_detected_in_three_forms() {
    let check = |source: &str, expect: Option<&str>| {
        assert_eq!(detect_syntax(source).map(|found| found.value), expect.map(str::to_owned), "{source}");
    };
    check("# syntax=a/b:1\nFROM c", Some("a/b:1"));
    check("#!x\n# escape=`\n# syntax = a args\n", Some("a"));
    check("// syntax=a\n", Some("a"));
    check("{\"syntax\": \"a\"}", Some("a"));
    check("FROM a\n# syntax=b\n", None);
    check("", None);
}

#[test]
fn lines_are_continued() {
    let check = |source: &str, original: &str| assert_eq!(statement(source).original, original, "{source}");
    check("RUN a \\\n  b", "RUN a   b");
    check("RUN a\\\nb", "RUN ab");
    check("RUN a \\  \t\n b", "RUN a  b");
    check("RUN a \\\r\n b\r\n", "RUN a  b");
    check("RUN a \\\n# comment\n   # another\n b", "RUN a  b");
    check("RUN a \\\n# comment \\\n b", "RUN a  b");
    check("  RUN a", "RUN a");
    check("RUN a \\", "RUN a");
    check("R\\\nUN a", "RUN a");
    check("RUN echo a # b", "RUN echo a # b");
    check("RUN a \\\\", "RUN a \\\\");
}

#[test]
fn two_escapes_continue_nothing() {
    let stage = stage("RUN a \\\\\nRUN b");
    assert_eq!(stage.instructions.len(), 2);
}

#[test]
fn the_escape_directive_changes_continuations() {
    let (file, diagnostics) = parse("# escape=`\nFROM a\nWORKDIR c:\\\nRUN x `\n y\n");
    assert_eq!(diagnostics, []);
    let originals: Vec<_> = file.stages[0].instructions.iter().map(|found| found.original.as_str()).collect();
    assert_eq!(originals, ["WORKDIR c:\\", "RUN x  y"]);
}

#[test]
fn empty_lines_in_continuations_are_a_warning() {
    let source = "FROM a\nRUN x \\\n\n  \n y\n";
    let diagnostics =
        check_faults(source, &[("NoEmptyContinuation", "an empty line inside a continued instruction")]);
    assert!(!diagnostics[0].is_error());
    assert_eq!(SourceMap::new(source).locate(diagnostics[0].span.start), Location { line: 3, column: 1 });
    assert_eq!(parse(source).0.stages[0].instructions[0].original, "RUN x  y");
}

#[test]
fn statements_know_their_lines_and_spans() {
    let source = "FROM a\n\n# doc\nRUN x \\\n  # inner\n  y\nENV A=1\n";
    let (file, _) = parse(source);
    let [run, env] = file.stages[0].instructions.as_slice() else { panic!() };
    assert_eq!(run.lines, 4..=6);
    assert_eq!(run.span.text(source), "RUN x \\\n  # inner\n  y");
    assert_eq!(env.lines, 7..=7);
    assert_eq!(file.stages[0].from.lines, 1..=1);
}

#[test]
fn operands_of_continued_lines_know_their_place() {
    let source = "FROM a\nCOPY --chown=1 \\\n  one \\\n  two /three\n";
    let (file, _) = parse(source);
    let Instruction::Copy(copy) = &file.stages[0].instructions[0].instruction else { panic!() };
    assert_eq!(copy.dest.span.text(source), "/three");
    assert_eq!(copy.chown.as_ref().unwrap().span.text(source), "1");
    let [_, crate::instruction::Source::Path(two)] = copy.sources.as_slice() else { panic!() };
    assert_eq!(two.span.text(source), "two");
}

#[test]
fn comments_above_are_kept() {
    let (file, _) = parse(
        "# first\n#\n# web serves pages\n# check=skip=X\nFROM a AS web\n# port of it\nARG port\nRUN x\n",
    );
    let stage = &file.stages[0];
    let comments: Vec<_> = stage.from.comments.iter().map(|comment| comment.value.as_str()).collect();
    assert_eq!(comments, ["web serves pages", "check=skip=X"]);
    assert_eq!(stage.description(), Some("serves pages"));
    assert_eq!(stage.instructions[0].description("port"), Some("of it"));
    assert_eq!(stage.instructions[0].description("por"), None);
    assert_eq!(stage.instructions[1].comments, []);
}

#[test]
fn keywords_have_no_case() {
    let stage = stage("run x\nWorkDir /y\n");
    assert_eq!(stage.instructions[0].instruction.name(), "RUN");
    assert_eq!(stage.instructions[1].instruction.name(), "WORKDIR");
}

#[test]
fn unknown_instructions_have_suggestions() {
    let diagnostics = check_faults(
        "FROM a\nRNU x\nBANANA y\nRUN z\n",
        &[
            ("unknown-instruction", "unknown instruction `RNU`"),
            ("unknown-instruction", "unknown instruction `BANANA`"),
        ],
    );
    assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `RUN`?"));
    assert_eq!(diagnostics[0].span, Span::new(7, 10));
    assert!(diagnostics[1].help.as_deref().unwrap().starts_with("the instructions are ADD, ARG, "));
}

#[test]
fn files_without_stages() {
    check_faults("", &[("empty-file", "the file has no instructions")]);
    check_faults("# only\n\n  # comments\n", &[("empty-file", "the file has no instructions")]);
    check_faults("\\\n", &[("empty-file", "the file has no instructions")]);
    check_faults("ARG A=1\n", &[("no-stage", "the file has no stage to build")]);
    check_faults("RUN x\nRUN y\nFROM a\n", &[("no-stage", "this instruction is in no build stage")]);
    check_faults("ARG A\nENV B=1\n", &[("no-stage", "this instruction is in no build stage")]);
}

#[test]
fn stage_names() {
    let name = |source: &str| parse(source).0.stages[0].name.clone().map(|name| name.value);
    assert_eq!(name("FROM a AS b-c_d.1"), Some("b-c_d.1".to_owned()));
    assert_eq!(name("FROM a aS BUILD"), Some("build".to_owned()));
    for bad in ["1a", "a/b", "-a", "ä", "a:b"] {
        let (file, diagnostics) = parse(&format!("FROM a AS {bad}\nRUN x\n"));
        assert_eq!(
            diagnostics.iter().map(|found| found.code).collect::<Vec<_>>(),
            ["invalid-stage-name"],
            "{bad}"
        );
        assert_eq!(file.stages[0].instructions.len(), 1, "the stage is there all the same");
    }
}

#[test]
fn from_operands() {
    let message = "FROM needs either one or three operands";
    for source in ["FROM", "FROM a b", "FROM a as", "FROM a as b c", "FROM a to b"] {
        check_faults(source, &[("invalid-from", message)]);
    }
    let (file, diagnostics) = parse("FROM --platform=linux/arm64 --after=x --after=y a AS b\n");
    assert_eq!(diagnostics, []);
    assert_eq!(super::values(&file.stages[0].from.instruction.after), ["x", "y"]);
    check_faults("FROM --platfrom=x a\n", &[("unknown-flag", "unknown flag `--platfrom` of FROM")]);
}

#[test]
fn bytes_that_are_no_text() {
    let (_, diagnostics) = parse_bytes(b"FROM a\nRUN \xff x\nRNU\n");
    let found: Vec<_> = diagnostics.iter().map(|found| (found.code, found.span)).collect();
    assert_eq!(found, [("invalid-utf8", Span::new(11, 12)), ("unknown-instruction", Span::new(15, 18))]);
    let (_, diagnostics) = parse_bytes(b"\xff\xfeF\0R\0");
    assert_eq!(diagnostics[0].help.as_deref(), Some("save it as UTF-8"));
    assert_eq!(diagnostics.len(), 1);
    let (file, diagnostics) = parse_bytes(b"\xef\xbb\xbfFROM a\n");
    assert_eq!(diagnostics, []);
    assert_eq!(file.stages[0].from.span, Span::new(3, 9));
    check_faults("RNU\0\nX\n", &[("nul-byte", "the file has a NUL byte at byte 3")]);
    check_fault("RUN a\0b", "nul-byte", "the file has a NUL byte at byte 15", "\0");
}
