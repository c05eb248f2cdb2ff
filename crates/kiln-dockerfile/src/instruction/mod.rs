//! Instructions: one variant per keyword, one file per instruction that has rules of its own.
//!
//! Operands are as written: with variables, quotes and escapes. [`crate::expand`] turns them into values.

mod assignment;
mod copy;
mod expose;
mod from;
mod healthcheck;
mod mount;
mod onbuild;
mod run;
mod signal;
mod simple;

pub use assignment::{Arg, ArgDeclaration, Env, Label, Pair, PairForm};
pub use copy::{Add, Copy, Source};
pub use expose::{Expose, PortSpec};
pub use from::From;
pub use healthcheck::{HealthCommand, Healthcheck};
pub use mount::{Access, CacheMount, Mount, MountOption, ResolvedMount, Sharing, parse_size};
pub use onbuild::Onbuild;
pub use run::{Device, Network, Run, RunScript, Security};
pub use signal::parse_signal;
pub use simple::{Cmd, CommandForm, Entrypoint, Maintainer, Shell, StopSignal, User, Volume, Workdir};

use crate::diagnostic::{Diagnostic, quote};
use crate::directive::Escape;
use crate::flag::{self, Flag, Flags, Kind};
use crate::heredoc::Heredoc;
use crate::json::{self, Array};
use crate::line::Piece;
use crate::source::{Span, Spanned};
use crate::suggest::{suggest, worthwhile};

/// An instruction inside a stage; `FROM` is the stage itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Instruction {
    /// `ADD`
    Add(Add),
    /// `ARG`
    Arg(Arg),
    /// `CMD`
    Cmd(Cmd),
    /// `COPY`
    Copy(Copy),
    /// `ENTRYPOINT`
    Entrypoint(Entrypoint),
    /// `ENV`
    Env(Env),
    /// `EXPOSE`
    Expose(Expose),
    /// `HEALTHCHECK`
    Healthcheck(Healthcheck),
    /// `LABEL`
    Label(Label),
    /// `MAINTAINER`
    Maintainer(Maintainer),
    /// `ONBUILD`
    Onbuild(Onbuild),
    /// `RUN`; boxed because it is much larger than the others.
    Run(Box<Run>),
    /// `SHELL`
    Shell(Shell),
    /// `STOPSIGNAL`
    StopSignal(StopSignal),
    /// `USER`
    User(User),
    /// `VOLUME`
    Volume(Volume),
    /// `WORKDIR`
    Workdir(Workdir),
}

impl Instruction {
    /// Returns the keyword, in capitals.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }
}

/// Every keyword of the language.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// How an instruction is written.
fn usage(name: &str) -> &'static str {
    match name {
        "ADD" => "ADD <source>... <destination>",
        "ARG" => "ARG <name>[=<default>]",
        "COPY" => "COPY <source>... <destination>",
        "ENV" => "ENV <name>=<value>",
        "EXPOSE" => "EXPOSE <port>[/<protocol>]",
        "HEALTHCHECK" => "HEALTHCHECK CMD <command>",
        "LABEL" => "LABEL <name>=<value>",
        "MAINTAINER" => "MAINTAINER <name>",
        "ONBUILD" => "ONBUILD <instruction>",
        "SHELL" => r#"SHELL ["/bin/bash", "-c"]"#,
        "STOPSIGNAL" => "STOPSIGNAL <signal>",
        "USER" => "USER <user>[:<group>]",
        "VOLUME" => "VOLUME <path>",
        "WORKDIR" => "WORKDIR <path>",
        _ => "RUN <command>",
    }
}

/// What a line is: the start of a stage, or an instruction in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Parsed {
    From(From, Option<Spanned<String>>),
    Instruction(Instruction),
}

/// One instruction to be understood, with the place for its faults.
pub(crate) struct Request<'a, 'd> {
    /// The keyword in capitals, for messages.
    pub(crate) name: &'static str,
    pub(crate) keyword: Piece<'a>,
    pub(crate) flags: Vec<Flag>,
    pub(crate) operands: Piece<'a>,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) escape: Escape,
    pub(crate) diagnostics: &'d mut Vec<Diagnostic>,
}

impl Request<'_, '_> {
    pub(crate) fn error(&mut self, code: &'static str, span: Span, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(code, span, message));
    }

    /// Checks the flags against those that the instruction knows.
    pub(crate) fn take_flags(&mut self, known: &[(&'static str, Kind)]) -> Flags {
        Flags::check(self.name, std::mem::take(&mut self.flags), known, self.diagnostics)
    }

    /// Passes over the flags of an instruction that BuildKit does not look at the flags of.
    pub(crate) fn ignore_flags(&mut self, whose: &str) {
        for flag in std::mem::take(&mut self.flags) {
            let message =
                format!("{whose} has no flags; {} has no effect", quote(&format!("--{}", flag.name.value)));
            self.diagnostics
                .push(Diagnostic::warning("useless-flag", flag.span, message).with_help("remove it"));
        }
    }

    /// Reports an operand that is missing, and says how the instruction is written.
    pub(crate) fn missing_operand(&mut self, span: Span, message: impl Into<String>) {
        let diagnostic = Diagnostic::error("missing-operand", span, message);
        self.diagnostics.push(diagnostic.with_help(format!("write `{}`", usage(self.name))));
    }

    /// Reports an instruction without operands.
    pub(crate) fn require_operands(&mut self) -> Option<()> {
        if self.operands.is_empty() {
            let message = format!("{} needs at least one operand", self.name);
            self.missing_operand(self.keyword.span(), message);
            return None;
        }
        Some(())
    }

    /// Reads the JSON form; absent when the operands are in the shell form, or hold something else than
    /// strings, which is reported.
    pub(crate) fn json(&mut self) -> Json {
        match json::parse_array(self.operands.text()) {
            Array::NotJson => Json::No,
            Array::NotStrings => {
                let message = format!("the JSON form of {} holds something else than strings", self.name);
                let help = "put every element into double quotes";
                let span = self.operands.span();
                self.diagnostics.push(Diagnostic::error("json-not-strings", span, message).with_help(help));
                Json::Faulty
            }
            Array::Strings(strings) => {
                let place = |range: std::ops::Range<usize>| self.operands.part(range.start, range.end).span();
                let spanned = strings.into_iter().map(|(value, range)| Spanned::new(value, place(range)));
                Json::Strings(spanned.collect())
            }
        }
    }
}

/// The outcome of looking for the JSON form.
pub(crate) enum Json {
    No,
    Faulty,
    Strings(Vec<Spanned<String>>),
}

/// The keyword that a word means.
fn keyword(word: &str) -> Option<&'static str> {
    KEYWORDS.into_iter().find(|keyword| keyword.eq_ignore_ascii_case(word))
}

/// Tells whether `<<` on a line opens heredocs: in RUN, COPY and ADD, and not in their JSON form.
pub(crate) fn takes_heredocs(line: Piece<'_>, escape: char) -> bool {
    if !line.text().contains("<<") {
        return false;
    }
    let (word, rest) = line.trim().split_word();
    // The body of a heredoc after a misspelt keyword would be read as instructions, each with an error.
    let name = keyword(word.text()).or_else(|| suggest(word.text(), &KEYWORDS));
    match name {
        Some("RUN" | "COPY" | "ADD") => {
            let (_, operands) = flag::split(rest, escape);
            !matches!(json::parse_array(operands.text()), Array::Strings(_))
        }
        Some("ONBUILD") if keyword(rest.split_word().0.text()) != Some("ONBUILD") => {
            takes_heredocs(rest, escape)
        }
        _ => false,
    }
}

/// Understands one logical line.
pub(crate) fn parse(
    line: Piece<'_>,
    heredocs: Vec<Heredoc>,
    escape: Escape,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Parsed> {
    let (word, rest) = line.trim().split_word();
    let Some(name) = keyword(word.text()) else {
        let message = format!("unknown instruction {}", quote(word.text()));
        let diagnostic = Diagnostic::error("unknown-instruction", word.span(), message);
        let near = if worthwhile(diagnostics) { suggest(word.text(), &KEYWORDS) } else { None };
        diagnostics.push(match near {
            Some(_) => diagnostic.with_suggestion(near),
            None => diagnostic.with_help(format!("the instructions are {}", KEYWORDS.join(", "))),
        });
        return None;
    };
    let (flags, operands) = flag::split(rest, escape.character());
    let mut request = Request { name, keyword: word, flags, operands, heredocs, escape, diagnostics };
    let request = &mut request;
    let instruction = match name {
        "FROM" => {
            let (from, stage_name) = from::parse(request);
            return Some(Parsed::From(from, stage_name));
        }
        "ADD" => Instruction::Add(copy::parse_add(request)?),
        "ARG" => Instruction::Arg(assignment::parse_arg(request)?),
        "CMD" => Instruction::Cmd(simple::parse_cmd(request)?),
        "COPY" => Instruction::Copy(copy::parse_copy(request)?),
        "ENTRYPOINT" => Instruction::Entrypoint(simple::parse_entrypoint(request)?),
        "ENV" => Instruction::Env(assignment::parse_env(request)?),
        "EXPOSE" => Instruction::Expose(expose::parse(request)?),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck::parse(request)?),
        "LABEL" => Instruction::Label(assignment::parse_label(request)?),
        "MAINTAINER" => Instruction::Maintainer(simple::parse_maintainer(request)?),
        "ONBUILD" => Instruction::Onbuild(onbuild::parse(request)?),
        "RUN" => Instruction::Run(Box::new(run::parse(request)?)),
        "SHELL" => Instruction::Shell(simple::parse_shell(request)?),
        "STOPSIGNAL" => Instruction::StopSignal(simple::parse_stop_signal(request)?),
        "USER" => Instruction::User(simple::parse_user(request)?),
        "VOLUME" => Instruction::Volume(simple::parse_volume(request)?),
        "WORKDIR" => Instruction::Workdir(simple::parse_workdir(request)?),
        _ => return None,
    };
    Some(Parsed::Instruction(instruction))
}
