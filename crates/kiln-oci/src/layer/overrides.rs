//! What extended headers say about the entry that follows them.

use std::collections::BTreeMap;

use super::raw::Raw;
use super::sparse::{self, Segment};
use super::{Timestamp, pax};

/// Values that replace those of the header.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Timestamp>,
    pub(super) xattrs: BTreeMap<String, Vec<u8>>,
    sparse: Sparse,
    any: bool,
}

#[derive(Debug, Default)]
struct Sparse {
    name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    real_size: Option<u64>,
    map: Option<Vec<Segment>>,
    numbers: Vec<u64>,
    numbered: bool,
}

impl Overrides {
    pub(super) fn is_empty(&self) -> bool {
        !self.any && self.long_name.is_none() && self.long_link.is_none()
    }

    /// Adds the records of an extended header; later ones win.
    pub(super) fn add_records(&mut self, body: &[u8]) -> Result<(), &'static str> {
        self.any = true;
        for (key, value) in pax::parse(body)? {
            self.add(key, value)?;
        }
        Ok(())
    }

    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.insert(xattr_name(name)?, value.to_vec());
            return Ok(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            let name =
                xattr_name(&percent_decode(name).ok_or("the name of an extended attribute is damaged")?)?;
            let value = base64_decode(value).ok_or("the value of an extended attribute is not base64")?;
            // The other form is exact, so it wins wherever both are present.
            self.xattrs.entry(name).or_insert(value);
            return Ok(());
        }
        if key.starts_with(b"GNU.sparse.") {
            return self.add_sparse(key, value);
        }
        // An empty value takes an earlier record back.
        let present = !value.is_empty();
        match key {
            b"path" => self.path = present.then(|| value.to_vec()),
            b"linkpath" => self.link = present.then(|| value.to_vec()),
            b"size" => self.size = optional(value, size, "the PAX size is no number below 2^63")?,
            b"uid" => self.uid = optional(value, id, "the PAX user id is no number below 2^32 - 1")?,
            b"gid" => self.gid = optional(value, id, "the PAX group id is no number below 2^32 - 1")?,
            b"mtime" => self.mtime = optional(value, pax::time, "the PAX modification time is no number")?,
            _ => {}
        }
        Ok(())
    }

    fn add_sparse(&mut self, key: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const NUMBER: &str = "a sparse record is no number";
        let number = || size(value).ok_or(NUMBER);
        let sparse = &mut self.sparse;
        match key {
            b"GNU.sparse.name" => sparse.name = Some(value.to_vec()),
            b"GNU.sparse.major" => sparse.major = Some(number()?),
            b"GNU.sparse.minor" => sparse.minor = Some(number()?),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => sparse.real_size = Some(number()?),
            b"GNU.sparse.map" => sparse.map = Some(sparse::parse_list(value)?),
            b"GNU.sparse.numblocks" => sparse.numbered = true,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                let is_offset = key == b"GNU.sparse.offset";
                if is_offset != sparse.numbers.len().is_multiple_of(2) {
                    return Err("sparse records do not alternate between offset and size");
                }
                sparse.numbers.push(number()?);
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn take_name(&mut self) -> Option<Vec<u8>> {
        let sparse = self.sparse.name.take();
        sparse.or_else(|| self.path.take()).or_else(|| self.long_name.take())
    }

    pub(super) fn take_link(&mut self, raw: &Raw<'_>) -> Vec<u8> {
        self.link.take().or_else(|| self.long_link.take()).unwrap_or_else(|| raw.link())
    }

    /// Returns the map and the real size of a sparse file; the map is `None` when it stands in the content.
    #[expect(clippy::type_complexity, reason = "a name for it would be longer than its one use")]
    pub(super) fn take_sparse(&mut self) -> Result<Option<(Option<Vec<Segment>>, u64)>, &'static str> {
        let sparse = std::mem::take(&mut self.sparse);
        let real = sparse.real_size.ok_or("a sparse file does not say its size");
        match (sparse.major, sparse.minor) {
            (Some(1), Some(0)) => return Ok(Some((None, real?))),
            (None | Some(0), _) => {}
            _ => return Err("a sparse file has an unknown format"),
        }
        match sparse.map {
            Some(map) => Ok(Some((Some(map), real?))),
            None if sparse.numbered || !sparse.numbers.is_empty() => {
                Ok(Some((Some(sparse::pairs(&sparse.numbers)?), real?)))
            }
            None => Ok(None),
        }
    }
}

fn optional<T>(
    value: &[u8],
    parse: impl Fn(&[u8]) -> Option<T>,
    error: &'static str,
) -> Result<Option<T>, &'static str> {
    if value.is_empty() { Ok(None) } else { parse(value).map(Some).ok_or(error) }
}

fn size(value: &[u8]) -> Option<u64> {
    pax::decimal(value).filter(|n| i64::try_from(*n).is_ok())
}

/// Parses an owner. The largest number of 32 bits is none: system calls take it for "leave it as it is".
fn id(value: &[u8]) -> Option<u32> {
    pax::decimal(value).and_then(|n| u32::try_from(n).ok()).filter(|id| *id != u32::MAX)
}

fn xattr_name(name: &[u8]) -> Result<String, &'static str> {
    match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() && !name.contains('\0') => Ok(name.to_owned()),
        _ => Err("the name of an extended attribute is empty or no text"),
    }
}

fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let high = char::from(*bytes.next()?).to_digit(16)?;
        let low = char::from(*bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// Decodes base64 with or without padding.
fn base64_decode(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|b| *b != b'=').map_or(0, |i| i + 1);
    let mut out = Vec::with_capacity(end * 3 / 4);
    for group in text.get(..end)?.chunks(4) {
        let mut bits = 0_u32;
        for byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let count = match group.len() {
            1 => return None,
            n => n - 1,
        };
        out.extend(bits.to_be_bytes().iter().skip(1).take(count));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libarchive_attributes_are_decoded() {
        assert_eq!(base64_decode(b"aGVsbG8=").unwrap(), b"hello");
        assert_eq!(base64_decode(b"aGVsbG8").unwrap(), b"hello");
        assert_eq!(base64_decode(b"").unwrap(), b"");
        assert_eq!(base64_decode(b"a"), None);
        assert_eq!(base64_decode(b"a-b="), None);
        assert_eq!(percent_decode(b"user.a%3Db").unwrap(), b"user.a=b");
        assert_eq!(percent_decode(b"a%3"), None);
    }
}
