//! The store: shared, pruned, and sound after whatever happens to a build.

use std::process::{Command, Stdio};
use std::time::Duration;

use kiln_testkit::lane;

use crate::{env, env_of};

#[test]
fn prune_frees_the_cache_and_keeps_images() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", vec![3; 200_000]);
    env.kiln(["build", "-t", "kept:1", "ctx"]).ok();
    env.kiln(["build", "--label", "a=b", "-o", "type=oci,dest=out.tar", "ctx"]).ok();
    env.kiln(["prune"]).ok();
    assert!(env.kiln(["images"]).ok().contains("kept"));
    env.write("child/Dockerfile", "FROM kept:1\nCOPY --from=kept:1 /f /g\n");
    env.kiln(["build", "child"]).ok();
    env.kiln(["prune", "--all"]).ok();
    let blobs = std::fs::read_dir(env.root.join("home/store/blobs/sha256")).unwrap().count();
    assert_eq!(blobs, 0);
}

#[test]
fn a_build_killed_at_any_moment_leaves_a_sound_store() {
    for person in lane::people("killing builds at any moment") {
        let env = env_of(person);
        let base = env.base();
        let dockerfile = format!(
            "FROM {base} AS a\nCOPY . /src\nRUN cat /src/f* > /all && mkdir -p /d/e && cp /bin/sh /d/e/\nFROM {base}\nCOPY --from=a /all /all\nRUN rm /all && echo done > /done\n"
        );
        env.write("ctx/Dockerfile", dockerfile);
        for n in 0..20 {
            env.write(&format!("ctx/f{n}"), vec![n; 50_000]);
        }
        let expect = env.kiln(["build", "--store", "home/reference", "ctx"]).ok().to_owned();
        // Steps of eleven milliseconds reach from before the first file to after the last.
        for n in 0..14 {
            let mut command = env.command(["build", "ctx"]);
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(11 * n));
            let _ = child.kill();
            let _ = child.wait();
        }
        assert_eq!(env.kiln(["build", "ctx"]).ok(), expect);
        assert_eq!(env.kiln(["build", "--no-cache", "ctx"]).ok(), expect);
        for blob in std::fs::read_dir(env.root.join("home/store/blobs/sha256")).unwrap().flatten() {
            let bytes = std::fs::read(blob.path()).unwrap();
            assert_eq!(kiln::oci::Digest::sha256(&bytes).hex(), blob.file_name().to_string_lossy());
        }
        let _ = env.kiln(["prune", "--all", "--store", "home/reference"]);
    }
}

#[test]
fn damaged_blobs_are_made_again() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    let name = format!("{}/damaged:1", env.host());
    let digest = env.kiln(["build", "-t", &name, "--push", "ctx"]).ok().to_owned();
    for blob in std::fs::read_dir(env.root.join("home/store/blobs/sha256")).unwrap().flatten() {
        std::fs::write(blob.path(), b"").unwrap();
    }
    assert_eq!(env.kiln(["build", "-t", &name, "--push", "ctx"]).ok(), digest);
}

#[test]
fn a_full_disk_is_said_and_nothing_half_written_stays() {
    let env = env();
    let small = env.root.join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
        .arg(&small)
        .stderr(Stdio::null())
        .status();
    if !mounted.is_ok_and(|s| s.success()) {
        lane::left_out("a full disk", "mounting a small file system needs root");
        return;
    }
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    let mut state = 1_u64;
    let noise = (0..4_000_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[7]
    });
    let noise: Vec<u8> = noise.collect();
    env.write("ctx/f", noise);
    let outcome = env.kiln(["build", "--store", "small/store", "ctx"]);
    let blobs = std::fs::read_dir(small.join("store/blobs/sha256")).unwrap().count();
    let _ = Command::new("umount").arg(&small).status();
    outcome.fails(4, &["No space left on device", "kiln prune"]);
    assert_eq!(blobs, 0);
}
