//! What makes a step run again, what does not, and that nothing is done twice.

use std::process::Child;

use kiln_testkit::{Outcome, TestEnv, lane};

use crate::env_of;

/// An environment of somebody who can run commands.
fn runner(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

fn dockerfile(env: &TestEnv, text: &str) {
    env.write("ctx/Dockerfile", text.replace("BASE", &env.base()));
}

fn build(env: &TestEnv, more: &[&str]) -> Outcome {
    let mut args = vec!["build", "--progress", "plain"];
    args.extend(more);
    args.push("ctx");
    let built = env.kiln(args);
    built.ok();
    built
}

/// Tells of the step with `title` in it whether it came from the cache.
fn cached(built: &Outcome, title: &str) -> bool {
    let id = built.stderr.lines().find(|line| line.starts_with('#') && line.contains(title));
    let id = id.unwrap_or_else(|| panic!("no step `{title}` in {}", built.stderr));
    let id = id.split(' ').next().unwrap();
    built.stderr.lines().any(|line| line == format!("{id} CACHED"))
}

#[test]
fn a_step_made_anew_that_comes_out_as_before_changes_nothing_above() {
    let Some(env) = runner("steps found by content") else { return };
    let write = |comment: &str, value: &str| {
        dockerfile(
            &env,
            &format!(
                "FROM BASE AS build\nRUN : {comment}; echo {value} > /out\n\
                 FROM BASE\nCOPY --from=build /out /in\nRUN --mount=from=build,target=/b cat /b/out /in > /result\n"
            ),
        );
    };
    write("first", "a");
    build(&env, &[]);
    write("second", "a");
    let built = build(&env, &[]);
    assert!(!cached(&built, "RUN : second"), "{}", built.stderr);
    assert!(cached(&built, "COPY --from=build"), "{}", built.stderr);
    assert!(cached(&built, "cat /b/out"), "{}", built.stderr);
    // Known by its definition now, too: nothing of the first stage is looked at.
    let again = build(&env, &[]);
    assert!(cached(&again, "cat /b/out") && !again.stderr.contains("RUN : second"), "{}", again.stderr);
    write("second", "b");
    let built = build(&env, &[]);
    assert!(!cached(&built, "COPY --from=build") && !cached(&built, "cat /b/out"), "{}", built.stderr);
}

#[test]
fn equal_steps_of_two_stages_run_once() {
    let Some(env) = runner("equal steps") else { return };
    dockerfile(
        &env,
        "FROM BASE AS a\nRUN --mount=type=cache,target=/count echo x >> /count/runs && sleep 0.5\nRUN echo a > /a\n\
         FROM BASE AS b\nRUN --mount=type=cache,target=/count echo x >> /count/runs && sleep 0.5\nRUN echo b > /b\n\
         FROM BASE\nCOPY --from=a /a /a\nCOPY --from=b /b /b\n\
         RUN --mount=type=cache,target=/count echo \"runs: $(wc -l < /count/runs)\"\n",
    );
    let built = build(&env, &[]);
    assert!(built.stderr.contains("runs: 1"), "{}", built.stderr);
    assert_eq!(built.stderr.matches(">> /count/runs").count(), 1, "{}", built.stderr);
}

#[test]
fn two_builds_on_one_machine_run_a_step_once() {
    let Some(env) = runner("one step in two builds") else { return };
    dockerfile(
        &env,
        "FROM BASE\nRUN --mount=type=cache,target=/count echo x >> /count/runs && sleep 2\n\
         ARG WHO\nRUN --mount=type=cache,target=/count echo \"$WHO runs: $(wc -l < /count/runs)\"\n",
    );
    let start = |who: &str| -> Child {
        let arg = format!("WHO={who}");
        let mut command = env.command(["build", "--progress", "plain", "--build-arg", &arg, "ctx"]);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let builds = [start("one"), start("two")];
    let mut waited = 0;
    for build in builds {
        let output = build.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && text.contains(" runs: 1"), "{text}");
        waited +=
            usize::from(text.contains("waiting for another build on this machine that runs `[2/3] RUN"));
    }
    assert_eq!(waited, 1);
    let locks = std::fs::read_dir(env.root.join("home/store/locks")).unwrap();
    let left: Vec<_> = locks.flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("step-")), "{left:?}");
}

#[test]
fn a_secret_counts_where_it_is_asked_for() {
    let Some(env) = runner("secrets as part of keys") else { return };
    dockerfile(&env, "FROM BASE\nRUN --mount=type=secret,id=t true\nRUN echo below\n");
    let run = |value: &str, spec: &str| {
        env.write("t", value);
        let built = build(&env, &["--secret", spec]);
        (cached(&built, "type=secret"), built)
    };
    run("one", "id=t,src=t");
    assert!(run("two", "id=t,src=t").0, "the value of a secret counts for nothing");
    assert!(!run("two", "id=t,src=t,cache-key").0);
    assert!(run("two", "id=t,src=t,cache-key").0);
    let (hit, built) = run("three", "id=t,src=t,cache-key");
    assert!(!hit);
    assert!(cached(&built, "RUN echo below"), "what comes out as before changes nothing: {}", built.stderr);
}

#[test]
fn results_grow_too_old() {
    let env = crate::env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY a /\n");
    env.write("ctx/a", "a");
    build(&env, &[]);
    assert!(cached(&build(&env, &["--cache-ttl", "1h"]), "COPY a"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(!cached(&build(&env, &["--cache-ttl", "1s"]), "COPY a"));
    assert!(cached(&build(&env, &["--cache-ttl", "1h"]), "COPY a"));
}

#[test]
fn another_compression_converts_what_is_there() {
    let env = crate::env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY a /\nCOPY b /\n");
    env.write("ctx/a", "a".repeat(100_000));
    env.write("ctx/b", (0..20_000).map(|n| n.to_string()).collect::<String>());
    let choices: [&[&str]; 4] = [
        &["--compression", "gzip"],
        &["--compression", "gzip", "--compression-level", "9"],
        &["--compression", "zstd"],
        &["--compression", "uncompressed"],
    ];
    let digest = |store: &str, choice: &[&str]| {
        let built = build(&env, &[choice, &["--store", store]].concat());
        (built.ok().to_owned(), cached(&built, "COPY a") && cached(&built, "COPY b"))
    };
    let fresh = |at: usize| env.root.join(format!("home/fresh-{at}")).to_str().unwrap().to_owned();
    let expected: Vec<String> =
        choices.iter().enumerate().map(|(at, choice)| digest(&fresh(at), choice).0).collect();
    let shared = env.root.join("home/shared").to_str().unwrap().to_owned();
    for (at, choice) in choices.iter().enumerate() {
        assert_eq!(digest(&shared, choice), (expected[at].clone(), at > 0), "{choice:?}");
    }
    for (at, choice) in choices.iter().enumerate().rev() {
        assert_eq!(digest(&shared, choice), (expected[at].clone(), true), "{choice:?}, the second time");
    }
}
