//! What stages start from and copy out of: images, files given by name, other stages, nothing.

use kiln_oci::{ImageConfig, Platform};

use super::lower::{DEFAULT_PATH, Lowering};
use super::names::{Name, Named};
use super::stage::StageState;
use super::{Pin, pin_key};
use crate::error::{Error, Place, Result};
use crate::graph::{CopyAction, CopyFrom, CopySource, FileAction, FileOp, Layout, Onto, Op, VertexId};

impl Lowering<'_> {
    /// Returns the state of a stage FROM `name`, which is no stage.
    pub(super) fn base_state(&mut self, name: &str, platform: Platform, place: &Place) -> Result<StageState> {
        if name == "scratch" {
            let vertex = self.image_vertex("scratch", &platform, Op::Scratch, place);
            // Nothing has no platform: it is that of the build, whatever `--platform` says.
            return Ok(StageState::new(vertex, nothing(), self.request.target_platform()));
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
                let files = CopyFrom::Context(self.context_key(name, &platform));
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
        let mut state = StageState::new(vertex, nothing(), self.request.target_platform());
        state.history.push((title, Some(vertex)));
        state
    }

    /// Returns the key under which the files of the named context `name` are opened.
    fn context_key(&self, name: &str, platform: &Platform) -> String {
        self.request.context_named(name, platform).unwrap_or(name).to_owned()
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
                let vertex = self.vertex_of(stage);
                vertex.map(CopyFrom::Vertex).ok_or_else(|| Error::internal("a stage came before its source"))
            }
            Name::Other(name) => {
                let platform = self.request.target_platform();
                match self.pins.get(&pin_key(&name, &platform)) {
                    Some(Pin::Directory(_)) => Ok(CopyFrom::Context(self.context_key(&name, &platform))),
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
}

/// Returns the config of an image without files, as in BuildKit.
fn nothing() -> ImageConfig {
    let mut config = ImageConfig::default();
    config.config.set_env("PATH", DEFAULT_PATH);
    config.config.working_dir = "/".to_owned();
    config
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
