//! Where images go, read back by other programs where there are any.

use std::fs;
use std::process::Command;

use kiln_testkit::{Image, lane};

use crate::env;

fn context(env: &kiln_testkit::TestEnv) {
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY --chown=1:2 f /dir/f\nCOPY f /dir/g\nCMD [\"/dir/f\"]\n");
    env.write("ctx/f", "content");
}

#[test]
fn an_oci_layout_is_complete_and_is_added_to() {
    let env = env();
    context(&env);
    let digest =
        env.kiln(["build", "-t", "app:1", "-o", "type=oci,dest=layout,tar=false", "ctx"]).ok().to_owned();
    env.kiln(["build", "-t", "app:2", "--label", "v=2", "-o", "type=oci,dest=layout,tar=false", "ctx"]).ok();
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(env.root.join("layout/index.json")).unwrap()).unwrap();
    let names: Vec<&str> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["docker.io/library/app:1", "docker.io/library/app:2"]);
    for blob in fs::read_dir(env.root.join("layout/blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(hex_digest(&fs::read(&path).unwrap()), name);
    }
    let Some(skopeo) = lane::program("skopeo", "reading an OCI layout with skopeo") else { return };
    let inspect = Command::new(skopeo)
        .args(["inspect", "oci:layout:docker.io/library/app:1"])
        .current_dir(&env.root)
        .output()
        .unwrap();
    assert!(inspect.status.success(), "{}", String::from_utf8_lossy(&inspect.stderr));
    let told: serde_json::Value = serde_json::from_slice(&inspect.stdout).unwrap();
    assert_eq!(told["Digest"], digest.as_str());
}

fn hex_digest(bytes: &[u8]) -> String {
    kiln::oci::Digest::sha256(bytes).hex().to_owned()
}

#[test]
fn archives_are_read_by_skopeo() {
    let env = env();
    context(&env);
    env.kiln([
        "build",
        "-t",
        "app:1",
        "-o",
        "type=oci,dest=oci.tar",
        "-o",
        "type=docker,dest=docker.tar",
        "ctx",
    ])
    .ok();
    let Some(skopeo) = lane::program("skopeo", "reading archives with skopeo") else { return };
    for source in ["oci-archive:oci.tar", "docker-archive:docker.tar"] {
        let output = Command::new(&skopeo)
            .args(["inspect", "--config", source])
            .current_dir(&env.root)
            .output()
            .unwrap();
        assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr));
        let config: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(config["config"]["Cmd"][0], "/dir/f", "{source}");
    }
    // Standard output takes the archive, and then no digest.
    let told = env.command(["build", "-o", "type=oci,dest=-", "ctx"]).output().unwrap();
    assert_eq!(told.stdout.get(257..262), Some(&b"ustar"[..]));
}

#[test]
fn the_root_file_system_goes_to_a_directory_or_a_tar_file() {
    let env = env();
    context(&env);
    env.kiln(["build", "-o", "type=local,dest=out", "-o", "type=tar,dest=out.tar", "ctx"]).ok();
    assert_eq!(fs::read_to_string(env.root.join("out/dir/f")).unwrap(), "content");
    let list = Command::new("tar")
        .args(["--numeric-owner", "-tvf", "out.tar"])
        .current_dir(&env.root)
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let lines: Vec<Vec<&str>> = list.lines().map(|l| l.split_whitespace().collect()).collect();
    let short: Vec<String> = lines.iter().map(|l| format!("{} {} {}", l[0], l[1], l[l.len() - 1])).collect();
    assert_eq!(short, ["drwxr-xr-x 1/2 dir/", "-rw-r--r-- 1/2 dir/f", "-rw-r--r-- 0/0 dir/g"]);
}

#[test]
fn compressions_give_one_content() {
    let env = env();
    context(&env);
    let mut ids = Vec::new();
    for (option, media_type) in [
        ("gzip", "application/vnd.oci.image.layer.v1.tar+gzip"),
        ("zstd", "application/vnd.oci.image.layer.v1.tar+zstd"),
        ("uncompressed", "application/vnd.oci.image.layer.v1.tar"),
    ] {
        let name = format!("{}/{option}:1", env.host());
        env.kiln(["build", "-t", &name, "--push", "--compression", option, "ctx"]).ok();
        let image = Image::pull(&name);
        assert_eq!(image.manifest.layers[0].media_type.as_str(), media_type);
        ids.push(image.config.rootfs.diff_ids);
    }
    assert!(ids.iter().all(|i| *i == ids[0]), "{ids:?}");
}

#[test]
fn a_failed_build_leaves_no_output() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY missing /\n");
    let name = format!("{}/none:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "-o", "type=oci,dest=a.tar", "-o", "type=local,dest=b", "ctx"])
        .fails(1, &["cannot find `missing`"]);
    assert!(!env.root.join("a.tar").exists() && !env.root.join("b").exists());
    let manifests = env.registry.log().into_iter().filter(|r| r.path.contains("/manifests/")).count();
    assert_eq!(manifests, 0);
}

#[test]
fn clients_of_other_makers_read_a_pushed_image() {
    let env = env();
    context(&env);
    let name = format!("{}/clients:1", env.host());
    let digest = env.kiln(["build", "-t", &name, "--push", "ctx"]).ok().to_owned();
    if let Some(skopeo) = lane::program("skopeo", "copying a pushed image with skopeo") {
        let from = format!("docker://{name}");
        let copy = Command::new(skopeo)
            .args(["copy", "--src-tls-verify=false", "--preserve-digests", &from, "oci:copied:1"])
            .current_dir(&env.root)
            .output()
            .unwrap();
        assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
        let hex = digest.strip_prefix("sha256:").unwrap();
        assert!(env.root.join("copied/blobs/sha256").join(hex).exists());
    }
    if let Some(crane) = lane::program("crane", "validating a pushed image with crane") {
        let output =
            Command::new(crane).args(["validate", "--insecure", "--remote", &name]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
