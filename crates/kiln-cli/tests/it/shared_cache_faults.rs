//! Shared caches on bad days: whatever is wrong with one, the build goes on without it and says so.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use kiln::oci::Digest;
use kiln_remote::server::{Auth, Faults, Registry, RegistryConfig, Storage};
use kiln_testkit::{Image, TestEnv, lane};

use crate::env;
use crate::shared_cache::{build_on, cache, hits, two_stages};

const CONFIG: &str = "application/vnd.kiln.cache.config.v1+json";

/// Sends one request to a registry; returns the status.
fn http(host: &str, method: &str, path: &str, kind: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(host).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Puts a manifest with this config, and no layers, under `repository:1`.
fn put_config(host: &str, repository: &str, kind: &str, config: &[u8]) -> String {
    let digest = Digest::sha256(config);
    let blob = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    assert_eq!(http(host, "POST", &blob, "application/octet-stream", config), 201);
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"{kind}","digest":"{digest}","size":{}}},"layers":[]}}"#,
        config.len()
    );
    let path = format!("/v2/{repository}/manifests/1");
    let kind = "application/vnd.oci.image.manifest.v1+json";
    assert_eq!(http(host, "PUT", &path, kind, manifest.as_bytes()), 201);
    format!("{host}/{repository}:1")
}

/// Fills a cache, and returns its name and the digest of the image.
fn filled(env: &TestEnv, repository: &str) -> (String, String) {
    two_stages(env, "ctx");
    let cached = format!("{}/{repository}:cache", env.host());
    let made =
        build_on(env, "maker", &["--cache-to", &format!("type=registry,ref={cached},mode=max"), "ctx"]);
    (cached, made.ok().to_owned())
}

#[test]
fn what_is_not_there_yet_is_no_reason_for_a_warning() {
    let env = env();
    two_stages(&env, "ctx");
    let absent = [
        "HOST/none:1",
        "type=local,src=none",
        "type=repository,ref=HOST/none",
        "type=repository,ref=oci:none",
    ];
    for (number, from) in absent.iter().enumerate() {
        let from = from.replace("HOST", &env.host());
        let outcome = build_on(&env, &format!("machine-{number}"), &["--cache-from", &from, "ctx"]);
        outcome.ok();
        assert!(!outcome.stderr.contains("warning"), "{from}: {}", outcome.stderr);
    }
}

#[test]
fn a_lost_layer_is_made_again_wherever_it_is_missed() {
    let env = env();
    let (cached, digest) = filled(&env, "app");
    let layers: Vec<String> = cache(&cached).0.into_iter().collect();
    for layer in &layers {
        assert_eq!(http(&env.host(), "DELETE", &format!("/v2/app/blobs/{layer}"), "", b""), 202);
    }
    let same = format!("{}/app:1", env.host());
    let other = format!("{}/other:1", env.host());
    let tar = format!("type=oci,dest={}", env.root.join("home/out.tar").display());
    // One after the other: with the first push the layers are back.
    let runs: [(&str, &[&str]); 3] =
        [("b", &["-o", &tar]), ("c", &["-t", &other, "--push"]), ("d", &["-t", &same, "--push"])];
    for (machine, args) in runs {
        let outcome = build_on(&env, machine, &[&["--cache-from", &cached], args, &["ctx"]].concat());
        assert_eq!(outcome.ok(), digest);
        assert!(outcome.stderr.contains("has lost layer sha256:"), "{machine}: {}", outcome.stderr);
        hits(&build_on(&env, machine, &["ctx"]), 2);
    }
    for name in [same, other] {
        assert_eq!(Image::pull(&name).digest.as_str(), digest);
    }
}

#[test]
fn a_cache_in_which_a_layer_is_lost_is_mended_when_it_is_written() {
    let env = env();
    let (cached, _) = filled(&env, "app");
    let before = cache(&cached);
    for layer in &before.0 {
        assert_eq!(http(&env.host(), "DELETE", &format!("/v2/app/blobs/{layer}"), "", b""), 202);
    }
    let to = format!("type=registry,ref={cached},mode=max");
    let out = format!("type=oci,dest={}", env.root.join("home/out.tar").display());
    build_on(&env, "b", &["--cache-from", &cached, "--cache-to", &to, "-o", &out, "ctx"]).ok();
    let fresh = build_on(&env, "c", &["--cache-from", &cached, "-o", &out, "ctx"]);
    fresh.ok();
    hits(&fresh, 2);
    assert!(!fresh.stderr.contains("warning"), "{}", fresh.stderr);
}

#[test]
fn a_layer_with_other_bytes_is_not_believed() {
    let env = env();
    let dir = env.root.join("registry");
    let storage = Storage::Directory(dir.clone());
    let registry = Registry::start(RegistryConfig { storage, ..RegistryConfig::default() }).unwrap();
    two_stages(&env, "ctx");
    let cached = format!("{}/cache:1", registry.host());
    let made = build_on(&env, "a", &["--cache-to", &cached, "ctx"]);
    for layer in cache(&cached).0 {
        let hex = layer.strip_prefix("sha256:").unwrap();
        let find = std::process::Command::new("find")
            .arg(&dir)
            .args(["-name", &format!("*{hex}*"), "-size", "+0"])
            .output();
        let paths = String::from_utf8(find.unwrap().stdout).unwrap();
        for path in paths.lines() {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        assert!(!paths.is_empty());
    }
    let out = format!("type=oci,dest={}", env.root.join("home/out.tar").display());
    let outcome = build_on(&env, "b", &["--cache-from", &cached, "-o", &out, "ctx"]);
    assert_eq!(outcome.ok(), made.ok());
    assert!(outcome.stderr.contains("gives something else"), "{}", outcome.stderr);
    let again = build_on(&env, "b", &["-o", &out, "ctx"]);
    assert_eq!(again.ok(), made.ok());
    hits(&again, 2);
}

#[test]
fn commands_run_again_when_the_files_below_them_are_lost() {
    for person in lane::people("lost layers below commands") {
        let env = crate::env_of(person);
        let base = env.base();
        let dockerfile = |last: &str| format!("FROM {base}\nRUN echo one > /one\nRUN {last}\n");
        env.write("ctx/Dockerfile", dockerfile("cat /one"));
        let cached = format!("{}/cache:1", env.host());
        build_on(&env, "a", &["--cache-to", &cached, "ctx"]).ok();
        for layer in cache(&cached).0 {
            assert_eq!(http(&env.host(), "DELETE", &format!("/v2/cache/blobs/{layer}"), "", b""), 202);
        }
        env.write("ctx/Dockerfile", dockerfile("test $(cat /one) = one"));
        let outcome = build_on(&env, "b", &["--cache-from", &cached, "ctx"]);
        outcome.ok();
        assert!(outcome.stderr.contains("begins again without it"), "{}", outcome.stderr);
    }
}

#[test]
fn registries_that_fail_lie_or_break_off_cost_no_build() {
    let env = env();
    let (cached, digest) = filled(&env, "app");
    let server_errors = Faults { server_errors: 1000, ..Faults::default() };
    let corrupt = Faults { corrupt_blobs: true, ..Faults::default() };
    for (machine, faults, says) in [("b", server_errors, "500"), ("c", corrupt, "cannot be read")] {
        env.faults(faults);
        let outcome = build_on(&env, machine, &["--cache-from", &cached, "ctx"]);
        assert_eq!(outcome.ok(), digest);
        hits(&outcome, 0);
        let told = outcome.stderr.contains(says) && outcome.stderr.contains("building without it");
        assert!(told && outcome.stderr.contains("warning"), "{}", outcome.stderr);
    }
    env.faults(Faults { drop_blob_after: Some(10), ..Faults::default() });
    let outcome = build_on(&env, "d", &["--cache-from", &cached, "ctx"]);
    assert_eq!(outcome.ok(), digest);
    hits(&outcome, 2);
}

#[test]
fn a_registry_that_does_not_answer_is_waited_for_ten_seconds() {
    let env = env();
    two_stages(&env, "ctx");
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("{}/cache:1", silent.local_addr().unwrap());
    let started = Instant::now();
    let outcome = build_on(&env, "a", &["--cache-from", &name, "ctx"]);
    outcome.ok();
    assert!(outcome.stderr.contains("did not come within 10 s"), "{}", outcome.stderr);
    assert!(started.elapsed() < Duration::from_secs(25), "{:?}", started.elapsed());
}

#[test]
fn what_is_no_cache_is_called_by_its_name() {
    let env = env();
    two_stages(&env, "ctx");
    let host = env.host();
    let base = env.base();
    let long = format!(r#"{{"version":1,"records":[{}]}}"#, "[".repeat(100_000));
    let record = |layer: &str| {
        let digest = Digest::sha256(b"");
        format!(
            r#"{{"version":1,"records":[{{"key":"{digest}","layer":{layer},"diff_id":"{digest}","compression":"gzip:3"}}]}}"#
        )
    };
    for (number, (name, says)) in [
        (base, "is an image without a cache in it"),
        (
            put_config(&host, "bk", "application/vnd.buildkit.cacheconfig.v0", b"{}"),
            "is a cache of BuildKit, whose keys only BuildKit can compute",
        ),
        (
            put_config(
                &host,
                "inline",
                "application/vnd.oci.image.config.v1+json",
                br#"{"moby.buildkit.cache.v0":""}"#,
            ),
            "inline cache of BuildKit",
        ),
        (
            put_config(&host, "chart", "application/vnd.cncf.helm.config.v1+json", b"{}"),
            "is neither a cache nor an image",
        ),
        (put_config(&host, "later", CONFIG, br#"{"version":9}"#), "another version of kiln"),
        (put_config(&host, "broken", CONFIG, b"{"), "is damaged"),
        (put_config(&host, "deep", CONFIG, long.as_bytes()), "is damaged"),
        (
            put_config(&host, "far", CONFIG, record("7").as_bytes()),
            "is damaged; records that are left out: 1",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let outcome = build_on(&env, &format!("machine-{number}"), &["--cache-from", &name, "ctx"]);
        outcome.ok();
        assert!(
            outcome.stderr.contains("warning") && outcome.stderr.contains(says),
            "{says}: {}",
            outcome.stderr
        );
    }
    for kind in ["gha", "s3", "azblob"] {
        let option = format!("type={kind}");
        env.kiln(["build", "--cache-to", &option, "ctx"])
            .fails(2, &[kind, "registry, local, inline, repository"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_a_warning_unless_it_was_said_otherwise() {
    let env = env();
    two_stages(&env, "ctx");
    let auth = Auth::Basic { user: "me".into(), password: kiln_remote::Secret::new("x") };
    let private = Registry::start(RegistryConfig { auth, ..RegistryConfig::default() }).unwrap();
    let to = format!("type=registry,ref={}/cache:1", private.host());
    let outcome = build_on(&env, "a", &["--cache-to", &to, "ctx"]);
    outcome.ok();
    assert!(
        outcome.stderr.contains("was not written") && outcome.stderr.contains("401"),
        "{}",
        outcome.stderr
    );
    let strict = format!("{to},ignore-error=false");
    let outcome = build_on(&env, "a", &["--cache-to", &strict, "ctx"]);
    outcome.fails(3, &["cannot write the cache", "the image is built"]);
    env.write("home/full/file", "somebody's");
    let local = format!("type=local,dest={}", env.root.join("home/full").display());
    let outcome = build_on(&env, "a", &["--cache-to", &local, "ctx"]);
    outcome.ok();
    assert!(outcome.stderr.contains("neither empty nor an OCI layout"), "{}", outcome.stderr);
}

#[test]
fn a_build_that_fails_writes_no_cache() {
    for person in lane::people("caches of failed builds") {
        let env = crate::env_of(person);
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base}\nRUN echo fine > /f\nRUN exit 7\n"));
        let (one, each) =
            (format!("{}/cache:1", env.host()), format!("type=repository,ref={}/each", env.host()));
        let outcome = build_on(&env, "a", &["--cache-to", &one, "--cache-to", &each, "ctx"]);
        outcome.fails(1, &["exit code 7"]);
        let manifests =
            env.registry.log().iter().filter(|r| r.method == "PUT" && r.path.contains("/manifests/")).count();
        assert_eq!(manifests, 0);
    }
}

#[test]
fn when_one_cache_is_given_up_the_others_are_still_asked() {
    let env = env();
    let (cached, digest) = filled(&env, "app");
    let steps = format!("type=repository,ref={}/steps", env.host());
    build_on(&env, "maker", &["--cache-to", &steps, "ctx"]).ok();
    let layers = cache(&cached).0;
    for layer in &layers {
        assert_eq!(http(&env.host(), "DELETE", &format!("/v2/app/blobs/{layer}"), "", b""), 202);
    }
    let out = format!("type=oci,dest={}", env.root.join("home/out.tar").display());
    let outcome = build_on(&env, "b", &["--cache-from", &cached, "--cache-from", &steps, "-o", &out, "ctx"]);
    assert_eq!(outcome.ok(), digest);
    assert_eq!(outcome.stderr.matches("begins again without it").count(), 1, "{}", outcome.stderr);
    // Twice: in the attempt that failed, and in the one that did not.
    hits(&outcome, 4);
    for layer in &layers {
        assert_eq!(http(&env.host(), "DELETE", &format!("/v2/steps/blobs/{layer}"), "", b""), 202);
    }
    // Elsewhere: a file that is the image already needs no layer.
    let out = format!("type=oci,dest={}", env.root.join("home/other.tar").display());
    let outcome = build_on(&env, "c", &["--cache-from", &steps, "-o", &out, "ctx"]);
    assert_eq!(outcome.ok(), digest);
    assert!(outcome.stderr.contains("/steps` has lost layer sha256:"), "{}", outcome.stderr);
}

#[test]
fn a_layer_that_is_lost_when_it_is_to_be_converted_is_made_anew() {
    let env = env();
    let (cached, _) = filled(&env, "app");
    for layer in &cache(&cached).0 {
        assert_eq!(http(&env.host(), "DELETE", &format!("/v2/app/blobs/{layer}"), "", b""), 202);
    }
    let outcome = build_on(&env, "b", &["--compression", "zstd", "--cache-from", &cached, "ctx"]);
    let expected = build_on(&env, "c", &["--compression", "zstd", "ctx"]);
    assert_eq!(outcome.ok(), expected.ok());
    assert!(outcome.stderr.contains("the build begins again without it"), "{}", outcome.stderr);
}

/// Changes every `diff_id` in the cache called `repository:1`.
fn lie(host: &str, repository: &str) {
    let name = format!("{host}/{repository}:1");
    let client = kiln_remote::Client::new(kiln_remote::ClientConfig::default()).unwrap();
    let mut manifest = client.document(&name.parse().unwrap()).unwrap().manifest().unwrap().clone();
    let mut config = cache(&name).1;
    for record in config["records"].as_array_mut().unwrap() {
        record["diff_id"] = Digest::sha256(b"something else").as_str().into();
    }
    let config = serde_json::to_vec(&config).unwrap();
    manifest.config = kiln::oci::Descriptor::of(CONFIG, &config);
    let blob = format!("/v2/{repository}/blobs/uploads/?digest={}", manifest.config.digest);
    assert_eq!(http(host, "POST", &blob, "application/octet-stream", &config), 201);
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = serde_json::to_vec(&manifest).unwrap();
    assert_eq!(http(host, "PUT", &format!("/v2/{repository}/manifests/1"), kind, &manifest), 201);
}

#[test]
fn a_layer_that_is_not_what_the_record_says_is_forgotten() {
    for person in lane::people("records that lie") {
        let env = crate::env_of(person);
        let base = env.base();
        let dockerfile = |last: &str| format!("FROM {base}\nRUN echo one > /one\nRUN {last}\n");
        env.write("ctx/Dockerfile", dockerfile("cat /one"));
        let cached = format!("{}/cache:1", env.host());
        build_on(&env, "a", &["--cache-to", &cached, "ctx"]).ok();
        lie(&env.host(), "cache");
        env.write("ctx/Dockerfile", dockerfile("test $(cat /one) = one"));
        let outcome = build_on(&env, "b", &["--cache-from", &cached, "ctx"]);
        outcome.ok();
        assert!(outcome.stderr.contains("gives something else"), "{}", outcome.stderr);
        // What the store was told by the cache is gone from there: the digest is that of honest work.
        env.write("ctx/Dockerfile", dockerfile("test -n \"$(cat /one)\""));
        let (after, honest) = (build_on(&env, "b", &["ctx"]), build_on(&env, "c", &["ctx"]));
        assert_eq!(after.ok(), honest.ok());
    }
}
