//! Names: of stages, and in the comments that describe stages and arguments.

use std::collections::BTreeMap;

use super::graph::Graph;
use super::{Linter, policy};
use crate::diagnostic::quote;
use crate::instruction::Instruction;
use crate::parser::Statement;
use crate::source::{SourceMap, Span};

/// What FROM and `--from=` would never take for a stage.
const RESERVED: [&str; 2] = ["context", "scratch"];

pub(super) fn check(linter: &mut Linter<'_>) {
    let tree = linter.file.tree;
    for argument in &tree.global_args {
        let names: Vec<&str> = declared(&argument.instruction);
        description(linter, argument, "ARG", &names);
    }
    let lines = SourceMap::new(linter.file.source);
    let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
    let last = tree.stages.len().saturating_sub(1);
    for (index, stage) in tree.stages.iter().enumerate() {
        match &stage.name {
            Some(name) => {
                description(linter, &stage.from, "FROM", &[&name.value]);
                if RESERVED.contains(&name.value.as_str()) {
                    let message =
                        format!("{} is a reserved name, so nothing can use this stage", quote(&name.value));
                    linter.warn("ReservedStageName", name.span, message, "give the stage another name");
                }
                if let Some(first) = seen.insert(&name.value, name.span) {
                    let line = lines.locate(first.start).line;
                    let message =
                        format!("another stage is called {} too, in line {line}", quote(&name.value));
                    let help = "give each stage a name of its own; `--from` and `--target` can mean only one";
                    linter.warn("DuplicateStageName", name.span, message, help);
                }
            }
            None if index < last && !Graph::is(&linter.graph.used, index) => {
                let span = stage.from.instruction.image.span;
                let message = "no stage uses this one, and it has no name to build it by";
                let help = "remove the stage, or name it with `AS` to build it with `--target`";
                linter.warn("UnreachableStage", span, message, help);
            }
            None => {}
        }
        for statement in &stage.instructions {
            if let Instruction::Arg(arg) = &statement.instruction {
                description(linter, statement, "ARG", &declared(arg));
            }
        }
    }
}

fn declared(arg: &crate::instruction::Arg) -> Vec<&str> {
    arg.declarations.iter().map(|declared| declared.name.value.as_str()).collect()
}

/// A comment directly above is a description, which starts with the name.
fn description<T>(linter: &mut Linter<'_>, statement: &Statement<T>, keyword: &str, names: &[&str]) {
    let comment = statement.comments.iter().rev().find(|text| policy::check_value(&text.value).is_none());
    let (Some(comment), Some(first)) = (comment, names.first()) else { return };
    if comment.value.split(' ').next().is_some_and(|word| names.contains(&word)) {
        return;
    }
    // A rule that is off for nearly everybody should cost nearly nothing.
    if !linter.applies("InvalidDefinitionDescription", statement.span.start) {
        return;
    }
    let example = if names.len() > 1 { "<name>" } else { first };
    let message = format!("the comment above this {keyword} does not describe it");
    let help = format!("write `# {example} <description>`, or put a line with only `#` between them");
    linter.warn("InvalidDefinitionDescription", statement.span, message, help);
}
