//! Hostile compression, bombs, and layers of strange shapes.

use std::cell::Cell;
use std::io::{Read as _, Write as _};

use kiln::oci::layer::{Compression, Entry, EntryPath, Kind, LayerWriter};
use kiln_testkit::lane;

use crate::hostile_tar::{Header, Tar};
use crate::hostile_world::{Expect, Layout, World, files, refused};

/// Makes what is sent of a layer's tar and of what gzip makes of it.
type Make<'a> = dyn Fn(&[u8], &[u8]) -> Vec<u8> + 'a;

/// Compresses with gzip.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// Builds on a layer as it is sent; `tar` is what its image says that it unpacks to.
fn packed(world: &World, name: &str, tar: &[u8], blob: &[u8], expect: &Expect, more: &[&str]) {
    world.write("ctx/Dockerfile", "FROM hostile AS base\nFROM scratch\nCOPY --from=base / /\n");
    Layout::of(&[(tar, blob)]).write(&world.env.root.join("work/layout"));
    let mut args =
        vec!["build", "--build-context", "hostile=oci-layout://layout", "-o", "type=local,dest=out"];
    args.extend(more);
    args.push("ctx");
    world.check(&format!("packed: {name}"), expect, &args, None);
}

#[test]
fn compressed_layers() {
    let Some(person) = lane::people("hostile compression").into_iter().next() else { return };
    let world = World::new(&person);
    // Each has a content of its own: a layer that was unpacked once is not read again.
    let number = Cell::new(1000);
    let check = |name, make: &Make<'_>, parts: &[&'static str]| {
        number.set(number.get() + 1);
        let content = number.get().to_string();
        let tar = Tar::new().file("f", &content).end();
        let expect = if parts.is_empty() {
            Expect::Files(vec![format!("file 644 f={content}")])
        } else {
            refused(parts)
        };
        packed(&world, name, &tar, &make(&tar, &gzip(&tar)), &expect, &[]);
    };
    let flipped = |good: &[u8], from_end: usize| {
        let mut blob = good.to_vec();
        let at = blob.len() - from_end;
        blob[at] ^= 1;
        blob
    };
    let damaged = &["cannot unpack layer"];
    check("as it should be", &|_, good| good.to_vec(), &[]);
    check("a wrong checksum", &|_, good| flipped(good, 8), damaged);
    check("a wrong length", &|_, good| flipped(good, 4), damaged);
    check("cut in the checksum", &|_, good| good[..good.len() - 5].to_vec(), damaged);
    check("cut in the content", &|_, good| good[..good.len() / 2].to_vec(), damaged);
    check("cut in the header", &|_, good| good[..5].to_vec(), damaged);
    check("two members", &|tar, _| [gzip(&tar[..700]), gzip(&tar[700..])].concat(), &[]);
    check("another layer", &|_, _| gzip(b"something else"), damaged);
    check("a member too many", &|_, good| [good, &gzip(&[0; 512])].concat(), &["unpacks to"]);
    check("rubbish behind it", &|_, good| [good, b"rubbish"].concat(), damaged);
    check("nothing", &|_, _| Vec::new(), &["layer"]);
    check("xz", &|_, _| b"\xfd7zXZ\0 and so on".to_vec(), &["compressed with xz"]);
    check("zstd without content", &|_, _| b"\x28\xb5\x2f\xfd".to_vec(), damaged);
    let window = b"\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00";
    check("zstd with a window of terabytes", &|_, _| window.to_vec(), damaged);
    world.finish();
}

/// Builds on an image of these layers, of which the last is hostile, and copies all of it.
fn stacked(world: &World, name: &str, layers: &[Tar], expect: &Expect) {
    let tars: Vec<Vec<u8>> = layers.iter().map(|tar| tar.clone().end()).collect();
    let pairs: Vec<(&[u8], &[u8])> = tars.iter().map(|tar| (tar.as_slice(), tar.as_slice())).collect();
    world.write("ctx/Dockerfile", "FROM hostile AS base\nFROM scratch\nCOPY --from=base / /\n");
    Layout::of(&pairs).write(&world.env.root.join("work/layout"));
    let args =
        ["build", "--build-context", "hostile=oci-layout://layout", "-o", "type=local,dest=out", "ctx"];
    world.check(&format!("stacked: {name}"), expect, &args, None);
}

#[test]
fn layers_on_layers() {
    for person in lane::people("hostile layers on others") {
        let world = World::new(&person);
        let canary = world.canary.display().to_string();
        let file = || Tar::new().dir("d").file("d/f", "x");
        let stays = files(&["dir 755 d", "file 644 d/f=x"]);
        let check = |name: &str, upper: Tar, expect: &Expect| stacked(&world, name, &[file(), upper], expect);
        let link = Tar::new().symlink("out", &canary);
        let over = files(&["dir 755 out", "file 644 out/evil=evil"]);
        stacked(
            &world,
            "a file below a link of the layer below",
            &[link.clone(), Tar::new().file("out/evil", "evil")],
            &over,
        );
        let empty = files(&["dir 755 out"]);
        stacked(
            &world,
            "a directory over a link of the layer below",
            &[link.clone(), Tar::new().dir("out")],
            &empty,
        );
        let hard = Tar::new().hardlink("hard", "out/secret");
        stacked(
            &world,
            "a hard link through a link of the layer below",
            &[link, hard],
            &refused(&["hard", "secret"]),
        );
        check(
            "a hard link to a file of the layer below",
            Tar::new().hardlink("h", "d/f"),
            &refused(&["not in its layer"]),
        );
        check(
            "a link over a directory",
            Tar::new().symlink("d", &canary),
            &Expect::Files(vec![format!("link d -> {canary}")]),
        );
        check("a removal", Tar::new().file("d/.wh.f", ""), &files(&["dir 755 d"]));
        check(
            "a removal, and the file again",
            Tar::new().file("d/.wh.f", "").file("d/f", "y"),
            &files(&["dir 755 d", "file 644 d/f=y"]),
        );
        check(
            "the file, and then its removal",
            Tar::new().file("d/f", "y").file("d/.wh.f", ""),
            &files(&["dir 755 d", "file 644 d/f=y"]),
        );
        check(
            "a removal of the directory, and a file in it",
            Tar::new().file(".wh.d", "").file("d/g", "y"),
            &files(&["dir 755 d", "file 644 d/g=y"]),
        );
        check(
            "an opaque directory",
            Tar::new().dir("d").file("d/.wh..wh..opq", "").file("d/g", "y"),
            &files(&["dir 755 d", "file 644 d/g=y"]),
        );
        check(
            "an opaque directory that is a link",
            Tar::new().symlink("e", "d").file("e/.wh..wh..opq", ""),
            &Expect::Built,
        );
        check("the device of a removal", Tar::new().device(b'3', "d", 0, 0), &files(&[]));
        check(
            "the device of a removal, by a hard link",
            Tar::new().device(b'3', "x", 0, 0).hardlink("d", "x"),
            &files(&[]),
        );
        for (name, value) in [
            ("user.overlay.opaque", "y"),
            ("trusted.overlay.opaque", "y"),
            ("user.overlay.opaque", "x"),
            ("user.overlay.whiteouts", ""),
            ("user.overlay.redirect", "/etc"),
            ("user.overlay.metacopy", ""),
            ("user.kiln.owner", "0:0"),
        ] {
            let key = format!("SCHILY.xattr.{name}");
            let upper = Tar::new().pax(&[(key.as_str(), value.as_bytes())]).dir("d");
            check(&format!("{name}={value}"), upper, &stays);
        }
        let whiteout =
            Tar::new().dir("d").pax(&[("SCHILY.xattr.user.overlay.whiteout", b"")]).file("d/f", "");
        check("the attribute of a removal", whiteout, &files(&["dir 755 d", "file 644 d/f="]));
        world.finish();
    }
}

/// What a hostile layer may take here.
const MOST: &[&str] = &["--max-layer-size", "64MiB"];

#[test]
fn bombs() {
    let Some(person) = lane::people("bombs").into_iter().next() else { return };
    let world = World::new(&person);
    let limit = refused(&["more than 67108864 bytes", "--max-layer-size"]);
    // A member of 16 MiB of zeros, six hundred times: 10 GiB in 10 MB.
    let header = Tar::new()
        .with(Header::new(b"f", b'0', 0).set(124, &[0x80, 0, 0, 0, 0, 0, 0, 2, 0x80, 0, 0, 0]), &[]);
    let zeros = gzip(&vec![0; 16 << 20]);
    let bomb = [gzip(&header.0), zeros.repeat(640)].concat();
    packed(&world, "10 GiB of gzip", b"", &bomb, &limit, MOST);
    // The same with a size that is small, so that the rest stands behind the end.
    let behind = [gzip(&Tar::new().file("f", "x").end()), zeros.repeat(640)].concat();
    packed(&world, "10 GiB behind the end", b"", &behind, &limit, MOST);
    let hole: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"0"),
        ("GNU.sparse.minor", b"1"),
        ("GNU.sparse.name", b"f"),
        ("GNU.sparse.size", b"10737418240"),
        ("GNU.sparse.map", b""),
    ];
    let mut packer = LayerWriter::new(Vec::new(), Compression::Zstd { level: 1 }, 1).unwrap();
    let entry = Entry::new(EntryPath::new("f").unwrap(), Kind::File { size: 1 << 30 }, 0o644);
    packer.append(&entry, Some(&mut std::io::repeat(0).take(1 << 30))).unwrap();
    packed(&world, "1 GiB of zstd", b"", &packer.finish().unwrap().sink, &limit, MOST);
    let sparse = Tar::new().pax(hole).file("f", "").end();
    packed(&world, "10 GiB of hole", &sparse, &sparse, &limit, MOST);
    let many = (0..200).fold(Tar::new(), |tar, n| {
        let name = format!("f{n}");
        let records: Vec<(&str, &[u8])> = hole
            .iter()
            .map(|(key, value)| match *key {
                "GNU.sparse.size" => (*key, &b"1048576"[..]),
                "GNU.sparse.name" => (*key, name.as_bytes()),
                _ => (*key, *value),
            })
            .collect();
        tar.pax(&records).file("x", "")
    });
    let many = many.end();
    packed(&world, "200 holes of 1 MiB", &many, &many, &limit, MOST);
    // As an archive and as a context the same limit holds.
    world.write("ctx/Dockerfile", "FROM scratch\nADD a.tgz /\n");
    world.write("ctx/a.tgz", &bomb);
    let to = ["-o", "type=local,dest=out"];
    world.check("ADD of 10 GiB", &limit, &[&["build"], &to[..], MOST, &["ctx"]].concat(), None);
    let context = world.write("context.tgz", &bomb);
    world.check("a context of 10 GiB", &limit, &[&["build"], &to[..], MOST, &["-"]].concat(), Some(&context));
    world.finish();
}

#[test]
fn shapes() {
    let Some(person) = lane::people("layers of strange shapes").into_iter().next() else { return };
    let world = World::new(&person);
    let deep = |levels: usize| {
        let path = "d/".repeat(levels);
        Tar::new().pax(&[("path", format!("{path}f").as_bytes())]).file("x", "deep").end()
    };
    let (levels, abyss) = (deep(300), deep(10_000));
    packed(&world, "300 levels", &levels, &levels, &Expect::Built, &[]);
    packed(&world, "10,000 levels", &abyss, &abyss, &refused(&["the name is longer than 4096 bytes"]), &[]);
    // A million names for one file would take minutes to unpack; the reader has to bear the first of them, and the limit.
    let entries = (0..5_000).fold(Tar::new(), |tar, n| tar.file(&format!("f{n}"), ""));
    let entries = entries.end();
    packed(&world, "5,000 entries", &entries, &gzip(&entries), &Expect::Built, &[]);
    let same = Tar::new().file("f", "").0.repeat(20_000);
    packed(&world, "20,000 times the same name", &same, &gzip(&same), &files(&["file 644 f="]), &[]);
    world.finish();
}
