//! Rules of kiln's own about what layers keep: package lists that nobody needs, and files that are deleted too late.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::Linter;
use super::graph::Graph;
use super::shell::{self, Command, Script};
use super::walk::State;
use crate::diagnostic::{Diagnostic, Fix};
use crate::ignore::clean_path;
use crate::instruction::{CommandForm, ResolvedMount, Run, RunScript};
use crate::parser::Statement;
use crate::source::Span;

/// A package manager and what it leaves behind.
struct Manager {
    rule: &'static str,
    /// Tells whether a command fills the cache.
    fills: fn(&str, &[String]) -> bool,
    /// Tells whether a command of the manager empties it.
    cleans: fn(&str, &[String]) -> bool,
    /// Where the cache is.
    caches: &'static [&'static str],
    /// The command that empties it.
    remedy: &'static str,
    what: &'static str,
}

const MANAGERS: [Manager; 3] = [
    Manager {
        rule: "AptCacheLeft",
        fills: |program, arguments| matches!(program, "apt-get" | "apt") && has(arguments, &["update"]),
        cleans: |program, arguments| program == "apt-get" && has(arguments, &["distclean", "dist-clean"]),
        caches: &["/var/lib/apt/lists"],
        remedy: "rm -rf /var/lib/apt/lists/*",
        what: "the package lists of apt",
    },
    Manager {
        rule: "ApkCacheLeft",
        fills: |program, arguments| {
            let refreshes = has(arguments, &["update", "-U", "-u", "--update", "--update-cache"]);
            program == "apk" && refreshes && !has(arguments, &["--no-cache"])
        },
        cleans: |program, arguments| program == "apk" && has(arguments, &["clean"]),
        caches: &["/var/cache/apk"],
        remedy: "rm -rf /var/cache/apk/*",
        what: "the package index of apk",
    },
    Manager {
        rule: "DnfCacheLeft",
        fills: |program, arguments| {
            let verbs = ["install", "update", "upgrade", "makecache", "groupinstall", "reinstall"];
            is_dnf(program) && has(arguments, &verbs)
        },
        cleans: |program, arguments| is_dnf(program) && has(arguments, &["clean"]),
        caches: &["/var/cache/dnf", "/var/cache/yum", "/var/cache/libdnf5"],
        remedy: "dnf clean all",
        what: "the package metadata of dnf",
    },
];

fn is_dnf(program: &str) -> bool {
    matches!(program, "dnf" | "dnf5" | "microdnf" | "yum")
}

fn has(arguments: &[String], words: &[&str]) -> bool {
    arguments.iter().any(|argument| words.contains(&argument.as_str()))
}

/// What earlier instructions of this file put into the image.
#[derive(Debug, Clone, Default)]
pub(super) struct Made {
    /// The paths that COPY and ADD wrote, as far as they are known.
    paths: Rc<BTreeSet<String>>,
    /// Whether a RUN came before.
    ran: bool,
}

impl Made {
    pub(super) fn copied<'s>(
        &mut self,
        dest: &str,
        sources: impl Iterator<Item = &'s str>,
        workdir: Option<&str>,
    ) {
        let absolute = match (dest.starts_with('/'), workdir) {
            (true, _) => dest.to_owned(),
            (false, Some(workdir)) => format!("{workdir}/{dest}"),
            (false, None) => return,
        };
        let paths = Rc::make_mut(&mut self.paths);
        let into = clean_path(&absolute);
        for source in sources {
            if let Some(name) = source.trim_end_matches('/').rsplit('/').next().filter(|name| is_name(name)) {
                paths.insert(format!("{}/{name}", into.trim_end_matches('/')));
            }
        }
        // Whoever copies to a directory that is there already does not make it.
        if into.matches('/').count() > 1 {
            paths.insert(into);
        }
    }

    /// Tells whether deleting a path removes what this file made before.
    fn holds(&self, path: &str) -> bool {
        let path = clean_path(path.trim_end_matches('*'));
        let temporary = TEMPORARY.iter().any(|directory| is_within(&path, directory));
        let below = format!("{path}/");
        let inside = self.paths.range(below.clone()..).next().is_some_and(|found| found.starts_with(&below));
        (self.ran && temporary) || self.paths.contains(&path) || (path != "/" && inside)
    }
}

/// Where nothing of a base image is worth a step that deletes it.
const TEMPORARY: [&str; 5] = ["/tmp", "/var/tmp", "/var/cache", "/var/lib/apt/lists", "/root/.cache"];

fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['*', '?', '[', '$'])
}

fn is_within(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Looks at one RUN. What is only in a stage that others copy from is in no image, so it does not matter.
pub(super) fn run(
    linter: &mut Linter<'_>,
    index: usize,
    statement: &Statement,
    run: &Run,
    state: &mut State,
) {
    if Graph::is(&linter.graph.exported, index) {
        let script = script_of(run);
        for manager in &MANAGERS {
            cache_left(linter, statement, run, &script, manager);
        }
        // With a mount, the files may be those of the mount.
        if run.mounts.is_empty() {
            only_deletes(linter, statement, &script, state);
        }
    }
    state.made.ran = true;
}

fn script_of(run: &Run) -> Script {
    match run.script() {
        RunScript::Exec(arguments) => {
            let words = arguments.iter().map(|word| word.value.clone()).collect();
            Script { commands: vec![Command { words }], only_and: false }
        }
        RunScript::Shell(text) => shell::script(text),
        RunScript::Body(body) | RunScript::File { body, .. } | RunScript::Rebuilt(body) => {
            shell::script(&body)
        }
    }
}

fn cache_left(linter: &mut Linter<'_>, statement: &Statement, run: &Run, script: &Script, manager: &Manager) {
    let programs = || script.commands.iter().filter_map(Command::program);
    if !programs().any(|(program, arguments)| (manager.fills)(program, arguments)) {
        return;
    }
    let cleaned = programs().any(|(program, arguments)| {
        (manager.cleans)(program, arguments) || may_delete(program, arguments, manager.caches)
    });
    if cleaned || run.mounts.iter().any(|mount| may_cover(mount, manager.caches)) {
        return;
    }
    let message = format!("the layer keeps {}, which nothing reads again", manager.what);
    let help = format!("add `&& {}` to the command, or mount a cache there", manager.remedy);
    let finding = Diagnostic::warning(manager.rule, statement.span, message).with_help(help);
    let fix = appendable(run, script).then(|| {
        Fix::replace(Span::new(statement.span.end, statement.span.end), format!(" && {}", manager.remedy))
    });
    linter.report(finding.with_fix(fix));
}

/// Tells whether a command deletes a cache, and says yes when in doubt.
fn may_delete(program: &str, arguments: &[String], caches: &[&str]) -> bool {
    if program.contains("clean") {
        return true;
    }
    let deletes = |argument: &String| {
        let path = argument.trim_end_matches(['*', '/']);
        let covers = |cache: &&str| is_within(path, cache) || is_within(cache, path);
        argument.contains(['$', '{']) || (path.starts_with('/') && caches.iter().any(covers))
    };
    matches!(program, "rm" | "find") && arguments.iter().any(deletes)
}

/// Tells whether a mount keeps a cache out of the layer, and says yes when in doubt.
fn may_cover(mount: &crate::instruction::Mount, caches: &[&str]) -> bool {
    let target = match mount.resolve(&mut |value| Ok(value.to_owned())) {
        Ok(ResolvedMount::Cache(cache)) => cache.target,
        Ok(ResolvedMount::Tmpfs { target, .. } | ResolvedMount::Bind { target, .. }) => target,
        Ok(ResolvedMount::Secret { .. } | ResolvedMount::Ssh { .. }) => return false,
        Err(_) => return true,
    };
    target.is_none_or(|target| {
        let target = clean_path(&target);
        target.contains('$') || caches.iter().any(|cache| is_within(cache, &target))
    })
}

/// Tells whether `&& …` at the end of a RUN becomes its last command.
fn appendable(run: &Run, script: &Script) -> bool {
    let CommandForm::Shell(text) = &run.command else { return false };
    script.only_and && run.heredocs.is_empty() && !text.value.contains(['#', '<', '{'])
}

/// A step of nothing but `rm` makes the image no smaller: the layers below keep the files.
fn only_deletes(linter: &mut Linter<'_>, statement: &Statement, script: &Script, state: &State) {
    let mut in_vain = false;
    for command in &script.commands {
        let Some(("rm", arguments)) = command.program() else { return };
        in_vain |= arguments.iter().any(|path| path.starts_with('/') && state.made.holds(path));
    }
    if !in_vain {
        return;
    }
    let message = "the step only deletes, and the layers below keep what it deletes";
    let help = "delete in the RUN that makes the files, or make them in another stage, or mount them";
    linter.warn("LayerOnlyDeletes", statement.span, message, help);
}
