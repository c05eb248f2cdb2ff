//! Caches that builds share: what one machine made, another finds, without fetching what it does not need.

use std::collections::BTreeSet;

use kiln_remote::{Client, ClientConfig};
use kiln_testkit::Outcome;
use kiln_testkit::{Image, TestEnv, lane};

use crate::{env, env_of};

/// Builds as another machine would: with a store of its own.
pub(crate) fn build_on(env: &TestEnv, machine: &str, args: &[&str]) -> Outcome {
    let store = env.root.join("home").join(machine);
    Outcome::of(env.command(["build", "--progress", "plain"].iter().chain(args)).env("KILN_STORE", store))
}

/// Two stages without a command, so that everybody can build them: six steps, of which the image has two.
pub(crate) fn two_stages(env: &TestEnv, dir: &str) {
    env.write(
        &format!("{dir}/Dockerfile"),
        "FROM scratch AS build\nCOPY src /src\nCOPY more /src/more\nWORKDIR /out\nCOPY src/a /out/a\n\
         FROM scratch\nCOPY --from=build /out /app\nCOPY last /last\n",
    );
    env.write(&format!("{dir}/src/a"), vec![b'a'; 50_000]);
    env.write(&format!("{dir}/src/b"), "b");
    env.write(&format!("{dir}/more"), "more");
    env.write(&format!("{dir}/last"), "last");
}

/// Asserts how many steps came from a cache.
#[track_caller]
pub(crate) fn hits(outcome: &Outcome, expect: usize) {
    let found = outcome.stderr.lines().filter(|line| line.ends_with("CACHED")).count();
    assert_eq!(found, expect, "{}", outcome.stderr);
}

/// Returns the digests of the layers that the manifest of `name` lists, and its config.
pub(crate) fn cache(name: &str) -> (BTreeSet<String>, serde_json::Value) {
    let client = Client::new(ClientConfig::default()).unwrap();
    let reference = name.parse().unwrap();
    let document = client.document(&reference).unwrap();
    let manifest = document.manifest().unwrap();
    let config = client.blob(&reference, &manifest.config, None).unwrap();
    let layers = manifest.layers.iter().map(|layer| layer.digest.to_string()).collect();
    (layers, serde_json::from_reader(config).unwrap())
}

#[test]
fn another_machine_finds_everything_and_fetches_no_layer() {
    let env = env();
    two_stages(&env, "ctx");
    two_stages(&env, "elsewhere/checkout");
    let (name, cached) = (format!("{}/app:1", env.host()), format!("{}/app:cache", env.host()));
    let to = format!("type=registry,ref={cached},mode=max");
    let made = build_on(&env, "a", &["-t", &name, "--push", "--cache-to", &to, "ctx"]);
    made.ok();
    hits(&made, 0);
    env.registry.clear_log();
    let found = build_on(&env, "b", &["-t", &name, "--push", "--cache-from", &cached, "elsewhere/checkout"]);
    assert_eq!(found.ok(), made.ok(), "a cache is never the reason for another digest");
    hits(&found, 2);
    let (fetched, log) = (env.blobs_fetched(), env.registry.log());
    let (layers, _) = cache(&cached);
    assert!(layers.iter().all(|l| !fetched.iter().any(|path| path.ends_with(l.as_str()))), "{fetched:?}");
    assert!(!log.iter().any(|r| r.method == "POST" || r.method == "PATCH"), "nothing is sent: {log:?}");
    // Two documents of the cache, a look at two layers and the config of the image, and its manifest; beside them only
    // what a connection begins with.
    assert!(log.len() <= 8, "{} requests: {log:?}", log.len());
    assert_eq!(Image::pull(&name).digest.as_str(), made.ok());
}

#[test]
fn the_short_form_is_a_registry_and_min_has_the_steps_of_the_image() {
    let env = env();
    two_stages(&env, "ctx");
    let name = |tag: &str| format!("{}/cache:{tag}", env.host());
    let (min, max) = (name("min"), name("max"));
    let to = format!("type=registry,ref={max},mode=max");
    build_on(&env, "a", &["--cache-to", &min, "--cache-to", &to, "ctx"]).ok();
    assert_eq!(cache(&min).0.len(), 2);
    assert_eq!(cache(&max).1["records"].as_array().unwrap().len(), 6);
    // The last stage copies something else out of the first one now.
    env.write(
        "ctx/Dockerfile",
        std::fs::read_to_string(env.root.join("ctx/Dockerfile"))
            .unwrap()
            .replace("/out /app", "/out/a /other/"),
    );
    let with_min = build_on(&env, "b", &["--cache-from", &min, "ctx"]);
    let with_max = build_on(&env, "c", &["--cache-from", &max, "ctx"]);
    assert_eq!(with_min.ok(), with_max.ok());
    hits(&with_min, 0);
    hits(&with_max, 4);
}

#[test]
fn a_cache_that_is_written_anew_forgets_nothing() {
    let env = env();
    two_stages(&env, "ctx");
    let cached = format!("{}/cache:1", env.host());
    let to = format!("type=registry,ref={cached},mode=max");
    build_on(&env, "a", &["--cache-to", &to, "ctx"]).ok();
    let first = cache(&cached);
    // Everything is found, steps of the first stage are not even looked at; on the second machine in the cache only.
    for machine in ["a", "b"] {
        env.registry.clear_log();
        let again = build_on(&env, machine, &["--cache-from", &cached, "--cache-to", &to, "ctx"]);
        again.ok();
        hits(&again, 2);
        assert_eq!(
            cache(&cached),
            first,
            "the document is the same, to the time at which each layer was made"
        );
        let sent = env.registry.log().iter().filter(|r| r.method != "GET" && r.method != "HEAD").count();
        assert_eq!(sent, 0, "{:?}", env.registry.log());
    }
    let other = format!("{}/elsewhere:1", env.host());
    build_on(
        &env,
        "c",
        &["--cache-from", &cached, "--cache-to", &format!("type=registry,ref={other},mode=max"), "ctx"],
    )
    .ok();
    assert_eq!(cache(&other), first);
    let log = env.registry.log();
    let mounts = log.iter().filter(|r| r.path.contains("/elsewhere/") && r.path.contains("mount=")).count();
    // WORKDIR and three COPY of one stage, two of the other: five different layers at least.
    assert!(
        mounts >= 5 && log.iter().filter(|r| r.path.contains("mount=")).all(|r| r.status == 201),
        "{log:?}"
    );
}

#[test]
fn layers_travel_once_and_are_mounted_where_they_are() {
    let env = env();
    two_stages(&env, "ctx");
    let (name, cached) = (format!("{}/app:1", env.host()), format!("{}/cache:1", env.host()));
    let to = format!("type=registry,ref={cached},mode=max");
    let second = format!("type=registry,ref={}/second:1,mode=max", env.host());
    build_on(&env, "a", &["-t", &name, "--push", "--cache-to", &to, "--cache-to", &second, "ctx"]).ok();
    let log = env.registry.log();
    for layer in cache(&cached).0 {
        let hex = layer.strip_prefix("sha256:").unwrap();
        let sent = log.iter().filter(|r| r.method == "PUT" && r.path.contains(hex)).count();
        assert_eq!(sent, 1, "{layer} is sent once: {log:?}");
    }
    let mounts = |to: &str| {
        log.iter().filter(|r| r.path.starts_with(to) && r.path.contains("mount=") && r.status == 201).count()
    };
    assert_eq!(
        mounts("/v2/cache/"),
        2,
        "layers of the image are mounted from where it was pushed to: {log:?}"
    );
    assert_eq!(mounts("/v2/second/"), cache(&cached).0.len(), "and all of them into a second cache: {log:?}");
    let manifests: Vec<&str> = log
        .iter()
        .filter(|r| r.method == "PUT" && r.path.contains("/manifests/"))
        .map(|r| r.path.as_str())
        .collect();
    assert_eq!(manifests, ["/v2/app/manifests/1", "/v2/cache/manifests/1", "/v2/second/manifests/1"]);
}

#[test]
fn several_caches_are_asked_in_turn_and_no_cache_asks_none() {
    let env = env();
    two_stages(&env, "one");
    two_stages(&env, "two");
    env.write("two/last", "another");
    let name = |tag: &str| format!("{}/cache:{tag}", env.host());
    let (one, two) = (name("one"), name("two"));
    build_on(&env, "a", &["--cache-to", &one, "one"]).ok();
    build_on(&env, "a", &["--cache-to", &two, "two"]).ok();
    let from = ["--cache-from", one.as_str(), "--cache-from", two.as_str()];
    for dir in ["one", "two"] {
        let outcome = build_on(&env, dir, &[&from[..], &[dir]].concat());
        outcome.ok();
        hits(&outcome, 2);
    }
    env.registry.clear_log();
    let third = name("three");
    let anew = build_on(&env, "one", &[&from[..], &["--no-cache", "--cache-to", &third, "one"]].concat());
    anew.ok();
    hits(&anew, 0);
    assert!(!env.registry.log().iter().any(|r| r.path.ends_with("/manifests/one")), "nobody is asked");
    assert_eq!(cache(&third).0.len(), 2, "and yet it is written");
}

#[test]
fn the_store_learns_from_a_shared_cache() {
    let env = env();
    two_stages(&env, "ctx");
    let cached = format!("{}/cache:1", env.host());
    build_on(&env, "a", &["--cache-to", &cached, "ctx"]).ok();
    let out = env.root.join("home/out.tar").display().to_string();
    let output = format!("type=oci,dest={out}");
    hits(&build_on(&env, "b", &["--cache-from", &cached, "-o", &output, "ctx"]), 2);
    env.registry.clear_log();
    let alone = build_on(&env, "b", &["ctx"]);
    alone.ok();
    hits(&alone, 2);
    assert!(env.registry.log().is_empty(), "the layers are here now");
}

#[test]
fn results_that_are_too_old_do_not_count_wherever_they_are() {
    let env = env();
    two_stages(&env, "ctx");
    let name = |tag: &str| format!("{}/cache:{tag}", env.host());
    let (cached, image) = (name("1"), name("image"));
    let inline = ["--cache-to", "type=inline", "-t", &image, "--push"];
    build_on(&env, "a", &[&inline[..], &["--cache-to", &cached, "ctx"]].concat()).ok();
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let with = |machine: &str, from: &str, age: &str| {
        let outcome = build_on(&env, machine, &["--cache-from", from, "--cache-ttl", age, "ctx"]);
        outcome.ok();
        outcome
    };
    hits(&with("b", &cached, "1s"), 0);
    hits(&with("c", &cached, "1h"), 2);
    // Passing it on does not make it younger.
    let copy = name("copy");
    build_on(&env, "d", &["--cache-from", &cached, "--cache-to", &copy, "ctx"]).ok();
    hits(&with("e", &copy, "1s"), 0);
    // A cache inside an image has no times, because the image's digest must not have any.
    hits(&with("f", &image, "1h"), 0);
}

#[test]
fn commands_are_found_by_everybody_with_a_range_of_ids() {
    let mut maker: Option<(TestEnv, String, String)> = None;
    for person in lane::people("a cache between users") {
        let env = env_of(person.clone());
        let command = |host: &str, base: &str| {
            env.write(
                "ctx/Dockerfile",
                format!("FROM {base}\nRUN mkdir /d && echo x > /d/f\nRUN cat /d/f > /g\n"),
            );
            let cached = format!("{host}/cache:1");
            env.kiln(["build", "--progress", "plain", "--cache-from", &cached, "--cache-to", &cached, "ctx"])
        };
        match &maker {
            None => {
                let (host, base) = (env.host(), env.base());
                let made = command(&host, &base);
                hits(&made, 0);
                let digest = made.ok().to_owned();
                maker = Some((env, base, digest));
            }
            Some((first, base, digest)) => {
                let found = command(&first.host(), base);
                assert_eq!(found.ok(), digest, "{person}");
                hits(&found, 2);
            }
        }
    }
}

#[test]
fn a_layer_is_fetched_only_for_a_command_that_needs_its_files() {
    for person in lane::people("files of a shared cache") {
        let env = env_of(person);
        let base = env.base();
        let dockerfile = |last: &str| {
            format!(
                "FROM {base} AS tools\nRUN echo tool > /tool\nFROM {base}\nCOPY --from=tools /tool /\nRUN {last}\n"
            )
        };
        env.write("ctx/Dockerfile", dockerfile("cat /tool"));
        let cached = format!("{}/cache:1", env.host());
        let to = format!("type=registry,ref={cached},mode=max");
        build_on(&env, "a", &["--cache-to", &to, "ctx"]).ok();
        env.write("ctx/Dockerfile", dockerfile("test \"$(cat /tool)\" = tool"));
        let outcome = build_on(&env, "b", &["--cache-from", &cached, "ctx"]);
        outcome.ok();
        hits(&outcome, 1);
        let layers = cache(&cached).0;
        let fetched = env.blobs_fetched();
        let of_cache = layers.iter().filter(|l| fetched.iter().any(|p| p.ends_with(l.as_str()))).count();
        assert_eq!(of_cache, 1, "the copied tool, and not the stage that made it: {fetched:?}");
    }
}

#[test]
fn secrets_and_values_do_not_reach_a_cache() {
    for person in lane::people("secrets and shared caches") {
        let env = env_of(person);
        let base = env.base();
        env.write(
            "ctx/Dockerfile",
            format!("FROM {base} AS a\nARG KEY\nRUN --mount=type=secret,id=t test -s /run/secrets/t && echo $KEY | wc -c > /n\n\
                     FROM {base}\nCOPY --from=a /n /n\n"),
        );
        let secret = env.write("home/secret", "value-of-the-secret");
        env.person.give(&secret).unwrap();
        let cached = format!("{}/cache:1", env.host());
        let to = format!("type=registry,ref={cached},mode=max");
        let dir = env.root.join("home/local").display().to_string();
        let local = format!("type=local,dest={dir},mode=max");
        let id = "id=t,src=home/secret,cache-key";
        let args = [
            "--secret",
            id,
            "--build-arg",
            "KEY=value-of-the-argument",
            "--cache-to",
            &to,
            "--cache-to",
            &local,
            "ctx",
        ];
        build_on(&env, "a", &args).ok();
        let config = cache(&cached).1.to_string();
        assert!(config.contains("variable KEY"), "names are there to explain: {config}");
        for value in ["value-of-the-secret", "value-of-the-argument"] {
            assert!(!config.contains(value), "{config}");
            let grep = std::process::Command::new("grep").args(["-rl", value, &dir]).output().unwrap();
            assert!(grep.stdout.is_empty(), "{}", String::from_utf8_lossy(&grep.stdout));
        }
    }
}

#[test]
fn two_builds_that_write_one_cache_leave_one_that_is_whole() {
    let env = env();
    for dir in ["one", "two"] {
        two_stages(&env, dir);
        env.write(&format!("{dir}/last"), dir);
    }
    let cached = format!("{}/cache:1", env.host());
    let local = env.root.join("home/local").display().to_string();
    let to = [format!("type=registry,ref={cached},mode=max"), format!("type=local,dest={local},mode=max")];
    std::thread::scope(|scope| {
        for dir in ["one", "two"] {
            let (env, to) = (&env, &to);
            scope.spawn(move || {
                build_on(env, dir, &["--cache-to", &to[0], "--cache-to", &to[1], dir]).ok().to_owned()
            });
        }
    });
    for from in [cached, format!("type=local,src={local}")] {
        let found: Vec<usize> = ["one", "two"]
            .iter()
            .map(|dir| {
                let machine = format!("fresh-{dir}-{}", from.len());
                let outcome = build_on(&env, &machine, &["--cache-from", &from, dir]);
                outcome.ok();
                outcome.stderr.lines().filter(|line| line.ends_with("CACHED")).count()
            })
            .collect();
        assert!(found == [2, 1] || found == [1, 2], "the last one wins, and is whole: {found:?}");
    }
}
