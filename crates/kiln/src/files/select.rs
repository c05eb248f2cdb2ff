//! What the operands of a COPY stand for: files and roots of trees.

use std::fmt::Write as _;
use std::sync::Arc;

use kiln_dockerfile::glob::{self, Glob};
use kiln_dockerfile::ignore::{Ignore, clean_path};
use kiln_oci::layer::{EntryPath, Kind};

use super::proof::changed;
use super::shape;
use super::tree::{Node, Tree, resolve};
use super::walk::Walk;
use crate::error::{Cause, Error, Result};
use crate::graph::{CopySource, Layout};

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
    /// Patterns of what is taken from a directory; without it everything is.
    pub(crate) include: Option<Arc<Ignore>>,
}

/// Returns what the operand `source` stands for; a pattern may stand for nothing.
///
/// # Errors
/// When a plain path does not exist or is ignored.
pub(crate) fn select(from: &SourceTree, source: &CopySource, layout: Layout) -> Result<Vec<Selected>> {
    let found = match layout {
        Layout::Flat => select_paths(from, &source.path, source),
        Layout::Parents => select_parents(from, source),
    }?;
    if let Some(index) = from.tree.index() {
        // The key asks first, and packing has to get the same answer.
        let (operand, list) = shape::operand(source, layout, &found);
        index.saw(operand, list);
        if !index.is_as_seen(operand, list) {
            return Err(changed(&from.what).at(source.place.clone()));
        }
    }
    Ok(found)
}

/// Returns what the path `source` stands for, which is no pattern here.
///
/// # Errors
/// When it does not exist or is ignored.
pub(crate) fn select_path(from: &SourceTree, source: &CopySource) -> Result<Selected> {
    let path = rooted(&source.path);
    select_one(from, &path)?.ok_or_else(|| missing(from, &path, source))
}

/// Returns what `operand`, a path or a pattern, stands for.
fn select_paths(from: &SourceTree, operand: &str, source: &CopySource) -> Result<Vec<Selected>> {
    let path = rooted(operand);
    let literal = !glob::has_wildcard(operand);
    let paths = if literal { vec![path] } else { expand(from, &path, source)? };
    let mut found = Vec::new();
    for path in paths {
        match select_one(from, &path)? {
            Some(selected) => found.push(selected),
            None if literal || from.is_link(&path)? => return Err(missing(from, &path, source)),
            None => {}
        }
    }
    Ok(found)
}

/// Returns the directories that `--parents` copies out of, each with the pattern of what it takes from there.
fn select_parents(from: &SourceTree, source: &CopySource) -> Result<Vec<Selected>> {
    let (top, pattern) = source.path.split_once("/./").unwrap_or(("/", &source.path));
    let pattern = clean_path(&format!("/{pattern}"));
    let pattern = pattern.trim_start_matches('/');
    let include = (!pattern.is_empty()).then(|| Ignore::from_patterns([pattern])).transpose();
    let include = include
        .map_err(|e| Error::input(format!("bad pattern `{}`: {e}", source.path)).at(source.place.clone()))?
        .map(Arc::new);
    let mut found = Vec::new();
    for selected in select_paths(from, top, source)? {
        if selected.node.entry.kind == Kind::Directory {
            found.push(Selected { include: include.clone(), ..selected });
        }
    }
    if glob::has_wildcard(&source.path) {
        return Ok(found);
    }
    for selected in &found {
        let path = rooted(pattern).components().fold(selected.path.clone(), |path, name| path.join(name));
        if !exists_below(from, &selected.path, &path)? {
            return Err(missing(from, &path, source));
        }
    }
    if found.is_empty() { Err(missing(from, &rooted(top), source)) } else { Ok(found) }
}

/// Tells whether `path` is there and not ignored, without a link on the way from `top` to it: the walk follows none.
fn exists_below(from: &SourceTree, top: &EntryPath, path: &EntryPath) -> Result<bool> {
    let mut at = path.parent();
    while let Some(dir) = at.filter(|dir| dir != top && dir.starts_with(top)) {
        if from.tree.stat(&dir)?.is_none_or(|n| n.entry.kind != Kind::Directory) {
            return Ok(false);
        }
        at = dir.parent();
    }
    let there = path == top || from.tree.stat(path)?.is_some();
    Ok(there && (!from.excluded(path) || from.may_hold_included(path)))
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
    let gone = |path: &EntryPath| from.excluded(path) && !from.may_hold_included(path);
    if gone(path) {
        return Ok(None);
    }
    let resolved = resolve(from.tree.as_ref(), path)?;
    if gone(&resolved) {
        return Ok(None);
    }
    let node = if resolved.is_root() { Some(root_node()) } else { from.tree.stat(&resolved)? };
    let Some(node) = node else { return Ok(None) };
    let is_directory = node.entry.kind == Kind::Directory;
    let excluded = from.excluded(path) || from.excluded(&resolved);
    let name = path.name().to_vec();
    let selected = Selected { from: from.clone(), name, path: resolved, node, include: None };
    // An ignored directory is there for what the ignore file takes in again below it.
    let empty = || Ok::<_, Error>(Walk::new(&selected, Arc::default())?.next()?.is_none());
    if excluded && (!is_directory || empty()?) {
        return Ok(None);
    }
    Ok(Some(selected))
}

fn root_node() -> Node {
    Node::new(kiln_oci::layer::Entry::new(EntryPath::root(), Kind::Directory, 0o755))
}

/// Expands a pattern in sorted order. Links are followed before the first wildcard, and none behind it.
fn expand(from: &SourceTree, pattern: &EntryPath, source: &CopySource) -> Result<Vec<EntryPath>> {
    let components: Vec<String> =
        pattern.components().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    let plain = components.iter().take_while(|c| !glob::has_wildcard(c)).count();
    let patterns: Vec<Glob> = components
        .iter()
        .skip(plain)
        .map(|component| Glob::new(component))
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::input(format!("bad pattern `{}`: {e}", source.path)).at(source.place.clone()))?;
    let base = components.iter().take(plain).fold(EntryPath::root(), |path, c| path.join(c.as_bytes()));
    let resolved = resolve(from.tree.as_ref(), &base)?;
    let gone = from.excluded(&base) && !from.may_hold_included(&base);
    if gone || (!resolved.is_root() && from.tree.stat(&resolved)?.is_none()) {
        return Err(missing(from, &base, source));
    }
    let mut found = vec![resolved];
    for pattern in &patterns {
        let mut next = Vec::new();
        for dir in found {
            let is_directory = |node: Node| node.entry.kind == Kind::Directory;
            if !dir.is_root() && !from.tree.stat(&dir)?.is_some_and(is_directory) {
                continue;
            }
            for name in from.tree.list(&dir)? {
                if pattern.matches(&String::from_utf8_lossy(&name)) {
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
        let text = path.to_string();
        self.ignore.as_ref().is_some_and(|i| i.may_reinclude_below(i.matches(&text), &text))
    }

    /// Tells whether `path` is a symbolic link that is not ignored itself.
    fn is_link(&self, path: &EntryPath) -> Result<bool> {
        let node = self.tree.stat(path)?;
        let is_link = node.is_some_and(|n| matches!(n.entry.kind, Kind::Symlink { .. }));
        Ok(is_link && !self.excluded(path))
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
