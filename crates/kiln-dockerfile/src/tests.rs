//! Whole files through [`crate::parse`].

mod buildkit;
mod heredocs;
mod instructions;
mod robustness;
mod structure;

use crate::{Diagnostic, Instruction, Spanned, Stage, Statement, parse};

/// Reads one stage with the instructions under test and expects nothing to be reported.
fn stage(instructions: &str) -> Stage {
    let (dockerfile, diagnostics) = parse(&format!("FROM base\n{instructions}"));
    assert_eq!(diagnostics, [], "{instructions}");
    dockerfile.stages.into_iter().next().unwrap()
}

fn statement(instruction: &str) -> Statement {
    let mut instructions = stage(instruction).instructions;
    assert_eq!(instructions.len(), 1, "{instruction}");
    instructions.remove(0)
}

fn instruction(text: &str) -> Instruction {
    statement(text).instruction
}

/// Reads a whole file and expects exactly these codes and messages, warnings included.
fn check_faults(source: &str, expect: &[(&str, &str)]) -> Vec<Diagnostic> {
    let (_, diagnostics) = parse(source);
    let found: Vec<_> = diagnostics.iter().map(|found| (found.code, found.message.as_str())).collect();
    assert_eq!(found, expect, "{source}");
    diagnostics
}

/// Expects one fault of an instruction in a stage, at a piece of its text.
fn check_fault(instruction: &str, code: &str, message: &str, at: &str) {
    let source = format!("FROM base\n{instruction}\n");
    let diagnostics = check_faults(&source, &[(code, message)]);
    assert_eq!(diagnostics[0].span.text(&source), at, "{instruction}");
}

fn values(spanned: &[Spanned<String>]) -> Vec<&str> {
    spanned.iter().map(|spanned| spanned.value.as_str()).collect()
}

fn value(spanned: &Option<Spanned<String>>) -> Option<&str> {
    spanned.as_ref().map(|spanned| spanned.value.as_str())
}
