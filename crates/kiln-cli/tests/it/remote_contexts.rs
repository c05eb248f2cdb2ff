//! Build contexts and named contexts that lie elsewhere, and times that come from them.

use kiln_testkit::git::{COMMIT_TIME, Repositories};
use kiln_testkit::web::{Reply, WebServer};
use kiln_testkit::{Image, TestEnv};

use crate::env;

const MODIFIED: &str = "Sun, 09 Sep 2001 01:46:41 GMT";
const DOCKERFILE: &str = "FROM scratch\nCOPY . /src/\n";

fn image(env: &TestEnv, line: &[&str]) -> Image {
    let name = format!("{}/it:1", env.host());
    env.kiln([&["build", "-t", &name, "--push"], line].concat()).ok();
    Image::pull(&name)
}

fn paths(image: &Image) -> Vec<String> {
    image.last().entries.iter().map(|(entry, _)| entry.path.to_string()).collect()
}

/// Returns a tar file, as `tar` writes it with every member of one time.
fn tar(env: &TestEnv, files: &[(&str, &str)]) -> Vec<u8> {
    for (name, content) in files {
        env.write(&format!("tar/{name}"), content);
    }
    let mut command = std::process::Command::new("tar");
    command
        .args(["--create", "--gzip", "--mtime=@1000000002", "--directory=tar", "."])
        .current_dir(&env.root);
    command.output().unwrap().stdout
}

#[test]
fn a_repository_is_a_context() {
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "git contexts") else { return };
    git.init("r.git");
    git.commit("r.git", &[("Dockerfile", DOCKERFILE), ("a", "a"), (".dockerignore", "a\n")]);
    git.commit(
        "r.git",
        &[("sub/Dockerfile", DOCKERFILE), ("sub/other", "FROM scratch\nENV A=1\n"), ("sub/b", "b")],
    );
    let server = git.serve("");
    let url = server.url("/r.git");
    let all = ["src", "src/.dockerignore", "src/Dockerfile", "src/a", "src/sub"];
    assert_eq!(paths(&image(&env, &[&url]))[..5], all, "no ignore file applies");
    assert_eq!(
        paths(&image(&env, &[&format!("{url}#:sub")])),
        ["src", "src/Dockerfile", "src/b", "src/other"]
    );
    let other = image(&env, &[&format!("{url}?subdir=sub"), "-f", "other"]);
    assert!(other.layers.is_empty());
    let kept = image(&env, &[&url, "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]);
    assert!(kept.entry("src/.git/HEAD").is_some());
    // A file beside the caller is not a file of the context.
    env.write("elsewhere", "FROM scratch\n");
    env.kiln(["build", "-f", "elsewhere", &url]).fails(1, &["has no `elsewhere`", "URL#REFERENCE:DIRECTORY"]);
    env.kiln(["build", &format!("{url}#:nowhere")]).fails(1, &["cannot use", "has no directory `nowhere`"]);
    env.kiln(["build", &format!("{url}?sbdir=x")]).fails(2, &["did you mean `subdir`?"]);
}

#[test]
fn the_time_of_a_commit_counts_where_files_have_it() {
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "times of git contexts") else { return };
    git.init("r.git");
    git.commit("r.git", &[("Dockerfile", DOCKERFILE)]);
    let server = git.serve("");
    let plain = server.url("/r.git");
    let stamped = format!("{plain}?mtime=commit");
    let time = |image: &Image| image.entry("src/Dockerfile").unwrap().mtime.secs;
    let built = |line: &[&str]| image(&env, line);
    let late = ["--source-date-epoch", "1700000000"];
    // Without a time for the image, files of a checkout have none of their own.
    assert_eq!(time(&built(&[&plain])), 315_619_200);
    assert_eq!(time(&built(&[&stamped, late[0], late[1]])), COMMIT_TIME);
    assert_eq!(time(&built(&[&plain, late[0], late[1]])), COMMIT_TIME, "as in BuildKit");
    let first = built(&[&plain]).digest;
    git.at(COMMIT_TIME + 60).commit("r.git", &[]);
    assert_eq!(time(&built(&[&stamped, late[0], late[1]])), COMMIT_TIME + 60, "equal files of another time");
    assert_eq!(built(&[&plain]).digest, first);
}

#[test]
fn a_link_in_a_repository_leads_nowhere_else() {
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "links in git contexts") else { return };
    let secret = env.write("secret", "a file of the machine");
    git.init("r.git");
    std::os::unix::fs::symlink(&secret, git.path("r.git").join("Dockerfile")).unwrap();
    std::os::unix::fs::symlink("/", git.path("r.git").join("sub")).unwrap();
    git.commit("r.git", &[]);
    let server = git.serve("");
    let outcome = env.kiln(["build", &server.url("/r.git")]);
    outcome.fails(1, &["no Dockerfile"]);
    assert!(!outcome.stderr.contains("a file of the machine"), "{}", outcome.stderr);
    let url = format!("{}#:sub", server.url("/r.git"));
    env.kiln(["build", &url]).fails(1, &["has no directory `sub`"]);
}

#[test]
fn a_web_server_has_contexts_as_archives_and_as_dockerfiles() {
    let env = env();
    let archive = tar(&env, &[("Dockerfile", DOCKERFILE), ("a", "a"), (".dockerignore", "a\n")]);
    let server = WebServer::start(move |request| match request.path.as_str() {
        "/context" => Reply::new(200, archive.clone()),
        "/file" => Reply::new(200, "FROM scratch\nLABEL a=b\n"),
        "/page" => Reply::new(200, "<!DOCTYPE html>\n<html>"),
        _ => Reply::new(404, ""),
    });
    let image = |path: &str| image(&env, &[&server.url(path)]);
    assert_eq!(paths(&image("/context")), ["src", "src/.dockerignore", "src/Dockerfile", "src/a"]);
    assert_eq!(image("/file").config.config.labels["a"], "b");
    env.kiln(["build", &server.url("/page")]).fails(1, &["is a web page", "ends in `.git`"]);
    env.kiln(["build", &server.url("/none")]).fails(1, &["cannot use", "404 Not Found"]);
}

#[test]
fn named_contexts_lie_elsewhere_too() {
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "named git contexts") else { return };
    git.init("r.git");
    git.commit("r.git", &[("lib/x", "from git"), (".dockerignore", "lib\n")]);
    let server = git.serve("");
    let web = WebServer::start(|_| Reply::new(200, "from the web"));
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY --from=repo lib/x /x\nCOPY --from=web context /y\n");
    let repo = format!("repo={}#main", server.url("/r.git"));
    let file = format!("web={}", web.url("/any"));
    let built = image(&env, &["--build-context", &repo, "--build-context", &file, "ctx"]);
    assert_eq!(built.layers[0].text("x").unwrap(), "from git");
    assert_eq!(built.layers[1].lines(), ["file 600 0:0 y 12"]);
    // As in BuildKit, a stage FROM files has these files; the ignore file of a repository is one of them.
    env.write("ctx/Dockerfile", "FROM repo\n");
    let files = image(&env, &["--build-context", &repo, "ctx"]);
    assert_eq!(
        files.last().lines(),
        ["file 644 0:0 .dockerignore 4", "dir 755 0:0 lib", "file 644 0:0 lib/x 8"]
    );
    env.write("ctx/Dockerfile", "FROM web\n");
    env.kiln(["build", "--build-context", &file, "ctx"]).fails(1, &["FROM needs an image", "Dockerfile:1"]);
}

#[test]
fn the_time_of_a_build_may_come_from_elsewhere() {
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "times of git commits") else { return };
    git.init("r.git");
    git.commit(
        "r.git",
        &[("Dockerfile", "FROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL t=$SOURCE_DATE_EPOCH\nCOPY . /\n")],
    );
    let server = git.serve("");
    let archive = tar(&env, &[("Dockerfile", DOCKERFILE)]);
    let web = WebServer::start(move |request| match request.path.as_str() {
        "/dated" => Reply::new(200, "x").with("last-modified", MODIFIED),
        _ => Reply::new(200, archive.clone()),
    });
    let repository = server.url("/r.git");
    let time = |image: &Image| image.last().entries[0].0.mtime.secs;
    let context = image(&env, &["--source-date-epoch", "context", &repository]);
    assert_eq!(time(&context), COMMIT_TIME);
    assert_eq!(context.config.config.labels["t"], COMMIT_TIME.to_string());
    let newest = image(&env, &["--build-arg", "SOURCE_DATE_EPOCH=context", &web.url("/context")]);
    assert_eq!(time(&newest), COMMIT_TIME + 2);
    let dated = web.url("/dated");
    let of = |dockerfile: &str, more: &[&str]| {
        env.write("ctx/Dockerfile", dockerfile);
        time(&image(&env, &[more, &["ctx"]].concat()))
    };
    let named = format!("lib={repository}");
    let plain = "FROM scratch\nCOPY Dockerfile /\n";
    assert_eq!(of(plain, &["--build-context", &named, "--source-date-epoch", "lib"]), COMMIT_TIME);
    let stage = format!("ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nADD {dated} /\n{plain}");
    assert_eq!(of(&stage, &[]), COMMIT_TIME + 1);
    assert_eq!(of(&stage, &["--source-date-epoch", "7"]), 7);
    assert_eq!(of("ARG SOURCE_DATE_EPOCH=8\nFROM scratch\nCOPY Dockerfile /\n", &[]), 8);
    assert_eq!(of(plain, &["--source-date-epoch", "context"]), 315_619_200, "a directory has no time");
    let fails = |dockerfile: &str, parts: &[&str]| {
        env.write("ctx/Dockerfile", dockerfile);
        env.kiln(["build", "--source-date-epoch", "src", "ctx"]).fails(1, parts);
    };
    fails(plain, &["SOURCE_DATE_EPOCH is `src`, which is no number, no context and no stage"]);
    fails(&format!("FROM scratch AS src\nCOPY x /\n{plain}"), &["it does more than ADD", "Dockerfile:2"]);
    fails(&format!("FROM scratch AS src\nADD x /\n{plain}"), &["exactly one ADD", "Dockerfile:1"]);
}

#[test]
fn the_examples_of_the_documentation_do_what_they_say() {
    const TEXT: &str = include_str!("../../../../docs/contexts.md");
    let env = env();
    let Some(git) = Repositories::new(env.root.join("git"), "the examples of docs/contexts.md") else {
        return;
    };
    let plain = ("Dockerfile", "FROM scratch\nCOPY . /\n");
    git.init("app.git");
    let app = git.commit("app.git", &[plain, ("services/api/Dockerfile", plain.1), ("docs/a", "a")]);
    git.git("app.git", &["tag", "v1.2"]);
    git.init("lib.git");
    git.commit("lib.git", &[("include/x.h", "x")]);
    git.git("lib.git", &["tag", "v3"]);
    let repositories = git.serve("");
    let archive = tar(&env, &[plain]);
    let files = WebServer::start(move |request| match request.path.as_str() {
        "/context.tar.gz" => Reply::new(200, archive.clone()),
        "/Dockerfile" => Reply::new(200, "FROM scratch\nENV A=1\n"),
        _ => Reply::new(200, "hello"),
    });
    let here = |text: &str| {
        text.replace("https://git.example", &repositories.url(""))
            .replace("https://files.example", &files.url(""))
            .replace("1a2b3c4", &app[..7])
    };
    let blocks = |kind: &str| -> Vec<String> {
        let fence = format!("```{kind}\n");
        TEXT.split(&fence).skip(1).map(|part| here(part.split("```").next().unwrap())).collect()
    };
    env.write("Dockerfile", plain.1);
    let mut commands = 0;
    for line in blocks("sh").iter().flat_map(|block| block.lines()) {
        // A reference follows `#` without a blank before it, a comment with one.
        let words: Vec<&str> = line.split(" #").next().unwrap_or_default().split_whitespace().collect();
        // There is no `ssh` to try it with, and the whole environment is no context.
        if words.iter().any(|word| word.starts_with("git@") || *word == ".") {
            continue;
        }
        env.kiln(&words[1..]).ok();
        commands += 1;
    }
    assert_eq!(commands, 7);
    let contexts = [here("lib=https://git.example/lib.git#v3"), here("data=https://files.example/data.bin")];
    let built: Vec<Vec<String>> = blocks("dockerfile")
        .iter()
        .map(|dockerfile| {
            env.write("ctx/Dockerfile", dockerfile);
            let built =
                image(&env, &["--build-context", &contexts[0], "--build-context", &contexts[1], "ctx"]);
            built.layers.iter().flat_map(kiln_testkit::Listing::lines).collect()
        })
        .collect();
    assert!(built[0].contains(&"file 644 0:0 src/services/api/Dockerfile 22".to_owned()), "{built:?}");
    assert!(built[0].contains(&"file 644 0:0 docs/a 1".to_owned()), "{built:?}");
    assert!(built[0].contains(&"file 644 0:0 usr/include/x.h 1".to_owned()), "{built:?}");
    assert!(built[1].contains(&"file 600 0:0 usr/bin/tool 5".to_owned()), "{built:?}");
    assert!(built[1].contains(&"file 755 0:0 bin/hello 5".to_owned()), "{built:?}");
    assert!(built[1].contains(&"file 600 0:0 data 5".to_owned()), "{built:?}");
}
