//! Hostile Dockerfiles: paths, owners, mounts and secrets that reach for what is not theirs.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_testkit::{Person, lane};

use crate::hostile_tar::Tar;
use crate::hostile_world::{Expect, World, files, refused};

/// A world with the host's base.
struct Files {
    world: World,
    base: String,
}

impl Files {
    fn new(person: &Person) -> Self {
        let env = World::new(person);
        let base = env.env.base();
        // The base's layout lies beside the canary from now on.
        Self { world: env.again(), base }
    }

    /// Builds a Dockerfile in which `BASE` is the host's base and `CANARY` the way to the canary.
    fn check(&self, case: &str, dockerfile: &str, more: &[&str], expect: &Expect) {
        let canary = self.world.canary.display().to_string();
        let text = dockerfile.replace("BASE", &self.base).replace("CANARY", &canary);
        self.world.write("ctx/Dockerfile", text);
        let mut args = vec!["build"];
        if matches!(expect, Expect::Files(_)) {
            args.extend(["-o", "type=local,dest=out"]);
        }
        args.extend(more);
        args.push("ctx");
        self.world.check(case, expect, &args, None);
    }
}

#[test]
fn paths() {
    let Some(person) = lane::people("paths of Dockerfiles").into_iter().next() else { return };
    let it = Files::new(&person);
    it.world.write("ctx/f", "f");
    it.world.write("ctx/a.tar", Tar::new().file("out/evil", "evil").end());
    let out = it.world.env.root.join("work/ctx/links");
    fs::create_dir(&out).unwrap();
    symlink(&it.world.canary, out.join("out")).unwrap();
    symlink("../../../../../../../../../etc", out.join("etc")).unwrap();
    let built = |case, dockerfile, lines: &[&str]| it.check(case, dockerfile, &[], &files(lines));
    built("WORKDIR above the root", "FROM scratch\nWORKDIR ../../..\nCOPY f .\n", &["file 644 f=f"]);
    built(
        "WORKDIR up and down",
        "FROM scratch\nWORKDIR /a/../../b\nCOPY f .\n",
        &["dir 755 b", "file 644 b/f=f"],
    );
    built("a destination above the root", "FROM scratch\nCOPY f ../../../x\n", &["file 644 x=f"]);
    built(
        "a destination below /proc",
        "FROM scratch\nCOPY f /proc/self/root/x\n",
        &["dir 755 proc", "dir 755 proc/self", "dir 755 proc/self/root", "file 644 proc/self/root/x=f"],
    );
    built(
        "a stage's path above its root",
        "FROM scratch AS a\nCOPY f /f\nFROM scratch\nCOPY --from=a ../../f /x\n",
        &["file 644 x=f"],
    );
    let fails = |case, dockerfile, parts: &[&'static str]| it.check(case, dockerfile, &[], &refused(parts));
    let outside = "FROM scratch AS a\nCOPY links /\nFROM scratch\nCOPY --from=a /out/secret /x\n";
    fails("out of a stage, through a link", outside, &["out/secret"]);
    let passwd = "FROM scratch AS a\nCOPY links /\nFROM scratch\nCOPY --from=a /etc/passwd /x\n";
    fails("out of a stage, through a relative link", passwd, &["etc/passwd"]);
    let round = "FROM scratch\nCOPY links /\nCOPY f /etc/f\n";
    fails(
        "a destination through a link to itself",
        round,
        &["too many symbolic links on the way to `/etc/f`"],
    );
    let over = "FROM scratch\nCOPY links /\nADD a.tar /\n";
    fails("an archive over a link to outside", over, &["cannot unpack into `/out`"]);
    it.check(
        "WORKDIR through a link to outside",
        "FROM scratch\nCOPY links /\nWORKDIR /out/x\nCOPY f .\n",
        &["-o", "type=oci,dest=out.tar"],
        &Expect::Built,
    );
    fails("a source of NUL", "FROM scratch\nCOPY a\0b /\n", &["NUL"]);
    it.check(
        "a heredoc that leads out",
        "FROM scratch\nCOPY <<../../CANARY/evil /x/\na\n../../CANARY/evil\n",
        &[],
        &Expect::Refused(1, vec!["Dockerfile:2"]),
    );
    built("a heredoc with slashes", "FROM scratch\nCOPY <<\"/a/b\" /x\nc\n/a/b\n", &["file 644 x=c\n"]);
    fails("a heredoc called `..`", "FROM scratch\nCOPY <<.. /x/\na\n..\n", &["Dockerfile:2"]);
    for mode in ["7777777", "-1", "0o644", "999", "u+q", "\u{1b}[31m"] {
        it.check(
            "a mode",
            &format!("FROM scratch\nCOPY --chmod={mode} f /\n"),
            &[],
            &refused(&["Dockerfile:2"]),
        );
    }
    for owner in ["4294967296", "-1:-1", "a:b:c", "99999999999999999999", "nobody-knows:x", "\u{1b}[31m"] {
        it.check(
            "an owner",
            &format!("FROM scratch\nCOPY --chown={owner} f /\n"),
            &[],
            &refused(&["Dockerfile:2"]),
        );
    }
    it.check(
        "the largest owner",
        "FROM scratch\nCOPY --chown=4294967295 f /\n",
        &[],
        &Expect::Refused(1, vec!["Dockerfile:2", "4294967295"]),
    );
    it.world.finish();
}

#[test]
fn users() {
    let Some(person) = lane::people("users of Dockerfiles").into_iter().next() else { return };
    let it = Files::new(&person);
    for user in
        ["4294967295", "4294967296", "-1", "0:4294967295", "99999999999", "root:nothing", "a:b:c", "no such"]
    {
        let case = format!("USER {user}");
        it.check(&case, &format!("FROM BASE\nUSER {user}\nRUN true\n"), &[], &refused(&["Dockerfile:"]));
    }
    // These mean root, as in Docker.
    for user in ["0", "root", "0:0", "root:0", ":0"] {
        it.check(
            &format!("USER {user}"),
            &format!("FROM BASE\nUSER {user}\nRUN test $(id -u) = 0\n"),
            &[],
            &Expect::Built,
        );
    }
    let passwd = "root:x:0:0::/:/bin/sh\nevil:x:4294967295:0::/:/bin/sh\nlong:x:99999999999:0::/:/bin/sh\n:::::\n\u{1b}[31m:x:5:5::/:/bin/sh\n";
    for user in ["evil", "long"] {
        let dockerfile = format!("FROM BASE\nCOPY <<E /etc/passwd\n{passwd}E\nUSER {user}\nRUN true\n");
        it.check(&format!("a passwd file with `{user}`"), &dockerfile, &[], &refused(&["Dockerfile:"]));
    }
    let link = "FROM BASE\nRUN rm /etc/passwd && ln -s CANARY/secret /etc/passwd && ln -sf /dev/zero /etc/group\nUSER nobody\nRUN true\n";
    it.check("a passwd file that is a link out", link, &[], &refused(&["Dockerfile:"]));
    let zero = "FROM BASE\nRUN rm /etc/passwd && mkfifo /etc/passwd\nUSER nobody\nRUN true\n";
    it.check("a passwd file that is a pipe", zero, &[], &refused(&["Dockerfile:"]));
    it.world.finish();
}

#[test]
fn mounts() {
    // Root, and who has one id: who has a range comes between.
    for person in lane::people("hostile mounts").into_iter().step_by(2) {
        let it = Files::new(&person);
        it.world.write("ctx/f", "f");
        let dir = it.world.env.root.join("work/ctx/links");
        fs::create_dir(&dir).unwrap();
        symlink(&it.world.canary, dir.join("out")).unwrap();
        let run = |mount: &str, command: &str| format!("FROM BASE\nRUN --mount={mount} {command}\n");
        let fails = |case, mount: &str, parts: &[&'static str]| {
            it.check(case, &run(mount, "cat /x/secret /x"), &[], &refused(parts));
        };
        fails("a source above the context", "type=bind,source=../../canary,target=/x", &["Dockerfile:2"]);
        fails("a source through a link", "type=bind,source=links/out,target=/x", &["Dockerfile:2"]);
        fails(
            "a source through a link, deeper",
            "type=bind,source=links/out/secret,target=/x",
            &["Dockerfile:2"],
        );
        fails("an absolute source", "type=bind,source=/../../etc/shadow,target=/x", &["Dockerfile:2"]);
        fails(
            "a source above a stage",
            "type=bind,from=BASE,source=../../../CANARY,target=/x",
            &["Dockerfile:2"],
        );
        for target in ["/", "/.", "/..", "/../..", "//", "."] {
            let case = format!("a mount over `{target}`");
            it.check(
                &case,
                &run(&format!("type=tmpfs,target={target}"), "true"),
                &[],
                &refused(&["Dockerfile:2"]),
            );
            it.check(
                &case,
                &run(&format!("type=cache,target={target}"), "true"),
                &[],
                &refused(&["Dockerfile:2"]),
            );
        }
        let anyhow = |case: &str, mount: &str, command: &str| {
            it.world.write(
                "ctx/Dockerfile",
                run(mount, command)
                    .replace("BASE", &it.base)
                    .replace("CANARY", &it.world.canary.display().to_string()),
            );
            let outcome = it.world.kiln(&["build", "ctx"], None);
            let refused = Expect::Refused(4, vec!["Dockerfile:", "cannot mount"]);
            let expect = if outcome.code == Some(0) { Expect::Built } else { refused };
            it.world.judge(case, &expect, &outcome);
        };
        for target in [
            "/proc",
            "/proc/self",
            "/sys",
            "/dev",
            "/dev/null",
            "/etc/resolv.conf",
            "/proc/sys/kernel/core_pattern",
            "/../CANARY",
            "/dev/shm/../../x",
        ] {
            anyhow(&format!("over {target}"), &format!("type=tmpfs,target={target}"), "true");
            anyhow(&format!("a bind over {target}"), &format!("type=bind,target={target}"), "true");
        }
        let linked = "FROM BASE\nRUN ln -s / /root-link && ln -s CANARY /canary-link && ln -s /proc /proc-link\n\
            RUN --mount=type=cache,target=/root-link/c --mount=type=tmpfs,target=/proc-link/x --mount=type=cache,target=/canary-link/c echo x > /c/f && ls -R /canary-link\n";
        it.world.write(
            "ctx/Dockerfile",
            linked.replace("BASE", &it.base).replace("CANARY", &it.world.canary.display().to_string()),
        );
        let outcome = it.world.kiln(&["build", "ctx"], None);
        let no_room = Expect::Refused(4, vec!["Dockerfile:3"]);
        let expect = if outcome.code == Some(0) { Expect::Built } else { no_room };
        it.world.judge("targets through links", &expect, &outcome);
        for id in [
            "../../../canary",
            "/",
            "..",
            ".",
            "a/b",
            "\u{1b}[31m",
            "x".repeat(10_000).as_str(),
            "id.json",
            "0",
        ] {
            let case = format!("a cache called {:?}", id.get(..20).unwrap_or(id));
            it.check(
                &case,
                &run(&format!("type=cache,target=/c,id={id}"), "echo x > /c/evil"),
                &[],
                &Expect::Built,
            );
        }
        fails(
            "a cache seeded from outside",
            "type=cache,target=/x,from=BASE,source=../../../CANARY",
            &["Dockerfile:2"],
        );
        fails("an agent that nobody gave", "type=ssh,required=true", &["--ssh default"]);
        fails("a secret that nobody gave", "type=secret,id=../../canary/secret,required=true", &["--secret"]);
        it.check(
            "an agent that is not needed",
            &run("type=ssh", "test ! -S \"$SSH_AUTH_SOCK\""),
            &[],
            &Expect::Built,
        );
        it.check(
            "a secret over the root",
            &run("type=secret,id=s,target=/", "true"),
            &["--secret", "id=s,src=../canary/link"],
            &refused(&["Dockerfile:2"]),
        );
        it.world.finish();
    }
}
