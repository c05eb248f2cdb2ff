//! What one member of a layer says: its path, kind and attributes.
//!
//! Paths are bytes, because Linux names are. An [`EntryPath`] is always relative and already free of empty,
//! `.` and `..` components, so joining it to a directory cannot lead out of that directory by its text alone
//! (symbolic links on disk are the unpacker's business).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Prefix of the name of a whiteout.
pub const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Name of the marker that hides everything below its directory.
pub const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Prefix of names that AUFS kept for itself; nothing but [`OPAQUE_MARKER`] has a meaning today.
const METADATA_PREFIX: &[u8] = b".wh..wh.";

/// Longest path of an entry in bytes: what Linux takes (`PATH_MAX`). No engine could unpack a longer one, and work on a path
/// grows with its depth.
pub(super) const MAX_PATH: usize = 4096;

/// A path inside a layer: relative, `/`-separated, without empty, `.` or `..` components. Empty is the root.
///
/// Paths order by component, bytewise: a directory is followed by everything in it, then by its next sibling.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct EntryPath(Vec<u8>);

/// Says why bytes are not a path inside a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The path starts with `/`.
    #[error("the name is absolute")]
    Absolute,
    /// A component is `..`.
    #[error("the name has a `..` component")]
    Parent,
    /// The path contains a zero byte.
    #[error("the name contains a zero byte")]
    Nul,
    /// A directory on the way has the name of a whiteout.
    #[error("the name leads through a whiteout")]
    ThroughWhiteout,
    /// The name of a whiteout hides nothing that can exist.
    #[error("the whiteout hides no name")]
    EmptyWhiteout,
}

impl EntryPath {
    /// Returns the path of the root directory.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Normalises `name`: drops `.` and empty components.
    ///
    /// # Errors
    /// When the name is absolute, climbs with `..` or contains a zero byte. A name of nothing but slashes is
    /// the root: some builders record it so.
    pub fn new(name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = name.as_ref();
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        if name.first() == Some(&b'/') && name.iter().any(|b| *b != b'/') {
            return Err(PathError::Absolute);
        }
        Self::relative(name)
    }

    /// Normalises `name` as a path below the root: like [`EntryPath::new`], but leading slashes are dropped.
    ///
    /// # Errors
    /// When the name climbs with `..` or contains a zero byte.
    pub fn rooted(name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = name.as_ref();
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        Self::relative(name)
    }

    /// Normalises `name` as a path below the root in which `..` goes up, but never above the root.
    ///
    /// # Errors
    /// When the name contains a zero byte.
    pub fn contained(name: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let name = name.as_ref();
        if name.contains(&0) {
            return Err(PathError::Nul);
        }
        let mut parts: Vec<&[u8]> = Vec::new();
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => {}
                b".." => drop(parts.pop()),
                _ => parts.push(component),
            }
        }
        Ok(Self(parts.join(&b'/')))
    }

    fn relative(name: &[u8]) -> Result<Self, PathError> {
        let mut out = Vec::with_capacity(name.len());
        for component in name.split(|b| *b == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(PathError::Parent),
                _ => {}
            }
            if !out.is_empty() {
                out.push(b'/');
            }
            out.extend_from_slice(component);
        }
        Ok(Self(out))
    }

    /// Tells whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as the file system's type.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Returns the last component; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.0.rsplit(|b| *b == b'/').next().unwrap_or_default()
    }

    /// Returns the directory that holds this; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let end = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0.get(..end).unwrap_or_default().to_vec()))
    }

    /// Returns the components from the top.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// Returns the path of `name` in this directory; `name` is one component that exists on disk or in a path.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1 + name.len());
        out.extend_from_slice(&self.0);
        if !out.is_empty() && !name.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(name);
        Self(out)
    }

    /// Returns the path from the directory `top` to this; `None` if this is not below it.
    #[must_use]
    pub fn below(&self, top: &Self) -> Option<Self> {
        let rest = self.0.strip_prefix(top.as_bytes())?;
        match rest.split_first() {
            Some((b'/', rest)) if !top.is_root() => Some(Self(rest.to_vec())),
            None => Some(Self::root()),
            _ if top.is_root() => Some(self.clone()),
            _ => None,
        }
    }

    /// Tells whether this is `ancestor` or something below it.
    #[must_use]
    pub fn starts_with(&self, ancestor: &Self) -> bool {
        if ancestor.is_root() {
            return true;
        }
        self.0.strip_prefix(ancestor.as_bytes()).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')))
    }

    /// Returns what this path removes from the layers below, if its name is that of a whiteout.
    ///
    /// # Errors
    /// When the path leads through a whiteout, or its name hides nothing.
    pub fn whiteout(&self) -> Result<Option<Whiteout>, PathError> {
        if !self.0.windows(WHITEOUT_PREFIX.len()).any(|w| w == WHITEOUT_PREFIX) {
            return Ok(None);
        }
        let parent = self.parent().unwrap_or_default();
        if parent.components().any(|c| c.starts_with(WHITEOUT_PREFIX)) {
            return Err(PathError::ThroughWhiteout);
        }
        let name = self.name();
        if name == OPAQUE_MARKER {
            return Ok(Some(Whiteout::Opaque(parent)));
        }
        if name.starts_with(METADATA_PREFIX) {
            return Ok(Some(Whiteout::Metadata));
        }
        match name.strip_prefix(WHITEOUT_PREFIX) {
            None => Ok(None),
            Some(b"" | b"." | b"..") => Err(PathError::EmptyWhiteout),
            Some(hidden) => Ok(Some(Whiteout::Remove(parent.join(hidden)))),
        }
    }

    /// Says why no file of a layer can have this path, if none can.
    #[must_use]
    pub fn unfit(&self) -> Option<&'static str> {
        if self.0.len() > MAX_PATH {
            return Some("its path is longer than 4096 bytes, and nothing could unpack it");
        }
        let removes = self.components().any(|name| name.starts_with(WHITEOUT_PREFIX));
        removes.then_some("names that begin with `.wh.` mean the removal of files in layers")
    }

    /// Returns the path of the whiteout that hides this path; the root has none and gives the root.
    #[must_use]
    pub fn to_whiteout(&self) -> Self {
        match self.parent() {
            None => Self::root(),
            Some(parent) => parent.join(&[WHITEOUT_PREFIX, self.name()].concat()),
        }
    }

    /// Returns the path of the marker that makes this directory opaque.
    #[must_use]
    pub fn to_opaque_marker(&self) -> Self {
        self.join(OPAQUE_MARKER)
    }
}

impl Ord for EntryPath {
    fn cmp(&self, other: &Self) -> Ordering {
        // A slash sorts before every other byte, which is the same as comparing component by component.
        let key = |b: &u8| if *b == b'/' { 0 } else { *b };
        self.0.iter().map(key).cmp(other.0.iter().map(key))
    }
}

impl PartialOrd for EntryPath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() { f.write_str(".") } else { self.as_path().display().fmt(f) }
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl AsRef<Path> for EntryPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

/// What a whiteout removes from the layers below its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whiteout {
    /// This path and all below it.
    Remove(EntryPath),
    /// Everything in this directory, but not the directory.
    Opaque(EntryPath),
    /// Nothing: a name that AUFS kept for itself.
    Metadata,
}

/// What kind of file an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file of this many bytes.
    File {
        /// Size of the content.
        size: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// Where it points, as it stands.
        target: Vec<u8>,
    },
    /// Another name of an earlier entry.
    HardLink {
        /// The earlier entry.
        target: EntryPath,
    },
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

impl Kind {
    /// Returns the number of content bytes that follow the entry.
    #[must_use]
    pub fn size(&self) -> u64 {
        if let Self::File { size } = self { *size } else { 0 }
    }
}

/// A point in time: whole seconds since 1970 and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z, negative before.
    pub secs: i64,
    /// Nanoseconds after `secs`, below 1,000,000,000.
    pub nanos: u32,
}

impl Timestamp {
    /// Returns the start of the second `secs`.
    #[must_use]
    pub const fn from_secs(secs: i64) -> Self {
        Self { secs, nanos: 0 }
    }

    /// Returns the start of this time's second.
    #[must_use]
    pub const fn whole(self) -> Self {
        Self { secs: self.secs, nanos: 0 }
    }
}

/// One member of a layer, without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path inside the layer.
    pub path: EntryPath,
    /// What kind of file.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits (`07777`).
    pub mode: u32,
    /// Owner inside the image.
    pub uid: u32,
    /// Group inside the image.
    pub gid: u32,
    /// Time of the last change of content.
    pub mtime: Timestamp,
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

impl Entry {
    /// Returns an entry owned by root, from 1970 and without extended attributes.
    #[must_use]
    pub fn new(path: EntryPath, kind: Kind, mode: u32) -> Self {
        Self { path, kind, mode, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: BTreeMap::new() }
    }

    /// Returns the whiteout that removes `path` from the layers below.
    #[must_use]
    pub fn whiteout(path: &EntryPath) -> Self {
        Self::new(path.to_whiteout(), Kind::File { size: 0 }, 0o600)
    }

    /// Returns the marker that hides what the layers below have in `directory`.
    #[must_use]
    pub fn opaque(directory: &EntryPath) -> Self {
        Self::new(directory.to_opaque_marker(), Kind::File { size: 0 }, 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised_or_refused() {
        let check = |name: &str, expect: Result<&str, PathError>| {
            let found = EntryPath::new(name);
            assert_eq!(found, expect.map(|e| EntryPath(e.as_bytes().to_vec())), "{name}");
        };
        check("./", Ok(""));
        check("/", Ok(""));
        check(".", Ok(""));
        check("./usr//bin/./x/", Ok("usr/bin/x"));
        check("/etc/passwd", Err(PathError::Absolute));
        check("a/../../etc", Err(PathError::Parent));
        check("..", Err(PathError::Parent));
        check("a\0b", Err(PathError::Nul));
        check("...", Ok("..."));
    }

    #[test]
    fn order_puts_a_directory_before_its_content_and_its_content_before_siblings() {
        let mut paths: Vec<_> =
            ["a-b", "a/b", "a", "", "a/b/c", "a.b"].iter().map(|p| EntryPath::new(p).unwrap()).collect();
        paths.sort();
        let shown: Vec<_> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(shown, [".", "a", "a/b", "a/b/c", "a-b", "a.b"]);
    }

    #[test]
    fn a_path_is_taken_from_below_a_directory() {
        let path = |p: &str| EntryPath::new(p).unwrap();
        let check = |it: &str, top: &str, expect: Option<&str>| {
            assert_eq!(path(it).below(&path(top)), expect.map(path), "{it} below {top}");
        };
        check("a/b/c", "a", Some("b/c"));
        check("a/b", "", Some("a/b"));
        check("a", "a", Some(""));
        check("a-b", "a", None);
        check("a", "a/b", None);
    }

    #[test]
    fn whiteouts_are_told_apart() {
        let check = |name: &str, expect: Result<Option<Whiteout>, PathError>| {
            assert_eq!(EntryPath::new(name).unwrap().whiteout(), expect, "{name}");
        };
        let path = |p: &str| EntryPath::new(p).unwrap();
        check("a/.wh.b", Ok(Some(Whiteout::Remove(path("a/b")))));
        check(".wh.b", Ok(Some(Whiteout::Remove(path("b")))));
        check("a/.wh..wh..opq", Ok(Some(Whiteout::Opaque(path("a")))));
        check(".wh..wh.plnk", Ok(Some(Whiteout::Metadata)));
        check("a/x.wh.b", Ok(None));
        check("a/.wh.b/c", Err(PathError::ThroughWhiteout));
        check("a/.wh.", Err(PathError::EmptyWhiteout));
        check("a/.wh...", Err(PathError::EmptyWhiteout));
        assert_eq!(path("a/b").to_whiteout(), path("a/.wh.b"));
    }
}
