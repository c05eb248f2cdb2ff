//! The canonical tar header of an entry.
//!
//! ```text
//! [ header 'x', records ]  only when a value does not fit the ustar header below
//! header                   ustar: name(100) mode uid gid size mtime checksum type link(100) "ustar\0" "00"
//!                          user(32, empty) group(32, empty) major minor prefix(155)
//! content                  padded to 512 with zeros
//! ```
//!
//! Directories end in `/`; the root is `./`. A value that goes into a record leaves what fits of it in the
//! header, so that old readers see something plausible.

use tar::{EntryType, Header};

use super::pax::Records;
use super::{Entry, Error, Kind, Precision};

/// Size of a tar block.
pub(super) const BLOCK: usize = 512;
/// Largest number in a ustar field of eight bytes: seven octal digits.
const MAX_SMALL: u64 = 0o777_7777;
/// Largest number in a ustar field of twelve bytes: eleven octal digits.
const MAX_LARGE: u64 = 0o777_7777_7777;

/// Appends the header blocks of `entry` to `out`.
pub(super) fn encode(entry: &Entry, precision: Precision, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut records = Records::default();
    let mut header = Header::new_ustar();
    let unwritable =
        |reason: &str| Error::Unwritable { path: entry.path.to_string(), reason: reason.to_owned() };

    let name = tar_name(entry);
    set_name(&mut header, &name, &mut records);
    let (entry_type, link) = match &entry.kind {
        Kind::File { .. } => (EntryType::Regular, None),
        Kind::Directory => (EntryType::Directory, None),
        Kind::Symlink { target } => (EntryType::Symlink, Some(target.as_slice())),
        Kind::HardLink { target } => (EntryType::Link, Some(target.as_bytes())),
        Kind::CharDevice { .. } => (EntryType::Char, None),
        Kind::BlockDevice { .. } => (EntryType::Block, None),
        Kind::Fifo => (EntryType::Fifo, None),
    };
    header.set_entry_type(entry_type);
    if let Some(link) = link {
        if link.is_empty() || link.contains(&0) {
            return Err(unwritable("its link target is empty or contains a zero byte"));
        }
        set_link(&mut header, link, &mut records);
    }

    header.set_mode(entry.mode & 0o7777);
    header.set_uid(fit(u64::from(entry.uid), MAX_SMALL, "uid", &mut records));
    header.set_gid(fit(u64::from(entry.gid), MAX_SMALL, "gid", &mut records));
    header.set_size(fit(entry.kind.size(), MAX_LARGE, "size", &mut records));
    set_mtime(&mut header, entry, precision, &mut records);
    let (major, minor) = match entry.kind {
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => (major, minor),
        _ => (0, 0),
    };
    let device = u64::from(major.max(minor));
    if device > MAX_SMALL
        || header.set_device_major(major).is_err()
        || header.set_device_minor(minor).is_err()
    {
        return Err(unwritable("its device number does not fit a tar header"));
    }
    for (key, value) in &entry.xattrs {
        // A record ends its key at the first `=`, so such a name would come back as another one.
        if key.is_empty() || key.contains('=') || key.contains('\0') {
            return Err(unwritable("the name of an extended attribute is empty or contains `=`"));
        }
        records.set(format!("SCHILY.xattr.{key}"), value.clone());
    }

    if !records.is_empty() {
        encode_records(entry, &records, out);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    Ok(())
}

fn encode_records(entry: &Entry, records: &Records, out: &mut Vec<u8>) {
    let body = records.encode();
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    // The name is only for readers that know no records; the base name tells them apart well enough.
    let mut name = b"PaxHeaders.0/".to_vec();
    name.extend(plain(entry.path.name()));
    name.truncate(100);
    put(&mut header, 0, &name);
    header.set_mode(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(body.len() as u64);
    header.set_mtime(0);
    // JUSTIFICATION: a ustar header has device fields and zero fits them, so neither call can fail.
    header.set_device_major(0).unwrap_or_default();
    header.set_device_minor(0).unwrap_or_default();
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(&body);
    out.resize(out.len() + padding(body.len() as u64), 0);
}

/// Returns the number of zeros that fill the last block of `size` bytes.
pub(super) fn padding(size: u64) -> usize {
    let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    (BLOCK - used) % BLOCK
}

fn tar_name(entry: &Entry) -> Vec<u8> {
    let mut name = if entry.path.is_root() { b".".to_vec() } else { entry.path.as_bytes().to_vec() };
    if entry.kind == Kind::Directory {
        name.push(b'/');
    }
    name
}

fn set_name(header: &mut Header, name: &[u8], records: &mut Records) {
    if name.is_ascii() {
        if name.len() <= 100 {
            return put(header, 0, name);
        }
        if let Some((prefix, rest)) = split(name) {
            put(header, 345, prefix);
            return put(header, 0, rest);
        }
    }
    records.set("path".to_owned(), name.to_vec());
    let mut short = plain(name);
    short.truncate(100);
    put(header, 0, &short);
}

/// Splits a long name into a prefix of at most 155 bytes and a rest of at most 100, at the last slash possible.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    // A slash at the very end belongs to a directory's own name and divides nothing.
    let end = name.len().checked_sub(1)?.min(155);
    let slash = name.get(..=end)?.iter().take(name.len() - 1).rposition(|b| *b == b'/')?;
    let (prefix, rest) = (name.get(..slash)?, name.get(slash + 1..)?);
    (slash > 0 && slash <= 155 && rest.len() <= 100).then_some((prefix, rest))
}

fn set_link(header: &mut Header, link: &[u8], records: &mut Records) {
    let mut short = link.to_vec();
    if !link.is_ascii() || link.len() > 100 {
        records.set("linkpath".to_owned(), link.to_vec());
        short = plain(link);
        short.truncate(100);
    }
    put(header, 157, &short);
}

fn set_mtime(header: &mut Header, entry: &Entry, precision: Precision, records: &mut Records) {
    let time = entry.mtime;
    let fits = u64::try_from(time.secs).ok().filter(|secs| *secs <= MAX_LARGE);
    let nanos = if precision == Precision::Nanoseconds { time.nanos.min(999_999_999) } else { 0 };
    if fits.is_none() || nanos != 0 {
        records.set("mtime".to_owned(), decimal(time.secs, nanos).into_bytes());
    }
    header.set_mtime(fits.unwrap_or(0));
}

/// Writes a time as a decimal fraction without trailing zeros.
fn decimal(secs: i64, nanos: u32) -> String {
    if nanos == 0 {
        return secs.to_string();
    }
    let (sign, whole, fraction) = if secs < 0 {
        // -2 s + 0.25 s is written -1.75.
        ("-", (secs + 1).unsigned_abs(), 1_000_000_000 - nanos)
    } else {
        ("", secs.unsigned_abs(), nanos)
    };
    let text = format!("{sign}{whole}.{fraction:09}");
    text.trim_end_matches('0').to_owned()
}

fn fit(value: u64, max: u64, key: &str, records: &mut Records) -> u64 {
    if value <= max {
        return value;
    }
    records.set(key.to_owned(), value.to_string().into_bytes());
    0
}

fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|b| b.is_ascii() && *b != 0).collect()
}

/// Copies `bytes`, which the caller has cut to the size of the field, to `offset`.
fn put(header: &mut Header, offset: usize, bytes: &[u8]) {
    for (to, from) in header.as_mut_bytes().iter_mut().skip(offset).zip(bytes) {
        *to = *from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_shortest_fraction() {
        let check = |secs, nanos, expect: &str| assert_eq!(decimal(secs, nanos), expect);
        check(0, 0, "0");
        check(12, 500_000_000, "12.5");
        check(-2, 250_000_000, "-1.75");
        check(-1, 999_999_999, "-0.000000001");
        check(1, 1, "1.000000001");
    }

    #[test]
    fn long_names_are_split_at_the_last_slash_that_fits() {
        let check = |name: &str, expect: Option<(usize, usize)>| {
            assert_eq!(split(name.as_bytes()).map(|(a, b)| (a.len(), b.len())), expect, "{name}");
        };
        let (a, b) = ("a".repeat(90), "b".repeat(90));
        check(&format!("{a}/{b}"), Some((90, 90)));
        check(&format!("{a}/{b}/"), Some((90, 91)));
        check(&format!("{}/{b}", "a".repeat(155)), Some((155, 90)));
        check(&format!("{}/{b}", "a".repeat(156)), None);
        check(&format!("{a}/{}", "b".repeat(101)), None);
        check(&"c".repeat(120), None);
        check(&format!("{}/", "c".repeat(120)), None);
    }
}
