//! Letters in the wrong case.

use super::Linter;
use crate::diagnostic::{Diagnostic, Fix, quote};
use crate::parser::Stage;
use crate::source::Span;

/// The case of a word that has only one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

impl Case {
    fn of(word: &str) -> Option<Self> {
        if word == word.to_lowercase() {
            Some(Self::Lower)
        } else if word == word.to_uppercase() {
            Some(Self::Upper)
        } else {
            None
        }
    }

    fn apply(self, word: &str) -> String {
        match self {
            Self::Lower => word.to_lowercase(),
            Self::Upper => word.to_uppercase(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lower => "lower case",
            Self::Upper => "capitals",
        }
    }
}

pub(super) fn check(linter: &mut Linter<'_>) {
    let tree = linter.file.tree;
    let mut keywords: Vec<(&str, Span)> = Vec::new();
    for stage in &tree.stages {
        let (keyword, span) = linter.keyword(stage.from.span);
        keywords.push((keyword, span));
        stage_name(linter, stage);
        as_sign(linter, stage, keyword);
        keywords.extend(stage.instructions.iter().map(|statement| linter.keyword(statement.span)));
    }
    keyword_case(linter, &keywords);
}

fn stage_name(linter: &mut Linter<'_>, stage: &Stage) {
    let Some(name) = &stage.name else { return };
    let written = name.span.text(linter.file.source);
    let lower = written.to_lowercase();
    if written == lower {
        return;
    }
    let message = format!("the name {} of the stage is not in lower case", quote(written));
    let finding = Diagnostic::warning("StageNameCasing", name.span, message);
    let finding =
        finding.with_help(format!("write {}; stages are found without regard to case", quote(&lower)));
    linter.report(finding.with_fix(Some(Fix::replace(name.span, lower))));
}

/// Compares `AS` with its FROM; a FROM of mixed case is the matter of another rule.
fn as_sign(linter: &mut Linter<'_>, stage: &Stage, keyword: &str) {
    let (Some(name), Some(case)) = (&stage.name, Case::of(keyword)) else { return };
    let between = Span::new(stage.from.instruction.image.span.end, name.span.start);
    let text = between.text(linter.file.source);
    // Comments may lie between the parts of a continued line; the sign is the last word of its kind.
    let Some(at) = text.split_whitespace().rfind(|word| word.eq_ignore_ascii_case("as")) else { return };
    let Some(offset) = text.rfind(at) else { return };
    let span = Span::new(between.start + offset, between.start + offset + at.len());
    let expected = case.apply(at);
    if at == expected {
        return;
    }
    let message = format!("{} and {} are not in the same case", quote(at), quote(keyword));
    let finding = Diagnostic::warning("FromAsCasing", span, message);
    let finding = finding.with_help(format!("write {}", quote(&expected)));
    linter.report(finding.with_fix(Some(Fix::replace(span, expected))));
}

/// The case of most keywords is that of the file; of equally many, capitals win.
fn keyword_case(linter: &mut Linter<'_>, keywords: &[(&str, Span)]) {
    let count = |case: Case| keywords.iter().filter(|(word, _)| Case::of(word) == Some(case)).count();
    let case = if count(Case::Lower) > count(Case::Upper) { Case::Lower } else { Case::Upper };
    for (word, span) in keywords {
        let expected = case.apply(word);
        if *word == expected {
            continue;
        }
        let message = format!("{} is not in {}, as most instructions of the file", quote(word), case.name());
        let finding = Diagnostic::warning("ConsistentInstructionCasing", *span, message);
        let finding = finding.with_help(format!("write {}", quote(&expected)));
        linter.report(finding.with_fix(Some(Fix::replace(*span, expected))));
    }
}
