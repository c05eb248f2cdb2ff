//! Instructions that change files: WORKDIR, COPY, ADD.

use kiln_dockerfile::instruction::{Add, Copy, Source as Operand};
use kiln_dockerfile::{Spanned, Statement};

use super::lower::Lowering;
use super::names::Named;
use super::stage::{StageState, clean};
use super::words::Words;
use crate::error::{Error, Place, Result};
use crate::graph::{
    CopyAction, CopyFrom, CopySource, FileAction, FileOp, Layout, Mode, Onto, Op, is_numeric,
};

/// What COPY and ADD have in common.
struct Transfer<'a> {
    instruction: &'static str,
    sources: &'a [Operand],
    dest: &'a Spanned<String>,
    chown: Option<&'a Spanned<String>>,
    chmod: Option<&'a Spanned<String>>,
    link: Option<&'a Spanned<bool>>,
    exclude: &'a [Spanned<String>],
    layout: Layout,
    unpack: bool,
}

pub(super) fn workdir(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    path: &str,
    place: &Place,
) -> Result<()> {
    // The config has an absolute path as it was written, as in BuildKit; what is made is where it leads.
    let written = if path.starts_with('/') { path.to_owned() } else { clean(&state.absolute(path)) };
    let path = clean(&written);
    let history = format!("WORKDIR {written}");
    state.config.config.working_dir = written;
    if path == "/" {
        state.note(history);
        return Ok(());
    }
    let user = state.config.config.user.clone();
    let op = Op::File(FileOp { actions: vec![FileAction::MakeDir { path, user }], onto: Onto::Parent });
    state.step(lowering, op, statement, history, place);
    Ok(())
}

pub(super) fn copy(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    copy: &Copy,
    index: usize,
    place: &Place,
) -> Result<()> {
    let from = lowering.copy_source(copy.from.as_ref().map(Named::copy), index, place)?;
    let transfer = Transfer {
        instruction: "COPY",
        sources: &copy.sources,
        dest: &copy.dest,
        chown: copy.chown.as_ref(),
        chmod: copy.chmod.as_ref(),
        link: copy.link.as_ref(),
        exclude: &copy.exclude,
        layout: if copy.parents.as_ref().is_some_and(|p| p.value) { Layout::Parents } else { Layout::Flat },
        unpack: false,
    };
    let op = transfer.lower(lowering, state, from)?;
    super::remote::refuse(&op.actions)?;
    let history = transfer.history(lowering, state)?;
    state.step(lowering, Op::File(op), statement, history, place);
    Ok(())
}

pub(super) fn add(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    add: &Add,
    place: &Place,
) -> Result<()> {
    let transfer = Transfer {
        instruction: "ADD",
        sources: &add.sources,
        dest: &add.dest,
        chown: add.chown.as_ref(),
        chmod: add.chmod.as_ref(),
        link: add.link.as_ref(),
        exclude: &add.exclude,
        layout: Layout::Flat,
        unpack: add.unpack.as_ref().is_none_or(|u| u.value),
    };
    let mut op = transfer.lower(lowering, state, CopyFrom::Context(String::new()))?;
    op.actions = super::remote::resolve(lowering, state, add, op.actions)?;
    let history = transfer.history(lowering, state)?;
    state.step(lowering, Op::File(op), statement, history, place);
    Ok(())
}

impl Transfer<'_> {
    /// Returns the history in BuildKit's form: `COPY --chown=1:1 a b /dest`.
    fn history(&self, lowering: &Lowering<'_>, state: &StageState) -> Result<String> {
        let words = Words::new(lowering, state);
        let mut parts = vec![self.instruction.to_owned()];
        if self.layout == Layout::Parents {
            parts.push("--parents".to_owned());
        }
        for (flag, value) in [("chown", self.chown), ("chmod", self.chmod)] {
            parts.extend(words.optional(value)?.map(|value| format!("--{flag}={value}")));
        }
        for source in self.sources {
            if let Operand::Path(path) = source {
                parts.push(crate::address::mask(&words.word(path)?));
            }
        }
        for source in self.sources {
            if let Operand::Heredoc(heredoc) = source {
                parts.push(format!("<<{}", heredoc.name.value));
            }
        }
        parts.push(words.word(self.dest)?);
        Ok(parts.join(" "))
    }

    /// Expands everything, all with the variables as they were before the instruction.
    fn lower(&self, lowering: &Lowering<'_>, state: &StageState, from: CopyFrom) -> Result<FileOp> {
        let words = Words::new(lowering, state);
        // As they are written: BuildKit replaces no variable here.
        let exclude = self.exclude.iter().map(|pattern| pattern.value.clone()).collect();
        let chown = words.optional(self.chown)?.filter(|user| !user.is_empty());
        let chmod = mode(lowering, &words, self.chmod)?;
        // With `--chmod` BuildKit copies as without `--link`, and so the same layers come out here.
        let linked = self.link.is_some_and(|l| l.value) && chmod.is_none();
        if let (true, Some(user), Some(flag)) =
            (linked, chown.as_ref().filter(|u| !is_numeric(u)), self.chown)
        {
            let name = self.instruction;
            return Err(Error::input(format!("`{name} --link` cannot look up the owner `{user}`"))
                .at(Some(lowering.source.place(flag.span)))
                .hint(
                    "a linked layer is made without the files of the image: give numbers, such as 1000:1000",
                ));
        }
        let template = CopyAction {
            from,
            sources: Vec::new(),
            dest: dest(lowering, state, &words, self.dest)?,
            chown,
            chmod,
            unpack: self.unpack,
            exclude,
            layout: self.layout,
        };
        let onto = if linked { Onto::Nothing } else { Onto::Parent };
        Ok(FileOp { actions: self.each(lowering, &words, template)?, onto })
    }

    /// Returns the actions of one instruction: paths together, heredocs as files of their own.
    fn each(
        &self,
        lowering: &Lowering<'_>,
        words: &Words<'_, '_>,
        template: CopyAction,
    ) -> Result<Vec<FileAction>> {
        let mut actions = Vec::new();
        let mut sources = Vec::new();
        for operand in self.sources {
            match operand {
                Operand::Path(path) => sources.push(CopySource {
                    instruction: self.instruction,
                    path: words.word(path)?,
                    place: Some(lowering.source.place(path.span)),
                }),
                Operand::Heredoc(heredoc) => actions.push(FileAction::Write {
                    name: heredoc.name.value.clone(),
                    content: words.heredoc(heredoc)?,
                    dest: template.dest.clone(),
                    chown: template.chown.clone(),
                    chmod: template.chmod.clone(),
                }),
            }
        }
        if !sources.is_empty() {
            actions.insert(0, FileAction::Copy(CopyAction { sources, ..template }));
        }
        Ok(actions)
    }
}

fn dest(
    lowering: &Lowering<'_>,
    state: &StageState,
    words: &Words<'_, '_>,
    dest: &Spanned<String>,
) -> Result<String> {
    let text = words.word(dest)?;
    if text.is_empty() {
        return Err(Error::input(format!(
            "destination `{}` is empty after its variables are replaced",
            dest.value
        ))
        .at(Some(lowering.source.place(dest.span)))
        .hint("give its variables a value with ARG or ENV above this line, or write a path"));
    }
    Ok(state.absolute(&text))
}

/// Reads `--chmod`; one that is empty after its variables are replaced says nothing.
fn mode(
    lowering: &Lowering<'_>,
    words: &Words<'_, '_>,
    chmod: Option<&Spanned<String>>,
) -> Result<Option<Mode>> {
    let Some(chmod) = chmod else { return Ok(None) };
    let text = words.word(chmod)?;
    if text.is_empty() {
        return Ok(None);
    }
    Mode::parse(&text).map(Some).map_err(|why| {
        Error::input(format!("`{text}` is not a file mode: {why}"))
            .at(Some(lowering.source.place(chmod.span)))
            .hint("write an octal number up to 7777, such as 755, or changes, such as u=rwX,go=rX")
    })
}
