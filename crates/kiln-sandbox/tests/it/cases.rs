//! Commands in a sandbox.

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_sandbox::rootdir::{Kind, Node};
use kiln_sandbox::{ExecSpec, Exit, Mount, MountKind, RootDir, Sandbox, Stdio};

use crate::lab::Lab;

pub(crate) type Case = (&'static str, fn(&Lab));

pub(crate) const ALL: &[Case] = &[
    ("hello", hello),
    ("exit_code", exit_code),
    ("signal", signal),
    ("upper_holds_the_new_file_only", upper_holds_the_new_file_only),
    ("deletion_is_a_whiteout", deletion_is_a_whiteout),
    ("recreated_directory_is_opaque", recreated_directory_is_opaque),
    ("no_layers", no_layers),
    ("five_hundred_layers", five_hundred_layers),
    ("owner_33", owner_33),
    ("file_owners_seen_inside", file_owners_seen_inside),
    ("resolv_conf_is_a_stub", resolv_conf_is_a_stub),
    ("dangling_resolv_conf", dangling_resolv_conf),
    ("bind_read_only", bind_read_only),
    ("bind_writes_through", bind_writes_through),
    ("overlay_dir_is_discarded", overlay_dir_is_discarded),
    ("overlay_dir_read_only", overlay_dir_read_only),
    ("tmpfs", tmpfs),
    ("not_found", not_found),
    ("not_executable", not_executable),
    ("missing_interpreter", missing_interpreter),
    ("devices", devices),
    ("working_directory", working_directory),
    ("failure_names_step_and_path", failure_names_step_and_path),
    ("closed_store_directory", closed_store_directory),
    ("overhead", overhead),
];

fn hello(lab: &Lab) {
    let outcome = lab.run("echo hello; echo there >&2");
    assert_eq!((outcome.exit, outcome.output.as_str()), (Exit::Code(0), "hello\nthere\n"));
}

fn exit_code(lab: &Lab) {
    assert_eq!(lab.run("exit 42").exit, Exit::Code(42));
}

fn signal(lab: &Lab) {
    assert_eq!(lab.run("kill -TERM $$").exit, Exit::Signal(15));
}

fn upper_holds_the_new_file_only(lab: &Lab) {
    let outcome = lab.run("echo x > /new");
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.output);
    assert_eq!(outcome.changed(), ["new"]);
    // The parent of the stubs keeps the time it had.
    assert!(outcome.stubs.contains(&PathBuf::from("/proc")), "{:?}", outcome.stubs);
}

fn deletion_is_a_whiteout(lab: &Lab) {
    let outcome = lab.run("rm /data/old");
    let whiteout = outcome.upper.lstat(Path::new("data/old")).unwrap();
    assert!(whiteout.is_whiteout(), "{whiteout:?}");
}

fn recreated_directory_is_opaque(lab: &Lab) {
    let outcome = lab.run("rm -r /data/sub && mkdir /data/sub");
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.output);
    let xattrs = outcome.upper.xattrs(Path::new("data/sub")).unwrap();
    assert_eq!(xattrs.get(OsStr::new("user.overlay.opaque")).map(Vec::as_slice), Some(b"y".as_slice()));
}

fn no_layers(lab: &Lab) {
    let mut spec = lab.spec("");
    let static_tool = static_true(lab);
    let Some(tool) = static_tool else {
        return println!("  left out: no_layers, because no static program is here");
    };
    spec.lower.clear();
    spec.args = vec![OsString::from("/true")];
    std::fs::copy(tool, spec.upper.join("true")).unwrap();
    assert_eq!(lab.execute(&spec).exit, Exit::Code(0));
}

/// Makes a static program that exits with 0 at once, if there is a C compiler.
fn static_true(lab: &Lab) -> Option<PathBuf> {
    let path = lab.store.join("static-true");
    if path.exists() {
        return Some(path);
    }
    let mut compiler = Command::new("cc")
        .args(["-static", "-O1", "-x", "c", "-o"])
        .arg(&path)
        .arg("-")
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .ok()?;
    compiler.stdin.take()?.write_all(b"int main(void){return 0;}").ok()?;
    compiler.wait().ok()?.success().then_some(path)
}

fn five_hundred_layers(lab: &Lab) {
    let mut spec = lab.spec("cat /layer");
    let layers = spec.upper.with_file_name("layers");
    let mut stack = Vec::new();
    for number in 0..499 {
        let dir = layers.join(number.to_string());
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("layer"), format!("{number}\n")).unwrap();
        stack.push(dir);
    }
    stack.append(&mut spec.lower);
    spec.lower = stack;
    assert_eq!(lab.execute(&spec).output, "0\n");
}

fn owner_33(lab: &Lab) {
    let outcome = lab.run("echo x > /new && chown 33:34 /new && stat -c %u:%g /new");
    assert_eq!(outcome.output, "33:34\n");
    if lab.is_single() {
        // The disk shows the one id; the record is read by whoever packs the layer.
        let xattrs = outcome.upper.xattrs(Path::new("new")).unwrap();
        assert_eq!(xattrs.get(OsStr::new("user.kiln.owner")).map(Vec::as_slice), Some(b"33:34".as_slice()));
        return;
    }
    let new = outcome.upper.lstat(Path::new("new")).unwrap();
    assert_eq!((lab.isolation.container_id(new.uid), lab.isolation.container_id(new.gid)), (33, 34));
    let root = outcome.upper.lstat(Path::new("")).unwrap();
    assert_eq!(lab.isolation.container_id(root.uid), 0);
}

fn file_owners_seen_inside(lab: &Lab) {
    let spec = lab.spec("stat -c %u:%g:%n / /data/old /mine");
    std::fs::write(spec.upper.join("mine"), "").unwrap();
    let owner = lab.isolation.disk_id(5);
    std::os::unix::fs::chown(spec.upper.join("mine"), Some(owner), Some(owner)).unwrap();
    let seen = if lab.is_single() { 0 } else { 5 };
    assert_eq!(lab.execute(&spec).output, format!("0:0:/\n0:0:/data/old\n{seen}:{seen}:/mine\n"));
}

fn resolv_conf_is_a_stub(lab: &Lab) {
    let mut spec = lab.spec("cat /etc/resolv.conf; stat -c %u:%a /etc/resolv.conf; echo x 2>/dev/null > /etc/resolv.conf || echo ro");
    spec.readonly_files = vec![(PathBuf::from("/etc/resolv.conf"), b"nameserver 1.1.1.1\n".to_vec())];
    let before = std::fs::metadata(lab.base.join("etc")).unwrap().modified().unwrap();
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output.lines().next(), Some("nameserver 1.1.1.1"));
    assert!(outcome.output.contains("0:644\n"), "{}", outcome.output);
    assert!(outcome.output.ends_with("ro\n"), "{}", outcome.output);
    assert!(outcome.stubs.contains(&PathBuf::from("/etc/resolv.conf")), "{:?}", outcome.stubs);
    assert_eq!(outcome.upper.lstat(Path::new("etc/resolv.conf")).unwrap().size, 0);
    let after = std::fs::metadata(spec.upper.join("etc")).unwrap().modified().unwrap();
    assert_eq!(before, after, "the stub changed the time of its directory");
}

fn dangling_resolv_conf(lab: &Lab) {
    let mut spec = lab.spec("cat /etc/resolv.conf");
    let upper = RootDir::open(&spec.upper).unwrap();
    upper.create_dir_all(Path::new("etc"), 0o755).unwrap();
    upper.symlink(Path::new("../run/systemd/resolve/stub.conf"), Path::new("etc/resolv.conf")).unwrap();
    let owner = lab.isolation.disk_id(0);
    upper.chown(Path::new("etc"), owner, owner).unwrap();
    spec.readonly_files = vec![(PathBuf::from("/etc/resolv.conf"), b"found\n".to_vec())];
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output, "found\n");
    for stub in ["/run/systemd", "/run/systemd/resolve", "/run/systemd/resolve/stub.conf"] {
        assert!(outcome.stubs.contains(&PathBuf::from(stub)), "{:?}", outcome.stubs);
    }
}

fn shared_dir(lab: &Lab, spec: &ExecSpec) -> PathBuf {
    let dir = spec.upper.with_file_name("shared");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("file"), "shared\n").unwrap();
    let owner = lab.isolation.disk_id(0);
    for path in [dir.join("file"), dir.clone()] {
        std::os::unix::fs::chown(path, Some(owner), Some(owner)).unwrap();
    }
    dir
}

fn with_bind(lab: &Lab, script: &str, readonly: bool) -> (String, PathBuf) {
    let mut spec = lab.spec(script);
    let source = shared_dir(lab, &spec);
    let kind = MountKind::Bind { source: source.clone(), readonly, recursive: false };
    spec.mounts = vec![Mount { target: PathBuf::from("/mnt/here"), kind }];
    (lab.execute(&spec).output, source)
}

fn bind_read_only(lab: &Lab) {
    let (output, source) =
        with_bind(lab, "cat /mnt/here/file; touch /mnt/here/x 2>/dev/null || echo refused", true);
    assert_eq!(output, "shared\nrefused\n");
    assert!(!source.join("x").exists());
}

fn bind_writes_through(lab: &Lab) {
    let (output, source) = with_bind(lab, "echo new > /mnt/here/x && stat -c %u /mnt/here/x", false);
    assert_eq!(output, "0\n");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(source.join("x")).unwrap());
    assert_eq!(lab.isolation.container_id(owner), 0);
}

fn overlay_dir_is_discarded(lab: &Lab) {
    let mut spec =
        lab.spec("cat /mnt/o/file; echo x > /mnt/o/new && cat /mnt/o/new; rm /mnt/o/file; echo y > /mnt/e/y");
    let source = shared_dir(lab, &spec);
    spec.mounts = vec![
        Mount {
            target: PathBuf::from("/mnt/o"),
            kind: MountKind::OverlayDir { lower: vec![source.clone()], readonly: false },
        },
        Mount {
            target: PathBuf::from("/mnt/e"),
            kind: MountKind::OverlayDir { lower: Vec::new(), readonly: false },
        },
    ];
    let outcome = lab.execute(&spec);
    assert_eq!((outcome.exit, outcome.output.as_str()), (Exit::Code(0), "shared\nx\n"));
    assert!(source.join("file").exists() && !source.join("new").exists());
    assert!(outcome.changed().is_empty(), "{:?}", outcome.changed());
}

fn overlay_dir_read_only(lab: &Lab) {
    let mut spec =
        lab.spec("cat /mnt/o/file; touch /mnt/o/new || echo refused; touch /f/file || echo refused");
    let source = shared_dir(lab, &spec);
    let kind = MountKind::OverlayDir { lower: vec![source], readonly: true };
    let file = MountKind::File { content: b"secret".to_vec(), mode: 0o644, uid: 0, gid: 0 };
    spec.mounts = vec![
        Mount { target: PathBuf::from("/mnt/o"), kind },
        Mount { target: PathBuf::from("/f/file"), kind: file },
    ];
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output.matches("refused").count(), 2, "{}", outcome.output);
    assert!(outcome.output.starts_with("shared\n"), "{}", outcome.output);
    assert!(!format!("{spec:?}").contains("secret"));
}

fn tmpfs(lab: &Lab) {
    let mut spec =
        lab.spec("stat -c %a /scratch; echo x > /scratch/x; touch /closed/x 2>/dev/null || echo refused");
    let memory = |readonly| MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777, readonly };
    spec.mounts = vec![
        Mount { target: PathBuf::from("/scratch"), kind: memory(false) },
        Mount { target: PathBuf::from("/closed"), kind: memory(true) },
    ];
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output, "1777\nrefused\n");
    assert!(outcome.changed().is_empty(), "{:?}", outcome.changed());
}

fn with_args(lab: &Lab, args: &[&str], prepare: impl FnOnce(&RootDir)) -> (Exit, String) {
    let mut spec = lab.spec("");
    spec.args = args.iter().map(OsString::from).collect();
    prepare(&RootDir::open(&spec.upper).unwrap());
    let outcome = lab.execute(&spec);
    (outcome.exit, outcome.output)
}

fn not_found(lab: &Lab) {
    let (exit, output) = with_args(lab, &["no-such"], |_| {});
    assert_eq!(
        (exit, output.as_str()),
        (Exit::Code(127), "kiln: cannot run `no-such`: not found in PATH `/bin`\n")
    );
    assert_eq!(with_args(lab, &["/no/such"], |_| {}).0, Exit::Code(127));
}

fn write_script(root: &RootDir, name: &str, content: &str, mode: u32) {
    root.create_file(Path::new(name), mode).unwrap().write_all(content.as_bytes()).unwrap();
}

fn not_executable(lab: &Lab) {
    let (exit, output) =
        with_args(lab, &["/plain"], |root| write_script(root, "plain", "#!/bin/sh\n", 0o644));
    assert_eq!(exit, Exit::Code(126), "{output}");
    let (exit, output) = with_args(lab, &["/text"], |root| write_script(root, "text", "hello\n", 0o755));
    assert_eq!(exit, Exit::Code(126));
    assert!(output.contains("#!/bin/sh"), "{output}");
}

fn missing_interpreter(lab: &Lab) {
    let (exit, output) =
        with_args(lab, &["/script"], |root| write_script(root, "script", "#!/usr/bin/python9 -u\n", 0o755));
    assert_eq!(exit, Exit::Code(127));
    assert!(output.contains("`/usr/bin/python9`, which the image lacks"), "{output}");
    let mut spec = lab.spec("");
    spec.lower.clear();
    spec.args = vec![OsString::from("/true")];
    std::fs::copy("/bin/true", spec.upper.join("true")).unwrap();
    let output = lab.execute(&spec).output;
    assert!(output.contains("ld-linux"), "{output}");
}

fn devices(lab: &Lab) {
    let outcome = lab.run(
        "echo x > /dev/null && echo out > /dev/stdout && echo err > /dev/stderr && readlink /dev/fd && test -c /dev/tty && test -c /dev/urandom && test -e /dev/pts/ptmx && \
         stat -c %a /dev/shm && test -d /dev/mqueue && cat < /dev/stdin && echo ok",
    );
    assert_eq!(
        (outcome.exit, outcome.output.as_str()),
        (Exit::Code(0), "out\nerr\n/proc/self/fd\n1777\nok\n")
    );
}

fn working_directory(lab: &Lab) {
    let mut spec = lab.spec("pwd; stat -c %u .");
    spec.cwd = PathBuf::from("/made/here");
    assert_eq!(lab.execute(&spec).output, "/made/here\n0\n");
}

fn failure_names_step_and_path(lab: &Lab) {
    let mut spec = lab.spec("true");
    spec.lower.push(PathBuf::from("/no/such/layer"));
    let (_reader, writer) = std::io::pipe().unwrap();
    let stdio = Stdio { stdout: writer.try_clone().unwrap().into(), stderr: writer.into() };
    let error = Sandbox::spawn(&lab.isolation, &spec, stdio).unwrap_err();
    assert_eq!(error.to_string(), "cannot open for the sandbox `/no/such/layer`: no such file or directory");
}

fn closed_store_directory(lab: &Lab) {
    let spec = lab.spec("echo fine");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(spec.upper.parent().unwrap(), mode).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&lab.store, mode).unwrap();
    assert_eq!(lab.execute(&spec).output, "fine\n");
    let node = RootDir::open(&spec.upper).unwrap();
    node.mknod(Path::new("gone"), Node::Whiteout, 0).unwrap();
    assert_eq!(node.lstat(Path::new("gone")).unwrap().kind, Kind::CharacterDevice);
}

/// Prints what a command costs above being started plainly.
fn overhead(lab: &Lab) {
    let (command, name) = match static_true(lab) {
        Some(path) => (path, "static"),
        None => (PathBuf::from("/bin/true"), "dynamic"),
    };
    std::fs::copy(&command, lab.base.join("bin/bench-true")).unwrap();
    let median = |run: &dyn Fn()| {
        let mut times: Vec<Duration> = (0..50)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        (times[0], times[25])
    };
    let (plain_min, plain) = median(&|| {
        Command::new(&command).env_clear().status().unwrap();
    });
    let specs: Vec<ExecSpec> = (0..50)
        .map(|_| {
            let mut spec = lab.spec("");
            spec.args = vec![OsString::from("/bin/bench-true")];
            spec
        })
        .collect();
    let next = std::cell::Cell::new(0);
    let (boxed_min, boxed) = median(&|| {
        let spec = &specs[next.replace(next.get() + 1)];
        let null = || OwnedFd::from(std::fs::File::options().write(true).open("/dev/null").unwrap());
        let stdio = Stdio { stdout: null(), stderr: null() };
        let finished = Sandbox::spawn(&lab.isolation, spec, stdio).unwrap().wait().unwrap();
        assert_eq!(finished.exit, Exit::Code(0));
    });
    println!(
        "  overhead of a {name} `true`: plain {plain:?} (min {plain_min:?}), in the sandbox {boxed:?} (min {boxed_min:?})"
    );
    let _ = std::fs::remove_file(lab.base.join("bin/bench-true"));
}
