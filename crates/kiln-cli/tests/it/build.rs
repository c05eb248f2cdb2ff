//! What `kiln build` takes and what it makes of it.

use std::io::Write as _;
use std::process::Stdio;

use kiln_testkit::Image;

use crate::env;

#[test]
fn config_has_what_every_instruction_says() {
    let env = env();
    env.write(
        "ctx/Dockerfile",
        r#"ARG TAG=one
FROM scratch AS base
ARG TAG
ENV A=1 B="two words" C=$TAG
LABEL org.example.a=$A "with space"="x y"
MAINTAINER somebody
EXPOSE 80 53/udp 8000-8001
VOLUME ["/data", "/more"]
USER 1000:50
WORKDIR /srv
WORKDIR app
STOPSIGNAL SIGINT
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=5s --timeout=1m --retries=3 CMD curl -f http://localhost/
ONBUILD RUN echo hi
ENTRYPOINT ["/app"]
CMD serve --fast
"#,
    );
    let name = format!("{}/config:1", env.host());
    let told =
        env.kiln(["build", "--label", "extra=1", "--build-arg", "TAG=two", "-t", &name, "--push", "ctx"]);
    let digest = told.ok().to_owned();
    let image = Image::pull(&name);
    assert_eq!(image.digest.as_str(), digest);
    let config = serde_json::to_value(&image.config).unwrap();
    let expect = serde_json::json!({
        "User": "1000:50",
        "ExposedPorts": {"53/udp": {}, "80/tcp": {}, "8000/tcp": {}, "8001/tcp": {}},
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "A=1", "B=two words", "C=two"],
        "Entrypoint": ["/app"],
        "Cmd": ["/bin/bash", "-c", "serve --fast"],
        "Healthcheck": {"Test": ["CMD-SHELL", "curl -f http://localhost/"], "Interval": 5_000_000_000_u64,
            "Timeout": 60_000_000_000_u64, "Retries": 3},
        "ArgsEscaped": true,
        "Volumes": {"/data": {}, "/more": {}},
        "WorkingDir": "/srv/app",
        "OnBuild": ["RUN echo hi"],
        "Labels": {"org.example.a": "1", "with space": "x y", "extra": "1"},
        "StopSignal": "SIGINT",
        "Shell": ["/bin/bash", "-c"],
    });
    assert_eq!(config["config"], expect);
    assert_eq!(config["author"], "somebody");
    // Two WORKDIRs make two layers, owned by the user of the time.
    assert_eq!(image.layers[0].lines(), ["dir 755 1000:50 srv"]);
    assert_eq!(image.layers[1].lines(), ["dir 755 1000:50 srv", "dir 755 1000:50 srv/app"]);
}

#[test]
fn copy_takes_files_as_the_reference_says() {
    let env = env();
    for (path, content) in [
        ("ctx/a.txt", "a"),
        ("ctx/b.txt", "b"),
        ("ctx/dir/inner/c", "c"),
        ("ctx/dir/d.log", "ignored"),
        ("ctx/dir/keep.log", "kept"),
        ("ctx/.dockerignore", "# logs\n**/*.log\n!dir/keep.log\n"),
    ] {
        env.write(path, content);
    }
    std::os::unix::fs::symlink("inner/c", env.root.join("ctx/dir/link")).unwrap();
    std::fs::hard_link(env.root.join("ctx/dir/inner/c"), env.root.join("ctx/dir/twin")).unwrap();
    env.write(
        "ctx/Dockerfile",
        "FROM scratch\nCOPY a.txt /one\nCOPY a.txt b.txt /many/\nCOPY dir /tree\nCOPY *.txt /glob/\nCOPY --chown=7:8 --chmod=600 a.txt /owned/\n\
         COPY dir/link /followed\nCOPY <<EOF /here\nhello\nEOF\n",
    );
    let name = format!("{}/copy:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let image = Image::pull(&name);
    let lines: Vec<Vec<String>> = image.layers.iter().map(kiln_testkit::Listing::lines).collect();
    let expect: [&[&str]; 7] = [
        &["file 644 0:0 one 1"],
        &["dir 755 0:0 many", "file 644 0:0 many/a.txt 1", "file 644 0:0 many/b.txt 1"],
        &[
            "dir 755 0:0 tree",
            "dir 755 0:0 tree/inner",
            "file 644 0:0 tree/inner/c 1",
            "file 644 0:0 tree/keep.log 4",
            "link 777 0:0 tree/link -> inner/c",
            "hard 644 0:0 tree/twin = tree/inner/c",
        ],
        &["dir 755 0:0 glob", "file 644 0:0 glob/a.txt 1", "file 644 0:0 glob/b.txt 1"],
        &["dir 600 7:8 owned", "file 600 7:8 owned/a.txt 1"],
        &["file 644 0:0 followed 1"],
        &["file 644 0:0 here 6"],
    ];
    assert_eq!(lines, expect.map(|l| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()));
    assert_eq!(image.layers[6].text("here").unwrap(), "hello\n");
}

#[test]
fn only_needed_stages_are_built() {
    let env = env();
    env.write("ctx/f", "f");
    env.write(
        "ctx/Dockerfile",
        "FROM nowhere.invalid/missing AS unused\nRUN false\nFROM scratch AS one\nCOPY f /f\nFROM one AS two\nCOPY f /g\n",
    );
    env.kiln(["build", "ctx"]).ok();
    let one = env.kiln(["build", "--target", "one", "ctx"]);
    let by_number = env.kiln(["build", "--target", "1", "ctx"]);
    assert_eq!(one.ok(), by_number.ok());
    env.kiln(["build", "--target", "tow", "ctx"]).fails(1, &["no stage called `tow`", "did you mean `two`?"]);
}

#[test]
fn contexts_come_from_standard_input_and_archives() {
    let env = env();
    env.write("ctx/f", "f");
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    let from_dir = env.kiln(["build", "ctx"]).ok().to_owned();
    let tar = std::process::Command::new("tar")
        .args(["-C", "ctx", "-czf", "ctx.tgz", "."])
        .current_dir(&env.root)
        .status();
    assert!(tar.unwrap().success());
    assert_eq!(env.kiln(["build", "ctx.tgz"]).ok(), from_dir);
    let piped = |args: &[&str], input: &[u8]| {
        let mut command = env.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let archive = std::fs::read(env.root.join("ctx.tgz")).unwrap();
    assert_eq!(piped(&["build", "-"], &archive), from_dir);
    assert_eq!(piped(&["build", "-f", "-", "ctx"], b"FROM scratch\nCOPY f /f\n"), from_dir);
    assert_ne!(piped(&["build", "-"], b"FROM scratch\nENV A=1\n"), from_dir);
}

#[test]
fn named_contexts_replace_images_and_give_files() {
    let env = env();
    env.write("other/f", "other");
    env.write("ctx/Dockerfile", "FROM alpine\nCOPY --from=extra f /f\nCOPY --from=alpine /bin/sh /sh\n");
    kiln_testkit::base::write_layout(&env.root.join("layout")).unwrap();
    let name = format!("{}/named:1", env.host());
    let args = [
        "build",
        "--build-context",
        "alpine=oci-layout://layout",
        "--build-context",
        "extra=other",
        "-t",
        &name,
        "--push",
        "ctx",
    ];
    env.kiln(args).ok();
    let image = Image::pull(&name);
    assert_eq!(image.layers[1].text("f").unwrap(), "other");
    assert_eq!(image.last().entry("sh").unwrap().mode, 0o755);
}

#[test]
fn files_about_the_result_are_written() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    let told = env.kiln(["build", "-t", "app:1", "--iidfile", "iid", "--metadata-file", "meta.json", "ctx"]);
    let digest = told.ok();
    let read = |name: &str| std::fs::read_to_string(env.root.join(name)).unwrap();
    let meta: serde_json::Value = serde_json::from_str(&read("meta.json")).unwrap();
    assert_eq!(meta["containerimage.digest"], digest);
    assert_eq!(meta["containerimage.config.digest"], read("iid"));
    assert!(env.kiln(["images"]).ok().contains("app"));
    env.kiln(["rmi", "app:1"]).ok();
    assert!(!env.kiln(["images"]).ok().contains("app"));
}

#[test]
fn triggers_of_the_base_run_in_the_child_and_are_gone_after() {
    let env = env();
    env.write(
        "base/Dockerfile",
        "FROM scratch\nENV FROM_BASE=yes\nONBUILD COPY f /from-trigger\nONBUILD ENV TRIGGERED=$FROM_BASE\n",
    );
    env.write("ctx/f", "f");
    let (base, name) = (format!("{}/onbuild:1", env.host()), format!("{}/child:1", env.host()));
    env.kiln(["build", "-t", &base, "--push", "base"]).ok();
    env.write("ctx/Dockerfile", format!("FROM {base}\n"));
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let image = Image::pull(&name);
    assert_eq!(image.last().lines(), ["file 644 0:0 from-trigger 1"]);
    assert!(image.config.config.on_build.is_empty());
    assert_eq!(image.config.config.env_value("TRIGGERED"), Some("yes"));
}

#[test]
fn an_image_built_here_can_be_a_base_without_a_registry() {
    let env = env();
    env.write("a/Dockerfile", "FROM scratch\nCOPY f /from-a\n");
    env.write("a/f", "a");
    env.write("b/Dockerfile", "FROM mine:1\nCOPY f /from-b\n");
    env.write("b/f", "b");
    env.kiln(["build", "-t", "mine:1", "a"]).ok();
    let name = format!("{}/b:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "b"]).ok();
    let image = Image::pull(&name);
    assert!(image.entry("from-a").is_some() && image.entry("from-b").is_some());
}
