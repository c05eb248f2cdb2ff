//! The layer of a file operation: streams merged by path, parents added, attributes decided.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use kiln_oci::layer::{Entry, EntryPath, Kind, LayerWriter};

use super::dest::Destination;
use super::plan::{Attributes, Plan};
use super::proof::Packed;
use super::stream::{Content, Item, Role, Source, clamp};
use super::tree::{LATEST, Tree as _};
use crate::engine::Engine;
use crate::error::{Cause, Error, Result};

/// Writes the layer of `plan`; times later than the epoch become the epoch, those of a context always.
///
/// # Errors
/// When a source cannot be read or changes meanwhile, or the writer fails.
pub(crate) fn emit<W: Write>(
    plan: Plan,
    dest: &Destination,
    engine: &Engine,
    writer: &mut LayerWriter<W>,
) -> Result<()> {
    let mut sources = Vec::new();
    for stream in plan.streams {
        sources.extend(Source::open(stream, dest, engine)?);
    }
    let mut out = Emitter { dest, epoch: engine.epoch, writer, parents: Vec::new(), links: BTreeMap::new() };
    // The file that replaced a directory of an earlier stream, whose content is gone with it.
    let mut covered: Option<(EntryPath, usize)> = None;
    loop {
        engine.cancel.check()?;
        let Some(path) = sources.iter().filter_map(|s| s.head.as_ref()).map(|i| &i.entry.path).min().cloned()
        else {
            return sources.iter_mut().try_for_each(Source::end);
        };
        let mut chosen: Option<(usize, Item)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            if source.head.as_ref().is_none_or(|i| i.entry.path != path) {
                continue;
            }
            let Some(item) = source.take()? else { continue };
            if covered
                .as_ref()
                .is_some_and(|(file, by)| index < *by && path != *file && path.starts_with(file))
            {
                continue;
            }
            chosen = Some(match chosen.take() {
                None => (index, item),
                Some((first, earlier)) => {
                    if source.replaces && is_directory(&earlier) && !is_directory(&item) {
                        covered = Some((path.clone(), index));
                    }
                    pick((first, earlier), (index, item), source.replaces)?
                }
            });
        }
        if let Some((index, item)) = chosen {
            out.item(index, item, &mut sources[index])?;
        }
    }
}

fn is_directory(item: &Item) -> bool {
    item.entry.kind == Kind::Directory
}

/// Of two entries for one path the later wins, but a directory that is only filled keeps what it has.
fn pick(mut earlier: (usize, Item), later: (usize, Item), replaces: bool) -> Result<(usize, Item)> {
    let roles = (earlier.1.role, later.1.role);
    match (is_directory(&earlier.1), is_directory(&later.1)) {
        (true, true) if matches!(roles.1, Role::Filled | Role::Implied) => Ok(earlier),
        (true, true) if matches!(roles, (Role::OnTheWay | Role::OnTheWayAgain, Role::OnTheWay)) => {
            earlier.1.entry.mode = later.1.entry.mode;
            earlier.1.role = Role::OnTheWayAgain;
            Ok(earlier)
        }
        (true, true) | (false, false) => Ok(later),
        _ if replaces => Ok(later),
        (true, false) => Err(no_file(&later.1.entry.path)),
        (false, true) => Err(no_directory(&later.1.entry.path)),
    }
}

fn no_file(path: &EntryPath) -> Error {
    Error::input(format!("cannot replace the directory `/{path}` by a file"))
}

fn no_directory(path: &EntryPath) -> Error {
    Error::input(format!("cannot copy to non-directory `/{path}`"))
}

struct Emitter<'a, W: Write> {
    dest: &'a Destination,
    epoch: i64,
    writer: &'a mut LayerWriter<W>,
    /// Directories on the way to the entry written last, and whether the destination has them.
    parents: Vec<(EntryPath, bool)>,
    /// Where the first name of a file with several went.
    links: BTreeMap<(usize, (u64, u64)), EntryPath>,
}

impl<W: Write> Emitter<'_, W> {
    fn item(&mut self, stream: usize, item: Item, source: &mut Source) -> Result<()> {
        let (attributes, replaces) = (&source.attributes, source.replaces);
        let Item { mut entry, content, link, role } = item;
        let in_dest = self.parents(&entry.path, attributes)?;
        let existing = if in_dest { self.dest.stat(&entry.path)? } else { None };
        let is_dir = entry.kind == Kind::Directory;
        let there = existing.map(|n| n.entry);
        let dir_there = there.clone().filter(|there| there.kind == Kind::Directory);
        if !replaces && there.is_some() && is_dir != dir_there.is_some() {
            return Err(if is_dir { no_directory(&entry.path) } else { no_file(&entry.path) });
        }
        if is_dir {
            self.parents.push((entry.path.clone(), dir_there.is_some()));
        }
        entry = settle(entry, role, dir_there.filter(|_| is_dir), attributes);
        clamp(&mut entry, self.epoch);
        if let Some(first) = link.and_then(|id| self.links.get(&(stream, id))) {
            entry.kind = Kind::HardLink { target: first.clone() };
            entry.xattrs.clear();
            return self.write(&entry, None);
        }
        if let Some(id) = link {
            self.links.insert((stream, id), entry.path.clone());
        }
        match content {
            Content::None => self.write(&entry, None),
            Content::Bytes(bytes) => self.write(&entry, Some(&mut bytes.as_slice())),
            Content::File(from, path) => {
                let mut file = Packed::open(&from, &path, source.proof.as_mut())?;
                self.write(&entry, Some(&mut file))?;
                file.end()
            }
        }
    }

    /// Writes the directories above `path` that were not written yet; tells whether the destination has the last.
    fn parents(&mut self, path: &EntryPath, attributes: &Attributes) -> Result<bool> {
        while self.parents.last().is_some_and(|(dir, _)| !path.starts_with(dir)) {
            self.parents.pop();
        }
        let (mut at, mut in_dest) = self.parents.last().cloned().unwrap_or((EntryPath::root(), true));
        let written = at.components().count();
        let Some(parent) = path.parent() else { return Ok(true) };
        for name in parent.components().skip(written) {
            at = at.join(name);
            let there = if in_dest { self.dest.stat(&at)? } else { None };
            in_dest = there.is_some();
            let mut entry = match there.map(|n| n.entry) {
                Some(entry) if entry.kind == Kind::Directory => entry,
                Some(_) => return Err(no_directory(&at)),
                None => {
                    let entry = Entry { mtime: LATEST, ..Entry::new(at.clone(), Kind::Directory, 0o755) };
                    settle(entry, Role::Filled, None, attributes)
                }
            };
            clamp(&mut entry, self.epoch);
            self.write(&entry, None)?;
            self.parents.push((at.clone(), in_dest));
        }
        Ok(in_dest)
    }

    fn write(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<()> {
        if let Some(why) = entry.path.unfit() {
            return Err(Error::input(format!("cannot write `/{}` into the layer", entry.path))
                .because(Cause::new(why))
                .hint("leave it out with `--exclude` or in .dockerignore, or give it another name"));
        }
        let failed = |e| Error::layer(format!("cannot write `/{}` into the layer", entry.path), e);
        self.writer.append(entry, content).map_err(failed)
    }
}

/// Decides the attributes of an entry; `there` is the directory that it merges with.
fn settle(mut entry: Entry, role: Role, there: Option<Entry>, attributes: &Attributes) -> Entry {
    if let Some(mut there) = there {
        match role {
            Role::Copied => {}
            Role::Filled | Role::Implied => return there,
            Role::OnTheWay | Role::OnTheWayAgain => {
                there.mode = entry.mode;
                return there;
            }
        }
    }
    if role == Role::Implied {
        return entry;
    }
    if let Some((uid, gid)) = attributes.owner {
        (entry.uid, entry.gid) = (uid, gid);
    }
    match &attributes.mode {
        Some(mode) if role == Role::Filled => entry.mode = mode.of_made_directory(),
        Some(_) if role == Role::OnTheWayAgain || matches!(entry.kind, Kind::Symlink { .. }) => {}
        Some(mode) => {
            entry.mode = mode.apply(entry.mode, entry.kind == Kind::Directory);
        }
        None => {}
    }
    entry
}
