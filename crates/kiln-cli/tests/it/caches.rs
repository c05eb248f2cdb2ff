//! Cache mounts: what they keep, who shares them, and how they travel.

use std::time::Duration;

use kiln_testkit::{Image, TestEnv, lane};

use crate::env_of;

/// Builds `run` onto the host's base and returns what it wrote to `/out`.
fn out(env: &TestEnv, run: &str, more: &[&str]) -> String {
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\n{run}\n"));
    let name = format!("{}/caches:1", env.host());
    let mut args = vec!["build", "--no-cache", "-t", &name, "--push"];
    args.extend(more);
    args.push("ctx");
    env.kiln(args).ok();
    let image = Image::pull(&name);
    let lines = image.last().lines();
    assert!(
        lines.len() == 1 && lines[0].ends_with(&format!(" out {}", image.last().text("out").unwrap().len())),
        "{lines:?}"
    );
    image.last().text("out").unwrap()
}

fn for_somebody(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

#[test]
fn a_cache_survives_builds_and_is_in_no_layer() {
    for person in lane::people("cache mounts") {
        let env = env_of(person.clone());
        let count = "RUN --mount=type=cache,target=/root/.cache/x/ echo run >> /root/.cache/x/log && cat /root/.cache/x/log > /out";
        assert_eq!(out(&env, count, &[]), "run\n");
        assert_eq!(out(&env, count, &[]), "run\nrun\n");
        // The default id is the cleaned target, so this is the same cache at another place.
        let elsewhere = "RUN --mount=type=cache,id=/root/.cache/x,target=/here cat /here/log > /out";
        assert_eq!(out(&env, elsewhere, &[]), "run\nrun\n");
        let other = "RUN --mount=type=cache,id=../../other/..,target=/root/.cache/x ls /root/.cache/x > /out";
        assert_eq!(out(&env, other, &[]), "");
        let look = "RUN --mount=type=cache,id=/root/.cache/x,target=/here ls /here > /out";
        assert_eq!(out(&env, look, &[]), "log\n");
        assert_eq!(out(&env, look, &["--build-arg", "BUILDKIT_CACHE_MOUNT_NS=mine"]), "");
        let read = "RUN --mount=type=cache,target=/root/.cache/x,ro ! touch /root/.cache/x/new && stat -c '%a %u:%g' /root/.cache/x > /out";
        assert_eq!(out(&env, read, &[]), "755 0:0\n");
        let owned = "RUN --mount=type=cache,target=/c,uid=33,gid=50,mode=0700 stat -c '%a %u:%g' /c > /out";
        assert_eq!(out(&env, owned, &[]), "700 33:50\n");
        let by_user = "USER www-data\nRUN --mount=type=cache,target=/c,uid=33 echo mine >> /c/f && cat /c/f > /tmp/out\nUSER 0\nRUN mv /tmp/out /out";
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base}\n{by_user}\n"));
        env.kiln(["build", "ctx"]).ok();
    }
}

#[test]
fn the_content_of_a_cache_runs_no_step_again() {
    let Some(env) = for_somebody("keys of cache mounts") else { return };
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN --mount=type=cache,id=a,target=/c echo x >> /c/f && cat /c/f > /out\n"),
    );
    let first = env.kiln(["build", "ctx"]).ok().to_owned();
    assert_eq!(env.kiln(["build", "ctx"]).ok(), first);
    assert_ne!(env.kiln(["build", "--no-cache", "ctx"]).ok(), first);
}

#[test]
fn a_new_cache_starts_with_what_it_is_given() {
    for person in lane::people("seeds of cache mounts") {
        let env = env_of(person);
        let base = env.base();
        env.write("ctx/seed/f", "seed\n");
        let stage =
            "RUN --mount=type=cache,target=/c,from=seeds,source=/seed echo more >> /c/f && cat /c/f > /out";
        let dockerfile = |run: &str| format!("FROM scratch AS seeds\nCOPY seed /seed\nFROM {base}\n{run}\n");
        let name = format!("{}/seeds:1", env.host());
        let mut told = Vec::new();
        for _ in 0..2 {
            env.write("ctx/Dockerfile", dockerfile(stage));
            env.kiln(["build", "--no-cache", "-t", &name, "--push", "ctx"]).ok();
            told.push(Image::pull(&name).last().text("out").unwrap());
        }
        assert_eq!(told, ["seed\nmore\n", "seed\nmore\nmore\n"]);
        assert_eq!(std::fs::read_to_string(env.root.join("ctx/seed/f")).unwrap(), "seed\n");
    }
}

/// Builds two stages at once that both have the cache `c`; returns what each found in it, and the log.
fn two_at_once(env: &TestEnv, sharing: &str) -> (String, String) {
    let base = env.base();
    let mount = format!("--mount=type=cache,id=c,target=/c,sharing={sharing}");
    // Either the second command is there when the first has not ended, or it waits: that is the question.
    let run = |name: &str| {
        format!(
            "FROM {base} AS {name}\nRUN {mount} echo {name} >> /c/log && sleep 1 && cat /c/log > /out && echo end >> /c/log\n"
        )
    };
    env.write(
        "ctx/Dockerfile",
        format!(
            "{}{}FROM scratch\nCOPY --from=one /out /one\nCOPY --from=two /out /two\n",
            run("one"),
            run("two")
        ),
    );
    let name = format!("{}/two:1", env.host());
    let told = env.kiln(["build", "--progress", "plain", "-t", &name, "--push", "ctx"]);
    told.ok();
    let image = Image::pull(&name);
    let text = |path: &str| image.layers.iter().find_map(|layer| layer.text(path)).unwrap();
    (format!("{}|{}", text("one"), text("two")), told.stderr)
}

#[test]
fn sharing_decides_what_a_second_command_gets() {
    let what = "sharing of cache mounts";
    let Some(env) = for_somebody(what) else { return };
    let (shared, _) = two_at_once(&env, "shared");
    let (one, two) = shared.split_once('|').unwrap();
    assert!(
        one.contains("one\n") && two.contains("two\n") && (one.contains("two\n") || two.contains("one\n")),
        "{shared}"
    );
    assert!(!one.starts_with("one\nend\n") && !two.starts_with("one\nend\n"), "{shared}");
    let Some(env) = for_somebody(what) else { return };
    let (private, _) = two_at_once(&env, "private");
    assert_eq!(private, "one\n|two\n");
    let Some(env) = for_somebody(what) else { return };
    let (locked, told) = two_at_once(&env, "locked");
    let after = ["one\n|one\nend\ntwo\n", "two\nend\none\n|two\n"];
    assert!(after.contains(&locked.as_str()), "{locked}");
    assert!(told.contains("waiting for cache mount `c`, which another step is using"), "{told}");
}

#[test]
fn builds_of_different_processes_share_a_store() {
    let Some(env) = for_somebody("cache mounts of several processes") else { return };
    let base = env.base();
    // Each fails if it finds the mark of another, and the log has a line of each in the end.
    let alone = "test ! -e /c/busy && touch /c/busy && sleep 0.3 && rm /c/busy && echo x >> /c/log";
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN --mount=type=cache,id=c,target=/c,sharing=locked {alone}\n"),
    );
    let start =
        || env.command(["build", "--no-cache", "ctx"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    for mut child in [start(), start(), start()] {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(out(&env, "RUN --mount=type=cache,id=c,target=/c cat /c/log > /out", &[]), "x\nx\nx\n");
}

#[test]
fn two_commands_that_want_two_locked_caches_both_end() {
    let Some(env) = for_somebody("order of locked caches") else { return };
    let base = env.base();
    let mount = |id: &str| format!("--mount=type=cache,id={id},target=/{id},sharing=locked");
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS one\nRUN {a} {b} sleep 0.1 && touch /one\nFROM {base} AS two\nRUN {b} {a} sleep 0.1 && touch /two\n\
             FROM scratch\nCOPY --from=one /one /\nCOPY --from=two /two /\n",
            a = mount("a"),
            b = mount("b"),
        ),
    );
    let start = std::time::Instant::now();
    env.kiln(["build", "ctx"]).ok();
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn caches_travel_between_stores() {
    for person in lane::people("export and import of cache mounts") {
        let env = env_of(person);
        let fill = "RUN --mount=type=cache,id=a/../b,target=/c mkdir -m 2750 /c/d && echo x > /c/d/f && chown 33:50 /c/d/f && chmod 640 /c/d/f && ln /c/d/f /c/hard && ln -s d/f /c/link && touch -d @1000000 /c/d/f && echo . > /out";
        out(&env, fill, &[]);
        out(&env, "RUN --mount=type=cache,id=other,target=/c echo other > /c/f && echo . > /out", &[]);
        let listed = env.kiln(["cache", "ls"]).ok().to_owned();
        assert!(listed.contains("a/../b") && listed.contains("other"), "{listed}");
        env.kiln(["cache", "export", "-o", "home/all.tar.zst"]).ok();
        env.kiln(["cache", "export", "--id", "a/../b", "-o", "home/one.tar"]).ok();
        env.kiln(["cache", "export", "--id", "a/../b", "-o", "home/again.tar"]).ok();
        let bytes = |name: &str| std::fs::read(env.root.join("home").join(name)).unwrap();
        assert_eq!(bytes("one.tar"), bytes("again.tar"));
        env.kiln(["cache", "export", "--id", "othr", "-o", "home/x.tar"])
            .fails(1, &["no cache mount `othr`", "did you mean `other`?"]);
        assert!(!env.root.join("home/x.tar").exists());

        let look = "RUN --mount=type=cache,id=a/../b,target=/c cat /c/link > /out && stat -c '%n %a %u:%g %h %Y' /c /c/d /c/d/f >> /out && readlink /c/link >> /out";
        let here = out(&env, look, &[]);
        assert!(here.contains("/c/d/f 640 33:50 2 1000000\nd/f\n"), "{here}");
        for (archive, others) in [("home/one.tar", false), ("home/all.tar.zst", true)] {
            let store = format!("home/store-{others}");
            env.kiln(["cache", "import", "--store", &store, archive]).ok();
            assert_eq!(out(&env, look, &["--store", &store]), here);
            let other =
                out(&env, "RUN --mount=type=cache,id=other,target=/c ls /c > /out", &["--store", &store]);
            assert_eq!(other, if others { "f\n" } else { "" });
            let _ = env.kiln(["prune", "--all", "--store", &store]);
        }
    }
}

#[test]
fn what_is_no_archive_of_caches_is_refused() {
    let Some(env) = for_somebody("import of other archives") else { return };
    env.write("plain.tar", "no archive");
    env.kiln(["cache", "import", "plain.tar"]).fails(1, &["plain.tar"]);
    env.kiln(["cache", "import", "gone.tar"]).fails(1, &["gone.tar"]);
    assert_eq!(env.kiln(["cache", "ls"]).ok(), "ID  SIZE  USED");
    assert_eq!(env.kiln(["cache", "ls", "--format", "json"]).ok(), "[]");
    env.kiln(["cache", "export", "-o", "x.tar"]).fails(1, &["no cache mounts"]);
}

#[test]
fn a_hostile_archive_leads_nowhere() {
    use kiln::oci::Digest;
    use kiln::oci::layer::{Compression, Entry, EntryPath, Kind, LayerWriter};

    let Some(env) = for_somebody("hostile archives of caches") else { return };
    let identity = br#"{"id":"a"}"#;
    let key = Digest::sha256(identity).hex().to_owned();
    let archive = |name: &str, entries: &[(&str, Kind, &[u8])]| {
        let file = std::fs::File::create(env.root.join(name)).unwrap();
        let mut writer = LayerWriter::new(file, Compression::None, 1).unwrap();
        for (path, kind, content) in entries {
            let mut content: &[u8] = content;
            let path = EntryPath::rooted(path.replace("KEY", &key)).unwrap();
            writer.append(&Entry::new(path, kind.clone(), 0o755), Some(&mut content)).unwrap();
        }
        writer.finish().unwrap();
    };
    let link = |target: &str| Kind::Symlink { target: target.as_bytes().to_vec() };
    let file = |content: &[u8]| Kind::File { size: content.len() as u64 };
    let described = ("KEY/id.json", file(identity), &identity[..]);
    let none: &[u8] = b"";
    archive("link.tar", &[("KEY/fs", link("/etc"), none), described.clone()]);
    archive("outer.tar", &[("KEY", link("/etc"), none)]);
    archive(
        "description.tar",
        &[("KEY/fs", Kind::Directory, none), ("KEY/id.json", link("/etc/passwd"), none)],
    );
    archive("name.tar", &[("0/fs", Kind::Directory, none), ("0/id.json", file(identity), identity)]);
    archive("more.tar", &[("KEY/fs", Kind::Directory, none), ("KEY/id.json", file(b"{}"), b"{}")]);
    archive("empty.tar", &[]);
    for name in ["link.tar", "outer.tar", "description.tar", "name.tar", "more.tar", "empty.tar"] {
        env.kiln(["cache", "import", name]).fails(1, &[name]);
    }
    assert_eq!(env.kiln(["cache", "ls", "--format", "json"]).ok(), "[]");
    archive(
        "good.tar",
        &[("KEY/fs", Kind::Directory, none), ("KEY/fs/passwd", link("/etc/passwd"), none), described],
    );
    assert_eq!(env.kiln(["cache", "import", "good.tar"]).ok(), "imported a");
    // A link of a cache is followed by the command, in its own root.
    let look = "RUN --mount=type=cache,id=a,target=/c head -n 1 /c/passwd > /out";
    assert_eq!(out(&env, look, &[]), "root:x:0:0:root:/root:/bin/sh\n");
}

#[test]
fn prune_removes_caches() {
    let Some(env) = for_somebody("pruning cache mounts") else { return };
    let fill = "RUN --mount=type=cache,id=a,target=/c echo x >> /c/f && cat /c/f > /out";
    out(&env, fill, &[]);
    env.kiln(["prune", "--older-than", "1h"]).ok();
    assert_eq!(out(&env, fill, &[]), "x\nx\n");
    env.kiln(["prune"]).ok();
    assert_eq!(env.kiln(["cache", "ls", "--format", "json"]).ok(), "[]");
    let schemes = std::fs::read_dir(env.root.join("home/store/cache-mounts")).unwrap().flatten();
    let left: Vec<_> = schemes.flat_map(|scheme| std::fs::read_dir(scheme.path()).unwrap()).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(out(&env, fill, &[]), "x\n");
}
