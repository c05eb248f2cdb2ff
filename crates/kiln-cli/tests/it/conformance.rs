//! The corpus: every case built by kiln as everybody who can, and by BuildKit where a developer has one running.
//!
//! `KILN_CORPUS=copy/` runs the cases whose names contain that text. `KILN_ORACLE_BUILDKIT=unix:///…` names a
//! running `buildkitd`; `corpus/README.md` says how to start one.

mod builder;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_testkit::corpus::{Base, Case, Subject};
use kiln_testkit::{Person, lane};

use crate::env_of;
use builder::{BuildKit, Builder, Kiln};

/// What became of a case.
enum Ran {
    Passed,
    Failed(String),
    LeftOut(String),
    /// A case marked `pending` that passes.
    Arrived,
}

/// Builds per processor at once: a case waits for child processes most of the time.
const THREADS: usize = 2;

#[test]
fn kiln_gives_what_the_corpus_says() {
    let mut failures = String::new();
    for person in lane::people("conformance") {
        let env = env_of(person.clone());
        let dirs = Dirs::make(&env.root);
        let builder = Kiln { env: &env, tools: dirs.tools.clone() };
        failures += &report(&format!("conformance of kiln as {person}"), &run(&builder, &person, &dirs));
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn buildkit_gives_what_the_corpus_says() {
    let what = "the corpus compared with BuildKit";
    let Ok(address) = std::env::var("KILN_ORACLE_BUILDKIT") else {
        lane::left_out(what, "KILN_ORACLE_BUILDKIT names no running buildkitd");
        return;
    };
    let Some(program) = lane::program("buildctl", what) else { return };
    let env = crate::env();
    let dirs = Dirs::make(&env.root);
    let builder = BuildKit { program, address, tools: dirs.tools.clone() };
    let results = run(&builder, &env.person, &dirs);
    for (case, _) in results.iter().filter(|(case, _)| case.difference.is_some()) {
        let reason = case.difference.as_ref().map_or("", |d| d.reason.as_str());
        lane::note(&format!("kiln differs in {}: {reason}", case.name));
    }
    let failures = report("conformance of BuildKit", &results);
    assert!(failures.is_empty(), "{failures}");
}

/// Where the files of a lane are.
struct Dirs {
    /// Every case has a folder in here.
    cases: PathBuf,
    /// The image that cases call `tools`.
    tools: PathBuf,
}

impl Dirs {
    fn make(root: &Path) -> Self {
        let dirs = Self { cases: root.join("cases"), tools: root.join("tools") };
        std::fs::create_dir_all(&dirs.cases).unwrap();
        kiln_testkit::base::write_layout(&dirs.tools).unwrap();
        dirs
    }
}

fn corpus() -> Vec<Case> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../corpus");
    let only = std::env::var("KILN_CORPUS").unwrap_or_default();
    let mut cases = Case::all(&corpus).unwrap();
    cases.retain(|case| case.name.contains(&only));
    assert!(!cases.is_empty(), "no case has `{only}` in its name");
    cases
}

fn run(builder: &dyn Builder, person: &Person, dirs: &Dirs) -> Vec<(Case, Ran)> {
    let cases = corpus();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(BTreeMap::new());
    let tools = Base::of_layout(&dirs.tools).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(number) else { return };
                    let ran = one(builder, person, dirs, &tools, case);
                    results.lock().unwrap().insert(number, ran);
                }
            });
        }
    });
    let results = results.into_inner().unwrap();
    cases.into_iter().zip(results.into_values()).collect()
}

fn one(builder: &dyn Builder, person: &Person, dirs: &Dirs, tools: &Base, case: &Case) -> Ran {
    if let Some(why) = missing(case, person) {
        return Ran::LeftOut(why);
    }
    let dir = dirs.cases.join(case.name.replace('/', "-"));
    let found = builder::differences(builder, person, &dir, tools, case);
    let kiln = builder.subject() == Subject::Kiln;
    match (&case.pending, found.is_empty()) {
        (Some(_), true) if kiln => Ran::Arrived,
        (Some(why), false) if kiln => Ran::LeftOut(format!("pending: {why}")),
        (_, true) => Ran::Passed,
        (_, false) => Ran::Failed(found.join("\n")),
    }
}

/// Returns what this machine, or this person, lacks for a case.
fn missing(case: &Case, person: &Person) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = |name: &str| std::env::split_paths(&path).any(|d| d.join(name).is_file());
    if let Some(program) = case.needs.iter().find(|program| !here(program)) {
        return Some(format!("there is no `{program}` on this machine"));
    }
    if case.needs_root && *person == Person::Caller {
        return Some("its context can be made by root only".to_owned());
    }
    None
}

/// Prints what was left out, and returns all differences of all cases that failed.
fn report(what: &str, results: &[(Case, Ran)]) -> String {
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut arrived = Vec::new();
    let mut failures = String::new();
    let mut failed = 0;
    for (case, ran) in results {
        match ran {
            Ran::Passed => {}
            Ran::LeftOut(why) => reasons.entry(why).or_default().push(&case.name),
            Ran::Arrived => arrived.push(case.name.as_str()),
            Ran::Failed(found) => {
                failed += 1;
                let found = found.replace('\n', "\n    ");
                let _ = write!(failures, "\n{}: {}\n    {found}\n", case.name, case.title);
            }
        }
    }
    for (why, names) in &reasons {
        lane::left_out(&format!("{what}, {} of {} cases", names.len(), results.len()), why);
    }
    lane::note(&format!(
        "{what}: {} cases, {} left out",
        results.len(),
        reasons.values().map(Vec::len).sum::<usize>()
    ));
    if !arrived.is_empty() {
        lane::note(&format!("{what}: these pass now, remove their `pending`: {}", arrived.join(" ")));
    }
    if failed == 0 {
        failures
    } else {
        format!("{what}: {failed} of {} cases differ\n{failures}", results.len())
    }
}
