//! A tree that changes beside its index.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use super::super::{Top, apply, record, take_index};

struct Bench {
    top: PathBuf,
}

impl Bench {
    fn new(name: &str) -> Self {
        let top = std::env::temp_dir().join(format!("kiln-changes-{name}-{}", std::process::id()));
        for dir in ["root", "upper", "spare"] {
            fs::create_dir_all(top.join(dir)).unwrap();
        }
        Self { top }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.top.join(name)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path("root").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Records what happened since the last index and returns what is in the upper directory then, sorted.
    fn record(&self) -> Vec<String> {
        fs::remove_dir_all(self.path("upper")).unwrap();
        fs::create_dir(self.path("upper")).unwrap();
        let (index, next) = (self.path("index"), self.path("next"));
        record(&self.path("root"), &index, &next, &self.path("upper"), &self.path("spare")).unwrap();
        fs::rename(&next, &index).unwrap();
        assert_eq!(fs::read_dir(self.path("spare")).unwrap().count(), 0);
        let mut found = Vec::new();
        list(&self.path("upper"), Path::new(""), &mut found);
        found.sort();
        found
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.top);
    }
}

fn list(dir: &Path, path: &Path, into: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (path, meta) = (path.join(entry.file_name()), entry.metadata().unwrap());
        let kind = meta.file_type();
        if kind.is_dir() {
            into.push(format!("{}/", path.display()));
            list(&entry.path(), &path, into);
        } else if kind.is_symlink() || kind.is_file() {
            into.push(path.display().to_string());
        } else {
            into.push(format!("-{}", path.display()));
        }
    }
}

#[test]
fn only_what_changed_is_recorded() {
    let bench = Bench::new("only");
    for file in ["a/same", "a/content", "a/mode", "a/gone", "b/deep/file", "c/x", "d", "same-size"] {
        bench.write(file, "text");
    }
    let root = bench.path("root");
    assert_eq!(take_index(&root, &bench.path("index")).unwrap(), 12);
    assert_eq!(bench.record(), Vec::<String>::new());

    let times = fs::metadata(root.join("same-size")).unwrap().modified().unwrap();
    fs::write(root.join("same-size"), "TEXT").unwrap();
    fs::File::options().write(true).open(root.join("same-size")).unwrap().set_modified(times).unwrap();
    fs::write(root.join("a/content"), "other").unwrap();
    fs::set_permissions(root.join("a/mode"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::remove_file(root.join("a/gone")).unwrap();
    fs::remove_dir_all(root.join("b/deep")).unwrap();
    fs::remove_dir_all(root.join("c")).unwrap();
    fs::create_dir(root.join("c")).unwrap();
    bench.write("c/y", "new");
    fs::remove_file(root.join("d")).unwrap();
    bench.write("d/below", "new");
    symlink("x", root.join("link")).unwrap();
    let expect = [
        "-a/gone",
        "-b/deep",
        "a/",
        "a/content",
        "a/mode",
        "b/",
        "c/",
        "c/y",
        "d/",
        "d/below",
        "link",
        "same-size",
    ];
    assert_eq!(bench.record(), expect);
    assert_eq!(rustix::fs::lgetxattr(bench.path("upper/c"), "user.overlay.opaque", &mut [0_u8; 8]), Ok(1));
    assert!(rustix::fs::lgetxattr(bench.path("upper/d"), "user.overlay.opaque", &mut [0_u8; 8]).is_err());
    assert_eq!(bench.record(), Vec::<String>::new(), "the second index is that of the changed tree");
}

#[test]
fn links_of_a_command_are_kept_in_its_layer_and_separated_after_it() {
    let bench = Bench::new("links");
    bench.write("old", "old");
    let root = bench.path("root");
    take_index(&root, &bench.path("index")).unwrap();
    bench.write("d/new", "new");
    fs::hard_link(root.join("d/new"), root.join("second")).unwrap();
    fs::hard_link(root.join("old"), root.join("third")).unwrap();
    assert_eq!(bench.record(), ["d/", "d/new", "old", "second", "third"]);
    let inode = |name: &str| fs::metadata(bench.path("upper").join(name)).unwrap().ino();
    assert_eq!((inode("d/new"), inode("old")), (inode("second"), inode("third")));
    // The next command changes one name only.
    fs::write(root.join("second"), "changed").unwrap();
    assert_eq!(fs::read_to_string(root.join("d/new")).unwrap(), "new");
    assert_eq!(fs::metadata(root.join("old")).unwrap().nlink(), 1);
}

#[test]
fn sockets_are_nothing_that_a_layer_has() {
    let bench = Bench::new("sockets");
    bench.write("file", "text");
    let root = bench.path("root");
    take_index(&root, &bench.path("index")).unwrap();
    fs::remove_file(root.join("file")).unwrap();
    let listeners = ["file", "socket"].map(|name| std::os::unix::net::UnixListener::bind(root.join(name)));
    assert!(listeners.iter().all(Result::is_ok));
    assert_eq!(bench.record(), ["-file"]);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn layers_add_up_as_in_an_overlay() {
    let bench = Bench::new("apply");
    let (lower, upper) = (bench.path("lower"), bench.path("above"));
    for (dir, file) in [(&lower, "kept/a"), (&lower, "opaque/b"), (&lower, "gone/c"), (&lower, "f/d")] {
        fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
        fs::write(dir.join(file), "lower").unwrap();
    }
    fs::hard_link(lower.join("kept/a"), lower.join("kept/b")).unwrap();
    let sparse = fs::File::create(lower.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"end", 8 << 20).unwrap();
    for file in ["kept/new", "opaque/new"] {
        fs::create_dir_all(upper.join(file).parent().unwrap()).unwrap();
        fs::write(upper.join(file), "upper").unwrap();
    }
    fs::write(upper.join("f"), "a file now").unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(upper.join("opaque"), "user.overlay.opaque", b"y", flags).unwrap();
    drop(std::os::unix::net::UnixListener::bind(upper.join("gone")).unwrap());

    let root = bench.path("root");
    for layer in [&lower, &upper] {
        apply(layer, &root, Top::Kept, &|| Ok(())).unwrap();
    }
    let mut found = Vec::new();
    list(&root, Path::new(""), &mut found);
    found.sort();
    assert_eq!(found, ["f", "kept/", "kept/a", "kept/b", "kept/new", "opaque/", "opaque/new", "sparse"]);
    let meta = |path: &str| fs::metadata(root.join(path)).unwrap();
    assert_ne!(meta("kept/a").ino(), meta("kept/b").ino());
    assert_ne!(meta("kept/a").ino(), fs::metadata(lower.join("kept/a")).unwrap().ino());
    assert_eq!((meta("sparse").len(), meta("sparse").blocks() < 2048), ((8 << 20) + 3, true));
    assert_eq!(meta("kept").mtime_nsec(), fs::metadata(upper.join("kept")).unwrap().mtime_nsec());
}

#[test]
fn an_index_takes_little_space() {
    let bench = Bench::new("space");
    for number in 0..2000 {
        bench.write(&format!("share/package-{}/file-{number}", number / 50), "");
    }
    let entries = take_index(&bench.path("root"), &bench.path("index")).unwrap();
    let size = fs::metadata(bench.path("index")).unwrap().len();
    assert_eq!(entries, 2041);
    assert!(size / entries < 128, "{} bytes for each entry", size / entries);
}
