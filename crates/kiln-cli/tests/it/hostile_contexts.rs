//! Hostile build contexts: links out, files that are none, files that change while they are read, names that shout.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_testkit::{Person, lane};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::hostile_tar::Tar;
use crate::hostile_world::{Expect, SECRET, World, refused};

const LOCAL: [&str; 3] = ["build", "-o", "type=local,dest=out"];

/// A context that is filled anew for every case.
struct Contexts {
    world: World,
}

impl Contexts {
    fn new(person: &Person) -> Self {
        Self { world: World::new(person) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.env.root.join("work/ctx").join(name)
    }

    fn node(&self, name: &str, kind: FileType, device: (u32, u32)) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        mknodat(CWD, &path, kind, Mode::from_raw_mode(0o666), makedev(device.0, device.1)).unwrap();
    }

    fn link(&self, name: &str, target: &Path) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, &path).unwrap();
    }

    /// Builds `dockerfile` with what `fill` puts into the context.
    fn check(&self, case: &str, dockerfile: &str, fill: impl Fn(&Self), expect: &Expect) {
        let _ = fs::remove_dir_all(self.path(""));
        fs::create_dir_all(self.path("")).unwrap();
        if !dockerfile.is_empty() {
            self.world.write("ctx/Dockerfile", dockerfile);
        }
        fill(self);
        self.world.check(case, expect, &[&LOCAL[..], &["ctx"]].concat(), None);
    }
}

#[test]
fn links() {
    for person in lane::people("links in contexts") {
        let it = Contexts::new(&person);
        let canary = it.world.canary.clone();
        let secret = canary.join("secret");
        let copy = |source: &str| format!("FROM scratch\nCOPY {source} /x\n");
        let missing = |name: &'static str| refused(&["cannot find", name]);
        it.check("an absolute link", &copy("l"), |c| c.link("l", &secret), &missing("`l`"));
        it.check(
            "a relative link",
            &copy("l"),
            |c| c.link("l", Path::new("../../canary/secret")),
            &missing("`l`"),
        );
        it.check(
            "a link to a directory",
            &copy("d/secret"),
            |c| c.link("d", &canary),
            &missing("`d/secret`"),
        );
        it.check(
            "a link to the root",
            &copy("r/etc/passwd"),
            |c| c.link("r", Path::new("/")),
            &missing("`r/etc/passwd`"),
        );
        it.check(
            "a link, then `..`",
            &copy("d/../secret"),
            |c| c.link("d", &canary.join("dir")),
            &missing("secret"),
        );
        it.check(
            "a link of /proc",
            &copy("p/passwd"),
            |c| c.link("p", Path::new("/proc/self/root/etc")),
            &missing("`p/passwd`"),
        );
        it.check(
            "a link to itself",
            &copy("l"),
            |c| c.link("l", Path::new("l")),
            &refused(&["too many symbolic links on the way to `/l`"]),
        );
        it.check("`..`", &copy("../../canary/secret"), |_| {}, &missing("secret"));
        it.check("`/..`", &copy("/../../../etc/passwd"), |_| {}, &missing("etc/passwd"));
        it.check("a pattern over links", &copy("*/secret"), |c| c.link("d", &canary), &Expect::Built);
        let with_file = |c: &Contexts| {
            c.world.write("ctx/f", "f");
            c.link("d/l", &secret);
            c.link("d/out", &canary);
        };
        let kept = Expect::Files(vec![
            "dir 755 x".to_owned(),
            format!("link x/l -> {}", secret.display()),
            format!("link x/out -> {}", canary.display()),
        ]);
        it.check("links that are copied", &copy("d"), with_file, &kept);
        let add = "FROM scratch\nADD a.tar /\n";
        it.check("a link to an archive", add, |c| c.link("a.tar", &secret), &missing("`a.tar`"));
        let exclude = "FROM scratch\nCOPY --exclude=../../* . /x\n";
        it.check("an exclusion of outside", exclude, |_| {}, &Expect::Built);
        let parents = "FROM scratch\nCOPY --parents d/./out/secret /x\n";
        it.check("parents through a link", parents, with_file, &refused(&["secret"]));
        it.world.finish();
    }
}

#[test]
fn dockerfiles_and_ignore_files() {
    for person in lane::people("files of contexts") {
        let it = Contexts::new(&person);
        let secret = it.world.canary.join("secret");
        let sound = "FROM scratch\nCOPY Dockerfile /\n";
        let out = || refused(&["is a symbolic link that leads to no file of the context"]);
        for name in [
            "Dockerfile",
            "dockerfile",
            "Containerfile",
            ".dockerignore",
            ".containerignore",
            "Dockerfile.dockerignore",
        ] {
            let own = if name.contains("ignore") { sound } else { "" };
            let case = |what: &str| format!("`{name}` as {what}");
            it.check(&case("a link out"), own, |c| c.link(name, &secret), &out());
            let up = Path::new("../../canary/secret");
            it.check(&case("a link up"), own, |c| c.link(name, up), &out());
            it.check(&case("a link to nothing"), own, |c| c.link(name, Path::new("nothing")), &out());
            it.check(&case("a link to /dev/zero"), own, |c| c.link(name, Path::new("/dev/zero")), &out());
            let pipe = |c: &Contexts| c.node(name, FileType::Fifo, (0, 0));
            it.check(&case("a pipe"), own, pipe, &refused(&["a pipe, a socket or a device"]));
            let dir = |c: &Contexts| fs::create_dir(c.path(name)).unwrap();
            it.check(&case("a directory"), own, dir, &refused(&["is a directory, and should be a file"]));
        }
        // A link within the context is as good as a file.
        let inside = |c: &Contexts| {
            c.world.write("ctx/build/file", sound);
            c.link("Dockerfile", Path::new("build/file"));
        };
        it.check("a Dockerfile that is a link within", "", inside, &Expect::Built);
        let ignore = |text: Vec<u8>| move |c: &Contexts| drop(c.world.write("ctx/.dockerignore", &text));
        it.check(
            "patterns of a megabyte of stars",
            sound,
            ignore(vec![b'*'; 1 << 20]),
            &refused(&[".dockerignore"]),
        );
        it.check("ten thousand times `**/`", sound, ignore(b"**/".repeat(10_000)), &refused(&["excludes"]));
        it.check(
            "a hundred thousand patterns",
            sound,
            ignore(b"a*b*c*d*e?\n".repeat(100_000)),
            &Expect::Built,
        );
        it.check("a pattern without its end", sound, ignore(b"[a\n".to_vec()), &refused(&[".dockerignore"]));
        it.check(
            "patterns with control characters",
            sound,
            ignore(b"[\x1b[31m\x07\n".to_vec()),
            &refused(&[".dockerignore"]),
        );
        it.check(
            "patterns that lead out",
            sound,
            ignore(b"../../canary\n!../../canary/secret\n".to_vec()),
            &Expect::Built,
        );
        it.check(
            "an ignore file of 70 MB",
            sound,
            ignore(vec![b'#'; 70 << 20]),
            &refused(&["larger than 64 MiB"]),
        );
        it.world.finish();
    }
}

#[test]
fn archives_with_links_in_place_of_files() {
    let Some(person) = lane::people("archives of contexts").into_iter().next() else { return };
    let world = World::new(&person);
    let secret = world.canary.join("secret").display().to_string();
    let out = refused(&["is a symbolic link that leads to no file of the context"]);
    let sound = "FROM scratch\nCOPY Dockerfile /\n";
    for (case, tar) in [
        ("a Dockerfile that is a link", Tar::new().symlink("Dockerfile", &secret)),
        (
            "an ignore file that is a link",
            Tar::new().file("Dockerfile", sound).symlink(".dockerignore", &secret),
        ),
    ] {
        let path = world.write("context.tar", tar.end());
        world.check(case, &out, &[&LOCAL[..], &["-"]].concat(), Some(&path));
        world.check(&format!("{case}, in a file"), &out, &[&LOCAL[..], &["context.tar"]].concat(), None);
    }
    let devices = Tar::new()
        .file("Dockerfile", "FROM scratch\nCOPY . /x\n")
        .device(b'3', "zero", 1, 5)
        .device(b'4', "disk", 254, 0);
    let path = world.write("context.tar", devices.end());
    let outcome = world.kiln(&["build", "-o", "type=oci,dest=out.tar", "-"], Some(&path));
    world.judge(
        "devices in an archive",
        &if outcome.code == Some(0) { Expect::Built } else { refused(&["zero"]) },
        &outcome,
    );
    world.finish();
}

#[test]
fn files_that_are_none() {
    for person in lane::people("files that are none") {
        let it = Contexts::new(&person);
        let all = "FROM scratch\nCOPY . /x\n";
        let one = "FROM scratch\nCOPY p /x\n";
        let pipe = |c: &Contexts| c.node("p", FileType::Fifo, (0, 0));
        it.check("a pipe", one, pipe, &Expect::Files(vec!["special 644 x".to_owned()]));
        let socket = |c: &Contexts| drop(std::os::unix::net::UnixListener::bind(c.path("p")).unwrap());
        it.check("a socket", one, socket, &Expect::Built);
        if person == Person::Root {
            let zero = |c: &Contexts| c.node("p", FileType::CharacterDevice, (1, 5));
            it.check("/dev/zero", one, zero, &Expect::Built);
            let whiteout = |c: &Contexts| c.node("p", FileType::CharacterDevice, (0, 0));
            it.check("the whiteout of an overlay", all, whiteout, &Expect::Built);
        } else {
            let closed = |c: &Contexts| {
                let path = c.world.write("ctx/p", "p");
                fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
            };
            // Root of a user namespace is still the user to the file system, and may read what is theirs.
            it.check("a file of mode 0", all, closed, &Expect::Built);
            let foreign = |c: &Contexts| {
                let path = c.path("p");
                fs::write(&path, "p").unwrap();
                std::os::unix::fs::chown(&path, Some(0), Some(0)).unwrap();
                fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
            };
            it.check("a file that only root may read", one, foreign, &refused(&["`p`", "Permission denied"]));
        }
        let whiteout_name = |c: &Contexts| drop(c.world.write("ctx/.wh.x", "x"));
        it.check("the name of a whiteout", all, whiteout_name, &refused(&[".wh.x", "mean the removal"]));
        let loud = |c: &Contexts| {
            c.world.write("ctx/dir/a\nb\u{1b}[31m\u{7}", "x");
            c.link("dir/\u{1b}]0;title\u{7}", Path::new("\u{1b}[2J"));
            fs::write(c.path("dir").join(std::ffi::OsStr::from_bytes(b"\xff\xfe")), "x").unwrap();
        };
        it.check("names that shout", "FROM scratch\nCOPY dir /x\n", loud, &Expect::Built);
        let loud_fault = |c: &Contexts| drop(c.world.write("ctx/dir/.wh.\n\u{1b}[31m", "x"));
        it.check("names that shout in an error", all, loud_fault, &refused(&[".wh."]));
        let missing = "FROM scratch\nCOPY \"a\u{1b}[31m\u{7}b\" /x\n";
        it.check("an instruction that shouts", missing, |_| {}, &refused(&["bad pattern"]));
        let deep = |c: &Contexts| fs::create_dir_all(c.path(&"d/".repeat(600))).unwrap();
        it.check("600 levels", all, deep, &Expect::Built);
        it.world.finish();
    }
}

/// What a thread does to the context, over and over.
type Change = fn(&Path, &Path, u64);

const CHANGES: [(&str, Change); 7] = [
    ("a file becomes a link and a file again", |ctx, canary, n| {
        let new = ctx.join("d/new");
        if n.is_multiple_of(2) {
            let _ = symlink(canary.join("secret"), &new);
        } else {
            let _ = fs::write(&new, "harmless");
        }
        let _ = fs::rename(&new, ctx.join("d/f"));
    }),
    ("a directory becomes a link", |ctx, canary, n| {
        if n.is_multiple_of(2) {
            let _ = fs::rename(ctx.join("d"), ctx.join("../aside"));
            let _ = symlink(canary, ctx.join("d"));
        } else {
            let _ = fs::remove_file(ctx.join("d"));
            let _ = fs::rename(ctx.join("../aside"), ctx.join("d"));
        }
    }),
    ("a file becomes a pipe", |ctx, _, n| {
        let new = ctx.join("d/new");
        if n.is_multiple_of(2) {
            let _ = mknodat(CWD, &new, FileType::Fifo, Mode::from_raw_mode(0o666), 0);
        } else {
            let _ = fs::write(&new, "harmless");
        }
        let _ = fs::rename(&new, ctx.join("d/f"));
    }),
    ("a file grows", |ctx, _, n| {
        use std::io::Write as _;
        if let Ok(mut file) = fs::File::options().append(true).open(ctx.join("large")) {
            let _ = file.write_all(&n.to_le_bytes());
        }
    }),
    ("a file shrinks", |ctx, _, n| {
        if let Ok(file) = fs::File::options().write(true).open(ctx.join("large")) {
            let _ = file.set_len(2_000_000 - n % 2_000_000);
        }
    }),
    ("files come and go", |ctx, _, n| {
        let path = ctx.join(format!("d/{}", n % 7));
        let _ = if n.is_multiple_of(2) { fs::write(path, "harmless") } else { fs::remove_file(path) };
    }),
    ("the Dockerfile becomes a link", |ctx, canary, n| {
        let new = ctx.join("new-dockerfile");
        if n.is_multiple_of(2) {
            let _ = symlink(canary.join("secret"), &new);
        } else {
            let _ = fs::write(&new, "FROM scratch\nCOPY . /x\n");
        }
        let _ = fs::rename(&new, ctx.join("Dockerfile"));
    }),
];

#[test]
fn contexts_that_change() {
    let Some(person) = lane::people("contexts that change").into_iter().next() else { return };
    let world = World::new(&person);
    for (case, change) in CHANGES {
        let ctx = world.env.root.join("work/ctx");
        let _ = fs::remove_dir_all(&ctx);
        world.write("ctx/Dockerfile", "FROM scratch\nCOPY . /x\n");
        world.write("ctx/d/f", "harmless");
        world.write("ctx/large", vec![7; 2_000_000]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    change(&ctx, &world.canary, n);
                    n += 1;
                }
            });
            for _ in 0..12 {
                let tar = world.env.root.join("work/out.tar");
                let _ = fs::remove_file(&tar);
                let outcome = world.kiln(&["build", "-o", "type=tar,dest=out.tar", "ctx"], None);
                // Either what the files were at some moment, or an error that says so.
                let expect = match outcome.code {
                    Some(0) => Expect::Built,
                    Some(4) => Expect::Refused(4, vec![]),
                    _ => refused(&[]),
                };
                world.judge(case, &expect, &outcome);
                let bytes = fs::read(&tar).unwrap_or_default();
                if bytes.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()) {
                    world.fail(format!("{case}: the secret is in the image"));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let _ = fs::remove_dir_all(world.env.root.join("work/aside"));
    }
    world.finish();
}
