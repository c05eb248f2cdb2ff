//! What each instruction does to a stage: to its variables, its config, its files.

use kiln_dockerfile::expand::{ExpandError, Expanded, expand_heredoc, expand_word, expand_words};
use kiln_dockerfile::instruction::{
    Arg, CommandForm, Env, Expose, Healthcheck, Instruction, Label, PortSpec,
};
use kiln_dockerfile::{Heredoc, Span, Spanned, Statement};
use kiln_oci::{ImageConfig, Platform};

use super::lower::Lowering;
use super::vars::{PROXIES, Vars};
use crate::error::{Error, Place, Result};
use crate::graph::VertexId;

/// A stage so far.
#[derive(Debug, Clone)]
pub(super) struct StageState {
    pub(super) vertex: VertexId,
    pub(super) config: ImageConfig,
    pub(super) platform: Platform,
    pub(super) history: Vec<(String, Option<VertexId>)>,
    /// ARG and ENV, as RUN sees them.
    pub(super) vars: Vars,
    /// Names declared by ARG, for the history of RUN.
    pub(super) args: Vec<String>,
    cmd_set: bool,
    label: String,
    step: usize,
    total: usize,
}

impl StageState {
    pub(super) fn new(vertex: VertexId, config: ImageConfig, platform: Platform) -> Self {
        let mut vars = Vars::default();
        for entry in &config.config.env {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            vars.set(name, value);
        }
        Self {
            vertex,
            config,
            platform,
            history: Vec::new(),
            vars,
            args: Vec::new(),
            cmd_set: false,
            label: String::new(),
            step: 1,
            total: 1,
        }
    }

    /// Returns the state that a stage FROM this one starts with.
    pub(super) fn child(&self) -> Self {
        Self { cmd_set: false, ..self.clone() }
    }

    pub(super) fn begin(&mut self, label: String, total: usize) {
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

    pub(super) fn note(&mut self, statement: &Statement) {
        self.history.push((statement.original.clone(), None));
    }
}

/// Removes `.`, `..` and doubled slashes of an absolute path.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Expands words of one instruction, all with the variables as they were before it.
pub(super) struct Words<'a, 'b> {
    lowering: &'a Lowering<'b>,
    vars: Vars,
}

impl<'a, 'b> Words<'a, 'b> {
    pub(super) fn new(lowering: &'a Lowering<'b>, state: &StageState) -> Self {
        Self { lowering, vars: state.vars.clone() }
    }

    fn result(&self, result: std::result::Result<Expanded, ExpandError>, span: Span) -> Result<String> {
        result.map(|e| e.text).map_err(|e| self.lowering.source.error(e.at(span)))
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.vars.get(name).map(str::to_owned)
    }

    pub(super) fn word(&self, word: &Spanned<String>) -> Result<String> {
        let escape = self.lowering.source.tree.directives.escape();
        self.result(expand_word(&word.value, escape, &|n| self.lookup(n)), word.span)
    }

    fn list(&self, word: &Spanned<String>) -> Result<Vec<String>> {
        let escape = self.lowering.source.tree.directives.escape();
        expand_words(&word.value, escape, &|n| self.lookup(n))
            .map(|e| e.words)
            .map_err(|e| self.lowering.source.error(e.at(word.span)))
    }

    pub(super) fn optional(&self, word: Option<&Spanned<String>>) -> Result<Option<String>> {
        word.map(|w| self.word(w)).transpose()
    }

    pub(super) fn heredoc(&self, heredoc: &Heredoc) -> Result<Vec<u8>> {
        let content = heredoc.content();
        if !heredoc.expand {
            return Ok(content.into_owned().into_bytes());
        }
        let expanded = expand_heredoc(&content, &|n| self.lookup(n));
        self.result(expanded, heredoc.body.span).map(String::into_bytes)
    }
}

/// Applies one instruction of stage `index` to `state`.
pub(super) fn instruction(
    lowering: &mut Lowering<'_>,
    state: &mut StageState,
    statement: &Statement,
    index: usize,
    place: &Place,
) -> Result<()> {
    match &statement.instruction {
        Instruction::Arg(arg) => self::arg(lowering, state, arg)?,
        Instruction::Env(env) => self::env(lowering, state, env)?,
        Instruction::Label(label) => self::label(lowering, state, label)?,
        Instruction::Run(run) => return super::run::run(lowering, state, statement, run, place),
        Instruction::Copy(copy) => return super::files::copy(lowering, state, statement, copy, index, place),
        Instruction::Add(add) => return super::files::add(lowering, state, statement, add, place),
        Instruction::Workdir(workdir) => {
            let path = Words::new(lowering, state).word(&workdir.path)?;
            return super::files::workdir(lowering, state, statement, &path, place);
        }
        Instruction::Cmd(cmd) => {
            state.config.config.cmd = Some(state.command(&cmd.command));
            state.config.config.args_escaped = true;
            state.cmd_set = true;
        }
        Instruction::Entrypoint(entrypoint) => {
            state.config.config.entrypoint = Some(state.command(&entrypoint.command));
            if !state.cmd_set {
                state.config.config.cmd = None;
            }
        }
        Instruction::User(user) => state.config.config.user = Words::new(lowering, state).word(&user.user)?,
        Instruction::Expose(expose) => self::expose(lowering, state, expose)?,
        Instruction::Volume(volume) => {
            let words = Words::new(lowering, state);
            for path in &volume.paths {
                let path = words.word(path)?;
                state.config.config.volumes.insert(path, serde_json::json!({}));
            }
        }
        Instruction::StopSignal(stop) => {
            let signal = Words::new(lowering, state).word(&stop.signal)?;
            if kiln_dockerfile::instruction::parse_signal(&signal).is_none() {
                return Err(Error::input(format!("unknown signal `{signal}`"))
                    .at(Some(lowering.source.place(stop.signal.span)))
                    .hint("write a name such as SIGTERM, or a number"));
            }
            state.config.config.stop_signal = Some(signal);
        }
        Instruction::Shell(shell) => {
            state.config.config.shell = Some(shell.command.iter().map(|w| w.value.clone()).collect());
        }
        Instruction::Healthcheck(check) => state.config.config.healthcheck = Some(healthcheck(check)),
        Instruction::Onbuild(onbuild) => state.config.config.on_build.push(onbuild.trigger.value.clone()),
        Instruction::Maintainer(maintainer) => state.config.author = Some(maintainer.author.value.clone()),
    }
    state.note(statement);
    Ok(())
}

fn arg(lowering: &Lowering<'_>, state: &mut StageState, arg: &Arg) -> Result<()> {
    for declared in &arg.declarations {
        // Within one ARG, a later default sees an earlier declaration.
        let words = Words::new(lowering, state);
        let name = words.word(&declared.name)?;
        let value = match (lowering.request.build_args.get(&name), &declared.default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(words.word(default)?),
            (None, None) => lowering.global(&name).map(str::to_owned),
        };
        if !state.args.contains(&name) {
            state.args.push(name.clone());
        }
        if let Some(value) = value {
            state.vars.set(&name, &value);
        }
    }
    Ok(())
}

fn env(lowering: &Lowering<'_>, state: &mut StageState, env: &Env) -> Result<()> {
    let words = Words::new(lowering, state);
    for pair in &env.pairs {
        let (key, value) = (words.word(&pair.key)?, words.word(&pair.value)?);
        state.vars.set(&key, &value);
        state.config.config.set_env(&key, &value);
    }
    Ok(())
}

fn label(lowering: &Lowering<'_>, state: &mut StageState, label: &Label) -> Result<()> {
    let words = Words::new(lowering, state);
    for pair in &label.pairs {
        let (key, value) = (words.word(&pair.key)?, words.word(&pair.value)?);
        state.config.config.labels.insert(key, value);
    }
    Ok(())
}

fn expose(lowering: &Lowering<'_>, state: &mut StageState, expose: &Expose) -> Result<()> {
    let words = Words::new(lowering, state);
    for port in &expose.ports {
        for word in words.list(port)? {
            let spec = PortSpec::parse(&word)
                .map_err(|message| Error::input(message).at(Some(lowering.source.place(port.span))))?;
            for key in spec.keys() {
                state.config.config.exposed_ports.insert(key, serde_json::json!({}));
            }
        }
    }
    Ok(())
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
        .filter(|(name, _)| PROXIES.contains(&name.as_str()) && !state.args.contains(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}
