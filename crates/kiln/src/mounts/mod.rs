//! Mounts of one RUN: what the graph asks for, found or made on this machine, for as long as the command runs.
//!
//! ```text
//! bind     stage, image   the layers themselves, as lower directories of an overlay
//!          context        a snapshot of what is selected, as a COPY would bring it; kept by its content
//! cache    a directory of the store under a lock
//! secret   a file in memory, a variable
//! ssh      a socket of kiln's own, from which each connection goes on to the agent
//! ```

mod bind;
mod cache;
mod grants;
mod ssh;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use kiln_sandbox::{Mount as SandboxMount, MountKind as SandboxKind};

pub(crate) use bind::{Files, select};
pub(crate) use grants::read as read_grants;

use crate::engine::Engine;
use crate::error::{Error, Place, Result};
use crate::graph::{FileOwner, Mount, MountKind, MountSource};
use crate::store::{Claim, PendingSnapshot};

/// What a command gets, and what has to live as long as it does.
#[derive(Default)]
pub(crate) struct Mounted {
    pub(crate) mounts: Vec<SandboxMount>,
    /// Variables with secrets.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// These are kept for what happens when they are dropped.
    copies: Vec<PendingSnapshot>,
    agents: Vec<ssh::Proxy>,
    claims: Vec<Claim>,
}

/// Opens the files that a mount comes from.
pub(crate) type Open<'a> = dyn Fn(&MountSource, Option<&Place>) -> Result<Files> + 'a;

/// A source of files and the digest that stands for its content.
pub(crate) type Seeds<'a> = dyn Fn(&MountSource, Option<&Place>) -> Result<kiln_oci::Digest> + 'a;

/// Makes everything that `mounts` asks for.
///
/// # Errors
/// When files do not exist, a secret or agent that is required was not given, or the store cannot be written.
pub(crate) fn prepare(
    engine: &Engine,
    mounts: &[Mount],
    open: &Open<'_>,
    seeds: &Seeds<'_>,
) -> Result<Mounted> {
    let mut mounted = Mounted::default();
    let mut caches = cache::claim_all(engine, mounts, open, seeds)?;
    for mount in mounts {
        add(engine, mount, open, &caches, &mut mounted).map_err(|e| e.at(mount.place.clone()))?;
    }
    mounted.claims = caches.take_claims();
    Ok(mounted)
}

fn add(
    engine: &Engine,
    mount: &Mount,
    open: &Open<'_>,
    caches: &cache::Caches,
    mounted: &mut Mounted,
) -> Result<()> {
    match &mount.kind {
        MountKind::Bind { target, source, readonly } => {
            let files = open(source, mount.place.as_ref())?;
            let (kind, copy) = bind::bind(engine, &files, source, *readonly, mount.place.as_ref())?;
            mounted.copies.extend(copy);
            mounted.push(target, kind);
        }
        MountKind::Cache { target, readonly, .. } => {
            let source = caches.dir(mount)?;
            mounted.push(target, SandboxKind::Bind { source, readonly: *readonly, recursive: false });
        }
        MountKind::Tmpfs { target, size, mode, readonly } => {
            mounted.push(target, SandboxKind::Tmpfs { size: *size, mode: *mode, readonly: *readonly });
        }
        MountKind::Secret { id, target, env, required, owner } => {
            let value = engine.grants.secrets.get(id);
            if value.is_none() && *required {
                return Err(no_secret(engine, id));
            }
            if let Some(name) = env {
                // As in BuildKit, the variable of a secret that is not there is empty.
                let value = value.map(|value| value.reveal().to_vec()).unwrap_or_default();
                if value.contains(&0) {
                    return Err(Error::input(format!(
                        "secret `{id}` cannot be a variable: it has a zero byte in it"
                    ))
                    .hint("mount it as a file: leave out `env`"));
                }
                mounted.env.push((name.into(), OsString::from_vec(value)));
            }
            if let (Some(target), Some(value)) = (target, value) {
                let FileOwner { uid, gid, mode } = *owner;
                mounted.push(target, SandboxKind::File { content: value.reveal().to_vec(), mode, uid, gid });
            }
        }
        MountKind::Ssh { id, target, required, owner } => match engine.grants.agents.get(id) {
            Some(agent) => {
                let proxy = ssh::Proxy::start(engine, agent, *owner)?;
                let source = proxy.socket().to_owned();
                mounted.agents.push(proxy);
                mounted.push(target, SandboxKind::Bind { source, readonly: true, recursive: false });
            }
            None if *required => return Err(no_agent(engine, id)),
            None => {}
        },
    }
    Ok(())
}

impl Mounted {
    fn push(&mut self, target: &str, kind: SandboxKind) {
        self.mounts.push(SandboxMount { target: PathBuf::from(target), kind });
    }
}

fn no_secret(engine: &Engine, id: &str) -> Error {
    let error = Error::input(format!("this RUN needs the secret `{id}`, and the build was not given it"));
    let pass = format!("pass `--secret id={id},src=FILE` or `--secret id={id},env=VARIABLE`");
    near(error, id, engine.grants.secrets.keys()).hint(pass)
}

fn no_agent(engine: &Engine, id: &str) -> Error {
    let error = Error::input(format!("this RUN needs the SSH agent `{id}`, and the build was not given it"));
    let pass = match id {
        "default" => "pass `--ssh default` with SSH_AUTH_SOCK set, or `--ssh default=SOCKET`".to_owned(),
        id => format!("pass `--ssh {id}=SOCKET`"),
    };
    near(error, id, engine.grants.agents.keys()).hint(pass)
}

fn near<'a>(error: Error, id: &str, given: impl Iterator<Item = &'a String>) -> Error {
    let given: Vec<&str> = given.map(String::as_str).collect();
    match kiln_dockerfile::suggest(id, &given) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error,
    }
}
