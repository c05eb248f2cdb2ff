//! Deleting from the store while it is used: budgets, order, filters, and what must never go.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_testkit::{Outcome, Person, TestEnv, lane};
use serde_json::Value;

use crate::{env, env_of};

/// Bytes that no compression makes smaller, others for each `seed`.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[6]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// What the disk says that the store takes.
fn on_disk(store: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "--block-size=1"]).arg(store).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Asserts that the total is what the disk says, but for blocks that a file system gives or takes when it writes back.
#[track_caller]
fn assert_close(report: &Value, store: &Path) {
    let (told, found) = (report["total"].as_u64().unwrap(), on_disk(store));
    assert!(told.abs_diff(found) <= 32 << 10, "kiln says {told}, the disk {found}: {report:#}");
}

fn du(env: &TestEnv) -> Value {
    serde_json::from_str(env.kiln(["du", "--verbose", "--format", "json"]).ok()).unwrap()
}

/// Returns the kinds of what the store has, but for records of builds, which nobody prunes.
fn kinds(env: &TestEnv) -> Vec<String> {
    let report = du(env);
    let kinds =
        report["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind != "history").collect()
}

/// Returns the ids of the entries of a kind.
fn ids(env: &TestEnv, kind: &str) -> Vec<String> {
    let of_kind = |e: &&Value| e["kind"] == kind;
    let report = du(env);
    let entries = report["entries"].as_array().unwrap();
    let mut ids: Vec<String> =
        entries.iter().filter(of_kind).map(|e| e["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

/// Builds an image of one layer with so many bytes of noise into an archive.
fn layer(env: &TestEnv, seed: u64, bytes: usize, more: &[&str]) -> Outcome {
    env.write(&format!("ctx-{seed}/Dockerfile"), "FROM scratch\nCOPY f /f\n");
    env.write(&format!("ctx-{seed}/f"), noise(seed, bytes));
    let context = format!("ctx-{seed}");
    let mut args = vec!["build", "--progress", "plain", "-o", "type=oci,dest=out.tar"];
    args.extend(more);
    args.push(&context);
    env.kiln(args)
}

fn start(env: &TestEnv, args: &[&str]) -> Child {
    env.command(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until `done` holds.
fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_budget_holds_although_one_build_needs_more() {
    let env = env();
    let store = env.root.join("home/store");
    for seed in 0..5 {
        let expect = layer(&env, seed, 600_000, &["--store", "home/unlimited"]).ok().to_owned();
        let built = layer(&env, seed, 600_000, &["--keep-storage", "300KiB"]);
        assert_eq!(built.ok(), expect);
        assert!(!built.stderr.contains("warning"), "{}", built.stderr);
        assert!(on_disk(&store) <= 300 << 10, "{} bytes after build {seed}", on_disk(&store));
    }
    // The variable and the configuration file mean the same, and a build that fails is a build.
    let base = env.base();
    env.write("bad/Dockerfile", format!("FROM {base}\nRUN seq 100000 > /f\nRUN false\n"));
    let mut command = env.command(["build", "bad"]);
    Outcome::of(command.env("KILN_KEEP_STORAGE", "1MiB")).fails(1, &["RUN false"]);
    assert!(on_disk(&store) <= 1 << 20);
    let config = env.write("config.toml", "[defaults]\nkeep-storage = \"200KiB\"\n");
    let mut command = env.command(["build", "-o", "type=oci,dest=out.tar", "ctx-1"]);
    Outcome::of(command.env("KILN_CONFIG", config)).ok();
    assert!(on_disk(&store) <= 200 << 10);
}

#[test]
fn what_was_used_least_recently_goes_first() {
    let env = env();
    for seed in [1, 2, 3] {
        layer(&env, seed, 400_000, &[]).ok();
    }
    // Used again, the oldest is the newest.
    assert!(layer(&env, 1, 400_000, &[]).stderr.contains("CACHED"));
    let total = du(&env)["total"].as_u64().unwrap();
    let keep = (total - 100_000).to_string();
    let told = env.kiln(["prune", "--keep-storage", &keep]).ok().to_owned();
    assert!(told.contains("record"), "{told}");
    assert!(told.lines().any(|line| line.starts_with("layer") && line.ends_with("1 entry")), "{told}");
    assert!(layer(&env, 1, 400_000, &[]).stderr.contains("CACHED"));
    assert!(layer(&env, 3, 400_000, &[]).stderr.contains("CACHED"));
    let second = layer(&env, 2, 400_000, &[]);
    second.ok();
    assert!(!second.stderr.contains("CACHED"), "{}", second.stderr);
}

#[test]
fn images_stay_and_a_budget_that_they_exceed_is_said() {
    let env = env();
    layer(&env, 1, 400_000, &["-o", "type=image", "-t", "kept:1"]).ok();
    layer(&env, 2, 400_000, &[]).ok();
    let told = env.kiln(["prune", "--keep-storage", "200KiB"]).ok().to_owned();
    assert!(told.contains("more than it should: images"), "{told}");
    assert!(env.kiln(["images"]).ok().contains("kept"));
    assert_eq!(ids(&env, "image").len(), 3, "manifest, config, layer");
    assert!(ids(&env, "layer").is_empty());
    let warned = layer(&env, 3, 1000, &["--keep-storage", "200KiB"]);
    warned.ok();
    assert!(warned.stderr.contains("warning: the store takes"), "{}", warned.stderr);
    env.write("child/Dockerfile", "FROM kept:1\nCOPY --from=kept:1 /f /g\n");
    env.kiln(["build", "child"]).ok();
    env.kiln(["prune", "--all", "--keep-storage", "200KiB"]).ok();
    assert_eq!(env.kiln(["images", "--format", "json"]).ok(), "[]");
    assert!(on_disk(&env.root.join("home/store")) <= 200 << 10);
}

#[test]
fn what_a_running_build_uses_stays() {
    for person in lane::people("prune while a build runs") {
        let env = env_of(person);
        let base = env.base();
        env.write("ctx/f", noise(7, 100_000));
        env.write(
            "from/Dockerfile",
            format!("FROM {base}\nRUN --mount=type=cache,id=c,target=/c echo c > /c/f && echo a > /a\n"),
        );
        env.kiln(["build", "-t", "local:1", "from"]).ok();
        let text = |pause: &str| {
            format!(
                "FROM local:1 AS one\nRUN --mount=type=cache,id=c,target=/c {pause} && cp /c/f /b\nRUN cat /a > /d\n\
                 FROM local:1\nCOPY f /f\nCOPY --from=one /b /d /\n"
            )
        };
        env.write("ctx/Dockerfile", text("sleep 3"));
        let mut build = start(&env, &["build", "--no-cache", "-t", "made:1", "ctx"]);
        // The command is there when its cache is taken.
        wait("the build does not begin", || {
            assert!(build.try_wait().unwrap().is_none(), "the build ended too soon");
            let report = du(&env);
            let entries = report["entries"].as_array().unwrap();
            entries.iter().any(|e| e["kind"] == "cache-mount" && e["in_use"] == true)
        });
        let told = env.kiln(["prune", "--all"]).ok().to_owned();
        assert!(told.contains("running builds use") && told.contains("which stay"), "{told}");
        assert!(env.kiln(["prune", "--all", "--keep-storage", "0"]).ok().contains("running builds use"));
        assert!(build.try_wait().unwrap().is_none(), "prune waited for the build");
        assert!(build.wait().unwrap().success());
        assert!(env.kiln(["images"]).ok().contains("made"));
        // What it made is whole, and can be built on.
        env.write("check/Dockerfile", "FROM made:1\nRUN cat /b /d > /e && test $(wc -l < /e) = 2\n");
        env.kiln(["build", "check"]).ok();
        // Of a build that was killed, nothing is used any more.
        env.kiln(["build", "-t", "local:1", "from"]).ok();
        let mut killed = start(&env, &["build", "--no-cache", "ctx"]);
        std::thread::sleep(Duration::from_millis(700));
        killed.kill().unwrap();
        killed.wait().unwrap();
        env.kiln(["prune", "--all"]).ok();
        assert_eq!(kinds(&env), [""; 0]);
    }
}

#[test]
fn builds_and_prunes_in_one_store_do_not_hurt_each_other() {
    let Some(env) = lane::people("builds and prunes at once").into_iter().next().map(env_of) else { return };
    let base = env.base();
    let mut expect = Vec::new();
    for n in 0..3 {
        let text = format!(
            "FROM {base} AS a\nCOPY . /src\nRUN --mount=type=cache,target=/c cat /src/* > /all && echo x >> /c/x\n\
             FROM {base}\nCOPY --from=a /all /all\nRUN cp /all /again && mkdir -p /d{n}/e\n"
        );
        env.write(&format!("ctx{n}/Dockerfile"), text);
        env.write(&format!("ctx{n}/f"), noise(n, 200_000));
        let context = format!("ctx{n}");
        expect.push(env.kiln(["build", "--store", "home/reference", &context]).ok().to_owned());
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (env, over) = (&env, &over);
        let builders: Vec<_> = (0..3)
            .map(|n| {
                let expect = &expect[n];
                scope.spawn(move || {
                    let name = format!("app{n}:1");
                    let context = format!("ctx{n}");
                    let output = format!("type=oci,dest=home/out{n}.tar");
                    for round in 0..4 {
                        let args = match round % 2 {
                            0 => vec!["build", "-t", &name, &context],
                            _ => vec!["build", "--keep-storage", "2MiB", "-o", &output, &context],
                        };
                        assert_eq!(env.kiln(args).ok(), expect, "build {n}, round {round}");
                    }
                })
            })
            .collect();
        for args in [vec!["prune", "--all"], vec!["prune", "--keep-storage", "1MiB"], vec!["du"]] {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    env.kiln(&args).ok();
                }
            });
        }
        let ended: Vec<_> = builders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        for end in ended {
            end.unwrap();
        }
    });
    for blob in std::fs::read_dir(env.root.join("home/store/blobs/sha256")).unwrap().flatten() {
        let bytes = std::fs::read(blob.path()).unwrap();
        assert_eq!(kiln::oci::Digest::sha256(&bytes).hex(), blob.file_name().to_string_lossy());
    }
    for record in std::fs::read_dir(env.root.join("home/store/records")).unwrap().flatten() {
        let record: Value = serde_json::from_slice(&std::fs::read(record.path()).unwrap()).unwrap();
        let digest = record["layer"]["digest"].as_str().unwrap().replace("sha256:", "");
        assert!(env.root.join("home/store/blobs/sha256").join(digest).exists(), "a record without its layer");
    }
    let _ = env.kiln(["prune", "--all", "--store", "home/reference"]);
}

#[test]
fn a_prune_that_is_killed_leaves_a_sound_store() {
    let Some(env) = lane::people("killing prunes").into_iter().next().map(env_of) else { return };
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN mkdir /d && cd /d && seq 3000 | while read n; do echo $n > $n; done\nRUN cp -r /d /e\nRUN cp -r /d /f\n"),
    );
    let expect = env.kiln(["build", "--store", "home/reference", "ctx"]).ok().to_owned();
    for n in 0..6 {
        assert_eq!(env.kiln(["build", "ctx"]).ok(), expect);
        let mut prune = start(&env, &["prune", "--all"]);
        std::thread::sleep(Duration::from_millis(15 * n));
        let _ = prune.kill();
        let _ = prune.wait();
        env.kiln(["images"]).ok();
        let left: Vec<_> = std::fs::read_dir(env.root.join("home/store/tmp")).unwrap().flatten().collect();
        assert!(left.is_empty(), "what the killed prune left is there: {left:?}");
    }
    assert_eq!(env.kiln(["build", "ctx"]).ok(), expect);
    let mut two = [start(&env, &["prune", "--all"]), start(&env, &["prune", "--all"])];
    assert!(two.iter_mut().all(|prune| prune.wait().unwrap().success()));
    assert_eq!(kinds(&env), [""; 0]);
    let _ = env.kiln(["prune", "--all", "--store", "home/reference"]);
}

#[test]
fn du_says_what_the_disk_says() {
    for person in lane::people("du of a store") {
        if person == Person::Caller {
            lane::left_out("du of a store", "only root can ask the disk about files of other ids");
            continue;
        }
        let env = env_of(person);
        let base = env.base();
        let store = env.root.join("home/store");
        env.write("ctx/f", noise(1, 300_000));
        env.write(
            "ctx/Dockerfile",
            format!(
                "FROM {base}\nCOPY f /f\nRUN --mount=type=cache,id=my-cache,target=/c --mount=type=bind,target=/x \
                 cp /x/f /c/f && ln /c/f /c/g && cp /f /g && ln /g /h && mkdir -m 0 /closed\n"
            ),
        );
        env.kiln(["build", "-t", "app:1", "ctx"]).ok();
        std::fs::create_dir_all(store.join("history/one")).unwrap();
        std::fs::write(store.join("history/one/log"), noise(2, 50_000)).unwrap();
        std::fs::create_dir_all(store.join("contexts")).unwrap();
        std::fs::write(store.join("contexts/abc"), noise(2, 20_000)).unwrap();
        let report = du(&env);
        assert_close(&report, &store);
        assert_eq!(du(&env)["total"], report["total"], "what was counted once is remembered");
        let parts = report["other"].as_u64().unwrap()
            + report["kinds"].as_array().unwrap().iter().map(|k| k["size"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(report["total"].as_u64().unwrap(), parts);
        let kinds: Vec<&str> =
            report["kinds"].as_array().unwrap().iter().map(|k| k["kind"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["layer", "snapshot", "record", "cache-mount", "context", "image", "history"]);
        let table = env.kiln(["du", "--verbose"]).ok().to_owned();
        for part in ["my-cache", "RUN --mount=type=cache", "KIND", "RECLAIMABLE", "total"] {
            assert!(table.contains(part), "{table}");
        }
        // A cache that a command had again is counted again.
        let size = |report: &Value| -> u64 {
            let entries = report["entries"].as_array().unwrap();
            entries.iter().find(|e| e["kind"] == "cache-mount").unwrap()["size"].as_u64().unwrap()
        };
        env.write(
            "more/Dockerfile",
            format!("FROM {base}\nRUN --mount=type=cache,id=my-cache,target=/c cat /c/f /c/f > /c/h\n"),
        );
        env.kiln(["build", "-o", "type=oci,dest=home/x.tar", "more"]).ok();
        let after = du(&env);
        assert!(size(&after) >= size(&report) + 500_000, "{after:#}");
        assert_close(&after, &store);
        env.kiln(["prune", "--all"]).ok();
        assert_close(&du(&env), &store);
        assert!(store.join("history/one/log").exists() && !store.join("contexts/abc").exists());
    }
}

#[test]
fn filters_say_what_goes_and_a_dry_run_deletes_nothing() {
    let Some(env) = lane::people("filters of prune").into_iter().next().map(env_of) else { return };
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base}\nRUN --mount=type=cache,id=one,target=/c echo 1 > /c/f\nRUN --mount=type=cache,id=two,target=/c echo 2 > /c/f && echo x > /x\n"
        ),
    );
    env.kiln(["build", "-o", "type=oci,dest=out.tar", "ctx"]).ok();
    let all = du(&env);
    let dry = env.kiln(["prune", "--dry-run"]).ok().to_owned();
    for part in ["would free", "one", "two", "snapshot", "record", "layer"] {
        assert!(dry.contains(part), "{dry}");
    }
    assert_eq!(du(&env)["entries"], all["entries"]);
    assert_eq!(env.kiln(["prune", "--older-than", "1h"]).ok(), "nothing to delete");
    assert_eq!(env.kiln(["prune", "--filter", "until=1h"]).ok(), "nothing to delete");
    // Filters that contradict each other find nothing.
    let nothing = ["prune", "--filter", "type=layer", "--filter", "type=snapshot"];
    assert_eq!(env.kiln(nothing).ok(), "nothing to delete");
    assert_eq!(ids(&env, "cache-mount"), ["one", "two"].map(str::to_owned));
    env.kiln(["prune", "-f", "--filter", "id=one"]).ok();
    assert_eq!(ids(&env, "cache-mount"), ["two"]);
    env.kiln(["prune", "--filter", "type=snapshot"]).ok();
    assert!(ids(&env, "snapshot").is_empty() && !ids(&env, "layer").is_empty());
    // Without snapshots, layers are unpacked again, and nothing runs again.
    env.write("more/Dockerfile", {
        let text = std::fs::read_to_string(env.root.join("ctx/Dockerfile")).unwrap();
        text + "RUN cat /x > /y\n"
    });
    let more = env.kiln(["build", "--progress", "plain", "-o", "type=oci,dest=out.tar", "more"]);
    more.ok();
    assert_eq!(more.stderr.matches("CACHED").count(), 2, "{}", more.stderr);
    env.kiln(["prune", "--filter", "type=layer"]).ok();
    assert!(ids(&env, "layer").is_empty() && ids(&env, "record").is_empty());
    assert_eq!(ids(&env, "cache-mount"), ["two"]);
    env.kiln(["prune", "--filter", "type=cache-mount", "--filter", "until=0s"]).ok();
    assert_eq!(env.kiln(["cache", "ls"]).ok(), "ID  SIZE  USED");
    // A file system with space enough needs no deletion.
    assert_eq!(env.kiln(["prune", "--min-free-space", "1"]).ok(), "nothing to delete");
    assert!(env.kiln(["prune", "--min-free-space", "1000PiB"]).ok().contains("more than it should"));
}

#[test]
fn root_prunes_what_users_built() {
    for person in lane::people("prune of somebody else's store") {
        let Person::Ordinary { range, .. } = &person else { continue };
        let owner = if *range { "chown 33:50 /d/f && " } else { "" };
        let run = format!("RUN mkdir -m 700 /d && echo x > /d/f && {owner}chmod 0 /d/f\n");
        let env = env_of(person);
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base}\n{run}"));
        env.kiln(["build", "ctx"]).ok();
        let store = env.root.join("home/store");
        let mut prune = Command::new(env.root.join("kiln"));
        Outcome::of(prune.args(["prune", "--all", "--store"]).arg(&store)).ok();
        for folder in ["snapshots/nested", "snapshots/single", "blobs/sha256", "records"] {
            let left = std::fs::read_dir(store.join(folder)).map_or(0, Iterator::count);
            assert_eq!(left, 0, "{folder}");
        }
        env.kiln(["build", "ctx"]).ok();
    }
}

#[test]
fn wrong_sizes_and_filters_are_explained() {
    let env = env();
    env.kiln(["prune", "--keep-storage", "10 apples"]).fails(2, &["--keep-storage", "`10GiB`"]);
    env.kiln(["build", "--keep-storage=-1", "."]).fails(2, &["--keep-storage"]);
    env.kiln(["prune", "--filter", "typ=layer"]).fails(2, &["did you mean `type`?"]);
    env.kiln(["prune", "--filter", "type=blob"]).fails(2, &["layer, snapshot, record, cache-mount"]);
    env.kiln(["prune", "--filter", "type=image"]).fails(2, &["--all", "kiln rmi"]);
    env.write("ctx/Dockerfile", "FROM scratch\n");
    let mut command = env.command(["build", "ctx"]);
    Outcome::of(command.env("KILN_KEEP_STORAGE", "lots")).fails(2, &["KILN_KEEP_STORAGE", "`lots`"]);
    let config = env.write("config.toml", "[defaults]\nkeep-storage = \"lots\"\n");
    let mut command = env.command(["build", "ctx"]);
    Outcome::of(command.env("KILN_CONFIG", config)).fails(1, &["config.toml", "`lots` is no size"]);
    assert_eq!(env.kiln(["prune", "--store", "nowhere"]).ok(), "nothing to delete");
    assert!(env.kiln(["du", "--store", "nowhere"]).ok().contains("total"));
    assert!(!env.root.join("nowhere").exists());
}

#[test]
fn the_examples_of_the_page_about_the_store_work() {
    const TEXT: &str = include_str!("../../../../docs/store.md");
    let env = env();
    layer(&env, 1, 1000, &["-o", "type=image", "-t", "app"]).ok();
    env.write("Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let blocks = TEXT.split("```sh\n").skip(1).map(|part| part.split("```").next().unwrap());
    let mut commands = 0;
    for line in blocks.flat_map(str::lines) {
        let line = line.split(" #").next().unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words.first(), Some(&"kiln"), "{line}");
        env.kiln(&words[1..]).ok();
        commands += 1;
    }
    assert!(commands >= 6, "{commands}");
}
