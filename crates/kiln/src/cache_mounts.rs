//! Cache mounts as an archive, to take them from one machine to another.
//!
//! ```text
//! KEY/            one cache; KEY is the digest of id.json, as in the store
//!   fs/…          its files, owners and modes as a command sees them
//!   id.json       what tells it from others
//! ```
//!
//! A tar as layers are, plain or compressed, and equal for equal caches. It is read back by the reader that refuses
//! hostile layers. What a builder left half done in a cache is not this room's to know.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerReader, LayerWriter, Limits, Precision};
use kiln_sandbox::{BuildNamespace, Requested, Wish};

use crate::engine::{sandbox_error, scheme};
use crate::error::{Error, FileContext as _, Result};
use crate::export::Target;
use crate::request::Destination;
use crate::snapshot::{IdRange, IdRanges, Ids, OneId, Owner, SameIds, View, unpack};
use crate::store::{CacheIdentity, Store, StoredCache};

/// The name of the description of a cache.
const IDENTITY: &str = "id.json";
/// The name of the files of a cache.
const FILES: &str = "fs";
/// A description is a few words; a larger one is refused.
const LARGEST_IDENTITY: u64 = 1 << 20;

/// Writes the caches with these ids, or all, to `dest`, compressed as its name says; returns their ids.
///
/// # Errors
/// When there is no such cache, a build is using one, or the archive cannot be written.
pub fn export(store: &Store, ids: &[String], dest: &Path) -> Result<Vec<String>> {
    let caches = select(store, ids)?;
    let mut claims = Vec::new();
    for cache in &caches {
        claims.push(store.claim_stored(cache)?.ok_or_else(|| in_use(&cache.identity))?);
    }
    let mut target = Target::create(&Destination::Path(dest.to_owned()), || Box::new(std::io::sink()))?;
    let failed = |e| Error::layer(format!("cannot write `{}`", dest.display()), e);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut writer = LayerWriter::new(&mut target, compression(dest), workers)
        .map_err(failed)?
        .with_precision(Precision::Nanoseconds);
    for cache in &caches {
        write(cache, &mut writer)
            .map_err(|e| e.within(format!("cannot export cache mount `{}`", cache.identity.id)))?;
    }
    writer.finish().map_err(failed)?;
    target.finish()?;
    Ok(caches.into_iter().map(|cache| cache.identity.id).collect())
}

/// Puts the caches of the archive at `path` in place of those of the same name; returns their ids.
///
/// # Errors
/// When the archive is damaged, hostile or none of caches, a build is using a cache of it, or nothing can be run
/// here, so that it is not known how to keep owners.
pub fn import(store: &Store, namespace: &BuildNamespace, path: &Path) -> Result<Vec<String>> {
    let isolation = kiln_sandbox::choose(Wish::of(Requested::Auto), namespace, store.root())
        .and_then(|isolation| isolation.ensure_runnable().map(|()| isolation))
        .map_err(|e| sandbox_error("a cache mount is of no use here", e))?;
    let scheme = scheme(&isolation);
    let shown = path.display();
    let failed = |e: Error| e.within(format!("cannot import `{shown}`"));
    let file = File::open(path)
        .map_err(|e| Error::input(format!("cannot open the archive `{shown}`")).because(e))?;
    let reader = LayerReader::threaded(file, Limits::default())
        .map_err(|e| Error::input(format!("`{shown}` is no archive of caches")).because(e))?;
    let dir = store.tmp_path();
    fs::create_dir(&dir).on("create", &dir)?;
    unpack(reader, &dir, ids(scheme).as_ref()).map_err(|e| failed(e.into()))?;
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).on("list", &dir)? {
        let entry = entry.on("list", &dir)?;
        let identity = identity(&entry.path())
            .and_then(|identity| match identity.key()? == entry.file_name().to_string_lossy() {
                true => Ok(identity),
                false => Err(Error::input("the name of a cache in it is not that of its description")),
            })
            .map_err(failed)?;
        found.push((identity, entry.path().join(FILES)));
    }
    if found.is_empty() {
        return Err(Error::input(format!("`{shown}` has no cache mounts in it")));
    }
    found.sort();
    for (identity, files) in &found {
        let claim = store.claim_first(scheme, identity)?.ok_or_else(|| in_use(identity))?;
        claim.replace(store, files)?;
    }
    Ok(found.into_iter().map(|(identity, _)| identity.id).collect())
}

fn in_use(identity: &CacheIdentity) -> Error {
    Error::environment(format!("a build is using cache mount `{}`", identity.id))
        .hint("wait until it has ended")
}

/// Returns the caches to export: of each name the first, as the owners of the last use have it.
fn select(store: &Store, ids: &[String]) -> Result<Vec<StoredCache>> {
    let all = store.cache_mounts()?;
    let names: Vec<&str> = all.iter().map(|cache| cache.identity.id.as_str()).collect();
    if let Some(missing) = ids.iter().find(|id| !names.contains(&id.as_str())) {
        let error = Error::input(format!("there is no cache mount `{missing}` in the store"));
        return Err(match kiln_dockerfile::suggest(missing, &names) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint("`kiln cache ls` lists what there is"),
        });
    }
    let mut chosen: Vec<StoredCache> = Vec::new();
    for cache in all.iter().filter(|cache| cache.number == 0) {
        if !ids.is_empty() && !ids.contains(&cache.identity.id) {
            continue;
        }
        match chosen.iter_mut().find(|other| other.identity == cache.identity) {
            Some(other) if other.used < cache.used => *other = cache.clone(),
            Some(_) => {}
            None => chosen.push(cache.clone()),
        }
    }
    if chosen.is_empty() {
        return Err(Error::input("there are no cache mounts in the store")
            .hint("a `RUN --mount=type=cache` makes one"));
    }
    Ok(chosen)
}

fn compression(dest: &Path) -> Compression {
    match dest.extension().and_then(|extension| extension.to_str()) {
        Some("zst" | "zstd" | "tzst") => Compression::Zstd { level: 3 },
        Some("gz" | "tgz") => Compression::default(),
        _ => Compression::None,
    }
}

fn write<W: Write>(cache: &StoredCache, writer: &mut LayerWriter<W>) -> Result<()> {
    let failed = |e| Error::layer("cannot write the archive", e);
    let top = EntryPath::root().join(cache.identity.key()?.as_bytes());
    writer.append(&Entry::new(top.clone(), Kind::Directory, 0o755), None).map_err(failed)?;
    let view = View::with_ids(vec![cache.fs.clone()], BoxedIds(ids(&cache.scheme)))?;
    let files = top.join(FILES.as_bytes());
    let mut links = std::collections::BTreeMap::new();
    for visited in view.walk(&EntryPath::root())? {
        let visited = visited?;
        if visited.relative.whiteout().unwrap_or(None).is_some() {
            return Err(Error::input(format!(
                "`{}` has a name that means a removal in archives of layers",
                visited.relative
            )));
        }
        let path = visited.relative.components().fold(files.clone(), |path, part| path.join(part));
        let mut entry = Entry { path, ..visited.entry };
        let identity = visited.node.identity;
        if identity.links > 1 && entry.kind != Kind::Directory {
            let first = links.entry((identity.device, identity.inode)).or_insert_with(|| entry.path.clone());
            if *first != entry.path {
                entry.kind = Kind::HardLink { target: first.clone() };
                entry.xattrs.clear();
            }
        }
        match entry.kind {
            Kind::File { .. } => {
                let mut file = view.open_node(&visited.node)?;
                writer.append(&entry, Some(&mut file)).map_err(failed)?;
            }
            _ => writer.append(&entry, None).map_err(failed)?,
        }
    }
    let text = serde_json::to_vec(&cache.identity)
        .map_err(|e| Error::internal("cannot write the name of a cache").because(e))?;
    let kind = Kind::File { size: text.len() as u64 };
    let entry = Entry::new(top.join(IDENTITY.as_bytes()), kind, 0o644);
    writer.append(&entry, Some(&mut text.as_slice())).map_err(failed)
}

/// Reads the description of a cache that was unpacked to `dir`.
fn identity(dir: &Path) -> Result<CacheIdentity> {
    let strange = || Error::input("it is no archive of caches");
    let plain = |path: &Path, directory: bool| {
        fs::symlink_metadata(path).is_ok_and(|meta| {
            if directory { meta.is_dir() } else { meta.is_file() && meta.len() <= LARGEST_IDENTITY }
        })
    };
    let description = dir.join(IDENTITY);
    // Nothing of an archive is trusted to be a file or a directory, and links are not followed.
    if !plain(dir, true) || !plain(&dir.join(FILES), true) || !plain(&description, false) {
        return Err(strange());
    }
    let bytes = fs::read(&description).on("read", &description)?;
    serde_json::from_slice(&bytes).map_err(|e| strange().because(e))
}

/// Returns how owners are kept on disk under `scheme`; see the table in `kiln_sandbox::isolation`.
fn ids(scheme: &str) -> Box<dyn Ids + Send> {
    let shifted = || vec![IdRange { container: 0, disk: 1, count: u32::MAX - 1 }];
    match scheme {
        "nested" => Box::new(IdRanges { users: shifted(), groups: shifted() }),
        "single" => Box::new(OneId(Owner::default())),
        _ => Box::new(SameIds),
    }
}

struct BoxedIds(Box<dyn Ids + Send>);

impl Ids for BoxedIds {
    fn to_disk(&self, container: Owner) -> Option<Owner> {
        self.0.to_disk(container)
    }

    fn to_container(&self, disk: Owner) -> Option<Owner> {
        self.0.to_container(disk)
    }
}
