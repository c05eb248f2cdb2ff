//! How a case becomes a command line: one for kiln, one for BuildKit.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use kiln_testkit::corpus::{Base, Case, Observed, Subject, Workspace, serve};
use kiln_testkit::{Outcome, Person, TestEnv};

/// What is built, and where the result goes.
pub(super) struct Job<'a> {
    pub(super) case: &'a Case,
    pub(super) workspace: &'a Workspace,
    /// Dockerfile, from the folder of the case.
    pub(super) dockerfile: PathBuf,
    /// Images of the case that exist already: names and layouts.
    pub(super) parents: Vec<(String, PathBuf)>,
    /// Host and port of the case's files, if it serves any.
    pub(super) server: Option<String>,
    /// The layout to write.
    pub(super) out: PathBuf,
}

impl Job<'_> {
    fn build_args(&self) -> Vec<String> {
        let given = self.case.build_args.iter().map(|(name, value)| format!("{name}={value}"));
        given.chain(self.server.iter().map(|host| format!("SERVER={host}"))).collect()
    }

    fn context(&self) -> PathBuf {
        self.workspace.root.join("context")
    }

    fn secret(&self, id: &str) -> PathBuf {
        self.workspace.root.join(format!("secret-{id}"))
    }
}

/// A program that builds images.
pub(super) trait Builder: Sync {
    /// Whose result this is.
    fn subject(&self) -> Subject;
    /// Returns the command that does a job.
    fn command(&self, job: &Job<'_>) -> Command;
}

/// kiln, as the person of its environment.
pub(super) struct Kiln<'a> {
    pub(super) env: &'a TestEnv,
    pub(super) tools: PathBuf,
}

impl Builder for Kiln<'_> {
    fn subject(&self) -> Subject {
        Subject::Kiln
    }

    fn command(&self, job: &Job<'_>) -> Command {
        let mut args: Vec<OsString> = vec!["build".into(), "-f".into(), job.dockerfile.clone().into()];
        let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
        option("-o", format!("type=oci,tar=false,dest={}", job.out.display()));
        option("--build-context", format!("tools=oci-layout://{}", self.tools.display()));
        for (name, layout) in &job.parents {
            option("--build-context", format!("{name}=oci-layout://{}", layout.display()));
        }
        for (name, source) in &job.case.contexts {
            let dir = job.workspace.root.join(source);
            let source = if dir.is_dir() { dir.display().to_string() } else { source.clone() };
            option("--build-context", format!("{name}={source}"));
        }
        for arg in job.build_args() {
            option("--build-arg", arg);
        }
        for (name, value) in &job.case.labels {
            option("--label", format!("{name}={value}"));
        }
        for id in job.case.secrets.keys() {
            option("--secret", format!("id={id},src={}", job.secret(id).display()));
        }
        job.case.target.iter().for_each(|target| option("--target", target.clone()));
        job.case.platform.iter().for_each(|platform| option("--platform", platform.clone()));
        args.push(job.context().into());
        self.env.command(args)
    }
}

/// A running BuildKit, through its client.
pub(super) struct BuildKit {
    pub(super) program: PathBuf,
    pub(super) address: String,
    pub(super) tools: PathBuf,
}

impl Builder for BuildKit {
    fn subject(&self) -> Subject {
        Subject::BuildKit
    }

    fn command(&self, job: &Job<'_>) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("SOURCE_DATE_EPOCH").stdin(Stdio::null());
        command.args([
            "--addr",
            &self.address,
            "build",
            "--frontend",
            "dockerfile.v0",
            "--progress",
            "plain",
        ]);
        let mut option = |name: &str, value: String| {
            command.args([name, &value]);
        };
        option("--output", format!("type=oci,tar=false,dest={}", job.out.display()));
        option("--local", format!("context={}", job.context().display()));
        let dir = job.dockerfile.parent().unwrap_or(Path::new("."));
        option("--local", format!("dockerfile={}", dir.display()));
        let tools = ("tools".to_owned(), self.tools.clone());
        for (name, layout) in job.parents.iter().chain([&tools]) {
            option("--oci-layout", format!("{name}={}", layout.display()));
            option("--opt", format!("context:{name}=oci-layout://{name}@{}", digest(layout)));
        }
        for (name, source) in &job.case.contexts {
            let dir = job.workspace.root.join(source);
            if dir.is_dir() {
                option("--local", format!("{name}={}", dir.display()));
                option("--opt", format!("context:{name}=local:{name}"));
            } else {
                option("--opt", format!("context:{name}={source}"));
            }
        }
        if let Some(file) = job.dockerfile.file_name() {
            option("--opt", format!("filename={}", file.to_string_lossy()));
        }
        for arg in job.build_args() {
            option("--opt", format!("build-arg:{arg}"));
        }
        for (name, value) in &job.case.labels {
            option("--opt", format!("label:{name}={value}"));
        }
        for id in job.case.secrets.keys() {
            option("--secret", format!("id={id},src={}", job.secret(id).display()));
        }
        job.case.allow.iter().for_each(|what| option("--allow", what.clone()));
        job.case.target.iter().for_each(|target| option("--opt", format!("target={target}")));
        job.case.platform.iter().for_each(|platform| option("--opt", format!("platform={platform}")));
        command
    }
}

/// Returns the digest of a layout's one image.
fn digest(layout: &Path) -> String {
    let index = fs::read(layout.join("index.json")).unwrap_or_default();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap_or_default();
    index["manifests"][0]["digest"].as_str().unwrap_or_default().to_owned()
}

/// Builds a case in `dir` and returns what differs.
pub(super) fn differences(
    builder: &dyn Builder,
    person: &Person,
    dir: &Path,
    tools: &Base,
    case: &Case,
) -> Vec<String> {
    match build(builder, person, dir, tools, case) {
        Ok(found) => found,
        Err(why) => vec![why],
    }
}

fn build(
    builder: &dyn Builder,
    person: &Person,
    dir: &Path,
    tools: &Base,
    case: &Case,
) -> Result<Vec<String>, String> {
    let workspace = Workspace::make(case, dir, person)?;
    let server = case.serve.as_ref().map(|files| serve(&dir.join(files)));
    let host = server.as_ref().map(kiln_testkit::web::WebServer::host);
    let job = |dockerfile: PathBuf, parents: &[(String, PathBuf)]| {
        let name = dockerfile.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let out = dir.join(format!("result-{name}"));
        Job { case, workspace: &workspace, dockerfile, parents: parents.to_vec(), server: host.clone(), out }
    };
    let mut parents = Vec::new();
    for (name, dockerfile) in &case.parents {
        let job = job(dir.join(dockerfile), &parents);
        let outcome = run(builder, person, &job);
        if outcome.code != Some(0) {
            return Err(format!("the parent `{name}` cannot be built:\n{}", outcome.stderr));
        }
        parents.push((name.clone(), job.out));
    }
    let base = match case.base.as_str() {
        "scratch" => Base::scratch(),
        "tools" => tools.clone(),
        name => {
            let (_, layout) = parents.iter().find(|(n, _)| n == name).ok_or("the base is no parent")?;
            Base::of_layout(layout)?
        }
    };
    let job = job(workspace.dockerfile(), &parents);
    let outcome = run(builder, person, &job);
    let compare = |subject| case.compare(subject, &outcome, &base, || Observed::of_layout(&job.out, &base));
    let mut found = compare(builder.subject());
    if builder.subject() == Subject::Kiln
        && case.difference.is_some()
        && compare(Subject::BuildKit).is_empty()
    {
        found.push("the case says that kiln differs, and it does not".to_owned());
    }
    Ok(found)
}

fn run(builder: &dyn Builder, person: &Person, job: &Job<'_>) -> Outcome {
    let made = fs::create_dir(&job.out).and_then(|()| person.give(&job.out));
    if let Err(error) = made {
        panic!("cannot make {}: {error}", job.out.display());
    }
    Outcome::of(&mut builder.command(job))
}
