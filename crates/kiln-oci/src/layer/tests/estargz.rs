//! eStargz as its specification describes it, read with a gzip decoder and nothing of the writer.

use std::io::Read as _;

use flate2::bufread::{GzDecoder, MultiGzDecoder};
use serde_json::Value;

use super::*;
use crate::Digest;

fn plain(entries: &[(Entry, &[u8])]) -> (Vec<u8>, Digest) {
    let mut writer = LayerWriter::new(Vec::new(), Compression::Zstd { level: 1 }, 1).unwrap();
    for (entry, content) in entries {
        writer.append(entry, Some(&mut &**content)).unwrap();
    }
    let finished = writer.finish().unwrap();
    (finished.sink, finished.diff_id)
}

fn sample() -> Vec<u8> {
    (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn every_piece_is_found_by_its_offset_and_has_its_digest() {
    let large = sample();
    let mut owned = file("d/small", 5);
    (owned.uid, owned.gid, owned.mode) = (7, 8, 0o4755);
    owned.xattrs.insert("user.k".to_owned(), b"\0v".to_vec());
    let link = Entry::new(path("l"), Kind::Symlink { target: b"d/small".to_vec() }, 0o777);
    let hard = Entry::new(path("m"), Kind::HardLink { target: path("d/small") }, 0o644);
    let directory = Entry::new(path("d"), Kind::Directory, 0o755);
    let empty = file("empty", 0);
    let big = file("large", large.len());
    let entries: Vec<(Entry, &[u8])> =
        vec![(directory, b""), (owned, b"hello"), (empty, b""), (big, &large), (link, b""), (hard, b"")];
    let (source, diff_id) = plain(&entries);
    let bytes = source.clone();
    let (found, finished) =
        crate::layer::estargz(std::io::Cursor::new(source), Vec::new(), 3, Limits::default()).unwrap();
    assert_eq!(found, diff_id);
    let blob = &finished.sink;
    assert_eq!(finished.descriptor.digest, Digest::sha256(blob));
    assert_eq!(finished.descriptor.size, blob.len() as u64);

    // For everybody else it is a gzip layer, with two files more.
    let mut tar = Vec::new();
    MultiGzDecoder::new(blob.as_slice()).read_to_end(&mut tar).unwrap();
    assert_eq!(finished.diff_id, Digest::sha256(&tar));
    assert_eq!(finished.descriptor.annotations[UNCOMPRESSED_SIZE], tar.len().to_string());
    let (contents, _) = read_all(blob, Limits::default()).unwrap();
    let names: Vec<String> = contents.iter().map(|(entry, _)| entry.path.to_string()).collect();
    let expect = [".no.prefetch.landmark", "d", "d/small", "empty", "large", "l", "m", "stargz.index.json"];
    assert_eq!(names, expect);
    assert_eq!(contents[0].1, [0xf]);
    assert!(contents[4].1 == large);

    // The last 51 bytes name the offset of the table.
    let footer = &blob[blob.len() - 51..];
    assert_eq!((&footer[10..16], &footer[32..38]), (&b"\x1a\0SG\x16\0"[..], &b"STARGZ"[..]));
    let mut nothing = Vec::new();
    GzDecoder::new(footer).read_to_end(&mut nothing).unwrap();
    assert_eq!(nothing, b"");
    let offset = u64::from_str_radix(std::str::from_utf8(&footer[16..32]).unwrap(), 16).unwrap();
    let mut table = Vec::new();
    GzDecoder::new(&blob[usize::try_from(offset).unwrap()..]).read_to_end(&mut table).unwrap();
    let json = &contents[7].1;
    assert_eq!(&table[512..512 + json.len()], json.as_slice());
    assert_eq!(finished.descriptor.annotations[TOC_DIGEST], Digest::sha256(json).to_string());

    let toc: Value = serde_json::from_slice(json).unwrap();
    assert_eq!(toc["version"], 1);
    let rows = toc["entries"].as_array().unwrap();
    let kinds: Vec<&str> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["reg", "dir", "reg", "reg", "reg", "chunk", "chunk", "symlink", "hardlink"]);
    assert_eq!((&rows[2]["uid"], &rows[2]["gid"], &rows[2]["mode"]), (&7.into(), &8.into(), &0o4755.into()));
    assert_eq!(
        (&rows[2]["xattrs"]["user.k"], &rows[2]["modtime"]),
        (&"AHY=".into(), &"1970-01-01T00:00:00Z".into())
    );
    assert_eq!((&rows[7]["linkName"], &rows[8]["linkName"]), (&"d/small".into(), &"d/small".into()));
    assert_eq!((&rows[1]["name"], &rows[6]["chunkSize"]), (&"d/".into(), &Value::Null));
    let mut put_together = Vec::new();
    for row in rows.iter().filter(|row| row.get("offset").is_some()) {
        let at = usize::try_from(row["offset"].as_u64().unwrap()).unwrap();
        let size = match (row["chunkSize"].as_u64(), row["size"].as_u64()) {
            (Some(size), _) | (None, Some(size)) => size,
            (None, None) => large.len() as u64 - row["chunkOffset"].as_u64().unwrap(),
        };
        let mut piece = Vec::new();
        GzDecoder::new(&blob[at..]).take(size).read_to_end(&mut piece).unwrap();
        assert_eq!(row["chunkDigest"], Digest::sha256(&piece).to_string());
        if row["name"] == "large" {
            assert_eq!(row["chunkOffset"].as_u64().unwrap_or(0), put_together.len() as u64);
            put_together.extend(piece);
        }
    }
    assert!(put_together == large);
    assert_eq!(rows[4]["digest"], Digest::sha256(&large).to_string());

    // Again, and from its own form: the same.
    let again =
        crate::layer::estargz(std::io::Cursor::new(bytes), Vec::new(), 3, Limits::default()).unwrap().1;
    assert!(again.sink == *blob);
    let own = std::io::Cursor::new(blob.clone());
    assert!(crate::layer::estargz(own, Vec::new(), 3, Limits::default()).unwrap().1.sink == *blob);
}

#[test]
fn a_name_that_the_table_cannot_hold_is_refused() {
    let (source, _) = plain(&[(file(b"caf\xe9", 0), b"")]);
    let error = crate::layer::estargz(std::io::Cursor::new(source), Vec::new(), 3, Limits::default());
    assert!(error.unwrap_err().to_string().contains("is no UTF-8"));
}
