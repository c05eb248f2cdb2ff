//! RUN: what a command sees, what of it becomes the layer, and that nothing stays behind.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kiln_testkit::{Image, Person, TestEnv, lane};

use crate::{KILN, env_of};

/// Builds `dockerfile` onto the host's base for everybody who can, and hands each image to `check`.
fn for_everybody(what: &str, dockerfile: &str, check: impl Fn(&Image, &Person)) {
    for person in lane::people(what) {
        let env = env_of(person.clone());
        let base = env.base();
        env.write("ctx/Dockerfile", dockerfile.replace("BASE", &base));
        let name = format!("{}/run:1", env.host());
        env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
        check(&Image::pull(&name), &person);
    }
}

fn strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|l| (*l).to_owned()).collect()
}

#[test]
fn the_layer_is_exactly_what_the_command_changed() {
    let dockerfile = "FROM BASE\n\
        RUN mkdir -p /a/b && echo x > /a/b/f && ln -s f /a/b/link && ln /a/b/f /a/b/hard && mkfifo /a/pipe && chmod 4711 /a/b/f\n\
        RUN rm /a/b/link && rm -r /a/b && mkdir /a/b && echo y > /a/b/new\n\
        RUN true\n\
        RUN cat /etc/resolv.conf /etc/hosts > /dev/null; touch -d @1000000 /old; rm /a/pipe\n";
    for_everybody("layers of RUN", dockerfile, |image, _| {
        let lines: Vec<_> = image.layers.iter().skip(1).map(kiln_testkit::Listing::lines).collect();
        assert_eq!(
            lines[0],
            strings(&[
                "dir 755 0:0 a",
                "dir 755 0:0 a/b",
                "file 4711 0:0 a/b/f 2",
                "hard 4711 0:0 a/b/hard = a/b/f",
                "link 777 0:0 a/b/link -> f",
                "fifo 644 0:0 a/pipe"
            ])
        );
        assert_eq!(
            lines[1],
            strings(&[
                "dir 755 0:0 a",
                "dir 755 0:0 a/b",
                "file 600 0:0 a/b/.wh..wh..opq 0",
                "file 644 0:0 a/b/new 2"
            ])
        );
        assert_eq!(lines[2], Vec::<String>::new());
        assert_eq!(lines[3], strings(&["dir 755 0:0 a", "file 600 0:0 a/.wh.pipe 0", "file 644 0:0 old 0"]));
        // Times of the build are cut to the epoch, older ones stay.
        assert_eq!(image.layers[4].entry("old").unwrap().mtime.secs, 1_000_000);
        assert_eq!(image.layers[1].entry("a/b/f").unwrap().mtime.secs, 315_619_200);
    });
}

#[test]
fn owners_are_those_of_the_image() {
    let dockerfile = "FROM BASE\nRUN mkdir /d && touch /d/f && chown 33:50 /d/f && chown -h 65534 /d && chmod 2750 /d\n\
        USER www-data\nRUN id -u > /tmp/me && id -g >> /tmp/me\n";
    for person in lane::people("owners in layers") {
        let env = env_of(person.clone());
        let base = env.base();
        env.write("ctx/Dockerfile", dockerfile.replace("BASE", &base));
        let name = format!("{}/owners:1", env.host());
        env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
        let image = Image::pull(&name);
        assert_eq!(image.layers[1].lines(), ["dir 2750 65534:0 d", "file 644 33:50 d/f 0"]);
        assert_eq!(image.layers[2].text("tmp/me").unwrap(), "33\n33\n");
        assert_eq!(image.layers[2].lines(), ["dir 1777 0:0 tmp", "file 644 33:33 tmp/me 6"]);
    }
}

#[test]
fn environment_arguments_and_scripts_reach_the_command() {
    let dockerfile = "FROM BASE\nARG NAME=x\nENV GREETING=hello\nWORKDIR /w\n\
        RUN echo \"$GREETING $NAME $HOME $(pwd) $(uname -n)\" > out\n\
        RUN [\"sh\", \"-c\", \"echo $0 exec >> out\", \"arg\"]\n\
        RUN <<EOF\nset -e\necho first >> out\necho second >> out\nEOF\n\
        RUN <<-'EOF'\n\t#!/bin/sh\n\techo \"script $GREETING\" >> out\n\tEOF\n\
        RUN cat <<A >> out && cat <<B >> out\nfrom a\nA\nfrom b\nB\n";
    for_everybody("environment of RUN", dockerfile, |image, _| {
        let expect =
            "hello x /root /w buildkitsandbox\narg exec\nfirst\nsecond\nscript hello\nfrom a\nfrom b\n";
        assert_eq!(image.last().text("w/out").unwrap(), expect);
        assert!(image.entry("dev/pipes").is_none() && image.entry("dev/pipes/EOF").is_none());
        let history: Vec<_> = image.config.history.iter().filter_map(|h| h.created_by.clone()).collect();
        assert!(history.iter().any(|h| h.starts_with("RUN |1 NAME=x /bin/sh -c echo")), "{history:#?}");
    });
}

#[test]
fn commands_are_isolated() {
    let dockerfile = "FROM BASE\n\
        RUN test $$ -lt 10 && test \"$(cat /proc/1/comm)\" != systemd\n\
        RUN test ! -w /proc/sys/kernel/hostname && test ! -e /proc/kcore -o ! -s /proc/kcore\n\
        RUN --network=none test \"$(ls /sys/class/net 2>/dev/null | tr -d '\\n')\" = lo || test \"$(sed -n '3,$p' /proc/net/dev | cut -d: -f1 | sed 's/ //g')\" = lo\n\
        RUN grep -q '^NoNewPrivs:.*0' /proc/self/status\n\
        RUN grep -qi '^CapEff:.*00000000a80425fb' /proc/self/status\n";
    for_everybody("isolation of RUN", dockerfile, |image, _| {
        assert_eq!(image.layers.len(), 6);
    });
}

#[test]
fn a_failed_command_is_explained() {
    for person in lane::people("errors of RUN") {
        let env = env_of(person);
        let base = env.base();
        env.write(
            "ctx/Dockerfile",
            format!("FROM {base}\nRUN echo fine\n\nRUN echo telling >&2 && exit 42\n"),
        );
        env.kiln(["build", "ctx"])
            .fails(1, &["RUN failed with exit code 42", "Dockerfile:4", "RUN echo telling", "telling"]);
        env.write("ctx/Dockerfile", format!("FROM {base}\nRUN no-such-program --x\n"));
        env.kiln(["build", "ctx"])
            .fails(1, &["exit code 127", "Dockerfile:2", "hint: a command was not found"]);
        env.write("ctx/Dockerfile", format!("FROM {base}\nUSER nobdy\nRUN true\n"));
        env.kiln(["build", "ctx"]).fails(1, &["no user `nobdy`", "did you mean `nobody`?", "Dockerfile:3"]);
        env.write("ctx/Dockerfile", "FROM scratch\nRUN true\n");
        env.kiln(["build", "ctx"]).fails(1, &["exit code 127", "Dockerfile:2"]);
    }
}

#[test]
fn output_is_never_clipped() {
    let Some(person) = lane::people("output of RUN").into_iter().next() else { return };
    let env = env_of(person);
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nRUN seq 1 60000 && printf 'no newline at the end'\n"));
    let told = env.kiln(["build", "--progress", "plain", "ctx"]);
    told.ok();
    let lines: Vec<&str> = told.stderr.lines().filter(|l| l.starts_with("#2 ")).collect();
    let numbers =
        lines.iter().filter(|l| l.rsplit(' ').next().is_some_and(|w| w.parse::<u32>().is_ok())).count();
    assert_eq!(numbers, 60_000);
    assert!(told.stderr.contains("no newline at the end"));
}

/// A build that is killed with its test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a build whose RUN prints `ready`, starts children and sleeps; returns it once it has printed.
fn sleeping(env: &TestEnv, marker: &str) -> Killed {
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN sleep {marker} & (sleep {marker} &) ; echo ready ; sleep {marker}\n"),
    );
    let mut command = env.command(["build", "--progress", "plain", "ctx"]);
    let mut child = Killed(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
    let ready = lines.any(|l| l.is_ok_and(|l| l.ends_with(" ready")));
    assert!(ready, "the command did not start");
    // Whatever it goes on to say must not block it.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn processes(marker: &str) -> usize {
    let wanted = format!("sleep\0{marker}\0");
    let is_it =
        |e: &std::fs::DirEntry| std::fs::read(e.path().join("cmdline")).is_ok_and(|c| c == wanted.as_bytes());
    std::fs::read_dir("/proc").unwrap().flatten().filter(is_it).count()
}

fn wait_for(condition: impl Fn() -> bool, otherwise: &str) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(1), "{otherwise}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_build_leaves_no_process_and_no_mount() {
    for (n, person) in lane::people("killing a build").into_iter().enumerate() {
        let env = env_of(person);
        let marker = format!("77{n}{}", std::process::id());
        let mut child = sleeping(&env, &marker);
        wait_for(|| processes(&marker) >= 3, "the children of the step were not found");
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        wait_for(|| processes(&marker) == 0, "processes of the step are left");
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(&env.root.display().to_string()), "{mounts}");
        env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
        env.kiln(["build", "ctx"]).ok();
    }
}

#[test]
fn an_interrupted_build_stops_within_a_second() {
    for (n, person) in lane::people("interrupting a build").into_iter().enumerate() {
        let env = env_of(person);
        let marker = format!("88{n}{}", std::process::id());
        let mut child = sleeping(&env, &marker);
        let start = Instant::now();
        let pid = child.0.id().to_string();
        assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let status = child.0.wait().unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(status.code(), Some(130));
        wait_for(|| processes(&marker) == 0, "processes of the step are left");
    }
}

#[test]
fn the_environment_of_kiln_is_closed_to_others_of_the_same_user() {
    for (n, person) in lane::people("hiding kiln's environment").into_iter().enumerate() {
        if person == Person::Root {
            continue;
        }
        let env = env_of(person.clone());
        let child = sleeping(&env, &format!("99{n}{}", std::process::id()));
        let path = format!("/proc/{}/environ", child.0.id());
        let read = person.command("cat".as_ref()).arg(&path).output().unwrap();
        assert!(!read.status.success(), "{person} read {path}: {}", String::from_utf8_lossy(&read.stdout));
    }
}

#[test]
fn stages_run_at_the_same_time() {
    let Some(person) = lane::people("parallel stages").into_iter().next() else { return };
    let env = env_of(person);
    let base = env.base();
    let stage = |n: u32| format!("FROM {base} AS s{n}\nRUN sleep 1 && echo {n} > /r{n}\n");
    let copies: String = (0..4).map(|n| format!("COPY --from=s{n} /r{n} /r{n}\n")).collect();
    let dockerfile: String = (0..4).map(stage).collect::<String>() + &format!("FROM {base}\n{copies}");
    env.write("ctx/Dockerfile", dockerfile);
    let start = Instant::now();
    env.kiln(["build", "ctx"]).ok();
    assert!(
        start.elapsed() < Duration::from_millis(3500),
        "four stages of a second took {:?}",
        start.elapsed()
    );
}

#[test]
fn a_build_without_run_needs_no_isolation() {
    let env = TestEnv::new(KILN);
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    env.kiln(["build", "--isolation", "none", "ctx"]).ok();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\nRUN /f\n");
    env.kiln(["build", "--isolation", "none", "ctx"])
        .fails(4, &["RUN cannot be isolated here", "Dockerfile:3"]);
}
