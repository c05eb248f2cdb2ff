//! What each instruction does to a stage: to its variables, its config, its files.

use kiln_dockerfile::ignore::clean_path;
use kiln_dockerfile::instruction::{
    Arg, CommandForm, Env, Expose, Healthcheck, Instruction, Label, PortSpec, StopSignal, Volume,
};
use kiln_dockerfile::{Spanned, Statement};
use kiln_oci::{ImageConfig, Platform};

use super::history;
use super::lower::Lowering;
use super::vars::{PROXIES, Vars};
use super::words::Words;
use crate::error::{Error, Place, Result};
use crate::graph::{Op, VertexId};

/// A stage so far.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) vertex: VertexId,
    pub(super) config: ImageConfig,
    pub(super) platform: Platform,
    pub(super) history: Vec<(String, Option<VertexId>)>,
    /// ENV, as the image has it.
    env: Vars,
    /// ARG and ENV, as RUN sees them.
    pub(super) vars: Vars,
    /// Names declared by ARG, for the history of RUN.
    pub(super) args: Vars,
    cmd_set: bool,
    label: String,
    step: usize,
    total: usize,
    /// Steps are done anew.
    fresh: bool,
}

impl StageState {
    pub(super) fn new(vertex: VertexId, config: ImageConfig, platform: Platform) -> Self {
        let mut env = Vars::default();
        for entry in &config.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            env.set(name, value);
        }
        let vars = env.clone();
        Self {
            vertex,
            config,
            platform,
            history: Vec::new(),
            env,
            vars,
            args: Vars::default(),
            cmd_set: false,
            label: String::new(),
            step: 1,
            total: 1,
            fresh: false,
        }
    }

    /// Returns the state that a stage FROM this one starts with.
    pub(super) fn child(self) -> Self {
        Self { cmd_set: false, ..self }
    }

    /// Returns the config of the image that the stage ends as.
    pub(super) fn image_config(&self) -> ImageConfig {
        let mut config = self.config.clone();
        config.config.env = self.env.pairs().iter().map(|(name, value)| format!("{name}={value}")).collect();
        config
    }

    pub(super) fn begin(&mut self, label: String, total: usize, fresh: bool) {
        self.fresh = fresh;
        self.label = label;
        self.step = 1;
        self.total = total;
    }

    /// Returns the title of the next step that makes a layer.
    pub(super) fn title(&mut self, original: &str) -> String {
        self.step += 1;
        let label = if self.label.is_empty() { String::new() } else { format!("{} ", self.label) };
        format!("[{label}{}/{}] {original}", self.step, self.total)
    }

    /// Returns the shell of the shell form.
    pub(super) fn shell(&self) -> Vec<String> {
        self.config.config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()])
    }

    fn command(&self, form: &CommandForm) -> Vec<String> {
        match form {
            CommandForm::Exec(words) => words.iter().map(|w| w.value.clone()).collect(),
            CommandForm::Shell(text) => {
                let mut command = self.shell();
                command.push(text.value.clone());
                command
            }
        }
    }

    /// Returns `path` as an absolute one; a trailing `/` stays.
    pub(super) fn absolute(&self, path: &str) -> String {
        let workdir =
            if self.config.config.working_dir.is_empty() { "/" } else { &self.config.config.working_dir };
        let joined = if path.starts_with('/') { path.to_owned() } else { format!("{workdir}/{path}") };
        let slash = matches!(path.rsplit('/').next(), Some("" | "." | ".."));
        let clean = clean(&joined);
        if slash && clean != "/" { format!("{clean}/") } else { clean }
    }

    /// Adds a line of history that stands for no layer.
    pub(super) fn note(&mut self, text: String) {
        self.history.push((text, None));
    }

    /// Adds a step that makes a layer, and its history.
    pub(super) fn step(
        &mut self,
        lowering: &mut Lowering<'_>,
        op: Op,
        statement: &Statement,
        history: String,
        place: &Place,
    ) {
        let title = self.title(&crate::address::mask(&statement.original));
        let vertex = lowering.vertex(op, Some(self.vertex), title, Some(place.clone()));
        lowering.plan.vertices[vertex].fresh = self.fresh;
        self.vertex = vertex;
        self.history.push((history, Some(vertex)));
    }
}

/// Removes `.`, `..` and doubled slashes of an absolute path.
pub(super) fn clean(path: &str) -> String {
    clean_path(&format!("/{path}"))
}

/// Applies one instruction of stage `index` to `state`.
pub(super) fn instruction(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    index: usize,
    place: &Place,
) -> Result<()> {
    let history = match &statement.instruction {
        Instruction::Run(run) => return super::run::run(lowering, state, statement, run, index, place),
        Instruction::Copy(copy) => return super::files::copy(lowering, state, statement, copy, index, place),
        Instruction::Add(add) => return super::files::add(lowering, state, statement, add, place),
        Instruction::Workdir(workdir) => {
            let path = Words::new(lowering, state).word(&workdir.path)?;
            return super::files::workdir(lowering, state, statement, &path, place);
        }
        Instruction::Onbuild(onbuild) => {
            state.config.config.on_build.push(onbuild.trigger.value.clone());
            return Ok(());
        }
        Instruction::Arg(arg) => self::arg(lowering, state, arg)?,
        Instruction::Env(env) => self::env(lowering, state, env)?,
        Instruction::Label(label) => self::label(lowering, state, label)?,
        Instruction::Expose(expose) => self::expose(lowering, state, expose)?,
        Instruction::Volume(volume) => self::volume(lowering, state, volume)?,
        Instruction::StopSignal(stop) => stop_signal(lowering, state, stop)?,
        Instruction::Cmd(cmd) => {
            let command = state.command(&cmd.command);
            let history = format!("CMD {}", history::quoted(&command));
            // An empty array takes the base's command away, and is no command itself.
            state.config.config.cmd = Some(command).filter(|c| !c.is_empty());
            state.config.config.args_escaped = true;
            state.cmd_set = true;
            history
        }
        Instruction::Entrypoint(entrypoint) => {
            let command = state.command(&entrypoint.command);
            let history = format!("ENTRYPOINT {}", history::quoted(&command));
            state.config.config.entrypoint = Some(command).filter(|c| !c.is_empty());
            if !state.cmd_set {
                state.config.config.cmd = None;
            }
            history
        }
        Instruction::User(user) => {
            let user = Words::new(lowering, state).word(&user.user)?;
            state.config.config.user.clone_from(&user);
            format!("USER {user}")
        }
        Instruction::Shell(shell) => {
            let shell: Vec<String> = shell.command.iter().map(|w| w.value.clone()).collect();
            let history = format!("SHELL {}", history::list(&shell));
            state.config.config.shell = Some(shell);
            history
        }
        Instruction::Healthcheck(check) => {
            let check = healthcheck(check);
            let history = history::healthcheck(&check);
            state.config.config.healthcheck = Some(check);
            history
        }
        Instruction::Maintainer(maintainer) => {
            let author = &maintainer.author.value;
            state.config.author = Some(author.clone());
            format!("MAINTAINER {author}")
        }
    };
    state.note(history);
    Ok(())
}

fn arg(lowering: &Lowering<'_>, state: &mut StageState, arg: &Arg) -> Result<String> {
    let mut history = "ARG".to_owned();
    for declared in &arg.declarations {
        // Within one ARG, a later default sees an earlier declaration.
        let words = Words::new(lowering, state);
        let name = words.word(&declared.name)?;
        let value = match (lowering.request.build_args.get(&name), &declared.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(words.word(default)?),
            (None, None) => lowering.global(&name).map(str::to_owned),
        };
        // Only the names count; the values are among the variables.
        state.args.set(&name, "");
        history.push(' ');
        history.push_str(&name);
        if let Some(value) = value {
            history.push('=');
            history.push_str(&value);
            state.vars.set(&name, &value);
        }
    }
    Ok(history)
}

fn env(lowering: &Lowering<'_>, state: &mut StageState, env: &Env) -> Result<String> {
    let pairs = Words::new(lowering, state).pairs(&env.pairs)?;
    for (key, value) in &pairs {
        state.vars.set(key, value);
        state.env.set(key, value);
    }
    Ok(history::pairs("ENV", &pairs))
}

fn label(lowering: &Lowering<'_>, state: &mut StageState, label: &Label) -> Result<String> {
    let pairs = Words::new(lowering, state).pairs(&label.pairs)?;
    state.config.config.labels.extend(pairs.iter().cloned());
    Ok(history::pairs("LABEL", &pairs))
}

fn expose(lowering: &Lowering<'_>, state: &mut StageState, expose: &Expose) -> Result<String> {
    let words = Words::new(lowering, state);
    let mut ports = Vec::new();
    // The history has them in this order, as in BuildKit; the config has no order.
    let mut written: Vec<_> = expose.ports.iter().collect();
    written.sort_by(|a, b| a.value.cmp(&b.value));
    for port in written {
        for word in words.list(port)? {
            let spec = PortSpec::parse(&word)
                .map_err(|message| Error::input(message).at(Some(lowering.source.place(port.span))))?;
            ports.extend(spec.keys());
        }
    }
    for port in &ports {
        state.config.config.exposed_ports.insert(port.clone(), serde_json::json!({}));
    }
    Ok(format!("EXPOSE {}", history::list(&ports)))
}

fn volume(lowering: &Lowering<'_>, state: &mut StageState, volume: &Volume) -> Result<String> {
    let words = Words::new(lowering, state);
    let mut paths = Vec::new();
    for written in &volume.paths {
        let path = words.word(written)?;
        if path.is_empty() {
            return Err(Error::input(format!(
                "volume `{}` is empty after its variables are replaced",
                written.value
            ))
            .at(Some(lowering.source.place(written.span))));
        }
        paths.push(path);
    }
    for path in &paths {
        state.config.config.volumes.insert(path.clone(), serde_json::json!({}));
    }
    Ok(format!("VOLUME {}", history::list(&paths)))
}

fn stop_signal(lowering: &Lowering<'_>, state: &mut StageState, stop: &StopSignal) -> Result<String> {
    let signal = Words::new(lowering, state).word(&stop.signal)?;
    if kiln_dockerfile::instruction::parse_signal(&signal).is_none() {
        return Err(Error::input(format!("unknown signal `{signal}`"))
            .at(Some(lowering.source.place(stop.signal.span)))
            .hint("write a name such as SIGTERM, or a number"));
    }
    let history = format!("STOPSIGNAL {signal}");
    state.config.config.stop_signal = Some(signal);
    Ok(history)
}

fn healthcheck(check: &Healthcheck) -> kiln_oci::Healthcheck {
    let Healthcheck::Command(command) = check else {
        return kiln_oci::Healthcheck { test: vec!["NONE".to_owned()], ..kiln_oci::Healthcheck::default() };
    };
    let test = match &command.command {
        CommandForm::Shell(text) => vec!["CMD-SHELL".to_owned(), text.value.clone()],
        CommandForm::Exec(words) => {
            std::iter::once("CMD".to_owned()).chain(words.iter().map(|w| w.value.clone())).collect()
        }
    };
    let nanos = |d: &Option<Spanned<std::time::Duration>>| {
        d.as_ref().map_or(0, |d| u64::try_from(d.value.as_nanos()).unwrap_or(u64::MAX))
    };
    kiln_oci::Healthcheck {
        test,
        interval: nanos(&command.interval),
        timeout: nanos(&command.timeout),
        start_period: nanos(&command.start_period),
        start_interval: nanos(&command.start_interval),
        retries: command.retries.as_ref().map_or(0, |r| u64::from(r.value)),
    }
}

/// Refuses what the language has and this version of kiln does not do: never ignored, never half done.
pub(super) fn unsupported(what: &str, place: &Place) -> Error {
    Error::input(format!("{what} is not supported by this version of kiln")).at(Some(place.clone()))
}

/// Returns the proxies that the build was given and the stage did not declare, which count for nothing.
pub(super) fn hidden_proxies(lowering: &Lowering<'_>, state: &StageState) -> Vec<(String, String)> {
    let given = lowering.request.build_args.iter().chain(&lowering.request.proxy_args);
    given
        .filter(|(name, _)| PROXIES.contains(&name.as_str()) && state.args.get(name).is_none())
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
