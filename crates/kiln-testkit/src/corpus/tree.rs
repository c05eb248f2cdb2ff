//! A root file system as layers leave it, as lines that a person can read, and what is new in one against another.
//!
//! ```text
//! dir 755 0:0 /app
//! file 644 0:0 /app/greeting "hello\n"
//! file 755 0:0 /app/large size=20000
//! link 777 0:0 /app/current -> greeting
//! hard /app/twin = /app/greeting
//! fifo 644 0:0 /app/pipe
//! char 600 0:0 /app/null 1:3
//! gone /etc/passwd
//! ```
//!
//! Extended attributes follow as `name=0x…`. Times are kept beside, because hardly a case is about them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kiln_oci::layer::{Entry, EntryPath, Kind, Whiteout};

use crate::Listing;

/// Content longer than this is shown as its size.
const SHOWN: usize = 2000;

/// A root file system: every path with its line.
#[derive(Debug, Clone, Default)]
pub struct Tree(BTreeMap<EntryPath, Node>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    line: Line,
    mtime: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    /// What stands before and after the path.
    Own { before: String, after: String, directory: bool },
    /// Another name of this path.
    Hard(EntryPath),
}

impl Tree {
    /// Puts a layer on top.
    ///
    /// # Errors
    /// When a whiteout hides nothing that can exist.
    pub fn apply(&mut self, layer: &Listing) -> Result<(), String> {
        // Whiteouts are about the layers below, wherever they stand in their own.
        for (entry, _) in &layer.entries {
            match entry.path.whiteout().map_err(|e| format!("`{}`: {e}", entry.path))? {
                Some(Whiteout::Remove(path)) => self.remove(&path, true),
                Some(Whiteout::Opaque(path)) => self.remove(&path, false),
                Some(Whiteout::Metadata) | None => {}
            }
        }
        for (entry, content) in &layer.entries {
            if matches!(entry.path.whiteout(), Ok(None)) {
                self.put(entry, content);
            }
        }
        Ok(())
    }

    fn remove(&mut self, top: &EntryPath, itself: bool) {
        let below = |path: &EntryPath| path.starts_with(top) && (itself || path != top);
        // A name of a file that goes leaves the other names: the first of them takes its place.
        let going: Vec<EntryPath> = self.0.keys().filter(|p| below(p)).cloned().collect();
        for path in going {
            self.take(&path);
        }
    }

    /// Removes one path, and lets the next name of the same file stand for it.
    fn take(&mut self, path: &EntryPath) {
        let Some(node) = self.0.remove(path) else { return };
        let twin = |line: &Line| matches!(line, Line::Hard(target) if target == path);
        let mut names: Vec<EntryPath> =
            self.0.iter().filter(|(_, n)| twin(&n.line)).map(|(p, _)| p.clone()).collect();
        if names.is_empty() {
            return;
        }
        let first = names.remove(0);
        self.0.insert(first.clone(), node);
        for name in names {
            if let Some(node) = self.0.get_mut(&name) {
                node.line = Line::Hard(first.clone());
            }
        }
    }

    fn put(&mut self, entry: &Entry, content: &[u8]) {
        if entry.path.is_root() {
            return;
        }
        let directory = entry.kind == Kind::Directory;
        let was_directory =
            matches!(self.0.get(&entry.path), Some(Node { line: Line::Own { directory: true, .. }, .. }));
        if !(directory && was_directory) {
            self.remove(&entry.path, true);
        }
        let line = match &entry.kind {
            Kind::HardLink { target } => {
                let target = match self.0.get(target) {
                    Some(Node { line: Line::Hard(first), .. }) => first.clone(),
                    _ => target.clone(),
                };
                Line::Hard(target)
            }
            _ => own(entry, content),
        };
        self.0.insert(entry.path.clone(), Node { line, mtime: entry.mtime.secs });
    }

    /// Returns a line, and the time, for every path that differs from `base`, in the order of paths.
    #[must_use]
    pub fn over(&self, base: &Self) -> Vec<(String, i64)> {
        let mut lines = BTreeMap::new();
        for path in base.0.keys().filter(|p| !self.0.contains_key(p)) {
            // Of a directory that went, the directory says enough.
            if path.parent().is_none_or(|p| p.is_root() || self.0.contains_key(&p)) {
                lines.insert(path, (format!("gone {}", name(path)), 0));
            }
        }
        for (path, node) in &self.0 {
            if base.0.get(path).map(|n| &n.line) != Some(&node.line) {
                lines.insert(path, (self.show(path, node), node.mtime));
            }
        }
        lines.into_values().collect()
    }

    /// Of the names of one file, the first in the order of paths has the line with content.
    fn show(&self, path: &EntryPath, node: &Node) -> String {
        let owner = if let Line::Hard(target) = &node.line { target } else { path };
        let twin = |(p, n): &(&EntryPath, &Node)| {
            *p == owner || matches!(&n.line, Line::Hard(target) if target == owner)
        };
        let first = self.0.iter().find(twin).map_or(path, |(p, _)| p);
        if first != path {
            return format!("hard {} = {}", name(path), name(first));
        }
        match self.0.get(owner).map(|n| &n.line) {
            Some(Line::Own { before, after, .. }) => format!("{before} {}{after}", name(path)),
            _ => format!("hard {} = {} which does not exist", name(path), name(owner)),
        }
    }
}

fn own(entry: &Entry, content: &[u8]) -> Line {
    let (kind, mut after) = match &entry.kind {
        Kind::File { size } => ("file", format!(" {}", shown(content, *size))),
        Kind::Directory => ("dir", String::new()),
        Kind::Symlink { target } => ("link", format!(" -> {}", String::from_utf8_lossy(target))),
        Kind::CharDevice { major, minor } => ("char", format!(" {major}:{minor}")),
        Kind::BlockDevice { major, minor } => ("block", format!(" {major}:{minor}")),
        Kind::Fifo => ("fifo", String::new()),
        Kind::HardLink { .. } => ("hard", String::new()),
    };
    for (name, value) in &entry.xattrs {
        let _ = write!(after, " {name}=0x");
        for byte in value {
            let _ = write!(after, "{byte:02x}");
        }
    }
    let before = format!("{kind} {:o} {}:{}", entry.mode, entry.uid, entry.gid);
    Line::Own { before, after, directory: entry.kind == Kind::Directory }
}

fn shown(content: &[u8], size: u64) -> String {
    match std::str::from_utf8(content) {
        Ok(text) if content.len() as u64 == size && content.len() <= SHOWN => quoted(text),
        _ => format!("size={size}"),
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Returns a path from the root, quoted where it has a blank.
fn name(path: &EntryPath) -> String {
    let text = format!("/{}", String::from_utf8_lossy(path.as_bytes()));
    if text.contains(char::is_whitespace) { quoted(&text) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> (Entry, Vec<u8>) {
        let kind = Kind::File { size: content.len() as u64 };
        (Entry::new(EntryPath::new(path).unwrap(), kind, 0o644), content.as_bytes().to_vec())
    }

    fn hard(path: &str, target: &str) -> (Entry, Vec<u8>) {
        let target = EntryPath::new(target).unwrap();
        (Entry::new(EntryPath::new(path).unwrap(), Kind::HardLink { target }, 0o644), Vec::new())
    }

    fn tree(layers: Vec<Vec<(Entry, Vec<u8>)>>) -> Tree {
        let mut tree = Tree::default();
        for entries in layers {
            tree.apply(&Listing { entries }).unwrap();
        }
        tree
    }

    fn check(base: &Tree, tree: &Tree, expect: &[&str]) {
        let lines: Vec<String> = tree.over(base).into_iter().map(|(line, _)| line).collect();
        assert_eq!(lines, expect);
    }

    #[test]
    fn only_what_differs_from_the_base_is_said() {
        let dir = (Entry::new(EntryPath::new("d").unwrap(), Kind::Directory, 0o755), Vec::new());
        let below = vec![dir.clone(), file("d/a", "a"), file("d/b", "b")];
        let base = tree(vec![below.clone()]);
        check(&base, &tree(vec![below.clone(), vec![dir.clone(), file("d/b", "b")]]), &[]);
        check(
            &base,
            &tree(vec![below.clone(), vec![file("d/.wh.a", ""), file("d/b", "new")]]),
            &["gone /d/a", "file 644 0:0 /d/b \"new\""],
        );
        check(&base, &tree(vec![below.clone(), vec![file(".wh.d", "")]]), &["gone /d"]);
        check(
            &base,
            &tree(vec![below, vec![file("d", "file")]]),
            &["file 644 0:0 /d \"file\"", "gone /d/a", "gone /d/b"],
        );
    }

    #[test]
    fn the_first_name_of_a_file_has_its_line() {
        let twice = vec![file("b", "x"), hard("a", "b"), hard("c", "a")];
        let empty = Tree::default();
        check(&empty, &tree(vec![twice.clone()]), &["file 644 0:0 /a \"x\"", "hard /b = /a", "hard /c = /a"]);
        let removed = tree(vec![twice, vec![file(".wh.b", "")]]);
        check(&empty, &removed, &["file 644 0:0 /a \"x\"", "hard /c = /a"]);
    }
}
