//! What names stand for: which stage, context or image a FROM, a `--from=` or a trigger means, and which stages
//! the target therefore needs.

use std::borrow::Cow;
use std::collections::BTreeSet;

use kiln_dockerfile::expand::{Expanded, expand_word};
use kiln_dockerfile::instruction::Instruction;
use kiln_dockerfile::{Spanned, Statement};
use kiln_oci::Platform;

use super::lower::Lowering;
use super::{Ask, Pin, Wanted, pin_key};
use crate::error::{Error, Place, Result};

/// No more stages than these are compared with a name that may be misspelt.
const MOST_STAGES: usize = 300;

/// What `--from=` or FROM names.
pub(super) enum Name {
    Stage(usize),
    Other(String),
}

/// Whether a name that is a number counts stages: `COPY --from=0` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Numbers {
    AreStages,
    AreNames,
}

/// A name of a stage, image or context in an instruction.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) name: &'a Spanned<String>,
    pub(super) numbers: Numbers,
    /// What the instruction does from there, for messages.
    verb: &'static str,
}

impl<'a> Named<'a> {
    /// Returns the operand of `--from=`.
    pub(super) fn copy(name: &'a Spanned<String>) -> Self {
        Self { name, numbers: Numbers::AreStages, verb: "copies" }
    }

    /// Returns the option `from=` of a mount, which knows stages by name only.
    pub(super) fn mount(name: &'a Spanned<String>) -> Self {
        Self { name, numbers: Numbers::AreNames, verb: "mounts" }
    }

    fn at(self, place: Place) -> From {
        From { name: self.name.value.clone(), numbers: self.numbers, verb: self.verb, place }
    }
}

/// A name that a stage takes files from.
struct From {
    name: String,
    numbers: Numbers,
    verb: &'static str,
    place: Place,
}

/// An instruction of a stage: of its own, or a trigger of its base.
pub(super) struct Step<'a> {
    /// Borrowed from the file: a heredoc may be large.
    pub(super) statement: Cow<'a, Statement>,
    pub(super) place: Place,
}

impl<'a> Lowering<'a> {
    /// Returns the instructions of stage `index`, those of its base's triggers first.
    pub(super) fn steps(&self, index: usize) -> Result<Vec<Step<'a>>> {
        if self.stand_in(index).is_some() {
            return Ok(Vec::new());
        }
        let source = self.source;
        let mut steps = self.trigger_steps(index)?;
        let own = source.tree.stages[index].instructions.iter();
        steps.extend(own.map(|s| Step { statement: Cow::Borrowed(s), place: source.place(s.span) }));
        Ok(steps)
    }

    /// Returns the triggers of the base of stage `index`; those of an image are known once it has a pin.
    fn trigger_steps(&self, index: usize) -> Result<Vec<Step<'a>>> {
        let place = self.source.place(self.source.tree.stages[index].from.instruction.image.span);
        let step = |text: &String| {
            let statement = Cow::Owned(parse_trigger(text, &place)?);
            Ok(Step { statement, place: place.clone() })
        };
        self.triggers(index)?.iter().map(step).collect()
    }
}

impl Lowering<'_> {
    /// Expands with the variables that FROM sees.
    pub(super) fn expand_global(&self, word: &Spanned<String>) -> Result<Expanded> {
        let lookup = |name: &str| self.global(name).map(str::to_owned);
        let escape = self.source.tree.directives.escape();
        expand_word(&word.value, escape, &lookup).map_err(|e| self.source.error(e.at(word.span)))
    }

    /// Returns the name of the base of stage `index`.
    pub(super) fn base(&self, index: usize) -> Result<String> {
        let written = &self.source.tree.stages[index].from.instruction.image;
        let base = self.expand_global(written)?;
        if !base.text.is_empty() {
            return Ok(base.text);
        }
        let error =
            Error::input(format!("base name `{}` is empty after its variables are replaced", written.value))
                .at(Some(self.source.place(written.span)));
        Err(self.explain_undefined(error, &base))
    }

    /// Returns the platform that stage `index` asks for.
    pub(super) fn stage_platform(&self, index: usize) -> Result<Platform> {
        let target = || self.request.target_platform();
        let Some(written) = &self.source.tree.stages[index].from.instruction.platform else {
            return Ok(target());
        };
        let text = self.expand_global(written)?;
        let place = Some(self.source.place(written.span));
        if text.text.is_empty() {
            let error = Error::input(format!(
                "platform `{}` is empty after its variables are replaced",
                written.value
            ))
            .at(place);
            return Err(self.explain_undefined(error, &text));
        }
        text.text.parse().map_err(|e: kiln_oci::PlatformError| {
            self.explain_undefined(Error::input(e.to_string()).at(place), &text)
        })
    }

    /// Says of variables without a value where they are declared, or what they may have been meant to be.
    fn explain_undefined(&self, mut error: Error, expanded: &Expanded) -> Error {
        for name in &expanded.undefined {
            let declared = |args: &kiln_dockerfile::instruction::Arg| {
                args.declarations.iter().any(|d| d.name.value == *name)
            };
            let tree = &self.source.tree;
            let globally = tree.global_args.iter().any(|s| declared(&s.instruction));
            let in_stage = tree.stages.iter().flat_map(|s| &s.instructions).any(|s| match &s.instruction {
                Instruction::Arg(arg) => declared(arg),
                _ => false,
            });
            let known: Vec<&str> = self.global_names();
            error = if globally {
                error.hint(format!(
                    "`{name}` has no value: give its ARG a default (`ARG {name}=value`) or pass `--build-arg {name}=value`"
                ))
            } else if in_stage {
                error.hint(format!(
                    "`{name}` is declared inside of a stage only: FROM sees an ARG that stands above the first FROM"
                ))
            } else if let Some(near) = kiln_dockerfile::suggest(name, &known) {
                error.hint(format!("no ARG declares `{name}`; did you mean `{near}`?"))
            } else {
                error.hint(format!(
                    "no ARG declares `{name}`: write `ARG {name}=value` above the first FROM, or pass `--build-arg {name}=value` with it"
                ))
            };
        }
        error
    }

    /// Finds out what a name means in stage `index`: a named context, an earlier stage, or an image.
    pub(super) fn name(&self, name: &str, index: usize, numbers: Numbers) -> Name {
        if self.context_for(name).is_some() {
            return Name::Other(name.to_owned());
        }
        let numbers_of = self.stage_numbers.get(&name.to_ascii_lowercase());
        let above = numbers_of.and_then(|all| all[..all.partition_point(|number| *number < index)].last());
        if let Some(found) = above {
            return Name::Stage(*found);
        }
        match name.parse::<usize>() {
            Ok(number) if numbers == Numbers::AreStages && number < index => Name::Stage(number),
            _ => Name::Other(name.to_owned()),
        }
    }

    /// Returns the named context that stands in for the whole stage `index`, if its name was given to one.
    pub(super) fn stand_in(&self, index: usize) -> Option<&str> {
        let name = self.source.tree.stages[index].name.as_ref()?;
        self.context_for(&name.value).map(|_| name.value.as_str())
    }

    fn context_for(&self, name: &str) -> Option<&str> {
        self.request.context_named(name, &self.request.target_platform())
    }

    fn triggers(&self, index: usize) -> Result<Vec<String>> {
        let base = self.base(index)?;
        match self.name(&base, index, Numbers::AreNames) {
            Name::Stage(parent) if self.stand_in(parent).is_none() => {
                let own = self.source.tree.stages[parent].instructions.iter();
                Ok(own
                    .filter_map(|s| match &s.instruction {
                        Instruction::Onbuild(onbuild) => Some(onbuild.trigger.value.clone()),
                        _ => None,
                    })
                    .collect())
            }
            Name::Stage(parent) => {
                let name = self.stand_in(parent).unwrap_or_default();
                Ok(self.pinned_triggers(name, &self.stage_platform(parent)?))
            }
            Name::Other(name) => Ok(self.pinned_triggers(&name, &self.stage_platform(index)?)),
        }
    }

    fn pinned_triggers(&self, name: &str, platform: &Platform) -> Vec<String> {
        match self.pins.get(&pin_key(name, platform)) {
            Some(Pin::Image(base)) => base.config.config.on_build.clone(),
            _ => Vec::new(),
        }
    }

    /// Returns every name that stage `index` takes files from.
    fn froms(&self, index: usize) -> Result<Vec<From>> {
        let mut froms = Vec::new();
        // The text of a trigger is not in the file; the FROM that brings it stands for it.
        for step in self.trigger_steps(index)? {
            froms.extend(named(&step.statement).map(|named| named.at(step.place.clone())));
        }
        let own = self.source.tree.stages[index].instructions.iter().flat_map(named);
        froms.extend(own.map(|named| named.at(self.source.place(named.name.span))));
        Ok(froms)
    }

    /// Checks what BuildKit checks of stages that the target does not need as well.
    pub(super) fn check_stages(&mut self) {
        for index in 0..self.source.tree.stages.len() {
            let checked = self.base(index).and_then(|_| self.stage_platform(index)).map(drop);
            self.collect(checked);
        }
    }

    /// Returns the stages that `target` needs, in the order of the file.
    pub(super) fn needed(&mut self, target: usize) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(index) = todo.pop() {
            if !needed.insert(index) || self.stand_in(index).is_some() {
                continue;
            }
            let Ok(base) = self.base(index) else { continue };
            if let Name::Stage(other) = self.name(&base, index, Numbers::AreNames) {
                todo.push(other);
            }
            let froms = self.froms(index);
            for from in self.collect(froms).unwrap_or_default() {
                let refused = self.refuse_later_stage(&from, index);
                self.collect(refused);
                if let Name::Stage(other) = self.name(&from.name, index, from.numbers) {
                    todo.push(other);
                }
            }
        }
        needed
    }

    /// A stage can only be copied from below it; a name that a later stage has is surely meant to be that one.
    fn refuse_later_stage(&self, from: &From, index: usize) -> Result<()> {
        let name = &from.name;
        if matches!(self.name(name, index, from.numbers), Name::Stage(_)) || self.context_for(name).is_some()
        {
            return Ok(());
        }
        let stages = &self.source.tree.stages;
        if let Some(found) =
            self.stage_numbers.get(&name.to_ascii_lowercase()).and_then(|all| all.last().copied())
        {
            let whom = if found == index { "itself" } else { "a later stage" };
            let (label, verb) = (self.stage_label(index), from.verb);
            return Err(Error::input(format!("stage `{label}` {verb} from {whom}, `{name}`"))
                .at(Some(from.place.clone()))
                .hint("a stage can only use the stages above it"));
        }
        match name.parse::<usize>() {
            Ok(number) if from.numbers == Numbers::AreStages && number >= index => {
                Err(Error::input(format!("there is no stage {number} above this one"))
                    .at(Some(from.place.clone()))
                    .hint(format!("stages are counted from 0, and the file has {} of them", stages.len())))
            }
            _ => Ok(()),
        }
    }

    /// Collects every name that is known to be needed, so that all are resolved at once.
    pub(super) fn want_names(&mut self, needed: &BTreeSet<usize>) -> Result<()> {
        for &index in needed {
            let platform = self.stage_platform(index)?;
            let from = &self.source.tree.stages[index].from.instruction.image;
            let place = self.source.place(from.span);
            if let Some(name) = self.stand_in(index).map(str::to_owned) {
                self.want(&name, &platform, &place);
                continue;
            }
            if let Name::Other(name) = self.name(&self.base(index)?, index, Numbers::AreNames) {
                self.want(&name, &platform, &place);
            }
            for from in self.froms(index)? {
                if let Name::Other(name) = self.name(&from.name, index, from.numbers) {
                    self.want(&name, &self.request.target_platform(), &from.place);
                }
            }
        }
        Ok(())
    }

    fn want(&mut self, name: &str, platform: &Platform, place: &Place) {
        let key = pin_key(name, platform);
        let asked = self.wanted.iter().any(|w| pin_key(&w.name, &w.platform) == key);
        if name == "scratch" || self.pins.contains_key(&key) || asked {
            return;
        }
        // A generated file may have very many stages, of which nobody misspelt one.
        let stages: Vec<&str> = self.stage_numbers.keys().take(MOST_STAGES).map(String::as_str).collect();
        let similar = kiln_dockerfile::suggest(name, &stages).map(str::to_owned);
        self.wanted.push(Wanted {
            name: name.to_owned(),
            ask: Ask::Name,
            platform: platform.clone(),
            place: Some(place.clone()),
            similar,
        });
    }

    pub(super) fn stage_names(&self) -> Vec<&str> {
        let stages = self.source.tree.stages.iter();
        stages.filter_map(|s| s.name.as_ref().map(|n| n.value.as_str())).collect()
    }

    pub(super) fn stage_label(&self, index: usize) -> String {
        let stage = &self.source.tree.stages[index];
        stage.name.as_ref().map_or_else(|| format!("stage-{index}"), |n| n.value.clone())
    }
}

/// Returns the names that an instruction takes files from.
fn named(statement: &Statement) -> impl Iterator<Item = Named<'_>> {
    let copied = match &statement.instruction {
        Instruction::Copy(copy) => copy.from.as_ref(),
        _ => None,
    };
    copied.map(Named::copy).into_iter().chain(super::mounts::names(statement))
}

fn parse_trigger(text: &str, place: &Place) -> Result<Statement> {
    let (statement, diagnostics) = kiln_dockerfile::parse_trigger(text);
    let fault = diagnostics.into_iter().find(kiln_dockerfile::Diagnostic::is_error);
    match (statement, fault) {
        (Some(statement), None) => Ok(statement),
        (_, fault) => {
            let why = fault.map_or_else(|| "not an instruction".to_owned(), |d| d.message);
            Err(Error::input(format!("the base has an ONBUILD trigger that cannot run: `{text}`: {why}"))
                .at(Some(place.clone())))
        }
    }
}
