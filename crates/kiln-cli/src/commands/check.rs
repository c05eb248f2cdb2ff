//! `kiln check` and `kiln build --call`: a look at a build.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;

use kiln::check::{CheckOptions, Lookup, Pinning, Scope};
use kiln::dockerfile::lint;
use kiln::progress::Sink;
use kiln::sandbox::Requested;
use kiln::{Cancel, Checked, EngineConfig, Error};

use super::{build, enter_namespace};
use crate::args::{BuildArgs, CheckArgs};
use crate::check::{self, Page};
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::progress::{self, Terminal, View};
use crate::settings::{Config, Process, Settings};
use crate::signals::Signals;
use crate::style::Style;
use crate::value::{Call, CallFormat, CheckFormat, Method, ProgressMode};
use crate::{files, report, stdout};

/// Fixes can make room for others, such as the case of `AS` after that of FROM; nothing needs more rounds.
const ROUNDS: usize = 5;

/// Looks for mistakes in a Dockerfile.
pub(super) fn run(args: &CheckArgs, env: &Env, terminal: Terminal) -> Outcome<Exit> {
    if let Some(name) = &args.explain {
        return explain(name);
    }
    let lookup = if args.offline { Lookup::Offline } else { Lookup::Registries };
    let pinning = if args.locked { Pinning::Digest } else { Pinning::Free };
    let look =
        Look::new(&args.build(), env, terminal, CheckOptions { scope: Scope::Check, pinning }, lookup)?;
    let mut checked = match look.take() {
        Ok(checked) => checked,
        Err(failure) => return Ok(look.failed(&failure)),
    };
    let mut fixed = 0;
    if args.fix {
        for _ in 0..ROUNDS {
            let number = fix(&checked)?;
            if number == 0 {
                break;
            }
            fixed += number;
            checked = look.take()?;
        }
    }
    let directory = std::env::current_dir().ok();
    let page = Page::new(&checked, directory.as_deref());
    let text = match args.format {
        CheckFormat::Text => check::people(&page, on_stdout(terminal)),
        CheckFormat::Json => format!("{:#}\n", check::json(&page)),
        CheckFormat::Sarif => format!("{:#}\n", check::sarif(&page)),
    };
    stdout::print(&text)?;
    if args.format == CheckFormat::Text {
        say(&check::summary(&page, fixed));
    }
    Ok(exit(&checked))
}

/// Prints what a rule is about.
fn explain(name: &str) -> Outcome<Exit> {
    let rule = lint::rule(name).and_then(|rule| Some((rule, check::entry(rule.name)?)));
    let Some((rule, entry)) = rule else {
        let names: Vec<&str> = lint::RULES.iter().map(|rule| rule.name).collect();
        let hint = match kiln::dockerfile::suggest(name, &names) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the rules are: {}", names.join(", ")),
        };
        return Err(Failure::usage(format!("there is no rule `{name}`"), hint));
    };
    let url = rule.url().map(|url| format!("\n\n{url}")).unwrap_or_default();
    stdout::print(&format!("# {}\n\n{entry}{url}\n", rule.name))?;
    Ok(Exit::Success)
}

/// Returns what a build command line asks for in place of a build.
pub(super) fn wanted(args: &BuildArgs) -> Option<Call> {
    let check = Call { method: Method::Check, format: CallFormat::Text, ignore_status: false };
    let call = if args.check { Some(check) } else { args.call };
    call.filter(|call| call.method != Method::Build)
}

/// Answers `--call`.
pub(super) fn call(args: &BuildArgs, call: Call, env: &Env, terminal: Terminal) -> Outcome<Exit> {
    let lookup = if call.method == Method::Check { Lookup::Registries } else { Lookup::Offline };
    let scope = if call.method == Method::Check { Scope::Check } else { Scope::Target };
    let look = Look::new(args, env, terminal, CheckOptions { scope, pinning: Pinning::Free }, lookup)?;
    let checked = match look.take() {
        Ok(checked) => checked,
        Err(failure) => return Ok(look.failed(&failure)),
    };
    let directory = std::env::current_dir().ok();
    let page = Page::new(&checked, directory.as_deref());
    let answer = match (call.method, call.format, &checked.outline) {
        (Method::Check | Method::Build, CallFormat::Text, _) => check::people(&page, on_stdout(terminal)),
        (Method::Check | Method::Build, CallFormat::Json, _) => format!("{:#}\n", check::lint(&page)),
        // Without a stage there is nothing to tell of.
        _ if checked.targets.is_empty() => return Ok(broken(&checked, terminal)),
        (Method::Targets, CallFormat::Text, _) => check::targets_table(&checked),
        (Method::Targets, CallFormat::Json, _) => format!("{:#}\n", check::targets(&checked)),
        (Method::Outline, _, None) => return Ok(broken(&checked, terminal)),
        (Method::Outline, CallFormat::Text, Some(outline)) => check::outline_table(outline),
        (Method::Outline, CallFormat::Json, Some(outline)) => {
            format!("{:#}\n", check::outline(&checked, outline))
        }
    };
    stdout::print(&answer)?;
    if call.method == Method::Check && call.format == CallFormat::Text {
        say(&check::summary(&page, 0));
    }
    let counts = call.method == Method::Check && !call.ignore_status;
    Ok(if counts { exit(&checked) } else { Exit::Success })
}

/// Carries out the fixes of a look and returns their number.
fn fix(checked: &Checked) -> Outcome<usize> {
    let Some(path) = &checked.path else {
        return Err(Failure::usage(
            "there is no file to fix: the Dockerfile came from standard input or an archive",
            "give the Dockerfile as a file",
        ));
    };
    let (text, number) = lint::apply(&checked.text, &checked.findings);
    let (_, faults) = kiln::dockerfile::parse(&text);
    if let Some(fault) = faults.iter().find(|fault| fault.is_error()) {
        let error = Error::internal("a fix would break the Dockerfile, which is left as it was");
        return Err(error.because(fault.message.clone()).into());
    }
    if number > 0 {
        let permissions = std::fs::metadata(path).map(|meta| meta.permissions());
        files::write(path, text.as_bytes())?;
        // Where they cannot be kept, the file is as readable as other new files.
        let _ = permissions.and_then(|permissions| std::fs::set_permissions(path, permissions));
    }
    Ok(number)
}

/// Everything that a look at one build needs, any number of times.
struct Look {
    settings: Settings,
    config: EngineConfig,
    options: CheckOptions,
    lookup: Lookup,
    sink: Sink,
    view: Arc<dyn View>,
    cancel: Cancel,
    signals: Signals,
}

impl Look {
    fn new(
        args: &BuildArgs,
        env: &Env,
        terminal: Terminal,
        options: CheckOptions,
        lookup: Lookup,
    ) -> Outcome<Self> {
        // First of all: it may start this program anew, and there must be no thread.
        let namespace = enter_namespace(Requested::Auto)?;
        // What would become of an image on standard output does not matter.
        let process = Process { root: namespace.is_root, stdout_terminal: false };
        let settings = Settings::resolve(args, env, &Config::load(env)?, process)?;
        let cancel = Cancel::default();
        let stop = cancel.clone();
        let signals = Signals::watch(move || stop.cancel())?;
        let view = progress::view(ProgressMode::Quiet, terminal);
        let sink: Sink = Arc::<dyn View>::clone(&view);
        let config = build::engine_config(&settings, namespace, &sink)?;
        Ok(Self { settings, config, options, lookup, sink, view, cancel, signals })
    }

    fn take(&self) -> Outcome<Checked> {
        let request = &self.settings.request;
        Ok(kiln::check(&self.config, request, self.options, self.lookup, &self.sink, &self.cancel)?)
    }

    fn failed(&self, failure: &Failure) -> Exit {
        self.view.fail(failure.error());
        build::exit(failure, &self.signals)
    }
}

/// As with `docker buildx build --check`, a finding is a failure.
fn exit(checked: &Checked) -> Exit {
    if checked.findings.is_empty() && checked.errors.is_empty() { Exit::Success } else { Exit::Failure }
}

/// Shows why a file says nothing about itself.
fn broken(checked: &Checked, terminal: Terminal) -> Exit {
    let blocks: Vec<String> =
        checked.errors.iter().map(|error| report::render(error, terminal.style)).collect();
    say(&blocks.join("\n"));
    Exit::Failure
}

/// Standard output may be a file while standard error is a terminal.
fn on_stdout(terminal: Terminal) -> Style {
    if std::io::stdout().is_terminal() { terminal.style } else { Style::Plain }
}

fn say(text: &str) {
    // There is nobody to tell when standard error is gone.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
