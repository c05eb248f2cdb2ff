//! Everything below a directory that a COPY takes, as a sorted stream.

use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use kiln_dockerfile::ignore::{Ignore, IgnoreState};
use kiln_oci::layer::{EntryPath, Kind};
use kiln_sandbox::rootdir::Names;

use super::select::{Selected, SourceTree};
use super::tree::{Folder, Node};
use crate::error::{Error, Result};

/// Directories that are kept open at once, of those that the walk is in; a process may open 1024 files or so.
const OPEN_FOLDERS: usize = 64;

/// Why an entry is in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// It is copied.
    Chosen,
    /// It is a directory that is not copied itself, with something in it that is.
    OnTheWay,
}

/// One entry of the stream.
pub(super) struct Found {
    /// Path below the top.
    pub(super) relative: EntryPath,
    pub(super) node: Node,
    pub(super) reason: Reason,
}

/// Reads everything below a directory, sorted, one directory's names in memory at a time.
pub(super) struct Walk {
    from: SourceTree,
    /// Patterns of what is left out, relative to the top.
    exclude: Arc<Ignore>,
    /// Patterns of what is taken, relative to the top; without it everything is.
    include: Option<Arc<Ignore>>,
    /// Paths that are passed over with all below them.
    skip: BTreeSet<EntryPath>,
    top: EntryPath,
    stack: Vec<Level>,
    ready: VecDeque<Found>,
}

struct Level {
    dir: EntryPath,
    names: Names,
    next: usize,
    /// The directory itself, where it can be kept open.
    folder: Option<Box<dyn Folder>>,
    ignored: Option<IgnoreState>,
    excluded: IgnoreState,
    included: Option<IgnoreState>,
    /// The directory itself, as long as nothing below it was found.
    waiting: Option<Found>,
}

/// What the patterns say about one entry.
struct Verdict {
    /// Whether the ignore file of the context leaves it out.
    ignored: bool,
    /// Whether the flags of the instruction take it.
    wanted: bool,
    /// For a directory, whether something below it may be taken, with what its children need to know.
    below: Option<Level>,
}

impl Walk {
    /// Starts below the directory of `selected`; `exclude` holds patterns relative to it.
    pub(super) fn new(selected: &Selected, exclude: Arc<Ignore>) -> Result<Self> {
        let mut ignored = selected.from.ignore.as_ref().map(|i| i.root());
        if let (Some(ignore), Some(state)) = (&selected.from.ignore, &mut ignored) {
            let mut at = EntryPath::root();
            for component in selected.path.components() {
                at = at.join(component);
                *state = ignore.enter(state, &at.to_string()).1;
            }
        }
        let (folder, names) = open(&selected.from, None, &selected.path)?;
        let level = Level {
            dir: selected.path.clone(),
            names,
            next: 0,
            folder,
            ignored,
            excluded: exclude.root(),
            included: selected.include.as_ref().map(|i| i.root()),
            waiting: None,
        };
        Ok(Self {
            from: selected.from.clone(),
            exclude,
            include: selected.include.clone(),
            skip: BTreeSet::new(),
            top: selected.path.clone(),
            stack: vec![level],
            ready: VecDeque::new(),
        })
    }

    /// Passes over these paths of the tree, and all below them.
    pub(super) fn without(mut self, skip: BTreeSet<EntryPath>) -> Self {
        self.skip = skip;
        self
    }

    /// Returns the next entry.
    pub(super) fn next(&mut self) -> Result<Option<Found>> {
        self.next_noting(&mut |_| {})
    }

    /// Returns the next entry, and tells of every path before it that is passed over, with all below it.
    pub(super) fn next_noting(&mut self, passed: &mut dyn FnMut(&EntryPath)) -> Result<Option<Found>> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(level) = self.stack.last_mut() else { return Ok(None) };
            let Some(name) = level.names.get(level.next) else {
                self.stack.pop();
                continue;
            };
            level.next += 1;
            let path = level.dir.join(name);
            if self.skip.contains(&path) {
                continue;
            }
            let node = match &level.folder {
                Some(folder) => folder.stat(name, path)?,
                None => self.from.tree.stat(&path)?,
            };
            if let Some(node) = node {
                self.consider(node, passed)?;
            }
        }
    }

    /// Decides about one entry, and goes into it if it is a directory.
    fn consider(&mut self, node: Node, passed: &mut dyn FnMut(&EntryPath)) -> Result<()> {
        let relative = node.entry.path.below(&self.top).unwrap_or_default();
        let is_directory = node.entry.kind == Kind::Directory;
        let Some(verdict) = self.judge(&node.entry.path, &relative, is_directory) else { return Ok(()) };
        let reason = if verdict.wanted { Reason::Chosen } else { Reason::OnTheWay };
        let chosen = verdict.wanted && !verdict.ignored;
        if if is_directory { verdict.below.is_none() } else { !chosen } {
            passed(&node.entry.path);
        }
        let below = verdict.below.map(|level| self.enter(level, &node.entry.path)).transpose()?;
        let found = Found { relative, node, reason };
        let mut waiting = None;
        if chosen {
            self.ready.extend(self.stack.iter_mut().filter_map(|level| level.waiting.take()));
            self.ready.push_back(found);
        } else {
            // Made with the first thing in it that is copied, or not at all.
            waiting = Some(found);
        }
        if let Some(level) = below {
            self.stack.push(Level { waiting, ..level });
        }
        Ok(())
    }

    /// Opens the directory `path`, which is in the one that the walk is in.
    fn enter(&mut self, level: Level, path: &EntryPath) -> Result<Level> {
        let above = self.stack.last().and_then(|level| level.folder.as_deref());
        let (folder, names) = open(&self.from, above, path)?;
        // A directory far above is looked into by its path when the walk comes back to it.
        if let Some(far) = self.stack.len().checked_sub(OPEN_FOLDERS) {
            self.stack[far].folder = None;
        }
        Ok(Level { folder, names, ..level })
    }

    fn judge(&self, path: &EntryPath, relative: &EntryPath, is_directory: bool) -> Option<Verdict> {
        let level = self.stack.last()?;
        let (full, relative) = (text(path), text(relative));
        if !is_directory {
            let out = |ignore: &Ignore, state, path| ignore.decide(state, path).excluded;
            let ignored = match (&self.from.ignore, &level.ignored) {
                (Some(ignore), Some(state)) => out(ignore, state, &full),
                _ => false,
            };
            let included = match (&self.include, &level.included) {
                (Some(include), Some(state)) => out(include, state, &relative),
                _ => true,
            };
            let wanted = included && !out(&self.exclude, &level.excluded, &relative);
            return Some(Verdict { ignored, wanted, below: None });
        }
        let (mut is_ignored, mut ignored, mut deeper) = (false, None, true);
        if let (Some(ignore), Some(state)) = (&self.from.ignore, &level.ignored) {
            let (decision, inner) = ignore.enter(state, &full);
            is_ignored = decision.excluded;
            deeper &= !is_ignored || ignore.may_reinclude_below(decision, &full);
            ignored = Some(inner);
        }
        let (decision, excluded) = self.exclude.enter(&level.excluded, &relative);
        let mut wanted = !decision.excluded;
        deeper &= wanted || self.exclude.may_reinclude_below(decision, &relative);
        let mut included = None;
        if let (Some(include), Some(state)) = (&self.include, &level.included) {
            let (decision, inner) = include.enter(state, &relative);
            deeper &= decision.excluded || include.may_match_below(&relative);
            wanted &= decision.excluded;
            included = Some(inner);
        }
        let below = deeper.then(|| Level {
            dir: path.clone(),
            names: Names::default(),
            next: 0,
            folder: None,
            ignored,
            excluded,
            included,
            waiting: None,
        });
        Some(Verdict { ignored: is_ignored, wanted, below })
    }
}

/// Opens a directory of a tree, through the open one that holds it if there is one, and lists it.
fn open(
    from: &SourceTree,
    above: Option<&dyn Folder>,
    path: &EntryPath,
) -> Result<(Option<Box<dyn Folder>>, Names)> {
    let folder = match above {
        Some(above) => Some(above.folder(path.name())?),
        None => from.tree.folder(path)?,
    };
    if let Some(folder) = folder {
        let names = folder.names()?;
        return Ok((Some(folder), names));
    }
    let list = from.tree.list(path)?;
    let names = Names::of(list.iter().map(Vec::as_slice));
    let names = names.ok_or_else(|| Error::input(format!("`{path}` of {} has too many names", from.what)))?;
    Ok((None, names))
}

/// Returns a path as patterns see it.
fn text(path: &EntryPath) -> Cow<'_, str> {
    if path.is_root() { Cow::Borrowed(".") } else { String::from_utf8_lossy(path.as_bytes()) }
}
