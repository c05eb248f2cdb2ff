//! The kernel as oracle: what an overlay mount shows is what a view shows, and what it leaves in its upper
//! directory is what a difference reads.

use std::os::unix::fs::{MetadataExt as _, symlink as make_symlink};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::*;

/// An overlay that is unmounted at the end.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

/// Mounts `lowers` below a new upper directory; `None` where this process may not, which is said aloud.
fn mounted(scratch: &Scratch, lowers: &[PathBuf]) -> Option<(Mounted, PathBuf)> {
    let (upper, work, at) = (scratch.dir("upper"), scratch.dir("work"), scratch.dir("merged"));
    let lower: Vec<_> = lowers.iter().map(|p| p.to_str().unwrap()).collect();
    let data = format!(
        "lowerdir={},upperdir={},workdir={},userxattr\0",
        lower.join(":"),
        upper.display(),
        work.display()
    );
    let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).unwrap();
    match mount("overlay", &at, "overlay", MountFlags::empty(), data) {
        Ok(()) => Some((Mounted(at), upper)),
        Err(e) => {
            eprintln!("skipped: cannot mount an overlay: {e}");
            None
        }
    }
}

/// Returns path, mode, size and time of everything below `dir`, as the kernel shows it.
fn listed(dir: &Path) -> BTreeMap<EntryPath, (u32, u64, i64)> {
    let mut out = BTreeMap::new();
    let mut todo = vec![EntryPath::root()];
    while let Some(parent) = todo.pop() {
        for entry in std::fs::read_dir(dir.join(parent.as_path())).unwrap() {
            let entry = entry.unwrap();
            let path = parent.join(entry.file_name().as_encoded_bytes());
            let meta = entry.path().symlink_metadata().unwrap();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            let size = if meta.is_file() { meta.len() } else { 0 };
            out.insert(path, (meta.mode() & 0o7777, size, meta.mtime()));
        }
    }
    out
}

fn viewed(layers: &[PathBuf]) -> BTreeMap<EntryPath, (u32, u64, i64)> {
    let plain =
        |(entry, ..): (Entry, Vec<u8>, Option<EntryPath>)| (entry.mode, entry.kind.size(), entry.mtime.secs);
    let mut shown = shown(layers);
    shown.remove(&EntryPath::root());
    shown.into_iter().map(|(path, entry)| (path, plain(entry))).collect()
}

#[test]
fn root_a_view_shows_what_the_kernel_shows() {
    for seed in 0..25 {
        let scratch = Scratch::new();
        let mut random = trees::Random(seed);
        let mut lowers = stack(&scratch, &[random.tree(), random.tree(), random.tree()]);
        let top = scratch.dir("top");
        unpack_into(&top, &trees::step(&mut random, &lowers), &*ids()).unwrap();
        lowers.insert(0, top);
        let Some((merged, _)) = mounted(&scratch, &lowers) else { return };
        assert_eq!(viewed(&lowers), listed(&merged.0), "seed {seed}");
    }
}

#[test]
fn root_a_merged_run_shows_the_kernel_what_its_layers_show() {
    for seed in 0..10 {
        let scratch = Scratch::new();
        let mut random = trees::Random(seed);
        let mut layers = stack(&scratch, &[random.tree()]);
        for number in 0..3 {
            let dir = scratch.dir(&format!("step-{number}"));
            unpack_into(&dir, &trees::step(&mut random, &layers), &*ids()).unwrap();
            layers.insert(0, dir);
        }
        let expect = viewed(&layers);
        let run = scratch.dir("run");
        merge(&layers[..3], &run).unwrap();
        let Some((mount, _)) = mounted(&scratch, &[run, layers[3].clone()]) else { return };
        assert_eq!(listed(&mount.0), expect, "seed {seed}");
    }
}

#[test]
fn root_a_difference_is_what_a_step_did() {
    use std::fs;
    let scratch = Scratch::new();
    let names_of_old = ["a", "b", "c"].map(|name| file(&format!("old/{name}"), name));
    let mut base = vec![directory("etc"), file("etc/conf", "1"), file("etc/same", "2"), directory("old")];
    base.extend(names_of_old);
    base.extend([directory("gone"), file("gone/x", ""), directory("turns"), file("kept", "k")]);
    let lowers = stack(&scratch, &[base]);
    let Some((merged, upper)) = mounted(&scratch, &lowers) else { return };
    let at = |name: &str| merged.0.join(name);
    fs::write(at("etc/conf"), "changed").unwrap();
    // Opened for writing and left alone: copied up, but no change.
    drop(fs::OpenOptions::new().write(true).open(at("etc/same")).unwrap());
    fs::remove_dir_all(at("old")).unwrap();
    fs::create_dir(at("old")).unwrap();
    fs::write(at("old/b"), "new").unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    fs::remove_dir(at("turns")).unwrap();
    fs::write(at("turns"), "file").unwrap();
    fs::create_dir_all(at("new/deep")).unwrap();
    fs::hard_link(at("kept"), at("new/deep/link")).unwrap();
    make_symlink("../kept", at("new/sym")).unwrap();
    fs::write(at("passing"), "").unwrap();
    fs::remove_file(at("passing")).unwrap();

    let expect = listed(&merged.0);
    drop(merged);
    let changes = collect(&upper, &lowers, &[], Options::default());
    assert_eq!(
        names(&changes),
        [
            ".wh.gone",
            "etc",
            "etc/conf",
            "kept",
            "new",
            "new/deep",
            "new/deep/link",
            "new/sym",
            "old",
            "old/.wh..wh..opq",
            "old/b",
            "turns"
        ]
    );
    let applied = scratch.dir("applied");
    unpack_into(&applied, &changes, &*ids()).unwrap();
    assert_eq!(viewed(&[vec![applied], lowers].concat()), expect);
}
