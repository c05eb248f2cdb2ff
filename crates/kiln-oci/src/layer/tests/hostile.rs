//! Archives made to break whoever reads them.

use super::*;

/// A header built by hand, field by field.
struct Hand([u8; 512]);

impl Hand {
    fn new(name: &[u8], flag: u8, size: u64) -> Self {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        Self(block)
            .set(100, b"0000644\0")
            .set(108, b"0000000\0")
            .set(116, b"0000000\0")
            .set(124, format!("{size:011o}\0").as_bytes())
            .set(136, b"00000000000\0")
            .set(156, &[flag])
            .set(257, b"ustar\x0000")
    }

    fn set(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Returns the header with its checksum, and `content` padded to a block.
    fn with(self, content: &[u8]) -> Vec<u8> {
        let block = self.set(148, b"        ");
        let sum: u32 = block.0.iter().map(|b| u32::from(*b)).sum();
        let mut out = block.set(148, format!("{sum:06o}\0 ").as_bytes()).0.to_vec();
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
        out
    }

    fn end(self) -> Vec<u8> {
        self.with(&[])
    }
}

fn plain(name: &str) -> Vec<u8> {
    Hand::new(name.as_bytes(), b'0', 0).end()
}

fn link(name: &str, flag: u8, target: &str) -> Vec<u8> {
    Hand::new(name.as_bytes(), flag, 0).set(157, target.as_bytes()).end()
}

/// One record with its length.
fn record(text: &str) -> String {
    let mut length = text.len() + 2;
    while length != text.len() + 2 + length.to_string().len() {
        length += 1;
    }
    format!("{length} {text}\n")
}

/// An extended header with these records, and a file behind it.
fn pax(records: &str) -> Vec<u8> {
    [extended(records), plain("file")].concat()
}

fn extended(records: &str) -> Vec<u8> {
    Hand::new(b"pax", b'x', records.len() as u64).with(records.as_bytes())
}

fn long(flag: u8, name: &[u8]) -> Vec<u8> {
    [Hand::new(b"././@LongLink", flag, name.len() as u64).with(name), plain("short")].concat()
}

#[test]
fn hostile_archives_are_refused_with_a_reason() {
    let check = |bytes: Vec<u8>, expect: &str| {
        let limits = Limits { max_unpacked: 1 << 20, max_entries: 100, max_ratio: None };
        match read_all(&bytes, limits) {
            Ok((entries, _)) => panic!("expected `{expect}`, found {entries:?}"),
            Err(e) => assert!(e.to_string().contains(expect), "expected `{expect}`, found `{e}`"),
        }
    };
    // Names that lead elsewhere.
    check(plain("/etc/passwd"), "`/etc/passwd` in layer: the name is absolute");
    check(plain("../../etc/passwd"), "`..` component");
    check(plain("a/b/../../../c"), "`..` component");
    check(plain(".."), "`..` component");
    check(plain(""), "the name is empty");
    check(plain("."), "the root can only be a directory");
    check(link("/", b'2', "elsewhere"), "the root can only be a directory");
    check(pax(&record("path=../evil")), "`..` component");
    check(pax(&record("path=a\0b")), "zero byte");
    check(pax(&record("path=/evil")), "the name is absolute");
    check(long(b'L', b"/evil\0"), "the name is absolute");
    check(Hand::new(b"evil", b'0', 0).set(345, b"..").end(), "`..` component");
    check(Hand::new(b"evil", b'0', 0).set(345, b"/etc").end(), "the name is absolute");
    // Whiteouts that are no files of their own.
    check(plain("a/.wh.b/c"), "leads through a whiteout");
    check(plain(".wh."), "hides no name");
    check(plain(".wh..."), "hides no name");
    check(plain(".wh..wh..opq/x"), "leads through a whiteout");
    // Links.
    check(link("a", b'1', "../../etc/shadow"), "link target `../../etc/shadow`");
    check(link("a", b'1', ""), "hard link to the root");
    check(link("a", b'1', "a"), "hard link to itself");
    check(link("a", b'1', "x/.wh.y"), "hard link to a whiteout");
    check(link("a", b'2', ""), "link target is empty");
    check([extended(&record("linkpath=a\0bc")), link("a", b'2', "b")].concat(), "zero byte");
    // Numbers.
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    check(Hand::new(b"a", b'0', 0).set(124, &negative).end(), "the size is negative");
    check(Hand::new(b"a", b'0', 0).set(124, b"-0000000001\0").end(), "the size is no number");
    check(Hand::new(b"a", b'0', 0).set(124, b"0000000019\0\0").end(), "the size is no number");
    check(Hand::new(b"a", b'0', 0).set(108, &negative[4..]).end(), "the user id is no number");
    check(Hand::new(b"a", b'0', 0).set(100, b"rwxr-xr-").end(), "the mode is no number");
    check(Hand::new(b"a", b'0', 0).set(136, b"yesterday\0\0\0").end(), "the modification time is no number");
    check(pax(&record("size=-1")), "the PAX size is no number");
    check(pax(&record("size=9223372036854775808")), "the PAX size is no number");
    check(pax(&record("uid=4294967296")), "the PAX user id is no number");
    check(pax(&record("mtime=x")), "the PAX modification time is no number");
    // Records.
    check(pax("999 path=a\n"), "runs past its header");
    check(pax("path=a\n"), "PAX record without a length");
    check(pax("x path=a\n"), "PAX length is no number");
    check(pax("8 path=a"), "does not end in a newline");
    check(pax(&record("SCHILY.xattr.=")), "the name of an extended attribute");
    check(Hand::new(b"pax", b'x', 2 << 20).end(), "an extended header has 2097152 bytes");
    check(Hand::new(b"long", b'L', u64::from(u32::MAX)).end(), "an extended header has 4294967295 bytes");
    // Streams that stop, or go on where they should not.
    check(plain("a")[..300].to_vec(), "in the middle of a header");
    check(Hand::new(b"a", b'0', 1000).with(b"short"), "in the middle of a file");
    check(Hand::new(b"pax", b'x', 700).with(b"15 path=x\n"), "in the middle of an extended header");
    check(Hand::new(b"pax", b'x', 10).with(b"10 path=xx"), "does not end in a newline");
    check(extended(&record("path=x")), "ends behind an extended header");
    check(Hand::new(b"g", b'g', 5000).end(), "in the middle of an extended header");
    check([vec![0; 512], plain("a")].concat(), "a lone block of zeros is followed by data");
    check(b"this is no archive at all".repeat(100), "checksum");
    let mut damaged = plain("a");
    damaged[0] = b'b';
    check(damaged, "wrong checksum");
    check(Hand::new(b"a", b'M', 0).end(), "unknown type 'M'");
    // Too much.
    check(Hand::new(b"a", b'0', 1 << 40).end(), "more than 1048576 bytes in its files");
    check(plain("a").repeat(101), "more than 100 entries");
    check(vec![0; 2 << 20], "more than 1048576 bytes");
    // Other formats.
    check(b"\xfd7zXZ\0 and so on".to_vec(), "compressed with xz");
    check(b"BZh91AY&SY".to_vec(), "compressed with bzip2");
}

#[test]
fn bombs_are_stopped_by_their_ratio() {
    let zeros = vec![0; 100 << 20];
    for bytes in [
        write(&[(file("zeros", zeros.len()), zeros.clone())], Compression::Gzip { level: 9 }, 1).sink,
        zstd::encode_all(zeros.as_slice(), 3).unwrap(),
    ] {
        let limits = Limits { max_ratio: Some(100), ..Limits::default() };
        let error = read_all(&bytes, limits).unwrap_err();
        assert!(error.to_string().contains("100 times"), "{error}");
    }
}

#[test]
fn damaged_compression_is_an_error_and_no_end() {
    let content = noise(300_000, 5);
    for compression in [Compression::Gzip { level: 1 }, Compression::Zstd { level: 1 }] {
        let whole = write(&[(file("a", content.len()), content.clone())], compression, 1).sink;
        for cut in [20, whole.len() / 2, whole.len() - 1] {
            let read = read_all(&whole[..cut], Limits::default());
            assert!(matches!(read, Err(Error::Read(_))), "{compression:?} cut at {cut}: {read:?}");
        }
    }
}

#[test]
fn every_prefix_and_every_flipped_byte_gives_a_result() {
    let mut bytes = write(
        &[
            (file("n".repeat(120), 10), b"0123456789".to_vec()),
            (Entry { uid: u32::MAX, ..Entry::new(path("d"), Kind::Directory, 0o755) }, vec![]),
        ],
        Compression::None,
        1,
    )
    .sink;
    let limits = Limits { max_unpacked: 1 << 20, max_entries: 100, max_ratio: None };
    for cut in 0..bytes.len() {
        drop(read_all(&bytes[..cut], limits));
    }
    for i in 0..bytes.len() {
        for bit in [1, 0x80] {
            bytes[i] ^= bit;
            drop(read_all(&bytes, limits));
            bytes[i] ^= bit;
        }
    }
}

#[test]
fn old_and_foreign_forms_are_understood() {
    let check = |bytes: Vec<u8>, expect: Entry| {
        let (entries, _) = read_all(&bytes, Limits::default()).unwrap();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].0, expect);
    };
    check(plain("./a//b"), file("a/b", 0));
    check(Hand::new(b"a", 0, 0).end(), file("a", 0));
    check(Hand::new(b"d/", 0, 0).end(), Entry::new(path("d"), Kind::Directory, 0o644));
    check(Hand::new(b"/", b'5', 0).end(), Entry::new(path("."), Kind::Directory, 0o644));
    check(long(b'L', b"a/very/long/name\0"), file("a/very/long/name", 0));
    check(pax(&record("path=a/b/c")), file("a/b/c", 0));
    check(pax(&[record("path=a"), record("path=b")].concat()), file("b", 0));
    check(pax(&[record("path=a"), record("path=")].concat()), file("file", 0));
    check([Hand::new(b"g", b'g', 10).with(b"10 path=x\n"), plain("a")].concat(), file("a", 0));
    check(Hand::new(b"a", b'0', 0).set(257, b"ustar  \0").set(345, b"00000000000").end(), file("a", 0));
    check(Hand::new(b"a", b'0', 0).set(345, b"dir/dir").end(), file("dir/dir/a", 0));
    check(
        Hand::new(b"a", b'0', 0)
            .set(345, b"dir")
            .set(476, b"00000000001 00000000001 ")
            .set(508, b"tar\0")
            .end(),
        file("dir/a", 0),
    );
    check(link("a", b'1', "/b"), Entry::new(path("a"), Kind::HardLink { target: path("b") }, 0o644));
    let old = Timestamp::from_secs(-2);
    let negative = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    check(Hand::new(b"a", b'0', 0).set(136, &negative).end(), Entry { mtime: old, ..file("a", 0) });
    let mut expect = file("file", 0);
    expect.xattrs.insert("user.a=b".to_owned(), b"hello".to_vec());
    check(pax(&record("LIBARCHIVE.xattr.user.a%3Db=aGVsbG8=")), expect);
}
