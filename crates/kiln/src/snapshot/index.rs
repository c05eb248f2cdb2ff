//! What every file of a directory tree was at one moment, in a file: to find out later which of them changed, without reading any.
//!
//! ```text
//! depth u32 | length of name u16 | name | stamp        parents before children, siblings sorted, numbers little-endian
//! ```
//!
//! A [`Stamp`] holds the time of the last change of the inode (ctime), which no call can set, so that nothing which a
//! command does to a file goes unnoticed. Written and read from front to back, it takes no memory.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{self, AtFlags, StatxFlags};

use super::copy::as_path;

/// Numbers that tell whether a file is as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    device: (u32, u32),
    mode: u32,
    links: u32,
    uid: u32,
    gid: u32,
    rdev: (u32, u32),
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    /// Tells a directory from another that got its inode number; zero where the file system does not know.
    born: (i64, u32),
}

/// Bytes of a stamp in the file.
const LENGTH: usize = 88;

impl Stamp {
    pub(super) fn of(dir: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Self> {
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let found = fs::statx(dir, as_path(name), AtFlags::SYMLINK_NOFOLLOW, wanted)?;
        Ok(Self {
            inode: found.stx_ino,
            device: (found.stx_dev_major, found.stx_dev_minor),
            mode: found.stx_mode.into(),
            links: found.stx_nlink,
            uid: found.stx_uid,
            gid: found.stx_gid,
            rdev: (found.stx_rdev_major, found.stx_rdev_minor),
            size: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
            born: (found.stx_btime.tv_sec, found.stx_btime.tv_nsec),
        })
    }

    pub(super) fn kind(&self) -> fs::FileType {
        fs::FileType::from_raw_mode(self.mode)
    }

    /// Tells whether both are the same directory, whatever became of its attributes.
    pub(super) fn is_same_directory(&self, other: &Self) -> bool {
        let identity = |stamp: &Self| (stamp.kind(), stamp.device, stamp.inode, stamp.born);
        self.kind() == fs::FileType::Directory && identity(self) == identity(other)
    }

    pub(super) fn has_names(&self) -> bool {
        self.links > 1 && self.kind() != fs::FileType::Directory
    }

    /// Tells whether this is nothing that a layer can have: a socket, or what would be read as a removal.
    pub(super) fn is_unknown_to_layers(&self) -> bool {
        match self.kind() {
            fs::FileType::Socket => true,
            fs::FileType::CharacterDevice => self.rdev == (0, 0),
            _ => false,
        }
    }

    fn words(&self) -> [u32; LENGTH / 4] {
        let (low, high) = (|n: u64| (n & 0xFFFF_FFFF) as u32, |n: u64| (n >> 32) as u32);
        let time = |(secs, nanos): (i64, u32)| [low(secs.cast_unsigned()), high(secs.cast_unsigned()), nanos];
        let (modified, changed, born) = (time(self.modified), time(self.changed), time(self.born));
        [
            low(self.inode),
            high(self.inode),
            self.device.0,
            self.device.1,
            self.mode,
            self.links,
            self.uid,
            self.gid,
            self.rdev.0,
            self.rdev.1,
            low(self.size),
            high(self.size),
            modified[0],
            modified[1],
            modified[2],
            changed[0],
            changed[1],
            changed[2],
            born[0],
            born[1],
            born[2],
            0,
        ]
    }

    fn from_words(words: &[u32; LENGTH / 4]) -> Self {
        let long = |at: usize| u64::from(words[at]) | u64::from(words[at + 1]) << 32;
        let time = |at: usize| (long(at).cast_signed(), words[at + 2]);
        Self {
            inode: long(0),
            device: (words[2], words[3]),
            mode: words[4],
            links: words[5],
            uid: words[6],
            gid: words[7],
            rdev: (words[8], words[9]),
            size: long(10),
            modified: time(12),
            changed: time(15),
            born: time(18),
        }
    }
}

/// One line of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) depth: u32,
    pub(super) name: Vec<u8>,
    pub(super) stamp: Stamp,
}

/// An index that is being written.
pub(super) struct IndexWriter {
    to: BufWriter<File>,
    newest: (i64, u32),
}

impl IndexWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { to: BufWriter::new(File::create(path)?), newest: (i64::MIN, 0) })
    }

    pub(super) fn add(&mut self, depth: u32, name: &[u8], stamp: &Stamp) -> io::Result<()> {
        self.newest = self.newest.max(stamp.changed);
        let length = u16::try_from(name.len()).map_err(io::Error::other)?;
        self.to.write_all(&depth.to_le_bytes())?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(name)?;
        for word in stamp.words() {
            self.to.write_all(&word.to_le_bytes())?;
        }
        Ok(())
    }

    /// Completes the index, and returns when whatever is changed from now on gets a later time than anything in it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        /// A tick is ten milliseconds at most. A file from the future would otherwise stop the build.
        const TICKS: u32 = 30;
        self.to.flush()?;
        let mut file = self.to.get_ref();
        for _ in 0..TICKS {
            // Any write has the time of now by the clock that counts: that of the file system.
            file.write_all(&END.to_le_bytes())?;
            let now = fs::statx(file.as_fd(), "", AtFlags::EMPTY_PATH, StatxFlags::CTIME)?.stx_ctime;
            if (now.tv_sec, now.tv_nsec) > self.newest {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// Stands for a depth behind the last line.
const END: u32 = u32::MAX;

/// An index that is being read.
pub(super) struct IndexReader {
    from: BufReader<File>,
    next: Option<Line>,
}

impl IndexReader {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let mut reader = Self { from: BufReader::new(File::open(path)?), next: None };
        reader.advance()?;
        Ok(reader)
    }

    /// Returns the next line, if it is at this depth.
    pub(super) fn peek(&self, depth: u32) -> Option<&Line> {
        self.next.as_ref().filter(|line| line.depth == depth)
    }

    /// Goes on behind the next line.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        self.next = self.read()?;
        Ok(())
    }

    /// Goes on behind the next line and all below it.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        let Some(depth) = self.next.as_ref().map(|line| line.depth) else { return Ok(()) };
        self.advance()?;
        while self.next.as_ref().is_some_and(|line| line.depth > depth) {
            self.advance()?;
        }
        Ok(())
    }

    fn read(&mut self) -> io::Result<Option<Line>> {
        let mut word = [0; 4];
        self.from.read_exact(&mut word)?;
        let depth = u32::from_le_bytes(word);
        if depth == END {
            return Ok(None);
        }
        let mut length = [0; 2];
        self.from.read_exact(&mut length)?;
        let mut name = vec![0; u16::from_le_bytes(length).into()];
        self.from.read_exact(&mut name)?;
        let mut words = [0; LENGTH / 4];
        for slot in &mut words {
            self.from.read_exact(&mut word)?;
            *slot = u32::from_le_bytes(word);
        }
        Ok(Some(Line { depth, name, stamp: Stamp::from_words(&words) }))
    }
}
