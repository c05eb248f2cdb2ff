//! Cache mounts: each found or made, and locked while the command runs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use kiln_oci::layer::Kind;
use kiln_sandbox::Mode;

use super::{Open, Seeds, bind};
use crate::engine::Engine;
use crate::error::{Error, FileContext as _, Place, Result};
use crate::graph::{FileOwner, Mount, MountKind, MountSource};
use crate::progress::Event;
use crate::snapshot::{Ids as _, Owner, record_owner};
use crate::store::{CacheIdentity, Claim, Sharing};

/// The caches of one command, by identity: two mounts of one cache are the same directory.
#[derive(Default)]
pub(super) struct Caches {
    dirs: BTreeMap<CacheIdentity, PathBuf>,
    /// The identity of each mount, by target.
    targets: BTreeMap<String, CacheIdentity>,
    claims: Vec<Claim>,
}

impl Caches {
    pub(super) fn dir(&self, mount: &Mount) -> Result<PathBuf> {
        let identity = mount.target().and_then(|target| self.targets.get(target));
        let dir = identity.and_then(|identity| self.dirs.get(identity));
        dir.cloned().ok_or_else(|| Error::internal("a cache mount was not prepared"))
    }

    pub(super) fn take_claims(&mut self) -> Vec<Claim> {
        std::mem::take(&mut self.claims)
    }
}

/// What is asked of one cache.
struct Asked<'a> {
    sharing: Sharing,
    seed: Option<&'a MountSource>,
    owner: FileOwner,
    place: Option<&'a Place>,
}

/// Takes the caches of all mounts, in an order that is the same for every command: two that each wait for the other's
/// would wait for ever.
pub(super) fn claim_all(
    engine: &Engine,
    mounts: &[Mount],
    open: &Open<'_>,
    seeds: &Seeds<'_>,
) -> Result<Caches> {
    let mut wanted: BTreeMap<CacheIdentity, Asked<'_>> = BTreeMap::new();
    let mut caches = Caches::default();
    for mount in mounts {
        let MountKind::Cache { target, id, namespace, sharing, seed, mode, uid, gid, .. } = &mount.kind
        else {
            continue;
        };
        let digest = seed.as_ref().map(|seed| seeds(seed, mount.place.as_ref())).transpose()?;
        let identity = CacheIdentity {
            id: id.clone(),
            namespace: namespace.clone(),
            seed: digest,
            mode: *mode,
            uid: *uid,
            gid: *gid,
        };
        caches.targets.insert(target.clone(), identity.clone());
        let owner = FileOwner { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: mode.unwrap_or(0o755) };
        let asked = Asked { sharing: *sharing, seed: seed.as_ref(), owner, place: mount.place.as_ref() };
        wanted.entry(identity).or_insert(asked);
    }
    for (identity, asked) in wanted {
        let (dir, claim) = claim(engine, &identity, &asked, open).map_err(|e| e.at(asked.place.cloned()))?;
        caches.dirs.insert(identity, dir);
        caches.claims.push(claim);
    }
    Ok(caches)
}

fn claim(
    engine: &Engine,
    identity: &CacheIdentity,
    asked: &Asked<'_>,
    open: &Open<'_>,
) -> Result<(PathBuf, Claim)> {
    let mut told = false;
    let mut wait = || {
        if !told {
            told = true;
            let text = format!("waiting for cache mount `{}`, which another step is using", identity.id);
            engine.sink.event(Event::Note { text });
        }
        engine.cancel.check()
    };
    // Where nothing can be mounted, a cache is moved to where the command wants it, and one command at a time has it.
    let sharing = match (engine.isolation().mode, asked.sharing) {
        (Mode::Chroot, Sharing::Shared) => Sharing::Locked,
        (_, sharing) => sharing,
    };
    let claim = engine.store.claim(engine.scheme(), identity, sharing, &mut wait)?;
    let dir = claim.fs(&engine.store, |dir| make(engine, asked, open, dir))?;
    Ok((dir, claim))
}

/// Makes a new cache at `dir`: empty, or with the content that it is to start with.
fn make(engine: &Engine, asked: &Asked<'_>, open: &Open<'_>, dir: &Path) -> Result<()> {
    let given = asked.owner != FileOwner { uid: 0, gid: 0, mode: 0o755 };
    let (made, _copy) = match asked.seed {
        Some(source) => {
            let files = open(source, asked.place)?;
            let selected = bind::select(&files.tree, source, asked.place)?;
            if selected.node.entry.kind != Kind::Directory {
                return Err(Error::input(format!(
                    "`{}` is no directory, and a cache mount starts with one",
                    source.path
                )));
            }
            let copy = bind::copy(engine, &selected)?;
            (bind::copied(&copy), Some(copy))
        }
        None => {
            let path = engine.store.tmp_path();
            fs::create_dir(&path).on("create", &path)?;
            (path, None)
        }
    };
    if given || asked.seed.is_none() {
        let FileOwner { uid, gid, mode } = asked.owner;
        let owner = Owner { uid, gid };
        let disk = engine.ids().to_disk(owner);
        if disk.is_none() {
            record_owner(&made, owner)?;
        }
        if let Some(disk) = disk.or_else(|| engine.ids().to_disk(Owner::default())) {
            chown(&made, Some(disk.uid), Some(disk.gid)).on("change the owner of", &made)?;
        }
        fs::set_permissions(&made, fs::Permissions::from_mode(mode & 0o7777))
            .on("change the mode of", &made)?;
    }
    fs::rename(&made, dir).on("rename", &made)
}
