//! What a command must not reach, and what must not outlive it.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use kiln_sandbox::{
    BuildNamespace, ExecSpec, Exit, Limit, Mount, MountKind, Network, ProcMount, Requested, ResolvedUser,
    Resource, RootDir, Sandbox, Stdio, Wish, choose,
};

use crate::attacks::abstract_sockets_stay_inside;
use crate::cases::Case;
use crate::lab::Lab;

pub(crate) const ALL: &[Case] = &[
    ("user_1000", user_1000),
    ("network_none", network_none),
    ("orphans_are_reaped", orphans_are_reaped),
    ("background_dies", background_dies),
    ("kill_kills_all", kill_kills_all),
    ("death_of_kiln_kills_all", death_of_kiln_kills_all),
    ("secret_leaves_no_trace", secret_leaves_no_trace),
    ("symlinked_proc_stays_inside", symlinked_proc_stays_inside),
    ("masked_paths", masked_paths),
    ("capabilities", capabilities),
    ("insecure_keeps_capabilities", insecure_keeps_capabilities),
    ("mount_and_unshare_fail", mount_and_unshare_fail),
    ("limits", limits),
    ("identity", identity),
    ("environment_has_no_secrets", environment_has_no_secrets),
    ("shared_proc", shared_proc),
    ("no_nested_user_namespaces", no_nested_user_namespaces),
    ("abstract_sockets_stay_inside", abstract_sockets_stay_inside),
];

fn user_1000(lab: &Lab) {
    let mut spec = lab.spec("id -u; id -g; id -G; touch /tmp/mine; touch /etc/x 2>/dev/null || echo refused; echo hi > /dev/stdout");
    spec.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1001, 7] };
    let outcome = lab.execute(&spec);
    // Users are emulated where there is one id, and what they may do is not.
    let refused = if lab.is_single() { "" } else { "refused\n" };
    assert_eq!(outcome.output, format!("1000\n1001\n1001 7\n{refused}hi\n"));
    let mine = outcome.upper.lstat(Path::new("tmp/mine")).unwrap();
    if lab.is_single() {
        return;
    }
    assert_eq!(lab.isolation.container_id(mine.uid), 1000);
}

fn network_none(lab: &Lab) {
    let mut spec = lab.spec("cat /proc/net/dev | grep : ; cat /proc/net/route");
    spec.network = Network::None;
    let output = lab.execute(&spec).output;
    let interfaces: Vec<&str> =
        output.lines().filter_map(|line| Some(line.split_once(": ")?.0.trim())).collect();
    assert_eq!(interfaces, ["lo"], "{output}");
}

fn orphans_are_reaped(lab: &Lab) {
    // Twenty orphans whose parent has gone; none may be left as a zombie.
    let script = "for i in 1 2 3 4 5 6 7 8 9 10; do sh -c 'sh -c \"exit 3\" & exit 0'; done; sleep 0.2; \
                  grep -l '^State:.Z' /proc/[0-9]*/status | grep -c .";
    assert_eq!(lab.run(script).output, "0\n");
}

fn background_dies(lab: &Lab) {
    let start = Instant::now();
    let outcome = lab.run("sleep 1000 & echo started");
    // The pipe was read to its end, so the sleeper, which held it, is gone.
    assert_eq!((outcome.exit, outcome.output.as_str()), (Exit::Code(0), "started\n"));
    assert!(start.elapsed() < Duration::from_secs(60));
}

fn kill_kills_all(lab: &Lab) {
    let (running, mut output) = lab.start(&lab.spec("sleep 1000 & echo started; sleep 1000"));
    let mut line = [0; 8];
    output.read_exact(&mut line).unwrap();
    let killer = running.killer();
    std::thread::spawn(move || killer.kill()).join().unwrap();
    assert_eq!(running.wait().unwrap().exit, Exit::Signal(9));
    assert_eq!(output.read(&mut line).unwrap(), 0, "a process still holds the output");
}

/// The role of a kiln that is killed while a command runs.
pub(crate) const HANG: &str = "--hang";

pub(crate) fn hang(namespace: &BuildNamespace, dir: &str, base: &str) -> ExitCode {
    let dir = Path::new(dir);
    let isolation = choose(Wish::of(Requested::Auto), namespace, dir).expect("choose");
    let stdout = || std::io::stdout().as_fd().try_clone_to_owned().expect("duplicate");
    let spec = ExecSpec {
        lower: vec![PathBuf::from(base)],
        upper: dir.join("upper"),
        work: dir.join("work"),
        args: ["sh", "-c", "sleep 1000 & echo started; sleep 1000"].map(OsString::from).to_vec(),
        env: vec![("PATH".into(), "/bin".into())],
        ..ExecSpec::default()
    };
    let running =
        Sandbox::spawn(&isolation, &spec, Stdio { stdout: stdout(), stderr: stdout() }).expect("spawn");
    let _ = running.wait();
    ExitCode::FAILURE
}

fn death_of_kiln_kills_all(lab: &Lab) {
    let spec = lab.spec("");
    let dir = spec.upper.parent().unwrap().to_owned();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut kiln =
        Command::new("/proc/self/exe").arg(HANG).args([&dir, &lab.base]).stdout(writer).spawn().unwrap();
    let mut line = [0; 8];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"started\n");
    kiln.kill().unwrap();
    kiln.wait().unwrap();
    assert_eq!(reader.read(&mut line).unwrap(), 0, "a process still holds the output");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(dir.to_str().unwrap()), "a mount is left");
}

fn secret_leaves_no_trace(lab: &Lab) {
    let mut spec = lab.spec("cat /run/secrets/key; stat -c %a:%u /run/secrets/key");
    let content = b"s3cret\n".to_vec();
    let kind = MountKind::File { content, mode: 0o400, uid: 0, gid: 0 };
    spec.mounts = vec![Mount { target: PathBuf::from("/run/secrets/key"), kind }];
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output, "s3cret\n400:0\n");
    assert_eq!(outcome.upper.lstat(Path::new("run/secrets/key")).unwrap().size, 0);
    assert!(outcome.stubs.ends_with(&[PathBuf::from("/run/secrets"), PathBuf::from("/run/secrets/key")]));
}

fn symlinked_proc_stays_inside(lab: &Lab) {
    let spec = lab.spec("readlink /proc; test -e /elsewhere/self/status && echo inside");
    let upper = RootDir::open(&spec.upper).unwrap();
    upper.symlink(Path::new("/../../elsewhere"), Path::new("proc")).unwrap();
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output, "/../../elsewhere\ninside\n");
    assert!(outcome.stubs.contains(&PathBuf::from("/elsewhere")), "{:?}", outcome.stubs);
}

fn masked_paths(lab: &Lab) {
    let outcome = lab.run(
        "cat /proc/keys /proc/interrupts; cat /proc/kcore /proc/timer_list 2>/dev/null; ls /sys/firmware; \
         echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro; echo h 2>/dev/null > /proc/sysrq-trigger || echo ro; \
         mkdir /sys/x 2>/dev/null || echo ro",
    );
    assert_eq!(outcome.output, "ro\nro\nro\n");
}

fn capabilities(lab: &Lab) {
    let output = lab.run("grep -E '^(Cap|Seccomp:|NoNewPrivs)' /proc/self/status").output;
    let expect = "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\n\
                  CapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n";
    assert_eq!(output, expect);
}

fn insecure_keeps_capabilities(lab: &Lab) {
    let mut spec =
        lab.spec("mkdir /m && mount -t tmpfs x /m && echo mounted; grep Seccomp: /proc/self/status");
    spec.insecure = true;
    let output = lab.execute(&spec).output;
    assert!(output.starts_with("mounted\nSeccomp:"), "{output}");
}

fn mount_and_unshare_fail(lab: &Lab) {
    let output = lab
        .run("mkdir /m; mount -t tmpfs x /m || echo no mount; unshare -U true || echo no namespace")
        .output;
    assert!(output.contains("no mount\n") && output.contains("no namespace\n"), "{output}");
    assert!(
        output.to_lowercase().contains("operation not permitted") || output.contains("ermission denied"),
        "{output}"
    );
}

fn limits(lab: &Lab) {
    let mut spec = lab.spec("ulimit -n; ulimit -Hn");
    spec.limits = vec![
        Limit { resource: Resource::Nofile, soft: Some(100), hard: Some(200) },
        Limit { resource: Resource::Core, soft: None, hard: None },
    ];
    assert_eq!(lab.execute(&spec).output, "100\n200\n");
}

fn identity(lab: &Lab) {
    let mut spec = lab.spec("uname -n; echo $$; cat /proc/self/oom_score_adj; ls /proc/self/fd | grep -c .");
    spec.hostname = "builder".to_owned();
    let output = lab.execute(&spec).output;
    // 0, 1, 2 and the listing itself: nothing of kiln leaks.
    assert_eq!(output, "builder\n2\n500\n4\n");
}

fn environment_has_no_secrets(lab: &Lab) {
    let output = lab.run("env; cat /proc/1/environ 2>/dev/null; cat /proc/1/cmdline").output;
    assert!(!output.contains("CARGO") && !output.contains("HOME"), "{output}");
}

/// Where the kernel refuses a new `/proc`, the surrounding one must do.
fn shared_proc(lab: &Lab) {
    let mut other = lab.isolation.clone();
    other.proc = ProcMount::Rbind;
    let spec = lab.spec("readlink /proc/self/fd/0; echo x > /dev/stdout; cat /proc/interrupts; echo 1 2>/dev/null > /proc/sys/kernel/panic || echo ro");
    let (running, mut output) = lab.start_in(&other, &spec);
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    assert_eq!(running.wait().unwrap().exit, Exit::Code(0));
    assert_eq!(text, "/dev/null\nx\nro\n");
}

fn no_nested_user_namespaces(lab: &Lab) {
    assert_eq!(lab.run("cat /proc/sys/user/max_user_namespaces").output, "0\n");
}
