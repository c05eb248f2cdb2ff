//! Commands in another root directory that try to get out of it, with the capabilities that a default container gives to root.
//!
//! Every attempt of `attacks.c` must be refused, and each is asserted by its name: that it was tried counts, too.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_sandbox::{ExecSpec, Exit, Mode};

use crate::cases::Case;
use crate::lab::Lab;

pub(crate) const ALL: &[Case] = &[
    ("paths_outside_do_not_exist", paths_outside_do_not_exist),
    ("chroot_again_leads_nowhere", chroot_again_leads_nowhere),
    ("dot_dot_leads_nowhere", dot_dot_leads_nowhere),
    ("no_disk_can_be_opened", no_disk_can_be_opened),
    ("memory_of_kiln_is_closed", memory_of_kiln_is_closed),
    ("signals_stay_inside", signals_stay_inside),
    ("abstract_sockets_stay_inside", abstract_sockets_stay_inside),
    ("privileges_are_dropped", privileges_are_dropped),
    ("daemons_do_not_stay", daemons_do_not_stay),
    ("death_of_kiln_ends_the_command", death_of_kiln_ends_the_command),
];

const CREDENTIAL: &str = "{\"auth\":\"registry-password\"}";

/// A value in kiln's memory that is not to be read.
static IN_MEMORY: [u8; 64] = *b"memory-secret-memory-secret-memory-secret-memory-secret-memory-s";

/// What an attempt printed.
struct Attempt {
    output: String,
}

impl Attempt {
    /// Asserts that everything in `names` was tried and refused.
    fn refused(&self, names: &[&str]) {
        assert!(!self.output.contains("DONE"), "{}", self.output);
        for name in names {
            assert!(
                self.output.contains(&format!("refused {name}:")),
                "{name} was not tried:\n{}",
                self.output
            );
        }
    }
}

/// Compiles the attempts, once; `None` where there is no compiler.
fn program(lab: &Lab) -> Option<PathBuf> {
    let path = lab.store.join("attacks");
    if !path.exists() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/attacks.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-O1", "-w", "-o"]).arg(&path).arg(source);
        if !compiler.status().is_ok_and(|status| status.success()) {
            println!("  left out: there is no C compiler that makes static programs");
            return None;
        }
    }
    Some(path)
}

/// Returns a file of the machine as kiln's credentials would be.
fn credential(lab: &Lab) -> PathBuf {
    let path = lab.store.join("config.json");
    std::fs::write(&path, CREDENTIAL).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// Returns a step that runs an attempt: over the base, or where there is no overlay, in a root of its own.
fn spec(lab: &Lab, program: &Path, args: &[&str]) -> ExecSpec {
    let chroot = lab.isolation.mode == Mode::Chroot;
    let mut spec = if chroot { lab.whole_root("") } else { lab.spec("") };
    std::fs::copy(program, spec.upper.join("attack")).unwrap();
    spec.args = ["/attack"].iter().chain(args).map(OsString::from).collect();
    spec
}

fn attempt(lab: &Lab, args: &[&str]) -> Option<Attempt> {
    let spec = spec(lab, &program(lab)?, args);
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.output);
    Some(Attempt { output: outcome.output })
}

fn unchanged(path: &Path) {
    assert_eq!(std::fs::read_to_string(path).unwrap(), CREDENTIAL);
    assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o600);
}

fn paths_outside_do_not_exist(lab: &Lab) {
    let path = credential(lab);
    if let Some(attempt) = attempt(lab, &["path", path.to_str().unwrap()]) {
        attempt.refused(&["read", "write", "chmod", "stat"]);
        unchanged(&path);
    }
}

fn chroot_again_leads_nowhere(lab: &Lab) {
    let path = credential(lab);
    if let Some(attempt) = attempt(lab, &["chroot-again", path.to_str().unwrap()]) {
        // Without the right to change the root, `write above` lands in the root itself.
        let output = attempt.output.replace("DONE write above", "");
        Attempt { output }.refused(&["chroot", "read above"]);
        assert!(!Path::new("/kiln-attack").exists());
        unchanged(&path);
    }
}

fn dot_dot_leads_nowhere(lab: &Lab) {
    let path = credential(lab);
    if let Some(attempt) = attempt(lab, &["dot-dot", path.to_str().unwrap()]) {
        let output = attempt.output.replace("DONE write above", "");
        Attempt { output }.refused(&["read above", "openat"]);
        assert!(!Path::new("/kiln-attack").exists());
    }
}

fn no_disk_can_be_opened(lab: &Lab) {
    if let Some(attempt) = attempt(lab, &["device"]) {
        attempt.refused(&["mknod of a disk", "open of a disk", "mknod of memory"]);
    }
}

fn memory_of_kiln_is_closed(lab: &Lab) {
    let kiln = std::process::id().to_string();
    let address = format!("{:#x}", IN_MEMORY.as_ptr().addr());
    if let Some(attempt) = attempt(lab, &["memory", "/", &kiln, &address]) {
        assert!(!attempt.output.contains("memory-secret"), "{}", attempt.output);
        attempt.refused(&[
            "process_vm_readv",
            "process_vm_writev",
            "ptrace",
            "ptrace of the parent",
            "open of its memory",
            "its environment",
            "pidfd_getfd",
        ]);
    }
}

/// A process of the machine that has nothing to do with the command.
struct Bystander(Child);

impl Bystander {
    fn new() -> Self {
        Self(Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("run sleep"))
    }

    fn id(&self) -> String {
        self.0.id().to_string()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn signals_stay_inside(lab: &Lab) {
    if lab.lacks("signals") {
        return println!("  left out: this kernel's Landlock cannot confine signals");
    }
    let mut bystander = Bystander::new();
    if let Some(attempt) = attempt(lab, &["signal", "/", &bystander.id()]) {
        attempt.refused(&["kill", "kill of the parent", "tgkill", "pidfd_send_signal", "prlimit"]);
    }
    assert!(bystander.lives());
}

pub(crate) fn abstract_sockets_stay_inside(lab: &Lab) {
    use std::os::linux::net::SocketAddrExt as _;
    if lab.lacks("abstract sockets") {
        return println!("  left out: this kernel's Landlock cannot confine sockets");
    }
    let name = format!("kiln-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listener = UnixListener::bind_addr(&address).unwrap();
    if let Some(attempt) = attempt(lab, &["abstract", &name]) {
        attempt.refused(&["connect"]);
    }
}

fn privileges_are_dropped(lab: &Lab) {
    if let Some(attempt) = attempt(lab, &["privilege"]) {
        attempt.refused(&["mount", "unshare", "packet socket", "open_by_handle_at"]);
    }
    let mut spec = lab.whole_root("exec cat /status");
    spec.user.uid = 1000;
    // Nothing tells a process its capabilities without a /proc, but what they let it do does.
    spec.args = ["sh", "-c", "chown 0 /data/old 2>/dev/null || echo refused"].map(OsString::from).to_vec();
    assert_eq!(lab.execute(&spec).output, "refused\n");
}

/// A process may be gone, or only not collected yet by whoever adopted it.
fn is_gone(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn daemons_do_not_stay(lab: &Lab) {
    if let Some(attempt) = attempt(lab, &["daemon"]) {
        let pids: Vec<&str> = attempt.output.lines().collect();
        assert_eq!(pids.len(), 3, "{}", attempt.output);
        for pid in pids {
            assert!(is_gone(pid), "{pid} lives on");
        }
    }
}

/// Ends the caller of a command at once, as `kill -9` would, and asserts that the command goes with it and the secret, too.
fn death_of_kiln_ends_the_command(lab: &Lab) {
    let spec = lab.whole_root("");
    let binary = std::env::current_exe().unwrap();
    let dir = spec.upper.parent().unwrap();
    let mut kiln =
        Command::new(binary).args([HANG, dir.to_str().unwrap()]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = kiln.stdout.take().unwrap();
    let mut text = [0; 64];
    let length = std::io::Read::read(&mut output, &mut text).unwrap();
    let pid = String::from_utf8_lossy(&text[..length]).trim().to_owned();
    // Afterwards the empty file is there that was made to have a place.
    let secret = || std::fs::read(spec.upper.join("run/secret")).unwrap_or_default();
    assert_eq!(secret(), b"secret", "the command had no secret");
    assert!(!is_gone(&pid));
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    let held = || std::fs::read_dir(spec.work.join("held")).unwrap().count();
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_gone(&pid) || !secret().is_empty() || held() > 0 {
        assert!(Instant::now() < deadline, "the command or its secret outlived kiln");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The role of a kiln that is killed while a command runs.
pub(crate) const HANG: &str = "--chroot-hang";

pub(crate) fn hang(dir: &str) -> std::process::ExitCode {
    use kiln_sandbox::{Mount, MountKind, Requested, Sandbox, Wish, choose, enter_build_namespace};
    let dir = Path::new(dir);
    let namespace = enter_build_namespace(Requested::Chroot).unwrap();
    let isolation = choose(Wish::of(Requested::Chroot), &namespace, dir).unwrap();
    let content = b"secret".to_vec();
    let kind = MountKind::File { content, mode: 0o400, uid: 0, gid: 0 };
    let spec = ExecSpec {
        upper: dir.join("upper"),
        work: dir.join("work"),
        args: ["sh", "-c", "echo $$; exec sleep 1000"].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/bin".into())],
        mounts: vec![Mount { target: "/run/secret".into(), kind }],
        ..ExecSpec::default()
    };
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdio = kiln_sandbox::Stdio { stdout: writer.try_clone().unwrap().into(), stderr: writer.into() };
    let running = Sandbox::spawn(&isolation, &spec, stdio).unwrap();
    let mut text = [0; 64];
    let length = std::io::Read::read(&mut reader, &mut text).unwrap();
    std::io::stdout().write_all(&text[..length]).unwrap();
    drop(running.wait());
    std::process::ExitCode::FAILURE
}
