//! RUN --mount of files and memory: what a command sees, what stays untouched, and what makes a step run again.

use kiln_testkit::{Image, TestEnv, lane};

use crate::env_of;

/// Builds `ctx` with the Dockerfile, in which `BASE` is the host's base, and returns the image.
fn build(env: &TestEnv, dockerfile: &str, more: &[&str]) -> Image {
    let base = env.base();
    env.write("ctx/Dockerfile", dockerfile.replace("BASE", &base));
    let name = format!("{}/mounts:1", env.host());
    let mut args = vec!["build", "--progress", "plain", "-t", &name, "--push"];
    args.extend(more);
    args.push("ctx");
    env.kiln(args).ok();
    Image::pull(&name)
}

/// Lets everybody who can build do so in an environment of their own; the image has to be the same for all.
fn for_everybody(what: &str, check: impl Fn(&TestEnv) -> Image) {
    let mut digest = None;
    for person in lane::people(what) {
        let image = check(&env_of(person.clone()));
        let first = digest.get_or_insert_with(|| image.digest.clone());
        assert_eq!(image.digest, *first, "{person}");
    }
}

/// Returns an environment of whoever can build.
fn for_somebody(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

#[test]
fn a_context_is_mounted_as_copy_would_bring_it() {
    for_everybody("binds of a context", |env| {
        env.write("ctx/src/a", "first\n");
        env.write("ctx/src/deep/b", "second\n");
        env.write("ctx/src/skip/c", "ignored\n");
        env.write("ctx/one", "single\n");
        env.write("ctx/hidden/in/f", "included again\n");
        env.write("ctx/hidden/out", "ignored\n");
        env.write("ctx/.dockerignore", "src/skip\nDockerfile\nhidden\n!hidden/in/f\n");
        let image = build(
            env,
            "FROM BASE\nWORKDIR /w\n\
             RUN --mount=target=all cat all/src/a all/src/deep/b > /out && ls -a all all/src all/hidden all/hidden/in >> /out\n\
             RUN --mount=source=src,target=/s --mount=src=/one,dst=file,ro cat /s/a file > /out2 && stat -c '%u:%g %n' /s /s/a file >> /out2\n\
             RUN --mount=target=all,source=src sh -c 'echo x > all/new' && exit 1 || test ! -e all/new\n",
            &[],
        );
        let text = |layer: usize, path: &str| image.layers[layer].text(path).unwrap();
        assert_eq!(
            text(2, "out"),
            "first\nsecond\nall:\n.\n..\n.dockerignore\nhidden\none\nsrc\n\nall/hidden:\n.\n..\nin\n\n\
             all/hidden/in:\n.\n..\nf\n\nall/src:\n.\n..\na\ndeep\n"
        );
        assert_eq!(text(3, "out2"), "first\nsingle\n0:0 /s\n0:0 /s/a\n0:0 file\n");
        // Neither the files nor the mount points are in a layer.
        assert_eq!(image.layers[2].lines().len(), 1, "{:?}", image.layers[2].lines());
        assert_eq!(image.layers[3].lines().len(), 1, "{:?}", image.layers[3].lines());
        assert_eq!(image.layers[4].lines(), Vec::<String>::new());
        image
    });
}

#[test]
fn what_is_written_to_a_bind_goes_nowhere() {
    for_everybody("writing to binds", |env| {
        env.write("ctx/d/f", "context\n");
        let image = build(
            env,
            "FROM BASE AS data\nRUN mkdir /data && echo stage > /data/f\n\
             FROM BASE\n\
             RUN --mount=source=d,target=/c,rw --mount=source=d/f,target=/one,rw --mount=from=data,source=data,target=/s,rw \
               echo more >> /c/f && echo new > /c/new && echo more >> /one && rm /s/f && cat /c/f /c/new /one > /out && ls /s >> /out\n\
             RUN --mount=source=d,target=/c --mount=source=d/f,target=/one --mount=from=data,source=data,target=/s \
               cat /c/f /one /s/f > /out2 && ls /c >> /out2\n\
             RUN --mount=from=data,source=data,target=/s ! touch /s/new\n\
             RUN --mount=from=data,source=data/f,target=/f ! sh -c 'echo x > /f'\n",
            &[],
        );
        assert_eq!(image.layers[1].text("out").unwrap(), "context\nmore\nnew\ncontext\nmore\n");
        assert_eq!(image.layers[1].lines().len(), 1, "{:?}", image.layers[1].lines());
        assert_eq!(image.layers[2].text("out2").unwrap(), "context\ncontext\nstage\nf\n");
        assert_eq!(std::fs::read_to_string(env.root.join("ctx/d/f")).unwrap(), "context\n");
        assert!(!env.root.join("ctx/d/new").exists());
        image
    });
}

#[test]
fn stages_images_and_named_contexts_can_be_mounted() {
    let Some(env) = for_somebody("sources of binds") else { return };
    env.write("other/hello", "named\n");
    let base = env.base();
    let image = build(
        &env,
        "FROM scratch AS none\nFROM none AS made\nCOPY <<EOF /dir/f\nmade\nEOF\n\
         FROM BASE\n\
         RUN --mount=from=made,source=/dir,target=/made --mount=from=other,target=/other \
             --mount=from=BASE,source=/etc/passwd,target=/passwd --mount=from=none,target=/none --mount=from=scratch,target=/nothing \
             cat /made/f /other/hello > /out && head -n 1 /passwd >> /out && ls /none /nothing >> /out\n",
        &["--build-context", "other=other"],
    );
    assert_eq!(
        image.last().text("out").unwrap(),
        "made\nnamed\nroot:x:0:0:root:/root:/bin/sh\n/none:\n\n/nothing:\n"
    );
    assert!(base.contains("base"));
}

#[test]
fn no_source_leads_out() {
    let Some(env) = for_somebody("sources that lead out") else { return };
    env.write("secret", "outside\n");
    env.write("ctx/secret", "inside\n");
    env.write("ctx/f", "f\n");
    std::os::unix::fs::symlink("../../secret", env.root.join("ctx/link")).unwrap();
    std::os::unix::fs::symlink("/secret", env.root.join("ctx/absolute")).unwrap();
    let image = build(
        &env,
        "FROM BASE\n\
         RUN --mount=source=../../secret,target=/a --mount=source=link,target=/b --mount=source=absolute,target=/c cat /a /b /c > /out\n\
         FROM BASE AS evil\nRUN ln -s ../../../../../../secret /x && echo stage > /secret\n\
         FROM BASE\nRUN --mount=from=evil,source=/x,target=/a --mount=from=evil,source=../../secret,target=/b cat /a /b > /out\n",
        &[],
    );
    assert_eq!(image.last().text("out").unwrap(), "stage\nstage\n");
    let image = build(
        &env,
        "FROM BASE\n\
         RUN --mount=source=../../secret,target=/a --mount=source=link,target=/b --mount=source=absolute,target=/c cat /a /b /c > /out\n",
        &[],
    );
    assert_eq!(image.last().text("out").unwrap(), "inside\ninside\ninside\n");
    let fails = |line: &str, parts: &[&str]| {
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base} AS a\nRUN true\nFROM {base}\n{line}\n"));
        env.kiln(["build", "ctx"]).fails(1, parts);
    };
    fails(
        "RUN --mount=source=sceret,target=/a true",
        &["cannot find `/sceret` in the build context", "Dockerfile:4", "did you mean `secret`?"],
    );
    fails("RUN --mount=from=a,source=gone,target=/a true", &["cannot find `/gone`", "Dockerfile:4"]);
    fails("RUN --mount=source=f true", &["a mount needs a target", "Dockerfile:4"]);
    env.write(
        "ctx/Dockerfile",
        format!("FROM {}\nRUN --mount=target=/a --mount=type=tmpfs,target=/a/b true\n", env.base()),
    );
    env.kiln(["build", "ctx"])
        .fails(4, &["create the mount point `/a/b`", "read-only", "outside of it", "Dockerfile:2"]);
    fails("ENV X=/\nRUN --mount=target=$X true", &["cannot have `/` as its target", "Dockerfile:5"]);
    fails("RUN --mount=type=cache,source=x,target=/c true", &["a path in nothing", "Dockerfile:4"]);
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base} AS a\nRUN --mount=from=b,target=/x true\nFROM {base} AS b\n"),
    );
    env.kiln(["build", "--target", "a", "ctx"])
        .fails(1, &["stage `a` mounts from a later stage, `b`", "Dockerfile:2"]);
}

#[test]
fn a_mount_leaves_no_trace_of_its_own() {
    for_everybody("traces of mounts", |env| {
        env.write("ctx/f", "f\n");
        let image = build(
            env,
            "FROM BASE AS tools\n\
             FROM scratch AS empty\n\
             RUN --mount=from=tools,source=/,target=/usr/ [\"/usr/bin/sh\", \"-c\", \"true\"]\n\
             FROM BASE\n\
             RUN mkdir -p /opt/have && echo below > /opt/have/f\n\
             RUN --mount=type=tmpfs,target=/opt/have --mount=type=tmpfs,target=/opt/new/deep/er --mount=source=f,target=/opt/g/h/f echo x > /opt/have/gone\n\
             RUN --mount=type=tmpfs,target=/opt/new/deep touch /opt/new/kept\n\
             RUN cat /opt/have/f > /out && ls /opt >> /out\n",
            &[],
        );
        assert_eq!(image.layers[2].lines(), Vec::<String>::new());
        // What the command itself puts beside a mount point stays, and so do the directories that lead there.
        assert_eq!(
            image.layers[3].lines(),
            ["dir 755 0:0 opt", "dir 755 0:0 opt/new", "file 644 0:0 opt/new/kept 0"]
        );
        assert_eq!(image.last().text("out").unwrap(), "below\nhave\nnew\n");
        image
    });
}

#[test]
fn memory_is_mounted_with_its_limit() {
    for_everybody("tmpfs mounts", |env| {
        let image = build(
            env,
            "FROM BASE\n\
             RUN --mount=type=tmpfs,target=/t,size=64k ! dd if=/dev/zero of=/t/f bs=1k count=100 2> /dev/null && stat -c %s /t/f > /out\n\
             RUN --mount=type=tmpfs,target=/t stat -c %a /t >> /out && grep ' /t tmpfs ' /proc/mounts | grep -c nosuid >> /out\n\
             RUN --mount=type=tmpfs,target=/t,tmpfs-mode=700 stat -c %a /t >> /out\n\
             RUN --mount=type=tmpfs,target=/t,ro ! touch /t/x && echo refused >> /out\n",
            &[],
        );
        assert_eq!(image.last().text("out").unwrap(), "65536\n1777\n1\n700\nrefused\n");
        image
    });
}

#[test]
fn variables_are_replaced_in_options_and_parents_come_first() {
    let Some(env) = for_somebody("variables in mounts") else { return };
    env.write("ctx/a/f", "f\n");
    let image = build(
        &env,
        "FROM BASE\nARG DIR=a\nENV TO=/to TYPE=tmpfs\n\
         RUN --mount=type=$TYPE,target=$TO/inner --mount=source=${DIR},target=$TO,rw cat /to/f > /out && ls /to >> /out && touch $TO/inner/x\n",
        &[],
    );
    assert_eq!(image.last().text("out").unwrap(), "f\nf\ninner\n");
}

#[test]
fn a_step_runs_again_only_when_what_it_mounts_changes() {
    let Some(env) = for_somebody("keys of mounts") else { return };
    let base = env.base();
    env.write("ctx/a/f", "1");
    env.write("ctx/b/f", "1");
    let dockerfile = format!(
        "FROM {base} AS stage\nCOPY b /b\nFROM {base}\n\
         RUN --mount=source=a,target=/a --mount=from=stage,source=/b,target=/b cat /a/f /b/f /proc/uptime /proc/sys/kernel/random/uuid > /out\n"
    );
    env.write("ctx/Dockerfile", &dockerfile);
    // The command tells when it ran, so that an equal digest means that it did not.
    let digest = || env.kiln(["build", "ctx"]).ok().to_owned();
    let first = digest();
    assert_eq!(digest(), first);
    env.write("ctx/unrelated", "x");
    assert_eq!(digest(), first);
    env.write("ctx/a/f", "2");
    let second = digest();
    assert_ne!(second, first);
    env.write("ctx/b/f", "2");
    let third = digest();
    assert_ne!(third, second);
    env.write("ctx/a/f", "1");
    env.write("ctx/b/f", "1");
    assert_eq!(digest(), first);
}

#[test]
fn triggers_of_a_base_can_mount() {
    let Some(env) = for_somebody("mounts in ONBUILD") else { return };
    let base = env.base();
    env.write("ctx/f", "from the context\n");
    env.write(
        "parent/Dockerfile",
        format!("FROM {base}\nONBUILD RUN --mount=source=f,target=/f --mount=from={base},source=/etc/group,target=/g cat /f > /out && head -n 1 /g >> /out\n"),
    );
    let parent = format!("{}/parent:1", env.host());
    env.kiln(["build", "-t", &parent, "--push", "parent"]).ok();
    let image = build(&env, &format!("FROM {parent}\n"), &[]);
    assert_eq!(image.last().text("out").unwrap(), "from the context\nroot:x:0:\n");
    // A trigger may mount from a stage of the child's file that nothing else needs.
    env.write(
        "parent/Dockerfile",
        format!("FROM {base}\nONBUILD RUN --mount=from=tools,source=/f,target=/f cat /f > /out\n"),
    );
    env.kiln(["build", "-t", &parent, "--push", "parent"]).ok();
    let image = build(&env, &format!("FROM scratch AS tools\nCOPY f /f\nFROM {parent}\n"), &[]);
    assert_eq!(image.last().text("out").unwrap(), "from the context\n");
}
