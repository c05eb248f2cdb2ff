//! Containers as engines and clusters start them, made with `runc`, so that kiln meets the same kernel rules as in a pod.
//!
//! Real are capabilities, identity, seccomp filter, covered paths, user namespace, the overlay below the root and a
//! volume beside it. Not there are AppArmor, SELinux, limits of resources, and a kubelet; the network is the machine's,
//! because the test's registry listens on its loopback.
//!
//! ```text
//! dir/image    kiln with its libraries, lower directory of the root
//! dir/upper …  the rest of that overlay, mounted in a mount namespace of its own, so that nothing stays behind
//! dir/volume   what a pod calls an emptyDir: context and store
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::base::needed;
use crate::env::Outcome;
use crate::lane;

/// Capabilities of a container that asked for nothing, in Docker and containerd alike.
pub const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// What engines cover with nothing.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What engines make read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// First id of the machine and number of ids of a pod with `hostUsers: false`.
const POD_IDS: (u32, u32) = (1_000_000, 65_536);

/// `cap_setuid,cap_setgid=ep` as the kernel stores it: version 2 with the effective bit, then the two sets.
const SET_IDS: [u8; 20] = [1, 0, 0, 2, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// What a container may do; the default is root as Docker starts it, without a seccomp filter.
#[derive(Debug, Clone)]
pub struct Container {
    /// User and group of the process.
    pub uid: u32,
    /// Names of the capabilities, `CAP_` included. A process of another user than root has them as its bound only.
    pub capabilities: Vec<&'static str>,
    /// The filter in the form of the runtime specification.
    pub seccomp: Option<Value>,
    /// Whether `allowPrivilegeEscalation` is false.
    pub no_new_privileges: bool,
    /// Whether the root is read-only.
    pub read_only_root: bool,
    /// Whether the container has a user namespace of its own (`hostUsers: false`).
    pub user_namespace: bool,
    /// Whether the kiln in it carries the file capabilities `cap_setuid,cap_setgid=ep`.
    pub file_capabilities: bool,
    /// Where the volume is, which is the working directory as well.
    pub volume: String,
    /// The environment besides PATH, as `NAME=value`.
    pub variables: Vec<String>,
}

impl Default for Container {
    fn default() -> Self {
        Self {
            uid: 0,
            capabilities: DEFAULT_CAPABILITIES.to_vec(),
            seccomp: None,
            no_new_privileges: false,
            read_only_root: false,
            user_namespace: false,
            file_capabilities: false,
            volume: "/build".to_owned(),
            variables: vec!["KILN_STORE=/build/store".to_owned()],
        }
    }
}

impl Container {
    /// Adds capabilities.
    #[must_use]
    pub fn adding(mut self, names: &[&'static str]) -> Self {
        self.capabilities.extend(names);
        self
    }

    /// Sets the filter.
    #[must_use]
    pub fn filtered(self, profile: Value) -> Self {
        Self { seccomp: Some(profile), ..self }
    }

    /// Returns `config.json` for a process with these arguments; `dir` is the container's directory.
    fn config(&self, dir: &Path, args: &[&str]) -> Value {
        let mut namespaces = vec!["pid", "ipc", "uts", "mount"];
        let mut linux = json!({ "maskedPaths": MASKED, "readonlyPaths": READ_ONLY });
        // With the machine's network, a user namespace may not mount a sysfs of its own.
        let mut sysfs = mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]);
        if self.user_namespace {
            namespaces.push("user");
            let map = json!([{ "containerID": 0, "hostID": POD_IDS.0, "size": POD_IDS.1 }]);
            linux["uidMappings"] = map.clone();
            linux["gidMappings"] = map;
            sysfs = mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro"]);
        }
        linux["namespaces"] = namespaces.into_iter().map(|kind| json!({ "type": kind })).collect();
        if let Some(profile) = &self.seccomp {
            linux["seccomp"] = profile.clone();
        }
        let volume = dir.join("volume").display().to_string();
        let mut environment = vec!["PATH=/usr/bin:/bin".to_owned()];
        environment.extend(self.variables.iter().cloned());
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": self.uid, "gid": self.uid },
                "args": args,
                "env": environment,
                "cwd": self.volume,
                "capabilities": {
                    "bounding": self.capabilities,
                    "effective": self.capabilities,
                    "permitted": self.capabilities,
                },
                "noNewPrivileges": self.no_new_privileges,
            },
            "root": { "path": dir.join("merged"), "readonly": self.read_only_root },
            "hostname": "pod",
            "mounts": [
                mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
                mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
                mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
                mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
                mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
                sysfs,
                mount(&self.volume, "bind", &volume, &["rbind", "rw"]),
            ],
            "linux": linux,
        })
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

/// The programs that containers are made with.
#[derive(Debug)]
pub struct Runtime {
    runc: PathBuf,
    unshare: PathBuf,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Runtime {
    /// Finds a runtime that works here, proved by a container that does nothing in `dir`, or says why it is left out.
    #[must_use]
    pub fn find(kiln: &Path, dir: &Path, what: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            lane::left_out(what, "runc is started as root here, and the tests do not run as root");
            return None;
        }
        let runtime = Self { runc: lane::program("runc", what)?, unshare: lane::program("unshare", what)? };
        let outcome = match prepare(dir, kiln, &Container::default()) {
            Ok(()) => {
                Outcome::of(&mut runtime.command(&Container::default(), dir, &["/usr/bin/kiln", "--version"]))
            }
            Err(error) => Outcome { code: None, stdout: String::new(), stderr: error.to_string() },
        };
        if outcome.code != Some(0) {
            let why = outcome.stderr.lines().last().unwrap_or("it failed without a word").to_owned();
            lane::left_out(what, &format!("runc starts no container here: {why}"));
            return None;
        }
        Some(runtime)
    }

    /// Runs the kiln at `kiln` in a container with this volume, to its end.
    ///
    /// # Panics
    /// When the container cannot be prepared.
    #[must_use]
    pub fn kiln(&self, container: &Container, dir: &Path, kiln: &Path, args: &[&str]) -> Outcome {
        let prepared = prepare(dir, kiln, container);
        assert!(prepared.is_ok(), "cannot prepare a container in {}: {prepared:?}", dir.display());
        let mut words = vec!["/usr/bin/kiln"];
        words.extend(args);
        Outcome::of(&mut self.command(container, dir, &words))
    }

    fn command(&self, container: &Container, dir: &Path, args: &[&str]) -> Command {
        let config = container.config(dir, args);
        let written = fs::write(dir.join("config.json"), config.to_string());
        assert!(written.is_ok(), "cannot write a container's config: {written:?}");
        let id = format!("kiln-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut command = Command::new(&self.unshare);
        // The overlay goes when the container does.
        command
            .args(["--mount", "--propagation", "private", "sh", "-c"])
            .arg("mount -t overlay overlay -o lowerdir=image,upperdir=upper,workdir=work merged && exec \"$@\"")
            .args(["sh", &self.runc.display().to_string(), "--root"])
            .arg(dir.join("runc"))
            .args(["run", "--bundle"])
            .arg(dir)
            .arg(id)
            .current_dir(dir)
            .stdin(Stdio::null());
        command
    }
}

/// Makes what a container needs in `dir`; what is there already stays.
fn prepare(dir: &Path, kiln: &Path, container: &Container) -> io::Result<()> {
    for name in ["upper", "work", "merged", "volume"] {
        fs::create_dir_all(dir.join(name))?;
    }
    let image = dir.join("image");
    for name in ["dev", "etc", "proc", "sys", "tmp", "usr/bin", container.volume.trim_start_matches('/')] {
        fs::create_dir_all(image.join(name))?;
    }
    let program = image.join("usr/bin/kiln");
    if !program.exists() {
        // Capabilities are of the file, which must not be the one under test then.
        if container.file_capabilities || fs::hard_link(kiln, &program).is_err() {
            fs::copy(kiln, &program)?;
        }
        for library in needed(kiln) {
            let place = image.join(library.strip_prefix("/").unwrap_or(&library));
            fs::create_dir_all(place.parent().unwrap_or(&image))?;
            fs::copy(fs::canonicalize(&library)?, &place)?;
        }
        fs::write(image.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
        // Names are resolved as on the machine, whose network it is.
        for name in ["etc/hosts", "etc/resolv.conf"] {
            let _ = fs::copy(Path::new("/").join(name), image.join(name));
        }
    }
    if container.file_capabilities {
        rustix::fs::setxattr(&program, "security.capability", &SET_IDS, rustix::fs::XattrFlags::empty())?;
    }
    // An emptyDir is everybody's; what was put into it is the container user's, as a git-sync beside kiln would leave it.
    let owner = container.uid + if container.user_namespace { POD_IDS.0 } else { 0 };
    give(&dir.join("volume"), owner)?;
    fs::set_permissions(dir.join("volume"), fs::Permissions::from_mode(0o777))
}

/// Gives a tree away.
fn give(path: &Path, owner: u32) -> io::Result<()> {
    std::os::unix::fs::lchown(path, Some(owner), Some(owner))?;
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), owner)?;
        }
    }
    Ok(())
}
