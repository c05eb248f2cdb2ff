//! What names, variables and stages mean. The expectations are those of BuildKit's frontend.

use kiln_testkit::{Image, TestEnv};

use crate::env;

/// Builds `dockerfile` with the arguments `extra` and returns the image.
#[track_caller]
fn image(env: &TestEnv, dockerfile: &str, extra: &[&str]) -> Image {
    env.write("ctx/Dockerfile", dockerfile);
    let name = format!("{}/language:1", env.host());
    let mut args = vec!["build", "-t", &name, "--push", "ctx"];
    args.extend(extra);
    env.kiln(args).ok();
    Image::pull(&name)
}

fn history(image: &Image) -> Vec<(String, bool)> {
    let line = |h: &kiln::oci::History| (h.created_by.clone().unwrap_or_default(), !h.empty_layer);
    image.config.history.iter().map(line).collect()
}

#[test]
fn history_has_the_words_of_docker() {
    let env = env();
    env.write("ctx/f", "f");
    let image = image(
        &env,
        r#"ARG G=global
FROM scratch
ARG G
ARG A=1 B
ENV X=$A Y="two words"
LABEL l=$X
WORKDIR srv
COPY --chown=1:2 --chmod=600 f ./
COPY <<END /here
END
EXPOSE 80 53/udp
VOLUME /a /b
USER $X
STOPSIGNAL SIGINT
SHELL ["/bin/sh", "-e", "-c"]
HEALTHCHECK --interval=90s --retries=2 CMD ["true"]
ONBUILD RUN true
MAINTAINER me
ENTRYPOINT ["/f", "a \"b\""]
CMD serve
"#,
        &[],
    );
    let expect = [
        ("ARG G=global", false),
        ("ARG A=1 B", false),
        ("ENV X=1 Y=two words", false),
        ("LABEL l=1", false),
        ("WORKDIR /srv", true),
        ("COPY --chown=1:2 --chmod=600 f ./", true),
        ("COPY <<END /here", true),
        ("EXPOSE [53/udp 80/tcp]", false),
        ("VOLUME [/a /b]", false),
        ("USER 1", false),
        ("STOPSIGNAL SIGINT", false),
        ("SHELL [/bin/sh -e -c]", false),
        (
            "HEALTHCHECK {Test:[CMD true] Interval:1m30s Timeout:0s StartPeriod:0s StartInterval:0s Retries:2}",
            false,
        ),
        ("MAINTAINER me", false),
        (r#"ENTRYPOINT ["/f" "a \"b\""]"#, false),
        (r#"CMD ["/bin/sh" "-e" "-c" "serve"]"#, false),
    ];
    assert_eq!(history(&image), expect.map(|(text, layer)| (text.to_owned(), layer)));
}

#[test]
fn the_platform_asked_for_is_that_of_the_image() {
    let env = env();
    let cross =
        "FROM --platform=$BUILDPLATFORM scratch AS tools\nFROM scratch\nCOPY --from=tools / /\nLABEL a=b\n";
    let arm = image(&env, cross, &["--platform", "linux/arm64"]);
    assert_eq!(arm.config.architecture, "arm64");
    let own = image(&env, "FROM --platform=linux/riscv64 scratch\nLABEL a=b\n", &[]);
    // BuildKit gives an image FROM scratch the platform of the build, whatever its FROM says.
    assert_eq!(own.config.architecture, kiln::oci::Platform::host().architecture);
    let label =
        image(&env, "FROM scratch\nARG TARGETARCH TARGETSTAGE\nLABEL a=$TARGETARCH s=$TARGETSTAGE\n", &[]);
    assert_eq!(label.config.config.labels["a"], kiln::oci::Platform::host().architecture);
    assert_eq!(label.config.config.labels["s"], "default");
    env.write("ctx/Dockerfile", "ARG P\nFROM --platform=$P scratch\nLABEL a=b\n");
    env.kiln(["build", "ctx"]).fails(1, &["platform `$P` is empty", "`P` has no value", "Dockerfile:2"]);
}

#[test]
fn triggers_may_copy_from_stages_of_the_child() {
    let env = env();
    env.write("ctx/f", "f");
    let image = image(
        &env,
        "FROM scratch AS parent\nONBUILD COPY --from=files /f /g\nONBUILD LABEL t=1\n\
         FROM scratch AS files\nCOPY f /f\nFROM parent AS child\nLABEL own=$t\nFROM child\n",
        &[],
    );
    assert_eq!(image.last().lines(), ["file 644 0:0 g 1"]);
    assert_eq!(image.layers.len(), 1, "the triggers of a base are not those of its grandchildren");
    assert_eq!(image.config.config.labels["t"], "1");
    assert!(image.config.config.on_build.is_empty());
    env.write(
        "ctx/Dockerfile",
        "FROM scratch AS parent\nONBUILD COPY --from=late /f /g\nFROM parent\nFROM scratch AS late\nFROM scratch\nCOPY --from=1 / /\n",
    );
    env.kiln(["build", "ctx"]).fails(1, &["copies from a later stage, `late`", "Dockerfile:3:6"]);
}

#[test]
fn a_context_stands_in_for_the_stage_or_image_of_its_name() {
    let env = env();
    env.write("ctx/f", "f");
    env.write("other/from-elsewhere", "x");
    let dockerfile = "FROM no.such.host/none AS files\nRUN false\nFROM scratch\nCOPY --from=files / /\n";
    let stage = image(&env, dockerfile, &["--build-context", "files=other"]);
    assert_eq!(stage.last().lines(), ["file 644 0:0 from-elsewhere 1"]);
    let base = image(
        &env,
        "FROM busybox:latest\nCOPY f /f\n",
        &["--build-context", "docker.io/library/busybox=other"],
    );
    assert_eq!(base.layers.len(), 2);
    assert_eq!(base.layers[0].lines(), ["file 644 0:0 from-elsewhere 1"]);
    let platform = "busybox::linux/s390x=ctx";
    let for_one = image(
        &env,
        "FROM --platform=linux/s390x scratch AS x\nFROM scratch\nCOPY --from=busybox / /\n",
        &["--build-context", platform, "--build-context", "busybox=other", "--platform", "linux/s390x"],
    );
    assert!(for_one.last().entry("Dockerfile").is_some());
    // The platform of a FROM counts, not only that of the build.
    let of_stage = image(
        &env,
        "FROM --platform=linux/s390x busybox\nCOPY f /g\n",
        &["--build-context", "busybox::linux/s390x=other"],
    );
    assert_eq!(of_stage.layers[0].lines(), ["file 644 0:0 from-elsewhere 1"]);
}

#[test]
fn a_stage_can_be_done_anew() {
    let env = env();
    env.write("ctx/f", "f");
    env.write("ctx/Dockerfile", "FROM scratch AS a\nCOPY f /a\nFROM scratch AS b\nCOPY f /b\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n");
    env.kiln(["build", "ctx"]).ok();
    let told = env.kiln(["build", "--progress", "plain", "--no-cache-filter", "A", "ctx"]);
    told.ok();
    let cached = |step: &str| {
        let number =
            told.stderr.lines().find(|l| l.contains(step)).and_then(|l| l.split(' ').next()).unwrap();
        told.stderr.lines().any(|l| l == format!("{number} CACHED"))
    };
    assert!(!cached("[a 2/2]"), "the stage was taken from the cache: {}", told.stderr);
    assert!(cached("[b 2/2]"), "another stage was not: {}", told.stderr);
}

#[test]
fn build_arguments_that_do_nothing_are_told() {
    let env = env();
    env.write("ctx/Dockerfile", "ARG VERSION=1\nFROM scratch\nLABEL a=b\n");
    let told = env.kiln([
        "build",
        "--build-arg",
        "VERSON=2",
        "--build-arg",
        "HTTP_PROXY=x",
        "--build-arg",
        "TARGETARCH=y",
        "--build-arg",
        "BUILDKIT_MULTI_PLATFORM=1",
        "ctx",
    ]);
    told.ok();
    assert!(told.stderr.contains("no ARG declares the build argument `VERSON`; did you mean `VERSION`?"));
    assert!(told.stderr.contains("`BUILDKIT_MULTI_PLATFORM` has no effect in kiln"));
    assert!(!told.stderr.contains("HTTP_PROXY") && !told.stderr.contains("TARGETARCH"), "{}", told.stderr);
}

#[test]
fn every_fault_of_a_file_is_reported_at_once() {
    let env = env();
    env.write(
        "ctx/Dockerfile",
        "ARG BSAE=scratch\nFROM scratch AS a\nSTOPSIGNAL SIGNOPE\nCOPY --chmod=99 f /\nRUN --security=sandbx true\n\
         FROM $BASE AS b\nFROM scratch\nCOPY --from=9 / /\nVOLUME $NOTHING\nCOPY --from=a / /\n",
    );
    // Faults of the syntax come with those of the names.
    let told = env.kiln(["build", "ctx"]);
    told.fails(
        1,
        &["Dockerfile:5", "Dockerfile:6:6", "did you mean `BSAE`?", "no stage 9 above", "Dockerfile:8:13"],
    );
    env.write(
        "ctx/Dockerfile",
        "FROM scratch AS a\nSTOPSIGNAL SIGNOPE\nCOPY --chmod=99 f /\nFROM scratch\nVOLUME $NOTHING\nCOPY --from=a / /\nEXPOSE ${P:-x}\n",
    );
    let told = env.kiln(["build", "ctx"]);
    told.fails(
        1,
        &[
            "unknown signal `SIGNOPE`",
            "`99` is not a file mode",
            "volume `$NOTHING` is empty",
            "invalid port `x`",
        ],
    );
    assert_eq!(told.stderr.matches("error: ").count(), 4, "{}", told.stderr);
}
