//! Layers into directories.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use super::*;

fn xattr(path: &Path, name: &str) -> Option<String> {
    let mut value = [0; 64];
    let size = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    Some(String::from_utf8_lossy(&value[..size]).into_owned())
}

#[test]
fn attributes_arrive_whatever_their_order() {
    let scratch = Scratch::new();
    let dir = scratch.dir("layer");
    let mut tool = file("usr/bin/tool", "x");
    tool.0 = Entry { mode: 0o4755, uid: 7, gid: 8, mtime: Timestamp { secs: 1, nanos: 500 }, ..tool.0 };
    tool.0.xattrs.insert("user.note".to_owned(), b"hello".to_vec());
    let mut locked = directory("locked");
    locked.0 = Entry { mode: 0o1500, mtime: at(5), ..locked.0 };
    let mut secret = file("locked/secret", "s");
    // Nobody but root can look at a file without rights.
    let mode = if is_root() { 0 } else { 0o400 };
    secret.0 = Entry { mode, mtime: at(-3), ..secret.0 };
    secret.0.xattrs.insert("user.note".to_owned(), b"n".to_vec());
    let entries = vec![directory("usr"), tool, locked, secret, symlink("link", "usr/bin/tool")];
    let unpacked = unpack_into(&dir, &entries, &*ids()).unwrap();
    assert_eq!(unpacked.entries, 5);
    assert_eq!(unpacked.bytes, 2);
    assert_eq!(unpacked.implied, [path("usr/bin")]);
    assert_eq!(unpacked.diff_id, kiln_oci::Digest::sha256(&tar(&entries)));

    let found = shown(std::slice::from_ref(&dir));
    if is_root() {
        for (entry, content) in &entries {
            let (shown, bytes, _) = &found[&entry.path];
            assert_eq!(shown, entry);
            assert_eq!(bytes, content);
        }
        assert_eq!(std::fs::metadata(dir.join("usr/bin/tool")).unwrap().mode() & 0o7777, 0o4755);
    }
    let implied = std::fs::metadata(dir.join("usr/bin")).unwrap();
    assert_eq!((implied.mode() & 0o7777, implied.mtime()), (0o755, 0));
    std::fs::set_permissions(dir.join("locked"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn removals_become_marks_of_the_overlay() {
    let scratch = Scratch::new();
    let dir = scratch.dir("layer");
    let entries = vec![directory("etc"), opaque("etc"), whiteout("gone"), whiteout("etc/deep/gone")];
    unpack_into(&dir, &entries, &*ids()).unwrap();
    assert_eq!(xattr(&dir.join("etc"), "user.overlay.opaque").as_deref(), Some("y"));
    for gone in ["gone", "etc/deep/gone"] {
        let meta = std::fs::symlink_metadata(dir.join(gone)).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{gone}");
    }
    assert!(!dir.join(".wh.gone").exists());
}

#[test]
fn a_removal_leaves_alone_what_its_own_layer_brings() {
    let lower = vec![directory("d"), file("d/old", "1"), file("f", "old")];
    for upper in [
        vec![whiteout("d"), whiteout("f"), directory("d"), file("d/new", "2"), file("f", "new")],
        vec![directory("d"), file("d/new", "2"), file("f", "new"), whiteout("d"), whiteout("f")],
        vec![whiteout("d"), file("d/new", "2"), whiteout("f"), file("f", "new")],
    ] {
        let scratch = Scratch::new();
        let layers = stack(&scratch, &[lower.clone(), upper]);
        let found = shown(&layers);
        let names: Vec<_> = found.keys().map(ToString::to_string).collect();
        assert_eq!(names, [".", "d", "d/new", "f"]);
        assert_eq!(found[&path("f")].1, b"new");
    }
}

#[test]
fn later_entries_win() {
    let scratch = Scratch::new();
    let check = |name: &str, entries: Content, expect: &[&str]| {
        let dir = scratch.dir(name);
        unpack_into(&dir, &entries, &*ids()).unwrap();
        let found = shown(&[dir]);
        let lines: Vec<_> = found
            .iter()
            .map(|(path, (entry, content, _))| match &entry.kind {
                Kind::File { .. } => format!("{path}={}", String::from_utf8_lossy(content)),
                Kind::Symlink { target } => format!("{path}->{}", String::from_utf8_lossy(target)),
                Kind::Directory => format!("{path}/"),
                other => format!("{path} {other:?}"),
            })
            .collect();
        assert_eq!(lines, expect, "{name}");
    };
    check("files", vec![file("a", "1"), file("a", "22")], &["./", "a=22"]);
    check("file over directory", vec![directory("a"), file("a/b", "1"), file("a", "2")], &["./", "a=2"]);
    check(
        "directory over file",
        vec![file("a", "1"), directory("a"), file("a/b", "2")],
        &["./", "a/", "a/b=2"],
    );
    check("directory twice", vec![file("a/b", "1"), directory("a")], &["./", "a/", "a/b=1"]);
    check("file over link", vec![symlink("a", "b"), file("a", "1")], &["./", "a=1"]);
    check(
        "directory over link",
        vec![directory("b"), symlink("a", "b"), directory("a"), file("a/c", "1")],
        &["./", "a/", "a/c=1", "b/"],
    );
    check(
        "deep tree replaced while inside",
        vec![file("a/b/c/d", "1"), file("a/b", "2"), file("a/e", "3")],
        &["./", "a/", "a/b=2", "a/e=3"],
    );
}

#[test]
fn links_on_the_way_stay_inside() {
    let scratch = Scratch::new();
    let outside = scratch.dir("outside");
    let check = |name: &str, entries: Content, at: &str| {
        let dir = scratch.dir(name);
        unpack_into(&dir, &entries, &*ids()).unwrap();
        assert!(dir.join(at).is_file(), "{name}");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "{name}");
    };
    let absolute = outside.to_str().unwrap();
    check("absolute", vec![symlink("a", absolute), file("a/f", "1")], &format!(".{absolute}/f"));
    check("climbing", vec![symlink("a", "../../../outside"), file("a/f", "1")], "outside/f");
    check("merged", vec![symlink("lib", "usr/lib"), file("lib/f", "1")], "usr/lib/f");
    check(
        "through two",
        vec![directory("x"), symlink("x/y", "/z"), symlink("z", "x/../w"), file("x/y/f", "1")],
        "w/f",
    );
    let dir = scratch.dir("write through link");
    let entries = vec![symlink("f", &format!("{absolute}/f")), file("f", "1")];
    unpack_into(&dir, &entries, &*ids()).unwrap();
    assert!(dir.join("f").is_file() && std::fs::read_dir(&outside).unwrap().count() == 0);

    let round = vec![symlink("a", "b"), symlink("b", "a"), file("a/f", "1")];
    let error = unpack_into(&scratch.dir("round"), &round, &*ids()).unwrap_err();
    assert!(matches!(error, Error::Loop(_)), "{error}");
    let through_file = vec![file("a", "1"), file("a/f", "1")];
    let error = unpack_into(&scratch.dir("file"), &through_file, &*ids()).unwrap_err();
    assert!(matches!(error, Error::NotDirectory(_)), "{error}");
}

#[test]
fn hard_links_name_files_of_their_layer() {
    let scratch = Scratch::new();
    let dir = scratch.dir("layer");
    let entries = vec![file("a/b", "1"), hard_link("c", "a/b"), symlink("s", "a/b"), hard_link("t", "s")];
    unpack_into(&dir, &entries, &*ids()).unwrap();
    let inode = |name: &str| std::fs::symlink_metadata(dir.join(name)).unwrap().ino();
    assert_eq!(inode("a/b"), inode("c"));
    assert_eq!(inode("s"), inode("t"));
    for (i, missing) in [
        vec![hard_link("c", "lower/file")],
        vec![whiteout("gone"), hard_link("c", "gone")],
        vec![file("c/target", "1"), hard_link("c", "c/target")],
    ]
    .into_iter()
    .enumerate()
    {
        let error = unpack_into(&scratch.dir(&format!("missing-{i}")), &missing, &*ids()).unwrap_err();
        assert!(matches!(error, Error::LinkTargetMissing { .. }), "{error}");
    }
}

#[test]
fn owners_without_a_number_on_disk_are_recorded() {
    let scratch = Scratch::new();
    let dir = scratch.dir("layer");
    let owned = |(entry, content): (Entry, Vec<u8>)| (Entry { uid: 33, gid: 44, ..entry }, content);
    let mut device = (Entry::new(path("null"), Kind::CharDevice { major: 1, minor: 3 }, 0o666), vec![]);
    device.0.uid = 5;
    let entries =
        vec![owned(directory("d")), owned(file("d/f", "1")), owned(symlink("l", "d")), file("r", ""), device];
    let unpacked = unpack_into(&dir, &entries, &one_id()).unwrap();
    assert_eq!(xattr(&dir.join("d"), "user.kiln.owner").as_deref(), Some("33:44"));
    assert_eq!(xattr(&dir.join("d/f"), "user.kiln.owner").as_deref(), Some("33:44"));
    assert_eq!(xattr(&dir.join("r"), "user.kiln.owner"), None);
    assert_eq!(unpacked.owners[&path("l")], Owner { uid: 33, gid: 44 });

    let view = View::with_ids(vec![dir.clone()], one_id()).unwrap();
    let shown = view.metadata(&path("d/f")).unwrap().unwrap();
    assert_eq!((shown.uid, shown.gid, shown.xattrs.len()), (33, 44, 0));
    if unpacked.placeholders == 1 {
        assert_eq!(xattr(&dir.join("null"), "user.kiln.device").as_deref(), Some("c:1:3"));
        let shown = view.metadata(&path("null")).unwrap().unwrap();
        assert_eq!((shown.kind, shown.uid), (Kind::CharDevice { major: 1, minor: 3 }, 5));
    }
}

#[test]
fn attributes_of_ours_never_come_from_a_layer() {
    let scratch = Scratch::new();
    let dir = scratch.dir("layer");
    let mut entry = directory("d");
    for name in ["user.overlay.opaque", "user.overlay.redirect", "user.kiln.owner", "trusted.overlay.opaque"]
    {
        entry.0.xattrs.insert(name.to_owned(), b"y".to_vec());
    }
    let unpacked = unpack_into(&dir, &vec![entry], &*ids()).unwrap();
    assert_eq!(unpacked.skipped_xattrs, 4);
    let mut names = [0; 256];
    assert_eq!(rustix::fs::llistxattr(dir.join("d"), &mut names[..]).unwrap(), 0);
}

#[test]
fn holes_stay_holes() {
    let Ok(probe) = std::process::Command::new("tar").arg("--version").output() else { return };
    if !String::from_utf8_lossy(&probe.stdout).contains("GNU") {
        eprintln!("skipped: no GNU tar");
        return;
    }
    let scratch = Scratch::new();
    let from = scratch.dir("from");
    let big = std::fs::File::create(from.join("big")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&big, b"middle", 10 << 20).unwrap();
    big.set_len(50 << 20).unwrap();
    let out = std::process::Command::new("tar")
        .args(["--format=pax", "--sparse", "-cf", "-", "big"])
        .current_dir(&from)
        .output()
        .unwrap();
    let dir = scratch.dir("layer");
    unpack(LayerReader::new(out.stdout.as_slice(), Limits::default()).unwrap(), &dir, &*ids()).unwrap();
    let meta = std::fs::metadata(dir.join("big")).unwrap();
    assert_eq!(meta.len(), 50 << 20);
    assert!(meta.blocks() < 1000, "{} blocks", meta.blocks());
    assert_eq!(std::fs::read(dir.join("big")).unwrap(), std::fs::read(from.join("big")).unwrap());
}
