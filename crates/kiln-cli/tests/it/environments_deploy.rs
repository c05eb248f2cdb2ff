//! What `deploy/` gives to operators: manifests keep the level they name, profiles grant what kiln needs and no more.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use kiln_testkit::container::{Container, Runtime};
use kiln_testkit::kubernetes;
use kiln_testkit::pod_security::{Level, broken};
use kiln_testkit::{Outcome, TestEnv, lane, seccomp};
use serde_json::{Value, json};

use crate::environments::{deploy, manifest};
use crate::{KILN, env};

/// Each manifest with the level that it keeps and the controls of the next one that it breaks.
const MANIFESTS: [(&str, Level, &[&str]); 9] = [
    (
        "baseline-profile.yaml",
        Level::Baseline,
        &["Privilege Escalation", "Running as Non-root", "Capabilities"],
    ),
    ("baseline.yaml", Level::Baseline, &["Privilege Escalation", "Running as Non-root", "Capabilities"]),
    ("host-users-profile.yaml", Level::Baseline, &["Privilege Escalation", "Capabilities"]),
    ("host-users-sys-admin.yaml", Level::Privileged, &["Capabilities"]),
    ("host-users.yaml", Level::Baseline, &["Privilege Escalation", "Capabilities"]),
    ("job.yaml", Level::Restricted, &[]),
    ("restricted-profile.yaml", Level::Restricted, &[]),
    ("restricted-without-run.yaml", Level::Restricted, &[]),
    ("seccomp-daemonset.yaml", Level::Privileged, &["HostPath Volumes"]),
];

#[test]
fn manifests_keep_the_level_that_they_name() {
    let mut names: Vec<String> = fs::read_dir(deploy("kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, MANIFESTS.map(|(name, ..)| name));
    for (name, level, next) in MANIFESTS {
        let text = fs::read_to_string(deploy("kubernetes").join(name)).unwrap();
        let named = text.lines().find_map(|l| l.strip_prefix("# Pod Security Standard: ")).unwrap();
        assert_eq!(named, format!("{level:?}"), "{name}");
        let documents = kubernetes::documents(&text).unwrap();
        let pods: Vec<_> = documents.iter().filter_map(kubernetes::pod).collect();
        assert_eq!(pods.len(), 1, "{name}");
        let (metadata, spec) = pods[0];
        assert_eq!(broken(level, metadata, spec), Vec::<&str>::new(), "{name}");
        let above = if level == Level::Privileged { Level::Baseline } else { Level::Restricted };
        assert_eq!(broken(above, metadata, spec), next, "{name}");
        // A kiln that could ask the cluster for something would be worth attacking.
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
    }
}

#[test]
fn manifests_give_options_that_kiln_has() {
    let env = env();
    for (name, ..) in MANIFESTS {
        let text = fs::read_to_string(deploy("kubernetes").join(name)).unwrap();
        let documents = kubernetes::documents(&text).unwrap();
        let (_, spec) = kubernetes::pod(&documents[0]).unwrap();
        let first = &spec["containers"][0];
        if first["name"] != "kiln" {
            continue;
        }
        let mut args: Vec<&str> =
            first["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
        // What would be built is only printed.
        args.splice(1..1, ["--print", "request"]);
        let told = env.kiln(args);
        assert_eq!(told.code, Some(0), "{name}: {}", told.stderr);
    }
}

#[test]
fn snippets_for_ci_are_yaml() {
    for name in ["github-actions.yml", "gitlab-ci.yml"] {
        let text = fs::read_to_string(deploy("ci").join(name)).unwrap();
        let documents = kubernetes::documents(&text).unwrap();
        assert!(documents[0].to_string().contains("kiln build --push"), "{name}");
    }
}

fn profile() -> Value {
    serde_json::from_slice(&fs::read(deploy("seccomp/kiln.json")).unwrap()).unwrap()
}

fn names(rule: &Value) -> BTreeSet<String> {
    rule["names"].as_array().unwrap().iter().map(|n| n.as_str().unwrap().to_owned()).collect()
}

/// Names of all calls that a profile allows, whatever their arguments.
fn allowed(profile: &Value) -> BTreeSet<String> {
    let rules = profile["syscalls"].as_array().unwrap().iter();
    rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW").flat_map(names).collect()
}

/// What the profile adds to an engine's default: its last rule.
fn added() -> BTreeSet<String> {
    names(profile()["syscalls"].as_array().unwrap().last().unwrap())
}

#[test]
fn the_profile_keeps_away_what_neither_kiln_nor_a_command_needs() {
    let allowed = allowed(&profile());
    for call in [
        "acct",
        "add_key",
        "bpf",
        "clone3",
        "delete_module",
        "fanotify_init",
        "finit_module",
        "fsopen",
        "init_module",
        "io_uring_setup",
        "kcmp",
        "kexec_load",
        "keyctl",
        "open_by_handle_at",
        "perf_event_open",
        "pidfd_getfd",
        "reboot",
        "request_key",
        "setns",
        "settimeofday",
        "swapon",
        "syslog",
        "unshare",
        "userfaultfd",
    ] {
        assert!(!allowed.contains(call), "{call}");
    }
    for architecture in ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"] {
        assert!(profile()["architectures"].as_array().unwrap().contains(&json!(architecture)));
    }
}

#[test]
fn the_profile_has_all_that_containers_have_by_default_and_nine_calls_more() {
    let env = env();
    let Some(docker) = seccomp::docker(&env.root, "comparing kiln's profile with Docker's") else { return };
    let default = allowed(&seccomp::for_container(&docker, &[]));
    let (ours, added) = (allowed(&profile()), added());
    // Calls of io_uring were allowed by default until Docker 24.
    let missing: Vec<_> = default.difference(&ours).filter(|name| !name.starts_with("io_uring_")).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let news: Vec<_> = added.difference(&default).map(String::as_str).collect();
    // `clone` is in both: by default without namespaces.
    let expect = [
        "chroot",
        "mount",
        "mount_setattr",
        "move_mount",
        "open_tree",
        "pivot_root",
        "sethostname",
        "umount2",
    ];
    assert_eq!(news, expect);
}

/// A pod's build of a Dockerfile with one RUN, under this profile.
fn build(lab: &TestEnv, runtime: &Runtime, name: &str, container: Container) -> Outcome {
    let dir = lab.root.join(name);
    fs::create_dir_all(dir.join("volume/ctx")).unwrap();
    fs::copy(lab.root.join("Dockerfile"), dir.join("volume/ctx/Dockerfile")).unwrap();
    runtime.kiln(&container, &dir, Path::new(KILN), &["build", "ctx"])
}

#[test]
fn every_call_that_the_profile_adds_is_needed() {
    let what = "the calls of kiln's seccomp profile";
    let lab = env();
    let Some(runtime) = Runtime::find(Path::new(KILN), &lab.root.join("probe"), what) else { return };
    lab.write("Dockerfile", format!("FROM {}\nRUN true\n", lab.base()));
    let without = |call: &str| {
        let mut profile = profile();
        for rule in profile["syscalls"].as_array_mut().unwrap() {
            rule["names"].as_array_mut().unwrap().retain(|name| name != call);
        }
        profile["syscalls"].as_array_mut().unwrap().retain(|rule| rule["names"] != json!([]));
        if call == "clone" {
            // Processes have to start; what the default profile withholds is namespaces.
            let flags = json!([{ "index": 0, "value": 0x7E02_0000, "op": "SCMP_CMP_MASKED_EQ" }]);
            let rule = json!({ "action": "SCMP_ACT_ALLOW", "names": ["clone"], "args": flags });
            profile["syscalls"].as_array_mut().unwrap().push(rule);
        }
        let container = manifest("restricted-profile.yaml", None, &profile).unwrap();
        build(&lab, &runtime, call, container)
    };
    without("nothing").ok();
    let mut needed = BTreeSet::new();
    for call in added() {
        let outcome = without(&call);
        if outcome.code == Some(0) {
            continue;
        }
        outcome.fails(4, &["RUN cannot be isolated here"]);
        needed.insert(call);
    }
    let expect = ["clone", "mount", "mount_setattr", "move_mount", "open_tree", "umount2"];
    assert_eq!(needed.iter().map(String::as_str).collect::<Vec<_>>(), expect);
}

#[test]
fn apparmor_profiles_parse() {
    let what = "the syntax of profiles for AppArmor";
    let Some(parser) = lane::program("apparmor_parser", what) else { return };
    for name in ["kiln", "kiln-pod"] {
        // Compiles it and loads nothing.
        let mut command = std::process::Command::new(&parser);
        let outcome = Outcome::of(command.args(["-Q", "-K"]).arg(deploy("apparmor").join(name)));
        if outcome.stderr.contains("abi/4.0") {
            lane::left_out(what, "this AppArmor is older than 4.0");
            return;
        }
        assert_eq!(outcome.code, Some(0), "{name}: {}", outcome.stderr);
    }
}
