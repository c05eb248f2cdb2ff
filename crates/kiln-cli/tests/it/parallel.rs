//! Several steps at once: how many, and what becomes of the others when one fails.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kiln_testkit::{Image, TestEnv, lane};

use crate::{env, env_of};

/// How long a build may go on after a step has failed, on a busy machine; what it leaves would take a minute.
const SOON: Duration = Duration::from_secs(10);

/// Builds `dockerfile`, whose step in line `line` fails with 7 while others are busy.
#[track_caller]
fn check(env: &TestEnv, dockerfile: &str, line: u32, args: &[&str]) {
    env.write("ctx/Dockerfile", dockerfile);
    let start = Instant::now();
    let outcome = env.kiln([&["build"], args, &["ctx"]].concat());
    let took = start.elapsed();
    outcome.fails(1, &["RUN failed with exit code 7", &format!("Dockerfile:{line}")]);
    assert!(took < SOON, "{took:?} for {dockerfile}\n{}", outcome.stderr);
    let store = env.root.join("home/store");
    let left: Vec<_> = std::fs::read_dir(store.join("tmp")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "left in the store: {left:?}");
    assert_eq!(processes(env), Vec::<String>::new(), "processes are left");
}

/// Returns the command lines of processes that have the path of `env` among their arguments: commands say it aloud.
fn processes(env: &TestEnv) -> Vec<String> {
    let root = env.root.to_string_lossy().into_owned();
    let line = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path().join("cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(line);
    all.filter(|text| text.contains(&root)).collect()
}

#[test]
fn a_failure_ends_commands_beside_it() {
    for person in lane::people("a failure beside commands") {
        let env = env_of(person);
        let base = env.base();
        let mark = env.root.display();
        let dockerfile = format!(
            "FROM {base} AS a\nRUN sh -c 'sleep 60; true' {mark}\n\
             FROM {base} AS b\nRUN sh -c 'trap \"\" TERM INT; sleep 60 & wait; wait' {mark}\n\
             FROM {base} AS c\nRUN sleep 0.3; exit 7\n\
             FROM {base}\nCOPY --from=a / /a\nCOPY --from=b / /b\nCOPY --from=c / /c\n"
        );
        check(&env, &dockerfile, 6, &[]);
    }
}

#[test]
fn a_failure_ends_a_pull_that_stalls() {
    let Some(env) = of_somebody("a failure beside a pull") else { return };
    let base = env.base();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /program\n");
    env.kiln(["build", "-t", &format!("{}/other:1", env.host()), "--push", "ctx"]).ok();
    env.kiln(["prune", "--all"]).ok();
    // The config comes, the layer does not.
    let host = stalling_proxy(&env.host(), "GET /v2/other/blobs/", 1);
    let dockerfile = format!(
        "FROM {base} AS fails\nRUN sleep 0.3; exit 7\n\
         FROM {host}/other:1 AS pulled\nRUN [\"/program\"]\nFROM pulled\nCOPY --from=fails / /f\n"
    );
    check(&env, &dockerfile, 2, &[]);
}

#[test]
fn a_failure_ends_a_copy_that_is_being_packed() {
    let Some(env) = of_somebody("a failure beside a large COPY") else { return };
    let base = env.base();
    // A key covers the content of a context, so the large file is made by a stage; the COPY packs it meanwhile.
    let dockerfile = format!(
        "FROM {base} AS large\nRUN dd if=/dev/null of=/large bs=1 seek=40G\n\
         FROM scratch AS copied\nCOPY --from=large /large /\n\
         FROM {base} AS fails\nCOPY --from=large /etc/passwd /x\nRUN sleep 0.5; exit 7\n\
         FROM copied\nCOPY --from=fails / /f\n"
    );
    check(&env, &dockerfile, 7, &[]);
}

#[test]
fn a_failure_ends_an_upload_that_stalls() {
    let Some(env) = of_somebody("a failure beside an upload") else { return };
    let base = env.base();
    let host = stalling_proxy(&env.host(), "/blobs/uploads/", 0);
    let dockerfile = format!("FROM {base}\nRUN head -c 9000000 /dev/urandom > /big\nRUN sleep 0.5; exit 7\n");
    check(&env, &dockerfile, 3, &["-t", &format!("{host}/app:1"), "--push"]);
}

#[test]
fn no_more_steps_run_at_once_than_were_asked_for() {
    let Some(env) = of_somebody("the number of steps at once") else { return };
    let base = env.base();
    let (mut stages, mut copies) = (String::new(), String::new());
    for stage in ["a", "b", "c", "d"] {
        // Each says when it began and when it ended; its name keeps the steps apart.
        let run = format!(": {stage}; echo begin >> /c/log; sleep 0.4; echo end >> /c/log");
        let log = "--mount=type=cache,target=/c,id=log";
        writeln!(stages, "FROM {base} AS {stage}\nRUN {log} {run}").unwrap();
        writeln!(copies, "COPY --from={stage} /etc/passwd /from-{stage}").unwrap();
    }
    let read = "RUN --mount=type=cache,target=/c,id=log cp /c/log /log";
    env.write("ctx/Dockerfile", format!("{stages}FROM {base}\n{copies}{read}\n"));
    for (option, most) in [("--jobs", 1), ("--max-parallelism", 2)] {
        let name = format!("{}/log:{most}", env.host());
        env.kiln(["build", "--no-cache", option, &most.to_string(), "-t", &name, "--push", "ctx"]).ok();
        let image = Image::pull(&name);
        let log = image.last().text("log").unwrap();
        let mut running = 0;
        let at_once = log.lines().map(|line| {
            running = if line == "begin" { running + 1 } else { running - 1 };
            running
        });
        assert_eq!(at_once.max(), Some(most), "{log}");
        env.kiln(["prune"]).ok();
    }
}

#[test]
fn a_stage_that_nothing_needs_is_never_built() {
    let env = env();
    env.write(
        "ctx/Dockerfile",
        "FROM 127.0.0.1:1/there/is/none AS unused\nRUN false\nFROM scratch\nCOPY Dockerfile /\n",
    );
    let told = env.kiln(["build", "--progress", "plain", "ctx"]);
    told.ok();
    assert!(!told.stderr.contains("unused") && !told.stderr.contains("RUN"), "{}", told.stderr);
}

#[test]
fn stages_run_at_the_same_time() {
    let Some(env) = of_somebody("stages at the same time") else { return };
    let base = env.base();
    // Each waits for the other: one after the other they would wait for ever.
    let stage = |own: &str, other: &str| {
        format!(
            "FROM {base} AS {own}\nRUN --mount=type=cache,target=/c touch /c/{own}; n=0; \
             until [ -e /c/{other} ] || [ $n -gt 300 ]; do sleep 0.1; n=$((n+1)); done; [ -e /c/{other} ] && echo {own} > /{own}\n"
        )
    };
    let (a, b) = (stage("a", "b"), stage("b", "a"));
    env.write("ctx/Dockerfile", format!("{a}{b}FROM {base}\nCOPY --from=a /a /\nCOPY --from=b /b /\n"));
    env.kiln(["build", "ctx"]).ok();
}

#[test]
fn a_layer_is_uploaded_while_later_steps_run() {
    let Some(env) = of_somebody("uploads beside steps") else { return };
    let base = env.base();
    // It is larger than what waits for its digest.
    let random = "head -c 12000000 /dev/urandom > /large";
    env.write("ctx/Dockerfile", format!("FROM {base}\nRUN {random}\nRUN sleep 5; exit 7\n"));
    let name = format!("{}/early:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).fails(1, &["exit code 7"]);
    let log = env.registry.log();
    let sent = log.iter().filter(|r| r.method == "PUT" && r.path.contains("/early/blobs/uploads/")).count();
    assert_eq!(sent, 1, "the build failed five seconds after the layer was there");
    assert!(!log.iter().any(|r| r.path.contains("/early/manifests/") && r.method == "PUT"));
}

/// An environment of the first person who can run commands here.
fn of_somebody(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

/// Starts a proxy in front of the server at `to` and returns its address. Requests that have `what` in their head wait
/// for ever, with their connection, after the first `pass` of them.
fn stalling_proxy(to: &str, what: &'static str, pass: usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, to) = (listener.local_addr().unwrap(), to.to_owned());
    let seen = Arc::new(AtomicUsize::new(0));
    // It ends with the test's process.
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { continue };
            let (mut from_server, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            let seen = Arc::clone(&seen);
            std::thread::spawn(move || forward(client, server, what, pass, &seen));
        }
    });
    address.to_string()
}

fn forward(mut client: TcpStream, mut server: TcpStream, what: &str, pass: usize, seen: &AtomicUsize) {
    let mut buf = vec![0; 64 << 10];
    while let Ok(n @ 1..) = client.read(&mut buf) {
        let stalls = String::from_utf8_lossy(&buf[..n]).contains(what);
        if stalls && seen.fetch_add(1, Ordering::Relaxed) >= pass {
            loop {
                std::thread::park();
            }
        }
        if server.write_all(&buf[..n]).is_err() {
            return;
        }
    }
}
