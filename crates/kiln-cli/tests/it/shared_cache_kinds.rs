//! Shared caches beside that of a registry: a directory, the image itself, a repository with one manifest for each step.

use std::collections::BTreeSet;
use std::process::Command;

use kiln_testkit::{Image, Outcome, lane};

use crate::debian::start_registry;
use crate::env;
use crate::shared_cache::{build_on, hits, two_stages};

#[test]
fn a_directory_is_a_cache_that_holds_no_more_than_it_needs() {
    let env = env();
    two_stages(&env, "ctx");
    let dir = env.root.join("home/local");
    let to = format!("type=local,dest={},mode=max", dir.display());
    let from = format!("type=local,src={}", dir.display());
    let blobs = || -> BTreeSet<String> {
        std::fs::read_dir(dir.join("blobs/sha256"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let made = build_on(&env, "a", &["--cache-to", &to, "ctx"]);
    let found = build_on(&env, "b", &["--cache-from", &from, "ctx"]);
    assert_eq!(found.ok(), made.ok());
    hits(&found, 2);
    let first = blobs();
    let stranger = "0".repeat(64);
    std::fs::write(dir.join("blobs/sha256").join(&stranger), "not ours").unwrap();
    env.write("ctx/src/a", "changed");
    build_on(&env, "a", &["--cache-from", &from, "--cache-to", &to, "ctx"]).ok();
    let second = blobs();
    assert_eq!(second.len(), first.len() + 1, "as many as before, and what is not ours: {second:?}");
    assert!(first.difference(&second).count() >= 3 && second.contains(&stranger));
    let found = build_on(&env, "c", &["--cache-from", &from, "ctx"]);
    found.ok();
    hits(&found, 2);
    // A second tag beside the first; what both need stays when one goes.
    let other = format!("{to},tag=other");
    build_on(&env, "a", &["--cache-to", &other, "ctx"]).ok();
    env.write("ctx/src/a", "again");
    build_on(&env, "a", &["--cache-to", &to, "ctx"]).ok();
    env.write("ctx/src/a", "changed");
    hits(&build_on(&env, "d", &["--cache-from", &format!("{from},tag=other"), "ctx"]), 2);
    // A blob that is gone is a miss, nothing else.
    for blob in blobs() {
        let path = dir.join("blobs/sha256").join(blob);
        if !std::fs::read(&path).unwrap().starts_with(b"{") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let missed = build_on(&env, "e", &["--cache-from", &format!("{from},tag=other"), "ctx"]);
    missed.ok();
    hits(&missed, 0);
}

#[test]
fn an_image_can_carry_its_cache() {
    let env = env();
    two_stages(&env, "ctx");
    let name = format!("{}/app:1", env.host());
    let args = ["-t", &name, "--push", "--cache-to", "type=inline", "ctx"];
    let made = build_on(&env, "a", &args);
    // The same digest on another machine, and when everything was found.
    for (machine, from) in [("a", None), ("b", None), ("c", Some(["--cache-from", name.as_str()]))] {
        let outcome =
            build_on(&env, machine, &[from.as_ref().map_or(&[][..], |f| &f[..]), &args[..]].concat());
        assert_eq!(outcome.ok(), made.ok(), "{machine}");
        hits(&outcome, if machine == "b" { 0 } else { 2 });
    }
    let plain = build_on(&env, "d", &["--cache-from", &name, "ctx"]);
    hits(&plain, 2);
    let image = Image::pull(&name);
    assert_eq!(image.config.other["kiln.cache.v1"]["records"].as_array().unwrap().len(), 2);
    // A child has layers of its own, and a cache of its own if it wants one.
    env.write("child/Dockerfile", format!("FROM {name}\nCOPY Dockerfile /child\n"));
    let child = format!("{}/child:1", env.host());
    build_on(&env, "a", &["-t", &child, "--push", "child"]).ok();
    assert!(!Image::pull(&child).config.other.contains_key("kiln.cache.v1"));
    build_on(&env, "a", &["-t", &child, "--push", "--cache-to", "type=inline", "child"]).ok();
    let found = build_on(&env, "e", &["--cache-from", &child, "child"]);
    found.ok();
    hits(&found, 1);
    let Some(skopeo) = lane::program("skopeo", "reading an image with an inline cache with skopeo") else {
        return;
    };
    let copy = |to: &str, more: &[&str]| {
        let from = format!("docker://{name}");
        Outcome::of(
            Command::new(&skopeo).args(["copy", "-q", "--src-tls-verify=false"]).args(more).args([&from, to]),
        )
    };
    let out = env.root.join("home");
    copy(&format!("oci:{}:x", out.join("oci").display()), &[]).ok();
    copy(&format!("docker-archive:{}:x:1", out.join("docker.tar").display()), &[]).ok();
    copy(&format!("dir:{}", out.join("v2s2").display()), &["--format", "v2s2"]).ok();
}

#[test]
fn a_repository_keeps_the_steps_of_all_builds() {
    let env = env();
    two_stages(&env, "one");
    two_stages(&env, "two");
    env.write("two/last", "another");
    let name = format!("{}/kept/cache", env.host());
    // Tags that are no keys are nobody's business.
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    build_on(&env, "a", &["-t", &format!("{name}:latest"), "--push", "ctx"]).ok();
    let dir = format!("oci:{}", env.root.join("home/steps").display());
    for (kind, reference) in [("registry", name.as_str()), ("layout", dir.as_str())] {
        let cache = format!("type=repository,ref={reference}");
        let made: Vec<String> = ["one", "two"]
            .iter()
            .map(|dir| {
                let machine = format!("maker-{kind}-{dir}");
                build_on(&env, &machine, &["--cache-from", &cache, "--cache-to", &cache, dir]).ok().to_owned()
            })
            .collect();
        for (dir, digest) in ["one", "two"].iter().zip(&made) {
            let found = build_on(&env, &format!("finder-{kind}-{dir}"), &["--cache-from", &cache, dir]);
            assert_eq!(found.ok(), digest);
            hits(&found, 2);
        }
        // One stage differs: what both have in common was found, steps of the first stage included.
        env.registry.clear_log();
        let again =
            build_on(&env, &format!("again-{kind}"), &["--cache-from", &cache, "--cache-to", &cache, "one"]);
        again.ok();
        let sent = env.registry.log().iter().filter(|r| r.method == "PUT" || r.method == "POST").count();
        assert_eq!(sent, 0, "what is there is not sent again: {:?}", env.registry.log());
    }
    let tags = kiln_remote::Client::new(kiln_remote::ClientConfig::default()).unwrap();
    let tags = tags.tags(&name.parse().unwrap()).unwrap();
    assert_eq!(
        tags.iter().filter(|tag| tag.len() == 64).count(),
        7,
        "six steps, and the one that differs: {tags:?}"
    );
}

#[test]
fn the_registry_of_the_distribution_takes_every_kind() {
    let Some(program) = lane::program("docker-registry", "shared caches in a registry of the distribution")
    else {
        return;
    };
    let env = env();
    two_stages(&env, "ctx");
    let registry = start_registry(&program, &env.root);
    let name = |rest: &str| format!("{}/{rest}", registry.host);
    let (image, inline) = (name("app:1"), name("inline:1"));
    let one = format!("type=registry,ref={},mode=max", name("cache:1"));
    let each = format!("type=repository,ref={}", name("steps"));
    let strict = [format!("{one},ignore-error=false"), format!("{each},ignore-error=false")];
    let write = ["--cache-to", strict[0].as_str(), "--cache-to", strict[1].as_str()];
    let made = build_on(&env, "a", &[&["-t", &image, "--push"], &write[..], &["ctx"]].concat());
    build_on(&env, "a", &["-t", &inline, "--push", "--cache-to", "type=inline", "ctx"]).ok();
    for (machine, from) in [("b", name("cache:1")), ("c", each), ("d", inline)] {
        let again = name(&format!("again-{machine}:1"));
        let found = build_on(&env, machine, &["-t", &again, "--push", "--cache-from", &from, "ctx"]);
        assert_eq!(found.ok(), made.ok());
        hits(&found, 2);
        assert!(!found.stderr.contains("pull "), "layers are mounted: {}", found.stderr);
        assert_eq!(Image::pull(&again).digest.as_str(), made.ok());
    }
}
