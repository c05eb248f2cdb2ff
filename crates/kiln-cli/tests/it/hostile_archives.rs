//! Hostile tars: as layers of base images, as archives for ADD, as contexts on standard input, as caches to import.

use kiln_testkit::lane;

use crate::hostile_tar::{Header, Tar};
use crate::hostile_world::{Expect, Layout, World, files, refused};

/// One archive, and what it has to mean as a layer and as an archive that somebody made.
struct Case {
    name: &'static str,
    tar: Vec<u8>,
    layer: Expect,
    archive: Expect,
}

/// The same in both roles.
fn both(name: &'static str, tar: Tar, expect: &Expect) -> Case {
    Case { name, tar: tar.end(), layer: expect.clone(), archive: expect.clone() }
}

fn case(name: &'static str, tar: Tar, layer: Expect, archive: Expect) -> Case {
    Case { name, tar: tar.end(), layer, archive }
}

/// An archive that is not closed by two blocks of zeros.
fn open(name: &'static str, tar: Vec<u8>, expect: &Expect) -> Case {
    Case { name, tar, layer: expect.clone(), archive: expect.clone() }
}

/// Names and links that lead out.
fn escapes(world: &World) -> Vec<Case> {
    let (up, absolute) = (world.upwards(), world.canary.display().to_string());
    let (evil, outside) = (format!("{absolute}/evil"), format!("{absolute}/secret"));
    let inside = |path: &str| format!("{}/{path}", absolute.trim_start_matches('/'));
    // Archives have always had such names; they mean what they mean below the root.
    let below = |line: &str| {
        let mut lines: Vec<String> = Vec::new();
        let parts: Vec<&str> = absolute.trim_start_matches('/').split('/').collect();
        for n in 1..=parts.len() {
            lines.push(format!("dir 755 {}", parts[..n].join("/")));
        }
        lines.push(line.replace("CANARY", absolute.trim_start_matches('/')));
        Expect::Files(lines)
    };
    let long_up = Tar::new().pax(&[("path", format!("{up}/evil").as_bytes())]).file("x", "evil");
    let climbing = || Tar::new().file("../evil", "evil");
    let through = |target: &str| Tar::new().symlink("out", target).file("out/evil", "evil");
    // Links are resolved below the root, where the way to the canary is made of empty directories.
    let stays = |more: &[String]| {
        let Expect::Files(mut all) = below("dir 755 CANARY") else { unreachable!() };
        all.dedup();
        all.extend(more.iter().map(|line| line.replace("CANARY", absolute.trim_start_matches('/'))));
        all.sort_by_key(|line| path_of(line).to_owned());
        Expect::Files(all)
    };
    let out = || format!("link out -> {absolute}");
    let evil_file = || "file 644 CANARY/evil=evil".to_owned();
    vec![
        case("`..`", climbing(), refused(&["`..` component"]), files(&["file 644 evil=evil"])),
        case("`..` all the way", long_up, refused(&["`..` component"]), below("file 644 CANARY/evil=evil")),
        case(
            "`..` in the middle",
            Tar::new().file("a/../../evil", "evil"),
            refused(&["`..` component"]),
            files(&["file 644 evil=evil"]),
        ),
        case(
            "an absolute name",
            Tar::new().pax(&[("path", evil.as_bytes())]).file("x", "evil"),
            refused(&["the name is absolute"]),
            below("file 644 CANARY/evil=evil"),
        ),
        case(
            "an absolute long name of GNU",
            Tar::new().long(b'L', format!("{evil}\0").as_bytes()).file("x", "evil"),
            refused(&["the name is absolute"]),
            below("file 644 CANARY/evil=evil"),
        ),
        both("through a relative link", through(&up), &stays(&[evil_file(), format!("link out -> {up}")])),
        both("through an absolute link", through(&absolute), &stays(&[evil_file(), out()])),
        both(
            "through a chain of links",
            Tar::new().symlink("a", &up).symlink("b", "a").symlink("out", "b").file("out/evil", "evil"),
            &stays(&[
                evil_file(),
                format!("link a -> {up}"),
                "link b -> a".to_owned(),
                "link out -> b".to_owned(),
            ]),
        ),
        both(
            "a directory through a link",
            Tar::new().symlink("out", &absolute).dir("out/evil"),
            &stays(&["dir 755 CANARY/evil".to_owned(), out()]),
        ),
        both(
            "a link made through a link",
            Tar::new().symlink("out", &absolute).symlink("out/evil", "x"),
            &stays(&["link CANARY/evil -> x".to_owned(), out()]),
        ),
        both(
            "a device through a link",
            Tar::new().symlink("out", &absolute).device(b'3', "out/evil", 1, 3),
            &Expect::Built,
        ),
        both(
            "a directory in place of a link to one",
            Tar::new().symlink("dir", &absolute).dir("dir").file("dir/evil", "evil"),
            &files(&["dir 755 dir", "file 644 dir/evil=evil"]),
        ),
        both(
            "a link in place of a directory",
            Tar::new().dir("dir").file("dir/evil", "evil").symlink("dir", &absolute),
            &Expect::Files(vec![format!("link dir -> {absolute}")]),
        ),
        both(
            "a file in place of a link to a file",
            Tar::new().symlink("f", &outside).file("f", "own"),
            &files(&["file 644 f=own"]),
        ),
        both(
            "a link to itself",
            Tar::new().symlink("loop", "loop").file("loop/evil", "evil"),
            &refused(&["too many symbolic links on the way to `loop`"]),
        ),
        both(
            "a link that leads nowhere here",
            Tar::new().symlink("link", &outside),
            &Expect::Files(vec![format!("link link -> {outside}")]),
        ),
        case(
            "a hard link to outside",
            Tar::new().hardlink("hard", &format!("{up}/secret")),
            refused(&["link target", "`..` component"]),
            refused(&["hard link", "secret"]),
        ),
        both("an absolute hard link", Tar::new().hardlink("hard", &outside), &refused(&["hard", "secret"])),
        both(
            "a hard link through a link",
            Tar::new().symlink("out", &absolute).hardlink("hard", "out/secret"),
            &refused(&["out"]),
        ),
        both(
            "a hard link to a link to outside, and a file over it",
            Tar::new().symlink("s", &outside).hardlink("hard", "s").file("hard", "own"),
            &Expect::Files(vec!["file 644 hard=own".to_owned(), format!("link s -> {outside}")]),
        ),
        both(
            "a hard link to a directory",
            Tar::new().dir("d").hardlink("hard", "d"),
            &refused(&["link to the directory"]),
        ),
        both("a hard link to itself", Tar::new().hardlink("h", "h"), &refused(&["hard link to itself"])),
        both("a hard link forward", Tar::new().hardlink("h", "f").file("f", "x"), &refused(&["`h`", "`f`"])),
        both("a hard link to the root", Tar::new().hardlink("h", "/"), &refused(&["hard link to the root"])),
        both(
            "a hard link that replaces the directory of its target",
            Tar::new().dir("d").file("d/f", "x").hardlink("d", "d/f"),
            &refused(&["`d`", "`d/f`"]),
        ),
        both("the root as a file", Tar::new().file("./", "x"), &refused(&["the root can only be"])),
        both("the root as a link", Tar::new().symlink("/", &absolute), &refused(&["the root can only be"])),
        both(
            "names that fall together",
            Tar::new().file("a//b", "1").file("./a/./b", "2").file("a/b/", "3"),
            &files(&["dir 755 a", "file 644 a/b=3"]),
        ),
        both("case", Tar::new().file("a", "1").file("A", "2"), &files(&["file 644 A=2", "file 644 a=1"])),
        both(
            "a name of the store",
            Tar::new().file(".kiln-probe", "x").file(&inside("fs")[..9], "x"),
            &Expect::Built,
        ),
    ]
}

/// Whiteouts, devices, modes and attributes.
fn meanings() -> Vec<Case> {
    let hidden = |name: &str| Tar::new().file(name, "").file("f", "x");
    let only_f = || files(&["file 644 f=x"]);
    let no_layer = || refused(&["it is a whiteout, which only a layer can have"]);
    let empty = || refused(&["hides no name"]);
    let attribute = |name: &'static str| {
        let key = format!("SCHILY.xattr.{name}");
        both(
            name,
            Tar::new().pax(&[(key.as_str(), b"y")]).dir("d").file("d/f", "x"),
            &files(&["dir 755 d", "file 644 d/f=x"]),
        )
    };
    let mode = |mode: &[u8]| Header::new(b"f", b'0', 0).set(100, mode);
    vec![
        case("a whiteout of nothing", hidden(".wh."), empty(), empty()),
        case("a whiteout of `.`", hidden(".wh.."), empty(), empty()),
        case("a whiteout of `..`", hidden(".wh..."), empty(), empty()),
        case("metadata of AUFS", hidden(".wh..wh.x"), only_f(), no_layer()),
        case("a whiteout of the root", hidden("./.wh./"), empty(), empty()),
        case("a whiteout of what is not there", hidden(".wh.gone"), only_f(), no_layer()),
        case(
            "below a whiteout",
            hidden(".wh.d/x"),
            refused(&["through a whiteout"]),
            refused(&["through a whiteout"]),
        ),
        case(
            "a whiteout of a directory of its own layer",
            Tar::new().dir("d").file("d/f", "x").file(".wh.d", ""),
            files(&["dir 755 d", "file 644 d/f=x"]),
            no_layer(),
        ),
        case(
            "an opaque file",
            Tar::new().file("d", "x").file("d/.wh..wh..opq", ""),
            refused(&["`d`", "not a directory"]),
            no_layer(),
        ),
        case("an opaque root", Tar::new().file(".wh..wh..opq", "").file("f", "x"), only_f(), no_layer()),
        case("a whiteout that is a directory", Tar::new().dir(".wh.x").file("f", "x"), only_f(), no_layer()),
        case(
            "a hard link to a whiteout",
            Tar::new().file(".wh.x", "").hardlink("h", ".wh.x"),
            refused(&["hard link to a whiteout"]),
            no_layer(),
        ),
        // The character device 0:0 is what an overlay takes for a removal.
        both("the whiteout of an overlay", Tar::new().device(b'3', "d", 0, 0).file("f", "x"), &only_f()),
        both("a fifo", Tar::new().with(Header::new(b"p", b'6', 0), &[]), &files(&["special 644 p"])),
        both("set-id bits", Tar::new().with(mode(b"0006755\0"), &[]), &files(&["file 6755 f="])),
        both("more mode than there is", Tar::new().with(mode(b"7777777\0"), &[]), &files(&["file 7777 f="])),
        both("no mode at all", Tar::new().with(mode(b"0000000\0"), &[]), &files(&["file 0 f="])),
        both(
            "a directory that nobody may enter",
            Tar::new().with(Header::new(b"d", b'5', 0).set(100, b"0000000\0"), &[]).file("d/f", "x"),
            &files(&["dir 0 d", "file 644 d/f=x"]),
        ),
        attribute("user.overlay.opaque"),
        attribute("user.overlay.whiteout"),
        attribute("user.overlay.redirect"),
        attribute("trusted.overlay.opaque"),
        attribute("trusted.overlay.metacopy"),
        attribute("user.kiln.owner"),
        attribute("user.kiln.device"),
        attribute("system.posix_acl_access"),
        attribute("security.selinux"),
        attribute("no-namespace"),
        both(
            "an attribute without a name",
            Tar::new().pax(&[("SCHILY.xattr.", b"y")]).file("f", "x"),
            &refused(&["extended attribute"]),
        ),
        both(
            "the largest owner",
            Tar::new().pax(&[("uid", b"4294967295"), ("gid", b"4294967295")]).file("f", "x"),
            &refused(&["the PAX user id is no number below 2^32 - 1"]),
        ),
        both(
            "an owner beyond the largest",
            Tar::new().pax(&[("uid", b"4294967296")]).file("f", "x"),
            &refused(&["user id is no number"]),
        ),
    ]
}

/// Names, numbers, records and ends.
fn forms() -> Vec<Case> {
    let number =
        |offset: usize, bytes: &[u8]| Tar::new().with(Header::new(b"f", b'0', 0).set(offset, bytes), &[]);
    let negative = [0xff_u8; 12];
    let huge = [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let f = || files(&["file 644 f="]);
    let plain = || Tar::new().file("f", "0123456789");
    let cut = |bytes: usize| plain().end()[..bytes].to_vec();
    let wrong_sum = || {
        let mut tar = plain().end();
        tar[0] = b'g';
        tar
    };
    let sparse = |records: &[(&str, &[u8])]| Tar::new().pax(records).file("f", "");
    let hole: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.size", b"9223372036854775807"),
        ("GNU.sparse.map", b""),
    ];
    let overlapping: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.size", b"100"),
        ("GNU.sparse.map", b"0,10,5,10"),
    ];
    let two = [plain().end(), Tar::new().file("second", "x").end()].concat();
    vec![
        both("a name with a line break", Tar::new().file("a\nb", "x"), &files(&["file 644 a\nb=x"])),
        both("a name with an escape sequence", Tar::new().file("a\u{1b}[31m/../b", "x"), &Expect::Built)
            .layer_refused(&["`..`"]),
        both(
            "a name with NUL",
            Tar::new().pax(&[("path", b"a\0b")]).file("x", "x"),
            &refused(&["zero byte"]),
        ),
        both(
            "a name that is no UTF-8",
            Tar::new().pax(&[("path", b"a\xff\xfeb")]).file("x", "x"),
            &files(&["file 644 a\u{fffd}\u{fffd}b=x"]),
        ),
        both(
            "a name of 300 bytes",
            Tar::new().long(b'L', &[b'n'; 300]).file("x", "x"),
            &refused(&["nnn", "File name too long"]),
        ),
        both(
            "an empty name",
            Tar::new().with(Header::new(b"", b'0', 0), &[]),
            &refused(&["the name is empty"]),
        ),
        both("an empty link target", Tar::new().symlink("l", ""), &refused(&["link target is empty"])),
        both(
            "a link target with NUL",
            Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("l", "x"),
            &refused(&["zero byte"]),
        ),
        both(
            "a link target of 5000 bytes",
            Tar::new().symlink("l", &"t".repeat(5000)),
            &refused(&["`l`", "File name too long"]),
        ),
        both(
            "a long name of 4 GiB",
            Tar::new().with(Header::new(b"l", b'L', 0xffff_ffff), &[]),
            &refused(&["extended header has 4294967295 bytes"]),
        ),
        both(
            "a long name and no file",
            Tar::new().long(b'L', b"name"),
            &refused(&["ends behind an extended header"]),
        ),
        both(
            "two long names",
            Tar::new().long(b'L', b"a\0").long(b'L', b"b\0").file("x", "x"),
            &files(&["file 644 b=x"]),
        ),
        both("a long link for a file", Tar::new().long(b'K', b"../../x\0").file("f", ""), &f()),
        both(
            "a size in a record",
            Tar::new().pax(&[("size", b"5")]).with(Header::new(b"f", b'0', 0), b"01234"),
            &files(&["file 644 f=01234"]),
        ),
        both(
            "a size in a record, negative",
            Tar::new().pax(&[("size", b"-1")]).file("f", ""),
            &refused(&["PAX size is no number"]),
        ),
        both(
            "a size in a record, of 2^63 - 1",
            Tar::new().pax(&[("size", b"9223372036854775807")]).file("f", ""),
            &refused(&["bytes in its files"]),
        ),
        both(
            "a size in a record, of 2^64",
            Tar::new().pax(&[("size", b"18446744073709551616")]).file("f", ""),
            &refused(&["PAX size is no number"]),
        ),
        both("a negative size", number(124, &negative), &refused(&["the size is negative"])),
        both("a size of 2^63 - 1", number(124, &huge), &refused(&["bytes in its files"])),
        both("a size of letters", number(124, b"abcdefghijk\0"), &refused(&["the size is no number"])),
        both(
            "a size of 1 TiB",
            number(124, &[0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]),
            &refused(&["bytes in its files"]),
        ),
        both("a size of base 256", number(124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), &f()),
        both("a negative time", number(136, &negative), &f()),
        both("a time of 2^63 - 1", number(136, &huge), &Expect::Built),
        both(
            "a time in a record, before everything",
            Tar::new().pax(&[("mtime", b"-9223372036854775807")]).file("f", ""),
            &Expect::Built,
        ),
        both(
            "a time in a record, of letters",
            Tar::new().pax(&[("mtime", b"now")]).file("f", ""),
            &refused(&["PAX modification time"]),
        ),
        both(
            "a record that runs past its header",
            Tar::new().with(Header::new(b"p", b'x', 9), b"999 a=b\n\n").file("f", ""),
            &refused(&["runs past its header"]),
        ),
        both(
            "a record without a length",
            Tar::new().with(Header::new(b"p", b'x', 4), b"a=b\n").file("f", ""),
            &refused(&["PAX"]),
        ),
        both(
            "a million records",
            Tar::new().with(Header::new(b"p", b'x', 1 << 20), &b"8 a=bcd\n".repeat(131_072)).file("f", ""),
            &f(),
        ),
        both(
            "a global header with a path",
            Tar::new().with(Header::new(b"g", b'g', 11), b"11 path=..\n").file("f", ""),
            &f(),
        ),
        both(
            "an unknown type",
            Tar::new().with(Header::new(b"f", b'Z', 0), &[]),
            &refused(&["unknown type 'Z'"]),
        ),
        both(
            "a volume of an archive",
            Tar::new().with(Header::new(b"f", b'M', 0), &[]),
            &refused(&["unknown type 'M'"]),
        ),
        both("a contiguous file", Tar::new().with(Header::new(b"f", b'7', 0), &[]), &f()),
        both("a hole of 2^63 bytes", sparse(hole), &refused(&["bytes in its files"])),
        both("segments that overlap", sparse(overlapping), &refused(&["overlap"])),
        open(
            "an old map without an end",
            Tar::new()
                .with(
                    Header::new(b"f", b'S', 0)
                        .set(257, b"ustar  \0")
                        .set(482, b"\x01")
                        .set(483, b"00000000100\0"),
                    &[],
                )
                .0,
            &refused(&["map of a sparse file has no end"]),
        ),
        open("cut in a header", cut(300), &refused(&["in the middle of a header"])).copied(),
        open("cut behind a header", cut(512), &refused(&["in the middle of a file"])),
        open("cut in the content", cut(515), &refused(&["in the middle of a file"])),
        open("cut in the padding", cut(700), &refused(&["in the middle of a file"])),
        open("cut before the end", cut(1024), &files(&["file 644 f=0123456789"])),
        open("cut in the end", cut(1536), &files(&["file 644 f=0123456789"])),
        open("a wrong checksum", wrong_sum(), &refused(&["checksum"])).copied(),
        open("a second archive behind the end", two, &files(&["file 644 f=0123456789"])),
        open(
            "rubbish behind the end",
            [plain().end(), b"rubbish".repeat(300)].concat(),
            &files(&["file 644 f=0123456789"]),
        ),
        open(
            "a lone block of zeros",
            [plain().0, vec![0; 512], plain().0].concat(),
            &refused(&["lone block of zeros"]),
        ),
        both("a file twice", Tar::new().file("f", "1").file("f", "2"), &files(&["file 644 f=2"])),
        both(
            "a directory, then a file",
            Tar::new().dir("x").file("x/y", "1").file("x", "2"),
            &files(&["file 644 x=2"]),
        ),
        both(
            "a file, then below it",
            Tar::new().file("x", "1").file("x/y", "2"),
            &refused(&["`x`", "not a directory"]),
        ),
    ]
}

/// Returns the path in a line of files.
fn path_of(line: &str) -> &str {
    let words = if line.starts_with("link ") { 2 } else { 3 };
    line.splitn(words, ' ').last().unwrap_or_default()
}

impl Case {
    /// Says that nothing can tell it is an archive, so that ADD copies it as it is.
    fn copied(mut self) -> Self {
        self.archive = Expect::Built;
        self
    }

    /// Says that it is refused as a layer.
    fn layer_refused(mut self, parts: &[&'static str]) -> Self {
        self.layer = refused(parts);
        self
    }
}

/// Builds on each archive as the one layer of a base image, and copies all of it.
fn as_layers(world: &World, cases: &[Case]) {
    world.write("ctx/Dockerfile", "FROM hostile AS base\nFROM scratch\nCOPY --from=base / /\n");
    let layout = world.env.root.join("work/layout");
    for case in cases {
        Layout::of(&[(&case.tar, &case.tar)]).write(&layout);
        let args =
            ["build", "--build-context", "hostile=oci-layout://layout", "-o", "type=local,dest=out", "ctx"];
        world.check(&format!("layer: {}", case.name), &case.layer, &args, None);
    }
}

/// Unpacks each archive with ADD.
fn as_archives(world: &World, cases: &[Case]) {
    world.write("ctx/Dockerfile", "FROM scratch\nADD a.tar /\n");
    for case in cases {
        world.write("ctx/a.tar", &case.tar);
        let args = ["build", "-o", "type=local,dest=out", "ctx"];
        world.check(&format!("ADD: {}", case.name), &case.archive, &args, None);
    }
}

/// Sends each archive as a context that has a Dockerfile as well; what it means there is that nothing happens outside.
fn as_contexts(world: &World, cases: &[Case]) {
    let dockerfile = Tar::new().file("Dockerfile", "FROM scratch\nCOPY Dockerfile /d\n").0;
    for case in cases {
        let path = world.write("context.tar", [dockerfile.clone(), case.tar.clone()].concat());
        let expect = match (&case.archive, &case.layer) {
            (Expect::Refused(..), _) => case.archive.clone(),
            // Behind the Dockerfile it is a part of the archive.
            (Expect::Built, Expect::Refused(_, parts)) if !parts.contains(&"`..`") => case.layer.clone(),
            _ => files(&["file 644 d=FROM scratch\nCOPY Dockerfile /d\n"]),
        };
        let name = format!("context: {}", case.name);
        world.check(&name, &expect, &["build", "-o", "type=local,dest=out", "-"], Some(&path));
    }
}

/// Offers each archive as an export of caches: none of them is one.
fn as_caches(world: &World, cases: &[Case]) {
    for case in cases {
        world.write("caches.tar", &case.tar);
        world.check(
            &format!("cache import: {}", case.name),
            &refused(&["caches.tar"]),
            &["cache", "import", "caches.tar"],
            None,
        );
    }
}

/// Runs a test as so many of root, who has one id, and who has a range.
fn of(what: &str, most: usize, check: impl Fn(&World, &[Case])) {
    let mut people = lane::people(what);
    // A range is between the others in every respect.
    if people.len() > 2 {
        people.swap(1, 2);
    }
    for person in people.iter().take(most) {
        let world = World::new(person);
        let cases: Vec<Case> = escapes(&world).into_iter().chain(meanings()).chain(forms()).collect();
        check(&world, &cases);
        world.finish();
    }
}

#[test]
fn layers() {
    of("hostile layers", 2, as_layers);
}

#[test]
fn archives_of_add() {
    of("hostile archives", 1, as_archives);
}

#[test]
fn contexts_on_standard_input() {
    of("hostile contexts", 1, as_contexts);
}

#[test]
fn caches_to_import() {
    of("hostile caches", 1, as_caches);
}
