//! The Pod Security Standards: which controls of a level a pod breaks.
//!
//! Written from <https://kubernetes.io/docs/concepts/security/pod-security-standards/>, with the fields and values of its
//! tables, and names of controls as they are there. Where the page is silent, the admission plugin decides
//! (kubernetes/pod-security-admission, `policy/`), as it does on what `hostUsers: false` relaxes from version 1.35 on: user
//! 0 at Restricted, `procMount` at Baseline only, and no capability. Controls for Windows are left out.

use serde_json::Value;

/// A level; each has the controls of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No control.
    Privileged,
    /// What prevents known ways to more privilege.
    Baseline,
    /// What hardens a pod besides.
    Restricted,
}

/// Capabilities that Baseline lets a container add.
const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// Volumes that Restricted lets a pod have.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

const SELINUX_TYPES: [&str; 4] = ["container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

const SYSCTLS: [&str; 14] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_notsent_lowat",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// Returns the controls of `level` that a pod breaks, in the order of the page.
#[must_use]
pub fn broken(level: Level, metadata: &Value, spec: &Value) -> Vec<&'static str> {
    let pod = Pod { metadata, spec };
    let baseline: [(&str, bool); 11] = [
        ("Host Namespaces", ["hostNetwork", "hostPID", "hostIPC"].iter().all(|f| spec[*f] != true)),
        ("Privileged Containers", pod.containers().all(|c| c["securityContext"]["privileged"] != true)),
        ("Capabilities", pod.adds_only(&BASELINE_CAPABILITIES)),
        ("HostPath Volumes", pod.volumes().all(|v| v["hostPath"].is_null())),
        (
            "Host Ports",
            pod.containers()
                .flat_map(|c| list(&c["ports"]))
                .all(|p| matches!(p["hostPort"].as_u64(), None | Some(0))),
        ),
        ("Host Probes / Lifecycle Hooks", pod.containers().all(probes_itself)),
        ("AppArmor", pod.apparmor()),
        ("SELinux", pod.contexts().all(selinux)),
        ("/proc Mount Type", pod.relaxed() || pod.masked()),
        (
            "Seccomp",
            pod.contexts().all(|c| one_of(&c["seccompProfile"]["type"], &["RuntimeDefault", "Localhost"])),
        ),
        (
            "Sysctls",
            list(&spec["securityContext"]["sysctls"])
                .all(|s| !s["name"].is_null() && one_of(&s["name"], &SYSCTLS)),
        ),
    ];
    let restricted: [(&str, bool); 7] = [
        ("/proc Mount Type", pod.masked()),
        ("Volume Types", pod.volumes().all(|v| VOLUMES.iter().any(|kind| !v[*kind].is_null()))),
        (
            "Privilege Escalation",
            pod.containers().all(|c| c["securityContext"]["allowPrivilegeEscalation"] == false),
        ),
        ("Running as Non-root", pod.relaxed() || pod.everywhere("runAsNonRoot", |value| *value == true)),
        ("Running as Non-root user", pod.relaxed() || pod.contexts().all(|c| c["runAsUser"] != 0)),
        ("Seccomp", pod.everywhere("seccompProfile", |value| !value["type"].is_null())),
        ("Capabilities", pod.drops_all() && pod.adds_only(&["NET_BIND_SERVICE"])),
    ];
    let kept = match level {
        Level::Privileged => 0,
        Level::Baseline => baseline.len(),
        Level::Restricted => baseline.len() + restricted.len(),
    };
    let broken = baseline.into_iter().chain(restricted).take(kept).filter(|(_, kept)| !kept);
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in broken {
        // Both levels have controls of these names; one is enough to name.
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Tells whether a field is not there, or has one of these values.
fn one_of(value: &Value, allowed: &[&str]) -> bool {
    value.is_null() || value.as_str().is_some_and(|value| allowed.contains(&value))
}

fn selinux(context: &Value) -> bool {
    let options = &context["seLinuxOptions"];
    let unset = |field: &str| one_of(&options[field], &[""]);
    (unset("type") || one_of(&options["type"], &SELINUX_TYPES)) && unset("user") && unset("role")
}

/// Tells whether probes and hooks of a container name no host but its own.
fn probes_itself(container: &Value) -> bool {
    let hooks = ["postStart", "preStop"].map(|hook| &container["lifecycle"][hook]);
    let probes = ["livenessProbe", "readinessProbe", "startupProbe"].map(|probe| &container[probe]);
    probes
        .into_iter()
        .chain(hooks)
        .all(|action| ["httpGet", "tcpSocket"].iter().all(|kind| one_of(&action[*kind]["host"], &[""])))
}

struct Pod<'a> {
    metadata: &'a Value,
    spec: &'a Value,
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        ["containers", "initContainers", "ephemeralContainers"]
            .into_iter()
            .flat_map(|kind| list(&self.spec[kind]))
    }

    fn volumes(&self) -> impl Iterator<Item = &'a Value> {
        list(&self.spec["volumes"])
    }

    /// Returns the security contexts of the pod and of every container.
    fn contexts(&self) -> impl Iterator<Item = &'a Value> {
        std::iter::once(&self.spec["securityContext"]).chain(self.containers().map(|c| &c["securityContext"]))
    }

    /// Tells whether the pod has a user namespace, which makes some controls moot.
    fn relaxed(&self) -> bool {
        self.spec["hostUsers"] == false
    }

    /// Tells whether a field is right for every container: its own, or that of the pod where it has none, which must not be wrong
    /// either.
    fn everywhere(&self, field: &str, right: impl Fn(&Value) -> bool) -> bool {
        let pod = &self.spec["securityContext"][field];
        (pod.is_null() || right(pod))
            && self.containers().all(|container| {
                let own = &container["securityContext"][field];
                right(if own.is_null() { pod } else { own })
            })
    }

    fn adds_only(&self, allowed: &[&str]) -> bool {
        let mut added = self.containers().flat_map(|c| list(&c["securityContext"]["capabilities"]["add"]));
        added.all(|name| name.as_str().is_some_and(|name| allowed.contains(&name)))
    }

    fn masked(&self) -> bool {
        self.containers().all(|c| one_of(&c["securityContext"]["procMount"], &["Default"]))
    }

    fn drops_all(&self) -> bool {
        self.containers()
            .all(|c| list(&c["securityContext"]["capabilities"]["drop"]).any(|name| name == "ALL"))
    }

    fn apparmor(&self) -> bool {
        let annotations = self.metadata["annotations"].as_object();
        let mut named = annotations.into_iter().flatten();
        self.contexts().all(|c| one_of(&c["appArmorProfile"]["type"], &["RuntimeDefault", "Localhost"]))
            && named.all(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                !name.starts_with("container.apparmor.security.beta.kubernetes.io/")
                    || matches!(value, "" | "runtime/default")
                    || value.starts_with("localhost/")
            })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A pod that breaks nothing.
    fn hardened() -> Value {
        json!({
            "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "securityContext": {
                "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
            "volumes": [{ "name": "a", "emptyDir": {} }],
        })
    }

    /// Sets what is at `pointer` and returns what a pod breaks then at Baseline, and at Restricted.
    fn with(pointer: &str, value: Value) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut pod = hardened();
        let (parent, field) = pointer.rsplit_once('/').unwrap_or_default();
        if let Some(parent) = pod.pointer_mut(parent) {
            parent[field] = value;
        }
        let metadata = Value::Null;
        (broken(Level::Baseline, &metadata, &pod), broken(Level::Restricted, &metadata, &pod))
    }

    #[test]
    fn a_hardened_pod_breaks_nothing_and_an_empty_one_what_must_be_said() {
        assert_eq!(with("/x", Value::Null), (vec![], vec![]));
        let empty = json!({ "containers": [{}] });
        assert_eq!(broken(Level::Baseline, &Value::Null, &empty), Vec::<&str>::new());
        let expect = ["Privilege Escalation", "Running as Non-root", "Seccomp", "Capabilities"];
        assert_eq!(broken(Level::Restricted, &Value::Null, &empty), expect);
    }

    #[test]
    fn every_control_is_broken_by_what_the_page_forbids() {
        let check = |pointer: &str, value: Value, level: Level, control: &str| {
            let (baseline, restricted) = with(pointer, value);
            assert_eq!(baseline.contains(&control), level == Level::Baseline, "{pointer}: {baseline:?}");
            assert!(restricted.contains(&control), "{pointer}: {restricted:?}");
        };
        let context = "/containers/0/securityContext";
        let of = |field: &str| format!("{context}/{field}");
        check("/hostPID", json!(true), Level::Baseline, "Host Namespaces");
        check(&of("privileged"), json!(true), Level::Baseline, "Privileged Containers");
        check(
            &of("capabilities"),
            json!({ "drop": ["ALL"], "add": ["SYS_ADMIN"] }),
            Level::Baseline,
            "Capabilities",
        );
        check(&of("capabilities"), json!({ "add": ["NET_RAW"] }), Level::Baseline, "Capabilities");
        check(
            &of("capabilities"),
            json!({ "drop": ["ALL"], "add": ["CHOWN"] }),
            Level::Restricted,
            "Capabilities",
        );
        check("/volumes/0/hostPath", json!({ "path": "/" }), Level::Baseline, "HostPath Volumes");
        check("/containers/0/ports", json!([{ "hostPort": 80 }]), Level::Baseline, "Host Ports");
        let probe = json!({ "httpGet": { "host": "10.0.0.1" } });
        check("/containers/0/livenessProbe", probe, Level::Baseline, "Host Probes / Lifecycle Hooks");
        check(&of("appArmorProfile"), json!({ "type": "Unconfined" }), Level::Baseline, "AppArmor");
        check(&of("seLinuxOptions"), json!({ "type": "spc_t" }), Level::Baseline, "SELinux");
        check(&of("seLinuxOptions"), json!({ "user": "u" }), Level::Baseline, "SELinux");
        check(&of("procMount"), json!("Unmasked"), Level::Baseline, "/proc Mount Type");
        check(&of("seccompProfile"), json!({ "type": "Unconfined" }), Level::Baseline, "Seccomp");
        check("/securityContext/sysctls", json!([{ "name": "kernel.x" }]), Level::Baseline, "Sysctls");
        check("/volumes", json!([{ "name": "a", "nfs": {} }]), Level::Restricted, "Volume Types");
        check(&of("allowPrivilegeEscalation"), Value::Null, Level::Restricted, "Privilege Escalation");
        check(&of("runAsNonRoot"), json!(false), Level::Restricted, "Running as Non-root");
        check(&of("runAsUser"), json!(0), Level::Restricted, "Running as Non-root user");
    }

    #[test]
    fn a_user_namespace_relaxes_users_and_proc_and_nothing_else() {
        let mut pod = json!({
            "hostUsers": false,
            "securityContext": { "runAsUser": 0, "seccompProfile": { "type": "Localhost" } },
            "containers": [{ "securityContext": {
                "allowPrivilegeEscalation": false, "procMount": "Unmasked", "capabilities": { "drop": ["ALL"] } } }],
        });
        assert_eq!(broken(Level::Baseline, &Value::Null, &pod), Vec::<&str>::new());
        assert_eq!(broken(Level::Restricted, &Value::Null, &pod), ["/proc Mount Type"]);
        pod["containers"][0]["securityContext"]["capabilities"]["add"] = json!(["SYS_ADMIN"]);
        assert_eq!(broken(Level::Baseline, &Value::Null, &pod), ["Capabilities"]);
    }
}
