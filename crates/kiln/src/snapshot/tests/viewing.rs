//! Stacks of layers without a mount.

use super::*;

fn sample(scratch: &Scratch) -> View {
    let bottom = vec![
        directory("etc"),
        file("etc/passwd", "root"),
        file("etc/group", "root"),
        directory("usr"),
        directory("usr/lib"),
        file("usr/lib/libc", "1"),
        symlink("lib", "usr/lib"),
        directory("var"),
        file("var/old", "old"),
        file("turns", "file"),
        directory("shrinks"),
        file("shrinks/x", "x"),
    ];
    let middle = vec![
        whiteout("etc/group"),
        directory("var"),
        opaque("var"),
        file("var/new", "new"),
        directory("turns"),
        file("turns/inside", "i"),
        file("shrinks", "now a file"),
        symlink("usr/abs", "/etc/passwd"),
        symlink("usr/up", "../../../../etc"),
        symlink("round", "round"),
        hard_link("usr/lib/second", "var/new"),
    ];
    let top = vec![file("etc/group", "again"), directory("usr"), file("usr/lib/libm", "2")];
    View::with_ids(stack(scratch, &[bottom, middle, top]), Ported).unwrap()
}

#[test]
fn names_are_looked_up_through_the_stack() {
    let scratch = Scratch::new();
    let view = sample(&scratch);
    let read = |name: &str| view.open(&path(name)).map(|f| std::io::read_to_string(f).unwrap()).ok();
    let check = |name: &str, expect: Option<&str>| assert_eq!(read(name).as_deref(), expect, "{name}");
    check("etc/passwd", Some("root"));
    check("etc/group", Some("again"));
    check("var/new", Some("new"));
    check("var/old", None);
    check("turns/inside", Some("i"));
    check("shrinks", Some("now a file"));
    check("shrinks/x", None);
    check("usr/lib/libc", Some("1"));
    check("usr/lib/libm", Some("2"));
    check("lib/libc", None);
    check("lib", None);
    check("etc", None);
}

#[test]
fn directories_are_merged_and_sorted() {
    let scratch = Scratch::new();
    let view = sample(&scratch);
    let check = |name: &str, expect: &[&str]| {
        let names = view.read_dir(&path(name)).unwrap();
        let names: Vec<_> = names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
        assert_eq!(names, expect, "{name}");
    };
    check("", &["etc", "lib", "round", "shrinks", "turns", "usr", "var"]);
    check("etc", &["group", "passwd"]);
    check("usr/lib", &["libc", "libm", "second"]);
    check("var", &["new"]);
    check("turns", &["inside"]);
    assert!(matches!(view.read_dir(&path("shrinks")), Err(Error::NotDirectory(_))));
    assert!(matches!(view.read_dir(&path("nothing")), Err(Error::Missing(_))));
}

#[test]
fn links_are_followed_inside_the_root() {
    let scratch = Scratch::new();
    let view = sample(&scratch);
    let check = |name: &str, follow: Follow, expect: &str, exists: bool| {
        let found = view.resolve(name, follow).unwrap();
        assert_eq!((found.path.to_string().as_str(), found.node.is_some()), (expect, exists), "{name}");
    };
    check("/lib/libc", Follow::All, "usr/lib/libc", true);
    check("lib", Follow::All, "usr/lib", true);
    check("lib", Follow::Parents, "lib", true);
    check("lib/", Follow::Parents, "usr/lib", true);
    check("lib/../x", Follow::All, "usr/x", false);
    check("usr/abs", Follow::All, "etc/passwd", true);
    check("usr/up/passwd", Follow::Parents, "etc/passwd", true);
    check("../../..", Follow::All, ".", true);
    check("new/deep/er", Follow::All, "new/deep/er", false);
    check("lib/new/../libc", Follow::All, "usr/lib/libc", true);
    check("round", Follow::Parents, "round", true);
    assert!(matches!(view.resolve("round", Follow::All), Err(Error::Loop(_))));
    assert!(matches!(view.resolve("etc/passwd/x", Follow::All), Err(Error::NotDirectory(_))));
}

#[test]
fn walks_come_in_order_and_show_links_between_names() {
    let scratch = Scratch::new();
    let view = sample(&scratch);
    let visited: Vec<_> = view.walk(&path("usr")).unwrap().map(|v| v.unwrap()).collect();
    let names: Vec<_> = visited.iter().map(|v| v.relative.to_string()).collect();
    assert_eq!(names, [".", "abs", "lib", "lib/libc", "lib/libm", "lib/second", "up"]);
    let new = view.lookup(&path("var/new")).unwrap().unwrap();
    assert_eq!(new.identity, visited[5].node.identity);
    assert_eq!(new.identity.links, 2);
    let mut walk = view.walk(&EntryPath::root()).unwrap();
    let mut tops = Vec::new();
    while let Some(visited) = walk.next() {
        let visited = visited.unwrap();
        if !visited.relative.is_root() && visited.node.is_directory() {
            walk.skip_directory();
        }
        tops.push(visited.relative.to_string());
    }
    assert_eq!(tops, [".", "etc", "lib", "round", "shrinks", "turns", "usr", "var"]);
    assert_eq!(view.walk(&path("etc/group")).unwrap().count(), 1);
}
