//! Commands in another root directory: what they get, and that nothing of it stays.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_sandbox::{ExecSpec, Exit, Mount, MountKind, Network, ResolvedUser, Sandbox, Stdio};

use crate::cases::Case;
use crate::lab::Lab;

pub(crate) const ALL: &[Case] = &[
    ("owners_are_exact", owners_are_exact),
    ("devices_work_and_go", devices_work_and_go),
    ("files_of_the_image_come_back", files_of_the_image_come_back),
    ("symlinks_of_the_image_stay_inside", symlinks_of_the_image_stay_inside),
    ("secret_file_is_there_and_goes", secret_file_is_there_and_goes),
    ("cache_is_lent", cache_is_lent),
    ("streams_have_their_names", streams_have_their_names),
    ("processes_see_themselves_and_no_others", processes_see_themselves_and_no_others),
    ("users_open_what_they_may", users_open_what_they_may),
    ("the_machine_has_the_steps_name", the_machine_has_the_steps_name),
    ("no_directory_of_proc_is_handed_over", no_directory_of_proc_is_handed_over),
    ("network_none", network_none),
    ("what_cannot_be_kept_is_refused", what_cannot_be_kept_is_refused),
    ("kill_kills_all", kill_kills_all),
    ("signals_and_codes", signals_and_codes),
    ("overhead", overhead),
];

fn run(lab: &Lab, script: &str) -> (ExecSpec, String) {
    run_with(lab, script, |_| {})
}

fn run_with(lab: &Lab, script: &str, prepare: impl FnOnce(&mut ExecSpec)) -> (ExecSpec, String) {
    let mut spec = lab.whole_root(script);
    prepare(&mut spec);
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.exit, Exit::Code(0), "{}", outcome.output);
    let left = std::fs::read_dir(spec.work.join("held")).unwrap().count();
    assert_eq!(left, 0, "something is held back");
    (spec, outcome.output)
}

fn owners_are_exact(lab: &Lab) {
    let script =
        "echo x > /new && chown 33:50 /new && chmod 4755 /new && cp /bin/cat /c && setcap cap_net_raw+ep /c";
    let (spec, output) = run(lab, script);
    assert_eq!(output, "");
    let new = std::fs::metadata(spec.upper.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid(), new.mode() & 0o7777), (33, 50, 0o4755));
    let root = kiln_sandbox::RootDir::open(&spec.upper).unwrap();
    assert!(root.xattrs(Path::new("c")).unwrap().contains_key(&OsString::from("security.capability")));
    let (_, output) = run_with(lab, "id -u; id -G; touch /etc/x 2>/dev/null || echo refused", |spec| {
        spec.user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1001, 7] };
    });
    assert_eq!(output, "1000\n1001 7\nrefused\n");
}

fn devices_work_and_go(lab: &Lab) {
    let script = "echo x > /dev/null && test -c /dev/urandom && echo y > /dev/shm/y && echo z > /dev/mine && ls /proc /sys && stat -c %a /dev/shm";
    let (spec, output) = run(lab, script);
    assert_eq!(output, "/proc:\n\n/sys:\n1777\n");
    // Made to have a place for them, and still empty.
    for stub in ["dev", "proc", "sys"] {
        assert_eq!(std::fs::read_dir(spec.upper.join(stub)).unwrap().count(), 0, "{stub}");
    }
}

fn files_of_the_image_come_back(lab: &Lab) {
    let before = |spec: &mut ExecSpec| {
        std::fs::write(spec.upper.join("etc/resolv.conf"), "the image's\n").unwrap();
        std::fs::create_dir(spec.upper.join("dev")).unwrap();
        std::fs::write(spec.upper.join("dev/file"), "").unwrap();
        spec.readonly_files = vec![
            (PathBuf::from("/etc/resolv.conf"), b"nameserver 1.1.1.1\n".to_vec()),
            (PathBuf::from("/etc/hosts"), b"127.0.0.1 localhost\n".to_vec()),
        ];
    };
    let script = "cat /etc/resolv.conf /etc/hosts; echo changed > /etc/resolv.conf; rm /etc/hosts; ls /dev/file 2>/dev/null || echo covered";
    let (spec, output) = run_with(lab, script, before);
    assert_eq!(output, "nameserver 1.1.1.1\n127.0.0.1 localhost\ncovered\n");
    assert_eq!(std::fs::read_to_string(spec.upper.join("etc/resolv.conf")).unwrap(), "the image's\n");
    assert!(spec.upper.join("dev/file").exists());
    assert_eq!(std::fs::metadata(spec.upper.join("etc/hosts")).unwrap().len(), 0, "a stub is empty");
}

fn symlinks_of_the_image_stay_inside(lab: &Lab) {
    let outside = lab.store.join("outside");
    let _ = std::fs::create_dir(&outside);
    let (spec, output) = run_with(lab, "cat /etc/resolv.conf; cat /data/link/f", |spec| {
        std::os::unix::fs::symlink("/", spec.upper.join("proc")).unwrap_or_default();
        std::fs::remove_file(spec.upper.join("proc")).unwrap();
        std::os::unix::fs::symlink(&outside, spec.upper.join("proc")).unwrap();
        std::os::unix::fs::symlink(&outside, spec.upper.join("data/link")).unwrap();
        std::os::unix::fs::symlink("../../../run/resolve/stub", spec.upper.join("etc/resolv.conf")).unwrap();
        spec.readonly_files = vec![
            (PathBuf::from("/etc/resolv.conf"), b"found\n".to_vec()),
            (PathBuf::from("/data/link/f"), b"inside\n".to_vec()),
        ];
    });
    assert_eq!(output, "found\ninside\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "the scaffolding left the root");
    assert!(spec.upper.join("etc/resolv.conf").is_symlink() && spec.upper.join("data/link").is_symlink());
}

fn secret_file_is_there_and_goes(lab: &Lab) {
    let (spec, output) =
        run_with(lab, "cat /run/secrets/token && stat -c %u:%a /run/secrets/token", |spec| {
            let kind = MountKind::File { content: b"hush\n".to_vec(), mode: 0o400, uid: 5, gid: 5 };
            spec.mounts = vec![Mount { target: PathBuf::from("/run/secrets/token"), kind }];
        });
    assert_eq!(output, "hush\n5:400\n");
    let token = spec.upper.join("run/secrets/token");
    assert_eq!(std::fs::metadata(&token).unwrap().len(), 0, "the secret stayed");
}

fn cache_is_lent(lab: &Lab) {
    let cache = lab.store.join("cache");
    std::fs::create_dir(&cache).unwrap();
    std::fs::write(cache.join("old"), "old\n").unwrap();
    let (spec, output) = run_with(lab, "cat /var/cache/old; echo new > /var/cache/new", |spec| {
        let kind = MountKind::Bind { source: cache.clone(), readonly: false, recursive: false };
        spec.mounts = vec![Mount { target: PathBuf::from("/var/cache"), kind }];
    });
    assert_eq!(output, "old\n");
    assert_eq!(std::fs::read_to_string(cache.join("new")).unwrap(), "new\n");
    assert_eq!(std::fs::read_dir(spec.upper.join("var/cache")).unwrap().count(), 0);
}

/// Runs a script in the shell that has more ways to use `/dev/fd` than others.
fn in_bash(lab: &Lab, script: &str, prepare: impl FnOnce(&mut ExecSpec)) -> Option<String> {
    let Ok(bash) = std::fs::canonicalize("/bin/bash") else {
        println!("  left out: no bash here");
        return None;
    };
    let (_, output) = run_with(lab, "", |spec| {
        lab.add_program(&spec.upper, &bash);
        spec.args = ["/bin/bash", "-c", script].map(OsString::from).to_vec();
        prepare(spec);
    });
    Some(output)
}

fn streams_have_their_names(lab: &Lab) {
    let script = "echo out > /dev/stdout; echo err > /dev/stderr; echo in | cat /dev/stdin; echo file > /f; cat /dev/fd/3 3< /f; \
                  cat <(echo substituted); cp /dev/stdin /copied < /f && cat /copied; test -e /dev/fd/1 && test ! -e /dev/fd/77 && \
                  echo known; : > /dev/stdout && cat < /dev/stdin && stat -L -c %F /dev/stdin";
    let expect = "out\nerr\nin\nfile\nsubstituted\nfile\nknown\ncharacter special file\n";
    for user in [0, 1000] {
        let prepare = |spec: &mut ExecSpec| {
            spec.user = ResolvedUser { uid: user, gid: user, groups: Vec::new() };
            std::fs::set_permissions(&spec.upper, PermissionsExt::from_mode(0o777)).unwrap();
        };
        if let Some(output) = in_bash(lab, script, prepare) {
            assert_eq!(output, expect, "user {user}");
        }
    }
}

fn processes_see_themselves_and_no_others(lab: &Lab) {
    let kiln = std::process::id();
    let script = format!(
        "readlink /proc/self/exe; readlink /proc/self/root; readlink /proc/self/cwd; grep Name: /proc/self/status; \
         test \"$(readlink /proc/self)\" != {kiln} && cat /proc/$$/comm; test -d /proc/$$ && echo mine; \
         sleep 100 & cat /proc/$!/comm; kill $!; \
         for pid in 1 {kiln} $PPID; do cat /proc/$pid/environ /proc/$pid/status && echo SEEN; done 2>/dev/null; \
         cat /proc/self/mountinfo; cat /proc/sys/kernel/ostype; grep -c MemTotal /proc/meminfo; \
         echo x > /proc/sys/kernel/hostname || echo refused; cat /proc/self/mem || echo absent"
    );
    let output = in_bash(lab, &format!("exec 2>/dev/null; {script}"), |_| {}).unwrap_or_default();
    assert_eq!(output, "/bin/readlink\n/\n/\nName:\tgrep\nbash\nmine\nsleep\nLinux\n1\nrefused\nabsent\n");
}

fn users_open_what_they_may(lab: &Lab) {
    // Root opened it for reading; through its descriptor a user must not get to write.
    let script = "exec 3< /etc/passwd; cat /dev/fd/3 > /dev/null && echo read; echo x >> /dev/fd/3 || echo refused; \
                  cat /proc/self/environ > /dev/null && echo own";
    let user = |spec: &mut ExecSpec| spec.user = ResolvedUser { uid: 1000, gid: 1000, groups: Vec::new() };
    let output = in_bash(lab, &format!("exec 2>/dev/null; {script}"), user).unwrap_or_default();
    assert_eq!(output, "read\nrefused\nown\n");
}

fn the_machine_has_the_steps_name(lab: &Lab) {
    let (_, output) = run_with(lab, "uname -n; uname -s", |spec| spec.hostname = "steps-name".to_owned());
    assert_eq!(output, "steps-name\nLinux\n");
}

/// Whoever has a directory from outside could leave the root by it.
fn no_directory_of_proc_is_handed_over(lab: &Lab) {
    let script = "for dir in /proc/self /proc/$$ /proc/self/fd /proc/self/cwd /proc/self/root /proc/self/task /proc/self/net /proc/sys; do \
                  cd $dir && echo ENTERED $dir; ls $dir/ && echo LISTED $dir; done 2> /dev/null; exec 5< /tmp; cat /dev/fd/5 2>/dev/null; echo done";
    let output = in_bash(lab, script, |_| {}).unwrap_or_default();
    assert_eq!(output, "done\n");
}

fn network_none(lab: &Lab) {
    // No program of the base makes a socket, but the shell of most machines can ask for one.
    let prepare = |spec: &mut ExecSpec| spec.network = Network::None;
    if let Some(output) = in_bash(lab, "true > /dev/tcp/127.0.0.1/9 || true", prepare) {
        assert!(output.contains("Network is unreachable"), "{output}");
    }
}

fn what_cannot_be_kept_is_refused(lab: &Lab) {
    let refuse = |change: &dyn Fn(&mut ExecSpec), expect: &str| {
        let mut spec = lab.whole_root("true");
        change(&mut spec);
        let (_reader, writer) = std::io::pipe().unwrap();
        let stdio = Stdio { stdout: writer.try_clone().unwrap().into(), stderr: writer.into() };
        let error = Sandbox::spawn(&lab.isolation, &spec, stdio).unwrap_err();
        assert!(error.to_string().contains(expect) && error.to_string().contains("`chroot`"), "{error}");
        assert!(error.hint.is_some());
    };
    refuse(&|spec| spec.insecure = true, "all capabilities");
    let tmpfs = MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1777, readonly: false };
    refuse(
        &|spec| spec.mounts = vec![Mount { target: "/scratch".into(), kind: tmpfs.clone() }],
        "size of a tmpfs",
    );
    let cache = MountKind::Bind { source: lab.base.clone(), readonly: false, recursive: false };
    let mount = |target: &str| Mount { target: target.into(), kind: cache.clone() };
    refuse(&|spec| spec.mounts = vec![mount("/a"), mount("/b")], "at two places");
}

fn kill_kills_all(lab: &Lab) {
    let spec = lab.whole_root("sleep 1000 & echo started; wait");
    let (running, mut output) = lab.start(&spec);
    let mut line = [0; 8];
    std::io::Read::read_exact(&mut output, &mut line).unwrap();
    running.kill();
    assert_eq!(running.wait().unwrap().exit, Exit::Signal(9));
    // The pipe has an end when nobody holds it any more; a shell may still tell what was killed first.
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut output, &mut rest).unwrap();
    assert!(!rest.contains("started"), "{rest}");
}

fn signals_and_codes(lab: &Lab) {
    let exit = |script: &str| lab.execute(&lab.whole_root(script)).exit;
    assert_eq!(exit("exit 42"), Exit::Code(42));
    assert_eq!(exit("kill -TERM $$"), Exit::Signal(15));
    assert_eq!(exit("no-such-command"), Exit::Code(127));
    let mut spec = lab.whole_root("pwd");
    spec.cwd = PathBuf::from("/made/here");
    assert_eq!(lab.execute(&spec).output, "/made/here\n");
    let here = std::fs::metadata(spec.upper.join("made/here")).unwrap();
    assert_eq!(here.permissions().mode() & 0o7777, 0o755);
}

/// Prints what a command costs in this isolation.
fn overhead(lab: &Lab) {
    let spec = lab.whole_root("true");
    let times = (0..20).map(|_| {
        let start = std::time::Instant::now();
        assert_eq!(lab.execute(&spec).exit, Exit::Code(0));
        start.elapsed()
    });
    println!("  a command takes {:?} at least, from spawn to end", times.min().unwrap());
}
