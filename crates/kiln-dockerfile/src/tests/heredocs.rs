//! Heredocs in RUN, COPY, ADD and ONBUILD.

use super::{check_faults, instruction, stage};
use crate::instruction::{Run, RunScript, Source};
use crate::{Heredoc, Instruction, Span, parse, parse_trigger};

fn run(text: &str) -> Run {
    match instruction(text) {
        Instruction::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

fn sources(text: &str) -> Vec<Heredoc> {
    let sources = match instruction(text) {
        Instruction::Copy(copy) => copy.sources,
        Instruction::Add(add) => add.sources,
        other => panic!("{other:?}"),
    };
    let heredocs = sources.into_iter().filter_map(|source| match source {
        Source::Heredoc(heredoc) => Some(heredoc),
        Source::Path(_) => None,
    });
    heredocs.collect()
}

#[test]
fn a_body_alone_goes_to_the_shell() {
    let check =
        |text: &str, body: &str| assert_eq!(run(text).script(), RunScript::Body(body.to_owned()), "{text}");
    check("RUN <<EOF\na\n  b\nEOF\n", "a\n  b\n");
    check("RUN <<-EOF\n\ta\n\t\tb\n\tEOF\n", "a\nb\n");
    check("RUN <<'EOF'\n$a\nEOF", "$a\n");
    check("RUN << EOF\na\nEOF\n", "a\n");
    check("RUN <<EOF\nEOF\n", "");
    check("RUN --network=none <<EOF\na\nEOF\n", "a\n");
    check("RUN <<EOF\n# no comment\n\nRUN x \\\nEOF\n", "# no comment\n\nRUN x \\\n");
    check("RUN \\\n <<EOF\na\nEOF\n", "a\n");
}

#[test]
fn a_script_is_a_file() {
    let check = |text: &str, name: &str, body: &str| {
        assert_eq!(run(text).script(), RunScript::File { name, body: body.to_owned() }, "{text}");
    };
    check("RUN <<EOF\n#!/bin/python\nx\nEOF\n", "EOF", "#!/bin/python\nx\n");
    check("RUN <<-script.py\n\t#!/bin/python\n\tx\n\tscript.py\n", "script.py", "#!/bin/python\nx\n");
}

#[test]
fn all_else_is_rebuilt() {
    let check = |text: &str, script: &str| {
        assert_eq!(run(text).script(), RunScript::Rebuilt(script.to_owned()), "{text}");
    };
    check("RUN cat <<EOF\na\nEOF\n", "cat <<EOF\na\nEOF");
    check("RUN cat <<  EOF >x\na\nEOF\n", "cat <<  EOF >x\na\nEOF");
    check("RUN <<EOF cat\na\nEOF\n", "<<EOF cat\na\nEOF");
    check("RUN cat <<-EOF > x\n\ta\n\tEOF\n", "cat <<-EOF > x\n\ta\nEOF");
    check("RUN cat <<A 3<<\"B\"\na\nA\nb\nB\n", "cat <<A 3<<\"B\"\na\nA\nb\nB");
    check("RUN <<A <<B\na\nA\nb\nB\n", "<<A <<B\na\nA\nb\nB");
}

#[test]
fn runs_without_heredocs() {
    assert_eq!(run("RUN echo a").script(), RunScript::Shell("echo a"));
    let json = run(r#"RUN ["sh", "-c", "cat <<EOF"]"#);
    assert!(matches!(json.script(), RunScript::Exec(arguments) if arguments.len() == 3));
    for text in ["RUN cat <<<EOF", "RUN echo $((1<<2))", "RUN echo '<<EOF'", "RUN echo \"<<EOF\""] {
        assert_eq!(run(text).heredocs, [], "{text}");
    }
}

#[test]
fn other_instructions_have_no_heredocs() {
    let stage = stage("CMD cat <<EOF\nENTRYPOINT x <<EOF\n");
    assert_eq!(stage.instructions.len(), 2);
}

#[test]
fn files_in_copy_and_add() {
    let check = |text: &str, expect: &[(&str, &str, bool)]| {
        let found = sources(text);
        let found: Vec<_> = found
            .iter()
            .map(|found| (found.name.value.as_str(), found.content().into_owned(), found.expand))
            .collect();
        let expect: Vec<_> =
            expect.iter().map(|(name, body, expand)| (*name, (*body).to_owned(), *expand)).collect();
        assert_eq!(found, expect, "{text}");
    };
    check("COPY <<a /x\n$y\na\n", &[("a", "$y\n", true)]);
    check("COPY <<\"a\" /x\n$y\na\n", &[("a", "$y\n", false)]);
    check("ADD <<-a.txt /x\n\ty\n\ta.txt\n", &[("a.txt", "y\n", true)]);
    check("COPY --chmod=755 <<a b <<'c' /x/\n1\na\n2\nc\n", &[("a", "1\n", true), ("c", "2\n", false)]);
    check("COPY <<a <<a /x/\n1\na\n2\na\n", &[("a", "1\n", true), ("a", "2\n", true)]);
    check("COPY <<a /x\r\n1\r\na\r\n", &[("a", "1\r\n", true)]);
}

#[test]
fn the_instruction_after_a_body_is_read() {
    let source = "FROM a\nCOPY <<x /\nFROM b\nx\nRUN y\n";
    let (file, diagnostics) = parse(source);
    assert_eq!(diagnostics, []);
    assert_eq!(file.stages.len(), 1);
    let [copy, run] = file.stages[0].instructions.as_slice() else { panic!() };
    assert_eq!((copy.lines.clone(), run.lines.clone()), (2..=4, 5..=5));
    assert_eq!(copy.original, "COPY <<x /");
    assert_eq!(copy.span.text(source), "COPY <<x /");
    let Instruction::Copy(copy) = &copy.instruction else { panic!() };
    let Source::Heredoc(heredoc) = &copy.sources[0] else { panic!() };
    assert_eq!(heredoc.body.span.text(source), "FROM b\n");
    assert_eq!(heredoc.name.span.text(source), "<<x");
}

#[test]
fn faulty_heredocs() {
    let found =
        check_faults("FROM a\nRUN <<EOF\nx\n EOF\n", &[("unterminated-heredoc", "heredoc `EOF` has no end")]);
    assert_eq!(found[0].span, Span::new(11, 16));
    check_faults("FROM a\nRUN <<-EOF\nx\n  EOF\n", &[("unterminated-heredoc", "heredoc `EOF` has no end")]);
    check_faults(
        "FROM a\nCOPY x <<EOF\nEOF\n",
        &[("heredoc-destination", "COPY cannot have a heredoc as its destination")],
    );
    check_faults("FROM a\nCOPY << a /x\na\n", &[("invalid-heredoc", "heredoc `a` is no source of COPY")]);
    check_faults(
        "FROM a\nCOPY <<\"a b\" /x\na b\n",
        &[("invalid-heredoc", "heredoc `a b` is no source of COPY")],
    );
}

#[test]
fn a_body_after_a_misspelt_keyword_is_passed_over() {
    check_faults("FROM a\nRNU <<EOF\nx\ny\nEOF\n", &[("unknown-instruction", "unknown instruction `RNU`")]);
}

#[test]
fn triggers_carry_their_bodies() {
    let Instruction::Onbuild(onbuild) = instruction("ONBUILD COPY <<a /x\ny\na\n") else { panic!() };
    assert_eq!(onbuild.trigger.value, "COPY <<a /x\ny\na");
    let (trigger, diagnostics) = parse_trigger(&onbuild.trigger.value);
    assert_eq!(diagnostics, []);
    assert!(matches!(trigger.unwrap().instruction, Instruction::Copy(copy) if copy.sources.len() == 1));
}
