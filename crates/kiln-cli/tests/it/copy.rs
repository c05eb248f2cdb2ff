//! COPY: what is taken, where it goes, and with which attributes. Expectations are those of BuildKit's copier.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use kiln_testkit::{Image, Listing, TestEnv, lane};

use crate::{env, env_of};

/// Builds `dockerfile` with the files of `ctx`, pushes the image and reads it back.
pub(crate) fn build(env: &TestEnv, dockerfile: &str) -> Image {
    env.write("ctx/Dockerfile", dockerfile);
    let name = format!("{}/copy:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
    Image::pull(&name)
}

fn fails(env: &TestEnv, dockerfile: &str, parts: &[&str]) {
    env.write("ctx/Dockerfile", dockerfile);
    env.kiln(["build", "ctx"]).fails(1, parts);
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A context with a bit of everything.
pub(crate) fn filled() -> TestEnv {
    let env = env();
    for (path, content) in
        [("a/f", "f"), ("a/sub/g", "gg"), ("b/x.txt", "xxx"), ("b/y.txt", "y"), ("b/deep/z.txt", "z")]
    {
        env.write(&format!("ctx/{path}"), content);
    }
    for (target, path) in [("a", "link"), ("f", "a/l"), ("nowhere", "b/dangling.lnk")] {
        symlink(target, env.root.join("ctx").join(path)).unwrap();
    }
    env
}

#[track_caller]
fn check(layers: &[Listing], expect: &[&[&str]]) {
    let lines: Vec<Vec<String>> = layers.iter().map(Listing::lines).collect();
    assert_eq!(lines, expect);
}

#[test]
fn sources_are_rooted_followed_and_expanded() {
    let env = filled();
    let image = build(
        &env,
        "FROM scratch\nCOPY a/ /t1\nCOPY ../../a/f /t2\nCOPY link/f /t3\nCOPY link /t4/\nCOPY a/l /t5\n\
         COPY nothing* /t6/\nCOPY b/*.txt /t7/\nCOPY b/d??p /t8/\nCOPY */f /t9/\nCOPY a/f b/x.txt /t10\n\
         COPY a/f b /t11/\nCOPY [ab]/[fx]* /t12/\n",
    );
    let tree = |top: &str| {
        vec![
            format!("dir 755 0:0 {top}"),
            format!("file 644 0:0 {top}/f 1"),
            format!("link 777 0:0 {top}/l -> f"),
            format!("dir 755 0:0 {top}/sub"),
            format!("file 644 0:0 {top}/sub/g 2"),
        ]
    };
    let lines: Vec<Vec<String>> = image.layers.iter().map(Listing::lines).collect();
    assert_eq!(lines[0], tree("t1"));
    assert_eq!(lines[1], ["file 644 0:0 t2 1"]);
    assert_eq!(lines[2], ["file 644 0:0 t3 1"]);
    assert_eq!(lines[3], tree("t4"));
    assert_eq!(lines[4], ["file 644 0:0 t5 1"]);
    // Nothing matches, and then not even the directory is made.
    assert!(lines[5].is_empty(), "{:?}", lines[5]);
    assert_eq!(lines[6], ["dir 755 0:0 t7", "file 644 0:0 t7/x.txt 3", "file 644 0:0 t7/y.txt 1"]);
    assert_eq!(lines[7], ["dir 755 0:0 t8", "file 644 0:0 t8/z.txt 1"]);
    // A wildcard does not lead through `link`.
    assert_eq!(lines[8], ["dir 755 0:0 t9", "file 644 0:0 t9/f 1"]);
    // Several sources for one file: the last stays.
    assert_eq!(lines[9], ["file 644 0:0 t10 3"]);
    assert_eq!(image.layers[10].entry("t11/f").map(|e| e.kind.size()), Some(1));
    assert!(image.layers[10].entry("t11/deep/z.txt").is_some());
    assert_eq!(lines[11], ["dir 755 0:0 t12", "file 644 0:0 t12/f 1", "file 644 0:0 t12/x.txt 3"]);
    // A link that a wildcard finds has to lead somewhere.
    fails(&env, "FROM scratch\nCOPY b/*.lnk /x/\n", &["`b/dangling.lnk` is a symbolic link to `nowhere`"]);
}

#[test]
fn destinations_lead_through_links_of_the_image() {
    let env = filled();
    for (target, path) in [("real", "dl"), ("/real/f", "fl"), ("new/place", "dangling"), ("../../real", "up")]
    {
        fs::create_dir_all(env.root.join("ctx/links")).unwrap();
        symlink(target, env.root.join("ctx/links").join(path)).unwrap();
    }
    let image = build(
        &env,
        "FROM scratch\nCOPY a /real\nCOPY links /\nCOPY b/x.txt /dl/\nCOPY b/x.txt /fl\n\
         COPY b/x.txt /dangling\nCOPY b/y.txt /up/sub/g\nCOPY b/deep /dl\nCOPY b/x.txt /real/l\n",
    );
    check(
        &image.layers[2..],
        &[
            &["dir 755 0:0 real", "file 644 0:0 real/x.txt 3"],
            &["dir 755 0:0 real", "file 644 0:0 real/f 3"],
            &["dir 755 0:0 new", "file 644 0:0 new/place 3"],
            &["dir 755 0:0 real", "dir 755 0:0 real/sub", "file 644 0:0 real/sub/g 1"],
            &["dir 755 0:0 real", "file 644 0:0 real/z.txt 1"],
            // `/real/l` is a link to `f`, and a destination is followed to the end.
            &["dir 755 0:0 real", "file 644 0:0 real/f 3"],
        ],
    );
    // Inside of a directory nothing is followed: the link itself is replaced.
    env.write("ctx/c/l", "four");
    let image = build(&env, "FROM scratch\nCOPY a /real\nCOPY c/l /real/\n");
    assert_eq!(image.last().lines(), ["dir 755 0:0 real", "file 644 0:0 real/l 4"]);
}

#[test]
fn a_file_and_a_directory_do_not_replace_each_other() {
    let env = filled();
    env.write("ctx/c/sub", "a file");
    env.write("ctx/d/f/x", "f is a directory");
    fails(
        &env,
        "FROM scratch\nCOPY a /t\nCOPY c/sub /t/\n",
        &["cannot replace the directory `/t/sub` by a file"],
    );
    fails(
        &env,
        "FROM scratch\nCOPY a /t\nCOPY d /t/\n",
        &["cannot copy to non-directory `/t/f`", "Dockerfile:3"],
    );
    fails(&env, "FROM scratch\nCOPY a/f /t\nCOPY a /t\n", &["cannot copy to non-directory `/t`"]);
    fails(&env, "FROM scratch\nCOPY a/f /t\nCOPY a/f /t/\n", &["cannot copy into `/t`"]);
    fails(&env, "FROM scratch\nCOPY a c /t\n", &["cannot replace the directory `/t/sub` by a file"]);
    fails(&env, "FROM scratch\nCOPY a/f /t\nCOPY a/f /t/u\n", &["`/t` is not a directory"]);
}

#[test]
fn merging_keeps_the_top_and_takes_the_modes_below() {
    let env = filled();
    mode(&env.root.join("ctx/a/sub"), 0o750);
    let image = build(
        &env,
        "FROM scratch\nCOPY --chown=7:8 --chmod=700 a /m\nCOPY a /m\nCOPY --chown=9 --chmod=2711 b/deep /m/new/\n",
    );
    check(
        &image.layers,
        &[
            &[
                "dir 700 7:8 m",
                "file 700 7:8 m/f 1",
                "link 777 7:8 m/l -> f",
                "dir 700 7:8 m/sub",
                "file 700 7:8 m/sub/g 2",
            ],
            &[
                "dir 700 7:8 m",
                "file 644 0:0 m/f 1",
                "link 777 0:0 m/l -> f",
                "dir 750 0:0 m/sub",
                "file 644 0:0 m/sub/g 2",
            ],
            // Directories made on the way get no special bits; a number alone is user and group.
            &["dir 700 7:8 m", "dir 711 9:9 m/new", "file 2711 9:9 m/new/z.txt 1"],
        ],
    );
}

#[test]
fn symbolic_modes_change_the_mode_of_each_entry() {
    let env = filled();
    env.write("ctx/a/tool", "#!");
    mode(&env.root.join("ctx/a/tool"), 0o700);
    mode(&env.root.join("ctx/a/f"), 0o600);
    mode(&env.root.join("ctx/a/sub"), 0o700);
    let image = build(
        &env,
        "FROM scratch\nARG M=u=rwX,go=rX\nCOPY --chmod=$M a /x/y/\nCOPY --chmod=+x <<EOF /run.sh\nhi\nEOF\n\
         ADD --chmod=a-w,u+s a/tool /new/\nARG EMPTY\nCOPY --chmod=$EMPTY --chown=$EMPTY a/tool /kept\n",
    );
    check(
        &image.layers,
        &[
            &[
                "dir 755 0:0 x",
                "dir 755 0:0 x/y",
                "file 644 0:0 x/y/f 1",
                "link 777 0:0 x/y/l -> f",
                "dir 755 0:0 x/y/sub",
                "file 644 0:0 x/y/sub/g 2",
                "file 755 0:0 x/y/tool 2",
            ],
            &["file 755 0:0 run.sh 3"],
            &["dir 755 0:0 new", "file 4500 0:0 new/tool 2"],
            &["file 700 0:0 kept 2"],
        ],
    );
}

#[test]
fn parents_are_kept_from_the_pivot_on() {
    let env = env();
    for path in ["x/go.mod", "x/src/main.go", "x/src/util/u.go", "y/go.mod", "y/README", "top.go"] {
        env.write(&format!("ctx/{path}"), "");
    }
    mode(&env.root.join("ctx/x/src"), 0o750);
    let image = build(
        &env,
        "FROM scratch AS all\nCOPY . /\nFROM scratch\nCOPY --parents x/src/main.go y /t1/\n\
         COPY --parents ./x/./src/*.go /t2/\nCOPY --parents **/*.go /t3/\nCOPY --parents */./go.mod /t4/\n\
         COPY --parents --exclude=**/util --chown=5 --chmod=u=rwX,go= x/./src /t5\n\
         COPY --from=all --parents x/src/util /t6\nCOPY --parents nothing/* /t7/\n",
    );
    check(
        &image.layers,
        &[
            &[
                "dir 755 0:0 t1",
                "dir 755 0:0 t1/x",
                "dir 750 0:0 t1/x/src",
                "file 644 0:0 t1/x/src/main.go 0",
                "dir 755 0:0 t1/y",
                "file 644 0:0 t1/y/README 0",
                "file 644 0:0 t1/y/go.mod 0",
            ],
            &["dir 755 0:0 t2", "dir 750 0:0 t2/src", "file 644 0:0 t2/src/main.go 0"],
            &[
                "dir 755 0:0 t3",
                "file 644 0:0 t3/top.go 0",
                "dir 755 0:0 t3/x",
                "dir 750 0:0 t3/x/src",
                "file 644 0:0 t3/x/src/main.go 0",
                "dir 755 0:0 t3/x/src/util",
                "file 644 0:0 t3/x/src/util/u.go 0",
            ],
            &["dir 755 0:0 t4", "file 644 0:0 t4/go.mod 0"],
            &["dir 755 5:5 t5", "dir 700 5:5 t5/src", "file 600 5:5 t5/src/main.go 0"],
            &[
                "dir 755 0:0 t6",
                "dir 755 0:0 t6/x",
                "dir 750 0:0 t6/x/src",
                "dir 755 0:0 t6/x/src/util",
                "file 644 0:0 t6/x/src/util/u.go 0",
            ],
            // The destination is made for the content of the root, whatever is taken from it.
            &["dir 755 0:0 t7"],
        ],
    );
    // Of several sources each is a copy of its own: the second finds `x` made, and gives it the mode of the source.
    let image = build(&env, "FROM scratch\nCOPY --parents --chmod=700 --chown=3 x/src/main.go x/go.mod /\n");
    let expect =
        ["dir 755 3:3 x", "file 700 3:3 x/go.mod 0", "dir 700 3:3 x/src", "file 700 3:3 x/src/main.go 0"];
    assert_eq!(image.last().lines(), expect);
    // Links are not followed behind the pivot, only before it.
    symlink("x", env.root.join("ctx/to-x")).unwrap();
    fails(
        &env,
        "FROM scratch\nCOPY --parents to-x/go.mod /\n",
        &["cannot find `to-x/go.mod`", "Dockerfile:2:16"],
    );
    let image = build(&env, "FROM scratch\nCOPY --parents to-x/./go.mod /\nCOPY --parents . /all\n");
    assert_eq!(image.layers[0].lines(), ["file 644 0:0 go.mod 0"]);
    assert!(image.layers[1].entry("all/x/src/util/u.go").is_some());
    // A directory on the way that exists takes the mode of the source and keeps its owner.
    let image = build(
        &env,
        "FROM scratch\nCOPY --parents --chown=3:4 --chmod=711 x/src/util /\nCOPY --parents x/src/main.go /\n",
    );
    assert_eq!(image.last().lines(), ["dir 755 3:4 x", "dir 750 3:4 x/src", "file 644 0:0 x/src/main.go 0"]);
}

#[test]
fn excluded_is_what_the_patterns_say_from_the_source_on() {
    let env = filled();
    env.write("ctx/b/deep/deeper/keep.txt", "");
    mode(&env.root.join("ctx/b/deep/deeper"), 0o711);
    fs::create_dir(env.root.join("ctx/b/empty")).unwrap();
    let image = build(
        &env,
        "FROM scratch\nCOPY --exclude=deep --exclude=*.lnk b /t1\nCOPY --exclude=**/*.txt --exclude=*.lnk b /t2\n\
         COPY --exclude=* --exclude=!deep/deeper/* b /t3\nCOPY --exclude=*.txt b/x.txt /t4\n\
         ADD --exclude=b/* b /t5\n",
    );
    check(
        &image.layers,
        &[
            &["dir 755 0:0 t1", "dir 755 0:0 t1/empty", "file 644 0:0 t1/x.txt 3", "file 644 0:0 t1/y.txt 1"],
            &["dir 755 0:0 t2", "dir 755 0:0 t2/deep", "dir 711 0:0 t2/deep/deeper", "dir 755 0:0 t2/empty"],
            // What is left out but holds something is made with the modes of the source.
            &[
                "dir 755 0:0 t3",
                "dir 755 0:0 t3/deep",
                "dir 711 0:0 t3/deep/deeper",
                "file 644 0:0 t3/deep/deeper/keep.txt 0",
            ],
            // A file that is named is copied.
            &["file 644 0:0 t4 3"],
            &[
                "dir 755 0:0 t5",
                "link 777 0:0 t5/dangling.lnk -> nowhere",
                "dir 755 0:0 t5/deep",
                "dir 711 0:0 t5/deep/deeper",
                "file 644 0:0 t5/deep/deeper/keep.txt 0",
                "file 644 0:0 t5/deep/z.txt 1",
                "dir 755 0:0 t5/empty",
                "file 644 0:0 t5/x.txt 3",
                "file 644 0:0 t5/y.txt 1",
            ],
        ],
    );
}

#[test]
fn what_is_ignored_is_not_there() {
    let env = filled();
    env.write(
        "ctx/.dockerignore",
        "Dockerfile\n.dockerignore\nb\n!b/deep/z.txt\na/f\nc\n!c/nothing\n*.lnk\n",
    );
    env.write("ctx/c/x", "");
    symlink("a/f", env.root.join("ctx/to-ignored")).unwrap();
    fs::remove_file(env.root.join("ctx/link")).unwrap();
    mode(&env.root.join("ctx/b/deep"), 0o711);
    let image = build(&env, "FROM scratch\nCOPY . /\nCOPY b /b2\n");
    check(
        &image.layers,
        &[
            &[
                "dir 755 0:0 a",
                "link 777 0:0 a/l -> f",
                "dir 755 0:0 a/sub",
                "file 644 0:0 a/sub/g 2",
                "dir 755 0:0 b",
                "dir 711 0:0 b/deep",
                "file 644 0:0 b/deep/z.txt 1",
                "link 777 0:0 to-ignored -> a/f",
            ],
            &["dir 755 0:0 b2", "dir 711 0:0 b2/deep", "file 644 0:0 b2/deep/z.txt 1"],
        ],
    );
    fails(&env, "FROM scratch\nCOPY Dockerfile /\n", &["`.dockerignore:1` excludes `Dockerfile`"]);
    // A link to what is ignored leads nowhere, and a directory of which nothing is left is gone.
    fails(&env, "FROM scratch\nCOPY to-ignored /\n", &["cannot find `to-ignored`"]);
    fails(&env, "FROM scratch\nCOPY c /\n", &["cannot find `c`"]);
}

#[test]
fn kinds_and_attributes_of_files_arrive() {
    let env = filled();
    let ctx = env.root.join("ctx/k");
    fs::create_dir_all(ctx.join("empty")).unwrap();
    fs::write(ctx.join("one"), "1").unwrap();
    fs::hard_link(ctx.join("one"), ctx.join("two")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(ctx.join("sock")).unwrap();
    mode(&ctx.join("sock"), 0o600);
    fs::write(ctx.join("suid"), "s").unwrap();
    mode(&ctx.join("suid"), 0o4755);
    mode(&ctx.join("empty"), 0o1777);
    let image = build(
        &env,
        "FROM scratch AS s\nCOPY k /k\nFROM scratch\nCOPY --from=s /k /k\nCOPY k/one k/two /pair/\n",
    );
    let expect = [
        "dir 755 0:0 k",
        "dir 1777 0:0 k/empty",
        "file 644 0:0 k/one 1",
        // A socket stands as an empty file.
        "file 600 0:0 k/sock 0",
        "file 4755 0:0 k/suid 1",
        "hard 644 0:0 k/two = k/one",
    ];
    assert_eq!(image.layers[0].lines(), expect);
    // Links are kept inside of one copied tree, not between sources.
    assert_eq!(
        image.layers[1].lines(),
        ["dir 755 0:0 pair", "file 644 0:0 pair/one 1", "file 644 0:0 pair/two 1"]
    );
}

#[test]
fn names_of_owners_are_those_of_the_image_whoever_builds() {
    for person in lane::people("owners of COPY") {
        let env = env_of(person.clone());
        env.write("ctx/etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n");
        env.write("ctx/etc/group", "root:x:0:\nstaff:x:50:\n");
        env.write("ctx/f", "");
        let image = build(
            &env,
            "FROM scratch AS b\nCOPY etc /etc\nCOPY --chown=app f /u/1\nCOPY --chown=app:staff f /u/2\n\
             COPY --chown=44:staff f /u/3\nCOPY --chown=44 f /u/4\nFROM scratch\nCOPY --from=b /u /u\n",
        );
        let expect: &[&[&str]] = &[&[
            "dir 755 0:0 u",
            "file 644 1000:1001 u/1 0",
            "file 644 1000:50 u/2 0",
            "file 644 44:50 u/3 0",
            "file 644 44:44 u/4 0",
        ]];
        check(&image.layers, expect);
    }
}

#[test]
fn of_the_attributes_only_capabilities_arrive() {
    use rustix::fs::{XattrFlags, setxattr};

    let env = filled();
    let tool = env.write("ctx/k/tool", "#!");
    mode(&tool, 0o755);
    setxattr(&tool, "user.note", b"x", XattrFlags::empty()).unwrap();
    // Version 2 of the attribute, effective: CAP_NET_BIND_SERVICE.
    let mut capability = vec![0; 20];
    (capability[0], capability[3], capability[5]) = (1, 2, 4);
    if let Err(why) = setxattr(&tool, "security.capability", &capability, XattrFlags::empty()) {
        return lane::left_out("capabilities of copied files", &format!("they cannot be set here: {why}"));
    }
    let image = build(&env, "FROM scratch AS s\nCOPY k /k\nFROM scratch\nCOPY --from=s /k /k\n");
    let found = &image.entry("k/tool").unwrap().xattrs;
    assert_eq!(found.iter().collect::<Vec<_>>(), [(&"security.capability".to_owned(), &capability)]);
}
