//! Archives that are no layers: other compressions, other names.

use std::io::Write as _;

use super::*;

/// An archive with the file `name` that holds `text`, compressed with `xz -6 --check=crc32`.
const XZ: &str = "\
    fd377a585a0000016922de360200210116000000742fe5a3e007ff003e5d00371849fdf8853c8f01ee6e05733bc0fc815e97\
    c59c90c67936801ff8beed8f82d9885a95c8233b91cd10e51c149c1b6e8bbd5a9b2427bc64c4d14a86ad00000000afba7ff2\
    00015680100000003ad87df83e300d8b020000000001595a\
    ";

fn xz() -> Vec<u8> {
    let digits: Vec<u8> = XZ.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}

fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Returns a ustar archive of empty files with these names and links, and the two closing blocks.
fn tar(members: &[(&str, u8, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, flag, link) in members {
        let mut block = [0_u8; 512];
        for (at, bytes) in [
            (0, name.as_bytes()),
            (100, b"0000644\0"),
            (124, b"00000000000\0"),
            (148, b"        "),
            (156, &[*flag]),
            (157, link.as_bytes()),
            (257, b"ustar\x0000"),
        ] {
            block[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(&block);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn names(bytes: Vec<u8>, limits: Limits) -> Result<Vec<String>, String> {
    let failed = |e: Error| {
        let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
        format!("{e}{cause}")
    };
    let mut reader =
        LayerReader::threaded_as(Form::Archive, std::io::Cursor::new(bytes), limits).map_err(failed)?;
    let mut names = Vec::new();
    while let Some((entry, _)) = reader.next().map_err(failed)? {
        let link = match &entry.kind {
            Kind::HardLink { target } => format!(" = {target}"),
            _ => String::new(),
        };
        names.push(format!("{}{link}", entry.path));
    }
    reader.finish().map_err(failed)?;
    Ok(names)
}

#[test]
fn bzip2_and_xz_are_read_as_archives_only() {
    assert_eq!(names(xz(), Limits::default()).unwrap(), ["name"]);
    let plain = tar(&[("a", b'0', ""), ("b", b'0', "")]);
    assert_eq!(names(bzip2(&plain), Limits::default()).unwrap(), ["a", "b"]);
    let (front, back) = plain.split_at(600);
    assert_eq!(names([bzip2(front), bzip2(back)].concat(), Limits::default()).unwrap(), ["a", "b"]);
    for layer in [xz(), bzip2(&plain)] {
        let found =
            LayerReader::new(std::io::Cursor::new(layer), Limits::default()).err().unwrap().to_string();
        assert!(found.contains("layers are compressed with gzip, zstd or not at all"), "{found}");
    }
}

#[test]
fn a_stream_is_an_archive_by_its_first_header() {
    let plain = tar(&[("a", b'0', "")]);
    for (bytes, expect) in [
        (plain.clone(), true),
        (plain[..512].to_vec(), true),
        (plain[..511].to_vec(), false),
        (vec![0; 2048], false),
        (vec![b'x'; 2048], false),
        (Vec::new(), false),
        (bzip2(&plain), true),
        (bzip2(b"text"), false),
        (bzip2(b""), false),
        (xz(), true),
        (xz()[..40].to_vec(), false),
        (b"BZh91AY&SY and no more".to_vec(), false),
        (b"\x1f\x8b\x08".to_vec(), false),
    ] {
        assert_eq!(is_archive(bytes.as_slice()), expect, "{:?}", bytes.get(..bytes.len().min(20)));
    }
}

#[test]
fn names_of_archives_stay_below_the_root() {
    let members = [
        ("../../up", b'0', ""),
        ("/absolute", b'0', ""),
        ("x/../y//./z", b'0', ""),
        ("hard", b'1', "/../up"),
    ];
    assert_eq!(names(tar(&members), Limits::default()).unwrap(), ["up", "absolute", "y/z", "hard = up"]);
    for name in ["d/.wh.x", ".wh..wh..opq", ".wh..wh.plnk", ".wh.d/x"] {
        let found = names(tar(&[(name, b'0', "")]), Limits::default()).unwrap_err();
        assert!(found.contains("whiteout"), "{name}: {found}");
    }
}

#[test]
fn decompression_takes_bounded_memory_and_space() {
    // The byte behind the size of the filter's properties says how large the dictionary is: 40 stands for 4 GiB.
    let mut greedy = xz();
    assert_eq!(greedy[14..16], [0x21, 1]);
    greedy[16] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&greedy[12..20]);
    greedy[20..24].copy_from_slice(&crc.sum().to_le_bytes());
    let found = names(greedy, Limits::default()).unwrap_err();
    assert!(found.contains("memory"), "{found}");
    let limits = Limits { max_unpacked: 1 << 20, ..Limits::default() };
    let mut bomb = tar(&[("a", b'0', "")]);
    bomb.truncate(512);
    bomb.extend_from_slice(&tar(&[("b", b'0', "")])[..512].repeat(4096));
    let found = names(bzip2(&bomb), limits).unwrap_err();
    assert!(found.contains("more than 1048576 bytes"), "{found}");
}
