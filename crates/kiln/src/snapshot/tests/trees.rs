//! Random trees there and back.

use super::*;

/// Numbers that look random and are the same in every run.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn name(&mut self) -> Vec<u8> {
        const NAMES: [&[u8]; 12] =
            [b"a", b"b", b"a-b", b"a.b", b"c", b"caf\xe9", b"d", b"e f", b"\n", b"wh", b"-", b"z"];
        NAMES[self.below(12) as usize].to_vec()
    }

    fn dress(&mut self, entry: &mut Entry) {
        entry.mtime =
            Timestamp { secs: self.below(2_000_000_000) as i64, nanos: self.below(1_000_000_000) as u32 };
        if is_root() {
            (entry.uid, entry.gid) = (self.below(3) as u32 * 1000, self.below(3) as u32 * 70_000);
        }
        let plain = matches!(entry.kind, Kind::File { .. } | Kind::Directory);
        if plain {
            entry.mode = [0o644, 0o600, 0o755, 0o4755, 0o1777, 0o2750][self.below(6) as usize];
            // An ordinary user has to be able to look at the result.
            entry.mode |= if entry.kind == Kind::Directory { 0o700 } else { 0o400 };
            if self.below(4) == 0 {
                entry.xattrs.insert("user.note".to_owned(), vec![b'x'; self.below(300) as usize]);
            }
        }
    }

    /// Returns a tree: a directory's entry comes before what is in it.
    pub(super) fn tree(&mut self) -> Content {
        let mut dirs = vec![EntryPath::root()];
        let mut files: Vec<(EntryPath, usize)> = Vec::new();
        let mut taken = std::collections::BTreeSet::new();
        let mut out: Content = Vec::new();
        for _ in 0..40 {
            let parent = dirs[self.below(dirs.len() as u64) as usize].clone();
            let path = parent.join(&self.name());
            if !taken.insert(path.clone()) {
                continue;
            }
            let content = vec![self.below(256) as u8; self.below(5000) as usize];
            let kind = match self.below(10) {
                0..=3 => Kind::File { size: content.len() as u64 },
                4..=6 => Kind::Directory,
                7 => Kind::Symlink { target: self.name() },
                8 if !files.is_empty() => {
                    let (target, source) = files[self.below(files.len() as u64) as usize].clone();
                    let kind = Kind::HardLink { target };
                    out.push((Entry { path, kind, ..out[source].0.clone() }, vec![]));
                    continue;
                }
                _ => Kind::Fifo,
            };
            let mut entry = Entry::new(path.clone(), kind, 0o777);
            self.dress(&mut entry);
            match entry.kind {
                Kind::File { .. } => {
                    files.push((path, out.len()));
                    out.push((entry, content));
                    continue;
                }
                Kind::Directory => dirs.push(path),
                Kind::Fifo => entry.mode = 0o644,
                _ => {}
            }
            out.push((entry, vec![]));
        }
        out
    }
}

fn without_root(mut shown: Shown) -> Shown {
    shown.remove(&EntryPath::root());
    shown
}

#[test]
fn an_unpacked_tree_is_the_tree() {
    for seed in 0..60 {
        let scratch = Scratch::new();
        let tree = Random(seed).tree();
        let dir = scratch.dir("layer");
        unpack_into(&dir, &tree, &*ids()).unwrap();
        let found = without_root(shown(std::slice::from_ref(&dir)));
        assert_eq!(found.len(), tree.len(), "seed {seed}");
        for (entry, content) in &tree {
            let (shown, bytes, group) = &found[&entry.path];
            if let Kind::HardLink { target } = &entry.kind {
                assert_eq!(*group, found[target].2, "seed {seed}");
                assert!(group.is_some(), "seed {seed}");
            } else {
                assert_eq!(shown, entry, "seed {seed}");
                assert!(bytes == content, "seed {seed}: content of {}", entry.path);
            }
        }
        // Packing what was unpacked and unpacking it again changes nothing.
        let packed = collect(&dir, &[], &[], Options::default());
        let again = scratch.dir("again");
        unpack_into(&again, &packed, &*ids()).unwrap();
        assert!(without_root(shown(&[again])) == found, "seed {seed}");
    }
}

/// What a step could have done to a view: the entries of its upper directory.
pub(super) fn step(random: &mut Random, lower: &[PathBuf]) -> Content {
    let mut out: Content = Vec::new();
    let mut gone: Vec<EntryPath> = Vec::new();
    for (path, (entry, content, group)) in without_root(shown(lower)) {
        if gone.iter().any(|g| path.starts_with(g)) {
            continue;
        }
        // An overlay has the directories of whatever it has, so all of them are copied up here.
        if entry.kind == Kind::Directory {
            match random.below(8) {
                0 => {
                    out.push((Entry::whiteout(&path), vec![]));
                    gone.push(path);
                }
                1 => {
                    out.push((entry, vec![]));
                    out.push((Entry::opaque(&path), vec![]));
                    gone.push(path);
                }
                2 => {
                    let mut entry = entry;
                    random.dress(&mut entry);
                    out.push((entry, vec![]));
                }
                _ => out.push((entry, vec![])),
            }
            continue;
        }
        match random.below(8) {
            0 => out.push((Entry::whiteout(&path), vec![])),
            1 => {
                let mut entry = Entry::new(path, Kind::File { size: 3 }, 0o644);
                random.dress(&mut entry);
                out.push((entry, b"new".to_vec()));
            }
            // Copied up and left as it was; that would part it from its other names.
            2 if group.is_none() => out.push((entry, content)),
            _ => {}
        }
    }
    out
}

#[test]
fn applying_a_difference_gives_what_was_compared() {
    for seed in 0..80 {
        let scratch = Scratch::new();
        let mut random = Random(seed + 1000);
        let lowers = stack(&scratch, &[random.tree(), random.tree()]);
        let upper = scratch.dir("upper");
        unpack_into(&upper, &step(&mut random, &lowers), &*ids()).unwrap();

        let changes = collect(&upper, &lowers, &[], Options::default());
        let applied = scratch.dir("applied");
        unpack_into(&applied, &changes, &*ids()).unwrap();

        let with = |top: PathBuf| {
            let mut layers = vec![top];
            layers.extend_from_slice(&lowers);
            let mut shown = without_root(shown(&layers));
            // The time of a directory alone is no change.
            for (entry, ..) in shown.values_mut().filter(|(e, ..)| e.kind == Kind::Directory) {
                entry.mtime = at(0);
            }
            shown
        };
        let (applied, upper) = (with(applied), with(upper));
        assert_eq!(applied.keys().collect::<Vec<_>>(), upper.keys().collect::<Vec<_>>(), "seed {seed}");
        for (path, (entry, content, group)) in &applied {
            let expect = &upper[path];
            assert_eq!((entry, group), (&expect.0, &expect.2), "seed {seed}");
            assert!(*content == expect.1, "seed {seed}: content of {path}");
        }
    }
}
