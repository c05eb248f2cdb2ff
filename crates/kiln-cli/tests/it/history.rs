//! What builds leave behind: records, logs, traces.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use kiln_testkit::{TestEnv, lane};
use serde_json::Value;

use crate::{env, env_of};

fn json(env: &TestEnv, args: &[&str]) -> Value {
    let args = [args, &["--format", "json"]].concat();
    serde_json::from_str(env.kiln(args).ok()).unwrap()
}

fn for_somebody(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

/// Starts a build and waits until a step has printed `ready`.
fn started(env: &TestEnv, args: &[&str]) -> Child {
    let mut command = env.command([&["build", "--progress", "plain"], args].concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.ends_with(" ready"))), "the command did not start");
    // Whatever it goes on to say must not block it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn signal(child: &mut Child, name: &str) -> Option<i32> {
    let status = std::process::Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(status.unwrap().success());
    child.wait().unwrap().code()
}

fn statuses(record: &Value) -> Vec<&str> {
    record["steps"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect()
}

#[test]
fn a_build_is_listed_and_shown() {
    for person in lane::people("records of builds") {
        let env = env_of(person);
        let base = env.base();
        env.write("ctx/f", "f");
        env.write(
            "ctx/Dockerfile",
            format!(
                "FROM {base}\nARG API_TOKEN\nARG FLAVOUR\nRUN echo to the log && echo aside >&2\nCOPY f /f\n"
            ),
        );
        let name = format!("{}/app:1", env.host());
        let args = [
            "build",
            "-t",
            &name,
            "--push",
            "--build-arg",
            "API_TOKEN=unmentionable",
            "--build-arg",
            "FLAVOUR=plain",
            "ctx",
        ];
        let digest = env.kiln(args).ok().to_owned();
        env.kiln(args).ok();

        let list = json(&env, &["history"]);
        let row = |at: usize| (&list[at]["number"], &list[at]["cached"], &list[at]["steps"]);
        assert_eq!(row(0), (&2.into(), &2.into(), &2.into()));
        assert_eq!(row(1), (&1.into(), &0.into(), &2.into()));
        assert_eq!(list[0]["digest"], digest.as_str());
        assert_eq!(list[0]["names"][0], name.as_str());
        let table = env.kiln(["history"]).ok().to_owned();
        assert!(table.contains("2/2") && table.contains(&digest["sha256:".len()..][..12]), "{table}");

        let record = json(&env, &["history", "show", "1"]);
        assert_eq!(statuses(&record), ["done", "done", "done"]);
        assert_eq!(record["outcome"]["digest"], digest.as_str());
        assert_eq!(record["request"]["build_args"].to_string(), r#"["API_TOKEN","FLAVOUR"]"#);
        let parts = record["steps"][1]["parts"].to_string();
        assert!(parts.contains("variable FLAVOUR") && parts.contains("plain"), "{parts}");
        assert!(!record.to_string().contains("unmentionable"), "{record}");
        assert_eq!(record["pins"][0]["name"], base.as_str());
        assert!(record["pins"][0]["digest"].as_str().unwrap().starts_with("sha256:"));
        let transfers = record["transfers"].to_string();
        assert!(transfers.contains("pull ") && transfers.contains("push "), "{transfers}");
        for step in &record["steps"].as_array().unwrap()[1..] {
            assert!(step["key"].is_string() && step["layer"]["size"].as_u64() > Some(0), "{step}");
        }
        let latest = json(&env, &["history", "show"]);
        assert_eq!(statuses(&latest), ["done", "cached", "cached"]);
        assert_eq!(latest["lineage"], record["lineage"]);
        // The cached steps have the same keys and layers as when they were done.
        for part in ["key", "layer", "diff_id"] {
            assert_eq!(latest["steps"][1][part], record["steps"][1][part]);
        }
        let page = env.kiln(["history", "show", "1"]).ok().to_owned();
        for part in ["build 1 made sha256:", "Isolation", "RUN echo to the log", "pull ", &base] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
        let log = env.kiln(["history", "log", "1"]).ok().to_owned();
        assert!(log.contains("to the log") && log.lines().all(|line| line.starts_with("#2 ")), "{log}");
        let log = env.kiln(["history", "log", "1", "--step", "2"]).ok().to_owned();
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["aside", "to the log"]);
        assert_eq!(env.kiln(["history", "log", "1", "--step", "3"]).ok(), "");
        assert_eq!(env.kiln(["history", "log"]).ok(), "");
    }
}

#[test]
fn failed_stopped_and_killed_builds_are_told_apart() {
    let Some(env) = for_somebody("builds that fail or are stopped") else { return };
    let base = env.base();
    env.write("bad/Dockerfile", format!("FROM {base}\nRUN echo last words && exit 3\nRUN true\n"));
    env.kiln(["build", "bad"]).fails(1, &["exit code 3"]);
    let record = json(&env, &["history", "show"]);
    assert_eq!(statuses(&record), ["done", "failed", "not-reached"]);
    assert_eq!(record["outcome"]["status"], "failed");
    assert_eq!(
        (&record["outcome"]["step"], &record["outcome"]["place"]),
        (&2.into(), &"Dockerfile:2".into())
    );
    let page = env.kiln(["history", "show"]).ok().to_owned();
    assert!(page.contains("build 1 failed") && page.contains("kiln history log 1 --step 2"), "{page}");
    assert_eq!(env.kiln(["history", "log", "1", "--step", "2"]).ok(), "last words");
    // One that fails before there is a plan.
    env.kiln(["build", "--target", "none", "bad"]).fails(1, &[]);
    assert_eq!(json(&env, &["history", "show"])["steps"], Value::Array(Vec::new()));

    env.write("ctx/Dockerfile", format!("FROM {base}\nRUN echo ready; sleep 1000\n"));
    let mut child = started(&env, &["ctx"]);
    assert_eq!(json(&env, &["history"])[0]["status"], "running");
    assert!(env.kiln(["history", "show"]).ok().contains("build 3 is running"));
    assert_eq!(env.kiln(["history", "log", "--step", "2"]).ok(), "ready");
    env.kiln(["history", "rm", "3"]).fails(1, &["build 3 is still running"]);
    assert_eq!(signal(&mut child, "-TERM"), Some(143));
    let record = json(&env, &["history", "show", "3"]);
    assert_eq!(record["outcome"]["status"], "interrupted");
    assert_eq!(statuses(&record), ["done", "stopped"]);

    let mut child = started(&env, &["ctx"]);
    assert_eq!(signal(&mut child, "-KILL"), None);
    let list = json(&env, &["history"]);
    let all: Vec<&str> = (0..4).map(|n| list[n]["status"].as_str().unwrap()).collect();
    assert_eq!(all, ["unfinished", "interrupted", "failed", "failed"]);
    assert!(env.kiln(["history", "show"]).ok().contains("killed"));
    assert_eq!(env.kiln(["history", "log", "4", "--step", "2"]).ok(), "ready");
    // A look at a build is none.
    env.kiln(["build", "--check", "ctx"]).ok();
    env.kiln(["build", "--call", "outline", "ctx"]).ok();
    assert_eq!(env.kiln(["history", "rm", "4", "latest"]).ok(), "4\n3");
    assert_eq!(json(&env, &["history"]).as_array().unwrap().len(), 2);
    env.kiln(["history", "rm", "--all"]).ok();
    assert_eq!(json(&env, &["history"]), Value::Array(Vec::new()));
}

#[test]
fn builds_at_the_same_time_have_records_of_their_own() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
    let builds: Vec<Child> =
        (0..8).map(|_| env.command(["build", "-q", "ctx"]).stdout(Stdio::null()).spawn().unwrap()).collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    let list = json(&env, &["history"]);
    let numbers: Vec<u64> =
        list.as_array().unwrap().iter().map(|row| row["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [8, 7, 6, 5, 4, 3, 2, 1]);
    assert!(list.as_array().unwrap().iter().all(|row| row["status"] == "done"), "{list}");
    // Numbers are not used again.
    env.kiln(["history", "rm", "8"]).ok();
    env.kiln(["build", "ctx"]).ok();
    assert_eq!(json(&env, &["history"])[0]["number"], 9);
    env.kiln(["history", "show", "8"]).fails(1, &["no record of build 8", "1 to 7, 9"]);
    env.kiln(["history", "log", "--step", "7"]).fails(1, &["build 9 has no step 7", "steps 1 to 2"]);
    env.kiln(["history", "show", "new"]).fails(2, &["`latest`"]);
    env.kiln(["history", "show", "--store", "nowhere"]).fails(1, &["no build has left a record"]);
    assert!(!env.root.join("nowhere").exists());
}

#[test]
fn the_newest_hundred_are_kept() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.kiln(["build", "ctx"]).ok();
    let record = std::fs::read(env.root.join("home/store/history/1/build.json")).unwrap();
    for number in 2..=120 {
        env.write(&format!("home/store/history/{number}/build.json"), &record);
    }
    env.kiln(["build", "ctx"]).ok();
    let list = json(&env, &["history"]);
    let list = list.as_array().unwrap();
    assert_eq!((list.len(), &list[0]["number"]), (100, &121.into()));
    assert!(
        !env.root.join("home/store/history/21").exists() && env.root.join("home/store/history/22").exists()
    );
}

#[test]
fn a_store_without_room_for_records_builds_nevertheless() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.write("home/store/history", "in the way");
    let built = env.kiln(["build", "ctx"]);
    built.ok();
    assert!(built.stderr.contains("warning: this build leaves no record"), "{}", built.stderr);
    assert!(built.stderr.contains("home/store/history"), "{}", built.stderr);
    env.kiln(["history"]).fails(4, &["home/store/history"]);
}

#[test]
fn records_that_cannot_be_written_can_be_read() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.kiln(["build", "ctx"]).ok();
    let records = env.root.join("home/store/history");
    let mount = |args: &[&str]| {
        let status =
            std::process::Command::new("mount").args(args).arg(&records).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let path = records.display().to_string();
    if !mount(&["--bind", &path]) {
        lane::left_out("records on a read-only file system", "mounting one needs root");
        return;
    }
    let readonly = mount(&["-o", "remount,bind,ro"]);
    let built = env.kiln(["build", "ctx"]);
    let list = env.kiln(["history", "--format", "json"]);
    let removed = env.kiln(["history", "rm", "1"]);
    let unmounted = std::process::Command::new("umount").arg(&records).status();
    assert!(readonly && unmounted.unwrap().success());
    built.ok();
    assert!(
        built.stderr.contains("leaves no record") && built.stderr.contains("Read-only"),
        "{}",
        built.stderr
    );
    let list: Value = serde_json::from_str(list.ok()).unwrap();
    assert_eq!((&list[0]["number"], list.as_array().unwrap().len()), (&1.into(), 1));
    removed.fails(4, &["Read-only file system"]);
}

#[test]
fn a_secret_that_a_step_prints_is_in_no_record_and_no_log() {
    let Some(env) = for_somebody("secrets in logs") else { return };
    let base = env.base();
    env.write("token", "hunter2-is-secret\nsecond-line-too\n");
    // In one piece, in two that come one after the other, and line by line.
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base}\n\
             RUN --mount=type=secret,id=t cat /run/secrets/t && echo between && head -n1 /run/secrets/t | sed 's/^/> /' >&2\n\
             RUN --mount=type=secret,id=t printf hunter2-is && sleep 0.2 && printf -- '-secret. after\\n'\n\
             RUN --mount=type=secret,id=t,env=T echo \"$T\" | tail -n2 && echo hunter2 && exit 5\n"
        ),
    );
    let mut shown = String::new();
    for progress in ["plain", "json"] {
        let args = ["build", "--no-cache", "--progress", progress, "--trace", "trace.json"];
        let secret = ["--secret", "id=t,src=token", "ctx"];
        let outcome = env.kiln(args.iter().chain(&secret));
        outcome.fails(1, &["exit code 5", "***"]);
        shown += &outcome.stderr;
    }
    shown += env.kiln(["history", "log", "1"]).ok();
    shown += &json(&env, &["history", "show", "1"]).to_string();
    shown += &std::fs::read_to_string(env.root.join("trace.json")).unwrap();
    shown += &std::fs::read_to_string(env.root.join("home/store/history/1/log")).unwrap();
    shown += &std::fs::read_to_string(env.root.join("home/store/history/1/build.json")).unwrap();
    for line in shown.lines().filter(|line| line.contains("secret") || line.contains("second")) {
        // The Dockerfile itself has pieces of it in its text.
        let titles = line.replace("hunter2-is && sleep", "").replace("-secret. after", "");
        assert!(!titles.contains("hunter2-is") && !titles.contains("second-line"), "{line}");
    }
    let log = env.kiln(["history", "log", "1", "--step", "3"]).ok().to_owned();
    assert_eq!(log, "***. after");
    let log = env.kiln(["history", "log", "1", "--step", "2"]).ok().to_owned();
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["***", "> ***", "between"]);
    assert_eq!(env.kiln(["history", "log", "1", "--step", "4"]).ok(), "***\n\nhunter2");
}

/// Checks what every reader of trace events relies on; returns the spans by name.
fn chrome(text: &str) -> Vec<(String, Value)> {
    let value: Value = serde_json::from_str(text).unwrap();
    let events = value["traceEvents"].as_array().unwrap();
    let mut spans: Vec<(u64, u64, u64, &Value)> = Vec::new();
    for event in events {
        assert!(event["name"].is_string() && event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
        match event["ph"].as_str().unwrap() {
            "X" => {
                let (start, took) = (event["ts"].as_u64().unwrap(), event["dur"].as_u64().unwrap());
                spans.push((event["tid"].as_u64().unwrap(), start, start + took, event));
            }
            "M" => assert!(event["args"].is_object(), "{event}"),
            other => panic!("{other}"),
        }
    }
    for (lane, start, end, event) in &spans {
        let named = |e: &&Value| e["name"] == "thread_name" && e["tid"] == *lane;
        assert_eq!(events.iter().filter(named).count(), 1, "{event}");
        for (other_lane, other_start, other_end, other) in &spans {
            let beside = end <= other_start || other_end <= start;
            let nested = start <= other_start && other_end <= end || other_start <= start && end <= other_end;
            assert!(lane != other_lane || beside || nested, "{event} and {other} cross");
        }
    }
    let root = spans.iter().find(|(.., event)| event["name"] == "kiln build").unwrap();
    assert!(spans.iter().all(|(_, start, end, _)| root.1 <= *start && *end <= root.2));
    spans.iter().map(|(.., event)| (event["name"].as_str().unwrap().to_owned(), (*event).clone())).collect()
}

/// Checks what every reader of OpenTelemetry relies on; returns the spans.
fn otlp(text: &str) -> Vec<Value> {
    assert_eq!(text.lines().count(), 1);
    let value: Value = serde_json::from_str(text).unwrap();
    let resource = &value["resourceSpans"][0];
    let service = &resource["resource"]["attributes"][0];
    assert_eq!((&service["key"], &service["value"]["stringValue"]), (&"service.name".into(), &"kiln".into()));
    let spans = resource["scopeSpans"][0]["spans"].as_array().unwrap().clone();
    let time = |span: &Value, name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
    let hex = |text: &str, length: usize| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
    for span in &spans {
        assert!(hex(span["traceId"].as_str().unwrap(), 32) && hex(span["spanId"].as_str().unwrap(), 16));
        let (start, end) = (time(span, "startTimeUnixNano"), time(span, "endTimeUnixNano"));
        assert!(start <= end, "{span}");
        let parent = span["parentSpanId"].as_str();
        if let Some(parent) = spans.iter().find(|other| other["spanId"].as_str() == parent) {
            let within = time(parent, "startTimeUnixNano") <= start && end <= time(parent, "endTimeUnixNano");
            assert!(within, "{span} is not within {parent}");
        } else {
            assert_eq!(span["name"], "kiln build");
        }
    }
    spans
}

#[test]
fn a_trace_tells_where_the_time_went() {
    for person in lane::people("traces") {
        let env = env_of(person);
        let base = env.base();
        let dockerfile = |last: &str| {
            format!(
                "FROM {base} AS a\nRUN sleep 0.2\nFROM {base} AS b\nCOPY f /f\nRUN sleep 0.2\n\
                 FROM {base}\nCOPY --from=a / /a\nCOPY --from=b /f /b\nRUN {last}\n"
            )
        };
        env.write("ctx/f", "f");
        env.write("ctx/Dockerfile", dockerfile("echo done"));
        let name = format!("{}/traced:1", env.host());
        env.kiln(["build", "--trace", "home/t.json", "-t", &name, "--push", "ctx"]).ok();
        let spans = chrome(&std::fs::read_to_string(env.root.join("home/t.json")).unwrap());
        let find = |name: &str| {
            let found = spans.iter().find(|(n, _)| n.contains(name));
            found.unwrap_or_else(|| panic!("no {name} in {spans:?}")).1.clone()
        };
        for phase in ["open the context", "lower the Dockerfile", "resolve ", "compute keys", "run steps"] {
            assert_eq!(find(phase)["cat"], "build");
        }
        for work in ["unpack layer", "pull ", "push ", "files below", "pack", "finish the push"] {
            find(work);
        }
        let sleep = find("RUN sleep");
        assert!(sleep["dur"].as_u64().unwrap() >= 200_000, "{sleep}");
        assert!(sleep["args"]["key"].as_str().unwrap().starts_with("sha256:"), "{sleep}");
        assert_eq!(sleep["args"]["cached"], false);
        assert!(find("pull ")["args"]["bytes"].as_u64() > Some(0));

        // A build that fails has its trace too; the variable is as good as the option.
        env.write("ctx/Dockerfile", dockerfile("exit 7"));
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut command = env.command(["build", "ctx"]);
        let output =
            command.env("KILN_TRACE", "home/t.otlp.json").env("TRACEPARENT", parent).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let spans = otlp(&std::fs::read_to_string(env.root.join("home/t.otlp.json")).unwrap());
        let root = spans.iter().find(|span| span["name"] == "kiln build").unwrap();
        assert_eq!(root["parentSpanId"], "00f067aa0ba902b7");
        assert!(spans.iter().all(|span| span["traceId"] == "4bf92f3577b34da6a3ce929d0e0e4736"));
        assert_eq!(root["status"]["code"], 2);
        let failed = spans.iter().find(|s| s["name"].as_str().unwrap().contains("RUN exit 7")).unwrap();
        assert_eq!(failed["status"]["message"], "RUN failed with exit code 7");
        let cached = spans.iter().find(|s| s["name"].as_str().unwrap().contains("COPY --from=a")).unwrap();
        assert!(
            cached["attributes"].to_string().contains(r#""kiln.cached","value":{"boolValue":true}"#),
            "{cached}"
        );
        // A failed build's own error is what is told when the trace cannot be written as well.
        env.kiln(["build", "--trace", "nowhere/t.json", "ctx"])
            .fails(1, &["warning: cannot write `nowhere/t.json`", "exit code 7"]);
        env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
        env.kiln(["build", "--trace", "nowhere/t.json", "ctx"]).fails(4, &["cannot write `nowhere/t.json`"]);
    }
}

#[test]
fn the_examples_of_the_documentation_do_what_they_say() {
    const TEXT: &str = include_str!("../../../../docs/history.md");
    let Some(env) = for_somebody("the examples of docs/history.md") else { return };
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nRUN echo hello\n"));
    let commands: Vec<String> = TEXT
        .split("```sh\n")
        .skip(1)
        .flat_map(|part| part.split("```").next().unwrap_or_default().lines())
        // What comes behind is a comment, or the work of another program.
        .map(|line| {
            line.split([' '].as_slice()).take_while(|w| !["#", "|"].contains(w)).collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(commands.len(), 11);
    for command in commands {
        // The whole environment is no context.
        let words = command.split_whitespace().map(|word| if word == "." { "ctx" } else { word });
        let told = env.kiln(words.skip(1)).ok().to_owned();
        match command.as_str() {
            "kiln history" => assert!(told.contains("app:latest"), "{told}"),
            "kiln history log 1 --step 2" => assert_eq!(told, "hello"),
            "kiln history rm 1" => assert_eq!(told, "1"),
            "kiln build --trace trace.json ." => {
                chrome(&std::fs::read_to_string(env.root.join("trace.json")).unwrap());
            }
            "kiln build --trace trace.otlp.json ." => {
                otlp(&std::fs::read_to_string(env.root.join("trace.otlp.json")).unwrap());
            }
            json if json.ends_with("--format json") => {
                serde_json::from_str::<Value>(&told).unwrap();
            }
            _ => {}
        }
        if command == "kiln history rm 1" {
            // The examples that follow look at the newest.
            env.kiln(["build", "ctx"]).ok();
        }
    }
}
