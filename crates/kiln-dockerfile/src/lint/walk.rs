//! Through the instructions of the stages, in order, with the variables that each of them sees.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::graph::Base;
use super::{Linter, command, copy, layers, variables};
use crate::instruction::Instruction;
use crate::parser::{Stage, Statement};

/// A stage at one of its instructions.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// The variables that are set; shared with the stages that start from this one.
    pub(super) vars: Rc<BTreeMap<String, String>>,
    /// The names that ARG declares, also those without a value.
    pub(super) declared: Rc<BTreeSet<String>>,
    /// The names whose declaration is proposed already.
    pub(super) proposed: BTreeSet<String>,
    /// Whether the base may set variables that nobody knows.
    pub(super) open: bool,
    /// The name of the base that nothing is known of.
    pub(super) base: Option<Rc<str>>,
    /// The working directory, where it is known.
    pub(super) workdir: Option<String>,
    /// Whether this file sets the working directory.
    pub(super) workdir_set: bool,
    /// Whether SHELL, of this file or of the base, names the shell.
    pub(super) has_shell: bool,
    /// Whether the stage has an entry point by now, or may have one from its base.
    pub(super) has_entrypoint: bool,
    /// What earlier instructions of this file put into the image.
    pub(super) made: layers::Made,
}

pub(super) fn check(linter: &mut Linter<'_>) {
    let tree = linter.file.tree;
    // Only a stage that another one starts from is kept, and the last of these takes it.
    let mut heirs: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, base) in linter.graph.bases.iter().enumerate() {
        if let Base::Stage(parent) = base
            && linter.graph.is_needed(index)
        {
            *heirs.entry(*parent).or_default() += 1;
        }
    }
    let mut done: BTreeMap<usize, State> = BTreeMap::new();
    for (index, stage) in tree.stages.iter().enumerate() {
        if !linter.graph.is_needed(index) {
            continue;
        }
        let parent = match linter.graph.bases.get(index) {
            Some(Base::Stage(parent)) => take(*parent, &mut heirs, &mut done),
            _ => None,
        };
        let state = parent.unwrap_or_else(|| start(linter, index, stage));
        let state = walk(linter, index, stage, state);
        if heirs.contains_key(&index) {
            done.insert(index, state);
        }
    }
}

/// The state in which a stage ended, for one that starts from it.
fn take(
    index: usize,
    heirs: &mut BTreeMap<usize, usize>,
    done: &mut BTreeMap<usize, State>,
) -> Option<State> {
    let left = heirs.get_mut(&index)?;
    *left = left.saturating_sub(1);
    if *left == 0 { done.remove(&index) } else { done.get(&index).cloned() }
}

/// The state that a stage begins with which starts from an image or from nothing.
fn start(linter: &Linter<'_>, index: usize, stage: &Stage) -> State {
    let base = linter.graph.bases.get(index);
    let mut vars = BTreeMap::new();
    let mut state = State::default();
    match (base, linter.input.bases.get(&index)) {
        (Some(Base::Scratch), _) => state.workdir = Some("/".to_owned()),
        (_, Some(facts)) => {
            vars.extend(facts.env.iter().cloned());
            state.workdir = Some(if facts.workdir.is_empty() { "/" } else { &facts.workdir }.to_owned());
            state.has_shell = facts.has_shell;
            state.has_entrypoint = facts.has_entrypoint;
        }
        (_, None) => {
            state.open = true;
            state.has_entrypoint = true;
            state.base = Some(stage.from.instruction.image.value.as_str().into());
        }
    }
    vars.entry("PATH".to_owned()).or_default();
    state.vars = Rc::new(vars);
    state
}

fn walk(linter: &mut Linter<'_>, index: usize, stage: &Stage, mut state: State) -> State {
    let mut once = command::Once::new(stage);
    for statement in &stage.instructions {
        visit(linter, index, stage, statement, &mut state, &mut once);
    }
    state
}

fn visit(
    linter: &mut Linter<'_>,
    index: usize,
    stage: &Stage,
    statement: &Statement,
    state: &mut State,
    once: &mut command::Once,
) {
    let mut words = variables::Words::new(linter, stage, statement, state);
    match &statement.instruction {
        Instruction::Arg(arg) => variables::arg(&mut words, arg),
        Instruction::Env(env) => variables::env(&mut words, env),
        Instruction::Label(label) => variables::label(&mut words, label),
        Instruction::Copy(copy) => copy::copy(&mut words, copy),
        Instruction::Add(add) => copy::add(&mut words, add),
        Instruction::Run(run) => {
            variables::run(&mut words, run);
            layers::run(linter, index, statement, run, state);
        }
        Instruction::Expose(expose) => command::expose(&mut words, expose),
        Instruction::Workdir(workdir) => command::workdir(&mut words, workdir),
        Instruction::User(user) => drop(words.word(&user.user)),
        Instruction::StopSignal(stop) => drop(words.word(&stop.signal)),
        Instruction::Volume(volume) => volume.paths.iter().for_each(|path| drop(words.word(path))),
        Instruction::Cmd(cmd) => command::cmd(linter, statement, &cmd.command, state, once),
        Instruction::Entrypoint(entrypoint) => {
            command::entrypoint(linter, statement, &entrypoint.command, state, once);
            state.has_entrypoint = true;
        }
        Instruction::Healthcheck(_) => command::healthcheck(linter, statement, once),
        Instruction::Maintainer(maintainer) => command::maintainer(linter, statement, maintainer),
        Instruction::Shell(_) => state.has_shell = true,
        // A trigger is looked at by nobody until a build runs it.
        Instruction::Onbuild(_) => {}
    }
}
