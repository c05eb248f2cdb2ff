//! What builds leave behind: one record each, in the store.
//!
//! ```text
//! STORE/history/
//!   N/build.json        a [`BuildRecord`]; missing while the build runs, and after a build that was killed
//!   N/log               the output of its steps (see `log.rs`); locked (flock) while the build runs
//!   last/HASH           number of the newest record of a lineage; HASH is the lineage's digest
//!   highest             the highest number that was ever removed: numbers are not used again
//! ```
//!
//! A build takes its number by making the directory, so two at once have two. Nothing is synced: a record is made for
//! people, and a torn one is as good as none. The newest [`KEEP`] records are kept; what a running build writes is never
//! removed. This room refuses to fail a build: what cannot be written becomes a warning.
//!
//! Start at [`History`] to read, at [`Recorder`] to write.

mod log;
mod record;
mod recorder;
mod request;

use std::fs::{self, File, TryLockError};
use std::io::BufReader;
use std::path::{Path, PathBuf};

use kiln_oci::Digest;

pub use log::{Content, HEAD, LogReader, Piece, TAIL};
pub use record::{
    BuildRecord, FetchRecord, Outcome, PinRecord, RequestSummary, StepRecord, StepStatus, TransferRecord,
    VERSION,
};
pub(crate) use recorder::Recorder;
pub use request::lineage;

pub use crate::key::Part;

use crate::error::{Error, FileContext as _, Result};

/// Number of a build in its store, from 1.
pub type Number = u64;

/// So many records are kept; older ones are removed when a build ends.
pub const KEEP: usize = 100;

/// The records of a store.
#[derive(Debug, Clone)]
pub struct History {
    root: PathBuf,
}

/// What there is of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It ended.
    Ended(Box<BuildRecord>),
    /// It runs.
    Running,
    /// It was killed, or its record cannot be read.
    Unfinished,
}

impl History {
    /// Returns the records of the store at `store`, which need not exist and is not written to.
    #[must_use]
    pub fn at(store: &Path) -> Self {
        Self { root: store.join("history") }
    }

    /// Returns the numbers of all builds that left something, in their order.
    ///
    /// # Errors
    /// When the directory is there and cannot be read.
    pub fn numbers(&self) -> Result<Vec<Number>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e).on("list", &self.root),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.on("list", &self.root)?.file_name();
            // `007` is nothing that a build made.
            let number = name.to_str().and_then(|text| Some((text, text.parse::<Number>().ok()?)));
            numbers.extend(number.filter(|(text, number)| number.to_string() == *text).map(|(_, n)| n));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Returns what there is of build `number`; `None` when there is nothing.
    #[must_use]
    pub fn entry(&self, number: Number) -> Option<Entry> {
        let dir = self.dir(number);
        if let Some(record) = self.record(number) {
            return Some(Entry::Ended(Box::new(record)));
        }
        dir.is_dir().then(|| if is_running(&dir) { Entry::Running } else { Entry::Unfinished })
    }

    /// Returns the record of a build that ended.
    #[must_use]
    pub fn record(&self, number: Number) -> Option<BuildRecord> {
        let bytes = fs::read(self.dir(number).join("build.json")).ok()?;
        serde_json::from_slice(&bytes).ok().filter(|record: &BuildRecord| record.version == VERSION)
    }

    /// Opens the log of a build.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn log(&self, number: Number) -> Result<LogReader<BufReader<File>>> {
        let path = self.dir(number).join("log");
        Ok(LogReader::new(BufReader::new(File::open(&path).on("open", &path)?)))
    }

    /// Returns the newest record of a build of this lineage that ended, however it ended, if it came as far as its steps.
    #[must_use]
    pub fn last_like(&self, lineage: &str) -> Option<BuildRecord> {
        let number = fs::read_to_string(self.pointer(lineage)).ok()?.trim().parse().ok()?;
        // Digests of two lineages are equal only when a file was put there by hand.
        self.record(number).filter(|record| record.lineage == lineage)
    }

    /// Removes what build `number` left.
    ///
    /// # Errors
    /// When it is running, or something cannot be removed.
    pub fn remove(&self, number: Number) -> Result<()> {
        let dir = self.dir(number);
        if is_running(&dir) {
            return Err(Error::input(format!("build {number} is still running"))
                .hint("its record can be removed when it has ended"));
        }
        if self.highest() < number {
            let path = self.root.join("highest");
            fs::write(&path, number.to_string()).on("write", &path)?;
        }
        if let Some(record) = self.record(number) {
            let pointer = self.pointer(&record.lineage);
            if fs::read_to_string(&pointer).is_ok_and(|text| text.trim().parse() == Ok(number)) {
                // Without it, `last_like` finds nothing, which is right.
                let _ = fs::remove_file(&pointer);
            }
        }
        match fs::remove_dir_all(&dir) {
            // Two builds that end at once remove the same old ones.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.on("remove", &dir),
        }
    }

    /// Removes the oldest records until [`KEEP`] are left, but not that of `own`, which took long if it is among them.
    fn retain(&self, own: Number) -> Result<()> {
        let mut numbers = self.numbers()?;
        numbers.retain(|number| *number != own);
        let old = numbers.len().saturating_sub(KEEP - 1);
        for number in &numbers[..old] {
            if !is_running(&self.dir(*number)) {
                self.remove(*number)?;
            }
        }
        Ok(())
    }

    /// Makes the directory of a new build.
    fn begin(&self) -> Result<Number> {
        let last = self.root.join("last");
        fs::create_dir_all(&last).on("create", &last)?;
        let mut number = self.numbers()?.last().copied().unwrap_or(0).max(self.highest());
        loop {
            number += 1;
            let dir = self.dir(number);
            match fs::create_dir(&dir) {
                Ok(()) => return Ok(number),
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e).on("create", &dir),
            }
        }
    }

    fn dir(&self, number: Number) -> PathBuf {
        self.root.join(number.to_string())
    }

    fn pointer(&self, lineage: &str) -> PathBuf {
        self.root.join("last").join(Digest::sha256(lineage.as_bytes()).hex())
    }

    fn highest(&self) -> Number {
        let text = fs::read_to_string(self.root.join("highest")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }
}

/// Tells whether a build holds the lock on its log.
fn is_running(dir: &Path) -> bool {
    let Ok(file) = File::open(dir.join("log")) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

#[cfg(test)]
mod tests;
