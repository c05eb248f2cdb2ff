//! A part of a view, entry by entry.

use kiln_oci::layer::{Entry, EntryPath};

use super::error::Result;
use super::view::{Node, View};

/// An entry that a walk came to.
#[derive(Debug, Clone)]
pub struct Visited {
    /// Path below where the walk started; the root path for the start itself.
    pub relative: EntryPath,
    /// Attributes; `entry.path` is the path in the view.
    pub entry: Entry,
    /// The file behind it, with the identity that tells hard links.
    pub node: Node,
}

/// Walks a view: parents before children, siblings sorted by name. Sockets are left out.
#[derive(Debug)]
pub struct Walk<'a> {
    view: &'a View,
    start: Option<Node>,
    /// Directories that are being listed, with the names still to come, last first.
    stack: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    node: Node,
    relative: EntryPath,
    names: Vec<Vec<u8>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(view: &'a View, start: Node) -> Self {
        Self { view, start: Some(start), stack: Vec::new() }
    }

    /// Leaves out what is below the directory that came last.
    pub fn skip_directory(&mut self) {
        self.stack.pop();
    }

    fn step(&mut self) -> Result<Option<Visited>> {
        loop {
            let (relative, node) = if let Some(start) = self.start.take() {
                (EntryPath::root(), Some(start))
            } else {
                let Some(level) = self.stack.last_mut() else { return Ok(None) };
                let Some(name) = level.names.pop() else {
                    self.stack.pop();
                    continue;
                };
                let node = self.view.find(&level.node.sources, &level.node.path.join(&name))?;
                (level.relative.join(&name), node)
            };
            let Some(node) = node else { continue };
            let Some(entry) = self.view.entry(&node)? else { continue };
            if node.is_directory() {
                let mut names = self.view.names(&node)?;
                names.reverse();
                self.stack.push(Level { node: node.clone(), relative: relative.clone(), names });
            }
            return Ok(Some(Visited { relative, entry, node }));
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Visited>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            // A walk that failed is over: going on would hide what is missing.
            self.stack.clear();
        }
        step
    }
}
