//! Upper directories into layers. The upper side is made by unpacking, which leaves what an overlay leaves.

use super::*;

/// Compares `upper`, unpacked as an upper directory, with `lower`.
fn check(lower: Content, upper: Content, expect: &[&str]) -> Content {
    let scratch = Scratch::new();
    let lowers = stack(&scratch, &[lower]);
    let dir = scratch.dir("upper");
    unpack_into(&dir, &upper, &*ids()).unwrap();
    let found = collect(&dir, &lowers, &[], Options::default());
    assert_eq!(names(&found), expect);
    found
}

fn base() -> Content {
    vec![directory("etc"), file("etc/a", "1"), file("etc/b", "2"), directory("usr"), file("usr/c", "3")]
}

#[test]
fn unchanged_entries_are_left_out() {
    check(base(), vec![directory("etc"), file("etc/a", "1"), directory("usr")], &[]);
}

#[test]
fn changes_bring_their_directories() {
    check(base(), vec![directory("etc"), file("etc/a", "11")], &["etc", "etc/a"]);
    check(
        base(),
        vec![directory("usr"), directory("usr/x"), file("usr/x/new", "")],
        &["usr", "usr/x", "usr/x/new"],
    );
}

#[test]
fn every_attribute_counts_but_the_time_of_a_directory() {
    let changed = |change: &dyn Fn(&mut Entry)| {
        let mut upper = vec![directory("etc"), file("etc/a", "1")];
        change(&mut upper[1].0);
        check(base(), upper, &["etc", "etc/a"]);
    };
    changed(&|e| e.mode = 0o600);
    changed(&|e| e.mtime.nanos = 1);
    changed(&|e| drop(e.xattrs.insert("user.x".to_owned(), b"1".to_vec())));
    if is_root() {
        changed(&|e| e.uid = 1);
        changed(&|e| e.gid = 1);
    }
    changed(&|e| e.kind = Kind::Fifo);
    let mut upper = vec![directory("etc")];
    upper[0].0.mtime = at(99);
    check(base(), upper.clone(), &[]);
    upper[0].0.mode = 0o700;
    check(base(), upper, &["etc"]);
}

#[test]
fn removals_come_first_and_only_when_there_is_something_to_remove() {
    check(
        base(),
        vec![directory("etc"), whiteout("etc/a"), whiteout("etc/zz"), whiteout("nothing")],
        &["etc", "etc/.wh.a"],
    );
    check(base(), vec![whiteout("usr"), file("+", "")], &["+", ".wh.usr"]);
    check(
        base(),
        vec![directory("etc"), opaque("etc"), file("etc/-", "n")],
        &["etc", "etc/.wh..wh..opq", "etc/-"],
    );
    // An unchanged file in an opaque directory is not unchanged: the layers below do not show it any more.
    check(
        base(),
        vec![directory("etc"), opaque("etc"), file("etc/a", "1")],
        &["etc", "etc/.wh..wh..opq", "etc/a"],
    );
    check(base(), vec![directory("etc/a"), opaque("etc/a")], &["etc", "etc/a"]);
}

#[test]
fn order_is_by_component() {
    check(
        vec![],
        vec![file("a-b", ""), directory("a"), file("a/c", ""), file("a.b", ""), file("b", "")],
        &["a", "a/c", "a-b", "a.b", "b"],
    );
}

#[test]
fn names_of_one_file_come_as_links() {
    let upper =
        vec![directory("etc"), file("etc/z", "1"), hard_link("etc/a", "etc/z"), hard_link("b", "etc/z")];
    let found = check(base(), upper, &["b", "etc", "etc/a", "etc/z"]);
    assert_eq!(found[0].0.kind, Kind::File { size: 1 });
    assert_eq!(found[0].1, b"1");
    for link in [&found[2].0, &found[3].0] {
        assert_eq!(link.kind, Kind::HardLink { target: path("b") });
    }
}

#[test]
fn mount_points_are_left_out_unless_something_is_in_them() {
    let scratch = Scratch::new();
    let lowers = stack(&scratch, &[base()]);
    let dir = scratch.dir("upper");
    let upper = vec![
        directory("etc"),
        file("etc/resolv.conf", ""),
        file("etc/hosts", "written"),
        directory("proc"),
        directory("run"),
        directory("run/secrets"),
        file("run/kept", "k"),
    ];
    unpack_into(&dir, &upper, &*ids()).unwrap();
    let stubs = ["/etc/resolv.conf", "etc/hosts", "/proc", "/run", "/run/secrets/"].map(PathBuf::from);
    let found = collect(&dir, &lowers, &stubs, Options::default());
    assert_eq!(names(&found), ["etc", "etc/hosts", "run", "run/kept"]);
}

#[test]
fn times_after_the_epoch_are_clamped() {
    let scratch = Scratch::new();
    let dir = scratch.dir("upper");
    let (mut old, mut new) = (file("old", ""), file("new", ""));
    old.0.mtime = at(10);
    new.0.mtime = Timestamp { secs: 1000, nanos: 1 };
    unpack_into(&dir, &vec![old, new], &*ids()).unwrap();
    let options = Options { clamp: ClampMtime::To(at(1000)) };
    let times: Vec<_> = collect(&dir, &[], &[], options).iter().map(|(e, _)| e.mtime).collect();
    assert_eq!(times, [at(1000), at(10)]);
}

#[test]
fn sockets_are_left_out() {
    let scratch = Scratch::new();
    let dir = scratch.dir("upper");
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap();
    assert!(collect(&dir, &[], &[], Options::default()).is_empty());
}
