//! Stages to vertices, in the order of the file, with every fault on the way collected.

use std::collections::BTreeMap;

use kiln_dockerfile::instruction::Instruction;
use kiln_oci::{ImageConfig, Platform};

use super::names::{Name, Named, Numbers};
use super::stage::StageState;
use super::vars::{Vars, platform_args};
use super::{Lowered, Pin, Pins, Source, Wanted, pin_key};
use crate::error::{Error, Place, Result};
use crate::graph::{
    CopyAction, CopyFrom, CopySource, FileAction, FileOp, ImageSpec, Layout, Meta, Onto, Op, Plan, Vertex,
    VertexId,
};
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
    images: BTreeMap<(String, String), VertexId>,
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
        let args: Vec<_> =
            self.source.tree.global_args.iter().flat_map(|s| s.instruction.declarations.clone()).collect();
        for declared in args {
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

    /// Returns the state in which stage `index` ended; whoever needs it last gets it without a copy.
    fn take(&mut self, index: usize) -> Result<StageState> {
        let left = self.heirs.get_mut(&index).map_or(0, |heirs| {
            *heirs = heirs.saturating_sub(1);
            *heirs
        });
        let state = if left == 0 { self.done.remove(&index) } else { self.done.get(&index).cloned() };
        state.ok_or_else(|| Error::internal("a stage is not lowered when it is needed"))
    }

    fn base_state(&mut self, name: &str, platform: Platform, place: &Place) -> Result<StageState> {
        if name == "scratch" {
            let mut config = ImageConfig::default();
            config.config.set_env("PATH", DEFAULT_PATH);
            config.config.working_dir = "/".to_owned();
            let vertex = self.image_vertex("scratch", &platform, Op::Scratch, place);
            // Nothing has no platform: it is that of the build, whatever `--platform` says.
            return Ok(StageState::new(vertex, config, self.request.target_platform()));
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
                let files = CopyFrom::Context(self.context_key(name));
                Ok(self.files_state(name, files, platform, place))
            }
            Some(Pin::Git(commit)) => {
                let files = CopyFrom::Git(commit.clone());
                Ok(self.files_state(name, files, platform, place))
            }
            Some(Pin::Http(_)) => {
                Err(Error::input(format!("`{name}` stands for a file, and FROM needs an image"))
                    .at(Some(place.clone()))
                    .hint(format!("copy it with `COPY --from={name} …`")))
            }
            None => Err(Error::internal(format!("no pin for `{name}`")).at(Some(place.clone()))),
        }
    }

    /// Returns the state of a stage FROM files that were given under a name: they lie on nothing.
    fn files_state(&mut self, name: &str, from: CopyFrom, platform: Platform, place: &Place) -> StageState {
        let mut config = ImageConfig::default();
        config.config.set_env("PATH", DEFAULT_PATH);
        config.config.working_dir = "/".to_owned();
        let scratch = self.image_vertex("scratch", &platform, Op::Scratch, place);
        let source = CopySource { instruction: "FROM", path: "/".to_owned(), place: Some(place.clone()) };
        let files = FileAction::Copy(CopyAction {
            from,
            sources: vec![source],
            dest: "/".to_owned(),
            chown: None,
            chmod: None,
            unpack: false,
            exclude: Vec::new(),
            layout: Layout::Flat,
        });
        let title = format!("FROM {name}");
        let op = Op::File(FileOp { actions: vec![files], onto: Onto::Nothing });
        let vertex = self.vertex(op, Some(scratch), title.clone(), Some(place.clone()));
        let mut state = StageState::new(vertex, config, self.request.target_platform());
        state.history.push((title, Some(vertex)));
        state
    }

    /// Returns the key under which the files of the named context `name` are opened.
    fn context_key(&self, name: &str) -> String {
        let platform = self.request.target_platform();
        self.request.context_named(name, &platform).unwrap_or(name).to_owned()
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
        self.plan.vertices.push(Vertex { op, parent, fresh: false, meta: Meta { title, place } });
        self.plan.vertices.len() - 1
    }

    /// Returns what `--from=` stands for in stage `index`.
    pub(super) fn copy_source(
        &mut self,
        from: Option<Named<'_>>,
        index: usize,
        place: &Place,
    ) -> Result<CopyFrom> {
        let Some(from) = from else { return Ok(CopyFrom::Context(String::new())) };
        match self.name(&from.name.value, index, from.numbers) {
            Name::Stage(stage) => {
                let vertex = self.vertices.get(&stage);
                vertex
                    .map(|vertex| CopyFrom::Vertex(*vertex))
                    .ok_or_else(|| Error::internal("a stage came before its source"))
            }
            Name::Other(name) => {
                let platform = self.request.target_platform();
                match self.pins.get(&pin_key(&name, &platform)) {
                    Some(Pin::Directory(_)) => Ok(CopyFrom::Context(self.context_key(&name))),
                    Some(Pin::Http(file)) => Ok(CopyFrom::Http(file.clone())),
                    Some(Pin::Git(commit)) => Ok(CopyFrom::Git(commit.clone())),
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
        let mut config = state.image_config();
        config.config.labels.extend(self.request.labels.clone());
        // What was asked for is what the image says, also if its base was taken for another platform.
        let platform = self.request.platform.clone().unwrap_or(state.platform);
        ImageSpec { rootfs: state.vertex, config, history: state.history, platform }
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

fn makes_layer(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::Run(_) | Instruction::Copy(_) | Instruction::Add(_) | Instruction::Workdir(_)
    )
}
