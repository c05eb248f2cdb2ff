//! Every kind of entry and every value that needs a record.

use std::collections::BTreeMap;

use super::*;

fn check(entry: Entry, content: &[u8]) {
    let layer = write(&[(entry.clone(), content.to_vec())], Compression::None, 1);
    let (entries, summary) = read_all(&layer.sink, Limits::default()).unwrap();
    assert_eq!(entries, [(entry, content.to_vec())]);
    assert_eq!(summary.diff_id, layer.diff_id);
    assert_eq!(summary.uncompressed_size, layer.uncompressed_size);
    assert_eq!(layer.descriptor.digest, crate::Digest::sha256(&layer.sink));
    assert_eq!(layer.descriptor.size, layer.sink.len() as u64);
}

#[test]
fn every_kind_comes_back() {
    check(file("a/b", 5), b"hello");
    check(file("empty", 0), b"");
    for kind in [
        Kind::Directory,
        Kind::Symlink { target: b"../else/where".to_vec() },
        Kind::HardLink { target: path("a/b") },
        Kind::CharDevice { major: 1, minor: 3 },
        Kind::BlockDevice { major: 259, minor: 1_048_575 },
        Kind::Fifo,
    ] {
        check(Entry::new(path("usr/x"), kind, 0o7755), b"");
    }
    check(Entry::new(EntryPath::root(), Kind::Directory, 0o755), b"");
    check(Entry::whiteout(&path("a/gone")), b"");
    check(Entry::opaque(&path("a")), b"");
}

#[test]
fn values_that_do_not_fit_a_header_come_back() {
    for length in [99, 100, 101, 155, 156, 255, 256, 300, 3900] {
        check(file("n".repeat(length), 1), b"x");
        check(Entry::new(path("d".repeat(length)), Kind::Directory, 0o755), b"");
        check(file(format!("{}/{}", "p".repeat(length), "n".repeat(100)), 1), b"x");
        let target = vec![b't'; length];
        check(Entry::new(path("link"), Kind::Symlink { target }, 0o777), b"");
    }
    check(file(b"caf\xe9 \xff\xfe", 1), b"x");
    check(file("größe/文件", 1), b"x");
    check(Entry::new(path("l"), Kind::HardLink { target: path(b"caf\xe9") }, 0o644), b"");
    for id in [0o777_7777, 0o1000_0000, 1_000_660_000, u32::MAX - 1] {
        check(Entry { uid: id, gid: id, ..file("owned", 0) }, b"");
    }
    for secs in [0, 1, -1, 0o777_7777_7777, 0o1_0000_0000_0000, i64::MAX / 2, -1_000_000_000_000] {
        check(Entry { mtime: Timestamp::from_secs(secs), ..file("old", 0) }, b"");
    }
    let xattrs = BTreeMap::from([
        ("security.capability".to_owned(), vec![1, 0, 0, 2, b'\n', b'=', 0, 255]),
        ("user.empty".to_owned(), Vec::new()),
        ("user.large".to_owned(), noise(60_000, 1)),
    ]);
    check(Entry { xattrs, ..file("attributed", 3) }, b"abc");
}

#[test]
fn fractions_of_seconds_are_kept_only_when_asked() {
    let entry = Entry { mtime: Timestamp { secs: -2, nanos: 250_000_000 }, ..file("a", 0) };
    let read = |writer: LayerWriter<Vec<u8>>| {
        let mut writer = writer;
        writer.append(&entry, None).unwrap();
        read_all(&writer.finish().unwrap().sink, Limits::default()).unwrap().0.remove(0).0.mtime
    };
    let writer = || LayerWriter::new(Vec::new(), Compression::None, 1).unwrap();
    assert_eq!(read(writer()), Timestamp::from_secs(-2));
    assert_eq!(read(writer().with_precision(Precision::Nanoseconds)), entry.mtime);
}

#[test]
fn plain_entries_need_no_records() {
    let layer = write(&[(file("usr/bin/tool", 5), b"hello".to_vec())], Compression::None, 1);
    // Header, content, two closing blocks.
    assert_eq!(layer.uncompressed_size, 4 * 512);
    let header = &layer.sink[..512];
    assert_eq!(&header[..13], b"usr/bin/tool\0");
    assert_eq!(&header[100..124], b"0000644\x000000000\x000000000\0");
    assert_eq!(&header[257..265], b"ustar\x0000");
    assert_eq!(&header[265..329], [0; 64]);
}

#[test]
fn sizes_beyond_eight_gigabytes_are_announced_in_a_record() {
    let size = 10 << 30;
    let entry = Entry::new(path("huge"), Kind::File { size }, 0o644);
    let mut header = Vec::new();
    super::super::header::encode(&entry, Precision::Seconds, &mut header).unwrap();
    let mut reader = LayerReader::new(header.as_slice(), Limits::default()).unwrap();
    let (found, mut content) = reader.next().unwrap().unwrap();
    assert_eq!(found, entry);
    let error = unwrap(content.read(&mut [0; 16]).unwrap_err());
    assert!(error.to_string().contains("in the middle of a file"), "{error}");
}

#[test]
fn content_must_be_as_long_as_announced() {
    let append = |size: usize, content: &[u8]| {
        let mut writer = LayerWriter::new(Vec::new(), Compression::None, 1).unwrap();
        writer.append(&file("log", size), Some(&mut &content[..])).map_err(|e| e.to_string())
    };
    assert_eq!(append(5, b"hello"), Ok(()));
    let text = "`log` changed while it was read: it had 5 bytes, now it has";
    assert_eq!(append(5, b"hell"), Err(format!("{text} 4")));
    assert_eq!(append(5, b"hello!"), Err(format!("{text} more")));
    let mut writer = LayerWriter::new(Vec::new(), Compression::None, 1).unwrap();
    assert!(writer.append(&file("log", 1), None).is_err());
}

#[test]
fn entries_that_tar_cannot_hold_are_refused() {
    let refused = |entry: Entry| {
        let mut writer = LayerWriter::new(Vec::new(), Compression::None, 1).unwrap();
        assert!(matches!(writer.append(&entry, None), Err(Error::Unwritable { .. })), "{entry:?}");
    };
    refused(Entry::new(path("l"), Kind::Symlink { target: Vec::new() }, 0o777));
    refused(Entry::new(path("l"), Kind::Symlink { target: b"a\0b".to_vec() }, 0o777));
    refused(Entry::new(path("d"), Kind::CharDevice { major: u32::MAX, minor: 0 }, 0o600));
    refused(Entry { xattrs: BTreeMap::from([("user.a=b".to_owned(), vec![])]), ..file("x", 0) });
}

#[test]
fn every_compression_is_recognised_and_hashed() {
    let entries = [(file("a", 3_000_000), noise(3_000_000, 7)), (file("b", 4), b"text".to_vec())];
    for compression in [Compression::None, Compression::Gzip { level: 6 }, Compression::Zstd { level: 3 }] {
        let layer = write(&entries, compression, 2);
        let (found, summary) = read_all(&layer.sink, Limits::default()).unwrap();
        assert!(found == entries, "{compression:?}");
        assert_eq!(summary.diff_id, layer.diff_id);

        let mut reader =
            LayerReader::threaded(std::io::Cursor::new(layer.sink.clone()), Limits::default()).unwrap();
        let mut names = Vec::new();
        while let Some((entry, _unread)) = reader.next().unwrap() {
            names.push(entry.path.to_string());
        }
        assert_eq!(names, ["a", "b"]);
        assert_eq!(reader.finish().unwrap(), summary);
    }
}

#[test]
fn several_members_and_trailing_bytes_belong_to_the_stream() {
    let mut tar = write(&[(file("a", 4), b"text".to_vec())], Compression::None, 1).sink;
    tar.extend_from_slice(&[0; 4096]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let members = [gzip(&tar[..700]), gzip(&tar[700..])].concat();
    let frames =
        [zstd::encode_all(&tar[..700], 1).unwrap(), zstd::encode_all(&tar[700..], 1).unwrap()].concat();
    for bytes in [tar.clone(), members, frames] {
        let (entries, summary) = read_all(&bytes, Limits::default()).unwrap();
        assert_eq!(entries[0].1, b"text");
        assert_eq!(summary.diff_id, crate::Digest::sha256(&tar));
        assert_eq!(summary.uncompressed_size, tar.len() as u64);
    }
}
