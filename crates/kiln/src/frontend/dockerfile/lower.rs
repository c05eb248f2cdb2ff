//! Stages to vertices, in the order of the file, with every fault on the way collected.

use std::collections::BTreeMap;

use kiln_dockerfile::instruction::Instruction;
use kiln_oci::Platform;

use super::names::{Name, Numbers};
use super::stage::StageState;
use super::vars::{Vars, platform_args};
use super::{Lowered, Pins, Source, Wanted};
use crate::error::{Error, Place, Result};
use crate::graph::{ImageSpec, Meta, Op, Plan, Vertex, VertexId};
use crate::request::BuildRequest;

/// The `PATH` of an image that has none, as in BuildKit.
pub(super) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Turns a Dockerfile into a plan, or says which names have to be resolved first.
///
/// # Errors
/// When the Dockerfile asks for something that cannot be: an unknown stage, a bad variable, a cycle. All faults
/// that can be seen at this point are reported, the first with the others beside it.
pub fn lower(request: &BuildRequest, source: &Source, pins: &Pins) -> Result<Lowered> {
    let mut lowering = Lowering::new(request, source, pins);
    let done = lowering.file();
    let mut errors = lowering.errors;
    match done {
        Err(error) => errors.push(error),
        Ok(lowered) if errors.is_empty() => return Ok(lowered),
        Ok(_) => {}
    }
    Err(Error::first_of(errors).unwrap_or_else(|| Error::internal("lowering failed without a reason")))
}

/// Work in progress.
pub(super) struct Lowering<'a> {
    pub(super) request: &'a BuildRequest,
    pub(super) source: &'a Source,
    pub(super) pins: &'a Pins,
    pub(super) plan: Plan,
    pub(super) wanted: Vec<Wanted>,
    /// Faults so far; lowering goes on after one, to find the others.
    errors: Vec<Error>,
    /// Vertices of base images by name and platform, so that equal ones are one.
    pub(super) images: BTreeMap<(String, String), VertexId>,
    done: BTreeMap<usize, StageState>,
    /// The root file systems of the stages that are lowered.
    vertices: BTreeMap<usize, VertexId>,
    /// How many stages still start with the state of a stage; the last one takes it.
    heirs: BTreeMap<usize, usize>,
    /// Numbers of the stages by their names in lower case, in ascending order.
    pub(super) stage_numbers: BTreeMap<String, Vec<usize>>,
    /// Platform variables, visible in FROM and, once declared, in stages.
    globals: Vars,
    /// ARGs before the first FROM.
    pub(super) global_args: Vars,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(request: &'a BuildRequest, source: &'a Source, pins: &'a Pins) -> Self {
        let mut lowering = Self {
            request,
            source,
            pins,
            plan: Plan::default(),
            wanted: Vec::new(),
            errors: Vec::new(),
            images: BTreeMap::new(),
            done: BTreeMap::new(),
            vertices: BTreeMap::new(),
            heirs: BTreeMap::new(),
            stage_numbers: BTreeMap::new(),
            globals: Vars::default(),
            global_args: Vars::default(),
        };
        for (number, stage) in source.tree.stages.iter().enumerate() {
            if let Some(name) = &stage.name {
                lowering.stage_numbers.entry(name.value.to_ascii_lowercase()).or_default().push(number);
            }
        }
        lowering.read_globals();
        lowering
    }
}

impl Lowering<'_> {
    fn file(&mut self) -> Result<Lowered> {
        let target = self.target()?;
        self.check_stages();
        let needed = self.needed(target);
        if !self.errors.is_empty() {
            // Nothing is asked for: whoever called reports the errors.
            return Ok(Lowered::Wanted(Vec::new()));
        }
        self.want_names(&needed)?;
        if !self.wanted.is_empty() {
            return Ok(Lowered::Wanted(std::mem::take(&mut self.wanted)));
        }
        self.heirs.insert(target, 1);
        for &index in &needed {
            if let Name::Stage(parent) = self.name(&self.base(index)?, index, Numbers::AreNames) {
                *self.heirs.entry(parent).or_default() += 1;
            }
        }
        for index in needed {
            let state = self.stage(index)?;
            self.vertices.insert(index, state.vertex);
            self.done.insert(index, state);
        }
        // What ADD takes from elsewhere is known only now, when its variables have values.
        if !self.wanted.is_empty() {
            return Ok(Lowered::Wanted(std::mem::take(&mut self.wanted)));
        }
        let state = self.take(target)?;
        let image = self.image(state);
        self.plan.images.push(image);
        Ok(Lowered::Plan(std::mem::take(&mut self.plan)))
    }

    /// Keeps the error of `result` for the report and returns its value if it has one.
    pub(super) fn collect<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.errors.push(error);
                None
            }
        }
    }

    fn read_globals(&mut self) {
        let names = self.stage_names();
        let unnamed = self.source.tree.stages.last().is_none_or(|s| s.name.is_none());
        let last = names.last().filter(|_| !unnamed).map_or("default", |n| n);
        let stage = self.request.target.as_deref().unwrap_or(last).to_owned();
        for (name, value) in platform_args(&self.request.target_platform(), &Platform::host(), &stage) {
            let value = self.request.build_args.get(&name).unwrap_or(&value).clone();
            self.globals.set(&name, &value);
        }
        let source = self.source;
        for declared in source.tree.global_args.iter().flat_map(|s| &s.instruction.declarations) {
            let name = &declared.name.value;
            let value = match (self.request.build_args.get(name), &declared.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => {
                    let expanded = self.expand_global(default).map(|e| e.text);
                    self.collect(expanded)
                }
                (None, None) => self.globals.get(name).map(str::to_owned),
            };
            if let Some(value) = value {
                self.global_args.set(name, &value);
            }
        }
    }

    /// Returns a global ARG or a platform variable.
    pub(super) fn global(&self, name: &str) -> Option<&str> {
        self.global_args.get(name).or_else(|| self.globals.get(name))
    }

    /// Returns the names that FROM sees.
    pub(super) fn global_names(&self) -> Vec<&str> {
        self.global_args.pairs().iter().chain(self.globals.pairs()).map(|(name, _)| name.as_str()).collect()
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
        let names = self.stage_names();
        let error = Error::input(format!("`{}` has no stage called `{target}`", self.source.name));
        Err(match kiln_dockerfile::suggest(target, &names) {
            Some(name) => error.hint(format!("did you mean `{name}`?")),
            None if names.is_empty() => error.hint("no stage has a name; write `FROM image AS name`"),
            None => error.hint(format!("the stages are: {}", names.join(", "))),
        })
    }

    /// Lowers one stage; faults of its instructions are collected.
    pub(super) fn stage(&mut self, index: usize) -> Result<StageState> {
        let stage = &self.source.tree.stages[index];
        let place = self.source.place(stage.from.instruction.image.span);
        let named = stage.name.as_ref().map(|n| n.value.clone());
        if let Some(after) = stage.from.instruction.after.first() {
            let refused = super::stage::unsupported("FROM --after", &self.source.place(after.span));
            self.collect::<()>(Err(refused));
        }
        let platform = self.stage_platform(index)?;
        let stand_in = self.stand_in(index).map(str::to_owned);
        let mut state = if let Some(name) = stand_in {
            self.base_state(&name, platform, &place)?
        } else {
            match self.name(&self.base(index)?, index, Numbers::AreNames) {
                Name::Stage(parent) => self.take(parent)?.child(),
                Name::Other(name) => self.base_state(&name, platform, &place)?,
            }
        };
        let steps = self.steps(index)?;
        state.config.config.on_build.clear();
        let multi = self.source.tree.stages.len() > 1 || named.is_some();
        let label = if multi { self.stage_label(index) } else { String::new() };
        let fresh = named.is_some_and(|name| self.request.is_stage_fresh(&name));
        let total = 1 + steps.iter().filter(|s| makes_layer(&s.statement.instruction)).count();
        state.begin(label, total, fresh);
        for step in steps {
            let done = super::stage::instruction(self, &mut state, &step.statement, index, &step.place);
            self.collect(done);
        }
        Ok(state)
    }

    /// Returns the root file system of stage `index`, once it is lowered.
    pub(super) fn vertex_of(&self, index: usize) -> Option<VertexId> {
        self.vertices.get(&index).copied()
    }

    /// Returns the state in which stage `index` ended; whoever needs it last gets it without a copy.
    fn take(&mut self, index: usize) -> Result<StageState> {
        let left = self.heirs.get_mut(&index).map_or(0, |heirs| {
            *heirs = heirs.saturating_sub(1);
            *heirs
        });
        let state = if left == 0 { self.done.remove(&index) } else { self.done.get(&index).cloned() };
        state.ok_or_else(|| Error::internal("a stage is not lowered when it is needed"))
    }

    pub(super) fn vertex(
        &mut self,
        op: Op,
        parent: Option<VertexId>,
        title: String,
        place: Option<Place>,
    ) -> VertexId {
        self.plan.vertices.push(Vertex { op, parent, fresh: false, meta: Meta { title, place } });
        self.plan.vertices.len() - 1
    }

    fn image(&self, state: StageState) -> ImageSpec {
        let mut config = state.image_config();
        config.config.labels.extend(self.request.labels.clone());
        // What was asked for is what the image says, also if its base was taken for another platform.
        let platform = self.request.platform.clone().unwrap_or(state.platform);
        ImageSpec { rootfs: state.vertex, config, history: state.history, platform }
    }
}

fn makes_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}
