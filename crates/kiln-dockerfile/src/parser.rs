//! From text to stages: reads logical lines, has each understood, and keeps going after a fault.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use crate::diagnostic::{Diagnostic, quote};
use crate::directive::{self, Directives, Escape};
use crate::heredoc::{self, Heredoc};
use crate::instruction::{self, Arg, From, Instruction, Parsed};
use crate::line::{Lines, LogicalLine};
use crate::source::{Span, Spanned};

/// A Dockerfile as a tree.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dockerfile {
    /// The directives at the top.
    pub directives: Directives,
    /// The `ARG` instructions before the first `FROM`.
    pub global_args: Vec<Statement<Arg>>,
    /// The stages in order; the index of a stage is its number in `--from=`.
    pub stages: Vec<Stage>,
}

impl Dockerfile {
    /// Finds a stage by its name, without regard to case. Of equal names the last wins.
    #[must_use]
    pub fn stage(&self, name: &str) -> Option<(usize, &Stage)> {
        let named =
            |stage: &Stage| stage.name.as_ref().is_some_and(|own| own.value.eq_ignore_ascii_case(name));
        self.stages.iter().enumerate().rev().find(|(_, stage)| named(stage))
    }
}

/// A `FROM` and the instructions up to the next one.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// What the stage starts from.
    pub from: Statement<From>,
    /// The name after `AS`, in lower case.
    pub name: Option<Spanned<String>>,
    /// The instructions after `FROM`.
    pub instructions: Vec<Statement>,
}

impl Stage {
    /// Returns the text of the comment `# name text` above `FROM`.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.from.description(&self.name.as_ref()?.value)
    }
}

/// An instruction with everything that is known about its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement<T = Instruction> {
    /// What was read.
    pub instruction: T,
    /// The instruction from its name to its last operand, without bodies of heredocs.
    pub span: Span,
    /// The lines of the file, counted from one, with bodies of heredocs.
    pub lines: RangeInclusive<usize>,
    /// The text as progress and history show it: continued lines joined, comments and heredocs left out.
    pub original: String,
    /// The comments above, without their `#`; an empty comment separates from those before it.
    pub comments: Vec<Spanned<String>>,
}

impl<T> Statement<T> {
    /// Returns the text of a comment that starts with a name: `# name text`.
    #[must_use]
    pub fn description(&self, name: &str) -> Option<&str> {
        let after = |comment: &'_ str| comment.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '));
        let comment = self.comments.iter().map(|comment| comment.value.as_str()).find(|text| after(text))?;
        Some(comment.strip_prefix(name)?.trim_start())
    }

    fn with<U>(self, instruction: U) -> Statement<U> {
        let Self { instruction: _, span, lines, original, comments } = self;
        Statement { instruction, span, lines, original, comments }
    }
}

/// Reads a Dockerfile.
///
/// The tree is as complete as the text allows; only without an error among the diagnostics does it mean what
/// its author wrote. Diagnostics are in the order of their places.
#[must_use]
pub fn parse(source: &str) -> (Dockerfile, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let dockerfile = Parser::new(source, &mut diagnostics).file();
    if let Some(nul) = nul_byte(source) {
        // A file with NUL bytes is no text, and what else could be said about it is noise.
        return (dockerfile, vec![nul]);
    }
    if let Some(returns) = only_carriage_returns(source)
        && diagnostics.iter().any(Diagnostic::is_error)
    {
        // The whole file was read as one line.
        return (dockerfile, vec![returns]);
    }
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    (dockerfile, diagnostics)
}

/// Reads a Dockerfile of unknown encoding.
///
/// Bytes that are no UTF-8 are reported and stand as question marks in the tree, so that spans stay true in the
/// text that [`decode`] gives.
#[must_use]
pub fn parse_bytes(source: &[u8]) -> (Dockerfile, Vec<Diagnostic>) {
    let error = match std::str::from_utf8(source) {
        Ok(text) => return parse(text),
        Err(error) => error,
    };
    if is_utf_16(source) {
        // Nothing read from UTF-16 as if it were UTF-8 would help the reader.
        let diagnostic = Diagnostic::error("invalid-utf8", Span::default(), "the file is UTF-16, not UTF-8");
        return (Dockerfile::default(), vec![diagnostic.with_help("save it as UTF-8")]);
    }
    let at = error.valid_up_to();
    let message = format!("the file is not valid UTF-8 at byte {at}");
    let help = if source.contains(&0) {
        "a Dockerfile is text; is this the right file?"
    } else {
        "save the file as UTF-8; in the excerpt a `?` stands for every byte that is none"
    };
    let diagnostic = Diagnostic::error("invalid-utf8", Span::new(at, at + 1), message).with_help(help);
    if source.contains(&0) {
        // A program or an archive: what else could be said about it is noise.
        return (Dockerfile::default(), vec![diagnostic]);
    }
    let (dockerfile, mut diagnostics) = parse(&decode(source));
    diagnostics.push(diagnostic);
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    (dockerfile, diagnostics)
}

/// Returns the text that the spans of [`parse_bytes`] mean: as long as the bytes, with a question mark for every
/// byte that is no UTF-8. Of UTF-16 it is empty.
#[must_use]
pub fn decode(source: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(source) {
        return Cow::Borrowed(text);
    }
    if is_utf_16(source) {
        return Cow::Borrowed("");
    }
    let mut text = String::with_capacity(source.len());
    for chunk in source.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '?'));
    }
    Cow::Owned(text)
}

/// Tells UTF-16 by its byte order mark.
fn is_utf_16(source: &[u8]) -> bool {
    source.starts_with(&[0xff, 0xfe]) || source.starts_with(&[0xfe, 0xff])
}

fn nul_byte(source: &str) -> Option<Diagnostic> {
    let at = source.find('\0')?;
    let message = format!("the file has a NUL byte at byte {at}");
    let help = "a Dockerfile is text; is this the right file?";
    Some(Diagnostic::error("nul-byte", Span::new(at, at + 1), message).with_help(help))
}

/// Notices a file whose lines end as they did on old Macintoshes.
fn only_carriage_returns(source: &str) -> Option<Diagnostic> {
    let at = source.trim_end().find('\r').filter(|_| !source.contains('\n'))?;
    let message = "the lines of the file end in carriage returns only, which end no line";
    let help = "save the file with line feeds (`tr '\\r' '\\n'`)";
    Some(Diagnostic::error("carriage-returns", Span::new(at, at), message).with_help(help))
}

/// Reads one trigger, as `ONBUILD` stores it in an image: one instruction, heredocs included.
#[must_use]
pub fn parse_trigger(source: &str) -> (Option<Statement>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    diagnostics.extend(nul_byte(source));
    let mut parser = Parser::new(source, &mut diagnostics);
    let first = parser.statement();
    let more = parser.statement();
    let mut statement = None;
    match (first, more) {
        (
            Some(Statement {
                instruction: Some(Parsed::Instruction(instruction)),
                span,
                lines,
                original,
                comments,
            }),
            None,
        ) => {
            statement = Some(Statement { instruction, span, lines, original, comments });
        }
        (Some(first), None) => {
            if matches!(first.instruction, Some(Parsed::From(..))) {
                diagnostics.push(Diagnostic::error(
                    "invalid-trigger",
                    first.span,
                    "FROM cannot be a trigger",
                ));
            }
        }
        (None, _) => {
            let span = Span::new(0, source.len());
            diagnostics.push(Diagnostic::error("invalid-trigger", span, "the trigger has no instruction"));
        }
        (Some(_), Some(second)) => {
            let message = "a trigger is one instruction, and here is another";
            diagnostics.push(Diagnostic::error("invalid-trigger", second.span, message));
        }
    }
    (statement, diagnostics)
}

struct Parser<'a, 'd> {
    source: &'a str,
    lines: Lines<'a>,
    escape: Escape,
    directives: Directives,
    diagnostics: &'d mut Vec<Diagnostic>,
}

impl<'a, 'd> Parser<'a, 'd> {
    fn new(source: &'a str, diagnostics: &'d mut Vec<Diagnostic>) -> Self {
        let mut lines = Lines::new(source);
        let directives = directive::parse(&mut lines, diagnostics);
        Self { source, lines, escape: directives.escape(), directives, diagnostics }
    }

    fn file(mut self) -> Dockerfile {
        let mut global_args = Vec::new();
        let mut stages: Vec<Stage> = Vec::new();
        let mut empty = true;
        let mut homeless = false;
        while let Some(mut statement) = self.statement() {
            empty = false;
            match (statement.instruction.take(), stages.last_mut()) {
                (Some(Parsed::From(from, name)), _) => {
                    stages.push(Stage { from: statement.with(from), name, instructions: Vec::new() });
                }
                (Some(Parsed::Instruction(Instruction::Arg(arg))), None) => {
                    global_args.push(statement.with(arg));
                }
                (Some(Parsed::Instruction(instruction)), Some(stage)) => {
                    stage.instructions.push(statement.with(instruction));
                }
                (Some(Parsed::Instruction(_)), None) if !homeless => {
                    // Said once: every following instruction has the same fault.
                    homeless = true;
                    self.error_no_stage(statement.span);
                }
                (Some(Parsed::Instruction(_)) | None, _) => {}
            }
        }
        if empty {
            let span = Span::new(0, self.source.len());
            self.diagnostics.push(Diagnostic::error("empty-file", span, "the file has no instructions"));
        } else if stages.is_empty() && !homeless {
            let end = self.source.len();
            let message = "the file has no stage to build";
            let diagnostic = Diagnostic::error("no-stage", Span::new(end, end), message);
            self.diagnostics.push(diagnostic.with_help("add `FROM <image>`"));
        }
        Dockerfile { directives: self.directives, global_args, stages }
    }

    fn error_no_stage(&mut self, span: Span) {
        let message = "this instruction is in no build stage";
        let help = "only ARG may come before the first FROM";
        self.diagnostics.push(Diagnostic::error("no-stage", span, message).with_help(help));
    }

    /// Reads on to the end of the next instruction; its meaning is absent when it has none.
    fn statement(&mut self) -> Option<Statement<Option<Parsed>>> {
        let mut comments: Vec<Spanned<String>> = Vec::new();
        loop {
            let first = self.lines.next()?;
            if first.is_comment() {
                let text = first.content.trim_start().trim_start_matches('#').trim();
                if text.is_empty() {
                    comments.clear();
                } else {
                    comments.push(Spanned::new(text.to_owned(), first.span()));
                }
                continue;
            }
            if first.content.trim().is_empty() {
                continue;
            }
            let line = LogicalLine::read(first, &mut self.lines, self.escape.character());
            if !line.text.trim().is_empty() {
                return Some(self.understand(&line, comments));
            }
        }
    }

    fn understand(
        &mut self,
        line: &LogicalLine,
        comments: Vec<Spanned<String>>,
    ) -> Statement<Option<Parsed>> {
        if let Some(span) = line.blank_line {
            let message = "an empty line inside a continued instruction";
            let help = "remove the line, or make it a comment with `#`";
            self.diagnostics.push(Diagnostic::warning("NoEmptyContinuation", span, message).with_help(help));
        }
        let heredocs = self.heredocs(line);
        let last = if heredocs.is_empty() { line.last_number } else { self.lines.number() };
        let parsed = instruction::parse(line.piece(), heredocs, self.escape, self.diagnostics);
        Statement {
            instruction: parsed,
            span: line.span,
            lines: line.first_number..=last.max(line.first_number),
            original: line.text.trim().to_owned(),
            comments,
        }
    }

    /// Reads the bodies of the heredocs that a line opens.
    fn heredocs(&mut self, line: &LogicalLine) -> Vec<Heredoc> {
        if !instruction::takes_heredocs(line.piece(), self.escape.character()) {
            return Vec::new();
        }
        let mut heredocs = Vec::new();
        for opening in heredoc::openings(line) {
            match heredoc::read(opening, &mut self.lines) {
                Ok(heredoc) => heredocs.push(heredoc),
                Err(open) => {
                    let name = quote(&open.name.value);
                    let message = format!("heredoc {name} has no end");
                    let help = format!("end it with a line that holds only {name}");
                    let diagnostic = Diagnostic::error("unterminated-heredoc", open.name.span, message);
                    self.diagnostics.push(diagnostic.with_help(help));
                    heredocs.push(open);
                }
            }
        }
        heredocs
    }
}
