//! What kiln remembers of a context's files, and that it is never deceived by it.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use kiln_testkit::{Image, TestEnv};

use crate::env;

/// Builds `ctx` and returns the digest of the image and whether the COPY was in the cache.
fn build(env: &TestEnv, more: &[&str]) -> (String, bool) {
    let metadata = env.root.join("metadata.json");
    let metadata = metadata.to_str().unwrap();
    let out =
        env.kiln([&["build", "--progress=plain", "--metadata-file", metadata], more, &["ctx"]].concat());
    let digest = out.ok().to_owned();
    (digest, out.stderr.contains("CACHED"))
}

/// Returns what the image of `ctx` has in the file `path`.
fn content(env: &TestEnv, path: &str) -> String {
    let to = env.root.join(format!("out-{}", fs::read_dir(&env.root).unwrap().count()));
    env.kiln(["build", "-o", to.to_str().unwrap(), "ctx"]).ok();
    fs::read_to_string(to.join(path)).unwrap()
}

/// Makes a file look as if it had been left alone for long: what the tests cannot wait for.
fn settle() {
    // The one thing that nobody can set is the ctime, so the rule has to be waited for once.
    std::thread::sleep(Duration::from_millis(2100));
}

/// Returns the index of the one context that was built.
fn index(env: &TestEnv) -> PathBuf {
    let mut files = fs::read_dir(env.root.join("home/store/contexts")).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

fn restore_time(path: &Path, time: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn changes_that_hide_are_noticed() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY . /\n");
    env.write("ctx/.dockerignore", "Dockerfile\n");
    for name in ["same-size", "renamed", "removed", "mode", "twice", "dir/deep", "linked"] {
        env.write(&format!("ctx/{name}"), "1st");
    }
    let file = |name: &str| env.root.join("ctx").join(name);
    fs::hard_link(file("linked"), file("other-name")).unwrap();
    build(&env, &[]);
    settle();
    let (mut digest, cached) = build(&env, &[]);
    assert!(cached);
    let trusted = fs::metadata(index(&env)).unwrap().ino();
    let _holder = File::open(index(&env)).unwrap();
    assert_eq!(build(&env, &[]), (digest.clone(), true));
    assert_eq!(fs::metadata(index(&env)).unwrap().ino(), trusted, "written although nothing changed");

    let mut differs = |what: &str| {
        let (new, cached) = build(&env, &[]);
        assert!(new != digest && !cached, "{what} was not noticed");
        assert_eq!(build(&env, &[]), (new.clone(), true), "{what}");
        digest = new;
    };
    let before = fs::metadata(file("same-size")).unwrap().modified().unwrap();
    fs::write(file("same-size"), "2nd").unwrap();
    restore_time(&file("same-size"), before);
    differs("a content with the old size and time");
    assert_eq!(content(&env, "same-size"), "2nd");

    let before = fs::metadata(file("renamed")).unwrap().modified().unwrap();
    env.write("new", "2nd");
    restore_time(&env.root.join("new"), before);
    fs::rename(env.root.join("new"), file("renamed")).unwrap();
    differs("a file put in the place of another");
    assert_eq!(content(&env, "renamed"), "2nd");

    fs::remove_file(file("removed")).unwrap();
    differs("a file that is gone");
    env.write("ctx/dir/added", "1st");
    differs("a new file");
    fs::set_permissions(file("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    differs("a mode");
    fs::write(file("other-name"), "2nd").unwrap();
    differs("a content written through another name");
    assert_eq!(content(&env, "linked"), "2nd");
    fs::remove_file(file("other-name")).unwrap();
    env.write("ctx/other-name", "2nd");
    differs("a link that became a copy");

    // One tick of the clock may have both of these, and then the times are the same.
    for round in ["2nd", "3rd", "4th", "5th"] {
        let before = fs::metadata(file("twice")).unwrap().modified().unwrap();
        fs::write(file("twice"), round).unwrap();
        restore_time(&file("twice"), before);
        differs(round);
        assert_eq!(content(&env, "twice"), round);
    }
}

#[test]
fn what_comes_back_is_found_again() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY . /\n");
    env.write("ctx/a/f", "1");
    env.write("ctx/b/f", "1");
    let first = build(&env, &[]).0;
    env.write("ctx/a/f", "2");
    assert_ne!(build(&env, &[]).0, first);
    env.write("ctx/a/f", "1");
    assert_eq!(build(&env, &[]), (first.clone(), true));
    env.write("ctx/.dockerignore", "b\n");
    let (ignored, cached) = build(&env, &[]);
    assert!(ignored != first && !cached, "the ignore file was not noticed");
    fs::remove_file(env.root.join("ctx/.dockerignore")).unwrap();
    assert_eq!(build(&env, &[]), (first, true));
}

#[test]
fn an_index_that_is_damaged_or_cannot_be_written_changes_nothing() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY src /\n");
    for n in 0..300 {
        env.write(&format!("ctx/src/{n}"), n.to_string());
    }
    let expect = (build(&env, &[]).0, true);
    settle();
    assert_eq!(build(&env, &[]), expect);
    let file = index(&env);
    let whole = fs::read(&file).unwrap();
    let mut wrong = whole.clone();
    wrong[1000] ^= 1;
    for damaged in
        [&whole[..whole.len() / 2], &whole[..10], b"", &wrong, &[whole.as_slice(), b"more"].concat()]
    {
        fs::write(&file, damaged).unwrap();
        assert_eq!(build(&env, &[]), expect);
        assert_eq!(fs::read(&file).unwrap(), whole, "it was not made again");
    }
    // What was unreadable before is so for every user, root too: a directory in the place of the file.
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    fs::write(file.join("in the way"), "").unwrap();
    env.write("ctx/src/7", "another");
    let out = env.kiln(["build", "--progress=plain", "ctx"]);
    assert_ne!(out.ok(), expect.0, "a change was not noticed");
    assert!(out.stderr.contains("the next build will read the build context again"), "{}", out.stderr);
}

#[test]
fn contexts_are_kept_apart() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /a\nCOPY --from=lib f /b\n");
    env.write("ctx/f", "context");
    env.write("lib/f", "library");
    let args = ["--build-context", "lib=lib"];
    let first = build(&env, &args).0;
    settle();
    assert_eq!(build(&env, &args), (first.clone(), true));
    assert_eq!(fs::read_dir(env.root.join("home/store/contexts")).unwrap().count(), 2);
    env.write("lib/f", "Library");
    let second = build(&env, &args).0;
    assert_ne!(second, first);
    // The same directory by another way is the same context.
    std::os::unix::fs::symlink(env.root.join("lib"), env.root.join("link")).unwrap();
    assert_eq!(build(&env, &["--build-context", "lib=link"]), (second, true));
    assert_eq!(fs::read_dir(env.root.join("home/store/contexts")).unwrap().count(), 2);
    // What is unpacked for one build alone leaves nothing behind.
    let tar = kiln_testkit::lane::program("tar", "a context as an archive");
    if let Some(tar) = tar {
        let mut packed = std::process::Command::new(tar);
        packed.args(["-cf", "ctx.tar", "-C", "ctx", "."]);
        assert!(packed.current_dir(&env.root).status().unwrap().success());
        env.kiln(["build", "--build-context", "lib=lib", "ctx.tar"]).ok();
        assert_eq!(fs::read_dir(env.root.join("home/store/contexts")).unwrap().count(), 2);
    }
    env.kiln(["prune"]).ok();
    assert_eq!(fs::read_dir(env.root.join("home/store/contexts")).unwrap().count(), 0);
}

#[test]
fn every_umask_gives_one_image_where_that_is_asked_for() {
    let env = env();
    let checkout = |name: &str, umask: u32| {
        for (path, mode) in [("f", 0o666), ("dir/tool", 0o777), ("dir/sub/g", 0o666)] {
            let file = env.write(&format!("{name}/src/{path}"), path);
            fs::set_permissions(&file, fs::Permissions::from_mode(mode & !umask)).unwrap();
        }
        for dir in ["src", "src/dir", "src/dir/sub"] {
            let dir = env.root.join(name).join(dir);
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777 & !umask)).unwrap();
        }
        env.write(&format!("{name}/Dockerfile"), "FROM scratch\nCOPY src /src\n");
    };
    checkout("usual", 0o022);
    checkout("shut", 0o077);
    checkout("group", 0o002);
    let expect = env.kiln(["build", "usual"]).ok().to_owned();
    for name in ["shut", "group"] {
        let out = env.kiln(["build", "--no-cache", "--cache-ignore-umask", name]);
        assert_eq!(out.ok(), expect, "{name}: another image");
        let out = env.kiln(["build", "--progress=plain", "--cache-ignore-umask", name]);
        assert_eq!(out.ok(), expect);
        assert!(out.stderr.contains("CACHED"), "{name} was not found in the cache: {}", out.stderr);
        let by_variable = |value: &str| {
            kiln_testkit::Outcome::of(env.command(["build", name]).env("KILN_CACHE_IGNORE_UMASK", value))
        };
        assert_eq!(by_variable("true").ok(), expect);
        assert_ne!(by_variable("false").ok(), expect, "{name}: modes are part of an image");
        by_variable("maybe").fails(2, &["KILN_CACHE_IGNORE_UMASK", "`maybe`", "`true` or `false`"]);
    }
    // Bits that no umask takes stay, and the option changes nothing on disk.
    let tool = env.root.join("shut/src/dir/tool");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4700)).unwrap();
    let name = format!("{}/umask:1", env.host());
    env.kiln(["build", "--cache-ignore-umask", "-t", &name, "--push", "shut"]).ok();
    let lines = Image::pull(&name).layers[0].lines();
    assert!(lines.contains(&"file 4755 0:0 src/dir/tool 8".to_owned()), "{lines:?}");
    assert_eq!(fs::metadata(&tool).unwrap().mode() & 0o7777, 0o4700);
}

/// Starts a build whose COPY waits for a command, and does `change` while that runs.
fn change_meanwhile(step: &str, change: impl FnOnce(&TestEnv)) -> kiln_testkit::Outcome {
    use std::io::{BufRead as _, BufReader, Read as _};
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nRUN echo begun; sleep 2\n{step}\n"));
    for name in ["src/f", "src/g", "src/dir/h"] {
        env.write(&format!("ctx/{name}"), "1st");
    }
    let mut command = env.command(["build", "--progress=plain", "ctx"]);
    let mut child =
        command.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut told = String::new();
    while !told.lines().last().unwrap_or_default().ends_with(" begun") {
        assert_ne!(stderr.read_line(&mut told).unwrap(), 0, "{told}");
    }
    change(&env);
    stderr.read_to_string(&mut told).unwrap();
    let out = child.wait_with_output().unwrap();
    let stdout = String::from_utf8_lossy(&out.stdout).into_owned();
    let outcome = kiln_testkit::Outcome { code: out.status.code(), stdout, stderr: told };
    if outcome.code != Some(0) {
        // Nothing of the failed build is taken for something else.
        let again = env.kiln(["build", "ctx"]).ok().to_owned();
        assert_eq!(env.kiln(["build", "--no-cache", "ctx"]).ok(), again);
    }
    outcome
}

#[test]
fn a_context_that_changes_during_the_build_fails_it() {
    let hint = "do not change the context while it is built";
    let check = |change: &dyn Fn(&TestEnv), message: &str| {
        change_meanwhile("COPY src /src", change).fails(1, &[message, hint]);
    };
    let same_time = |env: &TestEnv| {
        let file = env.root.join("ctx/src/g");
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        fs::write(&file, "2nd").unwrap();
        restore_time(&file, before);
    };
    check(&same_time, "`src/g` of the build context changed during the build");
    check(
        &|env| drop(env.write("ctx/src/new", "1st")),
        "`src/new` of the build context changed during the build",
    );
    let remove = |env: &TestEnv| fs::remove_file(env.root.join("ctx/src/dir/h")).unwrap();
    check(&remove, "the build context changed during the build");
    check(&|env| drop(env.write("ctx/src/f", "")), "the build context changed during the build");
    let pattern = change_meanwhile("COPY src/* /all/", |env| drop(env.write("ctx/src/new", "1st")));
    pattern.fails(1, &["the build context changed during the build", hint]);
    let step = "RUN --mount=source=src,target=/m cat /m/g";
    let mount = change_meanwhile(step, |env| drop(env.write("ctx/src/g", "2nd")));
    mount.fails(1, &["the build context changed during the build", hint]);
    let outside = change_meanwhile("COPY src /src", |env| drop(env.write("ctx/elsewhere", "not copied")));
    assert_eq!(outside.code, Some(0), "{}", outside.stderr);
}

#[test]
fn fifty_thousand_files_are_known_at_once() {
    const FILES: usize = 50_000;
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY src /src\n");
    for n in 0..FILES {
        let dir = env.root.join(format!("ctx/src/{}", n / 250));
        if n % 250 == 0 {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write(dir.join(format!("file-{n}")), n.to_string()).unwrap();
    }
    settle();
    let args = ["--compression", "uncompressed"];
    let (digest, _) = build(&env, &args);
    let started = Instant::now();
    assert_eq!(build(&env, &args), (digest, true));
    // A debug build on a busy machine; reading them all again takes several times as long.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}
