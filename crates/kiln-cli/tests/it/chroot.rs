//! Root in a default container: commands in another root directory give the layers that they give in a namespace.
//!
//! The capabilities are those that Docker and containerd give, the rest is this machine; what seccomp and a read-only
//! `/proc` add is in `environments`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_testkit::{Image, Outcome, Person, TestEnv, lane};

use crate::env;

/// Docker's default: 0xa80425fb.
const DEFAULT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,\
                       +net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";

/// Returns an environment of root with a base image; `None` where that cannot be tried.
fn world(what: &str) -> Option<(TestEnv, String)> {
    let env = env();
    if env.person != Person::Root {
        lane::left_out(what, "only root can change the root directory");
        return None;
    }
    lane::program("setpriv", what)?;
    let base = env.base();
    Some((env, base))
}

/// Returns kiln as root of a default container runs it.
fn contained(env: &TestEnv, store: &Path, args: &[&str]) -> Command {
    let plain = env.command(args);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", DEFAULT]).arg(plain.get_program()).args(plain.get_args());
    command.env_clear();
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("KILN_STORE", store).current_dir(&env.root);
    command
}

fn run(command: &mut Command) -> Outcome {
    Outcome::of(command)
}

/// Builds the context `ctx` in a namespace and in another root directory, and asserts that the results are the same image.
fn same_image(env: &TestEnv, more: &[&str]) -> (Image, Outcome) {
    let (first, second) = (format!("{}/same:userns", env.host()), format!("{}/same:chroot", env.host()));
    let args = |name, isolation| {
        let mut args = vec!["build", "--isolation", isolation, "-t", name, "--push", "--progress", "plain"];
        args.extend(more);
        args.push("ctx");
        args
    };
    let expected = env.kiln(args(&first, "userns"));
    expected.ok();
    let store = env.root.join("home/chroot-store");
    let found = run(&mut contained(env, &store, &args(&second, "chroot")));
    found.ok();
    let (a, b) = (Image::pull(&first), Image::pull(&second));
    let lines = |image: &Image| image.layers.iter().map(kiln_testkit::Listing::lines).collect::<Vec<_>>();
    assert_eq!(lines(&b), lines(&a));
    assert_eq!(found.stdout, expected.stdout, "the files are listed the same, and the digests differ");
    let left = std::fs::read_dir(store.join("tmp")).unwrap().count();
    assert_eq!(left, 0, "the build left something in the store's temporary folder");
    (b, found)
}

#[test]
fn a_layer_is_the_same_as_in_a_namespace() {
    let Some((env, base)) = world("layers of another root directory") else { return };
    env.write("ctx/file", "from the context\n");
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS one\n\
             RUN mkdir -p /a/b/c /gone/deep && echo x > /a/b/f && ln -s f /a/b/link && ln /a/b/f /a/b/hard && mkfifo /a/pipe \
                 && echo y > /gone/deep/y && cp /bin/true /a/s && chmod 4711 /a/s && touch -d @1000000 /old && echo z > /a/b/c/z\n\
             RUN chown 33:50 /a/b/c/z && chmod 2750 /a/b/c && cp /bin/cat /cat\n\
             RUN echo more >> /a/b/hard && rm -r /gone && mkdir /gone && echo new > /gone/new\n\
             COPY file /a/b/file\n\
             RUN rm /a/b/link && mv /a/b/c /a/moved && ln /a/moved/z /a/z && rm -r /a/b && echo file > /a/b\n\
             RUN true\n\
             RUN echo changed > /etc/resolv.conf; echo hosts > /etc/hosts; echo x > /dev/x; chmod 700 /; rm -f /a/pipe\n\
             FROM one AS two\n\
             RUN echo two > /two && touch /a/b && chown -R 7:7 /a\n\
             FROM one\n\
             COPY --from=two /two /three\n\
             RUN --mount=type=bind,from=two,source=/a,target=/m test \"$(stat -c %u /m/b)\" = 7 && echo last > /last\n"
        ),
    );
    let (image, outcome) = same_image(&env, &[]);
    assert_eq!(image.last().lines(), ["file 644 0:0 last 5"]);
    assert!(outcome.stderr.contains("isolation chroot"), "{}", outcome.stderr);
}

#[test]
fn mounts_are_there_and_leave_nothing() {
    let Some((env, base)) = world("mounts in another root directory") else { return };
    let secret = env.write("token", "hush-hush-hush\n");
    env.write("ctx/dir/file", "from the context\n");
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS files\nRUN mkdir /d && echo deep > /d/f && chown 9:9 /d\n\
             FROM {base}\n\
             RUN --mount=type=cache,target=/var/cache/x echo one >> /var/cache/x/log\n\
             RUN --mount=type=cache,target=/var/cache/x --mount=type=cache,target=/var/cache/x/y,id=y \
                 echo two >> /var/cache/x/log && cp /var/cache/x/log /log && echo y > /var/cache/x/y/y\n\
             RUN --mount=type=bind,source=dir,target=/m --mount=type=bind,from=files,source=/d,target=/d,rw \
                 cp /m/file /copy && stat -c %u /d > /owner && echo lost > /d/lost && cat /d/f >> /copy\n\
             RUN --mount=type=bind,from=files,source=/d/f,target=/one/f cat /one/f > /one-f\n\
             RUN --mount=type=secret,id=token --mount=type=secret,id=token,env=TOKEN,target=/etc/token,uid=5,mode=0440 \
                 stat -c %u:%a /run/secrets/token /etc/token > /modes && sha256sum < /etc/token > /sum && test \"$TOKEN\"\n\
             RUN --mount=type=tmpfs,target=/scratch stat -c %a /scratch > /mode && echo x > /scratch/x\n\
             RUN <<EOF\nset -e\necho script > /script\nEOF\n"
        ),
    );
    let (image, _) = same_image(&env, &["--secret", &format!("id=token,src={}", secret.display())]);
    let text = |path: &str| image.layers.iter().find_map(|layer| layer.text(path)).unwrap_or_default();
    assert_eq!(text("log"), "one\ntwo\n");
    assert_eq!(text("copy"), "from the context\ndeep\n");
    assert_eq!(
        (text("owner"), text("one-f"), text("script")),
        ("9\n".into(), "deep\n".into(), "script\n".into())
    );
    assert_eq!(text("modes"), "0:400\n5:440\n");
    assert!(image.entry("scratch").is_none() && image.entry("run/secrets").is_none());
    assert!(image.entry("m").is_none() && image.entry("etc/token").is_none());
    let found =
        Command::new("grep").args(["-rl", "hush-hush", "home/chroot-store"]).current_dir(&env.root).output();
    assert_eq!(String::from_utf8_lossy(&found.unwrap().stdout), "", "the secret is in the store");
}

#[test]
fn users_have_their_rights_and_no_more() {
    let Some((env, base)) = world("users in another root directory") else { return };
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base}\nRUN mkdir /own && chown 33:33 /own\nUSER www-data\nWORKDIR /own\n\
             RUN id -u > me && id -g >> me && ! touch /mine 2> /dev/null\n"
        ),
    );
    let (image, _) = same_image(&env, &[]);
    assert_eq!(image.last().lines(), ["dir 755 33:33 own", "file 644 33:33 own/me 6"]);
}

#[test]
fn the_store_may_lie_on_an_overlay() {
    const WHAT: &str = "a store on an overlay";
    let Some((env, base)) = world(WHAT) else { return };
    if lane::program("unshare", WHAT).is_none() {
        return;
    }
    if !Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|status| status.success()) {
        return lane::left_out(WHAT, "this root may not mount");
    }
    // The removals are read back three times: by a command, by a COPY, and by the layers of the image.
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS a\nRUN mkdir -p /d/e && echo x > /d/e/f && echo y > /d/g && echo z > /z\n\
             RUN rm /d/g && rm -r /d/e && mkdir /d/e && echo new > /d/e/new\n\
             FROM a\nRUN test ! -e /d/g && test ! -e /d/e/f && rm /z && ls /d > /list\nCOPY --from=a /d /copy\n"
        ),
    );
    let script = format!(
        "mkdir lower upper work merged && mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work merged && \
         exec setpriv --bounding-set '{DEFAULT}' \"$@\""
    );
    let name = format!("{}/overlay:1", env.host());
    let plain = env.command(["build", "--isolation", "chroot", "--push", "-t", &name, "ctx"]);
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &script, "sh"]).arg(plain.get_program()).args(plain.get_args());
    command.env_clear().current_dir(&env.root);
    for (name, value) in plain.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    Outcome::of(command.env("KILN_STORE", env.root.join("merged/store"))).ok();
    let image = Image::pull(&name);
    assert_eq!(image.last().lines(), ["dir 755 0:0 copy", "dir 755 0:0 copy/e", "file 644 0:0 copy/e/new 4"]);
    let removing = &image.layers[image.layers.len() - 2];
    assert_eq!(removing.lines(), ["file 600 0:0 .wh.z 0", "file 644 0:0 list 2"]);
    let opaque = "file 600 0:0 d/e/.wh..wh..opq 0".to_owned();
    assert!(image.layers[image.layers.len() - 3].lines().contains(&opaque));
}

#[test]
fn the_layers_below_are_copied_once_for_each_branch() {
    let Some((env, base)) = world("working roots that are passed on") else { return };
    env.write("ctx/file", "x\n");
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS a\nRUN echo 1 > /1\nRUN echo 2 > /2\nRUN cat /1 /2 > /3\n\
             COPY file /file\nRUN cat /file > /4\nRUN rm /1 && echo 5 > /5\nFROM a\nRUN cat /3 /5 > /6\n"
        ),
    );
    let trace = env.root.join("trace.json");
    let args =
        ["build", "--isolation", "chroot", "--trace", "trace.json", "-o", "type=oci,dest=out.tar", "ctx"];
    run(&mut contained(&env, &env.root.join("home/store"), &args)).ok();
    // All layers for the first command, and one more where a COPY stands between two.
    let copies = std::fs::read_to_string(trace).unwrap().matches("copy the layers below").count();
    assert_eq!(copies, 2);
}

#[test]
fn commands_cannot_end_or_read_kiln() {
    let Some((env, base)) = world("attacks on kiln") else { return };
    let marks = env.write("home/credential", "registry-password\n");
    // What the kernel cannot wall off here is what the build says that it lacks.
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base}\nRUN for pid in $PPID 1; do cat /proc/$pid/environ /proc/$pid/mem /proc/$pid/status && echo SEEN; done; \
             cat {0} && echo READ; echo x > {0} && echo WRITTEN; kill -9 $PPID && echo KILLED; \
             chmod 777 {0} && echo CHANGED; mknod /disk b 254 0 && echo MADE; \
             (sleep 1000 &) ; echo end > /end\n",
            marks.display()
        ),
    );
    let store = env.root.join("home/store");
    let args =
        ["build", "--isolation", "chroot", "--progress", "plain", "-o", "type=oci,dest=out.tar", "ctx"];
    let mut command = contained(&env, &store, &args);
    let outcome = run(command.env("REGISTRY_TOKEN", "token-of-kiln"));
    if outcome.stderr.contains("a wall for signals") {
        return lane::left_out("attacks on kiln", "this kernel's Landlock cannot confine signals");
    }
    outcome.ok();
    for word in ["SEEN", "READ", "WRITTEN", "KILLED", "CHANGED", "MADE", "token-of-kiln", "registry-password"]
    {
        // The command itself is part of the output.
        let printed = outcome.stderr.lines().filter(|line| !line.contains("RUN for pid"));
        assert!(printed.into_iter().all(|line| !line.contains(word)), "{word}: {}", outcome.stderr);
    }
    assert_eq!(std::fs::read_to_string(&marks).unwrap(), "registry-password\n");
}

#[test]
fn a_killed_build_leaves_no_secret_and_nothing_for_long() {
    let Some((env, base)) = world("a killed build") else { return };
    let secret = env.write("token", "hush-hush-hush\n");
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN --mount=type=secret,id=token cat /run/secrets/token > /dev/null && echo started && sleep 1000\n"),
    );
    let store = env.root.join("home/store");
    let secret = format!("id=token,src={}", secret.display());
    let args = [
        "build",
        "--isolation",
        "chroot",
        "--secret",
        &secret,
        "--progress",
        "plain",
        "-o",
        "type=oci,dest=out",
        "ctx",
    ];
    let mut kiln =
        contained(&env, &store, &args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(kiln.stderr.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with(" started")));
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    // The helper notices, ends the command, and takes its scaffolding down.
    let found = || {
        let found = Command::new("grep").args(["-rl", "hush-hush"]).arg(&store).output().unwrap();
        String::from_utf8_lossy(&found.stdout).into_owned()
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while !found().is_empty() {
        assert!(Instant::now() < deadline, "the secret is still in {}", found());
        std::thread::sleep(Duration::from_millis(20));
    }
    // Whoever opens the store next removes the working root.
    run(&mut contained(&env, &store, &["prune", "--dry-run"])).ok();
    assert_eq!(std::fs::read_dir(store.join("tmp")).unwrap().count(), 0);
}
