//! Secrets and agents as they are when the build begins.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::engine::Grants;
use crate::error::{Error, Result};
use crate::progress::Mask;
use crate::request::{BuildRequest, ContextSource, Secret, SecretSource};

/// A secret may have so many bytes, as in BuildKit.
const LARGEST: u64 = 500 << 10;

/// Reads the secrets of a request, once, and looks whether its agents are sockets.
///
/// # Errors
/// When a file cannot be read or is too large, or a path is no socket.
pub(crate) fn read(request: &BuildRequest) -> Result<Grants> {
    let mut secrets = BTreeMap::new();
    for (id, source) in &request.secrets {
        let value = match source {
            SecretSource::Value(value) => value.clone(),
            SecretSource::File(path) => read_file(id, path)?,
        };
        if value.reveal().len() as u64 > LARGEST {
            return Err(Error::input(format!("secret `{id}` is larger than {} KiB", LARGEST >> 10)).hint(
                "a secret is a password or a key; large files belong into the context or a named one",
            ));
        }
        secrets.insert(id.clone(), value);
    }
    for (id, agent) in &request.ssh {
        check_socket(id, &agent.socket)?;
    }
    let context_host = match &request.context {
        ContextSource::Git(address) => crate::fetch::host(address.remote.reveal()).map(str::to_owned),
        _ => None,
    };
    let keyed = request.keyed_secrets.clone();
    let mask = Mask::new(secrets.values().map(Secret::reveal));
    Ok(Grants { keyed, secrets, mask, agents: request.ssh.clone(), context_host })
}

fn read_file(id: &str, path: &Path) -> Result<Secret> {
    let failed = |e| Error::input(format!("cannot read secret `{id}` from `{}`", path.display())).because(e);
    let mut value = Vec::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(LARGEST + 1).read_to_end(&mut value).map_err(failed)?;
    Ok(Secret::new(value))
}

fn check_socket(id: &str, path: &Path) -> Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path)
        .map_err(|e| Error::input(format!("cannot use `{shown}` as SSH agent `{id}`")).because(e))?;
    if meta.file_type().is_socket() {
        return Ok(());
    }
    Err(Error::input(format!("`{shown}`, given for SSH agent `{id}`, is no socket of an agent"))
        .hint("kiln does not read keys: `eval $(ssh-agent)`, `ssh-add FILE`, then pass `--ssh default`"))
}
