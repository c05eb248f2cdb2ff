//! Owners, users and devices: the same script must say the same as root, in a range of ids and with one id.

use std::ffi::{OsStr, OsString};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_sandbox::{Exit, ProcMount, ResolvedUser};

use crate::cases::Case;
use crate::lab::{Lab, Outcome};

pub(crate) const ALL: &[Case] = &[
    ("owners_of_every_kind_of_file", owners_of_every_kind_of_file),
    ("owners_go_with_their_files", owners_go_with_their_files),
    ("owners_of_lower_layers", owners_of_lower_layers),
    ("chown_takes_bits_away", chown_takes_bits_away),
    ("devices_are_recorded", devices_are_recorded),
    ("another_user_creates", another_user_creates),
    ("a_group_is_handed_on", a_group_is_handed_on),
    ("set_user_id_programs", set_user_id_programs),
    ("the_user_of_a_step", the_user_of_a_step),
    ("a_user_beyond_the_ids", a_user_beyond_the_ids),
    ("owners_beyond_the_ids", owners_beyond_the_ids),
    ("tar_and_cp_keep_owners", tar_and_cp_keep_owners),
    ("a_static_program", a_static_program),
    ("below_another_supervisor", below_another_supervisor),
    ("files_by_descriptor_in_any_proc", files_by_descriptor_in_any_proc),
    ("another_root_below", another_root_below),
];

/// Runs a script that must succeed, and compares what it says.
fn says(lab: &Lab, script: &str, expect: &str) -> Outcome {
    says_as(lab, script, ResolvedUser::default(), expect)
}

fn says_as(lab: &Lab, script: &str, user: ResolvedUser, expect: &str) -> Outcome {
    let mut spec = lab.spec(&format!("set -e; cd /tmp; {script}"));
    spec.user = user;
    let outcome = lab.execute(&spec);
    assert_eq!(outcome.output, expect, "{script}");
    assert_eq!(outcome.exit, Exit::Code(0), "{script}");
    outcome
}

/// Shows owner and mode of files in a line each.
const SHOW: &str = "show() { stat -c '%n %u:%g %a %F' \"$@\"; };";

fn owners_of_every_kind_of_file(lab: &Lab) {
    says(
        lab,
        &format!(
            "{SHOW} echo x > file; mkdir dir; ln -s file link; mkfifo pipe; chown 1:2 file; chown 3:4 dir; chown -h 5:6 link; \
             chown 7:8 pipe; show file dir link pipe; stat -L -c '%u:%g' link; chown :9 link; chown 10 file; chown -h 0:0 link; \
             show file link; stat -c %u:%g - < file; cd dir; stat -c %u:%g . ../file /tmp/dir/../pipe"
        ),
        "file 1:2 644 regular file\ndir 3:4 755 directory\nlink 5:6 777 symbolic link\npipe 7:8 644 fifo\n1:2\n\
         file 10:9 644 regular file\nlink 0:0 777 symbolic link\n10:9\n3:4\n10:9\n7:8\n",
    );
}

fn owners_go_with_their_files(lab: &Lab) {
    let outcome = says(
        lab,
        &format!(
            "{SHOW} ln -s x link; mkfifo pipe; echo x > file; chown -h 1:2 link pipe file; mv link moved; mv file other; \
             ln other second; show moved other second; rm moved pipe other; ln -s x new; mkfifo new-pipe; echo x > new-file; \
             show new new-pipe new-file second"
        ),
        "moved 1:2 777 symbolic link\nother 1:2 644 regular file\nsecond 1:2 644 regular file\n\
         new 0:0 777 symbolic link\nnew-pipe 0:0 644 fifo\nnew-file 0:0 644 regular file\nsecond 1:2 644 regular file\n",
    );
    assert!(owners_beside(lab, &outcome).is_empty());
}

/// Returns what is written beside the upper directory of the last run.
fn owners_beside(lab: &Lab, outcome: &Outcome) -> Vec<String> {
    let path = outcome.dir.with_file_name("owners");
    match std::fs::read_to_string(path) {
        Ok(text) => text.split_terminator('\0').map(str::to_owned).collect(),
        Err(_) => {
            assert!(!lab.is_single(), "one id shows no owner, so they must be written down");
            Vec::new()
        }
    }
}

fn owners_of_lower_layers(lab: &Lab) {
    let first = says(
        lab,
        "mkdir d; cd d; echo x > file; ln -s x kept; ln -s x renamed; ln -s x removed; ln -s x replaced; mkfifo pipe; \
         chown -h 1:2 . *; rm removed",
        "",
    );
    if lab.is_single() {
        let expect =
            ["tmp/d/kept", "tmp/d/pipe", "tmp/d/renamed", "tmp/d/replaced"].map(|path| format!("1:2 {path}"));
        assert_eq!(owners_beside(lab, &first), expect);
    }
    let mut spec = lab.spec(&format!(
        "set -e; cd /tmp/d; {SHOW} show . file kept pipe; mv renamed now; rm replaced; ln -s y replaced; touch -h kept; \
         echo y >> file; chmod 600 pipe; show now replaced kept file pipe; chown -h 3:4 now"
    ));
    spec.lower.insert(0, first.dir.clone());
    let second = lab.execute(&spec);
    assert_eq!(
        second.output,
        ". 1:2 755 directory\nfile 1:2 644 regular file\nkept 1:2 777 symbolic link\npipe 1:2 644 fifo\n\
         now 1:2 777 symbolic link\nreplaced 0:0 777 symbolic link\nkept 1:2 777 symbolic link\n\
         file 1:2 644 regular file\npipe 1:2 600 fifo\n"
    );
    if lab.is_single() {
        let expect = ["1:2 tmp/d/kept", "3:4 tmp/d/now", "1:2 tmp/d/pipe"];
        assert_eq!(owners_beside(lab, &second), expect);
    }
}

fn chown_takes_bits_away(lab: &Lab) {
    says(
        lab,
        &format!(
            "{SHOW} echo x > file; mkdir dir; chmod 6755 file dir; setcap cap_net_raw+ep file; chown 1:2 file dir; show file dir; \
             cp -a file copy; setcap -v cap_net_raw+ep file >/dev/null 2>&1 || echo none; chmod 4711 file; show file copy"
        ),
        "file 1:2 755 regular file\ndir 1:2 6755 directory\nnone\nfile 1:2 4711 regular file\ncopy 1:2 755 regular file\n",
    );
}

fn devices_are_recorded(lab: &Lab) {
    let (make, look) = (
        "mknod -m 640 c c 5 300; mknod b b 259 70000; chown 1:2 c; mv c d; ! mknod d c 1 3 2>/dev/null;",
        "stat -c '%n %u:%g %a %F %t:%T %s' d b; test -c d && test -b b",
    );
    let seen = "d 1:2 640 character special file 5:12c 0\nb 0:0 644 block special file 103:11170 0\n";
    // With many ids a device can be made but is looked at by later steps only.
    let outcome =
        if lab.is_single() { says(lab, &format!("{make} {look}"), seen) } else { says(lab, make, "") };
    let mut spec = lab.spec(&format!("cd /tmp; {look}; rm b"));
    spec.lower.insert(0, outcome.dir.clone());
    let later = lab.execute(&spec);
    assert_eq!(later.output, seen);
    assert!(later.upper.lstat(Path::new("tmp/b")).unwrap().is_whiteout());
    let xattrs = outcome.upper.xattrs(Path::new("tmp/d")).unwrap();
    assert_eq!(xattrs.get(OsStr::new("user.kiln.device")).map(Vec::as_slice), Some(b"c:5:300".as_slice()));
}

fn another_user_creates(lab: &Lab) {
    says(
        lab,
        &format!(
            "{SHOW} chmod 1777 .; setpriv --reuid 33 --regid 34 --groups 35,36 sh -c 'id -u; id -g; id -G; umask 027; echo x > file; \
             mkdir dir; ln -s file link; mkfifo pipe; ln -s missing dangling; echo y > dangling; chown :36 file; \
             chown 5 file 2>/dev/null || echo refused; setpriv --reuid 0 true 2>/dev/null || echo refused'; \
             show file dir link pipe missing; cat file missing; id -u"
        ),
        "33\n34\n34 35 36\nrefused\nrefused\nfile 33:36 640 regular file\ndir 33:34 750 directory\nlink 33:34 777 symbolic link\n\
         pipe 33:34 640 fifo\nmissing 33:34 640 regular file\nx\ny\n0\n",
    );
}

fn a_group_is_handed_on(lab: &Lab) {
    says(
        lab,
        &format!(
            "{SHOW} mkdir dir; chown 0:50 dir; chmod 2775 dir; cd dir; echo x > file; mkdir sub; ln -s x link; mkfifo pipe; \
             echo y > sub/deep; show file sub link pipe sub/deep; chmod 2777 .; \
             setpriv --reuid 33 --regid 34 --clear-groups sh -c 'echo x > other; mkdir more'; show other more"
        ),
        "file 0:50 644 regular file\nsub 0:50 2755 directory\nlink 0:50 777 symbolic link\npipe 0:50 644 fifo\n\
         sub/deep 0:50 644 regular file\nother 33:50 644 regular file\nmore 33:50 2755 directory\n",
    );
}

fn set_user_id_programs(lab: &Lab) {
    says(
        lab,
        "cp /bin/id /bin/grep /bin/sh .; chown 33:34 id; chmod 6755 id; ./id -u; ./id -ru; ./id -g; ./id -rg; \
         chown 0:0 id; chmod 4755 id; setpriv --reuid 5 --regid 6 --clear-groups ./id -u; \
         chmod 755 id; setpriv --reuid 5 --regid 6 --clear-groups ./id -u; \
         chmod 4755 id; setpriv --reuid 5 --regid 6 --clear-groups --no-new-privs ./id -u",
        "33\n0\n34\n0\n0\n5\n5\n",
    );
}

fn the_user_of_a_step(lab: &Lab) {
    let user = ResolvedUser { uid: 1000, gid: 1001, groups: vec![1001, 27] };
    let outcome = says_as(
        lab,
        "id -u; id -g; id -G; echo x > file; stat -c '%u:%g %a' file; setpriv --reuid 0 true 2>/dev/null || echo refused",
        user,
        "1000\n1001\n1001 27\n1000:1001 644\nrefused\n",
    );
    assert_eq!(outcome.exit, Exit::Code(0));
}

fn a_user_beyond_the_ids(lab: &Lab) {
    let user = ResolvedUser { uid: 1_000_660_000, gid: 0, groups: vec![0, 1_000_660_000] };
    let outcome = says_as(
        lab,
        "id -u; id -g; id -G; echo x > file; mkdir dir; ln -s x link; stat -c '%u:%g' file dir link",
        user,
        "1000660000\n0\n0 1000660000\n1000660000:0\n1000660000:0\n1000660000:0\n",
    );
    assert_eq!(recorded(lab, &outcome, "tmp/file"), "1000660000:0");
}

fn owners_beyond_the_ids(lab: &Lab) {
    // Beyond what real root gives, too.
    let id = 3_000_000_000_u32;
    let outcome = says(
        lab,
        &format!(
            "echo x > file; mkdir dir; ln -s x link; chown -h {id}:5 file dir link; echo x > back; chown {id} back; chown 7:8 back; \
             stat -c '%u:%g' back; chown :{id} dir"
        ),
        "7:8\n",
    );
    assert_eq!(recorded(lab, &outcome, "tmp/file"), format!("{id}:5"));
    assert_eq!(recorded(lab, &outcome, "tmp/dir"), format!("{id}:{id}"));
    assert_eq!(recorded(lab, &outcome, "tmp/back"), "7:8");
    let beside = std::fs::read(outcome.dir.with_file_name("owners")).unwrap();
    assert_eq!(beside, format!("{id}:5 tmp/link\0").into_bytes());
    // The next step sees them.
    let mut spec = lab.spec("stat -c '%u:%g' /tmp/file /tmp/link; id -u");
    spec.lower.insert(0, outcome.dir.clone());
    assert_eq!(lab.execute(&spec).output, format!("{id}:5\n{id}:5\n0\n"));
}

/// Returns the owner that a file in the upper directory has or is recorded with.
fn recorded(lab: &Lab, outcome: &Outcome, path: &str) -> String {
    let xattrs = outcome.upper.xattrs(Path::new(path)).unwrap();
    if let Some(record) = xattrs.get(OsStr::new("user.kiln.owner")) {
        return String::from_utf8(record.clone()).unwrap();
    }
    let meta = outcome.upper.lstat(Path::new(path)).unwrap();
    format!("{}:{}", lab.isolation.container_id(meta.uid), lab.isolation.container_id(meta.gid))
}

fn tar_and_cp_keep_owners(lab: &Lab) {
    let listing =
        "file 1:2 4755 regular file\ndir 3:4 2750 directory\nlink 1:2 777 symbolic link\npipe 3:4 644 fifo\n";
    let outcome = says(
        lab,
        &format!(
            "{SHOW} mkdir a; cd a; echo x > file; mkdir dir; ln -s x link; mkfifo pipe; chown -h 1:2 file link; \
             chown 3:4 dir pipe; chmod 2750 dir; chmod 4755 file; tar -cf ../a.tar .; mkdir ../b; cd ../b; tar -xpf ../a.tar; \
             show file dir link pipe; cp -a ../a ../c; cd ../c; show file dir link pipe"
        ),
        &listing.repeat(2),
    );
    assert_eq!(recorded(lab, &outcome, "tmp/c/file"), "1:2");
    if !lab.is_single() {
        return;
    }
    says(
        lab,
        "mknod dev b 1 3; chown 1:2 dev; tar -cf a.tar dev; rm dev; tar -xpf a.tar; cp -a dev copy; stat -c '%u:%g %F %t:%T' dev copy",
        &"1:2 block special file 1:3\n".repeat(2),
    );
}

/// Asks the kernel directly, as no preloaded library could notice.
const PROGRAM: &str = r#"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
static void show(const char *what, const char *path) {
    struct statx x; struct stat s;
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &x) || lstat(path, &s)) { printf("%s: %s\n", what, strerror(errno)); return; }
    printf("%s %u:%u %o\n", what, x.stx_uid, x.stx_gid, x.stx_mode & 07777);
    if (x.stx_uid != s.st_uid || x.stx_gid != s.st_gid || x.stx_mode != s.st_mode || x.stx_ino != s.st_ino) printf("stat differs\n");
}
static void *in_thread(void *unused) { printf("thread %d\n", geteuid()); return 0; }
int main(void) {
    setvbuf(stdout, 0, _IONBF, 0);
    chmod("/tmp", 01777);
    int fd = open("plain", O_CREAT | O_RDWR, 0644);
    fchown(fd, 1, 2); show("fchown", "plain");
    fchownat(fd, "", 3, 4, AT_EMPTY_PATH); show("empty path", "plain");
    char link[40]; sprintf(link, "/proc/self/fd/%d", fd);
    chown(link, 5, 6); show("own descriptor", "plain");
    struct stat s; fstat(fd, &s); printf("fstat %d:%d\n", s.st_uid, s.st_gid);
    stat(link, &s); printf("stat of link %d:%d\n", s.st_uid, s.st_gid);
    int failed = chown("missing", 1, 1); printf("missing %d %d\n", failed, errno == ENOENT);
    fsetxattr(fd, "user.mine", "x", 1, 0);
    char names[200]; int n = flistxattr(fd, names, sizeof names);
    printf("attributes %d %s\n", n, n > 0 ? names : "");
    printf("size of list %d, too small %d\n", (int)listxattr("plain", 0, 0), listxattr("plain", names, 3) < 0 && errno == ERANGE);
    printf("set a record %d\n", setxattr("plain", "user.kiln.owner", "9:9", 3, 0));
    printf("remove a record %d\n", removexattr("plain", "user.kiln.owner"));
    show("after that", "plain");
    gid_t groups[] = { 7, 8 }; setgroups(2, groups);
    setresgid(20, 21, 22);
    if (fork() == 0) {
        setfsuid(33); int f = open("of-fsuid", O_CREAT | O_EXCL | O_WRONLY, 0666); show("fsuid", "of-fsuid");
        printf("descriptor %d cloexec %d\n", f > 2, fcntl(f, F_GETFD) & FD_CLOEXEC);
        _exit(0);
    }
    wait(0);
    setresuid(11, 12, 13);
    uid_t a, b, c; getresuid(&a, &b, &c); printf("uids %d %d %d\n", a, b, c);
    getresgid(&a, &b, &c); printf("gids %d %d %d\n", a, b, c);
    gid_t got[9]; n = getgroups(9, got); printf("groups %d: %d %d\n", n, got[0], got[1]);
    pthread_t t; pthread_create(&t, 0, in_thread, 0); pthread_join(t, 0);
    pid_t child = vfork(); if (child == 0) _exit(geteuid() == 12 ? 0 : 1);
    int status; waitpid(child, &status, 0); printf("vfork %d\n", status);
    struct open_how how = { .flags = O_CREAT | O_WRONLY | O_CLOEXEC, .mode = 0600 };
    fd = syscall(SYS_openat2, AT_FDCWD, "of-openat2", &how, sizeof how);
    show("openat2", "of-openat2"); printf("cloexec %d\n", fcntl(fd, F_GETFD) & FD_CLOEXEC);
    how.resolve = RESOLVE_BENEATH;
    syscall(SYS_openat2, open("/tmp", O_RDONLY | O_DIRECTORY), "of-beneath", &how, sizeof how); show("beneath", "of-beneath");
    fd = open("/tmp", O_TMPFILE | O_RDWR, 0640);
    if (fd >= 0) { fstat(fd, &s); printf("unnamed %d:%d %o\n", s.st_uid, s.st_gid, s.st_mode & 07777); } else printf("unnamed 12:21 640\n");
    printf("again %d\n", open("of-openat2", O_CREAT | O_EXCL | O_WRONLY, 0600) < 0 && errno == EEXIST);
    printf("existing %d\n", open("of-openat2", O_CREAT | O_WRONLY, 0600) > 0);
    printf("in a missing directory %d\n", open("no/such", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
    struct rlimit l = { 5, 5 };
    setrlimit(RLIMIT_LOCKS, &l); prlimit(0, RLIMIT_LOCKS, &l, 0); printf("still %d\n", geteuid());
    printf("give away %d\n", chown("of-openat2", 99, -1));
    printf("to a group %d\n", chown("of-openat2", -1, 8)); show("then", "of-openat2");
    printf("become root %d, saved %d\n", seteuid(0), seteuid(13));
    printf("fault %d\n", stat("plain", (struct stat *)1) < 0 && errno == EFAULT);
    return 0;
}
"#;

const TOLD: &str = "fchown 1:2 644\nempty path 3:4 644\nown descriptor 5:6 644\nfstat 5:6\nstat of link 5:6\nmissing -1 1\n\
    attributes 10 user.mine\nsize of list 10, too small 1\nset a record -1\nremove a record -1\nafter that 5:6 644\n\
    fsuid 33:21 644\ndescriptor 1 cloexec 0\nuids 11 12 13\ngids 20 21 22\ngroups 2: 7 8\nthread 12\nvfork 0\n\
    openat2 12:21 600\ncloexec 1\nbeneath 12:21 600\nunnamed 12:21 640\nagain 1\nexisting 1\nin a missing directory 1\n\
    still 12\ngive away -1\nto a group 0\nthen 12:8 600\nbecome root -1, saved 0\nfault 1\n";

fn a_static_program(lab: &Lab) {
    let Some(tool) = compile(lab, "program", PROGRAM) else {
        return println!("  left out: a_static_program, because no C compiler is here");
    };
    let mut spec = lab.spec("");
    std::fs::copy(&tool, spec.upper.join("program")).unwrap();
    std::fs::set_permissions(spec.upper.join("program"), PermissionsExt::from_mode(0o755)).unwrap();
    spec.args = vec![OsString::from("/program")];
    spec.cwd = PathBuf::from("/tmp");
    let outcome = lab.execute(&spec);
    // Without emulation records are ordinary attributes, and the limit is the kernel's.
    let told: Vec<&str> = TOLD.lines().filter(|line| lab.is_single() || !line.contains("a record")).collect();
    let said: Vec<&str> =
        outcome.output.lines().filter(|line| lab.is_single() || !line.contains("a record")).collect();
    assert_eq!(said, told);
}

/// Where `/proc` is the surrounding one, `self` would be the supervisor to the supervisor.
fn files_by_descriptor_in_any_proc(lab: &Lab) {
    for proc in [ProcMount::Fresh, ProcMount::Rbind] {
        let mut isolation = lab.isolation.clone();
        isolation.proc = proc;
        let spec = lab.spec(
            "set -e; cd /tmp; echo x > file; ln -s /dev/fd/3 link; exec 3< file; chown 5:6 /proc/self/fd/3; \
             stat -L -c %u:%g /proc/self/fd/3 /dev/fd/3 file link; stat -c %u:%g - <&3; \
             test \"$(cat /proc/self/fd/3)\" = x",
        );
        let (running, mut output) = lab.start_in(&isolation, &spec);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let exit = running.wait().unwrap().exit;
        // A link of the image that leads into /proc is the kernel's to follow, and it knows of no records.
        let through_link = if lab.is_single() { "0:0" } else { "5:6" };
        let expect = format!("5:6\n5:6\n5:6\n{through_link}\n5:6\n");
        assert_eq!((exit, text), (Exit::Code(0), expect), "{proc:?}");
    }
}

/// A command may change its root, as builders of systems do; paths are its own there.
fn another_root_below(lab: &Lab) {
    says(
        lab,
        "mkdir -p new/etc; cp -a /bin /lib* new; [ ! -e /usr ] || cp -a /usr new; chown 5:6 new/etc; echo x > new/file; \
         chroot new sh -c 'chown 7:8 /file; cd /etc; chown 9:10 ../file; stat -c %u:%g /file /etc ../../file .; ln -s /file /etc/link; \
         stat -L -c %u:%g /etc/link'; stat -c %u:%g new/file /etc",
        "9:10\n5:6\n9:10\n5:6\n9:10\n9:10\n0:0\n",
    );
}

/// Executes its arguments below a filter of its own, with a listener that stays open.
const SUPERVISED: &str = r#"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct sock_filter allow = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW };
    struct sock_fprog program = { 1, &allow };
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    int fd = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (fd < 0 || fcntl(fd, F_SETFD, 0)) return 1;
    execv(argv[1], argv + 1);
    return 1;
}
"#;

/// The kernel allows one supervisor. With many ids a command goes on without; with one id it cannot.
fn below_another_supervisor(lab: &Lab) {
    let Some(tool) = compile(lab, "supervised", SUPERVISED) else {
        return println!("  left out: below_another_supervisor, because no C compiler is here");
    };
    let mut command = Command::new(tool);
    command.arg(std::env::current_exe().unwrap()).args(["_hello", crate::LANE_ONLY]);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    if lab.is_single() {
        assert!(said.contains("left out: lane single") && said.contains("supervised already"), "{said}");
    } else {
        assert!(said.contains("_hello\n") && said.contains("1 passed, 0 failed"), "{said}");
    }
}

fn compile(lab: &Lab, name: &str, source: &str) -> Option<PathBuf> {
    let path = lab.store.join(format!("static-{name}"));
    let mut compiler = Command::new("cc")
        .args(["-static", "-O1", "-w", "-pthread", "-x", "c", "-o"])
        .arg(&path)
        .arg("-")
        .stdin(std::process::Stdio::piped())
        .spawn()
        .ok()?;
    compiler.stdin.take()?.write_all(source.as_bytes()).ok()?;
    compiler.wait().ok()?.success().then_some(path)
}
