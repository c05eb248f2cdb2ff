//! eStargz: a gzip layer whose files can be fetched one by one (containerd/stargz-snapshotter, `docs/estargz.md`).
//!
//! ```text
//! gzip( header of the landmark )
//! gzip( content of a file, or 4 MiB of it | padding, headers of what has no content, header of the next file )
//! ...
//! gzip( stargz.index.json, the table: every entry, with offset and digest of every piece | end of the tar )
//! gzip( nothing, offset of the table )                                                          51 bytes
//! ```
//!
//! Any gzip reader takes it for one stream, so it is a layer for everybody. The tar stream has two files more than the
//! layer that it is made of, the landmark `.no.prefetch.landmark` and the table, and therefore another diff id; who
//! unpacks it as an ordinary layer finds them in the root directory. The descriptor gets the digest of the table.
//!
//! One pass over the source; in memory are one piece and the table, some 300 bytes for each entry.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::{Compress, Compression as Level, Crc, FlushCompress, Status};
use serde::Serialize;

use super::header::{self, BLOCK, padding};
use super::{Entry, EntryPath, Error, Finished, Kind, LayerReader, Limits, Precision, Timestamp};
use crate::time::rfc3339;
use crate::{Descriptor, Digest, Hasher, MediaType};

/// Annotation with the digest of the table.
pub const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
/// Annotation with the size of the tar stream in bytes.
pub const UNCOMPRESSED_SIZE: &str = "io.containers.estargz.uncompressed-size";

const TOC_NAME: &str = "stargz.index.json";
/// Says that no files are to be fetched ahead.
const LANDMARK: &str = ".no.prefetch.landmark";
const OTHER_LANDMARK: &str = ".prefetch.landmark";
const LANDMARK_CONTENT: [u8; 1] = [0xf];
/// Size of a piece: the default of the reference implementation.
const CHUNK: usize = 4 << 20;
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// One entry of the table, or a further piece of a file. Absent is what is zero, as in the reference implementation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TocEntry<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "is_zero")]
    size: u64,
    #[serde(rename = "modtime", skip_serializing_if = "str::is_empty")]
    modified: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    link_name: String,
    mode: u32,
    uid: u32,
    gid: u32,
    #[serde(skip_serializing_if = "is_zero32")]
    dev_major: u32,
    #[serde(skip_serializing_if = "is_zero32")]
    dev_minor: u32,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "is_zero")]
    offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    chunk_size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    chunk_digest: Option<Digest>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero32(number: &u32) -> bool {
    *number == 0
}

/// Writes the layer that `source` holds as eStargz at gzip level `level`, from 0 to 9. Returns the diff id of the source,
/// which the caller compares with the one that it ought to have, and what was written.
///
/// # Errors
/// When the source fails, is no layer or is beyond `limits`; when a name or a link target is no UTF-8, which the table
/// cannot express; when the sink fails.
pub fn estargz<W: Write>(
    source: impl Read + Send + 'static,
    sink: W,
    level: u32,
    limits: Limits,
) -> Result<(Digest, Finished<W>), Error> {
    let mut writer = Writer {
        sink,
        blob: Hasher::new(),
        offset: 0,
        stream: Hasher::new(),
        total: 0,
        member: Vec::new(),
        level: Level::new(level.min(9)),
        toc: br#"{"version":1,"entries":["#.to_vec(),
        entries: 0,
    };
    let landmark = EntryPath::new(LANDMARK).map_err(|e| Error::Write(io::Error::other(e)))?;
    let mut landmark = Entry::new(landmark, Kind::File { size: 1 }, 0o644);
    landmark.mtime = Timestamp::from_secs(0);
    writer.append(&landmark, &mut LANDMARK_CONTENT.as_slice())?;
    let mut reader = LayerReader::threaded(source, limits)?;
    while let Some((entry, mut content)) = reader.next()? {
        // Those of a layer that was eStargz before.
        if [TOC_NAME, LANDMARK, OTHER_LANDMARK].map(str::as_bytes).contains(&entry.path.as_bytes()) {
            continue;
        }
        writer.append(&entry, &mut content)?;
    }
    let summary = reader.finish()?;
    Ok((summary.diff_id, writer.finish()?))
}

struct Writer<W> {
    sink: W,
    blob: Hasher,
    /// Bytes that went to the sink.
    offset: u64,
    stream: Hasher,
    /// Bytes of the tar stream.
    total: u64,
    /// What the next gzip member holds.
    member: Vec<u8>,
    level: Level,
    /// The table as JSON, so far.
    toc: Vec<u8>,
    entries: u64,
}

impl<W: Write> Writer<W> {
    fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        let unwritable = |reason: &str| Error::Unwritable {
            path: entry.path.to_string(),
            reason: format!("{reason}, which the table of eStargz cannot express"),
        };
        let mut head = Vec::new();
        header::encode(entry, Precision::Nanoseconds, &mut head)?;
        self.put(&head);
        let text = |bytes: &[u8], what: &str| {
            std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|_| unwritable(&format!("{what} is no UTF-8")))
        };
        let mut name = text(entry.path.as_bytes(), "its name")?;
        if entry.kind == Kind::Directory {
            name.push('/');
        }
        let (kind, link_name) = match &entry.kind {
            Kind::File { .. } => ("reg", String::new()),
            Kind::Directory => ("dir", String::new()),
            Kind::Symlink { target } => ("symlink", text(target, "its target")?),
            Kind::HardLink { target } => ("hardlink", text(target.as_bytes(), "its target")?),
            Kind::CharDevice { .. } => ("char", String::new()),
            Kind::BlockDevice { .. } => ("block", String::new()),
            Kind::Fifo => ("fifo", String::new()),
        };
        let (dev_major, dev_minor) = match entry.kind {
            Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
            _ => (0, 0),
        };
        let size = entry.kind.size();
        let mut row = TocEntry {
            name: &name,
            kind,
            size,
            modified: rfc3339(entry.mtime.secs),
            link_name,
            mode: entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            dev_major,
            dev_minor,
            xattrs: entry.xattrs.iter().map(|(key, value)| (key.as_str(), STANDARD.encode(value))).collect(),
            digest: None,
            offset: 0,
            chunk_offset: 0,
            chunk_size: 0,
            chunk_digest: None,
        };
        if kind != "reg" {
            return self.row(&row);
        }
        // The row of the first piece has the digest of all of them, so the rows wait for the end of the file.
        let mut pieces = Vec::new();
        let mut whole = Hasher::new();
        let mut at = 0;
        while at < size {
            self.cut()?;
            let count = (size - at).min(CHUNK as u64);
            self.member.resize(usize::try_from(count).unwrap_or(CHUNK), 0);
            content.read_exact(&mut self.member).map_err(|source| failed(entry, source))?;
            whole.update(&self.member);
            self.stream.update(&self.member);
            self.total += count;
            pieces.push((self.offset, at, count, Digest::sha256(&self.member)));
            at += count;
        }
        if content.read(&mut [0]).map_err(|source| failed(entry, source))? != 0 {
            return Err(Error::Changed { path: entry.path.to_string(), expected: size, found: size + 1 });
        }
        self.put([0; BLOCK].get(..padding(size)).unwrap_or_default());
        row.digest = Some(whole.finish());
        if pieces.is_empty() {
            return self.row(&row);
        }
        for (offset, start, count, digest) in pieces {
            row.offset = offset;
            row.chunk_offset = start;
            row.chunk_size = if start + count == size { 0 } else { count };
            row.chunk_digest = Some(digest);
            if start > 0 {
                row.kind = "chunk";
                (row.size, row.mode, row.uid, row.gid, row.digest) = (0, 0, 0, 0, None);
                row.modified.clear();
                row.xattrs.clear();
            }
            self.row(&row)?;
        }
        Ok(())
    }

    fn row(&mut self, row: &TocEntry<'_>) -> Result<(), Error> {
        if self.entries > 0 {
            self.toc.push(b',');
        }
        self.entries += 1;
        serde_json::to_writer(&mut self.toc, row).map_err(|e| Error::Write(e.into()))?;
        // Headers alone must not fill the memory.
        if self.member.len() > 2 * CHUNK { self.cut() } else { Ok(()) }
    }

    /// Adds bytes of the tar stream.
    fn put(&mut self, bytes: &[u8]) {
        self.stream.update(bytes);
        self.total += bytes.len() as u64;
        self.member.extend_from_slice(bytes);
    }

    /// Ends the gzip member.
    fn cut(&mut self) -> Result<(), Error> {
        if self.member.is_empty() {
            return Ok(());
        }
        let member = std::mem::take(&mut self.member);
        let mut out = GZIP_HEADER.to_vec();
        // Room for the worst case, so that one call is enough (see `codec`).
        out.reserve(member.len() + member.len() / 4 + 4096);
        let mut compress = Compress::new(self.level, false);
        let status = compress.compress_vec(&member, &mut out, FlushCompress::Finish);
        if status.map_err(|e| Error::Write(io::Error::other(e)))? != Status::StreamEnd {
            return Err(Error::Write(io::Error::other("deflate did not come to an end")));
        }
        let mut crc = Crc::new();
        crc.update(&member);
        out.extend_from_slice(&crc.sum().to_le_bytes());
        out.extend(crc.amount().to_le_bytes());
        self.write(&out)?;
        self.member = member;
        self.member.clear();
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.blob.update(bytes);
        self.offset += bytes.len() as u64;
        self.sink.write_all(bytes).map_err(Error::Write)
    }

    fn finish(mut self) -> Result<Finished<W>, Error> {
        self.cut()?;
        let table = self.offset;
        let mut toc = std::mem::take(&mut self.toc);
        toc.extend_from_slice(b"]}");
        let path = EntryPath::new(TOC_NAME).map_err(|e| Error::Write(io::Error::other(e)))?;
        let mut entry = Entry::new(path, Kind::File { size: toc.len() as u64 }, 0o644);
        entry.mtime = Timestamp::from_secs(0);
        let mut head = Vec::new();
        header::encode(&entry, Precision::Seconds, &mut head)?;
        self.put(&head);
        self.put(&toc);
        self.put([0; BLOCK].get(..padding(toc.len() as u64)).unwrap_or_default());
        self.put(&[0; 2 * BLOCK]);
        self.cut()?;
        self.write(&footer(table))?;
        self.sink.flush().map_err(Error::Write)?;
        let mut descriptor = Descriptor::new(MediaType::OCI_LAYER_GZIP, self.blob.finish(), self.offset);
        descriptor.annotations.insert(TOC_DIGEST.to_owned(), Digest::sha256(&toc).to_string());
        descriptor.annotations.insert(UNCOMPRESSED_SIZE.to_owned(), self.total.to_string());
        Ok(Finished {
            diff_id: self.stream.finish(),
            descriptor,
            uncompressed_size: self.total,
            sink: self.sink,
        })
    }
}

fn failed(entry: &Entry, source: io::Error) -> Error {
    Error::Content { path: entry.path.to_string(), source }
}

/// Returns the empty gzip member that says where the table begins.
fn footer(table: u64) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff];
    out.extend_from_slice(&26_u16.to_le_bytes());
    out.extend_from_slice(b"SG");
    out.extend_from_slice(&22_u16.to_le_bytes());
    out.extend_from_slice(format!("{table:016x}STARGZ").as_bytes());
    // A last, stored block of nothing; then checksum and size of nothing.
    out.extend_from_slice(&[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0]);
    out
}
