//! `ONBUILD`: an instruction for builds that start from the image.

use super::{Instruction, Parsed, Request, parse as parse_line};
use crate::diagnostic::Diagnostic;
use crate::source::Spanned;

/// `ONBUILD instruction`
#[derive(Debug, Clone, PartialEq)]
pub struct Onbuild {
    /// The instruction, read to find its faults now; it is read again in the build that it triggers in.
    pub instruction: Box<Instruction>,
    /// The text that the image stores, heredocs included; [`crate::parse_trigger`] reads it.
    pub trigger: Spanned<String>,
}

pub(super) fn parse(request: &mut Request<'_, '_>) -> Option<Onbuild> {
    request.take_flags(&[]);
    request.require_operands()?;
    let (word, _) = request.operands.split_word();
    match word.text().to_ascii_uppercase().as_str() {
        "ONBUILD" => {
            request.error("invalid-trigger", word.span(), "ONBUILD cannot be a trigger of ONBUILD");
            return None;
        }
        name @ ("FROM" | "MAINTAINER") => {
            request.error("invalid-trigger", word.span(), format!("{name} cannot be a trigger of ONBUILD"));
            return None;
        }
        _ => {}
    }
    // Blanks at the end of the line are stored as well, because BuildKit stores them.
    let text = request.operands.to_end_of_line().text().to_owned();
    let mut trigger = Spanned::new(text, request.operands.span());
    for heredoc in &request.heredocs {
        trigger.value.push('\n');
        trigger.value.push_str(&heredoc.body.value);
        trigger.value.push_str(&heredoc.name.value);
    }
    let heredocs = std::mem::take(&mut request.heredocs);
    let mut found: Vec<Diagnostic> = Vec::new();
    let parsed = parse_line(request.operands, heredocs, request.escape, &mut found);
    request.diagnostics.append(&mut found);
    match parsed? {
        Parsed::Instruction(instruction) => Some(Onbuild { instruction: Box::new(instruction), trigger }),
        Parsed::From(..) => None,
    }
}
