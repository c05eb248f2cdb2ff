//! What a COPY takes: operands resolved to roots of trees, and each root read as a sorted stream.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Read;
use std::sync::Arc;

use kiln_dockerfile::glob;
use kiln_dockerfile::ignore::{Ignore, IgnoreState};
use kiln_oci::Hasher;
use kiln_oci::layer::{EntryPath, Kind};

use super::tree::{Node, Tree, resolve};
use crate::error::{Cause, Error, Result};
use crate::graph::CopySource;

/// A tree with what is left out of it.
#[derive(Clone)]
pub(crate) struct SourceTree {
    /// The files.
    pub(crate) tree: Arc<dyn Tree>,
    /// The ignore file of a context.
    pub(crate) ignore: Option<Arc<Ignore>>,
    /// Its name, for messages.
    pub(crate) ignore_file: Option<String>,
    /// What the tree is, for messages: `the build context`, `stage build`.
    pub(crate) what: String,
}

/// One file or directory that an operand stands for.
#[derive(Clone)]
pub(crate) struct Selected {
    pub(crate) from: SourceTree,
    /// Where it is, symbolic links followed.
    pub(crate) path: EntryPath,
    /// Its name as the user wrote it, which a copied file keeps.
    pub(crate) name: Vec<u8>,
    pub(crate) node: Node,
}

/// Returns what the operand `source` stands for; a pattern may stand for nothing.
///
/// # Errors
/// When a plain path does not exist or is ignored.
pub(crate) fn select(from: &SourceTree, source: &CopySource) -> Result<Vec<Selected>> {
    let path = rooted(&source.path);
    let literal = !glob::has_wildcard(&source.path);
    let paths = if literal { vec![path] } else { expand(from, &path)? };
    let mut found = Vec::new();
    for path in paths {
        match select_one(from, &path)? {
            Some(selected) => found.push(selected),
            None if literal => return Err(missing(from, &path, source)),
            None => {}
        }
    }
    Ok(found)
}

/// Makes an operand a path below the root of its tree: `..` and leading slashes lead nowhere else.
fn rooted(operand: &str) -> EntryPath {
    let mut path = EntryPath::root();
    for part in operand.split('/') {
        match part {
            "" | "." => {}
            ".." => path = path.parent().unwrap_or_default(),
            part => path = path.join(part.as_bytes()),
        }
    }
    path
}

fn select_one(from: &SourceTree, path: &EntryPath) -> Result<Option<Selected>> {
    if from.excluded(path) && !from.may_hold_included(path) {
        return Ok(None);
    }
    let resolved = resolve(from.tree.as_ref(), path)?;
    let node = if resolved.is_root() { Some(root_node()) } else { from.tree.stat(&resolved)? };
    let Some(node) = node else { return Ok(None) };
    if from.excluded(path) && node.entry.kind != Kind::Directory {
        return Ok(None);
    }
    Ok(Some(Selected { from: from.clone(), name: path.name().to_vec(), path: resolved, node }))
}

fn root_node() -> Node {
    Node { entry: kiln_oci::layer::Entry::new(EntryPath::root(), Kind::Directory, 0o755), link: None }
}

/// Expands a pattern, component by component, in sorted order.
fn expand(from: &SourceTree, pattern: &EntryPath) -> Result<Vec<EntryPath>> {
    let mut found = vec![EntryPath::root()];
    for component in pattern.components() {
        let component = String::from_utf8_lossy(component).into_owned();
        let mut next = Vec::new();
        for dir in found {
            if !glob::has_wildcard(&component) {
                next.push(dir.join(component.as_bytes()));
                continue;
            }
            let resolved = resolve(from.tree.as_ref(), &dir)?;
            let is_dir = resolved.is_root()
                || from.tree.stat(&resolved)?.is_some_and(|n| n.entry.kind == Kind::Directory);
            if !is_dir {
                continue;
            }
            for name in from.tree.list(&resolved)? {
                if glob::matches(&component, &String::from_utf8_lossy(&name)).unwrap_or(false) {
                    next.push(dir.join(&name));
                }
            }
        }
        found = next;
    }
    Ok(found)
}

impl SourceTree {
    fn excluded(&self, path: &EntryPath) -> bool {
        let text = path.to_string();
        !path.is_root() && self.ignore.as_ref().is_some_and(|i| i.matches(&text).excluded)
    }

    fn may_hold_included(&self, path: &EntryPath) -> bool {
        self.ignore.as_ref().is_some_and(|i| i.may_reinclude_below(&path.to_string()))
    }
}

/// Explains why `path` cannot be copied: it is ignored, it has another name, or it is not there.
fn missing(from: &SourceTree, path: &EntryPath, source: &CopySource) -> Error {
    let error =
        Error::input(format!("{} cannot find `{}` in {}", source.instruction, source.path, from.what))
            .at(source.place.clone());
    let decision = from.ignore.as_ref().map(|i| i.matches(&path.to_string()));
    if let Some(pattern) = decision.as_ref().filter(|d| d.excluded).and_then(|d| d.pattern) {
        let file = from.ignore_file.as_deref().unwrap_or(".dockerignore");
        return error
            .because(Cause::new(format!("`{file}:{}` excludes `{}`", pattern.line, pattern.text)))
            .hint(format!("add `!{path}` to {file}"));
    }
    if let Ok(Some(Node { entry, .. })) = from.tree.stat(path)
        && let Kind::Symlink { target } = entry.kind
    {
        let target = String::from_utf8_lossy(&target).into_owned();
        return error
            .because(Cause::new(format!(
                "`{path}` is a symbolic link to `{target}`, which does not exist in {}",
                from.what
            )))
            .hint("links are followed inside of the context only; copy what it points to into the context");
    }
    let parent = path.parent().unwrap_or_default();
    let Ok(names) = from.tree.list(&parent) else {
        return error.because(Cause::new(format!("there is no directory `{parent}` in {}", from.what)));
    };
    let names: Vec<String> = names.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
    let candidates: Vec<&str> = names.iter().map(String::as_str).collect();
    let wanted = String::from_utf8_lossy(path.name()).into_owned();
    match kiln_dockerfile::suggest(&wanted, &candidates) {
        Some(near) => error.hint(format!("did you mean `{}`?", parent.join(near.as_bytes()))),
        None if candidates.is_empty() => {
            error.because(Cause::new(format!("`{parent}` of {} is empty", from.what)))
        }
        None => {
            let mut shown = candidates.iter().take(8).copied().collect::<Vec<_>>().join(", ");
            if candidates.len() > 8 {
                let _ = write!(shown, ", … ({} in all)", candidates.len());
            }
            error.hint(format!("`{parent}` has: {shown}"))
        }
    }
}

/// Reads everything below a directory, sorted, one directory's names in memory at a time.
pub(crate) struct Walk {
    from: SourceTree,
    exclude: Arc<Ignore>,
    top: EntryPath,
    stack: Vec<Level>,
}

struct Level {
    dir: EntryPath,
    names: VecDeque<Vec<u8>>,
    ignored: Option<IgnoreState>,
    excluded: IgnoreState,
}

impl Walk {
    /// Starts below the directory of `selected`; `exclude` holds patterns relative to it.
    pub(crate) fn new(selected: &Selected, exclude: Arc<Ignore>) -> Result<Self> {
        let mut state = selected.from.ignore.as_ref().map(|i| i.root());
        if let (Some(ignore), Some(root)) = (&selected.from.ignore, &state) {
            let mut at = EntryPath::root();
            let mut inner = root.clone();
            for component in selected.path.components() {
                at = at.join(component);
                inner = ignore.enter(&inner, &at.to_string()).1;
            }
            state = Some(inner);
        }
        let excluded = exclude.root();
        let names = selected.from.tree.list(&selected.path)?.into();
        let level = Level { dir: selected.path.clone(), names, ignored: state, excluded };
        Ok(Self { from: selected.from.clone(), exclude, top: selected.path.clone(), stack: vec![level] })
    }

    /// Returns the next entry, its path relative to the top.
    pub(crate) fn next(&mut self) -> Result<Option<(EntryPath, Node)>> {
        while let Some(level) = self.stack.last_mut() {
            let Some(name) = level.names.pop_front() else {
                self.stack.pop();
                continue;
            };
            let path = level.dir.join(&name);
            let Some(node) = self.from.tree.stat(&path)? else { continue };
            if let Some(found) = self.consider(path, node)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn consider(&mut self, path: EntryPath, node: Node) -> Result<Option<(EntryPath, Node)>> {
        let Some(level) = self.stack.last() else { return Ok(None) };
        let relative = self.relative(&path);
        let full = path.to_string();
        let is_dir = node.entry.kind == Kind::Directory;
        let mut out = false;
        let mut may_return = false;
        let mut ignored = None;
        if let (Some(ignore), Some(state)) = (&self.from.ignore, &level.ignored) {
            if is_dir {
                let (decision, inner) = ignore.enter(state, &full);
                out |= decision.excluded;
                may_return |= decision.excluded && ignore.may_reinclude_below(&full);
                ignored = Some(inner);
            } else {
                out |= ignore.decide(state, &full).excluded;
            }
        }
        let relative_text = relative.to_string();
        let excluded = if is_dir {
            let (decision, inner) = self.exclude.enter(&level.excluded, &relative_text);
            may_return = (may_return || !out)
                && (!decision.excluded || self.exclude.may_reinclude_below(&relative_text));
            out |= decision.excluded;
            inner
        } else {
            out |= self.exclude.decide(&level.excluded, &relative_text).excluded;
            level.excluded.clone()
        };
        if !is_dir {
            return Ok((!out).then_some((relative, node)));
        }
        if out && !may_return {
            return Ok(None);
        }
        let names = self.from.tree.list(&path)?.into();
        self.stack.push(Level { dir: path, names, ignored, excluded });
        // A directory that is left out, but may hold something that is not, is made with its files by whoever
        // writes the layer: as the parent of what is found in it.
        Ok((!out).then_some((relative, node)))
    }

    fn relative(&self, path: &EntryPath) -> EntryPath {
        let skip = self.top.components().count();
        path.components().skip(skip).fold(EntryPath::root(), |p, c| p.join(c))
    }
}

/// Hashes what a COPY would take from `selected`: paths, kinds, modes, owners, links and contents, but no times.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn digest(selected: &Selected, exclude: &Arc<Ignore>, hasher: &mut Hasher) -> Result<()> {
    hasher.field(&selected.name);
    digest_node(selected, &selected.path, &EntryPath::root(), &selected.node, hasher)?;
    if selected.node.entry.kind != Kind::Directory {
        return Ok(());
    }
    let mut walk = Walk::new(selected, Arc::clone(exclude))?;
    while let Some((relative, node)) = walk.next()? {
        let path = node.entry.path.clone();
        digest_node(selected, &path, &relative, &node, hasher)?;
    }
    Ok(())
}

fn digest_node(
    selected: &Selected,
    path: &EntryPath,
    relative: &EntryPath,
    node: &Node,
    hasher: &mut Hasher,
) -> Result<()> {
    let entry = &node.entry;
    hasher.field(relative.as_bytes());
    hasher.field(
        format!("{:?} {:o} {} {}", std::mem::discriminant(&entry.kind), entry.mode, entry.uid, entry.gid)
            .as_bytes(),
    );
    for (name, value) in &entry.xattrs {
        hasher.field(name.as_bytes());
        hasher.field(value);
    }
    match &entry.kind {
        Kind::File { size } => {
            hasher.field(&size.to_le_bytes());
            let mut file = selected.from.tree.open(path)?;
            let mut buf = vec![0; 128 << 10];
            loop {
                let n = file.read(&mut buf).map_err(|e| {
                    Error::input(format!("cannot read `{path}` in {}", selected.from.what)).because(e)
                })?;
                if n == 0 {
                    break;
                }
                hasher.update(&buf[..n]);
            }
        }
        Kind::Symlink { target } => hasher.field(target),
        Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } => {
            hasher.field(&major.to_le_bytes());
            hasher.field(&minor.to_le_bytes());
        }
        Kind::Directory | Kind::Fifo | Kind::HardLink { .. } => {}
    }
    Ok(())
}
