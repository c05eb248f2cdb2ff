//! The same entries give the same bytes, whatever machine writes them.

use super::*;

/// A layer of several blocks: text, noise, links and a directory.
fn sample() -> Vec<(Entry, Vec<u8>)> {
    let text: Vec<u8> =
        (0..200_000_u32).flat_map(|i| format!("line {} of {i}\n", i * 7919).into_bytes()).collect();
    vec![
        (Entry::new(path("etc"), Kind::Directory, 0o755), vec![]),
        (file("etc/text", text.len()), text.clone()),
        (file("noise", 2_500_000), noise(2_500_000, 3)),
        (Entry::new(path("link"), Kind::Symlink { target: b"etc/text".to_vec() }, 0o777), vec![]),
        (file("text.again", text.len()), text),
    ]
}

#[test]
fn bytes_do_not_depend_on_the_number_of_workers() {
    let entries = sample();
    for compression in
        [Compression::Gzip { level: 1 }, Compression::Gzip { level: 6 }, Compression::Zstd { level: 1 }]
    {
        let expect = write(&entries, compression, 1);
        for workers in 2..=8 {
            let found = write(&entries, compression, workers);
            assert!(found.sink == expect.sink, "{compression:?} with {workers} workers");
            assert_eq!(found.descriptor, expect.descriptor);
            assert_eq!(found.diff_id, expect.diff_id);
        }
        assert_eq!(expect.descriptor.digest, crate::Digest::sha256(&expect.sink));
    }
}

#[test]
fn bytes_do_not_depend_on_how_content_arrives() {
    struct Drip<'a>(&'a [u8]);
    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            let count = buf.len().min(self.0.len()).min(4099);
            buf[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }
    let entries = sample();
    let compression = Compression::Gzip { level: 2 };
    let mut writer = LayerWriter::new(Vec::new(), compression, 2).unwrap();
    for (entry, content) in &entries {
        writer.append(entry, Some(&mut Drip(content))).unwrap();
    }
    assert!(writer.finish().unwrap().sink == write(&entries, compression, 1).sink);
}

#[test]
fn published_digests_do_not_move() {
    // A change here is a change of the reproducibility contract: every cached layer gets another digest.
    let entries = sample();
    let check = |compression, expect: &str| {
        assert_eq!(write(&entries, compression, 1).descriptor.digest.short(), expect, "{compression:?}");
    };
    check(Compression::None, "8279754bd551");
    check(Compression::Gzip { level: 3 }, "5470596d5075");
    check(Compression::Zstd { level: 3 }, "e01268deabbc");
}

#[test]
fn a_failing_sink_ends_the_layer_and_its_threads() {
    struct Full(usize);
    impl std::io::Write for Full {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(buf.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    for workers in [1, 4] {
        let mut writer = LayerWriter::new(Full(1_000_000), Compression::Gzip { level: 1 }, workers).unwrap();
        let content = noise(8_000_000, 1);
        let failed = writer.append(&file("a", content.len()), Some(&mut content.as_slice()));
        let failed = failed.and_then(|()| writer.finish().map(drop));
        assert!(matches!(failed, Err(Error::Write(e)) if e.kind() == std::io::ErrorKind::StorageFull));
    }
}

#[test]
fn a_reader_may_be_left_early() {
    let layer = write(&sample(), Compression::Gzip { level: 1 }, 1).sink;
    let mut reader = LayerReader::threaded(std::io::Cursor::new(layer), Limits::default()).unwrap();
    assert!(reader.next().unwrap().is_some());
    drop(reader);
}
