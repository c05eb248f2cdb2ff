//! Which isolation a build takes, what it says about it, what it refuses, and what `kiln doctor` tells of the machine.

use kiln_testkit::{Person, lane};
use serde_json::Value;

use crate::{env, env_of};

/// Returns what `kiln doctor` found, with its exit code.
fn doctor(env: &kiln_testkit::TestEnv) -> (Value, i32) {
    let outcome = env.kiln(["doctor", "--format", "json"]);
    let found = serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {outcome:?}"));
    (found, outcome.code.unwrap_or(-1))
}

#[test]
fn doctor_and_build_agree() {
    for person in lane::people("what `kiln doctor` finds") {
        let env = env_of(person.clone());
        let base = env.base();
        let (found, code) = doctor(&env);
        assert_eq!(code, 0, "{found:#}");
        let chosen = found["chosen"].as_str().unwrap();
        let expected = if person == Person::Root || person.has_ids() { "userns" } else { "userns-single" };
        if person != Person::Caller {
            assert_eq!(chosen, expected, "{person}");
        }
        env.write("ctx/Dockerfile", format!("FROM {base}\nRUN true\n"));
        let build = env.kiln(["build", "--no-cache", "ctx"]);
        build.ok();
        let line = format!("note: isolation {chosen}: ");
        assert!(build.stderr.contains(&line), "{person}: {build:?}");
        // Every rung is there, the strongest first, and one that does not work says why.
        let rungs = found["rungs"].as_array().unwrap();
        let modes: Vec<_> = rungs.iter().map(|rung| rung["mode"].as_str().unwrap()).collect();
        assert_eq!(modes, ["userns", "userns-single", "chroot"]);
        for rung in rungs.iter().filter(|rung| rung["works"] == false) {
            assert!(rung["text"].as_str().unwrap().starts_with("cannot "), "{rung:#}");
        }
    }
}

#[test]
fn doctor_tells_people_too() {
    let env = env();
    let outcome = env.kiln(["doctor", "--answers"]);
    for part in
        ["userns-single", "chroot", "kernel", "seccomp", "ENOSPC", "user.max_user_namespaces", "REMEDY"]
    {
        assert!(outcome.stdout.contains(part), "{part}: {outcome:?}");
    }
    // A look at a machine leaves nothing behind.
    let elsewhere = env.root.join("looked-at");
    let looked = env.kiln(["doctor".as_ref(), "--store".as_ref(), elsewhere.as_os_str()]);
    assert!(looked.stdout.contains("looked-at"), "{looked:?}");
    assert!(!elsewhere.exists());
}

#[test]
fn the_program_brings_its_profiles_along() {
    for (kind, file) in [
        ("seccomp", "seccomp/kiln.json"),
        ("apparmor", "apparmor/kiln"),
        ("apparmor-pod", "apparmor/kiln-pod"),
    ] {
        let printed = env().kiln(["doctor", "--profile", kind]);
        printed.ok();
        assert_eq!(printed.stdout, std::fs::read_to_string(crate::environments::deploy(file)).unwrap());
    }
}

#[test]
fn a_policy_is_kept_or_the_build_ends_before_its_first_step() {
    for person in lane::people("a required isolation") {
        let env = env_of(person.clone());
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base}\nRUN echo was-run\n"));
        let strict = env.kiln(["build", "--no-cache", "--require-isolation", "userns", "ctx"]);
        let (found, _) = doctor(&env);
        if found["chosen"] == "userns" {
            strict.ok();
        } else {
            strict.fails(
                4,
                &["isolation `userns` is required", "`userns-single` is what this machine gives", "hint: "],
            );
            assert!(!strict.stderr.contains("was-run"), "{strict:?}");
        }
        // Nothing is run, so nothing is too weak.
        env.write("ctx/Dockerfile", format!("FROM {base}\nCOPY f /f\n"));
        env.write("ctx/f", "f");
        let copied = env.kiln(["build", "--require-isolation", "userns", "ctx"]);
        copied.ok();
        assert!(copied.stderr.contains("no command has to be run, so no isolation is needed"), "{copied:?}");
    }
}

#[test]
fn a_policy_of_the_machine_outlives_options() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    env.write("config.toml", "[defaults]\nrequire-isolation = \"userns\"\n");
    let print = |option: &[&str]| {
        let mut args = vec!["build", "--print", "request"];
        args.extend(option);
        args.push("ctx");
        let mut command = env.command(&args);
        command.env("KILN_CONFIG", env.root.join("config.toml"));
        let outcome = kiln_testkit::Outcome::of(&mut command);
        outcome.ok();
        let request: Value = serde_json::from_str(&outcome.stdout).unwrap();
        request["isolation"]["require"].as_str().unwrap().to_owned()
    };
    assert_eq!(print(&[]), "userns");
    assert_eq!(print(&["--require-isolation", "chroot"]), "userns");
    assert_eq!(print(&["--require-isolation", "none"]), "userns");
}

#[test]
fn an_isolation_that_cannot_be_had_is_refused_with_its_reason() {
    for person in lane::people("a pinned isolation") {
        if person == Person::Caller {
            continue;
        }
        let env = env_of(person.clone());
        let base = env.base();
        env.write("ctx/Dockerfile", format!("FROM {base}\nRUN true\n"));
        let pinned = |mode: &str| env.kiln(["build", "--no-cache", "--isolation", mode, "ctx"]);
        if person == Person::Root {
            pinned("userns-single").fails(4, &["the one id would be the host's root", "hint: "]);
            continue;
        }
        pinned("userns-single").ok();
        pinned("chroot").fails(4, &["kiln is in a user namespace", "leave --isolation at auto"]);
        if !person.has_ids() {
            pinned("userns").fails(4, &["cannot use many user ids", "hint: "]);
        }
    }
}
