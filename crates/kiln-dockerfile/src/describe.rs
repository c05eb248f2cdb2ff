//! What a file offers: its targets, and what one of them can be given.
//!
//! [`targets`] lists the stages, [`outline`] the arguments, secrets, SSH sockets and caches of one of them. Comments
//! that begin with a name describe it: `# base is what the others start from`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::expand::expand_word;
use crate::instruction::{Arg, Instruction, ResolvedMount, Run};
use crate::lint::{Base, Graph, LintInput};
use crate::parser::{Dockerfile, Statement};

/// A stage that can be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What the comment above FROM says.
    pub description: Option<String>,
    /// What it starts from, as written.
    pub base: String,
    /// For which platform, as written.
    pub platform: Option<String>,
    /// Whether it is what a build without `--target` builds.
    pub default: bool,
    /// The lines of its FROM.
    pub lines: RangeInclusive<usize>,
}

/// What a target can be given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outline {
    /// The name of the stage.
    pub name: Option<String>,
    /// What the comment above FROM says.
    pub description: Option<String>,
    /// Build arguments that have an effect, in the order of the file.
    pub arguments: Vec<Argument>,
    /// Secrets that commands see.
    pub secrets: Vec<Given>,
    /// SSH sockets that commands see.
    pub ssh: Vec<Given>,
    /// Caches that commands see.
    pub caches: Vec<Given>,
}

/// A build argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What the comment above ARG says.
    pub description: Option<String>,
    /// What is given for it, or its default; empty when there is neither.
    pub value: String,
    /// The lines of its ARG.
    pub lines: RangeInclusive<usize>,
}

/// Something that a command is given by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// The name.
    pub name: String,
    /// Whether the command fails without it.
    pub required: bool,
    /// The lines of the first RUN that names it.
    pub lines: RangeInclusive<usize>,
}

/// Lists the stages in the order of the file.
#[must_use]
pub fn targets(tree: &Dockerfile) -> Vec<Target> {
    let last = tree.stages.len().saturating_sub(1);
    let target = |(index, stage): (usize, &crate::Stage)| Target {
        name: stage.name.as_ref().map(|name| name.value.clone()),
        description: stage.description().map(str::to_owned),
        base: stage.from.instruction.image.value.clone(),
        platform: stage.from.instruction.platform.as_ref().map(|platform| platform.value.clone()),
        default: index == last,
        lines: stage.from.lines.clone(),
    };
    tree.stages.iter().enumerate().map(target).collect()
}

/// Lists what the target can be given; none when there is no such target.
#[must_use]
pub fn outline(tree: &Dockerfile, input: &LintInput<'_>) -> Option<Outline> {
    let graph = Graph::new(tree, input);
    let target = tree.stages.get(graph.target?)?;
    let mut reader =
        Reader { tree, input, graph: &graph, names: BTreeSet::new(), outline: Outline::default() };
    reader.outline.name = target.name.as_ref().map(|name| name.value.clone());
    reader.outline.description = target.description().map(str::to_owned);
    let globals = reader.globals();
    reader.stages(&globals);
    let mut outline = reader.outline;
    outline.arguments.sort_by_key(|argument| *argument.lines.start());
    Some(outline)
}

struct Reader<'a> {
    tree: &'a Dockerfile,
    input: &'a LintInput<'a>,
    graph: &'a Graph,
    /// The names of the arguments found so far.
    names: BTreeSet<String>,
    outline: Outline,
}

/// An ARG above the first FROM, with the others that its default is made of.
struct Global {
    argument: Argument,
    uses: BTreeSet<String>,
}

impl Reader<'_> {
    fn globals(&self) -> BTreeMap<String, Global> {
        let mut globals = BTreeMap::new();
        let mut vars = self.input.globals.clone();
        for statement in &self.tree.global_args {
            for argument in arguments(statement, &statement.instruction) {
                let default = argument.1.map(|word| expand(self.tree, word, &vars));
                let (value, uses) = default.unwrap_or_default();
                let given = self.input.build_args.get(&argument.0.name);
                let uses = if given.is_some() { BTreeSet::new() } else { uses };
                let value = given.cloned().unwrap_or(value);
                if given.is_some() || argument.1.is_some() {
                    vars.insert(argument.0.name.clone(), value.clone());
                }
                let argument = Argument { value, ..argument.0 };
                globals.insert(argument.name.clone(), Global { argument, uses });
            }
        }
        globals
    }

    /// Reads the stages that the target needs; what the target itself says about a name comes first.
    fn stages(&mut self, globals: &BTreeMap<String, Global>) {
        let mut vars: BTreeMap<usize, BTreeMap<String, String>> = BTreeMap::new();
        let mut per_stage: Vec<Vec<Argument>> = Vec::new();
        for (index, stage) in self.tree.stages.iter().enumerate() {
            if !self.graph.is_needed(index) {
                per_stage.push(Vec::new());
                continue;
            }
            let from = &stage.from.instruction;
            for word in [Some(&from.image), from.platform.as_ref()].into_iter().flatten() {
                if let Some(found) = self.graph.expand(self.tree, word) {
                    self.use_globals(globals, found.used.iter().chain(&found.undefined));
                }
            }
            let inherited = match self.graph.bases.get(index) {
                Some(Base::Stage(parent)) => vars.get(parent).cloned(),
                _ => None,
            };
            let mut own = inherited.unwrap_or_default();
            let mut declared = Vec::new();
            for statement in &stage.instructions {
                self.instruction(statement, &mut own, globals, &mut declared);
            }
            per_stage.push(declared);
            vars.insert(index, own);
        }
        for argument in per_stage.into_iter().rev().flatten() {
            self.found(argument);
        }
    }

    fn instruction(
        &mut self,
        statement: &Statement,
        vars: &mut BTreeMap<String, String>,
        globals: &BTreeMap<String, Global>,
        declared: &mut Vec<Argument>,
    ) {
        match &statement.instruction {
            Instruction::Env(env) => {
                let new = env.pairs.iter().map(|pair| {
                    (expand(self.tree, &pair.key.value, vars).0, expand(self.tree, &pair.value.value, vars).0)
                });
                let new: Vec<_> = new.collect();
                vars.extend(new);
            }
            Instruction::Arg(arg) => {
                for (argument, default) in arguments(statement, arg) {
                    let name = argument.name.clone();
                    let given = self.input.build_args.get(&name);
                    // A name without a value of its own is the one above the first FROM, or the platform's.
                    let outer =
                        self.graph.from_vars.get(&name).filter(|_| given.is_none() && default.is_none());
                    if let Some(value) = outer {
                        vars.insert(name.clone(), value.clone());
                        self.use_globals(globals, [&name].into_iter());
                        continue;
                    }
                    let default = default.map(|word| expand(self.tree, word, vars).0);
                    let value = given.cloned().or(default);
                    if let Some(value) = &value {
                        vars.insert(name, value.clone());
                    }
                    declared.push(Argument { value: value.unwrap_or_default(), ..argument });
                }
            }
            Instruction::Run(run) => self.mounts(statement, run, vars),
            _ => {}
        }
    }

    /// Lists arguments above the first FROM, and those that their defaults use.
    fn use_globals<'n>(
        &mut self,
        globals: &BTreeMap<String, Global>,
        names: impl Iterator<Item = &'n String>,
    ) {
        let mut todo: Vec<String> = names.cloned().collect();
        while let Some(name) = todo.pop() {
            let Some(global) = globals.get(&name).filter(|_| !self.names.contains(&name)) else { continue };
            todo.extend(global.uses.iter().cloned());
            self.found(global.argument.clone());
        }
    }

    fn found(&mut self, argument: Argument) {
        if self.names.insert(argument.name.clone()) {
            self.outline.arguments.push(argument);
        }
    }

    fn mounts(&mut self, statement: &Statement, run: &Run, vars: &BTreeMap<String, String>) {
        let escape = self.tree.directives.escape();
        let lookup = |name: &str| vars.get(name).cloned();
        for mount in &run.mounts {
            let resolved = mount.resolve(&mut |value| Ok(expand_word(value, escape, &lookup)?.text));
            let (list, name, required) = match resolved {
                Ok(ResolvedMount::Secret { id, required, .. }) => (&mut self.outline.secrets, id, required),
                Ok(ResolvedMount::Ssh { id, required, .. }) => {
                    (&mut self.outline.ssh, id.unwrap_or_else(|| "default".to_owned()), required)
                }
                Ok(ResolvedMount::Cache(cache)) => {
                    let target = cache.target.as_deref().map(crate::ignore::clean_path);
                    (&mut self.outline.caches, cache.id.or(target).unwrap_or_default(), false)
                }
                _ => continue,
            };
            if !list.iter().any(|given| given.name == name) {
                list.push(Given { name, required, lines: statement.lines.clone() });
            }
        }
    }
}

/// The declarations of an ARG with the text of their defaults.
fn arguments<'a, T>(
    statement: &'a Statement<T>,
    arg: &'a Arg,
) -> impl Iterator<Item = (Argument, Option<&'a str>)> {
    arg.declarations.iter().map(|declared| {
        let name = declared.name.value.clone();
        let description = statement.description(&name).map(str::to_owned);
        let lines = statement.lines.clone();
        let default = declared.default.as_ref().map(|default| default.value.as_str());
        (Argument { name, description, value: String::new(), lines }, default)
    })
}

/// Returns the value of a word and the variables in it; a word with a fault is as written.
fn expand(tree: &Dockerfile, word: &str, vars: &BTreeMap<String, String>) -> (String, BTreeSet<String>) {
    match expand_word(word, tree.directives.escape(), &|name| vars.get(name).cloned()) {
        Ok(found) => (found.text, found.used),
        Err(_) => (word.to_owned(), BTreeSet::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lint::{Grammar, Pinning, Policy, Scope};

    fn outline_of(source: &str, target: Option<&str>, given: &[(&str, &str)]) -> Option<Outline> {
        let (tree, diagnostics) = crate::parse(source);
        assert_eq!(diagnostics, []);
        let map =
            |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let input = LintInput {
            policy: &Policy::default(),
            scope: Scope::Target,
            target,
            build_args: &map(given),
            globals: &map(&[("TARGETARCH", "arm64")]),
            contexts: &BTreeSet::new(),
            bases: &BTreeMap::new(),
            ignore: None,
            pinning: Pinning::Free,
            grammar: Grammar { reference: |_| true, platform: |_| None },
        };
        outline(&tree, &input)
    }

    fn arguments_of(source: &str, target: Option<&str>, given: &[(&str, &str)]) -> Vec<(String, String)> {
        let outline = outline_of(source, target, given).unwrap();
        outline.arguments.into_iter().map(|argument| (argument.name, argument.value)).collect()
    }

    const FILE: &str = "\
# VERSION of the tools
ARG VERSION=1.2
ARG IMAGE=tools:$VERSION
ARG UNUSED=x

# build compiles
FROM $IMAGE AS build
# FLAGS for the compiler
ARG FLAGS=-O2 DEBUG
RUN --mount=type=secret,id=key,required --mount=type=cache,target=/cache/ make

# app is what is shipped
FROM scratch AS app
ARG TARGETARCH
ARG NAME=app-$TARGETARCH
COPY --from=build /a /b

FROM scratch AS docs
ARG THEME=dark
RUN --mount=type=ssh --mount=type=secret,id=key make
";

    #[test]
    fn targets_are_listed_with_their_descriptions() {
        let (tree, _) = crate::parse(FILE);
        let found = targets(&tree);
        let names: Vec<_> =
            found.iter().map(|t| (t.name.as_deref(), t.description.as_deref(), t.default)).collect();
        let expect = [
            (Some("build"), Some("compiles"), false),
            (Some("app"), Some("is what is shipped"), false),
            (Some("docs"), None, true),
        ];
        assert_eq!(names, expect);
        assert_eq!((found[0].base.as_str(), found[0].lines.clone()), ("$IMAGE", 7..=7));
    }

    #[test]
    fn arguments_of_a_target_are_those_that_it_needs() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(arguments_of(FILE, None, &[]), [pair("THEME", "dark")]);
        assert_eq!(
            arguments_of(FILE, Some("app"), &[]),
            [
                pair("VERSION", "1.2"),
                pair("IMAGE", "tools:1.2"),
                pair("FLAGS", "-O2"),
                pair("DEBUG", ""),
                pair("NAME", "app-arm64"),
            ]
        );
        // A given image does not use the version.
        let given = [("IMAGE", "mine"), ("DEBUG", "1")];
        let found = arguments_of(FILE, Some("build"), &given);
        assert_eq!(found, [pair("IMAGE", "mine"), pair("FLAGS", "-O2"), pair("DEBUG", "1")]);
        assert!(outline_of(FILE, Some("nothing"), &[]).is_none());
    }

    #[test]
    fn mounts_and_descriptions_are_listed() {
        let app = outline_of(FILE, Some("app"), &[]).unwrap();
        assert_eq!(
            (app.name.as_deref(), app.description.as_deref()),
            (Some("app"), Some("is what is shipped"))
        );
        assert_eq!(app.arguments[0].description.as_deref(), Some("of the tools"));
        assert_eq!(app.arguments[0].lines, 2..=2);
        assert_eq!(app.secrets, [Given { name: "key".to_owned(), required: true, lines: 10..=10 }]);
        assert_eq!(app.caches, [Given { name: "/cache".to_owned(), required: false, lines: 10..=10 }]);
        let docs = outline_of(FILE, None, &[]).unwrap();
        assert_eq!(docs.ssh[0].name, "default");
        assert!(!docs.secrets[0].required);
    }
}
