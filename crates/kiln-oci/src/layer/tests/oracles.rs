//! What the programs of the system make of our layers.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// Runs a program with `input`; returns its output, or `None` when it is not installed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<Vec<u8>> {
    let child = Command::new(program)
        .args(arguments)
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("skipped: {program} is not installed");
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{program} {arguments:?}: {errors}");
    Some(output.stdout)
}

fn sample() -> Vec<(Entry, Vec<u8>)> {
    let mut attributed = file("usr/attributed", 3);
    attributed.xattrs.insert("user.note".to_owned(), b"x".to_vec());
    let text = b"the same line again and again\n".repeat(100_000);
    vec![
        (Entry::new(path("usr"), Kind::Directory, 0o755), vec![]),
        (Entry { uid: 33, gid: 4_000_000, mode: 0o4755, ..file("usr/set-id", 5) }, b"hello".to_vec()),
        (attributed, b"abc".to_vec()),
        (file(format!("usr/{}", "n".repeat(250)), 1), b"x".to_vec()),
        (file("usr/text", text.len()), text),
        (file("usr/noise", 3_000_000), noise(3_000_000, 9)),
        (Entry::new(path("usr/link"), Kind::Symlink { target: b"set-id".to_vec() }, 0o777), vec![]),
        (Entry::new(path("usr/hard"), Kind::HardLink { target: path("usr/set-id") }, 0o4755), vec![]),
        (Entry::new(path("usr/null"), Kind::CharDevice { major: 1, minor: 3 }, 0o666), vec![]),
    ]
}

#[test]
fn gzip_and_zstd_accept_the_stream_and_return_it() {
    let tar = write(&sample(), Compression::None, 1).sink;
    for level in [0, 1, 3, 6, 9] {
        let gzip = write(&sample(), Compression::Gzip { level }, 2).sink;
        run("gzip", &["-t"], &gzip);
        if let Some(found) = run("gzip", &["-dc"], &gzip) {
            assert!(found == tar, "level {level}");
        }
    }
    for level in [1, 3] {
        let zstd = write(&sample(), Compression::Zstd { level }, 2).sink;
        run("zstd", &["-tq"], &zstd);
        if let Some(found) = run("zstd", &["-dcq"], &zstd) {
            assert!(found == tar, "level {level}");
        }
    }
}

#[test]
fn tar_lists_what_was_written() {
    let gzip = write(&sample(), Compression::Gzip { level: 1 }, 1).sink;
    let Some(listing) = run("tar", &["--numeric-owner", "-tvzf", "-"], &gzip) else { return };
    let listing = String::from_utf8(listing).unwrap();
    let squeezed: Vec<String> =
        listing.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let long = format!("-rw-r--r-- 0/0 1 1970-01-01 00:00 usr/{}", "n".repeat(250));
    let expect = [
        "drwxr-xr-x 0/0 0 1970-01-01 00:00 usr/",
        "-rwsr-xr-x 33/4000000 5 1970-01-01 00:00 usr/set-id",
        "-rw-r--r-- 0/0 3 1970-01-01 00:00 usr/attributed",
        &long,
        "-rw-r--r-- 0/0 3000000 1970-01-01 00:00 usr/text",
        "-rw-r--r-- 0/0 3000000 1970-01-01 00:00 usr/noise",
        "lrwxrwxrwx 0/0 0 1970-01-01 00:00 usr/link -> set-id",
        "hrwsr-xr-x 0/0 0 1970-01-01 00:00 usr/hard link to usr/set-id",
        "crw-rw-rw- 0/0 1,3 1970-01-01 00:00 usr/null",
    ];
    assert_eq!(squeezed, expect);
}

#[test]
fn python_agrees_on_names_owners_and_attributes() {
    let program = "import sys,tarfile,io\n\
        t=tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read()))\n\
        for m in t: print(m.name[:20],len(m.name),m.uid,m.gid,oct(m.mode),m.size,m.pax_headers.get('SCHILY.xattr.user.note'))";
    let tar = write(&sample()[..4], Compression::None, 1).sink;
    let Some(found) = run("python3", &["-c", program], &tar) else { return };
    let expect = "usr 3 0 0 0o755 0 None\n\
        usr/set-id 10 33 4000000 0o4755 5 None\n\
        usr/attributed 14 0 0 0o644 3 x\n\
        usr/nnnnnnnnnnnnnnnn 254 0 0 0o644 1 None\n";
    assert_eq!(String::from_utf8(found).unwrap(), expect);
}
