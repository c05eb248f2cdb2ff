//! `kiln fsck`: every kind of damage is found, said and repaired, and the next build makes again what is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use kiln_testkit::{TestEnv, lane};
use serde_json::Value;

use crate::{env, env_of};

/// A store with something of everything, and what was built.
struct Full {
    env: TestEnv,
    digest: String,
}

impl Full {
    fn new() -> Option<Self> {
        let env = lane::people("a full store").into_iter().next().map(env_of)?;
        let base = env.base();
        env.write("ctx/f", "from the context");
        env.write(
            "ctx/Dockerfile",
            format!(
                "FROM {base}\nCOPY f /f\nRUN --mount=type=cache,id=c,target=/c echo x > /c/x && cp /f /d && ln -s d /l\n\
                 RUN cat /d > /e\n"
            ),
        );
        let full = Self { env, digest: String::new() };
        let digest = full.build();
        Some(Self { digest, ..full })
    }

    fn build(&self) -> String {
        self.env.kiln(["build", "-t", "kept:1", "ctx"]).ok().to_owned()
    }

    fn store(&self, path: &str) -> PathBuf {
        self.env.root.join("home/store").join(path)
    }

    /// Returns the entries of a folder of the store.
    fn all(&self, folder: &str) -> Vec<PathBuf> {
        let mut all: Vec<PathBuf> =
            fs::read_dir(self.store(folder)).unwrap().flatten().map(|e| e.path()).collect();
        all.sort();
        all
    }

    /// Returns the blobs of the image: manifest, config, then layers.
    fn blobs(&self) -> Vec<PathBuf> {
        let index: Value = serde_json::from_slice(&fs::read(self.store("index.json")).unwrap()).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            self.store("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
        };
        let manifest = blob(&index["manifests"][0]);
        let document: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        let layers = document["layers"].as_array().unwrap().iter().map(blob);
        [manifest.clone(), blob(&document["config"])].into_iter().chain(layers).collect()
    }

    /// Expects these faults, in the order of their paths, and that a repair leaves nothing to find.
    #[track_caller]
    fn check(&self, what: &str, kinds: &[&str], parts: &[&str]) {
        let found = self.env.kiln(["fsck", "--format", "json"]);
        assert_eq!(found.code, Some(1), "{what}: {}{}", found.stdout, found.stderr);
        let report: Value = serde_json::from_str(&found.stdout).unwrap();
        assert_eq!(report["sound"], false);
        let faults = report["faults"].as_array().unwrap();
        let mut told: Vec<&str> = faults.iter().map(|fault| fault["kind"].as_str().unwrap()).collect();
        told.dedup();
        assert_eq!(told, kinds, "{what}: {report:#}");
        let told = self.env.kiln(["fsck"]);
        assert_eq!(told.code, Some(1));
        for part in parts.iter().chain(&["`kiln fsck --repair` removes it"]) {
            assert!(told.stdout.contains(part), "{what}: `{part}` is not in {}", told.stdout);
        }
        let repaired = self.env.kiln(["fsck", "--repair"]);
        assert!(repaired.ok().contains("is sound again"), "{what}: {}", repaired.stdout);
        assert!(self.env.kiln(["fsck"]).ok().contains("is sound"), "{what}");
        assert_eq!(self.build(), self.digest, "{what}: the next build");
        assert!(self.env.kiln(["fsck"]).ok().contains("is sound"), "{what}");
    }
}

/// Changes one byte of a file, in place.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn blobs_and_images() {
    let Some(full) = Full::new() else { return };
    assert!(full.env.kiln(["fsck"]).ok().contains("is sound"));
    let said = ["have the digest sha256:", "kept:1`: its blob", "is damaged"];
    // The layer of the base is pulled for commands, and a blob of the store since.
    for (n, name) in ["the manifest", "the config", "the layer of the base"].iter().enumerate() {
        flip(&full.blobs()[n]);
        full.check(name, &["blob", "image"], &said);
    }
    flip(&full.blobs()[3]);
    full.check("a layer", &["blob", "image", "record"], &said);
    cut(&full.blobs()[3]);
    full.check("a layer that is cut off", &["blob", "image", "record"], &["a build takes the step"]);
    fs::remove_file(&full.blobs()[4]).unwrap();
    full.check("a layer that is gone", &["image"], &["is not in the store"]);
    fs::write(full.store("blobs/sha256/strange"), "x").unwrap();
    full.check("a blob that kiln did not make", &["blob"], &["nothing that kiln put here"]);
    cut(&full.store("index.json"));
    full.check("the list of images", &["index"], &["index.json", "is damaged"]);
}

#[test]
fn records_snapshots_and_memory() {
    let Some(full) = Full::new() else { return };
    cut(&full.all("records")[0]);
    full.check("a record that is cut off", &["record"], &["it is no record"]);
    fs::write(&full.all("records")[1], "").unwrap();
    full.check("an empty record", &["record"], &["it is no record"]);
    for index in full.all("contexts") {
        flip(&index);
        full.check("an index of a context", &["memory"], &["contexts/"]);
    }
    let build = full.all("history").into_iter().find(|path| path.join("build.json").exists()).unwrap();
    fs::write(build.join("build.json"), "{").unwrap();
    full.check("the record of a build", &["memory"], &["build.json", "it is no JSON"]);
    fs::write(full.store("tmp/left"), "x").unwrap();
    full.check("a file of nobody", &["rubbish"], &["it belongs to no process"]);
    fs::write(full.store("format.4000000000.tmp"), "x").unwrap();
    full.check("a file of a process that is gone", &["rubbish"], &["process 4000000000"]);
    let caches = full.all("cache-mounts");
    let cache = fs::read_dir(&caches[0]).unwrap().flatten().next().unwrap().path();
    fs::remove_file(cache.join("id.json")).unwrap();
    full.check("a cache without a name", &["cache-mount"], &["`id.json` is missing or damaged"]);
}

#[test]
fn snapshots_are_compared_with_their_layers() {
    let Some(full) = Full::new() else { return };
    // A build that finds its layers unpacks none of them, so each case begins anew.
    let with = |name: &str| {
        full.env.kiln(["prune", "--all"]).ok();
        assert_eq!(full.build(), full.digest);
        let scheme = full.all("snapshots").remove(0);
        let mut all = fs::read_dir(&scheme).unwrap().flatten().map(|e| e.path());
        all.find(|snapshot| snapshot.join("fs").join(name).symlink_metadata().is_ok()).unwrap()
    };
    fs::write(with("d").join("fs/d"), "of another text!").unwrap();
    full.check("another content", &["snapshot"], &["`d` has another content"]);
    fs::write(with("d").join("fs/d"), "short").unwrap();
    full.check("another size", &["snapshot"], &["`d` has another size"]);
    fs::remove_file(with("bin/sh").join("fs/bin/sh")).unwrap();
    full.check("a file that is gone", &["snapshot"], &["`bin/sh` is missing"]);
    let dir = with("d");
    fs::remove_file(dir.join("fs/l")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("fs/l")).unwrap();
    full.check("another link", &["snapshot"], &["`l` leads elsewhere"]);
    fs::remove_dir_all(with("d").join("fs")).unwrap();
    full.check("no files at all", &["snapshot"], &["`fs` cannot be opened"]);
    fs::remove_file(with("d").join("boot")).unwrap();
    full.check("no mark", &["snapshot"], &["no readable mark `boot`"]);
}

#[test]
fn what_a_running_build_uses_stays_until_it_ends() {
    let Some(full) = Full::new() else { return };
    let base = full.env.base();
    full.env
        .write("slow/Dockerfile", format!("FROM kept:1\nRUN sleep 3\nFROM {base}\nCOPY --from=0 /d /d\n"));
    let mut build =
        full.env.command(["build", "slow"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let start = std::time::Instant::now();
    let running = || {
        let told = full.env.kiln(["du", "--verbose", "--format", "json"]);
        let report: Value = serde_json::from_str(told.ok()).unwrap();
        report["entries"].as_array().unwrap().iter().filter(|e| e["in_use"] == true).count() > 4
    };
    while !running() {
        assert!(start.elapsed().as_secs() < 30, "the build does not begin");
        assert!(build.try_wait().unwrap().is_none(), "the build ended too soon");
    }
    // A layer that the build has unpacked and needs no more: its end is not in danger.
    flip(&full.blobs()[3]);
    let told = full.env.kiln(["fsck", "--repair"]);
    assert_eq!(told.code, Some(1), "{}", told.stdout);
    assert!(told.stdout.contains("a running build uses it"), "{}", told.stdout);
    assert!(build.wait().unwrap().success(), "the repair broke a running build");
    assert!(full.env.kiln(["fsck", "--repair"]).ok().contains("is sound again"));
}

#[test]
fn a_store_that_is_not_there_is_not_made() {
    let env = env();
    assert!(env.kiln(["fsck"]).ok().contains("is sound"));
    assert!(!env.root.join("home/store").exists());
}
