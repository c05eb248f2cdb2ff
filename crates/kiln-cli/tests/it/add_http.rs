//! ADD of web files: what is downloaded when, what lands in the image, and what a server must not do.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln::oci::Digest;
use kiln_testkit::web::{Reply, WebServer};
use kiln_testkit::{Image, Outcome, TestEnv};

use crate::env;

/// A time that is older than the epochs of these tests: 2001-09-09 01:46:40.
const MODIFIED: &str = "Sun, 09 Sep 2001 01:46:40 GMT";

fn image(env: &TestEnv, dockerfile: &str, more: &[&str]) -> (Image, Outcome) {
    env.write("ctx/Dockerfile", dockerfile);
    let name = format!("{}/it:1", env.host());
    let outcome = env.kiln([&["build", "-t", &name, "--push", "ctx"], more].concat());
    outcome.ok();
    (Image::pull(&name), outcome)
}

/// Returns methods and paths of what was asked.
fn asked(server: &WebServer) -> Vec<String> {
    server.take_log().iter().map(|r| format!("{} {}", r.method, r.path)).collect()
}

#[test]
fn a_file_has_the_name_of_its_url_mode_0600_and_the_time_of_the_server() {
    let env = env();
    let server = WebServer::start(|request| {
        Reply::file(request, b"hello", "\"1\"")
            .with("last-modified", MODIFIED)
            // What the server calls it does not count.
            .with("content-disposition", "attachment; filename=other")
    });
    let dockerfile = format!(
        "FROM scratch\nADD {} /dir/\nADD --chown=1:2 --chmod=755 {} /tool\n",
        server.url("/a%20b.txt?x=1"),
        server.url("/x"),
    );
    let (image, _) = image(&env, &dockerfile, &["--source-date-epoch", "1700000000"]);
    assert_eq!(image.layers[0].lines(), ["dir 755 0:0 dir", "file 600 0:0 dir/a b.txt 5"]);
    assert_eq!(image.layers[1].lines(), ["file 755 1:2 tool 5"]);
    assert_eq!(image.entry("dir/a b.txt").unwrap().mtime.secs, 1_000_000_000);
    assert_eq!(image.layers[0].text("dir/a b.txt").unwrap(), "hello");
}

#[test]
fn an_archive_stays_as_it_is() {
    let env = env();
    let mut tar = vec![0; 1024];
    tar[257..262].copy_from_slice(b"ustar");
    let server = WebServer::start(move |_| Reply::new(200, tar.clone()));
    let (image, _) = image(&env, &format!("FROM scratch\nADD {} /\n", server.url("/x.tar")), &[]);
    assert_eq!(image.last().lines(), ["file 600 0:0 x.tar 1024"]);
}

#[test]
fn an_archive_is_unpacked_where_asked() {
    let env = env();
    let archive = crate::add::tar(&[crate::add::file("dir/f", "hello")]);
    let server = WebServer::start(move |_| Reply::new(200, archive.clone()));
    let dockerfile = format!("FROM scratch\nADD --unpack --chown=1:2 {} /to\n", server.url("/x.tar"));
    let (image, _) = image(&env, &dockerfile, &[]);
    // A directory that the archive does not name is nobody's, as in BuildKit.
    assert_eq!(image.last().lines(), ["dir 755 1:2 to", "dir 755 0:0 to/dir", "file 644 1:2 to/dir/f 5"]);
}

#[test]
fn a_server_gets_the_secret_that_names_it_and_no_other() {
    let env = env();
    let server = WebServer::start(|request| match request.header("authorization") {
        Some("Bearer hunter2") => Reply::new(200, "private"),
        _ => Reply::new(401, ""),
    });
    let url = server.url("/f");
    let host = url.strip_prefix("http://").and_then(|rest| rest.split('/').next()).unwrap().to_owned();
    env.write("token", "hunter2\n");
    let secret = format!("id=HTTP_AUTH_TOKEN_{host},src=token");
    let dockerfile = format!("FROM scratch\nADD {url} /f\n");
    let (image, outcome) = image(&env, &dockerfile, &["--secret", &secret]);
    assert_eq!(image.last().text("f").unwrap(), "private");
    assert!(!outcome.stderr.contains("hunter2"));
    for secret in ["id=HTTP_AUTH_TOKEN_other.example,src=token", "id=HTTP_AUTH_TOKEN,src=token"] {
        env.kiln(["build", "--no-cache", "--secret", secret, "ctx"]).fails(3, &["Dockerfile:2"]);
    }
}

#[test]
fn what_did_not_change_is_not_downloaded_again() {
    let env = env();
    let version = Arc::new(AtomicUsize::new(1));
    let now = Arc::clone(&version);
    let server = WebServer::start(move |request| match now.load(Ordering::Relaxed) {
        1 => Reply::file(request, b"one", "\"1\""),
        _ => Reply::file(request, b"two", "\"2\""),
    });
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("/f"));
    let (first, _) = image(&env, &dockerfile, &[]);
    let log = server.take_log();
    assert_eq!((log.len(), log[0].header("if-none-match")), (1, None));
    let (second, outcome) = image(&env, &dockerfile, &[]);
    let log = server.take_log();
    assert_eq!((log.len(), log[0].header("if-none-match")), (1, Some("\"1\"")));
    assert_eq!(first.digest, second.digest);
    assert!(outcome.stderr.contains("CACHED"), "{}", outcome.stderr);
    version.store(2, Ordering::Relaxed);
    let (third, _) = image(&env, &dockerfile, &[]);
    assert_eq!(third.last().text("f").unwrap(), "two");
}

#[test]
fn a_time_that_is_cut_off_counts_for_nothing() {
    let env = env();
    let count = AtomicUsize::new(0);
    let server = WebServer::start(move |_| {
        let day = 1 + count.fetch_add(1, Ordering::Relaxed);
        Reply::new(200, "x").with("last-modified", &format!("Sun, 0{day} Sep 2001 01:46:40 GMT"))
    });
    let dockerfile = format!("FROM scratch\nADD {} /f\n", server.url("/f"));
    let (first, _) = image(&env, &dockerfile, &[]);
    let (second, outcome) = image(&env, &dockerfile, &[]);
    assert_eq!(first.digest, second.digest);
    assert!(outcome.stderr.contains("CACHED"), "{}", outcome.stderr);
    let late = ["--source-date-epoch", "1700000000"];
    let times = [image(&env, &dockerfile, &late), image(&env, &dockerfile, &late)]
        .map(|(image, _)| image.entry("f").unwrap().mtime.secs);
    assert_eq!(times[1] - times[0], 86_400, "{times:?}");
}

#[test]
fn a_checksum_is_checked_and_saves_the_request() {
    let env = env();
    let server = WebServer::start(|request| Reply::file(request, b"hello", "\"1\""));
    let good = Digest::sha256(b"hello");
    let url = server.url("/f");
    let dockerfile = format!("FROM scratch\nARG SUM={good}\nADD --checksum=$SUM {url} /f\n");
    let _ = image(&env, &dockerfile, &[]);
    assert_eq!(asked(&server), ["GET /f"]);
    let _ = image(&env, &dockerfile, &["--no-cache"]);
    assert!(asked(&server).is_empty());
    let wrong = Digest::sha256(b"other");
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD --checksum={wrong} {url} /f\n"));
    let outcome = env.kiln(["build", "ctx"]);
    outcome.fails(1, &[good.as_str(), wrong.as_str(), "Dockerfile:2"]);
    env.write("ctx/f", "hello");
    let check = |line: &str, expect: &str| {
        env.write("ctx/Dockerfile", format!("FROM scratch\n{line}\n"));
        env.kiln(["build", "ctx"]).fails(1, &[expect, "Dockerfile:2"]);
    };
    check(&format!("ADD --checksum={good} f /f"), "this source is a path");
    check(&format!("ADD --checksum={good} {url} {url} /d/"), "is for one source");
    check(&format!("ADD --checksum=sha256:12 {url} /f"), "is not a checksum");
}

#[test]
fn a_name_has_to_be_had_somewhere() {
    let env = env();
    let server = WebServer::start(|_| Reply::new(200, "x"));
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /dir/\n", server.url("/")));
    env.kiln(["build", "ctx"])
        .fails(1, &["does not say how the file is to be called", "hint: name it", "Dockerfile:2"]);
    let (image, _) = image(&env, &format!("FROM scratch\nADD {} /name\n", server.url("/")), &[]);
    assert_eq!(image.last().lines(), ["file 600 0:0 name 1"]);
}

#[test]
fn transfers_that_break_go_on_or_begin_anew() {
    for tag in ["\"strong\"", "W/\"weak\""] {
        let env = env();
        let count = AtomicUsize::new(0);
        let body: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
        let expect = Digest::sha256(&body);
        let server = WebServer::start(move |request| {
            let reply = Reply::file(request, &body, tag);
            match count.fetch_add(1, Ordering::Relaxed) {
                0 => Reply { cut: Some(300_000), ..reply },
                _ => reply,
            }
        });
        let dockerfile = format!("FROM scratch\nADD --checksum={expect} {} /f\n", server.url("/f"));
        let (image, _) = image(&env, &dockerfile, &[]);
        assert_eq!(image.last().lines(), ["file 600 0:0 f 800000"]);
        let ranges: Vec<bool> = server.take_log().iter().map(|r| r.header("range").is_some()).collect();
        assert_eq!(ranges, [false, tag == "\"strong\""]);
    }
}

#[test]
fn a_file_that_never_ends_well_is_no_file() {
    let env = env();
    let server = WebServer::start(|_| Reply { cut: Some(10), ..Reply::new(200, vec![7; 1000]) });
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.kiln(["build", "ctx"]).fails(3, &["the transfer broke off", "Dockerfile:2"]);
    assert_eq!(server.take_log().len(), 3);
}

#[test]
fn refusals_are_told_with_their_status() {
    let env = env();
    let server = WebServer::start(|request| match request.path.as_str() {
        "/missing" => Reply::new(404, "no"),
        _ => Reply::new(401, "no"),
    });
    let check = |path: &str, code: i32, expect: &str| {
        let url = server.url(path);
        env.write("ctx/Dockerfile", format!("FROM scratch\nADD {url} /f\n"));
        env.kiln(["build", "ctx"]).fails(code, &[&format!("cannot add `{url}`"), expect, "Dockerfile:2"]);
    };
    check("/missing", 1, "404 Not Found");
    check("/private", 3, "401 Unauthorized");
}

#[test]
fn credentials_stay_with_their_server_and_appear_nowhere() {
    const PASSWORD: &str = "s3cret-of-the-test";
    let env = env();
    let other = WebServer::start(|_| Reply::new(200, "moved"));
    let target = other.url("/there");
    let server = WebServer::start(move |_| Reply::new(302, "").with("location", &target));
    let url = format!("http://me:{PASSWORD}@{}/here", server.host());
    let dockerfile = format!("FROM scratch\nADD {url} /f\n");
    let (image, outcome) = image(&env, &dockerfile, &[]);
    // base64 of `me:s3cret-of-the-test`.
    let sent = server.take_log()[0].header("authorization").map(str::to_owned);
    assert_eq!(sent.as_deref(), Some("Basic bWU6czNjcmV0LW9mLXRoZS10ZXN0"));
    assert_eq!(other.take_log()[0].header("authorization"), None);
    let history = serde_json::to_string(&image.config.history).unwrap();
    assert!(history.contains("ADD http://***"), "{history}");
    drop(server);
    let context = format!("a={}", url.replace("/here", "/here.git?no=1"));
    env.kiln(["build", "--build-context", &context, "ctx"]).fails(2, &["***", "`no` is not known"]);
    let told = env.kiln(["build", "--build-context", &context, "ctx"]).stderr;
    assert!(!told.contains(PASSWORD), "{told}");
    let failed = env.kiln(["build", "--no-cache", "ctx"]);
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    for text in [&history, &outcome.stderr, &outcome.stdout, &failed.stderr] {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    let found = std::process::Command::new("grep")
        .args(["-rl", PASSWORD, "home/store"])
        .current_dir(&env.root)
        .output();
    assert!(found.unwrap().stdout.is_empty(), "the password is in the store");
}

#[test]
fn a_redirect_without_end_ends() {
    let env = env();
    let server = WebServer::start(|_| Reply::new(302, "").with("location", "/again"));
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.kiln(["build", "ctx"]).fails(3, &["too many redirects"]);
}

#[test]
fn files_larger_than_the_limit_are_refused() {
    let env = env();
    let server = WebServer::start(|_| Reply::new(200, vec![0; 5000]));
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /f\n", server.url("/f")));
    env.kiln(["build", "--max-layer-size", "4096", "ctx"])
        .fails(1, &["is larger than 4096 bytes", "--max-layer-size"]);
}

#[test]
fn several_sources_come_in_their_order() {
    let env = env();
    let server = WebServer::start(|_| Reply::new(200, "remote"));
    env.write("ctx/x", "local");
    env.write("ctx/y", "local");
    let url = server.url("/x");
    let (image, _) = image(&env, &format!("FROM scratch\nADD x {url} y /d/\nADD {url} x /e/\n"), &[]);
    assert_eq!(image.layers[0].text("d/x").unwrap(), "remote");
    assert_eq!(image.layers[1].text("e/x").unwrap(), "local");
    assert_eq!(asked(&server), ["GET /x"], "one URL is asked for once");
    env.write("ctx/Dockerfile", format!("FROM scratch\nCOPY {url} /d/\n"));
    env.kiln(["build", "ctx"]).fails(1, &["COPY cannot take", "hint: write ADD", "Dockerfile:2"]);
}

#[test]
fn an_interrupted_build_waits_for_no_server() {
    let env = env();
    for scheme in ["http", "git"] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}/x", listener.local_addr().unwrap());
        env.write("ctx/Dockerfile", format!("FROM scratch\nADD {url} /x\n"));
        let mut child = env.command(["build", "ctx"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        // Who listens and says nothing.
        let connection = listener.accept().unwrap();
        let start = std::time::Instant::now();
        let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130), "{scheme}");
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{scheme}: {:?}", start.elapsed());
        drop(connection);
    }
}
