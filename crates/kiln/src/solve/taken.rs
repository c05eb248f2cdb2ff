//! Which files of contexts a step took: a list beside its key, to tell later which of them changed.
//!
//! ```text
//! STORE/inputs/KEY   one entry for each file, in the order in which the key has them:
//!                    operand (u16), mode (u32), header (8 bytes), content (8 bytes), length of the path (u32), path
//! ```
//!
//! A list is written after its step and read when a key is not what it was. It only explains: what cannot be read or
//! written is left out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};

use kiln_oci::Digest;
use kiln_oci::layer::EntryPath;

use super::keys::{Inputs, excluded, files_of};
use crate::error::Result;
use crate::files::{Mark, marks, select};
use crate::graph::{CopyFrom, FileAction, FileOp};
use crate::store::Store;

/// Differences that are kept while two lists are compared; nobody reads so many.
const MOST: usize = 1000;
/// A path longer than this was not written by this file.
const LONGEST_PATH: usize = 1 << 16;

/// What is known of one file that a step took.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Taken {
    /// Which operand of the step brought it.
    operand: u16,
    path: EntryPath,
    mode: u32,
    /// Kind, mode, owner, link and attributes.
    header: [u8; 8],
    content: [u8; 8],
}

impl Taken {
    fn new(operand: u16, path: EntryPath, mark: &Mark) -> Self {
        let (mut header, mut content) = ([0; 8], [0; 8]);
        header.copy_from_slice(&mark.header.0[..8]);
        if let Some(sum) = &mark.content {
            content.copy_from_slice(&sum.0[..8]);
        }
        Self { operand, path, mode: mark.mode, header, content }
    }

    fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let path = self.path.as_bytes();
        to.write_all(&self.operand.to_le_bytes())?;
        to.write_all(&self.mode.to_le_bytes())?;
        to.write_all(&self.header)?;
        to.write_all(&self.content)?;
        to.write_all(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        to.write_all(path)
    }

    /// Reads the next entry; the end, and what is no entry, is `None`.
    fn read(from: &mut impl Read) -> Option<Self> {
        let mut head = [0; 26];
        from.read_exact(&mut head).ok()?;
        let (operand, rest) = head.split_first_chunk()?;
        let (mode, rest) = rest.split_first_chunk()?;
        let (header, rest) = rest.split_first_chunk()?;
        let (content, rest) = rest.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok().filter(|n| *n <= LONGEST_PATH)?;
        let mut path = vec![0; length];
        from.read_exact(&mut path).ok()?;
        Some(Self {
            operand: u16::from_le_bytes(*operand),
            path: EntryPath::new(path).ok()?,
            mode: u32::from_le_bytes(*mode),
            header: *header,
            content: *content,
        })
    }
}

/// Calls `each` for every file of a context that `op` takes, in the order of its key.
fn walk(inputs: &Inputs<'_>, op: &FileOp, each: &mut dyn FnMut(Taken) -> Result<()>) -> Result<()> {
    let mut operand = 0;
    for action in &op.actions {
        let FileAction::Copy(copy) = action else { continue };
        let exclude = excluded(copy)?;
        for source in &copy.sources {
            if let CopyFrom::Context(name) = &copy.from
                && let Some(tree) = inputs.contexts.get(name)
            {
                for selected in select(tree, source, copy.layout)? {
                    marks(&selected, &exclude, &mut |mark| {
                        let path = mark.relative.components().fold(selected.path.clone(), |p, c| p.join(c));
                        each(Taken::new(operand, path, mark))
                    })?;
                }
            }
            operand = operand.saturating_add(1);
        }
    }
    Ok(())
}

/// Tells whether `op` takes files of a context.
fn takes_files(op: &FileOp) -> bool {
    let of_context = |action: &FileAction| matches!(action, FileAction::Copy(copy) if matches!(copy.from, CopyFrom::Context(_)));
    op.actions.iter().any(of_context)
}

/// Writes the list of the files that `op` took under its key.
pub(super) fn remember(inputs: &Inputs<'_>, op: &FileOp, key: &Digest) {
    if !takes_files(op) {
        return;
    }
    let store = &inputs.engine.store;
    let path = store.tmp_path();
    let Ok(file) = File::create_new(&path) else { return };
    let mut list = BufWriter::new(file);
    let written = walk(inputs, op, &mut |taken| {
        taken
            .write(&mut list)
            .map_err(|e| crate::Error::environment("cannot write a list of files").because(e))
    });
    let whole = written.is_ok() && list.flush().is_ok();
    if !whole || store.publish(&path, "inputs", key.hex()).is_err() {
        let _ = std::fs::remove_file(&path);
    }
}

/// Returns how the files of the operand called `part` differ from those under the key `old`, one phrase each.
pub(super) fn changes(inputs: &Inputs<'_>, op: &FileOp, old: &Digest, part: &str) -> Vec<String> {
    let Some(operand) = operand(op, part) else { return Vec::new() };
    let Some(mut list) = open(&inputs.engine.store, old) else { return Vec::new() };
    let mut was =
        std::iter::from_fn(move || Taken::read(&mut list)).filter(|t| t.operand == operand).peekable();
    let mut found: BTreeMap<EntryPath, (Option<Taken>, Option<Taken>)> = BTreeMap::new();
    let compared = walk(inputs, op, &mut |is| {
        if is.operand != operand || found.len() > MOST {
            return Ok(());
        }
        while let Some(gone) = was.next_if(|was| was.path < is.path) {
            let path = gone.path.clone();
            found.entry(path).or_default().0 = Some(gone);
        }
        let was = was.next_if(|was| was.path == is.path);
        if was.as_ref() != Some(&is) {
            found.insert(is.path.clone(), (was, Some(is)));
        }
        Ok(())
    });
    if compared.is_err() {
        return Vec::new();
    }
    for gone in was.take(MOST) {
        let path = gone.path.clone();
        found.entry(path).or_default().0 = Some(gone);
    }
    found.into_values().filter_map(|(was, is)| phrase(was, is)).collect()
}

fn phrase(was: Option<Taken>, is: Option<Taken>) -> Option<String> {
    Some(match (was, is) {
        (Some(was), Some(is)) if was.content != is.content => format!("`{}` changed", is.path),
        (Some(was), Some(is)) if was.mode != is.mode => {
            format!("`{}` has mode {:o}, had {:o}", is.path, is.mode, was.mode)
        }
        (Some(was), Some(is)) if was.header != is.header => format!("kind or owner of `{}` changed", is.path),
        (None, Some(is)) => format!("`{}` is new", is.path),
        (Some(was), None) => format!("`{}` is gone", was.path),
        (Some(_), Some(_)) | (None, None) => return None,
    })
}

/// Returns the number of the operand whose part of the key is called `part`.
fn operand(op: &FileOp, part: &str) -> Option<u16> {
    let mut operand = 0;
    for action in &op.actions {
        let FileAction::Copy(copy) = action else { continue };
        for source in &copy.sources {
            if matches!(&copy.from, CopyFrom::Context(name) if files_of(name, &source.path) == part) {
                return Some(operand);
            }
            operand = operand.saturating_add(1);
        }
    }
    None
}

fn open(store: &Store, key: &Digest) -> Option<BufReader<File>> {
    let path = store.using("inputs", key.hex()).ok()?;
    File::open(path).ok().map(BufReader::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(path: &str, mode: u32, content: u8) -> Taken {
        let path = EntryPath::new(path).unwrap();
        Taken { operand: 3, path, mode, header: [mode.to_le_bytes()[0]; 8], content: [content; 8] }
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let entries = [taken("a", 0o644, 1), taken("a/b", 0o755, 2), taken("ü\n", 0, 0)];
        let mut bytes = Vec::new();
        for entry in &entries {
            entry.write(&mut bytes).unwrap();
        }
        for cut in 0..=bytes.len() {
            let mut from = &bytes[..cut];
            let read: Vec<Taken> = std::iter::from_fn(|| Taken::read(&mut from)).collect();
            assert_eq!(read, entries[..read.len()], "{cut}");
            assert_eq!(read.len() == entries.len(), cut == bytes.len());
        }
    }

    #[test]
    fn differences_are_told_in_words() {
        let file = || taken("a", 0o644, 1);
        let table = [
            (Some(file()), Some(taken("a", 0o644, 2)), Some("`a` changed")),
            (Some(file()), Some(taken("a", 0o755, 1)), Some("`a` has mode 755, had 644")),
            (Some(file()), Some(Taken { header: [9; 8], ..file() }), Some("kind or owner of `a` changed")),
            (None, Some(file()), Some("`a` is new")),
            (Some(file()), None, Some("`a` is gone")),
            (Some(file()), Some(file()), None),
        ];
        for (was, is, expect) in table {
            assert_eq!(phrase(was, is).as_deref(), expect);
        }
    }
}
