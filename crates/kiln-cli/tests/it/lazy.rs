//! Nothing is fetched or unpacked that the result does not need.

use kiln_testkit::Image;

use crate::env;

/// Returns the digests of the layers of `name`, base first.
fn layers(name: &str) -> Vec<String> {
    Image::pull(name).manifest.layers.iter().map(|l| l.digest.to_string()).collect()
}

/// Builds `dockerfile` onto the base and returns which layers of the base were fetched.
fn fetched(dockerfile: &str) -> Vec<String> {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\n{dockerfile}"));
    env.write("ctx/hello.txt", "hello");
    env.write("ctx/tree/x/y", "y");
    let base_layers = layers(&base);
    env.registry.clear_log();
    let name = format!("{}/lazy:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let blobs = env.blobs_fetched();
    let fetched =
        base_layers.iter().filter(|l| blobs.iter().any(|b| b.contains(l.as_str()))).cloned().collect();
    let image = Image::pull(&name);
    assert_eq!(image.manifest.layers[0].digest.to_string(), base_layers[0]);
    assert!(!env.root.join("home/store/snapshots/natural").exists(), "a layer was unpacked");
    fetched
}

#[test]
fn metadata_and_copies_leave_the_base_in_its_registry() {
    for dockerfile in [
        "ENV A=1\nLABEL b=c\nCMD [\"sh\"]\n",
        "COPY hello.txt /hello.txt\n",
        "COPY tree /app\nCOPY hello.txt /app/\nUSER 1000\n",
        "WORKDIR /srv/app\nCOPY . .\n",
        "COPY hello.txt /usr/local/bin/hello\n",
        "COPY --link hello.txt /opt/tool/\n",
    ] {
        assert_eq!(fetched(dockerfile), Vec::<String>::new(), "{dockerfile}");
    }
}

#[test]
fn a_destination_that_the_base_may_hold_is_looked_up_there() {
    let env = env();
    let base = env.base();
    // `/bin` of the base is a directory, so the file goes into it.
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nCOPY hello.txt /bin\nCOPY hello.txt /bin/link-to-sh\n"),
    );
    env.write("ctx/hello.txt", "hello");
    let name = format!("{}/looked:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let image = Image::pull(&name);
    assert_eq!(image.layers[1].lines(), ["dir 755 0:0 bin", "file 644 0:0 bin/hello.txt 5"]);
    // `/bin/link-to-sh` is a link of the base and is followed.
    assert_eq!(image.layers[2].lines(), ["dir 755 0:0 bin", "file 644 0:0 bin/sh 5"]);
}

#[test]
fn a_second_push_moves_no_layer() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", vec![7; 100_000]);
    let name = format!("{}/again:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    env.registry.clear_log();
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let sent = env.registry.log().into_iter().filter(|r| r.path.contains("/uploads/")).count();
    assert_eq!(sent, 0, "{:?}", env.registry.log());
}

#[test]
fn a_base_of_another_repository_is_mounted() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nENV A=1\n"));
    let name = format!("{}/mounted:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let log = env.registry.log();
    assert!(log.iter().any(|r| r.path.contains("mount=") && r.status == 201), "{log:?}");
}

#[test]
fn a_cached_build_reads_nothing_and_runs_nothing() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY tree /tree\nWORKDIR /tree\n");
    env.write("ctx/tree/f", "f");
    let first = env.kiln(["build", "ctx"]);
    let again = env.kiln(["build", "ctx"]);
    assert_eq!(first.ok(), again.ok());
    assert!(
        again.stderr.contains("CACHED") && again.stderr.contains("(2 from the cache)"),
        "{}",
        again.stderr
    );
    let anew = env.kiln(["build", "--no-cache", "ctx"]);
    assert_eq!(anew.ok(), first.ok());
    assert!(!anew.stderr.contains("CACHED"), "{}", anew.stderr);
    env.write("ctx/tree/f", "g");
    let changed = env.kiln(["build", "ctx"]);
    assert_ne!(changed.ok(), first.ok());
}

#[test]
fn what_is_assumed_of_one_base_is_not_taken_for_another_of_equal_layers() {
    let env = env();
    env.write("rootfs/app/there", "");
    env.write("ctx/f", "f");
    let tar = std::process::Command::new("tar")
        .args(["-C", "rootfs", "-cf", "base.tar", "app"])
        .current_dir(&env.root)
        .status();
    assert!(tar.unwrap().success());
    kiln_testkit::base::layout_of_tar(&env.root.join("layout"), &env.root.join("base.tar")).unwrap();
    // The history of the first says nothing of `/app`; the second has the same layer, and mentions it.
    env.write("silent/Dockerfile", "FROM base\nCOPY f /app\n");
    env.write("silent/f", "f");
    env.write("telling/Dockerfile", "FROM base\nENV HOME_OF_APP=/app\n");
    let context = ["--build-context", "base=oci-layout://layout"];
    let (telling, name) = (format!("{}/telling:1", env.host()), format!("{}/child:1", env.host()));
    env.kiln(["build", context[0], context[1], "-t", &telling, "--push", "telling"]).ok();
    env.kiln(["build", context[0], context[1], "silent"]).ok();
    env.write("ctx/Dockerfile", format!("FROM {telling}\nCOPY f /app\n"));
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    let lines = Image::pull(&name).last().lines();
    assert!(lines.iter().any(|l| l.ends_with("app/f 1")), "{lines:?}");
}
