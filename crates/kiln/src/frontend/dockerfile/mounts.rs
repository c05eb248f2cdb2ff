//! `RUN --mount`: options with their variables replaced and their defaults filled in, as the graph wants them.

use kiln_dockerfile::expand::expand_word;
use kiln_dockerfile::instruction::{
    Access, CacheMount, Instruction, Mount as Written, ResolvedMount, Run, Sharing as Asked,
};
use kiln_dockerfile::{Spanned, Statement};

use super::lower::Lowering;
use super::names::Named;
use super::stage::{StageState, clean, unsupported};
use crate::error::{Error, Place, Result};
use crate::graph::{CopyFrom, FileOwner, Mount, MountKind, MountSource};
use crate::store::Sharing;

/// The build argument that keeps the caches of one project apart from those of others.
const NAMESPACE: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// Returns what `from=` of the mounts of a RUN names; stages have no numbers here.
pub(super) fn names(statement: &Statement) -> impl Iterator<Item = Named<'_>> {
    let mounts = match &statement.instruction {
        Instruction::Run(run) => run.mounts.as_slice(),
        _ => &[],
    };
    mounts.iter().filter_map(from).map(Named::mount)
}

fn from(mount: &Written) -> Option<&Spanned<String>> {
    mount.option("from").filter(|from| !from.value.is_empty())
}

/// What the mounts of one RUN have in common.
struct Mounts<'a> {
    state: &'a StageState,
    namespace: String,
    /// Numbers the sockets of agents.
    agents: usize,
    /// Variables that the mounts add to the environment.
    env: Vec<(String, String)>,
}

/// The mounts of one RUN.
pub(super) struct Lowered {
    /// Parents before what lies in them.
    pub(super) mounts: Vec<Mount>,
    /// Variables that say where they are.
    pub(super) env: Vec<(String, String)>,
}

/// Returns the mounts of `run`.
pub(super) fn lower(
    lowering: &mut Lowering<'_>,
    state: &StageState,
    run: &Run,
    index: usize,
) -> Result<Lowered> {
    let namespace = lowering.request.build_args.get(NAMESPACE).cloned().unwrap_or_default();
    let mut all = Mounts { state, namespace, agents: 0, env: Vec::new() };
    let mut mounts = Vec::new();
    for written in &run.mounts {
        let place = lowering.source.place(written.span);
        refuse_unknown_effects(lowering, written)?;
        let escape = lowering.source.tree.directives.escape();
        let lookup = |name: &str| state.vars.get(name).map(str::to_owned);
        let resolved = written
            .resolve(&mut |value| expand_word(value, escape, &lookup).map(|expanded| expanded.text))
            .map_err(|diagnostic| lowering.source.error(diagnostic))?;
        let files = lowering.copy_source(from(written).map(Named::mount), index, &place)?;
        let given = from(written).is_some();
        let kind = all.mount(resolved, files, given).map_err(|e| e.at(Some(place.clone())))?;
        mounts.push(Mount { kind, place: Some(place) });
    }
    // What is mounted on a path must not hide what is mounted below it.
    mounts.sort_by(|a, b| a.target().cmp(&b.target()));
    Ok(Lowered { mounts, env: all.env })
}

/// Refuses what Buildah's options would do to files: change their owner, or copy what a tmpfs hides into it.
fn refuse_unknown_effects(lowering: &Lowering<'_>, mount: &Written) -> Result<()> {
    let asked = mount.options.iter().find(|option| {
        let off = option.value.as_ref().is_some_and(|value| value.value.eq_ignore_ascii_case("false"));
        matches!(option.key.value, "u" | "tmpcopyup") && !off
    });
    asked.map_or(Ok(()), |option| {
        Err(unsupported(
            &format!("option `{}` of a mount", option.key.value),
            &lowering.source.place(option.key.span),
        ))
    })
}

impl Mounts<'_> {
    fn mount(&mut self, mount: ResolvedMount, files: CopyFrom, given: bool) -> Result<MountKind> {
        Ok(match mount {
            ResolvedMount::Bind { target, source, access, .. } => MountKind::Bind {
                target: self.target(target)?,
                source: MountSource { from: files, path: rooted(source.as_deref()) },
                readonly: access == Access::ReadOnly,
            },
            ResolvedMount::Cache(cache) => self.cache(cache, files, given)?,
            ResolvedMount::Tmpfs { target, size, mode, access } => MountKind::Tmpfs {
                target: self.target(target)?,
                // As in BuildKit, zero is no limit.
                size: size.filter(|size| *size > 0),
                mode: mode.unwrap_or(0o1777),
                readonly: access == Access::ReadOnly,
            },
            ResolvedMount::Secret { id, target, env, required, mode, uid, gid } => {
                let target = match (target, &env) {
                    (Some(target), _) => Some(self.path(&target)?),
                    (None, Some(_)) => None,
                    (None, None) => Some(format!("/run/secrets/{}", last_part(&id))),
                };
                let owner = owner(uid, gid, mode, 0o400);
                MountKind::Secret { id, target, env, required, owner }
            }
            ResolvedMount::Ssh { id, target, required, mode, uid, gid } => {
                let target = match target {
                    Some(target) => self.path(&target)?,
                    None => format!("/run/buildkit/ssh_agent.{}", self.agents),
                };
                if self.agents == 0 && self.state.vars.get("SSH_AUTH_SOCK").is_none() {
                    self.env.push(("SSH_AUTH_SOCK".to_owned(), target.clone()));
                }
                self.agents += 1;
                let id = id.unwrap_or_else(|| "default".to_owned());
                MountKind::Ssh { id, target, required, owner: owner(uid, gid, mode, 0o600) }
            }
        })
    }

    fn cache(&self, cache: CacheMount, files: CopyFrom, given: bool) -> Result<MountKind> {
        let written = cache.target.clone();
        let target = self.target(cache.target)?;
        // The target as written, so that equal text names an equal cache in every working directory.
        let id =
            cache.id.unwrap_or_else(|| kiln_dockerfile::ignore::clean_path(&written.unwrap_or_default()));
        let path = rooted(cache.source.as_deref());
        // As in BuildKit: a part of something keeps the attributes that it has there.
        let whole = path == "/";
        if !given && !whole {
            return Err(Error::input(format!("`{path}` of a cache mount is a path in nothing"))
                .hint("say with `from=` which stage, image or context it is a path of"));
        }
        let seed = given.then_some(MountSource { from: files, path });
        Ok(MountKind::Cache {
            target,
            id,
            namespace: self.namespace.clone(),
            sharing: match cache.sharing {
                Asked::Shared => Sharing::Shared,
                Asked::Private => Sharing::Private,
                Asked::Locked => Sharing::Locked,
            },
            seed,
            mode: cache.mode.filter(|_| whole),
            uid: cache.uid.filter(|_| whole),
            gid: cache.gid.filter(|_| whole),
            readonly: cache.access == Access::ReadOnly,
        })
    }

    fn target(&self, target: Option<String>) -> Result<String> {
        let target = target.ok_or_else(|| {
            Error::input("a mount needs a target").hint("write `target=/path` among its options")
        })?;
        self.path(&target)
    }

    fn path(&self, target: &str) -> Result<String> {
        match clean(&self.state.absolute(target)).as_str() {
            "/" => {
                Err(Error::input(format!("a mount cannot have `/` as its target, and `{target}` is that")))
            }
            path => Ok(path.to_owned()),
        }
    }
}

/// Makes a path start at the root of where it is in: `..` leads nowhere else.
fn rooted(source: Option<&str>) -> String {
    clean(&format!("/{}", source.unwrap_or_default()))
}

fn last_part(id: &str) -> &str {
    id.trim_end_matches('/').rsplit('/').next().unwrap_or(id)
}

fn owner(uid: Option<u32>, gid: Option<u32>, mode: Option<u32>, usual: u32) -> FileOwner {
    FileOwner { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), mode: mode.unwrap_or(usual) & 0o777 }
}

/// Says that a RUN asks for more than the build allows.
pub(super) fn not_allowed(what: &str, name: &str, place: Place) -> Error {
    Error::input(format!("{what} is not allowed in this build"))
        .at(Some(place))
        .hint(format!("pass `--allow {name}` if you trust the Dockerfile"))
}
