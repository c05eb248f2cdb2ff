//! What a command gets: capabilities, devices, files and limits, with and without the options of `kiln build`.

use std::collections::BTreeSet;
use std::path::Path;

use kiln_testkit::{Image, Outcome, Person, TestEnv, lane};

use crate::env_of;

/// The code of an error of the machine.
const ENVIRONMENT: i32 = 4;

/// An environment with a base and a way to build a Dockerfile on it.
struct Bench {
    env: TestEnv,
    base: String,
}

impl Bench {
    fn of(person: Person) -> Self {
        let env = env_of(person);
        let base = env.base();
        Self { env, base }
    }

    fn build(&self, dockerfile: &str, options: &[&str]) -> Outcome {
        self.env.write("ctx/Dockerfile", dockerfile.replace("BASE", &self.base));
        let name = self.name();
        let line = ["build", "--progress", "plain", "-t", &name, "--push"];
        self.env.kiln(line.iter().chain(options).chain(&["ctx"]))
    }

    fn name(&self) -> String {
        format!("{}/options:1", self.env.host())
    }

    /// Builds, and returns a file of the last layer.
    #[track_caller]
    fn file(&self, dockerfile: &str, options: &[&str], path: &str) -> String {
        self.build(dockerfile, options).ok();
        let image = Image::pull(&self.name());
        image.last().text(path).unwrap().to_owned()
    }
}

fn benches(what: &str) -> impl Iterator<Item = (Person, Bench)> {
    lane::people(what).into_iter().map(|person| (person.clone(), Bench::of(person)))
}

#[test]
fn a_command_gets_what_docker_gives() {
    let dockerfile = "FROM BASE\n\
        RUN grep -E '^(Cap|Seccomp:|NoNewPrivs:)' /proc/self/status > /out\n\
        RUN ls /dev > /out && echo x > /dev/null && head -c 1 /dev/urandom | wc -c >> /out && stat -c %a /dev /dev/shm >> /out\n\
        RUN { cat /proc/keys /proc/timer_list /proc/kcore; ls /sys/firmware; } > /out 2>/dev/null; \
            echo 1 2>/dev/null > /proc/sys/kernel/panic || echo proc >> /out; mkdir /sys/x 2>/dev/null || echo sys >> /out; \
            echo h 2>/dev/null > /proc/sysrq-trigger || echo sysrq >> /out\n\
        RUN uname -n > /out && cat /proc/self/oom_score_adj /proc/sys/user/max_user_namespaces >> /out && umask >> /out\n\
        RUN grep -c buildkitsandbox /etc/hosts > /out && test ! -w /etc/hosts && test ! -w /etc/resolv.conf && echo mine > /etc/hostname\n";
    for (person, bench) in benches("what a command gets") {
        bench.build(dockerfile, &[]).ok();
        let image = Image::pull(&bench.name());
        let out = |layer: usize| image.layers[layer].text("out").unwrap().to_owned();
        // CHOWN, DAC_OVERRIDE, FSETID, FOWNER, MKNOD, NET_RAW, SETGID, SETUID, SETFCAP, SETPCAP, NET_BIND_SERVICE,
        // SYS_CHROOT, KILL and AUDIT_WRITE.
        let fourteen = "00000000a80425fb";
        let none = "0000000000000000";
        assert_eq!(
            out(1),
            format!(
                "CapInh:\t{none}\nCapPrm:\t{fourteen}\nCapEff:\t{fourteen}\nCapBnd:\t{fourteen}\nCapAmb:\t{none}\n\
                 NoNewPrivs:\t0\nSeccomp:\t2\n"
            ),
            "{person}"
        );
        let devices = "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
        assert_eq!(out(2), format!("{devices}1\n755\n1777\n"), "{person}");
        assert_eq!(out(3), "proc\nsys\nsysrq\n", "{person}");
        assert_eq!(out(4), "buildkitsandbox\n500\n0\n0022\n", "{person}");
        assert_eq!(out(5), "1\n", "{person}");
        // What kiln mounts is in no layer; the name of the machine is the image's own file.
        let names = |layer: usize| image.layers[layer].lines();
        assert_eq!(
            names(5),
            ["dir 755 0:0 etc", "file 644 0:0 etc/hostname 5", "file 644 0:0 out 2"],
            "{person}"
        );
    }
}

#[test]
fn limits_hosts_and_shared_memory_are_those_of_the_options() {
    let dockerfile = "FROM BASE\nRUN { ulimit -n; ulimit -Hn; ulimit -t; cat /etc/hosts; \
        sed -n 's,.* /dev/shm .*size=\\([0-9]*k\\).*,\\1,p' /proc/self/mountinfo; } > /out\n";
    let options = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "cpu=9",
        "--ulimit",
        "cpu=600",
        "--add-host",
        "db:10.1.2.3",
        "--add-host",
        "six=[fd00::5]",
        "--shm-size",
        "8m",
    ];
    for (person, bench) in benches("options of RUN") {
        let out = bench.file(dockerfile, &options, "out");
        assert!(out.starts_with("100\n200\n600\n10.1.2.3\tdb\nfd00::5\tsix\n"), "{person}: {out}");
        assert!(out.ends_with("\n8192k\n"), "{person}: {out}");
        assert!(Image::pull(&bench.name()).last().entry("etc/hosts").is_none(), "{person}");
    }
}

#[test]
fn keys_have_what_a_command_can_see_of_the_options() {
    let Some((_, bench)) = benches("keys of options").next() else { return };
    let runs = |options: &[&str]| {
        let told = bench.build("FROM BASE\nRUN true\n", options);
        told.ok();
        told.stderr.contains("not cached") || !told.stderr.contains("CACHED")
    };
    let db = |address: &str| format!("db:{address}");
    let (one, two) = (db("10.0.0.1"), db("10.0.0.2"));
    assert!(runs(&["--add-host", &one]));
    assert!(!runs(&["--add-host", &two]), "an address counts");
    assert!(runs(&["--add-host", "other:10.0.0.1"]), "the name of a host does not count");
    assert!(runs(&["--ulimit", "nofile=64"]));
    assert!(runs(&["--ulimit", "nofile=65"]), "a limit does not count");
    assert!(runs(&["--shm-size", "1m"]));
    assert!(runs(&["--network", "none"]));
    assert!(runs(&[]));
    assert!(!runs(&["--network", "host"]), "the machine's network has two keys");
}

/// Returns the hard limit of this process, which its children inherit.
fn own_limit(name: &str) -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
    line[name.len()..].split_whitespace().nth(1).unwrap().parse().ok()
}

/// Tells whether this process may raise limits: CAP_SYS_RESOURCE, which some machines take even from root.
fn may_raise() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    u64::from_str_radix(held, 16).unwrap() >> SYS_RESOURCE & 1 == 1
}

#[test]
fn only_root_can_raise_a_limit() {
    let Some(own) = own_limit("Max pending signals") else {
        lane::left_out("limits above kiln's own", "this machine has no limit of pending signals");
        return;
    };
    let limit = format!("sigpending={}", own + 1);
    for (person, bench) in benches("limits above kiln's own") {
        let dockerfile = "FROM BASE\nRUN grep 'pending signals' /proc/self/limits > /out\n";
        if person == Person::Root && may_raise() {
            let out = bench.file(dockerfile, &["--ulimit", &limit], "out");
            assert!(out.contains(&format!(" {} ", own + 1)), "{out}");
            continue;
        }
        bench.build(dockerfile, &["--ulimit", &limit]).fails(
            ENVIRONMENT,
            &["cannot be enforced", &limit, &format!("kiln's own is {own}"), "hint: ask for less"],
        );
    }
}

#[test]
fn a_build_without_a_network_has_none_in_any_command() {
    // Behind two lines of heading, one line for each interface.
    let interfaces = "sed -n '3,$p' /proc/net/dev | cut -d: -f1 | sed 's/ //g'";
    for (person, bench) in benches("builds without a network") {
        let run = |flag: &str| format!("FROM BASE\nRUN {flag} {interfaces} > /out\n");
        for flag in ["", "--network=default", "--network=none"] {
            assert_eq!(bench.file(&run(flag), &["--network", "none"], "out"), "lo\n", "{person} {flag}");
        }
        bench
            .build(&run("--network=host"), &["--network", "none"])
            .fails(1, &["RUN --network=host is not allowed", "Dockerfile:2", "--allow network.host"]);
        let allowed = ["--network", "none", "--allow", "network.host"];
        let seen = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let machine = std::fs::read_to_string("/proc/net/dev").unwrap();
        let machine =
            machine.lines().skip(2).filter_map(|l| Some(l.split_once(':')?.0.trim().to_owned())).collect();
        assert_eq!(seen(&bench.file(&run("--network=host"), &allowed, "out")), machine, "{person}");
    }
}

#[test]
fn more_rights_need_leave_and_stay_in_the_namespace() {
    let dockerfile = "FROM BASE\nRUN --security=insecure grep -E '^CapEff:' /proc/self/status > /out\n";
    for (person, bench) in benches("RUN --security=insecure") {
        bench.build(dockerfile, &[]).fails(
            1,
            &["RUN --security=insecure is not allowed", "Dockerfile:2", "--allow security.insecure"],
        );
        let out = bench.file(dockerfile, &["--allow", "security.insecure"], "out");
        assert!(out.starts_with("CapEff:\t000001ff"), "{person}: {out}");
    }
}

#[test]
fn without_namespaces_the_same_is_done_or_refused() {
    let chroot = ["--isolation", "chroot", "--allow-weak-isolation"];
    let Some((_, bench)) = benches("options in isolation chroot").find(|(person, _)| *person == Person::Root)
    else {
        return;
    };
    let build = |dockerfile: &str, options: &[&str]| bench.build(dockerfile, &[&chroot, options].concat());
    let started = build("FROM BASE\nRUN true\n", &[]);
    if started.code == Some(ENVIRONMENT) {
        lane::left_out("options in isolation chroot", &started.stderr);
        return;
    }
    let options = ["--ulimit", "nofile=100:200", "--add-host", "db:10.1.2.3"];
    build("FROM BASE\nRUN { ulimit -n; ulimit -Hn; head -n 1 /etc/hosts; } > /out\n", &options).ok();
    let image = Image::pull(&bench.name());
    assert_eq!(image.last().text("out").unwrap(), "100\n200\n10.1.2.3\tdb\n");
    let refused = |options: &[&str], expect: &[&str]| {
        build("FROM BASE\nRUN true\n", options).fails(ENVIRONMENT, expect);
    };
    refused(&["--shm-size", "1m"], &["`chroot` has no mounts", "leave out `--shm-size`"]);
    refused(
        &["--network", "proxy"],
        &["RUN cannot be given the network `proxy`", "Dockerfile:2", "go round a proxy"],
    );
    let forks = "FROM BASE\nRUN sleep 0 & sleep 0 & sleep 0 & wait\n";
    let limited = build(forks, &["--pids-limit", "2"]);
    if limited.code != Some(ENVIRONMENT) {
        assert_ne!(limited.code, Some(0), "{}", limited.stderr);
        assert!(limited.stderr.contains("fork"), "{}", limited.stderr);
        build(forks, &["--pids-limit", "4"]).ok();
    }
}

/// Returns the groups of a process whose command line has `marker`.
fn groups_of(marker: &str) -> Vec<String> {
    let is_it = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == marker.as_bytes())
    };
    let process = std::fs::read_dir("/proc").unwrap().flatten().find(is_it).unwrap();
    let groups = std::fs::read_to_string(process.path().join("cgroup")).unwrap();
    let names =
        groups.lines().filter_map(|line| line.rsplit_once("/kiln-")).map(|(_, name)| format!("kiln-{name}"));
    names.collect()
}

#[test]
fn a_killed_build_leaves_no_group() {
    use std::io::BufRead as _;
    let Some((_, bench)) = benches("groups of a killed build").find(|(person, _)| *person == Person::Root)
    else {
        return;
    };
    let marker = format!("66{}", std::process::id());
    bench.env.write("ctx/Dockerfile", format!("FROM {}\nRUN echo ready ; sleep {marker}\n", bench.base));
    let mut command = bench.env.command(["build", "--progress", "plain", "--pids-limit", "50", "ctx"]);
    let mut child =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    if !lines.any(|line| line.is_ok_and(|line| line.ends_with(" ready"))) {
        assert_eq!(child.wait().unwrap().code(), Some(ENVIRONMENT));
        lane::left_out("groups of a killed build", "control groups cannot be made here");
        return;
    }
    let start = std::time::Instant::now();
    let wait = |what: &str| {
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    let asleep = format!("sleep\0{marker}\0");
    let sleeps = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.into_iter().any(|e| std::fs::read(e.path().join("cmdline")).is_ok_and(|c| c == asleep.as_bytes()))
    };
    while !sleeps() {
        wait("the command does not sleep");
    }
    let groups = groups_of(&asleep);
    assert_eq!(groups.len(), 1, "{groups:?}");
    child.kill().unwrap();
    child.wait().unwrap();
    // Kiln is gone; its helper takes the group away.
    while exists(Path::new("/sys/fs/cgroup"), &groups[0]) {
        wait("the group of the command is left");
    }
}

/// Tells whether there is a group of this name anywhere.
fn exists(dir: &Path, name: &str) -> bool {
    let dirs = std::fs::read_dir(dir).into_iter().flatten().flatten();
    dirs.into_iter()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .any(|entry| entry.file_name() == name || exists(&entry.path(), name))
}

/// Returns the groups of commands that are there and have no process: left behind.
fn left_behind() -> BTreeSet<String> {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let processes = std::fs::read_to_string(entry.path().join("cgroup.procs"));
            let of_a_command = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            if name.strip_prefix("kiln-").is_some_and(of_a_command) && processes.is_ok_and(|p| p.is_empty()) {
                found.insert(entry.path().display().to_string());
            }
            walk(&entry.path(), found);
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), &mut found);
    found
}

#[test]
fn memory_processes_and_processors_are_limited_or_refused() {
    for (person, bench) in benches("control groups") {
        let eats = "FROM BASE\nRUN dd if=/dev/zero of=/dev/null bs=200M count=1\n";
        let eaten = bench.build(eats, &["--memory", "48m"]);
        if eaten.code == Some(ENVIRONMENT) {
            eaten.fails(
                ENVIRONMENT,
                &["the limits for RUN cannot be enforced here", "control group", "hint:"],
            );
            let why =
                eaten.stderr.lines().find(|line| line.contains("cannot")).unwrap_or_default().to_owned();
            if person == Person::Root {
                lane::left_out("limits by control groups, as root", &why);
            }
            // The same build without the limit is no error.
            bench.build(eats, &[]).ok();
            continue;
        }
        eaten.fails(1, &["exit code 137", "it may need more than `--memory` allows"]);
        bench.build(eats, &["--memory", "400m"]).ok();
        let forks = "FROM BASE\nRUN sleep 0 & sleep 0 & sleep 0 & wait; echo done > /out\n";
        let refused = bench.build(forks, &["--pids-limit", "2"]);
        assert_ne!(refused.code, Some(0), "{}", refused.stderr);
        assert!(refused.stderr.contains("fork"), "{}", refused.stderr);
        bench.build("FROM BASE\nRUN : one process\n", &["--pids-limit", "1"]).ok();
        bench.build(forks, &["--pids-limit", "4"]).ok();
        let list = bench.file(
            "FROM BASE\nRUN grep Cpus_allowed_list /proc/self/status > /out\n",
            &["--cpuset-cpus", "0", "--cpus", "0.5", "--cpu-shares", "512"],
            "out",
        );
        assert_eq!(list, "Cpus_allowed_list:\t0\n");
        bench
            .build("FROM BASE\nRUN true\n", &["--cpuset-cpus", "9999"])
            .fails(ENVIRONMENT, &["cannot be enforced", "`9999`", "the kernel refuses this value"]);
    }
    // One of another test may be between two states; one that is left stays.
    let left: BTreeSet<String> = left_behind();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let left: Vec<_> = left_behind().into_iter().filter(|group| left.contains(group)).collect();
    assert!(left.is_empty(), "groups of commands are left: {left:?}");
}
