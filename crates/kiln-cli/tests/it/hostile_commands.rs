//! Hostile commands: what a RUN may do to its own root, and what of it is left when it has ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use kiln_testkit::{Outcome, Person, lane};

use crate::hostile_tar::Tar;
use crate::hostile_world::{Expect, SECRET, World, refused};

/// A command that was started ends its build well before this.
const SOON: Duration = Duration::from_secs(25);

/// A world in which commands run.
struct Commands {
    world: World,
    base: String,
    /// A word that only the commands of this test have.
    mark: String,
}

impl Commands {
    fn new(person: &Person, number: usize) -> Self {
        let world = World::new(person);
        let base = world.env.base();
        Self { world: world.again(), base, mark: format!("6{number}{}", std::process::id()) }
    }

    /// Builds a Dockerfile in which `BASE` is the host's base, `CANARY` the way to the canary and `MARK` a number that
    /// `sleep` takes for very long.
    fn build(&self, dockerfile: &str, more: &[&str]) -> Outcome {
        let canary = self.world.canary.display().to_string();
        let text =
            dockerfile.replace("BASE", &self.base).replace("CANARY", &canary).replace("MARK", &self.mark);
        self.world.write("ctx/Dockerfile", text);
        self.world.kiln(&[&["build", "--progress", "plain"], more, &["ctx"]].concat(), None)
    }

    fn check(&self, case: &str, dockerfile: &str, expect: &Expect) -> Outcome {
        let start = Instant::now();
        let outcome = self.build(dockerfile, &[]);
        let took = start.elapsed();
        self.world.judge(case, expect, &outcome);
        if took > SOON {
            self.world.fail(format!("{case} took {took:?}"));
        }
        let left = self.processes();
        if left > 0 {
            self.world.fail(format!("{case} left {left} processes"));
        }
        let tmp: Vec<_> =
            fs::read_dir(self.world.env.root.join("home/store/tmp")).unwrap().flatten().collect();
        if !tmp.is_empty() {
            self.world.fail(format!("{case} left in the store: {tmp:?}"));
        }
        outcome
    }

    /// Checks a command, which succeeds.
    fn run(&self, case: &str, command: &str) {
        self.check(case, &format!("FROM BASE\nRUN {command}\n"), &Expect::Built);
    }

    /// Returns how many sleepers of this test are alive, a moment after the last build.
    fn processes(&self) -> usize {
        let wanted = format!("sleep\0{}\0", self.mark);
        let alive = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            all.filter(|e| fs::read(e.path().join("cmdline")).is_ok_and(|c| c == wanted.as_bytes())).count()
        };
        let start = Instant::now();
        while alive() > 0 && start.elapsed() < Duration::from_secs(2) {
            std::thread::sleep(Duration::from_millis(10));
        }
        alive()
    }
}

/// Checks as root and as who has one id; who has a range comes between.
fn everybody(what: &str, check: impl Fn(&Commands, &Person)) {
    for (number, person) in lane::people(what).into_iter().step_by(2).enumerate() {
        let commands = Commands::new(&person, number);
        check(&commands, &person);
        commands.world.finish();
    }
}

#[test]
fn processes_that_stay() {
    everybody("processes that stay", |it, _| {
        it.run(
            "five hundred children",
            "i=0; while [ $i -lt 500 ]; do sleep MARK & i=$((i+1)); done; echo started",
        );
        it.run("a daemon that holds the output", "(sleep MARK &) ; sleep MARK & echo started");
        it.run(
            "a child that ignores signals",
            "sh -c 'trap \"\" TERM INT HUP QUIT; sleep MARK; sleep MARK' & sleep 0.1",
        );
        it.run("orphans of orphans", "sh -c 'sh -c \"sleep MARK & sleep MARK &\" &'; true");
        it.run("a closed output", "exec >&- 2>&-; true");
        // A command is no child of itself: it may kill all it sees, and sees nobody else.
        let dies = refused(&["RUN failed"]);
        it.check(
            "a kill of everybody",
            "FROM BASE\nRUN sleep MARK & kill -9 -1; sleep 0.2; true\n",
            &Expect::Built,
        );
        it.check("a kill of itself", "FROM BASE\nRUN kill -9 $$\n", &dies);
        let outcome = it.build("FROM BASE\nRUN kill -9 1; kill -TERM 1; kill -STOP 1; echo alive\n", &[]);
        let expect = if outcome.code == Some(0) { Expect::Built } else { dies };
        it.world.judge("a kill of process 1", &expect, &outcome);
    });
}

#[test]
fn roots_that_are_broken() {
    everybody("roots that are broken", |it, _| {
        let after = |case: &str, first: &str, rest: &str, expect: &Expect| {
            it.check(case, &format!("FROM BASE\nRUN {first}\n{rest}"), expect);
        };
        it.world.write("ctx/f", "harmless");
        let built = &Expect::Built;
        let gone = &refused(&["exit code 127"]);
        let copy = "COPY f /root/evil\n";
        after("everything removed", "rm -rf --no-preserve-root / 2>/dev/null; true", "COPY f /f\n", built);
        after(
            "everything removed, then a command",
            "rm -rf --no-preserve-root / 2>/dev/null; exit 0",
            "RUN true\n",
            gone,
        );
        after("/root leads to the root", "rm -rf /root && ln -s / /root", copy, built);
        after("/root leads to the machine", "rm -rf /root && ln -s CANARY /root", copy, built);
        after(
            "/root leads to the machine, for a command",
            "rm -rf /root && ln -s CANARY /root",
            "RUN echo x > /root/evil || true\n",
            built,
        );
        after("/root leads up", "rm -rf /root && ln -s ../../../../../../../../../CANARY /root", copy, built);
        after(
            "/root leads to itself",
            "rm -rf /root && ln -s root /root",
            copy,
            &refused(&["too many symbolic links"]),
        );
        after("/root is a file", "rm -rf /root && touch /root", copy, &refused(&["/root"]));
        after("/root is a pipe", "rm -rf /root && mkfifo /root", copy, &refused(&["/root"]));
        after(
            "the way to a user",
            "rm /etc/passwd && ln -s /dev/zero /etc/passwd",
            "USER www-data\nRUN true\n",
            &refused(&["www-data"]),
        );
        after("WORKDIR leads out", "ln -s CANARY /w", "WORKDIR /w\nRUN echo x > evil\nCOPY f .\n", built);
        after("/proc is a link", "rm -rf /proc 2>/dev/null; echo no", "RUN cat /proc/self/comm\n", built);
        after(
            "/bin/sh is another",
            "cp /bin/false /bin/sh.new && mv /bin/sh.new /bin/sh",
            "RUN true\n",
            &refused(&["RUN failed"]),
        );
        after(
            "/tmp, /dev and /sys lead out",
            "rm -rf /tmp && ln -s CANARY /tmp",
            "RUN echo x > /tmp/evil || true\n",
            built,
        );
        after(
            "/run leads out",
            "rm -rf /run; ln -s CANARY /run",
            "RUN --mount=type=secret,id=s,required=false true\n",
            built,
        );
        after("a root of mode 0", "chmod 000 /", "RUN test -e /bin/sh\nCOPY f /f\n", built);
        after(
            "directories of mode 0",
            "mkdir -p /a/b/c && touch /a/b/c/f && chmod 000 /a/b/c /a/b /a",
            "RUN chmod 700 /a\n",
            built,
        );
        after(
            "500 levels",
            "p=$(printf 'd/%.0s' $(seq 500)); mkdir -p $p && echo x > $p/f",
            "RUN rm -r /d\n",
            built,
        );
        let abyss = "p=$(printf 'd/%.0s' $(seq 1500)); mkdir -p $p && cd -P $p && mkdir -p $p";
        let outcome = it.build(&format!("FROM BASE\nRUN {abyss}\n"), &[]);
        it.world.judge(
            "3,000 levels",
            &if outcome.code == Some(0) {
                Expect::Built
            } else {
                refused(&["cannot be in a layer: its path is longer"])
            },
            &outcome,
        );
        after(
            "names that shout",
            "touch \"$(printf 'a\\nb\\033[31m\\007')\" \"$(printf '\\377')\"",
            "RUN ls /a*\n",
            built,
        );
        after(
            "the name of a whiteout",
            "touch /etc/.wh.passwd",
            "",
            &refused(&["etc/.wh.passwd", "mean the removal"]),
        );
        after(
            "the marker of an opaque directory",
            "touch /bin/.wh..wh..opq",
            "",
            &refused(&[".wh..wh..opq", "mean the removal"]),
        );
    });
}

#[test]
fn walls() {
    everybody("walls around commands", |it, person| {
        // Each is tried, and what matters is what it does not do; the root that it leaves must be usable.
        let tries = |case: &str, command: &str| it.run(case, &format!("{command} 2>/dev/null; true"));
        tries(
            "the kernel's settings",
            "echo x > /proc/sys/kernel/core_pattern; echo 1 > /proc/sys/vm/drop_caches; echo b > /proc/sysrq-trigger",
        );
        it.run(
            "settings are read-only",
            "test ! -w /proc/sys/kernel/core_pattern && ! (echo x > /proc/sysrq-trigger) 2>/dev/null",
        );
        tries(
            "the root of process 1",
            "ls /proc/1/root/CANARY; cat /proc/1/root/CANARY/secret; cp /bin/sh /proc/1/root/CANARY/evil",
        );
        tries(
            "the directory of process 1",
            "ls -l /proc/1/cwd/ /proc/1/fd/; cat /proc/*/environ /proc/*/cmdline; cat /proc/1/mem",
        );
        it.run("no other process is seen", "test $(ls -d /proc/[0-9]* | wc -l) -lt 8");
        it.run("kiln's environment is closed", "! grep -qs KILN_STORE /proc/*/environ");
        tries("the ways up", "cat ../../../../../../../../CANARY/secret; cd -P /../..; ls CANARY");
        it.run("the machine's files are not there", "! test -e CANARY && ! test -e /../CANARY");
        tries("devices", "cat /dev/mem /dev/kmem /dev/kmsg /dev/sda /dev/vda | head -c 100");
        it.run("no disk is there", "! test -e /dev/vda && ! test -e /dev/sda && ! test -e /dev/mem");
        tries("owners and bits", "cp /bin/sh /evil; chown 0:0 /evil; chmod 6755 /evil; chown -h 0 /evil");
        // What it made is nobody else's to run, though it is root's and runs as its owner.
        let found = Command::new("find")
            .arg(it.world.env.root.join("home/store/snapshots"))
            .args(["-name", "evil"])
            .output()
            .unwrap();
        let evil = String::from_utf8(found.stdout).unwrap();
        let stranger = Person::Ordinary { uid: 64_999, gid: 64_999, range: false };
        if *person == Person::Root
            && let Some(evil) = evil.lines().next()
        {
            for dir in [&it.world.env.root, &it.world.env.root.join("home")] {
                fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let mut command = stranger.command("sh".as_ref());
            let output = command.args(["-c", &format!("{evil} -c id")]).output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() || !told.contains("Permission denied") {
                it.world.fail(format!("a stranger ran a program of an image: {output:?}"));
            }
        }
        let smuggled = Tar::new().device(b'3', "etc/passwd", 0, 0).device(b'3', "bin", 0, 0);
        it.world.write("ctx/a.tar", smuggled.end());
        let whole = "FROM BASE\nADD a.tar /\nRUN test -e /etc/passwd && test -x /bin/sh\n";
        it.check("removals that an archive smuggles", whole, &Expect::Built);
        tools(it);
    });
}

/// Lets commands use tools that the base has not.
fn tools(it: &Commands) {
    let mut libraries = String::new();
    for tool in ["unshare", "mount", "mknod", "setfattr"] {
        let Some(path) = lane::program(tool, "a tool of hostile commands") else { continue };
        let real = fs::canonicalize(path).unwrap();
        it.world.write(&format!("ctx/tools/{tool}"), fs::read(&real).unwrap());
        let needed = Command::new("ldd").arg(real).output().unwrap();
        libraries.push_str(&String::from_utf8_lossy(&needed.stdout));
    }
    for library in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        it.world.write(&format!("ctx/lib{library}"), fs::read(library).unwrap());
    }
    let check = |case: &str, command: &str| {
        let copies = "COPY --chmod=755 lib /\nCOPY --chmod=755 tools /tools\n";
        let run = format!("FROM BASE\n{copies}RUN export PATH=$PATH:/tools; {command}\n");
        it.check(case, &run, &Expect::Built);
    };
    check("namespaces", "! unshare -U true && ! unshare -m true && ! unshare -n true && ! unshare -p true");
    check("mounts", "! mount -t tmpfs x /tmp && ! mount --bind / /tmp && ! mount -o remount,rw /proc/sys");
    check(
        "devices",
        "mknod /null c 1 3; mknod /disk b 254 0; mknod /etc/gone c 0 0; mknod /etc/passwd2 c 0 0; true",
    );
    let attributes = "mkdir /d && touch /d/f; for a in user.overlay.opaque user.kiln.owner trusted.overlay.opaque; \
        do setfattr -n $a -v y /d; setfattr -n $a -v y /etc; done; true";
    check("attributes of an overlay", attributes);
    // The root is whole behind an opaque mark that the command set itself.
    check(
        "attributes of an overlay, and what is below",
        &format!("{attributes}; test -e /etc/passwd && test -e /bin/sh"),
    );
}

#[test]
fn output_of_commands() {
    everybody("output of commands", |it, _| {
        let loud = "printf '\\033[31mred\\033[2J\\033]0;title\\007\\r\\b\\200\\377\\302\\233 end\\n'; printf '\\033]8;;http://x\\033\\\\\\n' >&2";
        it.run("output that shouts", loud);
        it.check(
            "output that shouts, and fails",
            &format!("FROM BASE\nRUN {loud}; exit 3\n"),
            &refused(&["exit code 3"]),
        );
        it.run("a line of 20 MB", "head -c 20000000 /dev/zero | sed 's/\\x00/x/g' | head -c 90000");
        let secret = it.world.write("secret-file", SECRET);
        let source = format!("id=s,src={}", secret.display());
        let dockerfile = "FROM BASE\nRUN --mount=type=secret,id=s,env=S cat /run/secrets/s; echo; echo \"$S\"; echo \"a${S}b${S}c\" >&2; env\n";
        let outcome = it.build(dockerfile, &["--secret", &source]);
        it.world.judge("a secret that is printed", &Expect::Built, &outcome);
        if !outcome.stderr.contains("a***b***c") {
            it.world.fail(format!("the output is not masked: {}", outcome.stderr));
        }
        let split = "FROM BASE\nRUN --mount=type=secret,id=s cat /run/secrets/s | { read a; printf '%s' \"$a\" | while IFS= read -r x; do printf '%s' \"${x%????????}\"; sleep 0.2; printf '%s' \"${x#\"${x%????????}\"}\"; done; }; echo; exit 4\n";
        let outcome = it.build(split, &["--secret", &source]);
        it.world.judge("a secret that is printed in two parts", &refused(&["exit code 4"]), &outcome);
        let store = it.world.env.root.join("home/store");
        let found = Command::new("grep").args(["-rlF", SECRET]).arg(store).output().unwrap();
        if !found.stdout.is_empty() {
            it.world.fail(format!("the secret is in {}", String::from_utf8_lossy(&found.stdout)));
        }
    });
}

#[test]
fn much_output() {
    let Some(person) = lane::people("much output").into_iter().next() else { return };
    let it = Commands::new(&person, 9);
    // What is shown is what the command printed; what is kept of it has a bound.
    let mut command = it.world.env.command(["build", "-q", "ctx"]);
    it.world.write(
        "ctx/Dockerfile",
        format!("FROM {}\nRUN dd if=/dev/zero bs=1M count=200 2>/dev/null\n", it.base),
    );
    let outcome = crate::hostile_world::within(
        command.current_dir(it.world.env.root.join("work")),
        Duration::from_secs(60),
    );
    it.world.judge("200 MB of output", &Expect::Built, &outcome);
    let kept = Command::new("du")
        .args(["-s", "--block-size=1M"])
        .arg(it.world.env.root.join("home/store/history"))
        .output()
        .unwrap();
    let megabytes: u64 =
        String::from_utf8(kept.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    if megabytes > 8 {
        it.world.fail(format!("the log takes {megabytes} MB"));
    }
    it.world.finish();
}
