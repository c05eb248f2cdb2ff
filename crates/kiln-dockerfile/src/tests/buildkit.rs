//! Where BuildKit's reading is not what one would guess: each expectation is what BuildKit's own parser does.

use super::{check_fault, check_faults, instruction, stage, value, values};
use crate::expand::{expand_word, expand_words};
use crate::instruction::{Healthcheck, Source};
use crate::{Escape, Instruction, detect_syntax, parse};

#[test]
fn the_escape_directive_counts_for_flags_too() {
    let (file, diagnostics) = parse("# escape=`\nFROM a\nCOPY --chown=a`\"b --exclude=c:\\d x /y\n");
    assert_eq!(diagnostics, []);
    let Instruction::Copy(copy) = &file.stages[0].instructions[0].instruction else { panic!() };
    assert_eq!(value(&copy.chown), Some("a\"b"));
    assert_eq!(values(&copy.exclude), ["c:\\d"]);
}

#[test]
fn a_shebang_hides_escape_but_not_syntax_and_check() {
    let (file, _) = parse("#!/usr/bin/env kiln\n# syntax=a/b\n# escape=`\n# check=skip=all\nFROM a\n");
    assert_eq!(file.directives.escape(), Escape::Backslash);
    assert_eq!(file.directives.syntax_image(), Some("a/b"));
    assert_eq!(value(&file.directives.check), Some("skip=all"));
}

#[test]
fn blanks_before_a_directive_hide_syntax_but_not_escape() {
    let (file, _) = parse("  # syntax=a/b\n\t# escape=`\nFROM a\n");
    assert_eq!(file.directives.syntax, None);
    assert_eq!(file.directives.escape(), Escape::Backtick);
    assert_eq!(detect_syntax("  # syntax=a/b\nFROM a\n"), None);
}

#[test]
fn the_value_of_a_directive_ends_at_the_blanks_of_ascii() {
    check_faults(
        "# escape=`\u{a0}\nFROM a\n",
        &[("invalid-escape", "escape character ``\u{a0}` is neither a backslash nor a backtick")],
    );
    check_faults(
        "# escape= \nFROM a\n",
        &[("invalid-escape", "escape character ` ` is neither a backslash nor a backtick")],
    );
    // Without anything after the sign it is a comment.
    assert_eq!(parse("# escape=\nFROM a\n").1, []);
    assert_eq!(parse("# escape=\r\nFROM a\r\n").1, []);
}

#[test]
fn a_second_directive_is_an_error_only_where_the_parser_looks() {
    check_faults(
        "# syntax=a\n# syntax=b\nFROM a\n",
        &[("duplicate-directive", "only one `syntax` directive can be used")],
    );
    assert_eq!(parse("#!x\n# syntax=a\n# syntax=b\nFROM a\n").1, []);
    assert_eq!(detect_syntax("# check=skip=all\n# check=skip=all\n# syntax=a\nFROM a\n"), None);
}

#[test]
fn syntax_in_json_may_follow_a_shebang() {
    let found = detect_syntax("#!x\n{\"syntax\": \"a/b c\"}").unwrap();
    assert_eq!(found.value, "a/b c");
}

#[test]
fn flags_that_buildkit_does_not_look_at_are_a_warning() {
    let message = "HEALTHCHECK NONE has no flags; `--interval` has no effect";
    check_fault("HEALTHCHECK --interval=1s NONE", "useless-flag", message, "--interval=1s");
    let message = "HEALTHCHECK NONE has no flags; `--x` has no effect";
    check_fault("HEALTHCHECK --x NONE", "useless-flag", message, "--x");
    check_fault("ARG --x A", "useless-flag", "ARG has no flags; `--x` has no effect", "--x");
    let message = "STOPSIGNAL has no flags; `--x` has no effect";
    check_fault("STOPSIGNAL --x TERM", "useless-flag", message, "--x");
    let (file, _) = parse("FROM a\nHEALTHCHECK --x NONE\nARG --x A\nSTOPSIGNAL --x TERM\n");
    let found: Vec<_> = file.stages[0].instructions.iter().map(|found| &found.instruction).collect();
    assert!(matches!(found[0], Instruction::Healthcheck(Healthcheck::None)));
    assert!(matches!(found[1], Instruction::Arg(arg) if arg.declarations[0].name.value == "A"));
    assert!(matches!(found[2], Instruction::StopSignal(signal) if signal.signal.value == "TERM"));
}

#[test]
fn a_dollar_sign_alone_is_part_of_the_name_in_from() {
    for name in ["a$", "a$.b"] {
        let Instruction::Copy(copy) = instruction(&format!("COPY --from={name} b c")) else { panic!() };
        assert_eq!(value(&copy.from), Some(name));
    }
    for name in ["$A", "a${B}", "a$$", "${", "$1"] {
        let message = "variables are not expanded in `--from`";
        check_fault(&format!("COPY --from={name} b c"), "variable-in-from", message, name);
    }
}

#[test]
fn only_some_blanks_stand_between_the_sign_and_the_delimiter() {
    let Instruction::Run(run) = instruction("RUN cat << \t EOF\na\nEOF\n") else { panic!() };
    assert_eq!(run.heredocs[0].name.value, "EOF");
    // A vertical tab ends the word, so there is no delimiter.
    let Instruction::Copy(copy) = instruction("COPY <<\u{b}A\n") else { panic!() };
    assert!(matches!(&copy.sources[..], [Source::Path(path)] if path.value == "<<"));
    assert_eq!(copy.dest.value, "A");
}

#[test]
fn heredocs_of_copy_are_found_by_their_names() {
    check_fault("COPY << <<A <<\"B C\" /x\nB C", "invalid-heredoc", "`<<A` opens no heredoc here", "<<A");
    check_fault("COPY <<A \" /x", "invalid-heredoc", "`<<A` opens no heredoc here", "<<A");
    check_fault(r#"COPY ["<<A", "/x"]"#, "invalid-heredoc", "`<<A` opens no heredoc here", r#""<<A""#);
    let message = "ADD cannot have a heredoc as its destination";
    check_fault(r#"ADD ["x", "<<A"]"#, "heredoc-destination", message, r#""<<A""#);
}

#[test]
fn a_trigger_keeps_the_blanks_at_its_end() {
    let (file, diagnostics) = parse("FROM a\nONBUILD RUN x  \nONBUILD\tCOPY <<E /x \nb\nE\n");
    assert_eq!(diagnostics, []);
    let triggers: Vec<&str> = file.stages[0]
        .instructions
        .iter()
        .map(|found| match &found.instruction {
            Instruction::Onbuild(onbuild) => onbuild.trigger.value.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(triggers, ["RUN x  ", "COPY <<E /x \nb\nE"]);
}

#[test]
fn ports_of_the_host_are_checked_although_they_mean_nothing() {
    let message = "invalid port `x:80`: the port of the host is none";
    check_fault("EXPOSE x:80", "invalid-port", message, "x:80");
    let message = "invalid port `1.2.3:1:80`: the address of the host is none";
    check_fault("EXPOSE 1.2.3:1:80", "invalid-port", message, "1.2.3:1:80");
}

#[test]
fn a_secret_needs_a_name_for_its_variable() {
    let message = "mount option `env` needs the name of a variable";
    check_fault("RUN --mount=type=secret,id=a,env= x", "invalid-mount", message, "");
}

fn expanded(text: &str) -> Result<String, String> {
    let lookup = |name: &str| match name {
        "a" => Some("abcabc".to_owned()),
        "e" => Some(String::new()),
        _ => None,
    };
    expand_word(text, Escape::Backslash, &lookup).map(|found| found.text).map_err(|error| error.message)
}

#[test]
fn a_name_may_be_missing_before_some_modifiers() {
    for text in ["${+x}", "${%x}", "${/x/y}", "${//x/y}"] {
        assert_eq!(expanded(text), Ok(String::new()), "{text}");
    }
    // These signs are names themselves.
    for text in ["${-}", "${#}", "${?}", "${@}", "${*}", "${!}", "${$}", "${0}", "${12}"] {
        assert_eq!(expanded(text), Ok(String::new()), "{text}");
    }
    assert_eq!(expanded("${--x}"), Ok("x".to_owned()));
    for text in ["${}", "${:-x}", "${{a}}", "${ a}", "${.a}"] {
        assert_eq!(expanded(text), Err("bad substitution".to_owned()), "{text}");
    }
}

#[test]
fn names_have_digits_of_ascii_only() {
    assert_eq!(expanded("$a²"), Ok("abcabc²".to_owned()));
    assert_eq!(expanded("$₂"), Ok("$₂".to_owned()));
    assert_eq!(expanded("${a²}"), Err("unsupported modifier `²` in substitution".to_owned()));
}

#[test]
fn replacing_takes_the_longest_match_from_the_left() {
    let check = |text: &str, expect: &str| assert_eq!(expanded(text).as_deref(), Ok(expect), "{text}");
    check("${a/b*c/X}", "aX");
    check("${a//b/X}", "aXcaXc");
    check("${a//?/X}", "XXXXXX");
    check("${a//*/X}", "X");
    check("${a//b?/X}", "aXaX");
    check("${a/z/X}", "abcabc");
    check("${a///X}", "XaXbXcXaXbXcX");
    check("${a////X}", "/Xa/Xb/Xc/Xa/Xb/Xc/X");
    check("${e//*/X}", "X");
    check("${a//[bc]/X}", "abcabc");
}

#[test]
fn a_value_is_never_longer_than_memory_allows() {
    let long = "x".repeat(64);
    let lookup = |_: &str| Some(long.clone());
    let message = "the variables of one operand stand for more than 1 MiB";
    for text in ["${a//?/${a//?/${a//?/${a//?/$a}}}}", &"$a".repeat(70_000), &"${b:+$a}".repeat(70_000)] {
        let error = expand_word(text, Escape::Backslash, &lookup).unwrap_err();
        assert_eq!(error.message, message);
        assert!(expand_words(text, Escape::Backslash, &lookup).is_err());
    }
    let error =
        expand_word(&format!("${{u:?{}}}", "y".repeat(5000)), Escape::Backslash, &|_| None).unwrap_err();
    assert_eq!(error.message, format!("u: {}…", "y".repeat(500)));
}

#[test]
fn continued_lines_and_their_ends() {
    let runs = |source: &str| -> Vec<String> {
        let stage = stage(source);
        stage.instructions.iter().map(|statement| statement.original.clone()).collect()
    };
    // Blanks after the escape character do not count, other white space does.
    assert_eq!(runs("RUN a \\ \t\n b\n"), ["RUN a  b"]);
    assert_eq!(runs("RUN a \\\r\n b\r\n"), ["RUN a  b"]);
    assert_eq!(runs("RUN a \\\u{c}\nUSER b\n"), ["RUN a \\", "USER b"]);
    // Two escape characters continue nothing, and three neither.
    assert_eq!(runs("RUN a \\\\\nUSER b\n"), ["RUN a \\\\", "USER b"]);
    assert_eq!(runs("RUN a \\\\\\\nUSER b\n"), ["RUN a \\\\\\", "USER b"]);
    // The file may end in a continuation, and a line may be nothing else.
    assert_eq!(runs("RUN a \\\n"), ["RUN a"]);
    assert_eq!(runs("\\\nRUN a\n"), ["RUN a"]);
    assert_eq!(runs("RUN a \\\n\\\n b\n"), ["RUN a  b"]);
    // A comment in between has its own line, also when it ends in the escape character.
    assert_eq!(runs("RUN a \\\n  # c \\\n b\n"), ["RUN a  b"]);
    // Behind an instruction a `#` is no comment.
    assert_eq!(runs("RUN a # b\n"), ["RUN a # b"]);
}
