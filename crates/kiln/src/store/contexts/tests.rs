use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A store of its own for each test, removed at the end.
struct World {
    root: PathBuf,
    store: Store,
}

/// The time of all tests: files are older or younger than that.
const NOW: i64 = 1_000_000;

fn clock() -> Time {
    at(NOW)
}

fn at(seconds: i64) -> Time {
    Time { seconds, nanoseconds: 0 }
}

impl World {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("kiln-index-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(root.join("context")).unwrap();
        let store = Store::open(&root.join("store")).unwrap();
        Self { root, store }
    }

    fn index(&self) -> ContextIndex {
        ContextIndex::open(&self.store, &self.root.join("context"), clock).unwrap()
    }

    /// Walks through these files, hashing those that are not trusted, and returns which were hashed.
    fn walk(&self, files: &[(&str, Stamp)]) -> Vec<String> {
        let index = self.index();
        let hashed = visit(&index, Some(""), files);
        index.commit().unwrap();
        hashed
    }

    /// Returns all that the index has.
    fn paths(&self) -> Vec<String> {
        let Some(base) = self.index().state().learnt.base.clone() else { return Vec::new() };
        let mut cursor = Cursor::new(base);
        cursor.first();
        let mut paths = Vec::new();
        while let Some((path, ..)) = cursor.current() {
            paths.push(String::from_utf8(path.to_vec()).unwrap());
            cursor.advance();
        }
        paths
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// A file that was last changed at these seconds.
fn stamp(seconds: i64) -> Stamp {
    Stamp { size: 5, modified: at(seconds), changed: at(seconds), inode: 7, device: 1 }
}

fn path(text: &str) -> EntryPath {
    EntryPath::new(text).unwrap()
}

fn sum(text: &str) -> Sum {
    let mut hasher = Hasher::new();
    hasher.update(text.as_bytes());
    hasher.sum()
}

fn visit(index: &ContextIndex, walked: Option<&str>, files: &[(&str, Stamp)]) -> Vec<String> {
    let mut visit = index.visit();
    let mut hashed = Vec::new();
    for (name, stamp) in files {
        match visit.look_up(&path(name), stamp) {
            Some(found) => assert_eq!(found, sum(name), "{name}"),
            None => {
                hashed.push((*name).to_owned());
                let began = visit.now();
                visit.record(&path(name), stamp, sum(name), began);
            }
        }
    }
    visit.finish(walked.map(path).as_ref());
    hashed
}

#[test]
fn paths_are_ordered_as_a_walk_meets_them() {
    let names = ["", "a", "a/b", "a/b/c", "a-b", "a.b", "a0", "ab", "b", "é", "a/\u{1}", "a\u{1}"];
    for x in names {
        for y in names {
            let expect = path(x).cmp(&path(y));
            assert_eq!(format::order(x.as_bytes(), y.as_bytes()), expect, "{x:?} and {y:?}");
        }
    }
}

#[test]
fn what_did_not_change_is_hashed_once() {
    let world = World::new();
    let files = [("a", stamp(1)), ("a/x", stamp(1)), ("a-b", stamp(2)), ("b", stamp(3))];
    assert_eq!(world.walk(&files), ["a", "a/x", "a-b", "b"]);
    assert!(world.walk(&files).is_empty());
    assert_eq!(world.paths(), ["a", "a/x", "a-b", "b"]);
}

#[test]
fn every_part_of_a_stamp_counts() {
    let old = stamp(100);
    let others = [
        Stamp { size: 6, ..old },
        Stamp { modified: at(99), ..old },
        Stamp { modified: Time { seconds: 100, nanoseconds: 1 }, ..old },
        Stamp { changed: at(101), ..old },
        Stamp { changed: Time { seconds: 100, nanoseconds: 1 }, ..old },
        Stamp { inode: 8, ..old },
        Stamp { device: 2, ..old },
    ];
    for new in others {
        let world = World::new();
        world.walk(&[("f", old)]);
        assert_eq!(world.walk(&[("f", new)]), ["f"], "{new:?}");
        assert!(world.walk(&[("f", new)]).is_empty(), "{new:?}");
    }
}

#[test]
fn young_files_and_files_of_the_future_are_hashed_every_time() {
    let young = |seconds| Stamp { modified: at(1), changed: at(seconds), ..stamp(1) };
    let touched = |seconds| Stamp { modified: at(seconds), changed: at(1), ..stamp(1) };
    for (stamp, trusted) in [
        (young(NOW - 2), true),
        (young(NOW - 1), false),
        (young(NOW), false),
        (young(NOW + 1), false),
        (touched(NOW - 2), true),
        (touched(NOW - 1), false),
        (touched(NOW + 100_000), false),
        (touched(i64::MAX), false),
    ] {
        let world = World::new();
        world.walk(&[("f", stamp)]);
        assert_eq!(world.walk(&[("f", stamp)]).is_empty(), trusted, "{stamp:?}");
        // It is known all the same: this build can say whether the file changed later.
        assert_eq!(world.paths(), ["f"]);
    }
}

#[test]
fn nothing_is_written_when_nothing_is_new() {
    let world = World::new();
    let files = [("settled", stamp(1)), ("young", stamp(NOW))];
    world.walk(&files);
    let written = || fs::read_dir(world.root.join("store/contexts")).unwrap().next().unwrap().unwrap();
    let before = std::os::unix::fs::MetadataExt::ino(&written().metadata().unwrap());
    // A new file takes this name, so that the number of the old one stays taken if it is replaced.
    let _holder = File::open(written().path()).unwrap();
    world.walk(&files);
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&written().metadata().unwrap()), before);
    world.walk(&files[..1]);
    assert_ne!(std::os::unix::fs::MetadataExt::ino(&written().metadata().unwrap()), before);
}

#[test]
fn what_is_gone_goes_and_what_was_not_looked_at_stays() {
    let world = World::new();
    let old = stamp(1);
    world.walk(&[("a/x", old), ("a/y", old), ("a-b", old), ("b/x", old), ("c/d/x", old), ("c/e", old)]);
    let index = world.index();
    assert!(visit(&index, Some("a"), &[("a/y", old)]).is_empty());
    let mut patterns = index.visit();
    patterns.pass_over(&path("c/d"));
    patterns.finish(Some(&path("c")));
    index.commit().unwrap();
    assert_eq!(world.paths(), ["a/y", "a-b", "b/x", "c/d/x"]);
}

#[test]
fn two_walks_through_one_directory_add_up() {
    let world = World::new();
    let old = stamp(1);
    world.walk(&[("x", old), ("y", old), ("z", old)]);
    let index = world.index();
    let mut first = index.visit();
    assert!(first.look_up(&path("x"), &old).is_some());
    first.pass_over(&path("y"));
    first.finish(Some(&path("")));
    assert_eq!(visit(&index, None, &[("y", stamp(2))]), ["y"]);
    index.commit().unwrap();
    assert_eq!(world.paths(), ["x", "y"]);
    assert!(visit(&world.index(), None, &[("y", stamp(2))]).is_empty(), "the older entry won");
}

#[test]
fn a_file_that_was_two_things_in_one_build_is_no_evidence() {
    let world = World::new();
    world.walk(&[("x", stamp(1)), ("y", stamp(1))]);
    let index = world.index();
    visit(&index, None, &[("x", stamp(1)), ("y", stamp(1))]);
    visit(&index, None, &[("x", stamp(2)), ("y", stamp(1))]);
    index.commit().unwrap();
    let mut evidence = index.evidence().unwrap();
    assert_eq!(evidence.of(&path("x")), None);
    assert_eq!(evidence.of(&path("y")).map(|known| known.sum), Some(sum("y")));
}

#[test]
fn every_file_is_found_from_everywhere() {
    let world = World::new();
    // Many blocks, with paths of all lengths.
    let names: Vec<String> =
        (0..3000).map(|n| format!("d{:02}/{}/f{n:05}", n / 100, "x".repeat(n % 50))).collect();
    let mut files: Vec<(&str, Stamp)> = names.iter().map(|name| (name.as_str(), stamp(1))).collect();
    files.sort_by_key(|(name, _)| path(name));
    assert_eq!(world.walk(&files).len(), files.len());
    assert!(world.walk(&files).is_empty(), "forward");
    let index = world.index();
    let mut backwards = index.visit();
    for (name, stamp) in files.iter().rev() {
        assert_eq!(backwards.look_up(&path(name), stamp), Some(sum(name)), "{name}");
    }
    for absent in ["", "a", "d00", "d17/0", "d29/zzz", "zzz", "d05/\u{1}"] {
        assert_eq!(backwards.look_up(&path(absent), &stamp(1)), None, "{absent}");
    }
    for n in 0..files.len() {
        let (name, stamp) = files[n * 577 % files.len()];
        assert_eq!(backwards.look_up(&path(name), &stamp), Some(sum(name)), "{name}");
    }
    drop(backwards);
    // A directory that is gone, in the middle.
    let left: Vec<_> = files.iter().copied().filter(|(name, _)| !name.starts_with("d15/")).collect();
    assert!(world.walk(&left).is_empty());
    assert_eq!(world.paths().len(), left.len());
}

#[test]
fn many_walks_with_news_need_few_files() {
    let world = World::new();
    let index = world.index();
    let names: Vec<String> = (0..100).map(|n| format!("f{n:03}")).collect();
    for name in names.iter().rev() {
        visit(&index, None, &[(name, stamp(1))]);
        assert!(index.state().learnt.runs.len() < MAX_RUNS);
    }
    index.commit().unwrap();
    assert_eq!(world.paths(), names);
    assert!(index.evidence().unwrap().of(&path("f050")).is_some());
}

#[test]
fn a_file_that_is_no_index_or_a_torn_one_is_as_if_nothing_was_known() {
    let world = World::new();
    let names: Vec<String> = (0..600).map(|n| format!("f{n:05}")).collect();
    let files: Vec<(&str, Stamp)> = names.iter().map(|name| (name.as_str(), stamp(1))).collect();
    world.walk(&files);
    let file = world.index().path.clone();
    let whole = fs::read(&file).unwrap();
    for length in [0, 1, 17, 18, 100, whole.len() / 2, whole.len() - 41, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        assert_eq!(world.walk(&files).len(), files.len(), "{length} bytes of {}", whole.len());
        assert!(world.walk(&files).is_empty(), "it was not written again");
    }
    // One wrong byte costs a block, the table or everything, and is never believed.
    for place in (0..whole.len()).step_by(whole.len() / 97) {
        let mut torn = whole.clone();
        torn[place] ^= 0x10;
        fs::write(&file, &torn).unwrap();
        assert!(!world.walk(&files).is_empty(), "byte {place}");
    }
    fs::write(&file, b"another program's").unwrap();
    assert_eq!(world.walk(&files).len(), files.len());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    let index = world.index();
    assert_eq!(visit(&index, Some(""), &files).len(), files.len());
    assert!(index.commit().is_err());
    assert!(index.evidence().is_some(), "this build still knows what it has seen");
}

#[test]
fn selections_are_compared_with_what_was_seen_of_them() {
    let world = World::new();
    let index = world.index();
    assert!(!index.is_as_seen(sum("src"), sum("1")), "nobody has looked");
    index.saw(sum("src"), sum("1"));
    index.saw(sum("src"), sum("1"));
    assert!(index.is_as_seen(sum("src"), sum("1")));
    assert!(!index.is_as_seen(sum("src"), sum("2")));
    index.saw(sum("src"), sum("2"));
    assert!(!index.is_as_seen(sum("src"), sum("1")) && !index.is_as_seen(sum("src"), sum("2")));
}
