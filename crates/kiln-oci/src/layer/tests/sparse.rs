//! Sparse files as GNU tar writes them.

use std::io::BufRead as _;
use std::process::Command;

use super::*;

const SIZE: usize = 3 << 20;

/// Returns the content of the file that [`archive`] packs: few pieces of data, many when `fragmented`.
fn content(fragmented: bool) -> Vec<u8> {
    let mut out = vec![0; SIZE];
    let starts: Vec<usize> =
        if fragmented { (0..60).map(|i| i * 49_152).collect() } else { vec![8192, 1 << 20, SIZE - 4096] };
    for start in starts {
        out[start..start + 4096].copy_from_slice(&noise(4096, start as u64));
    }
    out
}

fn archive(form: &[&str], fragmented: bool) -> Option<Vec<u8>> {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let name = format!("kiln-sparse-{}-{}-{fragmented}", std::process::id(), form.concat());
    let dir = std::env::temp_dir().join(name.replace('/', "-"));
    std::fs::create_dir_all(&dir).unwrap();
    let mut file = std::fs::File::create(dir.join("sparse")).unwrap();
    for (i, piece) in content(fragmented).chunks(4096).enumerate() {
        if piece.iter().any(|b| *b != 0) {
            file.seek(SeekFrom::Start(i as u64 * 4096)).unwrap();
            file.write_all(piece).unwrap();
        }
    }
    file.set_len(SIZE as u64).unwrap();
    drop(file);
    std::fs::write(dir.join("after"), "behind").unwrap();
    let mut tar = Command::new("tar");
    tar.args(form).args(["--sparse", "-cf", "-", "sparse", "after"]).current_dir(&dir);
    let output = tar.output();
    std::fs::remove_dir_all(&dir).unwrap();
    output.ok().filter(|o| o.status.success()).map(|o| o.stdout)
}

#[test]
fn every_form_of_gnu_tar_is_expanded() {
    for form in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        for fragmented in [false, true] {
            let Some(bytes) = archive(form, fragmented) else {
                eprintln!("skipped: no GNU tar with {form:?}");
                continue;
            };
            assert!(bytes.len() < SIZE, "{form:?} is not sparse");
            let (entries, _) = read_all(&bytes, Limits::default()).unwrap();
            let names: Vec<_> = entries.iter().map(|(e, _)| e.path.to_string()).collect();
            assert_eq!(names, ["sparse", "after"], "{form:?}");
            assert_eq!(entries[0].0.kind, Kind::File { size: SIZE as u64 });
            assert!(entries[0].1 == content(fragmented), "{form:?}, fragmented: {fragmented}");
            assert_eq!(entries[1].1, b"behind");
            only_data_is_read(&bytes, fragmented);
        }
    }
}

/// Reads the file again, seeking over its holes.
fn only_data_is_read(bytes: &[u8], fragmented: bool) {
    let mut reader = LayerReader::new(bytes, Limits::default()).unwrap();
    let (_, mut found) = reader.next().unwrap().unwrap();
    assert!(found.segments().unwrap().len() >= 3);
    let (mut out, mut data) = (Vec::new(), 0);
    loop {
        out.resize(out.len() + usize::try_from(found.skip_hole()).unwrap(), 0);
        let piece = found.fill_buf().unwrap();
        if piece.is_empty() {
            break;
        }
        out.extend_from_slice(piece);
        let count = piece.len();
        data += count;
        found.consume(count);
    }
    assert!(out == content(fragmented));
    assert!(data < SIZE / 2);
}
