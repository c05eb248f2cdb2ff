//! Why a step was not in the cache: every kind of change is named.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kiln_testkit::{Outcome, TestEnv, lane};

use crate::{env, env_of};

fn build(env: &TestEnv, more: &[&str]) -> Outcome {
    let mut args = vec!["build", "--progress", "plain"];
    args.extend(more);
    args.push("ctx");
    let built = env.kiln(args);
    built.ok();
    built
}

/// Returns what `kiln build --explain` says without building, and asserts that the build then says the same, and that
/// `kiln explain` does afterwards.
#[track_caller]
fn explained(env: &TestEnv, more: &[&str]) -> String {
    let mut args = vec!["build", "--explain"];
    args.extend(more);
    args.push("ctx");
    let before = env.kiln(args).ok().to_owned();
    let built = build(env, more);
    let told = |text: &str, start: &str| -> Vec<String> {
        let reasons = text.lines().filter_map(|line| Some(line.split_once(start)?.1.to_owned()));
        let mut reasons: Vec<String> = reasons.collect();
        reasons.sort();
        reasons
    };
    let expected: Vec<String> =
        told(&before, "because ").into_iter().filter(|r| !r.starts_with("no earlier")).collect();
    assert_eq!(told(&built.stderr, "not cached: "), expected, "{before}\n{}", built.stderr);
    let after = env.kiln(["explain"]).ok().to_owned();
    for reason in &expected {
        assert!(
            after.contains(&format!("because {reason}\n")) || after.ends_with(&format!("because {reason}")),
            "{after}"
        );
    }
    before
}

#[test]
fn changed_files_are_named() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY src /src\nCOPY other /other\n");
    for name in ["src/a", "src/b/c", "src/run.sh", "other/x"] {
        env.write(&format!("ctx/{name}"), "1");
    }
    let file = |name: &str| env.root.join("ctx").join(name);
    let first = explained(&env, &[]);
    assert_eq!(first.matches("because no earlier build of this is known here").count(), 2, "{first}");
    assert!(!build(&env, &[]).stderr.contains("not cached"));

    env.write("ctx/src/a", "2");
    let told = explained(&env, &[]);
    assert!(told.contains("because `src/a` changed\n"), "{told}");
    assert!(told.contains("[3/3] COPY other /other (Dockerfile:3)\n"), "{told}");
    assert!(told.contains("because changed below, at `[2/3] COPY src /src`"), "{told}");

    fs::set_permissions(file("src/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(file("src/b/c")).unwrap();
    env.write("ctx/src/b/d", "new");
    let told = explained(&env, &[]);
    assert!(
        told.contains("because `src/b/c` is gone; `src/b/d` is new; `src/run.sh` has mode 755, had 644\n"),
        "{told}"
    );
    for number in 0..9 {
        env.write(&format!("ctx/src/n{number}"), "n");
    }
    let told = explained(&env, &[]);
    assert!(
        told.contains(
            "`src/n0` is new; `src/n1` is new; `src/n2` is new; `src/n3` is new; `src/n4` is new; and 4 more"
        ),
        "{told}"
    );

    env.write("ctx/.dockerignore", "src/n0\n");
    let told = explained(&env, &[]);
    assert!(told.contains("`src/n0` is gone"), "{told}");
}

#[test]
fn changed_instructions_are_told() {
    let Some(env) = lane::people("explanations of RUN").into_iter().next().map(env_of) else { return };
    let base = env.base();
    let write = |lines: &str| {
        env.write("ctx/Dockerfile", format!("FROM {base} AS one\n{lines}"));
    };
    env.write("ctx/f", "f");
    write("ARG V=1\nRUN echo $V > /v\nRUN cat /v\n");
    build(&env, &[]);
    let told = explained(&env, &["--build-arg", "V=2"]);
    assert!(
        told.contains("because variable `V` was `1`, is `2`; command")
            || told.contains("because variable `V` was `1`, is `2`\n"),
        "{told}"
    );
    assert!(told.contains("because changed below, at `[one 2/3] RUN echo $V > /v`"), "{told}");

    write("ARG V=2\nRUN echo $V > /v\nWORKDIR /w\nRUN cat /v\n");
    let told = explained(&env, &[]);
    assert!(told.contains("cached  [one 2/4] RUN echo"), "{told}");
    assert!(told.contains("WORKDIR /w (Dockerfile:4)\n        because the step is new\n"), "{told}");

    write("ARG V=2\nRUN echo $V > /v\nWORKDIR /w\nUSER 33\nRUN cat /v\n");
    let told = explained(&env, &[]);
    assert!(told.contains("because user was ``, is `33`"), "{told}");

    write("ARG V=2\nRUN echo $V > /v\nWORKDIR /w\nUSER 33\nRUN cat  /v; true\n");
    let told = explained(&env, &[]);
    assert!(told.contains("cat  /v; true"), "{told}");
    assert!(told.contains("because command was `"), "{told}");

    // What asked for it is the reason.
    assert!(explained(&env, &["--no-cache-filter", "one"]).contains("because done anew as asked"));
    let secret = ["--build-arg", "API_TOKEN=hunter2"];
    write("ARG API_TOKEN\nRUN true\n");
    build(&env, &[]);
    let told = explained(&env, &secret);
    assert!(told.contains("because variable `API_TOKEN` is new") && !told.contains("hunter2"), "{told}");
    let json = env.kiln(["explain", "--format", "json"]).ok().to_owned();
    assert!(json.contains("variable API_TOKEN") && !json.contains("hunter2"), "{json}");
}

#[test]
fn a_base_that_moved_is_named() {
    let env = env();
    let name = format!("{}/moving:1", env.host());
    let make = |content: &str| {
        env.write("base/f", content);
        env.write("base/Dockerfile", "FROM scratch\nCOPY f /f\n");
        env.kiln(["build", "-t", &name, "--push", "base"]).ok().to_owned()
    };
    env.write("ctx/Dockerfile", format!("FROM {name}\nCOPY g /g\n"));
    env.write("ctx/g", "g");
    let old = make("1");
    build(&env, &[]);
    let new = make("2");
    let told = explained(&env, &[]);
    assert!(told.contains(&format!("because base image `{name}` moved from {old} to {new}")), "{told}");
}

#[test]
fn what_the_store_lost_is_said() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    let out = ["-o", "type=oci,dest=out.tar"];
    build(&env, &out);
    for blob in fs::read_dir(env.root.join("home/store/blobs/sha256")).unwrap() {
        fs::remove_file(blob.unwrap().path()).unwrap();
    }
    assert!(explained(&env, &out).contains("because its layer was deleted from the cache"));
    env.kiln(["prune", "--all"]).ok();
    assert!(explained(&env, &out).contains("because its result was deleted from the cache"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(
        explained(&env, &[&out[..], &["--cache-ttl", "1s"]].concat())
            .contains("because its result is 0 min old")
    );
}

#[test]
fn an_explanation_does_nothing() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    let name = format!("{}/never:1", env.host());
    let told = env.kiln(["build", "--explain=json", "-t", &name, "--push", "ctx"]);
    let steps: serde_json::Value = serde_json::from_str(told.ok()).unwrap();
    assert_eq!(steps[1]["cached"], false);
    assert_eq!(steps[1]["place"], "Dockerfile:2");
    assert!(steps[0].get("cached").is_none(), "{steps}");
    env.kiln(["explain"]).fails(1, &["no build has left a record here"]);
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY gone /f\n");
    env.kiln(["build", "--explain", "ctx"]).fails(1, &["Dockerfile:2", "`gone`"]);
    env.kiln(["build", "--explain", "--check", "ctx"]).fails(2, &["--explain"]);
}

#[test]
fn without_an_earlier_build_a_shared_cache_is_compared_with() {
    let Some(env) = lane::people("explanations from a shared cache").into_iter().next().map(env_of) else {
        return;
    };
    let base = env.base();
    let dockerfile =
        |number: u32| format!("FROM {base}\nCOPY f /f\nARG V\nRUN echo $V\nRUN echo {number}\nRUN true\n");
    let cache = format!("{}/cache:1", env.host());
    env.write("ctx/Dockerfile", dockerfile(1));
    env.write("ctx/f", "1");
    build(&env, &["--build-arg", "V=one", "--cache-to", &format!("type=registry,ref={cache},mode=max")]);
    let elsewhere = |value: &str, number: u32| {
        env.write("elsewhere/f", "1");
        env.write("elsewhere/Dockerfile", dockerfile(number));
        let store = env.root.join(format!("home/elsewhere-{value}-{number}"));
        let store = store.to_str().unwrap();
        let arg = format!("V={value}");
        let args = [
            "build",
            "--explain",
            "--store",
            store,
            "--build-arg",
            &arg,
            "--cache-from",
            &cache,
            "elsewhere",
        ];
        env.kiln(args).ok().to_owned()
    };
    let told = elsewhere("one", 1);
    assert!(!told.contains("because"), "{told}");
    let told = elsewhere("two", 1);
    assert!(told.contains("because variable `V` changed\n") && !told.contains("two"), "{told}");
    let told = elsewhere("one", 2);
    assert!(told.contains("because command changed\n"), "{told}");
    assert!(told.contains("because changed below, at `[4/5] RUN echo 2`"), "{told}");
}
