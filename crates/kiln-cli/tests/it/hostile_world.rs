//! What every hostile input is held against: the machine around the build and the store are afterwards what they were.
//!
//! A [`World`] has a canary, a tree beside the store that nothing may change, and to which every escape leads. A case is
//! *refused*, with an exit code and words, or *built*, with the files that its input harmlessly means.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln::oci::{Descriptor, Digest, MediaType, Platform};
use kiln_testkit::{Outcome, Person, TestEnv};
use serde_json::{Value, json};

use crate::env_of;

/// What one answer may take in a test build on a busy machine.
const SOON: Duration = Duration::from_secs(60);

/// What the canary keeps to itself. It looks like no instruction, so that it is at fault wherever it is read.
pub(crate) const SECRET: &str = "!the-secret-of-the-machine";

/// How a case has to end.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// With this exit code, and all of these words.
    Refused(i32, Vec<&'static str>),
    /// With exactly these files, as [`tree`] lists them.
    Files(Vec<String>),
    /// With success; what it means is looked at elsewhere, or it has no meaning.
    Built,
}

/// Refused as an input that is at fault.
pub(crate) fn refused(parts: &[&'static str]) -> Expect {
    Expect::Refused(1, parts.to_vec())
}

/// Built, with these files.
pub(crate) fn files(lines: &[&str]) -> Expect {
    Expect::Files(lines.iter().map(|line| (*line).to_owned()).collect())
}

/// An environment with a canary.
pub(crate) struct World {
    pub(crate) env: TestEnv,
    /// The tree that nothing may change.
    pub(crate) canary: PathBuf,
    before: Vec<String>,
    /// What went wrong so far: all of it is told at the end.
    failures: RefCell<Vec<String>>,
}

impl World {
    pub(crate) fn new(person: &Person) -> Self {
        let env = env_of(person.clone());
        let canary = env.root.join("canary");
        env.write("canary/secret", SECRET);
        env.write("canary/dir/inner", "inner");
        std::os::unix::fs::symlink("secret", canary.join("link")).unwrap();
        fs::set_permissions(canary.join("secret"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::create_dir(env.root.join("work")).unwrap();
        for name in ["canary", "canary/secret", "canary/dir", "canary/dir/inner", "canary/link", "work"] {
            person.give(&env.root.join(name)).unwrap();
        }
        let before = state(&env.root);
        Self { env, canary, before, failures: RefCell::default() }
    }

    /// Takes what is there now as what has to stay: for those who put more beside the canary.
    pub(crate) fn again(mut self) -> Self {
        self.before = state(&self.env.root);
        self
    }

    /// Returns the path of the canary without its first slash, behind more steps up than any directory is deep.
    pub(crate) fn upwards(&self) -> String {
        format!("{}{}", "../".repeat(40), self.canary.display().to_string().trim_start_matches('/'))
    }

    /// Writes a file of the case.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.env.write(&format!("work/{path}"), content);
        for part in path.ancestors().take_while(|part| *part != self.env.root) {
            self.env.person.give(part).unwrap();
        }
        path
    }

    /// Runs kiln in the directory of the case; its standard input is `input`.
    pub(crate) fn kiln(&self, args: &[&str], input: Option<&Path>) -> Outcome {
        let mut command = self.env.command(args);
        command.current_dir(self.env.root.join("work"));
        if let Some(input) = input {
            command.stdin(fs::File::open(input).unwrap());
        }
        within(&mut command, SOON)
    }

    /// Builds and judges; `out` of the case holds the files, where they are expected.
    pub(crate) fn check(&self, case: &str, expect: &Expect, args: &[&str], input: Option<&Path>) -> Outcome {
        let out = self.env.root.join("work/out");
        let _ = fs::remove_dir_all(&out);
        let outcome = self.kiln(args, input);
        self.judge(case, expect, &outcome);
        outcome
    }

    /// Judges the end of a case, and what is left of the world.
    pub(crate) fn judge(&self, case: &str, expect: &Expect, outcome: &Outcome) {
        if let Err(why) = self.verdict(expect, outcome).and_then(|()| self.unharmed()) {
            let told = outcome.stderr.get(..2000).unwrap_or(&outcome.stderr);
            self.fail(format!("{case}, as {}: {why}\n{}\n{told:?}", self.env.person, outcome.stdout));
        }
    }

    /// Notes a failure.
    pub(crate) fn fail(&self, why: impl Into<String>) {
        self.failures.borrow_mut().push(why.into());
    }

    fn verdict(&self, expect: &Expect, outcome: &Outcome) -> Result<(), String> {
        let stderr = &outcome.stderr;
        if stderr.contains(|c: char| c.is_control() && c != '\n' && c != '\t') {
            return Err("control characters reach the terminal".to_owned());
        }
        if stderr.contains("panicked") || stderr.len() > 200_000 {
            return Err(format!("{} bytes of errors, or a panic", stderr.len()));
        }
        if stderr.contains(SECRET) || outcome.stdout.contains(SECRET) {
            return Err("the secret of the machine is told".to_owned());
        }
        let code = if let Expect::Refused(code, _) = expect { *code } else { 0 };
        if outcome.code != Some(code) {
            return Err(format!("it ended with {:?}, not with {code}", outcome.code));
        }
        match expect {
            Expect::Built => Ok(()),
            Expect::Refused(_, parts) => {
                let missing: Vec<_> =
                    parts.iter().chain([&"error: "]).filter(|p| !stderr.contains(**p)).collect();
                let silent = missing.is_empty() && outcome.stdout.is_empty();
                if silent { Ok(()) } else { Err(format!("{missing:?} is not said, or a result printed")) }
            }
            Expect::Files(lines) => {
                let found = tree(&self.env.root.join("work/out"));
                if found == *lines { Ok(()) } else { Err(format!("expected {lines:#?}, found {found:#?}")) }
            }
        }
    }

    /// Tells what changed outside of the store.
    fn unharmed(&self) -> Result<(), String> {
        let now = state(&self.env.root);
        let lost: Vec<_> = self.before.iter().filter(|line| !now.contains(line)).collect();
        let new: Vec<_> = now.iter().filter(|line| !self.before.contains(line)).collect();
        if !lost.is_empty() || !new.is_empty() {
            return Err(format!("the machine changed: {lost:#?} became {new:#?}"));
        }
        let left: Vec<_> = fs::read_dir(self.env.root.join("tmp")).into_iter().flatten().flatten().collect();
        if left.is_empty() { Ok(()) } else { Err(format!("temporary files are left: {left:?}")) }
    }

    /// Asserts that the store is sound, and that a build from it succeeds and is right.
    #[track_caller]
    pub(crate) fn finish(self) {
        let verified = self.env.kiln(["fsck", "--format", "json"]);
        verified.ok();
        self.write("good/Dockerfile", "FROM scratch\nCOPY --chmod=640 f /f\nWORKDIR /w\n");
        self.write("good/f", "good");
        let good = files(&["file 640 f=good", "dir 755 w"]);
        self.check("the next build", &good, &["build", "-o", "type=local,dest=out", "good"], None);
        let failures = self.failures.take();
        assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n\n"));
    }
}

/// Runs a command that has to end in time.
pub(crate) fn within(command: &mut Command, limit: Duration) -> Outcome {
    use std::io::Read as _;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let errors = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = err.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let start = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end in {limit:?}: {}", errors.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Outcome { code, stdout: reader.join().unwrap(), stderr: errors.join().unwrap() }
}

/// Lists everything that a build must leave alone: all of it, with owners, modes, times and content.
fn state(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            // Work, store and what kiln makes for itself are looked at by their names alone.
            if ["work", "tmp", "home", "kiln"].contains(&name.as_str()) {
                lines.push(name);
                continue;
            }
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = match meta.is_file() {
                true => Digest::sha256(&fs::read(&path).unwrap()).to_string(),
                false => fs::read_link(&path).map(|to| to.display().to_string()).unwrap_or_default(),
            };
            // The time of the last change is one that nobody can set back.
            lines.push(format!(
                "{name} {:o} {}:{} {} {} {} {content}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.nlink(),
                meta.ctime(),
                meta.ctime_nsec()
            ));
            if meta.is_dir() {
                todo.push(path);
            }
        }
    }
    lines.sort();
    lines
}

/// Lists files: `file MODE PATH=CONTENT`, `dir MODE PATH`, `link PATH -> TARGET`, other kinds by mode and path.
pub(crate) fn tree(top: &Path) -> Vec<String> {
    let mut lines = BTreeMap::new();
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix(top).unwrap().display().to_string();
            let meta = fs::symlink_metadata(&path).unwrap();
            let mode = meta.mode() & 0o7777;
            let line = if meta.is_symlink() {
                format!("link {name} -> {}", fs::read_link(&path).unwrap().display())
            } else if meta.is_dir() {
                todo.push(path);
                format!("dir {mode:o} {name}")
            } else if meta.is_file() {
                let bytes = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(bytes.get(..60).unwrap_or(&bytes)).into_owned();
                format!("file {mode:o} {name}={text}")
            } else {
                format!("special {mode:o} {name}")
            };
            lines.insert(name, line);
        }
    }
    lines.into_values().collect()
}

/// An image made by hand: blobs, a config and a manifest, all of which may be wrong.
pub(crate) struct Layout {
    pub(crate) blobs: BTreeMap<String, Vec<u8>>,
    pub(crate) config: Value,
    pub(crate) manifest: Value,
}

impl Layout {
    /// Returns a sound image of these layers, each an uncompressed tar with what is sent for it.
    pub(crate) fn of(layers: &[(&[u8], &[u8])]) -> Self {
        let host = Platform::host();
        let mut layout = Self { blobs: BTreeMap::new(), config: Value::Null, manifest: Value::Null };
        let diff_ids: Vec<String> = layers.iter().map(|(tar, _)| Digest::sha256(tar).to_string()).collect();
        layout.config = json!({
            "architecture": host.architecture, "os": host.os, "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": diff_ids.iter().map(|_| json!({ "created_by": "by hand" })).collect::<Vec<_>>(),
        });
        let layers: Vec<Value> = layers
            .iter()
            .map(|(_, blob)| {
                let kind = match blob {
                    [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
                    [0x28, 0xb5, ..] => "application/vnd.oci.image.layer.v1.tar+zstd",
                    _ => MediaType::OCI_LAYER,
                };
                layout.put(kind, blob)
            })
            .collect();
        layout.manifest = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST, "config": Value::Null, "layers": layers,
        });
        layout
    }

    /// Adds a blob and returns its descriptor.
    pub(crate) fn put(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let descriptor = Descriptor::of(media_type, bytes);
        self.blobs.insert(descriptor.digest.hex().to_owned(), bytes.to_vec());
        serde_json::to_value(descriptor).unwrap()
    }

    /// Writes the layout to `dir`.
    pub(crate) fn write(mut self, dir: &Path) {
        let config = self.put(MediaType::OCI_CONFIG, &serde_json::to_vec(&self.config.clone()).unwrap());
        if self.manifest["config"].is_null() {
            self.manifest["config"] = config;
        }
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let mut top = self.put(MediaType::OCI_MANIFEST, &manifest);
        top["annotations"] = json!({ "org.opencontainers.image.ref.name": "latest" });
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (name, bytes) in &self.blobs {
            fs::write(dir.join("blobs/sha256").join(name), bytes).unwrap();
        }
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": [top] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}
