//! ADD of local archives. Expectations are those of BuildKit's unpacking.

use std::io::Write as _;
use std::process::{Command, Stdio};

use kiln_testkit::{Image, TestEnv, lane};

use crate::{env, env_of};

/// One member of an archive.
pub(crate) struct Member<'a> {
    name: &'a str,
    kind: u8,
    mode: u32,
    owner: (u32, u32),
    mtime: u64,
    link: &'a str,
    content: &'a [u8],
}

fn member<'a>(kind: u8, name: &'a str) -> Member<'a> {
    Member { name, kind, mode: 0o644, owner: (0, 0), mtime: 1000, link: "", content: b"" }
}

pub(crate) fn file<'a>(name: &'a str, content: &'a str) -> Member<'a> {
    Member { content: content.as_bytes(), ..member(b'0', name) }
}

fn dir(name: &str, mode: u32) -> Member<'_> {
    Member { mode, ..member(b'5', name) }
}

fn link<'a>(kind: u8, name: &'a str, target: &'a str) -> Member<'a> {
    Member { link: target, ..member(kind, name) }
}

/// Writes a ustar archive as any program might, in this order and with these names.
pub(crate) fn tar(members: &[Member<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, member.name);
        put(100, &format!("{:07o}\0{:07o}\0{:07o}\0", member.mode, member.owner.0, member.owner.1));
        put(124, &format!("{:011o}\0{:011o}\0        ", member.content.len(), member.mtime));
        put(157, member.link);
        put(257, "ustar\u{0}00");
        put(329, "0000001\u{0}0000003\u{0}");
        header[156] = member.kind;
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(member.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

/// Compresses with the program of that name; nothing where it is missing.
fn compress(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    lane::program(program, &format!("archives of {program}"))?;
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // Both pipes are small: whoever only writes waits for ever.
        scope.spawn(move || input.write_all(bytes).unwrap());
        Some(child.wait_with_output().unwrap().stdout)
    })
}

fn build(env: &TestEnv, dockerfile: &str) -> Image {
    env.write("ctx/Dockerfile", dockerfile);
    let name = format!("{}/add:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    Image::pull(&name)
}

fn small() -> Vec<u8> {
    tar(&[file("b", "bb"), dir("d/", 0o700), file("d/x", "x"), file("a", "a")])
}

#[test]
fn archives_are_known_by_their_content() {
    let env = env();
    env.write("ctx/archive", small());
    let expect = [
        "dir 755 0:0 t",
        "file 644 0:0 t/a 1",
        "file 644 0:0 t/b 2",
        "dir 700 0:0 t/d",
        "file 644 0:0 t/d/x 1",
    ];
    assert_eq!(build(&env, "FROM scratch\nADD archive /t\n").last().lines(), expect);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let Some(once) = compress(program, &small()) else { continue };
        env.write("ctx/archive", &once);
        assert_eq!(build(&env, "FROM scratch\nADD archive /t\n").last().lines(), expect, "{program}");
        // Members that follow each other are one stream, as parallel compressors write it.
        let (front, back) = (&small()[..700], &small()[700..]);
        let twice = [compress(program, front).unwrap(), compress(program, back).unwrap()].concat();
        env.write("ctx/archive", twice);
        assert_eq!(build(&env, "FROM scratch\nADD archive /t\n").last().lines(), expect, "{program}, twice");
        // A file that is only compressed is no archive, whatever its name, and neither is an empty archive.
        let text = compress(program, &[b'x'; 3000]).unwrap();
        env.write("ctx/f.tar.gz", &text);
        env.write("ctx/empty.tar", compress(program, &[0; 1024]).unwrap());
        let image = build(&env, "FROM scratch\nADD f.tar.gz /t/\nADD empty.tar /t/\n");
        assert_eq!(
            image.layers[0].lines()[1],
            format!("file 644 0:0 t/f.tar.gz {}", text.len()),
            "{program}"
        );
        assert_eq!(image.layers[1].entries.len(), 2, "{program}");
    }
    // What only begins like a compressed file is copied.
    for text in [&b"\x1f\x8b but no gzip"[..], b"BZh91AY&SY no", b"\xfd7zXZ\0 no", b"", b"text"] {
        env.write("ctx/archive", text);
        let image = build(&env, "FROM scratch\nADD archive /t\n");
        assert_eq!(image.last().lines(), [format!("file 644 0:0 t {}", text.len())]);
    }
}

#[test]
fn an_archive_that_ends_too_early_is_a_fault() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nADD archive /t\n");
    let mut seed = 1_u32;
    let mut random = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    let noise: Vec<u8> = (0..2 << 20).map(|_| random()).collect();
    let whole = tar(&[Member { content: &noise, ..member(b'0', "noise") }]);
    for program in ["cat", "gzip", "bzip2", "xz", "zstd"] {
        let Some(bytes) = (if program == "cat" { Some(whole.clone()) } else { compress(program, &whole) })
        else {
            continue;
        };
        env.write("ctx/archive", &bytes[..bytes.len() * 2 / 3]);
        env.kiln(["build", "ctx"]).fails(1, &["cannot unpack `archive`", "Dockerfile:2", "--unpack=false"]);
    }
}

#[test]
fn unpack_says_whether_and_chown_for_whom() {
    let env = env();
    env.write(
        "ctx/a.tar",
        tar(&[Member { owner: (5, 6), ..file("i/x", "x") }, Member { owner: (5, 6), ..dir("e", 0o711) }]),
    );
    env.write("ctx/plain", "p");
    let image = build(
        &env,
        "FROM scratch\nADD a.tar /t\nADD --unpack=false a.tar /t1/\nADD --unpack a.tar plain /t2/\n\
         ADD --chown=7:8 --chmod=600 a.tar /t3/deep\nCOPY a.tar /t4/\nADD --exclude=e --exclude=i a*.tar /t5\n",
    );
    let lines = |n: usize| image.layers[n].lines();
    // Directories without an entry are root's.
    assert_eq!(lines(0), ["dir 755 0:0 t", "dir 711 5:6 t/e", "dir 755 0:0 t/i", "file 644 5:6 t/i/x 1"]);
    assert_eq!(lines(1), ["dir 755 0:0 t1", "file 644 0:0 t1/a.tar 3072"].map(|l| l.replace("3072", "2560")));
    assert_eq!(lines(2)[4..], ["file 644 0:0 t2/plain 1"]);
    // All entries get the owner, but `--chmod` and `--exclude` do not reach into an archive.
    assert_eq!(
        lines(3),
        [
            "dir 755 7:8 t3",
            "dir 755 7:8 t3/deep",
            "dir 711 7:8 t3/deep/e",
            "dir 755 0:0 t3/deep/i",
            "file 644 7:8 t3/deep/i/x 1"
        ]
    );
    assert_eq!(lines(4), ["dir 755 0:0 t4", "file 644 0:0 t4/a.tar 2560"]);
    assert_eq!(lines(5).len(), 4);
    env.write("ctx/Dockerfile", "FROM scratch\nADD plain /t\nADD a.tar /t\n");
    env.kiln(["build", "ctx"]).fails(1, &["cannot copy to non-directory `/t`", "Dockerfile:3"]);
}

#[test]
fn what_is_there_is_merged_or_replaced() {
    let env = env();
    for path in ["base/usr/lib/old", "base/etc/conf", "base/data/dir/inner"] {
        env.write(&format!("ctx/{path}"), "");
    }
    std::os::unix::fs::symlink("usr/lib", env.root.join("ctx/base/lib")).unwrap();
    std::os::unix::fs::symlink("usr/lib", env.root.join("ctx/base/lib2")).unwrap();
    env.write(
        "ctx/a.tar",
        tar(&[
            dir(".", 0o700),
            dir("etc", 0o750),
            file("lib/new", "n"),
            file("lib/deep/er", "d"),
            dir("lib2", 0o711),
            file("lib2/x", "x"),
            file("data/dir", "now a file"),
            dir("etc/conf", 0o755),
        ]),
    );
    let image = build(&env, "FROM scratch\nCOPY --chmod=755 base /\nADD a.tar /\n");
    assert_eq!(
        image.last().lines(),
        [
            // `data` has no entry and stays; the file takes the place of the directory.
            "dir 755 0:0 data",
            "file 644 0:0 data/dir 10",
            "dir 750 0:0 etc",
            "dir 755 0:0 etc/conf",
            // A directory of the archive takes the place of a link, and where it has none the link is followed.
            "dir 711 0:0 lib2",
            "file 644 0:0 lib2/x 1",
            "dir 755 0:0 usr",
            "dir 755 0:0 usr/lib",
            "dir 755 0:0 usr/lib/deep",
            "file 644 0:0 usr/lib/deep/er 1",
            "file 644 0:0 usr/lib/new 1",
        ]
    );
    // Of two archives the later wins, with all that was below.
    env.write("ctx/1.tar", tar(&[file("a/b/c", "1"), file("z", "1")]));
    env.write("ctx/2.tar", tar(&[file("a/b", "22")]));
    let image = build(&env, "FROM scratch\nADD 1.tar 2.tar /\n");
    assert_eq!(image.last().lines(), ["dir 755 0:0 a", "file 644 0:0 a/b 2", "file 644 0:0 z 1"]);
}

#[test]
fn names_stay_inside_and_kinds_arrive_whoever_builds() {
    let members = [
        file("../../up", "u"),
        file("/absolute/f", "f"),
        Member { owner: (33, 50), mode: 0o4755, ..file("x/../s", "s") },
        link(b'1', "hard", "/absolute/f"),
        Member { owner: (33, 50), ..link(b'2', "soft", "../../../etc/passwd") },
        Member { owner: (7, 7), mode: 0o600, ..member(b'3', "null") },
        Member { owner: (7, 7), mode: 0o600, ..member(b'6', "pipe") },
        Member { mtime: 0, ..file("old", "") },
        Member { mtime: 4_000_000_000, ..file("future", "") },
    ];
    let mut digests = Vec::new();
    for person in lane::people("archives of ADD") {
        let env = env_of(person.clone());
        env.write("ctx/a.tar", tar(&members));
        let image = build(&env, "FROM scratch AS s\nADD a.tar /t/\nFROM scratch\nCOPY --from=s /t /t\n");
        assert_eq!(
            image.last().lines(),
            [
                "dir 755 0:0 t",
                "dir 755 0:0 t/absolute",
                "file 644 0:0 t/absolute/f 1",
                "file 644 0:0 t/future 0",
                "hard 644 0:0 t/hard = t/absolute/f",
                "char 600 7:7 t/null 1:3",
                "file 644 0:0 t/old 0",
                "fifo 600 7:7 t/pipe",
                "file 4755 33:50 t/s 1",
                "link 777 33:50 t/soft -> ../../../etc/passwd",
                "file 644 0:0 t/up 1",
            ],
            "{person}"
        );
        // Times of an archive are kept, zero too, and cut to the epoch.
        let time = |path: &str| image.entry(path).unwrap().mtime.secs;
        let epoch = 315_619_200;
        assert_eq!(
            (time("t/old"), time("t/s"), time("t/future"), time("t/absolute")),
            (0, 1000, epoch, epoch)
        );
        digests.push(image.digest);
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
}

#[test]
fn hostile_archives_are_refused() {
    let env = env();
    let fails = |bytes: Vec<u8>, args: &[&str], parts: &[&str]| {
        env.write("ctx/a.tar", bytes);
        env.write("ctx/Dockerfile", "FROM scratch\nADD a.tar /t/\n");
        env.kiln(["build"].iter().chain(args).chain(&["ctx"])).fails(1, parts);
    };
    fails(
        tar(&[file("d/.wh.x", "")]),
        &[],
        &["cannot unpack `a.tar` of the build context", ".wh.x", "whiteout"],
    );
    fails(tar(&[link(b'1', "h", "missing")]), &[], &["cannot unpack `a.tar`", "missing"]);
    fails(tar(&[link(b'2', "s", "/etc"), link(b'9', "strange", "")]), &[], &["unknown type"]);
    if let Some(bomb) = compress("gzip", &tar(&[file("zeros", &"\0".repeat(4 << 20))])) {
        fails(bomb, &["--max-layer-size", "1mb"], &["cannot unpack `a.tar`", "--max-layer-size"]);
    }
    let kept: Vec<_> = std::fs::read_dir(env.root.join("home/store/tmp")).unwrap().flatten().collect();
    assert!(
        kept.iter().all(|e| e.path().read_dir().is_ok_and(|mut d| d.next().is_none()) || e.path().is_file()),
        "{kept:?}"
    );
}

#[test]
fn contexts_come_in_every_compression() {
    let env = env();
    let context = tar(&[file("./Dockerfile", "FROM scratch\nCOPY f /f\n"), file("./f", "f")]);
    let mut digests = Vec::new();
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let Some(bytes) = compress(program, &context) else { continue };
        env.write("context", bytes);
        let mut command = env.command(["build", "-"]);
        command.stdin(std::fs::File::open(env.root.join("context")).unwrap());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
        digests.push(output.stdout);
    }
    digests.dedup();
    assert!(digests.len() <= 1, "{digests:?}");
}
