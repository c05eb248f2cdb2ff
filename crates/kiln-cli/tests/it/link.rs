//! `COPY --link`: layers that do not depend on what is below them.

use std::fs;
use std::os::unix::fs::symlink;

use kiln_testkit::Image;

use crate::copy::{build, filled};

#[test]
fn a_linked_layer_is_the_same_on_every_base() {
    let env = filled();
    let base = env.base();
    let name = |n: u32| format!("{}/link:{n}", env.host());
    let linked = "COPY --link --chown=7:8 a/f /bin/tool/\nCOPY --link b /opt\n";
    env.write("ctx/Dockerfile", format!("FROM {base}\n{linked}"));
    env.kiln(["build", "-t", &name(1), "--push", "ctx"]).ok();
    // Another base, with other files and another history: the layers come from the cache.
    env.write("ctx/Dockerfile", format!("FROM scratch\nCOPY a /bin\n{linked}WORKDIR /opt/new\n"));
    let again = env.kiln(["build", "-t", &name(2), "--push", "ctx"]);
    assert!(
        again.ok().starts_with("sha256:") && again.stderr.contains("(2 from the cache)"),
        "{}",
        again.stderr
    );
    let (one, two) = (Image::pull(&name(1)), Image::pull(&name(2)));
    assert_eq!(one.manifest.layers[1..3], two.manifest.layers[1..3]);
    // Directories on the way are made anew, with the owner of the files; nothing of the base is looked at.
    assert_eq!(
        two.layers[1].lines(),
        ["dir 755 7:8 bin", "dir 755 7:8 bin/tool", "file 644 7:8 bin/tool/f 1"]
    );
    assert_eq!(two.layers[2].lines()[0], "dir 755 0:0 opt");
    // What stands on top knows its base: the third step of a third base is no hit of the second's.
    env.write("ctx/Dockerfile", format!("FROM scratch\nCOPY b /bin\n{linked}WORKDIR /opt/new\n"));
    let third = env.kiln(["build", "ctx"]);
    assert!(
        third.ok().starts_with("sha256:") && third.stderr.contains("(2 from the cache)"),
        "{}",
        third.stderr
    );
}

#[test]
fn a_linked_copy_does_not_follow_links_of_the_image() {
    let env = filled();
    fs::create_dir_all(env.root.join("ctx/links")).unwrap();
    symlink("real", env.root.join("ctx/links/dl")).unwrap();
    let image = build(
        &env,
        "FROM scratch\nCOPY links /\nCOPY --link a/f /dl/\nCOPY --link <<EOF /dl/here\nhi\nEOF\n\
         COPY --link --chmod=600 a/f /dl/mode/\n",
    );
    assert_eq!(image.layers[1].lines(), ["dir 755 0:0 dl", "file 644 0:0 dl/f 1"]);
    assert_eq!(image.layers[2].lines(), ["dir 755 0:0 dl", "file 644 0:0 dl/here 3"]);
    // With `--chmod` it is a plain copy: `/dl` is a directory by now, and keeps its mode.
    assert_eq!(
        image.layers[3].lines(),
        ["dir 755 0:0 dl", "dir 600 0:0 dl/mode", "file 600 0:0 dl/mode/f 1"]
    );
}

#[test]
fn a_linked_copy_asks_nothing_of_its_base() {
    let env = filled();
    let base = env.base();
    env.registry.clear_log();
    // `/etc/nginx` is a path that a plain COPY would have to look up in the base.
    let image = build(&env, &format!("FROM {base}\nCOPY --link a/f /etc/nginx/conf\nADD --link b /bin/\n"));
    assert_eq!(image.layers[1].lines()[2], "file 644 0:0 etc/nginx/conf 1");
    assert!(!env.root.join("home/store/snapshots/natural").exists(), "a layer was unpacked");
}
