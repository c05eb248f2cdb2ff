//! `--network=proxy`: commands reach what is allowed, nothing else, and everything is written down.

use std::path::Path;
use std::process::Command;

use kiln_testkit::web::{Reply, WebServer};
use kiln_testkit::{Outcome, Person, TestEnv, lane};

use crate::env_of;

/// Puts `curl` with its libraries into the context; `false` when this machine has none.
fn bring_curl(env: &TestEnv, what: &str) -> bool {
    let Some(curl) = lane::program("curl", what) else { return false };
    let list = Command::new("ldd").arg(&curl).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let libraries = list.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned);
    for path in libraries.chain([curl.display().to_string()]) {
        let copy = env.write(&format!("ctx/tools{path}"), std::fs::read(&path).unwrap());
        std::fs::set_permissions(copy, std::fs::metadata(&path).unwrap().permissions()).unwrap();
    }
    true
}

fn build(env: &TestEnv, base: &str, run: &str, options: &[&str]) -> Outcome {
    env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY tools /\n{run}\n"));
    let line = ["build", "--progress", "plain", "--no-cache", "--network=proxy"];
    env.kiln(line.iter().chain(options).chain(&["ctx"]))
}

fn server() -> WebServer {
    WebServer::start(|request| match request.path.as_str() {
        "/missing" => Reply::new(404, "nothing"),
        _ => Reply::new(200, format!("{} {}", request.method, request.path)),
    })
}

fn everybody(what: &str, check: impl Fn(&TestEnv, &str, &Person)) {
    for person in lane::people(what) {
        let env = env_of(person.clone());
        if !bring_curl(&env, what) {
            return;
        }
        let base = env.base();
        check(&env, &base, &person);
    }
}

#[test]
fn allowed_hosts_are_reached_and_everything_is_recorded() {
    everybody("allowed hosts of a proxy", |env, base, person| {
        let (web, other) = (server(), server());
        let (url, refused) = (web.url("/file?x=1"), other.url("/secret"));
        // The servers are on this machine's own loopback, which programs do not ask a proxy for.
        let run = format!(
            "RUN export no_proxy= NO_PROXY= && curl -sS -f -o /got {url} && cat /got && curl -s -o /dev/null {missing}; \
             curl -sS -d body -p {url} ; curl -sS {refused} ; true",
            missing = web.url("/missing"),
        );
        let told = build(env, base, &run, &["--allow-host", &web.host()]);
        told.ok();
        assert!(told.stderr.contains("GET /file?x=1"), "{person}: {}", told.stderr);
        assert!(told.stderr.contains("POST /file?x=1"), "through a tunnel, {person}: {}", told.stderr);
        let line =
            format!("kiln: GET {refused}: `{}` is not allowed; allow it with `--allow-host`", other.host());
        assert!(told.stderr.contains(&line), "{person}: {}", told.stderr);
        assert!(other.take_log().is_empty(), "{person} got through");
        let record = env.kiln(["history", "show", "--format", "json"]);
        let record: serde_json::Value = serde_json::from_str(record.ok()).unwrap();
        let fetched: Vec<(String, String, u64)> = record["fetches"]
            .as_array()
            .unwrap()
            .iter()
            .map(|f| {
                (
                    f["method"].as_str().unwrap().into(),
                    f["target"].as_str().unwrap().into(),
                    f["status"].as_u64().unwrap(),
                )
            })
            .collect();
        let expect = [
            ("GET".to_owned(), url.clone(), 200),
            ("GET".to_owned(), web.url("/missing"), 404),
            ("CONNECT".to_owned(), web.host(), 200),
            ("GET".to_owned(), refused, 403),
        ];
        assert_eq!(fetched, expect, "{person}");
        let shown = env.kiln(["history", "show"]);
        assert!(shown.ok().contains(&format!("GET {url}: 200, ")), "{}", shown.stdout);
    });
}

#[test]
fn there_is_no_way_round_the_proxy() {
    everybody("ways round a proxy", |env, base, person| {
        let web = server();
        let run = format!("RUN curl -sS --noproxy '*' --max-time 5 {}", web.url("/direct"));
        build(env, base, &run, &["--allow-host", &web.host()]).fails(1, &["RUN failed with exit code 7"]);
        assert!(web.take_log().is_empty(), "{person} got round");
        let run = format!("RUN --network=host curl -sS {}", web.url("/direct"));
        build(env, base, &run, &[]).fails(1, &["RUN --network=host is not allowed", "--allow network.host"]);
        // The proxy is for commands: neither variables nor files of it are in the image.
        let oci = env.root.join("home/out");
        let out = format!("type=oci,tar=false,dest={}", oci.display());
        build(env, base, "RUN env > /dev/null", &["-o", &out]).ok();
        assert!(!holds(&oci, "3128"), "{person}");
    });
}

/// Tells whether a document of a layout has a text.
fn holds(layout: &Path, text: &str) -> bool {
    let blobs = std::fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten();
    blobs.into_iter().any(|blob| {
        std::fs::read(blob.path()).is_ok_and(|bytes| {
            bytes.windows(text.len()).any(|w| w == text.as_bytes()) && bytes.starts_with(b"{")
        })
    })
}

#[test]
fn a_proxy_needs_hosts_and_hosts_need_a_proxy() {
    let env = crate::env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.kiln(["build", "--allow-host", "example.org", "ctx"])
        .fails(2, &["`--allow-host` is for `--network=proxy`", "add `--network=proxy`"]);
    env.kiln(["build", "--network", "proxy", "--allow-host", "http://x", "ctx"])
        .fails(2, &["--allow-host", "example.org:8080"]);
}
