//! Secrets and agents: where the environment decides, it is asked here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use kiln::request::{Secret, SecretSource, SshAgent};

use crate::env::{self, Env};
use crate::failure::{Failure, Outcome};
use crate::value::{SecretFrom, SecretSpec, SshSpec};

/// Returns the secrets by id; of several with one id the last counts.
pub(super) fn secrets(specs: &[SecretSpec], env: &Env) -> BTreeMap<String, SecretSource> {
    let variable = |name: &str| env.raw(name).map(|v| SecretSource::Value(Secret::new(v.as_bytes())));
    let source = |spec: &SecretSpec| match &spec.from {
        SecretFrom::File(path) => SecretSource::File(path.clone()),
        // As in buildx: a variable that is not set is an empty secret.
        SecretFrom::Variable(name) => {
            variable(name).unwrap_or_else(|| SecretSource::Value(Secret::new(*b"")))
        }
        SecretFrom::Name => variable(&spec.id).unwrap_or_else(|| SecretSource::File(PathBuf::from(&spec.id))),
    };
    specs.iter().map(|spec| (spec.id.clone(), source(spec))).collect()
}

/// Returns the ids of secrets whose value counts for the cache; of several with one id the last counts.
pub(super) fn keyed(specs: &[SecretSpec]) -> BTreeSet<String> {
    let last: BTreeMap<&str, bool> = specs.iter().map(|spec| (spec.id.as_str(), spec.cache_key)).collect();
    last.into_iter().filter(|(_, keyed)| *keyed).map(|(id, _)| id.to_owned()).collect()
}

/// Returns the agents by id; one without a socket has that of the environment.
pub(super) fn agents(specs: &[SshSpec], env: &Env) -> Outcome<BTreeMap<String, SshAgent>> {
    let mut agents = BTreeMap::new();
    for SshSpec { id, socket, raw } in specs {
        let socket = socket.clone().or_else(|| env.path(env::SSH_AUTH_SOCK)).ok_or_else(|| {
            Failure::usage(
                format!("there is no agent for `--ssh {id}`: SSH_AUTH_SOCK is not set"),
                format!("start one with `eval $(ssh-agent)`, or name its socket: `--ssh {id}=SOCKET`"),
            )
        })?;
        agents.insert(id.clone(), SshAgent { socket, raw: *raw });
    }
    Ok(agents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_gives_secrets_without_a_source() {
        let env = Env::of([("TOKEN", "t"), ("EMPTY", "")]);
        let spec = |id: &str, from: SecretFrom| SecretSpec { id: id.to_owned(), from, cache_key: false };
        let value = |text: &str| SecretSource::Value(Secret::new(text.as_bytes()));
        let given = secrets(
            &[
                spec("TOKEN", SecretFrom::Name),
                spec("EMPTY", SecretFrom::Name),
                spec("key.pem", SecretFrom::Name),
                spec("a", SecretFrom::File("first".into())),
                spec("a", SecretFrom::Variable("TOKEN".to_owned())),
                spec("b", SecretFrom::Variable("UNSET".to_owned())),
            ],
            &env,
        );
        let expect = [
            ("EMPTY", value("")),
            ("TOKEN", value("t")),
            ("a", value("t")),
            ("b", value("")),
            ("key.pem", SecretSource::File("key.pem".into())),
        ];
        assert_eq!(given, expect.map(|(id, source)| (id.to_owned(), source)).into());
    }

    #[test]
    fn the_agent_is_that_of_the_environment() {
        let spec = [SshSpec { id: "default".to_owned(), socket: None, raw: false }];
        let env = Env::of([("SSH_AUTH_SOCK", "/run/agent")]);
        assert_eq!(agents(&spec, &env).unwrap()["default"].socket, PathBuf::from("/run/agent"));
        let failure = agents(&spec, &Env::of([])).unwrap_err();
        assert!(failure.error().message.contains("SSH_AUTH_SOCK is not set"));
    }
}
