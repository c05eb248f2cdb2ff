//! `SOURCE_DATE_EPOCH` as a word: where the time of a build comes from when it is no number.

use kiln_dockerfile::instruction::Instruction;

use super::lower::Lowering;
use super::{Ask, Pins, Source};
use crate::error::{Error, Result};
use crate::request::{BuildRequest, EpochChoice, NamedContext};

/// The variable that other tools read too.
const VARIABLE: &str = "SOURCE_DATE_EPOCH";

/// Where the time of a build comes from.
#[derive(Debug, Clone)]
pub enum EpochSource {
    /// Nobody said anything.
    Unset,
    /// A number.
    Seconds(i64),
    /// Something that has no time.
    Timeless,
    /// The build context.
    Context,
    /// Something that lies elsewhere.
    Elsewhere(Ask),
}

/// Finds out where the time comes from: what the request says, else the default of a global `ARG SOURCE_DATE_EPOCH`.
///
/// # Errors
/// When the word is neither `context`, nor a context, nor a stage that says so.
pub fn epoch_source(request: &BuildRequest, source: &Source) -> Result<EpochSource> {
    let word = match &request.source_date_epoch {
        Some(EpochChoice::Seconds(seconds)) => return Ok(EpochSource::Seconds(*seconds)),
        Some(EpochChoice::Of(word)) => word.clone(),
        None => {
            let text =
                Lowering::new(request, source, &Pins::new()).global_args.get(VARIABLE).map(str::to_owned);
            let text = text.unwrap_or_default().trim().to_owned();
            match text.parse() {
                _ if text.is_empty() => return Ok(EpochSource::Unset),
                Ok(seconds) => return Ok(EpochSource::Seconds(seconds)),
                Err(_) => text,
            }
        }
    };
    if word == "context" {
        return Ok(EpochSource::Context);
    }
    match request.named_contexts.get(&word.to_ascii_lowercase()) {
        Some(NamedContext::Git(address)) => {
            return Ok(EpochSource::Elsewhere(Ask::Git(address.clone(), address.keep_git_dir == Some(true))));
        }
        Some(NamedContext::Http(url)) => return Ok(EpochSource::Elsewhere(Ask::Http(url.clone(), None))),
        // As in BuildKit: what has no time of its own sets none.
        Some(NamedContext::Directory(_) | NamedContext::Image(_) | NamedContext::OciLayout { .. }) => {
            return Ok(EpochSource::Timeless);
        }
        None => {}
    }
    match source
        .tree
        .stages
        .iter()
        .position(|s| s.name.as_ref().is_some_and(|n| n.value.eq_ignore_ascii_case(&word)))
    {
        Some(index) => stage(request, source, index).map(EpochSource::Elsewhere),
        None => Err(Error::input(format!(
            "SOURCE_DATE_EPOCH is `{word}`, which is no number, no context and no stage"
        ))
        .hint("write seconds since 1970, `context`, or the name of a context or stage that has a time")),
    }
}

/// Returns what the one remote ADD of a stage asks for, which is all that the stage may do.
fn stage(request: &BuildRequest, source: &Source, index: usize) -> Result<Ask> {
    let stage = &source.tree.stages[index];
    let wrong = |what: &str, span| {
        Error::input(format!("SOURCE_DATE_EPOCH cannot come from this stage: {what}"))
            .at(Some(source.place(span)))
            .hint("it has to be `FROM scratch` with one `ADD` of a web address or repository, and nothing else but ARG")
    };
    let pins = Pins::new();
    let mut lowering = Lowering::new(request, source, &pins);
    let base = &stage.from.instruction.image;
    if lowering.expand_global(base)?.text != "scratch" {
        return Err(wrong("it is not from scratch", base.span));
    }
    for statement in &stage.instructions {
        match &statement.instruction {
            Instruction::Arg(_) => {}
            Instruction::Add(add) if add.sources.len() == 1 => {}
            Instruction::Add(_) => return Err(wrong("its ADD has several sources", statement.span)),
            _ => return Err(wrong("it does more than ADD", statement.span)),
        }
    }
    lowering.stage(index)?;
    let adds = stage.instructions.iter().filter(|s| matches!(s.instruction, Instruction::Add(_))).count();
    match (adds, lowering.wanted.pop()) {
        (1, Some(wanted)) => Ok(wanted.ask),
        _ => Err(wrong("it has not exactly one ADD of something that lies elsewhere", base.span)),
    }
}
