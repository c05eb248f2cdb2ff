//! Builds that are killed, disks that are full or read-only, clocks that jump: what is left is a store that goes on.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kiln_testkit::{Person, TestEnv, lane};

use crate::hostile_world::within;
use crate::{KILN, env_of};

/// So many builds are killed in the ordinary lane; `KILN_TEST_KILLS` says another number.
const KILLS: u64 = 40;

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Returns an environment with a context of some files and a build of several steps of every kind.
fn environment(person: &Person) -> TestEnv {
    let env = env_of(person.clone());
    let base = env.base();
    for n in 0..30 {
        env.write(&format!("ctx/src/{n}"), format!("file {n}").repeat(n * 20));
    }
    env.write(
        "ctx/Dockerfile",
        format!(
            "FROM {base} AS a\nCOPY src /src\nRUN --mount=type=cache,target=/c cat /src/* > /all; echo x > /c/x\n\
             RUN mkdir -p /d/e && seq 2000 > /d/e/f\nFROM {base}\nCOPY --from=a /all /d /x/\nWORKDIR /w\n\
             RUN --mount=type=bind,source=src,target=/s cp /s/7 /seven\n"
        ),
    );
    env
}

/// What the build says, and where it writes to.
const BUILD: [&str; 6] = ["build", "-t", "app:1", "-o", "type=local,dest=home/out", "ctx"];

fn store(env: &TestEnv) -> std::path::PathBuf {
    env.root.join("home/store")
}

/// Expects a sound store, except for what `kiln fsck` says of it.
#[track_caller]
fn sound(env: &TestEnv, what: &str) {
    let told = env.kiln(["fsck"]);
    assert_eq!(told.code, Some(0), "{what}: {}{}", told.stdout, told.stderr);
}

#[test]
fn builds_that_are_killed() {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
    let seed = std::env::var("KILN_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(seed);
    let kills = std::env::var("KILN_TEST_KILLS").ok().and_then(|s| s.parse().ok()).unwrap_or(KILLS);
    let mut random = Random(seed);
    let people = lane::people("killing builds");
    for person in &people {
        let env = environment(person);
        let start = Instant::now();
        let digest = env.kiln(BUILD).ok().to_owned();
        let mut most = start.elapsed();
        let (mut ended, mut unfinished) = (0, 0);
        for n in 0..kills / people.len() as u64 {
            let what = format!("kill {n} as {person} (KILN_TEST_SEED={seed})");
            // Every other build has to do everything, the others what the last one left.
            if n.is_multiple_of(2) {
                env.kiln(["prune", "--all"]).ok();
            }
            let mut command = env.command(BUILD);
            command.process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().unwrap();
            std::thread::sleep(Duration::from_micros(random.below(most.as_micros() as u64 + 1)));
            let group = rustix::process::Pid::from_child(&child);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            // How long a build takes here changes while others use the machine.
            if child.wait().unwrap().success() {
                ended += 1;
                most = most.mul_f64(0.8);
            } else {
                unfinished += 1;
                most = most.mul_f64(1.05);
            }
            sound(&env, &what);
            if n % 4 == 3 {
                assert_eq!(env.kiln(BUILD).ok(), digest, "{what}");
                assert!(
                    fs::read_to_string(env.root.join("home/out/seven")).unwrap().starts_with("file 7"),
                    "{what}"
                );
                sound(&env, &what);
            }
        }
        assert_eq!(env.kiln(BUILD).ok(), digest, "seed {seed}");
        let left: Vec<_> = fs::read_dir(store(&env).join("tmp")).unwrap().flatten().collect();
        assert!(left.is_empty(), "left by killed builds: {left:?}");
        lane::note(&format!(
            "killed as {person}: {unfinished} builds in the middle, {ended} at their end, seed {seed}"
        ));
    }
}

/// Runs a script as root of a mount namespace of its own; the caller may be anybody who may have one.
fn in_namespace(env: &TestEnv, script: &str) -> Option<Command> {
    let unshare = lane::program("unshare", "disks of a test's own")?;
    let mut command = Command::new(unshare);
    let user = if env.person == Person::Root { &["-m"][..] } else { &["-rm"][..] };
    command.args(user).args(["sh", "-ec", script]).current_dir(&env.root).env_clear();
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("PATH", path).env("HOME", env.root.join("home")).env("TMPDIR", env.root.join("tmp"));
    Some(command)
}

/// Everything that writes, without a command: in a namespace within a namespace not everybody may run one.
fn plain(env: &TestEnv) -> String {
    env.write(
        "plain/Dockerfile",
        "FROM scratch\nCOPY a b /x/\nADD t.tar /y/\nCOPY <<E /z\nhello\nE\nWORKDIR /w\n",
    );
    let mut state = 7_u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()[6]
    });
    env.write("plain/a", noise.take(200_000).collect::<Vec<u8>>());
    env.write("plain/b", "b");
    let tar = crate::hostile_tar::Tar::new().file("f", &"in the archive ".repeat(4000)).end();
    env.write("plain/t.tar", tar);
    env.kiln([
        "build",
        "--store",
        "home/reference",
        "-q",
        "-t",
        "x:1",
        "-o",
        "type=oci,dest=home/whole.tar",
        "plain",
    ])
    .ok()
    .to_owned()
}

#[test]
fn disks_that_are_full() {
    let Some(person) = lane::people("full disks").into_iter().next() else { return };
    let env = env_of(person);
    let digest = plain(&env);
    let kiln = KILN;
    // A store in so many KiB: each build ends with success, or with an error that says what is full, and the same store
    // with more room then goes on where it was. What `kiln prune` can do on a full disk is asked, too.
    let script = format!(
        "mkdir -p full; failed=0; built=0
         for size in $(seq 64 64 1536); do
           mount -t tmpfs -o size=${{size}}k,nr_inodes=400 none full
           code=0; {kiln} build --store full -q -t x:1 -o type=oci,dest=out.tar plain > told 2> error || code=$?
           case $code in
             0) built=$((built+1)); grep -q {digest} told;;
             4) failed=$((failed+1)); grep -q 'No space left' error; grep -q 'free some space' error; test ! -e out.tar;;
             *) echo \"$size KiB: code $code\"; cat error; exit 9;;
           esac
           rm -f out.tar
           mount -o remount,size=64m full
           {kiln} fsck --store full > verified || {{ echo \"$size KiB\"; cat verified; exit 8; }}
           {kiln} build --store full -q -t x:1 -o type=oci,dest=out.tar plain > told; grep -q {digest} told
           {kiln} prune --all --store full > /dev/null; rm -f out.tar; umount full
         done
         echo built $built failed $failed"
    );
    let Some(mut command) = in_namespace(&env, &script) else { return };
    let outcome = within(&mut command, Duration::from_secs(120));
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    let words: Vec<u32> = outcome.stdout.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    assert!(words[0] > 0 && words[1] > 2, "{}", outcome.stdout);
}

#[test]
fn commands_that_fill_the_disk() {
    let Some(person) = lane::people("commands that fill the disk").into_iter().next() else { return };
    let env = env_of(person);
    if env.person != Person::Root {
        return lane::left_out("commands that fill the disk", "the tests do not run as root");
    }
    let base = env.base();
    env.write("fills/Dockerfile", format!("FROM {base}\nRUN dd if=/dev/zero of=/large bs=64k\n"));
    env.write("names/Dockerfile", format!("FROM {base}\nRUN mkdir /d && cd /d && touch $(seq 3000)\n"));
    env.write("fits/Dockerfile", format!("FROM {base}\nRUN echo fits > /f\n"));
    let kiln = KILN;
    let script = format!(
        "mkdir full; mount -t tmpfs -o size=24m,nr_inodes=1500 none full
         for what in fills names; do
           code=0; {kiln} build --store full $what > told 2> error || code=$?
           test $code = 1 || {{ echo $what: $code; cat error; exit 9; }}
           grep -q 'RUN failed' error; grep -q 'No space left on device' error
           {kiln} fsck --store full > verified || {{ cat verified; exit 8; }}
           {kiln} build --store full -q fits
         done"
    );
    let Some(mut command) = in_namespace(&env, &script) else { return };
    let outcome = within(&mut command, Duration::from_secs(60));
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}

#[test]
fn outputs_that_cannot_be_written() {
    let Some(person) = lane::people("outputs on full disks").into_iter().next() else { return };
    let env = env_of(person);
    plain(&env);
    let kiln = KILN;
    let script = format!(
        "mkdir -p dest closed; mount -t tmpfs -o size=100k none dest; echo old > dest/old.tar
         for output in type=oci,dest=dest/new.tar type=docker,dest=dest/new.tar type=tar,dest=dest/new.tar type=oci,dest=dest/old.tar type=oci,tar=false,dest=dest/layout; do
           code=0; {kiln} build --store home/reference -q -o $output plain > told 2> error || code=$?
           test $code = 4 || {{ echo \"$output: $code\"; cat error; exit 9; }}
           grep -q 'No space left' error || {{ cat error; exit 8; }}
           test ! -s told
           test \"$(cat dest/old.tar)\" = old
           test ! -e dest/new.tar
           test ! -e dest/layout/index.json
           rm -rf dest/layout
           test \"$(ls -A dest)\" = old.tar || {{ ls -A dest; exit 7; }}
         done
         mount -t tmpfs none closed; echo old > closed/old; mount -o remount,ro closed
         for output in type=oci,dest=closed/new.tar type=local,dest=closed/new type=oci,tar=false,dest=closed/layout; do
           code=0; {kiln} build --store home/reference -q -o $output plain > told 2> error || code=$?
           test $code = 4 || {{ echo \"$output: $code\"; cat error; exit 6; }}
           grep -q 'Read-only file system' error; grep -q closed error; test ! -s told
         done"
    );
    let Some(mut command) = in_namespace(&env, &script) else { return };
    let outcome = within(&mut command, Duration::from_secs(60));
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    assert!(env.kiln(["fsck", "--store", "home/reference"]).ok().contains("is sound"));
}

#[test]
fn stores_that_are_read_only() {
    for person in lane::people("read-only stores") {
        let env = env_of(person.clone());
        let digest = plain(&env);
        env.kiln(["build", "plain"]).ok();
        if let Person::Ordinary { .. } = person {
            // Somebody else's, whom they may not write to; modes of their own do not stop the root of a namespace.
            let tmp = store(&env).join("tmp");
            std::os::unix::fs::chown(&tmp, Some(0), Some(0)).unwrap();
            fs::set_permissions(&tmp, fs::Permissions::from_mode(0o755)).unwrap();
            let told = env.kiln(["build", "plain"]);
            told.fails(
                4,
                &["Permission denied", "home/store", "hint: name another directory with `--store DIR`"],
            );
            person.give(&tmp).unwrap();
            env.kiln(["build", "plain"]).ok();
            continue;
        }
        // Root is stopped by a mount alone.
        let kiln = KILN;
        let script = format!(
            "mount --bind home/reference home/reference; mount -o remount,ro,bind home/reference
             for what in 'build -q plain' 'build --check plain' 'prune' 'fsck' 'du' 'images'; do
               code=0; {kiln} $what --store home/reference > told 2> error || code=$?
               case \"$what:$code\" in
                 *:4) grep -q 'Read-only file system' error; grep -q reference error; grep -q 'hint: name another directory' error;;
                 images:0) ;;
                 *) echo \"$what: $code\"; cat error; exit 9;;
               esac
             done
             {kiln} build --store other -q -t x:1 -o type=oci,dest=other.tar plain | grep -q {digest}"
        );
        let Some(mut command) = in_namespace(&env, &script) else { return };
        let outcome = within(&mut command, Duration::from_secs(60));
        assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    }
}

/// Sets the times of a file or directory, and of all below it.
fn date(path: &Path, seconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let meta = fs::symlink_metadata(path).unwrap();
    if meta.is_dir() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            date(&entry.path(), seconds);
        }
    }
    let time = Timespec { tv_sec: seconds, tv_nsec: 5 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn clocks_that_jump() {
    let Some(person) = lane::people("clocks that jump").into_iter().next() else { return };
    let env = environment(&person);
    let digest = env.kiln(BUILD).ok().to_owned();
    // 1901, before anything; 1970; a day ahead; the last second of 32 bits; the year 2400.
    let day_ahead = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64 + 86_400;
    for seconds in [-(1 << 31), 0, day_ahead, (1 << 31) - 1, 13_569_465_600] {
        let what = format!("files of second {seconds}");
        date(&env.root.join("ctx"), seconds);
        assert_eq!(env.kiln(BUILD).ok(), digest, "{what}, in the context");
        for folder in ["blobs", "records", "contexts", "history", "inputs", "locks", "cache-mounts"] {
            date(&store(&env).join(folder), seconds);
        }
        let told = env.kiln(BUILD);
        assert_eq!(told.ok(), digest, "{what}, in the store");
        assert!(told.stderr.contains("CACHED"), "{what}: {}", told.stderr);
        // A file that changes is seen, whatever its time is.
        env.write("ctx/src/7", format!("changed at {seconds}"));
        date(&env.root.join("ctx/src/7"), seconds);
        assert_ne!(env.kiln(BUILD).ok(), digest, "{what}");
        assert!(
            fs::read_to_string(env.root.join("home/out/seven")).unwrap().contains(&seconds.to_string()),
            "{what}"
        );
        env.write("ctx/src/7", "file 7".repeat(140));
        date(&env.root.join("ctx/src/7"), seconds);
        assert_eq!(env.kiln(BUILD).ok(), digest, "{what}");
        sound(&env, &what);
        env.kiln(["du"]).ok();
        env.kiln(["history"]).ok();
        // Nothing is deleted for an age that it cannot have.
        env.kiln(["prune", "--older-than", "1h", "--dry-run"]).ok();
        env.kiln(["build", "--cache-ttl", "1h", "-q", "ctx"]).ok();
        let epoch = seconds.max(0).to_string();
        env.kiln(["build", "--source-date-epoch", &epoch, "-q", "ctx"]).ok();
    }
    // Records of the future count as new.
    for entry in fs::read_dir(store(&env).join("records")).unwrap().flatten() {
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(entry.path()).unwrap()).unwrap();
        record["made"] = 32_503_680_000_u64.into();
        fs::write(entry.path(), record.to_string()).unwrap();
    }
    let told = env.kiln(["build", "--cache-ttl", "1h", "ctx"]);
    told.ok();
    assert!(told.stderr.contains("CACHED"), "{}", told.stderr);
    sound(&env, "records of the year 3000");
    env.kiln(["prune", "--all"]).ok();
    assert_eq!(env.kiln(BUILD).ok(), digest);
}

#[test]
fn builds_prunes_and_repairs_at_once() {
    let Some(person) = lane::people("builds, prunes and repairs at once").into_iter().next() else { return };
    let env = environment(&person);
    let digest = env.kiln(BUILD).ok().to_owned();
    let until = Instant::now() + Duration::from_secs(6);
    std::thread::scope(|scope| {
        for number in 0..2 {
            let (env, digest) = (&env, &digest);
            scope.spawn(move || {
                let dest = format!("type=oci,dest=home/out-{number}.tar");
                while Instant::now() < until {
                    let told = env.kiln(["build", "-t", "app:1", "-o", &dest, "ctx"]);
                    assert_eq!(told.ok(), digest);
                }
            });
        }
        for args in [&["prune", "--all"][..], &["fsck", "--repair"]] {
            let env = &env;
            scope.spawn(move || {
                while Instant::now() < until {
                    let told = env.kiln(args.iter().copied());
                    // A fault that comes and goes would be reported to somebody whose store is sound.
                    assert_eq!(told.code, Some(0), "{args:?}: {}{}", told.stdout, told.stderr);
                    assert!(!told.stdout.contains("repaired"), "{}", told.stdout);
                }
            });
        }
    });
    sound(&env, "afterwards");
    assert_eq!(env.kiln(BUILD).ok(), digest);
}
