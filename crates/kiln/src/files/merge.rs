//! The layer of a file operation: destinations decided, streams merged, parents added.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::{Entry, EntryPath, Kind, LayerWriter, Timestamp};

use super::dest::Destination;
use super::source::{Selected, SourceTree, Walk, select};
use super::tree::{Node, Tree as _, resolve};
use super::users::{Accounts, is_numeric};
use crate::error::{Error, Result};
use crate::graph::{CopyAction, FileAction, FileOp};

/// What a file operation writes, decided but not read yet.
pub(crate) struct Plan {
    streams: Vec<Stream>,
}

/// One source on its way to one destination.
struct Stream {
    dest: EntryPath,
    what: What,
    attributes: Attributes,
}

enum What {
    /// The content of a directory.
    Directory(Box<Selected>, Arc<Ignore>),
    /// One file, link or special file.
    File(Box<Selected>),
    /// A file with this content.
    Content(Vec<u8>),
    /// An empty directory.
    MakeDir,
}

/// What `--chown` and `--chmod` say.
#[derive(Debug, Clone, Copy, Default)]
struct Attributes {
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
}

/// One entry that a stream wants to write.
struct Item {
    entry: Entry,
    content: Content,
    /// Equal for the names of one file.
    link: Option<(u64, u64)>,
    /// The directory that a stream fills: it keeps its attributes if it exists.
    top: bool,
}

enum Content {
    None,
    File(SourceTree, EntryPath),
    Bytes(Vec<u8>),
}

impl Plan {
    /// Decides where everything goes. When `dest` then needs files, the plan was a guess: make it again with files.
    ///
    /// # Errors
    /// When a source does not exist or a destination is in the way.
    pub(crate) fn new(
        op: &FileOp,
        sources: &dyn Fn(&CopyAction) -> Result<SourceTree>,
        dest: &Destination,
    ) -> Result<Self> {
        let mut plan = Self { streams: Vec::new() };
        let mut made = BTreeSet::new();
        for action in &op.actions {
            match action {
                FileAction::Copy(copy) => plan.copy(copy, &sources(copy)?, dest, &mut made)?,
                FileAction::Write { name, content, dest: to, chown, chmod } => {
                    let attributes = attributes(dest, chown.as_deref(), *chmod)?;
                    let path = file_path(dest, to, name.as_bytes(), &made)?;
                    plan.streams.push(Stream {
                        dest: path,
                        what: What::Content(content.clone()),
                        attributes,
                    });
                }
                FileAction::MakeDir { path, user } => {
                    let attributes =
                        attributes(dest, Some(user).filter(|u| !u.is_empty()).map(String::as_str), None)?;
                    let path = resolve(dest, &absolute(path)?)?;
                    let exists = dest.stat(&path)?;
                    match exists.map(|n| n.entry.kind) {
                        Some(Kind::Directory) => {}
                        Some(_) => return Err(Error::input(format!("`/{path}` is not a directory"))),
                        None => plan.streams.push(Stream { dest: path, what: What::MakeDir, attributes }),
                    }
                }
            }
        }
        Ok(plan)
    }

    fn copy(
        &mut self,
        copy: &CopyAction,
        from: &SourceTree,
        dest: &Destination,
        made: &mut BTreeSet<EntryPath>,
    ) -> Result<()> {
        let attributes = attributes(dest, copy.chown.as_deref(), copy.chmod)?;
        let exclude = Ignore::from_patterns(copy.exclude.iter().map(String::as_str))
            .map_err(|e| Error::input(format!("bad pattern in `--exclude`: {e}")))?;
        let exclude = Arc::new(exclude);
        for source in &copy.sources {
            for selected in select(from, source)? {
                if selected.node.entry.kind != Kind::Directory {
                    refuse_archive(copy, &selected)?;
                    let path = file_path(dest, &copy.dest, &selected.name, made)?;
                    self.streams.push(Stream {
                        dest: path,
                        what: What::File(Box::new(selected)),
                        attributes,
                    });
                    continue;
                }
                let path = resolve(dest, &absolute(&copy.dest)?)?;
                match dest.stat(&path)?.map(|n| n.entry.kind) {
                    // Its content merges with what is there, and of that nothing is known yet.
                    Some(Kind::Directory) if dest.is_assumed(&path) => dest.require_files(),
                    Some(Kind::Directory) | None => {}
                    Some(_) if path.is_root() => {}
                    Some(_) => {
                        return Err(Error::input(format!("cannot copy to non-directory `/{path}`"))
                            .at(source.place.clone())
                            .hint("a directory's content can only go into a directory"));
                    }
                }
                made.insert(path.clone());
                let what = What::Directory(Box::new(selected), Arc::clone(&exclude));
                self.streams.push(Stream { dest: path, what, attributes });
            }
        }
        Ok(())
    }
}

/// Archives are unpacked by ADD, which this version cannot do; copying one as it is would be wrong in silence.
fn refuse_archive(copy: &CopyAction, selected: &Selected) -> Result<()> {
    if !copy.unpack || !matches!(selected.node.entry.kind, Kind::File { .. }) {
        return Ok(());
    }
    let mut head = Vec::new();
    let read = selected.from.tree.open(&selected.path)?.take(512).read_to_end(&mut head);
    read.map_err(|e| Error::input(format!("cannot read `{}`", selected.path)).because(e))?;
    if crate::context::is_archive(&head) {
        return Err(Error::input(format!(
            "ADD of the archive `{}` is not supported by this version of kiln",
            selected.path
        ))
        .hint("write `COPY` to keep the archive as it is, or unpack it in a RUN"));
    }
    Ok(())
}

fn absolute(path: &str) -> Result<EntryPath> {
    EntryPath::rooted(path).map_err(|e| Error::input(format!("`{path}` cannot be a destination")).because(e))
}

/// Decides the path of one file: below the destination when that is a directory, else the destination itself.
fn file_path(dest: &Destination, to: &str, name: &[u8], made: &BTreeSet<EntryPath>) -> Result<EntryPath> {
    let path = resolve(dest, &absolute(to)?)?;
    let kind = dest.stat(&path)?.map(|n| n.entry.kind);
    let is_dir = to.ends_with('/') || path.is_root() || kind == Some(Kind::Directory) || made.contains(&path);
    if !is_dir {
        return Ok(path);
    }
    if kind.is_some_and(|k| k != Kind::Directory) && !path.is_root() {
        return Err(Error::input(format!("cannot copy into `/{path}`: it is not a directory")));
    }
    let path = path.join(name);
    match dest.stat(&path)?.map(|n| n.entry.kind) {
        Some(Kind::Directory) => {
            Err(Error::input(format!("cannot replace the directory `/{path}` by a file")))
        }
        _ => Ok(path),
    }
}

fn attributes(dest: &Destination, chown: Option<&str>, mode: Option<u32>) -> Result<Attributes> {
    let Some(user) = chown else { return Ok(Attributes { owner: None, mode }) };
    let accounts = match dest {
        Destination::Exact(tree) if !is_numeric(user) => Accounts::read(tree.as_ref())?,
        Destination::Lazy { .. } if !is_numeric(user) => {
            dest.require_files();
            if dest.needs_files() {
                return Ok(Attributes { owner: Some((0, 0)), mode });
            }
            Accounts::default()
        }
        _ => Accounts::default(),
    };
    Ok(Attributes { owner: Some(accounts.owner(user)?), mode })
}

/// Writes the layer of `plan`; times later than `epoch` become `epoch`, those of a context always.
///
/// # Errors
/// When a source cannot be read or changes meanwhile, or the writer fails.
pub(crate) fn emit<W: Write>(
    plan: Plan,
    dest: &Destination,
    epoch: i64,
    check: &dyn Fn() -> Result<()>,
    writer: &mut LayerWriter<W>,
) -> Result<()> {
    let mut sources = Vec::new();
    for stream in plan.streams {
        sources.push(Source::open(stream)?);
    }
    let mut out = Emitter { dest, epoch, writer, parents: Vec::new(), links: BTreeMap::new() };
    loop {
        check()?;
        let Some(path) = sources.iter().filter_map(|s| s.head.as_ref()).map(|i| &i.entry.path).min().cloned()
        else {
            return Ok(());
        };
        let mut chosen: Option<(usize, Item)> = None;
        for (index, source) in sources.iter_mut().enumerate() {
            if source.head.as_ref().is_none_or(|i| i.entry.path != path) {
                continue;
            }
            let Some(item) = source.take()? else { continue };
            chosen = Some(match chosen.take() {
                None => (index, item),
                Some((first, earlier)) => pick(first, earlier, index, item)?,
            });
        }
        if let Some((index, item)) = chosen {
            let attributes = sources[index].attributes;
            out.item(index, item, attributes)?;
        }
    }
}

/// Of two entries for one path the later wins, but a directory that is only filled keeps what it has.
fn pick(first: usize, earlier: Item, second: usize, later: Item) -> Result<(usize, Item)> {
    let dirs = (earlier.entry.kind == Kind::Directory, later.entry.kind == Kind::Directory);
    match dirs {
        (true, true) if later.top => Ok((first, earlier)),
        (true, true) | (false, false) => Ok((second, later)),
        (true, false) => {
            Err(Error::input(format!("cannot replace the directory `/{}` by a file", later.entry.path)))
        }
        (false, true) => Err(Error::input(format!("cannot copy to non-directory `/{}`", later.entry.path))),
    }
}

/// A stream being read.
struct Source {
    dest: EntryPath,
    attributes: Attributes,
    walk: Option<Walk>,
    from: Option<SourceTree>,
    head: Option<Item>,
}

impl Source {
    fn open(stream: Stream) -> Result<Self> {
        let Stream { dest, what, attributes } = stream;
        let mut source = Self { dest: dest.clone(), attributes, walk: None, from: None, head: None };
        let directory = |top| Item {
            entry: Entry::new(dest.clone(), Kind::Directory, 0o755),
            content: Content::None,
            link: None,
            top,
        };
        match what {
            What::MakeDir => source.head = Some(directory(true)),
            What::Content(bytes) => {
                let kind = Kind::File { size: bytes.len() as u64 };
                let entry = Entry::new(dest, kind, 0o644);
                source.head = Some(Item { entry, content: Content::Bytes(bytes), link: None, top: false });
            }
            What::File(selected) => {
                let Selected { from, path, node, .. } = *selected;
                source.head = Some(item(dest, &from, path, node));
            }
            What::Directory(selected, exclude) => {
                source.walk = Some(Walk::new(&selected, exclude)?);
                source.from = Some(selected.from.clone());
                source.head = Some(directory(true));
                if source.dest.is_root() {
                    source.advance()?;
                }
            }
        }
        Ok(source)
    }

    fn take(&mut self) -> Result<Option<Item>> {
        let item = self.head.take();
        self.advance()?;
        Ok(item)
    }

    fn advance(&mut self) -> Result<()> {
        self.head = None;
        let (Some(walk), Some(from)) = (&mut self.walk, &self.from) else { return Ok(()) };
        if let Some((relative, node)) = walk.next()? {
            let dest = relative.components().fold(self.dest.clone(), |path, name| path.join(name));
            let path = node.entry.path.clone();
            self.head = Some(item(dest, from, path, node));
        }
        Ok(())
    }
}

fn item(dest: EntryPath, from: &SourceTree, path: EntryPath, node: Node) -> Item {
    let content = match node.entry.kind {
        Kind::File { .. } => Content::File(from.clone(), path),
        _ => Content::None,
    };
    let mut entry = node.entry;
    entry.path = dest;
    if from.ignore.is_some() {
        // Times of a context depend on who checked it out when; they are no input of a build.
        entry.mtime = Timestamp::from_secs(i64::MAX);
    }
    Item { entry, content, link: node.link, top: false }
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
    fn item(&mut self, stream: usize, item: Item, attributes: Attributes) -> Result<()> {
        let Item { mut entry, content, link, top } = item;
        let in_dest = self.parents(&entry.path, attributes)?;
        let existing = if in_dest { self.dest.stat(&entry.path)? } else { None };
        let there = existing.map(|n| n.entry);
        let is_dir = entry.kind == Kind::Directory;
        match &there {
            Some(there) if is_dir && there.kind != Kind::Directory => {
                return Err(Error::input(format!("cannot copy to non-directory `/{}`", entry.path)));
            }
            Some(there) if !is_dir && there.kind == Kind::Directory => {
                return Err(Error::input(format!(
                    "cannot replace the directory `/{}` by a file",
                    entry.path
                )));
            }
            _ => {}
        }
        if is_dir {
            self.parents.push((entry.path.clone(), there.is_some()));
        }
        match there {
            Some(there) if top => entry = there,
            _ => self.apply(&mut entry, attributes),
        }
        self.clamp(&mut entry);
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
                let mut file = from.tree.open(&path)?;
                self.write(&entry, Some(&mut file))
            }
        }
    }

    /// Writes the directories above `path` that were not written yet; tells whether the destination has the last.
    fn parents(&mut self, path: &EntryPath, attributes: Attributes) -> Result<bool> {
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
                Some(_) => return Err(Error::input(format!("cannot copy to non-directory `/{at}`"))),
                None => {
                    let mut entry = Entry::new(at.clone(), Kind::Directory, 0o755);
                    entry.mtime = Timestamp::from_secs(i64::MAX);
                    self.apply(&mut entry, attributes);
                    entry
                }
            };
            self.clamp(&mut entry);
            self.write(&entry, None)?;
            self.parents.push((at.clone(), in_dest));
        }
        Ok(in_dest)
    }

    fn apply(&self, entry: &mut Entry, attributes: Attributes) {
        if let Some((uid, gid)) = attributes.owner {
            (entry.uid, entry.gid) = (uid, gid);
        }
        if let (Some(mode), false) = (attributes.mode, matches!(entry.kind, Kind::Symlink { .. })) {
            entry.mode = mode;
        }
    }

    fn clamp(&self, entry: &mut Entry) {
        if entry.mtime.secs >= self.epoch || entry.mtime == Timestamp::default() {
            entry.mtime = Timestamp::from_secs(self.epoch);
        }
        entry.mtime = entry.mtime.whole();
    }

    fn write(&mut self, entry: &Entry, content: Option<&mut dyn Read>) -> Result<()> {
        let failed = |e| Error::layer(format!("cannot write `/{}` into the layer", entry.path), e);
        self.writer.append(entry, content).map_err(failed)
    }
}
