//! Which stage is built from which, as far as it is known without asking anybody.

use std::collections::{BTreeMap, BTreeSet};

use crate::expand::{Expanded, expand_word};
use crate::instruction::Instruction;
use crate::parser::{Dockerfile, Stage};
use crate::source::Spanned;

use super::{LintInput, Scope};

/// What a stage starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// An earlier stage.
    Stage(usize),
    /// Nothing.
    Scratch,
    /// Something outside of the file: an image, or what `--build-context` gives.
    Image {
        /// The name with variables replaced.
        name: String,
        /// The platform with variables replaced, where one is written.
        platform: Option<String>,
    },
    /// Unknown, because the name is empty or has a fault.
    Unknown,
}

/// The stages of a file and what they need.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// What each stage starts from.
    pub bases: Vec<Base>,
    /// Whether each stage is looked into.
    pub needed: Vec<bool>,
    /// The stage to build.
    pub target: Option<usize>,
    /// Whether the layers of each stage are in the result.
    pub(super) exported: Vec<bool>,
    /// Whether another stage starts from each stage or copies out of it.
    pub(super) used: Vec<bool>,
    /// The variables that FROM sees.
    pub(crate) from_vars: BTreeMap<String, String>,
    /// The names of the ARGs above the first FROM.
    pub(super) declared: BTreeSet<String>,
}

impl Graph {
    /// Reads the stages.
    #[must_use]
    pub fn new(tree: &Dockerfile, input: &LintInput<'_>) -> Self {
        let mut graph = Self { from_vars: from_vars(tree, input, Some(input.build_args)), ..Self::default() };
        let names = tree.global_args.iter().flat_map(|arg| &arg.instruction.declarations);
        graph.declared = names.map(|declared| declared.name.value.clone()).collect();
        let mut stages = Names { seen: BTreeMap::new(), contexts: input.contexts };
        let mut uses: Vec<Vec<usize>> = Vec::new();
        for (index, stage) in tree.stages.iter().enumerate() {
            let base = graph.base(tree, stage, &stages);
            let mut used: Vec<usize> = copied(stage).filter_map(|name| stages.find(name, index)).collect();
            used.extend(match base {
                Base::Stage(other) => Some(other),
                _ => None,
            });
            graph.bases.push(base);
            uses.push(used);
            if let Some(name) = &stage.name {
                stages.seen.insert(name.value.clone(), index);
            }
        }
        graph.target = target(tree, input.target, &stages);
        graph.reach(&uses, input);
        graph
    }

    fn base(&self, tree: &Dockerfile, stage: &Stage, stages: &Names<'_>) -> Base {
        let from = &stage.from.instruction;
        let Some(name) = self.expand(tree, &from.image).filter(|found| !found.text.is_empty()) else {
            return Base::Unknown;
        };
        let platform = from.platform.as_ref().and_then(|word| self.expand(tree, word));
        let platform = platform.map(|found| found.text).filter(|text| !text.is_empty());
        if stages.contexts.contains(&name.text.to_ascii_lowercase()) {
            return Base::Image { name: name.text, platform };
        }
        if let Some(other) = stages.seen.get(&name.text.to_ascii_lowercase()) {
            return Base::Stage(*other);
        }
        if name.text == "scratch" { Base::Scratch } else { Base::Image { name: name.text, platform } }
    }

    /// Expands a word of FROM.
    pub(crate) fn expand(&self, tree: &Dockerfile, word: &Spanned<String>) -> Option<Expanded> {
        let lookup = |name: &str| self.from_vars.get(name).cloned();
        expand_word(&word.value, tree.directives.escape(), &lookup).ok()
    }

    fn reach(&mut self, uses: &[Vec<usize>], input: &LintInput<'_>) {
        let count = uses.len();
        self.needed = vec![input.scope == Scope::Check && input.target.is_none(); count];
        self.exported = vec![false; count];
        self.used = vec![false; count];
        for other in uses.iter().flatten() {
            set(&mut self.used, *other);
        }
        let mut todo: Vec<usize> = self.target.into_iter().collect();
        let mut reached = vec![false; count];
        while let Some(index) = todo.pop() {
            if set(&mut reached, index) {
                continue;
            }
            set(&mut self.needed, index);
            todo.extend(uses.get(index).into_iter().flatten());
        }
        let mut next = self.target;
        while let Some(index) = next {
            set(&mut self.exported, index);
            next = match self.bases.get(index) {
                Some(Base::Stage(other)) => Some(*other),
                _ => None,
            };
        }
    }

    /// Tells whether a stage is looked into.
    #[must_use]
    pub fn is_needed(&self, index: usize) -> bool {
        Self::is(&self.needed, index)
    }

    pub(super) fn is(flags: &[bool], index: usize) -> bool {
        flags.get(index).copied().unwrap_or(false)
    }
}

/// Sets a flag and returns what it was.
fn set(flags: &mut [bool], index: usize) -> bool {
    flags.get_mut(index).is_some_and(|flag| std::mem::replace(flag, true))
}

/// The names of the stages so far.
struct Names<'a> {
    seen: BTreeMap<String, usize>,
    contexts: &'a BTreeSet<String>,
}

impl Names<'_> {
    /// Finds what `--from=` of stage `index` means, when that is a stage.
    fn find(&self, name: &str, index: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        if self.contexts.contains(&lower) {
            return None;
        }
        self.seen.get(&lower).copied().or_else(|| name.parse().ok().filter(|number| *number < index))
    }
}

/// The names that a stage takes files from.
fn copied(stage: &Stage) -> impl Iterator<Item = &str> {
    stage.instructions.iter().flat_map(|statement| {
        let (copy, mounts) = match &statement.instruction {
            Instruction::Copy(copy) => (copy.from.as_ref(), [].as_slice()),
            Instruction::Run(run) => (None, run.mounts.as_slice()),
            _ => (None, [].as_slice()),
        };
        let mounted = mounts.iter().filter_map(|mount| mount.option("from"));
        copy.into_iter().chain(mounted).map(|from| from.value.as_str())
    })
}

fn target(tree: &Dockerfile, wanted: Option<&str>, stages: &Names<'_>) -> Option<usize> {
    let last = tree.stages.len().checked_sub(1)?;
    let Some(name) = wanted else { return Some(last) };
    let named = stages.seen.get(&name.to_ascii_lowercase()).copied();
    named.or_else(|| name.parse().ok().filter(|number| *number <= last))
}

/// Returns the variables that FROM sees, with the defaults of ARG where no value is given.
pub(super) fn from_vars(
    tree: &Dockerfile,
    input: &LintInput<'_>,
    given: Option<&BTreeMap<String, String>>,
) -> BTreeMap<String, String> {
    let mut vars = input.globals.clone();
    for declared in tree.global_args.iter().flat_map(|arg| &arg.instruction.declarations) {
        let name = &declared.name.value;
        let default = |vars: &BTreeMap<String, String>| {
            let word = &declared.default.as_ref()?.value;
            let lookup = |name: &str| vars.get(name).cloned();
            Some(expand_word(word, tree.directives.escape(), &lookup).ok()?.text)
        };
        if let Some(value) = given.and_then(|given| given.get(name)).cloned().or_else(|| default(&vars)) {
            vars.insert(name.clone(), value);
        }
    }
    vars
}
