//! Stages to vertices: which stages are needed, in which order, and what names stand for.

use std::collections::{BTreeMap, BTreeSet};

use kiln_dockerfile::expand::expand_word;
use kiln_dockerfile::instruction::Instruction;
use kiln_dockerfile::{Spanned, Statement};
use kiln_oci::{ImageConfig, Platform};

use super::stage::StageState;
use super::vars::{Vars, platform_args};
use super::{Lowered, Pin, Pins, Source, Wanted, pin_key};
use crate::error::{Error, Place, Result};
use crate::graph::{CopyFrom, ImageSpec, Meta, Op, Plan, Vertex, VertexId};
use crate::request::BuildRequest;

/// The `PATH` of an image that has none, as in BuildKit.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Turns a Dockerfile into a plan, or says which names have to be resolved first.
///
/// # Errors
/// When the Dockerfile asks for something that cannot be: an unknown stage, a bad variable, a cycle.
pub fn lower(request: &BuildRequest, source: &Source, pins: &Pins) -> Result<Lowered> {
    let mut lowering = Lowering {
        request,
        source,
        pins,
        plan: Plan::default(),
        wanted: Vec::new(),
        images: BTreeMap::new(),
        done: BTreeMap::new(),
        globals: Vars::default(),
        global_args: Vars::default(),
    };
    lowering.read_globals()?;
    let target = lowering.target()?;
    let needed = lowering.needed(target)?;
    lowering.want_known_names(&needed)?;
    if !lowering.wanted.is_empty() {
        return Ok(Lowered::Wanted(lowering.wanted));
    }
    for index in needed {
        let Some(state) = lowering.stage(index)? else {
            return Ok(Lowered::Wanted(lowering.wanted));
        };
        lowering.done.insert(index, state);
    }
    let state =
        lowering.done.remove(&target).ok_or_else(|| Error::internal("the target stage was not lowered"))?;
    lowering.plan.images.push(lowering.image(state));
    Ok(Lowered::Plan(lowering.plan))
}

/// Work in progress.
pub(super) struct Lowering<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) source: &'a Source,
    pins: &'a Pins,
    pub(super) plan: Plan,
    wanted: Vec<Wanted>,
    /// Vertices of base images by name and platform, so that equal ones are one.
    images: BTreeMap<(String, String), VertexId>,
    done: BTreeMap<usize, StageState>,
    /// Platform variables, visible in FROM and, once declared, in stages.
    globals: Vars,
    /// ARGs before the first FROM.
    pub(super) global_args: Vars,
}

/// What `--from=` or FROM names.
enum Name {
    Stage(usize),
    Other(String),
}

impl Lowering<'_> {
    fn read_globals(&mut self) -> Result<()> {
        let stages = &self.source.tree.stages;
        let last = stages.last().and_then(|s| s.name.as_ref()).map_or("default", |n| n.value.as_str());
        let stage = self.request.target.as_deref().unwrap_or(last);
        for (name, value) in platform_args(&self.request.platform, &Platform::host(), stage) {
            let value = self.request.build_args.get(&name).unwrap_or(&value).clone();
            self.globals.set(&name, &value);
        }
        let args: Vec<_> =
            self.source.tree.global_args.iter().flat_map(|s| s.instruction.declarations.clone()).collect();
        for declared in args {
            let name = &declared.name.value;
            let value = match (self.request.build_args.get(name), &declared.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand_global(default)?),
                (None, None) => self.globals.get(name).map(str::to_owned),
            };
            if let Some(value) = value {
                self.global_args.set(name, &value);
            }
        }
        Ok(())
    }

    /// Expands with the variables that FROM sees.
    fn expand_global(&self, word: &Spanned<String>) -> Result<String> {
        let lookup = |name: &str| self.global(name).map(str::to_owned);
        let escape = self.source.tree.directives.escape();
        expand_word(&word.value, escape, &lookup)
            .map(|e| e.text)
            .map_err(|e| self.source.error(e.at(word.span)))
    }

    /// Returns a global ARG or a platform variable.
    pub(super) fn global(&self, name: &str) -> Option<&str> {
        self.global_args.get(name).or_else(|| self.globals.get(name))
    }

    fn target(&self) -> Result<usize> {
        let tree = &self.source.tree;
        let last =
            tree.stages.len().checked_sub(1).ok_or_else(|| Error::input("the Dockerfile has no stage"))?;
        let Some(target) = &self.request.target else { return Ok(last) };
        if let Some((index, _)) = tree.stage(target) {
            return Ok(index);
        }
        if let Some(index) = target.parse::<usize>().ok().filter(|i| *i <= last) {
            return Ok(index);
        }
        let names: Vec<&str> =
            tree.stages.iter().filter_map(|s| s.name.as_ref().map(|n| n.value.as_str())).collect();
        let error = Error::input(format!("`{}` has no stage called `{target}`", self.source.name));
        Err(match kiln_dockerfile::suggest(target, &names) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None if names.is_empty() => error.hint("no stage has a name; write `FROM image AS name`"),
            None => error.hint(format!("the stages are: {}", names.join(", "))),
        })
    }

    /// Finds out what a name means in stage `index`: a named context, an earlier stage, or an image.
    fn name(&self, name: &str, index: usize, numbers: bool) -> Name {
        if self.request.named_contexts.contains_key(&name.to_ascii_lowercase()) {
            return Name::Other(name.to_owned());
        }
        let stages = self.source.tree.stages.iter().enumerate().take(index).rev();
        let called =
            |s: &kiln_dockerfile::Stage| s.name.as_ref().is_some_and(|n| n.value.eq_ignore_ascii_case(name));
        if let Some((found, _)) = stages.into_iter().find(|(_, s)| called(s)) {
            return Name::Stage(found);
        }
        match name.parse::<usize>() {
            Ok(number) if numbers && number < index => Name::Stage(number),
            _ => Name::Other(name.to_owned()),
        }
    }

    /// Returns the stages that `target` needs, in the order of the file.
    fn needed(&self, target: usize) -> Result<BTreeSet<usize>> {
        let mut needed = BTreeSet::new();
        let mut todo = vec![target];
        while let Some(index) = todo.pop() {
            if !needed.insert(index) {
                continue;
            }
            let stage = &self.source.tree.stages[index];
            let base = self.expand_global(&stage.from.instruction.image)?;
            if let Name::Stage(other) = self.name(&base, index, false) {
                todo.push(other);
            }
            for from in stage.instructions.iter().filter_map(copy_from) {
                self.refuse_later_stage(from, index)?;
                if let Name::Stage(other) = self.name(&from.value, index, true) {
                    todo.push(other);
                }
            }
        }
        Ok(needed)
    }

    /// A stage can only be copied from below it; a name that a later stage has is surely meant to be that one.
    fn refuse_later_stage(&self, from: &Spanned<String>, index: usize) -> Result<()> {
        let stages = &self.source.tree.stages;
        if matches!(self.name(&from.value, index, true), Name::Stage(_))
            || self.request.named_contexts.contains_key(&from.value.to_ascii_lowercase())
        {
            return Ok(());
        }
        let place = || Some(self.source.place(from.span));
        if let Some((found, _)) = self.source.tree.stage(&from.value) {
            let what = if found == index { "copies from itself" } else { "copies from a later stage" };
            return Err(Error::input(format!("stage {} {what}, `{}`", self.stage_label(index), from.value))
                .at(place())
                .hint("a stage can only use the stages above it"));
        }
        match from.value.parse::<usize>() {
            Ok(number) if number >= index => {
                Err(Error::input(format!("there is no stage {number} above this one"))
                    .at(place())
                    .hint(format!("stages are counted from 0, and the file has {} of them", stages.len())))
            }
            _ => Ok(()),
        }
    }

    /// Collects every name that is known to be needed, so that all are resolved at once.
    fn want_known_names(&mut self, needed: &BTreeSet<usize>) -> Result<()> {
        for &index in needed {
            let stage = self.source.tree.stages[index].clone();
            let base = self.expand_global(&stage.from.instruction.image)?;
            let platform = self.stage_platform(index)?;
            if base.is_empty() {
                let written = &stage.from.instruction.image;
                return Err(Error::input(format!("base name `{}` is empty after its variables are replaced", written.value))
                    .at(Some(self.source.place(written.span)))
                    .hint("give the variable a default (`ARG NAME=value` above the first FROM) or pass `--build-arg`"));
            }
            if let Name::Other(name) = self.name(&base, index, false) {
                self.want(&name, &platform, Some(self.source.place(stage.from.instruction.image.span)));
            }
            for from in stage.instructions.iter().filter_map(copy_from) {
                if let Name::Other(name) = self.name(&from.value, index, true) {
                    self.want(&name, &self.request.platform.clone(), Some(self.source.place(from.span)));
                }
            }
        }
        Ok(())
    }

    fn want(&mut self, name: &str, platform: &Platform, place: Option<Place>) {
        let key = pin_key(name, platform);
        let asked = self.wanted.iter().any(|w| pin_key(&w.name, &w.platform) == key);
        if name != "scratch" && !self.pins.contains_key(&key) && !asked {
            self.wanted.push(Wanted { name: name.to_owned(), platform: platform.clone(), place });
        }
    }

    fn stage_platform(&self, index: usize) -> Result<Platform> {
        let Some(written) = &self.source.tree.stages[index].from.instruction.platform else {
            return Ok(self.request.platform.clone());
        };
        let text = self.expand_global(written)?;
        if text.is_empty() {
            return Ok(self.request.platform.clone());
        }
        text.parse().map_err(|e: kiln_oci::PlatformError| {
            Error::input(e.to_string()).at(Some(self.source.place(written.span)))
        })
    }

    fn stage_label(&self, index: usize) -> String {
        let stage = &self.source.tree.stages[index];
        stage.name.as_ref().map_or_else(|| format!("stage-{index}"), |n| n.value.clone())
    }

    /// Lowers one stage; `None` when a trigger needs a name that has no pin yet.
    fn stage(&mut self, index: usize) -> Result<Option<StageState>> {
        let stage = self.source.tree.stages[index].clone();
        let base = self.expand_global(&stage.from.instruction.image)?;
        if let Some(after) = stage.from.instruction.after.first() {
            return Err(super::stage::unsupported("FROM --after", &self.source.place(after.span)));
        }
        let platform = self.stage_platform(index)?;
        let place = self.source.place(stage.from.instruction.image.span);
        let mut state = match self.name(&base, index, false) {
            Name::Stage(other) => {
                let parent =
                    self.done.get(&other).ok_or_else(|| Error::internal("a stage came before its base"))?;
                parent.child()
            }
            Name::Other(name) => self.base_state(&name, platform, &place)?,
        };
        let label = self.stage_label(index);
        let multi = self.source.tree.stages.len() > 1 || stage.name.is_some();
        let triggers = std::mem::take(&mut state.config.config.on_build);
        let mut statements = Vec::new();
        for trigger in &triggers {
            statements.push((self.trigger(trigger, &place)?, true));
        }
        statements.extend(stage.instructions.iter().map(|s| (s.clone(), false)));
        for (statement, _) in statements.iter().filter(|(_, trigger)| *trigger) {
            let Some(from) = copy_from(statement) else { continue };
            if let Name::Other(name) = self.name(&from.value, index, true) {
                self.want(&name, &self.request.platform.clone(), Some(place.clone()));
            }
        }
        if !self.wanted.is_empty() {
            return Ok(None);
        }
        let total = 1 + statements.iter().filter(|(s, _)| makes_layer(&s.instruction)).count();
        state.begin(if multi { label } else { String::new() }, total);
        for (statement, trigger) in &statements {
            let place = if *trigger { place.clone() } else { self.source.place(statement.span) };
            super::stage::instruction(self, &mut state, statement, index, &place)?;
        }
        Ok(Some(state))
    }

    fn trigger(&self, text: &str, place: &Place) -> Result<Statement> {
        let (statement, diagnostics) = kiln_dockerfile::parse_trigger(text);
        let fault = diagnostics.into_iter().find(kiln_dockerfile::Diagnostic::is_error);
        match (statement, fault) {
            (Some(statement), None) => Ok(statement),
            (_, fault) => {
                let why = fault.map_or_else(|| "not an instruction".to_owned(), |d| d.message);
                Err(Error::input(format!(
                    "the base image has an ONBUILD trigger that cannot run: `{text}`: {why}"
                ))
                .at(Some(place.clone())))
            }
        }
    }

    fn base_state(&mut self, name: &str, platform: Platform, place: &Place) -> Result<StageState> {
        if name == "scratch" {
            let mut config = ImageConfig::default();
            config.config.set_env("PATH", DEFAULT_PATH);
            config.config.working_dir = "/".to_owned();
            let vertex = self.image_vertex("scratch", &platform, Op::Scratch, place);
            return Ok(StageState::new(vertex, config, platform));
        }
        match self.pins.get(&pin_key(name, &platform)) {
            Some(Pin::Image(base)) => {
                let base = base.clone();
                let config = inherited(&base.config);
                let found = base.platform.clone();
                let vertex = self.image_vertex(name, &platform, Op::Image(base), place);
                Ok(StageState::new(vertex, config, found))
            }
            Some(Pin::Directory(_)) => {
                Err(Error::input(format!("`{name}` is a directory, and FROM needs an image"))
                    .at(Some(place.clone()))
                    .hint(format!("copy its files with `COPY --from={name} …`")))
            }
            None => Err(Error::internal(format!("no pin for `{name}`")).at(Some(place.clone()))),
        }
    }

    fn image_vertex(&mut self, name: &str, platform: &Platform, op: Op, place: &Place) -> VertexId {
        let key = pin_key(name, platform);
        if let Some(&vertex) = self.images.get(&key) {
            return vertex;
        }
        let title = match &op {
            Op::Image(base) => format!("FROM {name} ({})", base.digest.short()),
            _ => format!("FROM {name}"),
        };
        let vertex = self.vertex(op, None, title, Some(place.clone()));
        self.images.insert(key, vertex);
        vertex
    }

    pub(super) fn vertex(
        &mut self,
        op: Op,
        parent: Option<VertexId>,
        title: String,
        place: Option<Place>,
    ) -> VertexId {
        self.plan.vertices.push(Vertex { op, parent, meta: Meta { title, place } });
        self.plan.vertices.len() - 1
    }

    /// Returns what `--from=` stands for in stage `index`.
    pub(super) fn copy_source(
        &mut self,
        from: Option<&Spanned<String>>,
        index: usize,
        place: &Place,
    ) -> Result<CopyFrom> {
        let Some(from) = from else { return Ok(CopyFrom::Context(String::new())) };
        match self.name(&from.value, index, true) {
            Name::Stage(stage) => {
                let state =
                    self.done.get(&stage).ok_or_else(|| Error::internal("a stage came before its source"))?;
                Ok(CopyFrom::Vertex(state.vertex))
            }
            Name::Other(name) => {
                let platform = self.request.platform.clone();
                match self.pins.get(&pin_key(&name, &platform)) {
                    Some(Pin::Directory(_)) => Ok(CopyFrom::Context(name.to_ascii_lowercase())),
                    Some(Pin::Image(base)) => {
                        let op = Op::Image(base.clone());
                        Ok(CopyFrom::Vertex(self.image_vertex(&name, &platform, op, place)))
                    }
                    None if name == "scratch" => {
                        Ok(CopyFrom::Vertex(self.image_vertex("scratch", &platform, Op::Scratch, place)))
                    }
                    None => Err(Error::internal(format!("no pin for `{name}`")).at(Some(place.clone()))),
                }
            }
        }
    }

    fn image(&self, state: StageState) -> ImageSpec {
        let mut config = state.config;
        config.config.labels.extend(self.request.labels.clone());
        ImageSpec { rootfs: state.vertex, config, history: state.history, platform: state.platform }
    }
}

/// Returns what a child inherits of a base's config: everything but the fields that describe how Docker made it.
fn inherited(base: &ImageConfig) -> ImageConfig {
    let mut config = base.clone();
    for key in [
        "container",
        "container_config",
        "docker_version",
        "id",
        "parent",
        "throwaway",
        "moby.buildkit.buildinfo.v1",
        "moby.buildkit.cache.v0",
    ] {
        config.other.remove(key);
    }
    for key in [
        "Hostname",
        "Domainname",
        "AttachStdin",
        "AttachStdout",
        "AttachStderr",
        "Tty",
        "OpenStdin",
        "StdinOnce",
        "Image",
    ] {
        config.config.other.remove(key);
    }
    if config.config.env_value("PATH").is_none() {
        config.config.set_env("PATH", DEFAULT_PATH);
    }
    config
}

/// Returns the operand of `--from=` of an instruction that has one.
fn copy_from(statement: &Statement) -> Option<&Spanned<String>> {
    match &statement.instruction {
        Instruction::Copy(copy) => copy.from.as_ref(),
        _ => None,
    }
}

fn makes_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}
