use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;

use super::*;

/// A directory of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> (Self, RootDir) {
        let path = std::env::temp_dir().join(format!("kiln-rootdir-{name}-{}", std::process::id()));
        crate::remove_tree(&path).unwrap();
        std::fs::create_dir_all(path.join("root/dir")).unwrap();
        std::fs::write(path.join("outside"), "outside").unwrap();
        let root = RootDir::open(&path.join("root")).unwrap();
        (Self(path), root)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = crate::remove_tree(&self.0);
    }
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn write(root: &RootDir, path: &str, content: &str) {
    root.create_file(p(path), 0o644).unwrap().write_all(content.as_bytes()).unwrap();
}

fn read(root: &RootDir, path: &str) -> String {
    let mut text = String::new();
    root.open_file(p(path)).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn symlinks_and_dots_stay_inside() {
    let (scratch, root) = Scratch::new("inside");
    root.symlink(p("/"), p("up")).unwrap();
    root.symlink(p("../../../../.."), p("dir/far")).unwrap();
    root.symlink(&scratch.0, p("absolute")).unwrap();
    for (path, lands) in [("up/a", "a"), ("dir/far/b", "b"), ("../../c", "c"), ("/dir/../../d", "d")] {
        write(&root, path, path);
        assert_eq!(read(&root, lands), path);
        assert!(scratch.0.join("root").join(lands).exists(), "{path}");
    }
    assert_eq!(root.create_file(p("absolute/x"), 0o644).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(root.open_file(p("../outside")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 2);
}

#[test]
fn escapes_are_refused_when_asked() {
    let (scratch, root) = Scratch::new("refused");
    root.symlink(p("/dir"), p("absolute")).unwrap();
    root.symlink(p("../.."), p("dir/far")).unwrap();
    let strict = RootDir::open_with(&scratch.0.join("root"), Escape::Refused).unwrap();
    for path in ["../x", "absolute/x", "dir/far/x"] {
        assert_eq!(strict.create_file(p(path), 0o644).unwrap_err().errno(), Some(libc::EXDEV), "{path}");
    }
    write(&strict, "dir/../fine", "fine");
}

#[test]
fn magic_links_are_not_followed() {
    let root = RootDir::open(p("/proc/self")).unwrap();
    assert_eq!(root.lstat(p("root/etc")).unwrap_err().errno(), Some(libc::ELOOP));
}

#[test]
fn a_replaced_directory_is_not_remembered() {
    let (scratch, root) = Scratch::new("replaced");
    write(&root, "dir/first", "");
    root.create_dir(p("other"), 0o755).unwrap();
    root.remove_all(p("dir")).unwrap();
    root.symlink(p("other"), p("dir")).unwrap();
    write(&root, "dir/second", "");
    assert!(scratch.0.join("root/other/second").exists());
}

#[test]
fn the_last_name_is_never_followed() {
    let (_scratch, root) = Scratch::new("last");
    write(&root, "file", "kept");
    root.symlink(p("file"), p("link")).unwrap();
    assert_eq!(root.create_file(p("link"), 0o644).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(root.lstat(p("link")).unwrap().kind, Kind::Symlink);
    assert_eq!(root.stat(p("link")).unwrap().kind, Kind::File);
    assert_eq!(root.readlink(p("link")).unwrap(), p("file"));
    assert!(root.chmod(p("link"), 0o600).is_err());
    root.hardlink(p("link"), p("second")).unwrap();
    assert_eq!(root.lstat(p("second")).unwrap().kind, Kind::Symlink);
    root.remove_all(p("link")).unwrap();
    assert_eq!(read(&root, "file"), "kept");
}

#[test]
fn metadata_is_what_was_set() {
    let (_scratch, root) = Scratch::new("metadata");
    write(&root, "file", "12345");
    root.hardlink(p("file"), p("dir/second")).unwrap();
    root.chmod(p("file"), 0o4755).unwrap();
    let time = Time { seconds: 1, nanoseconds: 5 };
    root.set_times(p("file"), time, time).unwrap();
    root.set_xattr(p("file"), OsStr::new("user.kiln"), b"\0value").unwrap();
    let found = root.lstat(p("dir/second")).unwrap();
    assert_eq!((found.mode, found.size, found.links, found.modified), (0o4755, 5, 2, time));
    assert_eq!(root.xattrs(p("file")).unwrap()[OsStr::new("user.kiln")], b"\0value");
    root.remove_xattr(p("file"), OsStr::new("user.kiln")).unwrap();
    assert!(root.xattrs(p("file")).unwrap().is_empty());
    root.mknod(p("gone"), Node::Whiteout, 0).unwrap();
    assert!(root.lstat(p("gone")).unwrap().is_whiteout());
    root.mknod(p("fifo"), Node::Fifo, 0o600).unwrap();
    assert_eq!(root.open_file(p("fifo")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn directories_are_listed_by_bytes() {
    let (_scratch, root) = Scratch::new("sorted");
    for name in ["b", "B", "a", "ä", "dir2"] {
        write(&root, name, "");
    }
    let names: Vec<_> = root.read_dir(p("/")).unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["B", "a", "b", "dir", "dir2", "ä"]);
}

#[test]
fn parents_are_created_and_told() {
    let (_scratch, root) = Scratch::new("parents");
    assert_eq!(root.create_dir_all(p("/dir/a/b"), 0o755).unwrap(), [p("dir/a"), p("dir/a/b")]);
    assert_eq!(root.create_dir_all(p("dir/a"), 0o755).unwrap(), Vec::<PathBuf>::new());
    write(&root, "file", "");
    assert_eq!(root.create_dir_all(p("file"), 0o755).unwrap_err().errno(), Some(libc::ENOTDIR));
    root.remove_all(p("/")).unwrap();
    assert!(root.read_dir(p("")).unwrap().is_empty());
}

#[test]
fn walking_by_hand_finds_what_openat2_finds() {
    let (_scratch, root) = Scratch::new("walk");
    root.create_dir_all(p("a/b/c"), 0o755).unwrap();
    write(&root, "a/b/file", "");
    for (text, path) in [
        ("/a/b", "absolute"),
        ("../../../../a", "a/b/far"),
        ("loop", "loop"),
        ("b/file", "a/file"),
        ("nowhere", "dangling"),
        ("../../..", "a/b/c/out"),
    ] {
        root.symlink(p(text), p(path)).unwrap();
    }
    let paths = [
        ".",
        "/",
        "..",
        "a",
        "a/",
        "a/b/../b/file",
        "absolute/c",
        "a/b/far/b",
        "loop",
        "a/file",
        "dangling",
        "a/b/c/out/a",
        "a/b/file/x",
        "a/b/file/",
        "missing/..",
        "a/b/c/../../../../a",
    ];
    for escape in [Escape::Clamped, Escape::Refused] {
        for flags in
            [OFlags::PATH, OFlags::PATH | OFlags::DIRECTORY, OFlags::RDONLY, OFlags::PATH | OFlags::NOFOLLOW]
        {
            for path in paths {
                let inode =
                    |opened: Result<OwnedFd, Errno>| opened.map(|fd| rustix::fs::fstat(&fd).unwrap().st_ino);
                let kernel = inode(resolve::open(root.as_root_fd(), relative(p(path)), flags, escape));
                let by_hand =
                    inode(resolve::walk(root.as_root_fd().as_fd(), relative(p(path)), flags, escape));
                assert_eq!(by_hand, kernel, "{path} {flags:?} {escape:?}");
            }
        }
    }
}

#[test]
fn a_folder_follows_nothing_and_names_nothing_outside() {
    let (scratch, root) = Scratch::new("folder");
    write(&root, "dir/b", "b");
    write(&root, "dir/a-b", "a-b");
    root.create_dir(p("dir/a"), 0o755).unwrap();
    root.symlink(&scratch.0, p("dir/out")).unwrap();
    root.symlink(p("dir"), p("link")).unwrap();
    let folder = root.folder(p("dir")).unwrap();
    let names = folder.names().unwrap();
    let shown: Vec<&[u8]> = (0..names.len()).filter_map(|index| names.get(index)).collect();
    assert_eq!(shown, [b"a".as_slice(), b"a-b", b"b", b"out"]);
    assert_eq!(folder.lstat(b"a").unwrap().kind, Kind::Directory);
    assert_eq!(folder.lstat(b"out").unwrap().kind, Kind::Symlink);
    assert_eq!(folder.readlink(b"out").unwrap(), scratch.0);
    let mut text = String::new();
    folder.open_file(b"b").unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "b");
    assert!(folder.folder(b"a").unwrap().names().unwrap().is_empty());
    for name in [b"..".as_slice(), b".", b"", b"a/..", b"out/outside", b"/"] {
        assert!(folder.lstat(name).is_err() && folder.open_file(name).is_err(), "{name:?}");
        assert!(folder.folder(name).is_err(), "{name:?}");
    }
    assert!(folder.folder(b"out").is_err(), "a link was followed");
    assert!(folder.open_file(b"out").is_err(), "a link was followed");
    assert!(root.folder(p("link")).is_err(), "a link was followed");
}
