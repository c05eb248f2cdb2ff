//! Registries as a build meets them: credentials, mirrors, failures.

use std::time::Duration;

use kiln_remote::server::{Auth, Faults, Registry, RegistryConfig};
use kiln_testkit::Image;

use crate::env;

const PASSWORD: &str = "s3cret-of-the-test";

#[test]
fn credentials_of_docker_are_used_and_never_shown() {
    let env = env();
    let auth = Auth::Basic { user: "me".into(), password: kiln_remote::Secret::new(PASSWORD) };
    let private = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() }).unwrap();
    let name = format!("{}/private:1", private.host());
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.write("ctx/child/Dockerfile", format!("FROM {name}\nENV B=2\n"));
    let build =
        |dir: &str| env.kiln(["build", "--no-cache", "--progress", "json", "-t", &name, "--push", dir]);
    build("ctx").fails(3, &["401", "docker login"]);
    // base64 of `me:s3cret-of-the-test` and of `me:wrong`.
    for (encoded, code) in [("bWU6d3Jvbmc=", 3), ("bWU6czNjcmV0LW9mLXRoZS10ZXN0", 0)] {
        let config = format!(r#"{{"auths": {{"{}": {{"auth": "{encoded}"}}}}}}"#, private.host());
        env.write("home/.docker/config.json", config);
        for dir in ["ctx", "ctx/child"] {
            let outcome = build(dir);
            assert_eq!(outcome.code, Some(code), "{}", outcome.stderr);
            for secret in [PASSWORD, encoded] {
                assert!(
                    !outcome.stderr.contains(secret) && !outcome.stdout.contains(secret),
                    "{}",
                    outcome.stderr
                );
            }
        }
    }
    let found = std::process::Command::new("grep")
        .args(["-rl", PASSWORD, "home/store"])
        .current_dir(&env.root)
        .output();
    assert!(found.unwrap().stdout.is_empty(), "the password is in the store");
}

#[test]
fn mirrors_serve_what_the_origin_is_named_for() {
    let env = env();
    let base = env.base();
    let mirror = env.host();
    env.write("pushed/Dockerfile", format!("FROM {base}\n"));
    env.kiln(["build", "-t", &format!("{mirror}/library/thing:1"), "--push", "pushed"]).ok();
    env.write("ctx/Dockerfile", "FROM thing:1\nCOPY Dockerfile /bin/\n");
    let option = format!("docker.io={mirror}");
    let told = env.kiln(["build", "--registry-mirror", &option, "ctx"]).ok().to_owned();
    env.write(
        "home/.config/kiln/config.toml",
        format!("[registry.\"docker.io\"]\nmirrors = [\"{mirror}\"]\n"),
    );
    assert_eq!(env.kiln(["build", "ctx"]).ok(), told);
}

#[test]
fn a_flaky_registry_is_tried_again() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY Dockerfile /bin/\n"));
    let name = format!("{}/flaky:1", env.host());
    env.faults(Faults {
        too_many_requests: 2,
        server_errors: 2,
        drop_blob_after: Some(1000),
        ..Faults::default()
    });
    let digest = env.kiln(["build", "-t", &name, "--push", "ctx"]).ok().to_owned();
    env.faults(Faults::default());
    assert_eq!(Image::pull(&name).digest.as_str(), digest);
}

#[test]
fn a_registry_that_lies_is_not_believed() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY Dockerfile /bin/\n"));
    env.faults(Faults { corrupt_blobs: true, ..Faults::default() });
    let outcome = env.kiln(["build", "ctx"]);
    assert_ne!(outcome.code, Some(0));
    assert!(outcome.stderr.contains("digest"), "{}", outcome.stderr);
    env.faults(Faults::default());
    env.kiln(["build", "ctx"]).ok();
}

#[test]
fn progress_is_told_as_lines_or_as_json() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY Dockerfile /f\n");
    let name = format!("{}/told:1", env.host());
    env.faults(Faults { delay: Duration::from_millis(5), ..Faults::default() });
    let json = env.kiln(["build", "--progress", "json", "-t", &name, "--push", "ctx"]);
    json.ok();
    let events: Vec<serde_json::Value> =
        json.stderr.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let kinds: Vec<&str> = events.iter().map(|e| e["event"].as_str().unwrap()).collect();
    for kind in ["step", "started", "finished", "transfer"] {
        assert!(kinds.contains(&kind), "{kinds:?}");
    }
    assert!(events.iter().all(|e| e["time"].is_number()));
    let quiet = env.kiln(["build", "-q", "-t", &name, "--push", "ctx"]);
    assert!(quiet.ok().starts_with("sha256:") && quiet.stderr.is_empty(), "{}", quiet.stderr);
}

#[test]
fn bombs_are_refused() {
    let env = env();
    env.write("bomb/Dockerfile", "FROM scratch\nCOPY zeros /zeros\nCOPY zeros /more\n");
    env.write("bomb/zeros", vec![0; 20_000_000]);
    let name = format!("{}/bomb:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "bomb"]).ok();
    env.kiln(["prune", "--all"]).ok();
    // `/bin/` is a place where the base has to be looked at.
    env.write("ctx/Dockerfile", format!("FROM {name}\nCOPY Dockerfile /bin/\n"));
    env.kiln(["build", "--max-layer-size", "1MiB", "ctx"])
        .fails(1, &["cannot unpack layer", "--max-layer-size"]);
    env.kiln(["build", "--max-layers", "1", "ctx"])
        .fails(1, &["it has 2 layers", "--max-layers", "Dockerfile:1"]);
    let left = std::fs::read_dir(env.root.join("home/store/tmp")).unwrap().count();
    assert_eq!(left, 0, "something half unpacked stayed");
    env.kiln(["build", "ctx"]).ok();
}
