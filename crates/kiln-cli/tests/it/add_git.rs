//! ADD of git repositories, over smart HTTP and `git://`: references, directories, submodules, credentials.

use kiln_testkit::git::{COMMIT_TIME, Repositories};
use kiln_testkit::web::{Reply, WebServer};
use kiln_testkit::{Image, Outcome, TestEnv, lane};

use crate::{env, env_of};

/// `Basic` for `me` and `s3cret-of-the-test`.
const LOGIN: &str = "Basic bWU6czNjcmV0LW9mLXRoZS10ZXN0";
const PASSWORD: &str = "s3cret-of-the-test";

fn repositories(env: &TestEnv, what: &str) -> Option<Repositories> {
    Repositories::new(env.root.join("git"), what)
}

fn image(env: &TestEnv, dockerfile: &str, more: &[&str]) -> (Image, Outcome) {
    env.write("ctx/Dockerfile", dockerfile);
    let name = format!("{}/it:1", env.host());
    let outcome = env.kiln([&["build", "-t", &name, "--push", "ctx"], more].concat());
    outcome.ok();
    (Image::pull(&name), outcome)
}

/// Returns the content of `file` when `address` is added.
fn added(env: &TestEnv, address: &str) -> String {
    let (image, _) = image(env, &format!("FROM scratch\nADD {address} /\n"), &[]);
    image.last().text("file").unwrap()
}

#[test]
fn every_kind_of_reference_leads_to_its_commit() {
    let env = env();
    let Some(git) = repositories(&env, "ADD of git references") else { return };
    git.init("r.git");
    let first = git.commit("r.git", &[("file", "first")]);
    git.git("r.git", &["tag", "light"]);
    git.git("r.git", &["tag", "--annotate", "--message=x", "annotated"]);
    git.git("r.git", &["update-ref", "refs/pull/1/head", "HEAD"]);
    git.git("r.git", &["branch", "feature/x"]);
    let second = git.commit("r.git", &[("file", "second")]);
    git.git("r.git", &["tag", "main-too"]);
    let server = git.serve(LOGIN);
    let url = server.url("/r.git");
    let check = |rest: &str, expect: &str| assert_eq!(added(&env, &format!("{url}{rest}")), expect, "{rest}");
    check("", "second");
    check("#main", "second");
    check("#light", "first");
    check("#annotated", "first");
    check("#feature/x", "first");
    check("#refs/pull/1/head", "first");
    check("?tag=annotated", "first");
    check("?branch=main", "second");
    check(&format!("#{first}"), "first");
    check(&format!("#{}", &second[..10]), "second");
    check(&format!("?ref=light&checksum={}", &first[..7]), "first");
    check(&format!("?ref=gone&checksum={first}&fetch-by-commit=1"), "first");
    let fails = |line: &str, parts: &[&str]| {
        env.write("ctx/Dockerfile", format!("FROM scratch\nADD {line} /\n"));
        env.kiln(["build", "ctx"]).fails(1, &[parts, &["Dockerfile:2"]].concat());
    };
    fails(&format!("{url}#mian"), &["no reference `mian`", "did you mean `main`?"]);
    fails(&format!("{url}#{}", &first[..3]), &["no reference"]);
    fails(&format!("--checksum={second} {url}#light"), &[&first, &second, "is required"]);
    fails(&format!("{url}#main:nowhere"), &["has no directory `nowhere`"]);
    fails(&format!("{url}?branch=a&tag=b"), &["`branch` and `tag` cannot both be given"]);
    fails(&server.url("/none.git"), &["cannot read the repository", "404"]);
}

#[test]
fn a_tree_keeps_modes_and_links_and_nothing_of_git() {
    let env = env();
    let Some(git) = repositories(&env, "the tree of a git repository") else { return };
    git.init("r.git");
    git.commit("r.git", &[("docs/a", "a"), ("docs/tool", "t"), (".dockerignore", "*\n"), ("top", "x")]);
    git.git("r.git", &["update-index", "--chmod=+x", "docs/tool"]);
    std::os::unix::fs::symlink("../outside", git.path("r.git").join("docs/link")).unwrap();
    git.git("r.git", &["add", "docs/link"]);
    git.git("r.git", &["commit", "--quiet", "--message=y"]);
    let server = git.serve(LOGIN);
    let url = server.url("/r.git");
    let (all, _) = image(&env, &format!("FROM scratch\nADD {url} /src\n"), &[]);
    let expect = [
        "dir 755 0:0 src",
        "file 644 0:0 src/.dockerignore 2",
        "dir 755 0:0 src/docs",
        "file 644 0:0 src/docs/a 1",
        "link 777 0:0 src/docs/link -> ../outside",
        "file 755 0:0 src/docs/tool 1",
        "file 644 0:0 src/top 1",
    ];
    assert_eq!(all.last().lines(), expect);
    let dockerfile = format!("FROM scratch\nADD --chown=3:4 {url}?subdir=docs&mtime=commit /src/\n");
    let (part, _) = image(&env, &dockerfile, &["--source-date-epoch", "1700000000"]);
    assert_eq!(part.last().lines()[1], "file 644 3:4 src/a 1");
    assert_eq!(part.entry("src/a").unwrap().mtime.secs, COMMIT_TIME);
    let (part, _) =
        image(&env, &dockerfile.replace("&mtime=commit", ""), &["--source-date-epoch", "1700000000"]);
    assert_eq!(part.entry("src/a").unwrap().mtime.secs, 1_700_000_000);
}

#[test]
fn a_cached_step_fetches_nothing_and_a_moved_branch_is_seen() {
    let env = env();
    let Some(git) = repositories(&env, "caching of git sources") else { return };
    git.init("r.git");
    git.commit("r.git", &[("file", "first")]);
    let server = git.serve(LOGIN);
    let url = server.url("/r.git");
    let requests = || {
        let is_fetch =
            |r: &kiln_testkit::web::Received| String::from_utf8_lossy(&r.body).contains("command=fetch");
        let log = server.take_log();
        (log.len(), log.iter().filter(|r| is_fetch(r)).count())
    };
    assert_eq!(added(&env, &url), "first");
    assert_eq!(requests().1, 1);
    assert_eq!(added(&env, &url), "first");
    assert_eq!(requests(), (2, 0), "the reference is asked for, and no more");
    // Another step with the same commit finds the files in the store.
    let _ = image(&env, &format!("FROM scratch\nADD {url} /elsewhere\n"), &[]);
    assert_eq!(requests().1, 0);
    git.commit("r.git", &[("file", "second")]);
    assert_eq!(added(&env, &url), "second");
    let commit = git.git("r.git", &["rev-parse", "HEAD"]);
    let _ = requests();
    assert_eq!(added(&env, &format!("{url}#{commit}")), "second");
    assert_eq!(requests(), (0, 0), "a whole id needs no question");
}

#[test]
fn a_kept_git_directory_is_a_repository_with_equal_bytes_everywhere() {
    let env = env();
    let Some(git) = repositories(&env, "--keep-git-dir") else { return };
    git.init("r.git");
    git.commit("r.git", &[("old", "x")]);
    let commit = git.commit("r.git", &[("dir/file", "x"), ("top", "y")]);
    let server = git.serve(LOGIN);
    let url = server.url("/r.git");
    let out = env.root.join("out");
    let build = |store: &str, dockerfile: &str| {
        env.write("ctx/Dockerfile", dockerfile);
        let out = format!("type=local,dest={}", out.display());
        env.kiln(["build", "--store", store, "-o", &out, "ctx"]).ok().to_owned()
    };
    let with = format!("FROM scratch\nADD --keep-git-dir {url} /\n");
    let digest = build("home/store", &with);
    assert_eq!(build("home/another", &with), digest, "another store, another pack, the same bytes");
    let inside = |args: &[&str]| git.git("../out", args);
    assert_eq!(inside(&["rev-parse", "HEAD"]), commit);
    assert_eq!(inside(&["log", "--format=%ct"]), COMMIT_TIME.to_string());
    assert_eq!(inside(&["status", "--porcelain"]), "");
    assert_eq!(inside(&["remote", "get-url", "origin"]), url);
    inside(&["fsck", "--strict"]);
    let layer =
        |line: &str| image(&env, &format!("FROM scratch\nADD {line} /\n"), &[]).0.config.rootfs.diff_ids;
    assert_eq!(layer(&format!("{url}?keep-git-dir")), layer(&format!("--keep-git-dir {url}")));
    assert_ne!(layer(&url), layer(&format!("--keep-git-dir {url}")));
    let both = format!("FROM scratch\nADD --keep-git-dir=false {url}?keep-git-dir=1 /\n");
    env.write("ctx/Dockerfile", both);
    env.kiln(["build", "ctx"]).fails(1, &["say different things", "Dockerfile:2"]);
}

#[test]
fn submodules_come_along_unless_they_are_refused() {
    let env = env();
    let Some(git) = repositories(&env, "submodules") else { return };
    for name in ["inner.git", "middle.git", "outer.git", "evil.git"] {
        git.init(name);
    }
    let inner = git.commit("inner.git", &[("file", "inner")]);
    let link = |repository: &str, path: &str, url: &str, commit: &str| {
        let modules = format!("[submodule \"m\"]\n\tpath = {path}\n\turl = {url}\n");
        git.commit(repository, &[(".gitmodules", &modules)]);
        let entry = format!("160000,{commit},{path}");
        git.git(repository, &["update-index", "--add", "--cacheinfo", &entry]);
        git.git(repository, &["commit", "--quiet", "--message=link"]);
        git.git(repository, &["rev-parse", "HEAD"])
    };
    let middle = link("middle.git", "lib", "../inner.git", &inner);
    let outer = link("outer.git", "deps/middle", "../middle.git", &middle);
    // What the first commit of a link says is not what the files of the working tree say.
    let server = git.serve(LOGIN);
    let url = server.url("/outer.git");
    let (all, _) = image(&env, &format!("FROM scratch\nADD {url}#{outer} /\n"), &[]);
    assert_eq!(all.last().text("deps/middle/lib/file").unwrap(), "inner");
    let (none, _) = image(&env, &format!("FROM scratch\nADD {url}?submodules=false /\n"), &[]);
    assert!(none.entry("deps/middle").is_some() && none.entry("deps/middle/lib").is_none());
    let bad = link("evil.git", "evil", "file:///etc", &inner);
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {}#{bad} /\n", server.url("/evil.git")));
    env.kiln(["build", "ctx"])
        .fails(1, &["submodule", "not that of a server", "?submodules=false", "Dockerfile:2"]);
}

#[test]
fn credentials_reach_their_server_and_no_log() {
    let env = env();
    let Some(git) = repositories(&env, "private git repositories") else { return };
    git.init("private/r.git");
    git.commit("private/r.git", &[("file", "secret source")]);
    let server = git.serve(LOGIN);
    let url = format!("http://me:{PASSWORD}@{}/private/r.git", server.host());
    let (image, outcome) = image(&env, &format!("FROM scratch\nADD --keep-git-dir {url} /\n"), &[]);
    assert_eq!(image.last().text("file").unwrap(), "secret source");
    let history = serde_json::to_string(&image.config.history).unwrap();
    let config = image.last().text(".git/config").unwrap();
    assert!(config.contains("url = http://"), "{config}");
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /\n", url.replace(PASSWORD, "wr0ng-password")));
    let refused = env.kiln(["build", "ctx"]);
    refused.fails(3, &["401", "wants to know who asks", "Dockerfile:2"]);
    for text in [&history, &config, &outcome.stderr, &refused.stderr] {
        assert!(!text.contains(PASSWORD) && !text.contains("wr0ng-password"), "{text}");
    }
    let found = std::process::Command::new("grep")
        .args(["-rl", PASSWORD, "home/store"])
        .current_dir(&env.root)
        .output();
    assert!(found.unwrap().stdout.is_empty(), "the password is in the store");
}

#[test]
fn a_daemon_serves_as_well() {
    let env = env();
    let Some(git) = repositories(&env, "git://") else { return };
    git.init("r.git");
    let first = git.commit("r.git", &[("file", "first")]);
    git.commit("r.git", &[("file", "second")]);
    let Some(daemon) = git.daemon("git://") else { return };
    assert_eq!(added(&env, &daemon.url("/r.git")), "second");
    assert_eq!(added(&env, &format!("{}#{first}", daemon.url("/r.git"))), "first");
    env.write("ctx/Dockerfile", "FROM scratch\nADD git://127.0.0.1:1/r /\n");
    env.kiln(["build", "ctx"]).fails(3, &["cannot reach `127.0.0.1`", "Dockerfile:2"]);
}

#[test]
fn ssh_needs_the_program_ssh() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nADD git@127.0.0.1:r.git /\n");
    // The keys of whoever builds are not for every Dockerfile.
    env.kiln(["build", "ctx"]).fails(1, &["behind `ssh` needs your keys", "--ssh default", "Dockerfile:2"]);
    let _agent = std::os::unix::net::UnixListener::bind(env.root.join("agent")).unwrap();
    let mut command = env.command(["build", "--ssh", "default=agent", "ctx"]);
    let output = command.env("PATH", env.root.join("tmp")).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("there is no program `ssh`") && told.contains("Dockerfile:2"), "{told}");
}

#[test]
fn ssh_leads_to_repositories_and_its_complaints_are_told() {
    let env = env();
    let Some(git) = repositories(&env, "git over ssh") else { return };
    git.init("r.git");
    git.commit("r.git", &[("file", "by ssh")]);
    // In the place of `ssh`: the other end is this machine, and the last argument is its command.
    let stub = |text: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let path = env.write("bin/ssh", format!("#!/bin/sh\nfor last; do :; done\n{text}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let path = format!("{}:{}", env.root.join("bin").display(), std::env::var("PATH").unwrap());
    let name = format!("{}/it:1", env.host());
    let build = || {
        let mut command = env.command(["build", "--ssh", "default=agent", "-t", &name, "--push", "ctx"]);
        command.env("PATH", &path).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap()
    };
    let _agent = std::os::unix::net::UnixListener::bind(env.root.join("agent")).unwrap();
    env.write("ctx/Dockerfile", "FROM scratch\nADD git@nowhere.invalid:r.git /\n");
    stub(&format!("cd '{}' && exec sh -c \"$last\"", env.root.join("git").display()));
    let output = build();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Image::pull(&name).last().text("file").unwrap(), "by ssh");
    stub("echo 'Permission denied (publickey).' >&2; exit 255");
    let output = build();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{told}");
    assert!(told.contains("`ssh` says: Permission denied (publickey)."), "{told}");
}

#[test]
fn everybody_gets_the_same() {
    let what = "ADD of repositories and web files";
    let own = env();
    let Some(git) = repositories(&own, what) else { return };
    git.init("r.git");
    git.commit("r.git", &[("dir/file", "x")]);
    let (server, web) = (git.serve(LOGIN), WebServer::start(|_| Reply::new(200, "y")));
    let (repository, file) = (server.url("/r.git"), web.url("/f"));
    let dockerfile =
        format!("FROM scratch\nADD --keep-git-dir {repository} /src\nADD --chown=5:6 {file} /f\n");
    let mut digests = Vec::new();
    for person in lane::people(what) {
        let env = env_of(person);
        env.write("ctx/Dockerfile", &dockerfile);
        digests.push(env.kiln(["build", "ctx"]).ok().to_owned());
        let copied = format!("FROM scratch AS a\nADD {repository} /\nFROM scratch\nCOPY --from=a dir /\n");
        env.write("ctx/Dockerfile", copied);
        env.kiln(["build", "ctx"]).ok();
    }
    digests.dedup();
    assert!(digests.len() <= 1, "{digests:?}");
}

#[test]
fn servers_of_old_and_servers_that_moved_are_understood() {
    let env = env();
    let Some(git) = repositories(&env, "old git servers") else { return };
    git.init("r.git");
    let first = git.commit("r.git", &[("file", "first")]);
    let older = first.clone();
    git.commit("r.git", &[("file", "second")]);
    git.git("r.git", &["tag", "--annotate", "--message=x", "v1", &first]);
    let served = git.clone();
    let server = WebServer::start(move |request| {
        if let Some(rest) = request.path.strip_prefix("/moved") {
            return Reply::new(301, "").with("location", rest);
        }
        // Without this header, `git` speaks its first protocol, which gives away nothing but tips.
        let mut request = request.clone();
        request.headers.retain(|(name, _)| name != "git-protocol");
        served.backend(&request)
    });
    let url = server.url("/moved/r.git");
    assert_eq!(added(&env, &url), "second");
    assert_eq!(added(&env, &format!("{url}#v1")), "first");
    let posted = server.take_log().into_iter().filter(|r| r.method == "POST").map(|r| r.path);
    assert!(posted.clone().count() > 0 && posted.into_iter().all(|path| path == "/r.git/git-upload-pack"));
    // No reference is at this commit.
    git.git("r.git", &["tag", "--delete", "v1"]);
    env.kiln(["prune", "--all"]).ok();
    assert_eq!(added(&env, &format!("{}#{first}", server.url("/r.git"))), "first");
    // A server that gives away nothing else sends everything.
    let strict = git.clone();
    let tips = WebServer::start(move |request| {
        let asked = String::from_utf8_lossy(&request.body).into_owned();
        if asked.contains(&format!("want {first}")) {
            return Reply::new(200, "0031ERR upload-pack: not our ref 0123456789abcd\n")
                .with("content-type", "application/x-git-upload-pack-result");
        }
        strict.backend(request)
    });
    env.kiln(["prune", "--all"]).ok();
    assert_eq!(added(&env, &format!("{}#{older}", tips.url("/r.git"))), "first");
    let gone = "0123456789".repeat(4);
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {}#{gone} /\n", server.url("/r.git")));
    env.kiln(["build", "ctx"]).fails(1, &["cannot fetch", "has no commit 0123456789", "Dockerfile:2"]);
}

#[test]
fn repositories_of_another_hash_are_refused() {
    let env = env();
    let Some(git) = repositories(&env, "git repositories with SHA-256") else { return };
    std::fs::create_dir_all(git.path("r.git")).unwrap();
    git.git("r.git", &["init", "--quiet", "--object-format=sha256"]);
    git.commit("r.git", &[("file", "x")]);
    let server = git.serve(LOGIN);
    env.write("ctx/Dockerfile", format!("FROM scratch\nADD {} /\n", server.url("/r.git")));
    env.kiln(["build", "ctx"]).fails(1, &["cannot read the repository", "Dockerfile:2"]);
}
