//! A run of layers and the one directory that stands for it show the same, wherever in a stack it is.

use super::*;

/// Puts one directory in the place of the layers `from..to` of a stack.
fn shortened(scratch: &Scratch, layers: &[PathBuf], from: usize, to: usize) -> Vec<PathBuf> {
    let dir = scratch.dir(&format!("merged-{from}-{to}")).join("fs");
    std::fs::create_dir(&dir).unwrap();
    let owners = merge(&layers[from..to], &dir).unwrap();
    write_owners(&dir, &owners, false).unwrap();
    [&layers[..from], &[dir], &layers[to..]].concat()
}

/// Merges every run of a stack, and compares what it shows with what the layers show.
fn check(scratch: &Scratch, layers: &[PathBuf], seed: u64) {
    // Every file of a merged run has several names on disk; only names that the stack shows make it a hard link.
    let plain = |shown: Shown| -> BTreeMap<_, _> {
        let several = |shown: &Shown, first: &EntryPath| {
            shown.values().filter(|(.., group)| group.as_ref() == Some(first)).count() > 1
        };
        let linked = |(entry, content, group): &(Entry, Vec<u8>, Option<EntryPath>)| {
            (entry.clone(), content.clone(), group.clone().filter(|first| several(&shown, first)))
        };
        shown.iter().map(|(path, found)| (path.clone(), linked(found))).collect()
    };
    let expect = plain(shown(layers));
    for from in 0..layers.len() - 1 {
        for to in from + 2..=layers.len() {
            let short = shortened(scratch, layers, from, to);
            assert_eq!(plain(shown(&short)), expect, "seed {seed}, layers {from} to {to}");
        }
    }
}

#[test]
fn random_stacks_show_the_same_when_runs_of_them_are_merged() {
    for seed in 0..6 {
        let scratch = Scratch::new();
        let mut random = trees::Random(seed);
        let mut layers = stack(&scratch, &[random.tree()]);
        for number in 0..4 {
            let dir = scratch.dir(&format!("step-{number}")).join("fs");
            std::fs::create_dir(&dir).unwrap();
            let unpacked = unpack_into(&dir, &trees::step(&mut random, &layers), &*ids()).unwrap();
            write_owners(&dir, &unpacked.owners, false).unwrap();
            layers.insert(0, dir);
        }
        check(&scratch, &layers, seed);
    }
}

#[test]
fn what_a_run_hides_stays_hidden() {
    let scratch = Scratch::new();
    let layers = stack(
        &scratch,
        &[
            vec![directory("d"), file("d/old", "1"), file("f", "1"), directory("o"), file("o/old", "1")],
            vec![whiteout("d"), whiteout("f"), directory("o"), opaque("o"), file("o/mid", "2")],
            vec![directory("d"), file("d/new", "3"), directory("f"), file("f/x", "3"), directory("o")],
            vec![file("top", "4")],
        ],
    );
    let short = shortened(&scratch, &layers, 1, 3);
    let view = View::new(short.clone()).unwrap();
    for (name, there) in
        [("d/old", false), ("d/new", true), ("f", true), ("f/x", true), ("o/old", false), ("o/mid", true)]
    {
        assert_eq!(view.lookup(&path(name)).unwrap().is_some(), there, "{name}");
    }
    check(&Scratch::new(), &layers, 0);
}

#[test]
fn owners_that_the_disk_cannot_show_are_kept() {
    let scratch = Scratch::new();
    let owned = |(mut entry, content): (Entry, Vec<u8>), id: u32| {
        (entry.uid, entry.gid) = (id, id + 1);
        (entry, content)
    };
    let mut layers = Vec::new();
    let contents = [
        vec![owned(directory("d"), 33), owned(file("d/f", "x"), 34), owned(symlink("d/s", "f"), 35)],
        vec![owned(directory("d"), 43), owned(symlink("d/t", "f"), 45)],
    ];
    for (number, content) in contents.iter().enumerate() {
        let dir = scratch.dir(&format!("single-{number}")).join("fs");
        std::fs::create_dir(&dir).unwrap();
        let unpacked = unpack_into(&dir, content, &one_id()).unwrap();
        write_owners(&dir, &unpacked.owners, false).unwrap();
        layers.insert(0, dir);
    }
    let short = shortened(&scratch, &layers, 0, 2);
    assert_eq!(short.len(), 1);
    let view = View::with_ids(short, one_id()).unwrap();
    for (name, owner) in [("d", 43), ("d/f", 34), ("d/s", 35), ("d/t", 45)] {
        let entry = view.metadata(&path(name)).unwrap().unwrap();
        assert_eq!((entry.uid, entry.gid), (owner, owner + 1), "{name}");
    }
}
