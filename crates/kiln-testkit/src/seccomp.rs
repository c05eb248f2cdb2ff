//! The seccomp profiles that engines really use, from the packages of a distribution, in the form that a runtime takes.
//!
//! Engines keep one profile for all machines, whose rules say for which architecture and with which capabilities they
//! hold; a runtime wants the rules that are left. Only data of others is read here, nothing of it is in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use crate::lane;

/// Where Debian puts the profile of Podman, Buildah and CRI-O (package golang-github-containers-common).
const CONTAINERS: &str = "/usr/share/containers/seccomp.json";
/// Where Debian puts Docker's, which is containerd's as well (package golang-github-docker-docker-dev).
const DOCKER: &str = "usr/share/gocode/src/github.com/docker/docker/profiles/seccomp/default.json";
/// The package with it; it would bring 250 others along, so that it is unpacked instead of installed.
const DOCKER_PACKAGE: &str = "golang-github-docker-docker-dev";

/// Returns the profile of Docker and containerd (`RuntimeDefault`), fetching it into `dir` where it is not installed; or
/// says that what needs it is left out.
#[must_use]
pub fn docker(dir: &Path, what: &str) -> Option<Value> {
    let installed = Path::new("/").join(DOCKER);
    let found = if installed.is_file() { Ok(installed) } else { fetch_docker(dir) };
    match found.and_then(|path| read(&path)) {
        Ok(profile) => Some(profile),
        Err(why) => {
            lane::left_out(what, &format!("no seccomp profile of Docker (package {DOCKER_PACKAGE}): {why}"));
            None
        }
    }
}

/// Returns the profile of CRI-O (`RuntimeDefault`): that of its libraries without `unshare`; or says what is left out.
#[must_use]
pub fn crio(what: &str) -> Option<Value> {
    match read(Path::new(CONTAINERS)) {
        Ok(mut profile) => {
            // cri-o/cri-o, internal/config/seccomp/seccomp.go, takes it out of the rules that allow.
            for rule in profile["syscalls"].as_array_mut().into_iter().flatten() {
                if let Some(names) = rule["names"].as_array_mut() {
                    names.retain(|name| name != "unshare");
                }
            }
            Some(profile)
        }
        Err(why) => {
            let package = "package golang-github-containers-common";
            lane::left_out(what, &format!("no seccomp profile of CRI-O ({package}): {why}"));
            None
        }
    }
}

fn read(path: &Path) -> Result<Value, String> {
    let text = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

fn fetch_docker(dir: &Path) -> Result<PathBuf, String> {
    let said = |step: &str, command: &mut Command| -> Result<(), String> {
        let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{step}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let last = text.lines().last().unwrap_or_default();
        if output.status.success() { Ok(()) } else { Err(format!("{step}: {last}")) }
    };
    fs::create_dir_all(dir).map_err(|error| error.to_string())?;
    said(
        "apt-get download",
        Command::new("apt-get").args(["download", "-qq", DOCKER_PACKAGE]).current_dir(dir),
    )?;
    let entries = fs::read_dir(dir).map_err(|error| error.to_string())?;
    let package = entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let package = package.ok_or("apt-get download: it left no package")?;
    said("dpkg -x", Command::new("dpkg").arg("-x").arg(package).arg(dir))?;
    Ok(dir.join(DOCKER))
}

/// Returns what is left of an engine's profile for a container with these capabilities on this machine.
///
/// The rules are those of moby/profiles, `seccomp/generate.go`: an excluded architecture or capability drops a rule; where
/// included ones are named, the architecture must be among them, and all capabilities must be held.
#[must_use]
pub fn for_container(profile: &Value, capabilities: &[&str]) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    resolve(profile, architecture, capabilities)
}

fn resolve(profile: &Value, architecture: &str, capabilities: &[&str]) -> Value {
    let list = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    let held = |name: &String| capabilities.contains(&name.as_str());
    let here = |name: &String| name == architecture;
    let applies = |rule: &&Value| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = list(&includes["arches"]);
        !list(&excludes["arches"]).iter().any(here)
            && !list(&excludes["caps"]).iter().any(held)
            && (arches.is_empty() || arches.iter().any(here))
            && list(&includes["caps"]).iter().all(held)
    };
    let rule = |rule: &Value| {
        let keys = ["names", "action", "args", "errnoRet"];
        let parts = keys.iter().filter(|key| !rule[**key].is_null());
        Value::Object(parts.map(|key| ((*key).to_owned(), rule[*key].clone())).collect::<Map<_, _>>())
    };
    let rules = profile["syscalls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let native = match architecture {
        "amd64" => "SCMP_ARCH_X86_64",
        "arm64" => "SCMP_ARCH_AARCH64",
        _ => "SCMP_ARCH_NATIVE",
    };
    let mut architectures = vec![json!(native)];
    for entry in profile["archMap"].as_array().into_iter().flatten() {
        if entry["architecture"] == native {
            architectures.extend(entry["subArchitectures"].as_array().into_iter().flatten().cloned());
        }
    }
    let mut resolved = json!({
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": rules.iter().filter(applies).map(rule).collect::<Vec<_>>(),
    });
    if !profile["defaultErrnoRet"].is_null() {
        resolved["defaultErrnoRet"] = profile["defaultErrnoRet"].clone();
    }
    resolved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_hold_for_architectures_and_capabilities() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "archMap": [{ "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] }],
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {}, "args": null },
                { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64"] } },
            ],
        });
        let names = |architecture, capabilities: &[&str]| -> Vec<String> {
            let resolved = resolve(&profile, architecture, capabilities);
            let rules = resolved["syscalls"].as_array().cloned().unwrap_or_default();
            rules.iter().filter_map(|rule| rule["names"][0].as_str().map(str::to_owned)).collect()
        };
        assert_eq!(names("amd64", &[]), ["read", "clone", "arch_prctl"]);
        assert_eq!(names("arm64", &["CAP_SYS_ADMIN"]), ["read", "mount"]);
        let resolved = resolve(&profile, "arm64", &[]);
        assert_eq!(resolved["architectures"], json!(["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]));
        assert_eq!(resolved["syscalls"][0], json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW" }));
    }
}
