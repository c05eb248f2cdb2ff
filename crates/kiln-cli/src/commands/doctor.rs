//! `kiln doctor`: which isolation this machine can give to RUN, which it cannot and why, and what would change that.

use std::path::Path;

use kiln::Error;
use kiln::sandbox::{ANSWERS, Answer, BuildNamespace, Fact, Isolation, Mode, Requested, Wish};
use serde::Serialize;

use super::{enter_namespace, store_of};
use crate::args::DoctorArgs;
use crate::env::Env;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::value::{ListFormat, Profile};
use crate::{stdout, text};

/// What was found.
#[derive(Debug, Serialize)]
struct Findings {
    /// The isolation of a build here.
    chosen: Mode,
    /// The ladder, the strongest first.
    rungs: Vec<Rung>,
    facts: Vec<Fact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<&'static [Answer]>,
}

/// One isolation on this machine.
#[derive(Debug, Serialize)]
struct Rung {
    mode: Mode,
    works: bool,
    /// What a command gets, or why it gets nothing.
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lacking: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

/// Tries everything and tells.
pub(super) fn run(args: &DoctorArgs, env: &Env) -> Outcome<Exit> {
    if let Some(profile) = args.profile {
        stdout::print(text_of(profile))?;
        return Ok(Exit::Success);
    }
    let namespace = enter_namespace(Requested::Auto)?;
    let store = store_of(&args.store, env, &namespace)?;
    let findings = examine(&namespace, &store, args.answers)?;
    let text = match args.format {
        ListFormat::Table => render(&findings),
        ListFormat::Json => {
            let text = serde_json::to_string_pretty(&findings)
                .map_err(|e| Error::internal("cannot write the findings as JSON").because(e))?;
            text + "\n"
        }
    };
    stdout::print(&text)?;
    Ok(if findings.chosen == Mode::None { Exit::Environment } else { Exit::Success })
}

/// Returns a profile as it is in `deploy/`.
fn text_of(profile: Profile) -> &'static str {
    match profile {
        Profile::Seccomp => include_str!("../../../../deploy/seccomp/kiln.json"),
        Profile::Apparmor => include_str!("../../../../deploy/apparmor/kiln"),
        Profile::ApparmorPod => include_str!("../../../../deploy/apparmor/kiln-pod"),
    }
}

fn examine(namespace: &BuildNamespace, store: &Path, answers: bool) -> Outcome<Findings> {
    // The self-test wants a directory there; one that a look has made goes again.
    let made = !store.exists();
    if made {
        std::fs::create_dir_all(store).map_err(|e| {
            Error::environment(format!("cannot try isolation in `{}`", store.display()))
                .because(e)
                .hint("name a directory that can be written to with `--store DIR`")
        })?;
    }
    let chosen = kiln::sandbox::choose(Wish::of(Requested::Auto), namespace, store);
    let tried = kiln::sandbox::probe(namespace, store);
    if made {
        // Fails when a build has begun to use it meanwhile, and then it has to stay.
        let _ = std::fs::remove_dir(store);
    }
    Ok(Findings {
        chosen: chosen.map_or(Mode::None, |isolation| isolation.mode),
        rungs: tried.into_iter().map(|(mode, result)| rung(mode, result)).collect(),
        facts: kiln::sandbox::facts(namespace, store),
        answers: answers.then_some(&ANSWERS[..]),
    })
}

fn rung(mode: Mode, result: Result<Isolation, kiln::sandbox::Error>) -> Rung {
    match result {
        Ok(isolation) => {
            let text = isolation.to_string();
            let prefix = format!("isolation {mode}: ");
            let text = text.strip_prefix(&prefix).unwrap_or(&text).to_owned();
            Rung { mode, works: true, text, lacking: isolation.lacking, remedy: None }
        }
        Err(error) => {
            let text = error.to_string();
            Rung { mode, works: false, text, lacking: Vec::new(), remedy: error.hint }
        }
    }
}

fn render(findings: &Findings) -> String {
    let mut lines = vec![match findings.chosen {
        Mode::None => "commands cannot be run here; a build without RUN works".to_owned(),
        mode => format!("a build here runs its commands in isolation `{mode}`"),
    }];
    for rung in &findings.rungs {
        let verdict = if rung.works { "yes" } else { "no" };
        lines.push(format!("\n{verdict:<4} {:<14} {}", rung.mode.to_string(), rung.text));
        lines.extend(rung.lacking.iter().map(|lacking| format!("{:20}lacks {lacking}", "")));
        lines.extend(rung.remedy.iter().map(|remedy| format!("{:20}to change that: {remedy}", "")));
    }
    let mut out = lines.join("\n") + "\n\n";
    let rows: Vec<_> = findings
        .facts
        .iter()
        .map(|fact| [fact.name.to_owned(), text::printable(&fact.text).into_owned()])
        .collect();
    out += &text::table(&rows);
    if let Some(answers) = findings.answers {
        out.push('\n');
        let head = ["TO", "ANSWER", "CAUSE", "REMEDY"].map(str::to_owned);
        let row = |a: &Answer| [a.step.name(), a.errno, a.cause, a.remedy].map(str::to_owned);
        let rows: Vec<_> = [head].into_iter().chain(answers.iter().map(row)).collect();
        out += &text::table(&rows);
    }
    out
}
