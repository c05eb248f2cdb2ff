//! `--secret`, `--ssh` and `--allow`, in the syntax of `docker buildx build`.

use std::path::PathBuf;

use kiln::request::Entitlement;

use super::{Parsed, output};

/// A `--secret`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SecretSpec {
    /// What the Dockerfile calls it.
    pub(crate) id: String,
    /// Where its value is.
    pub(crate) from: SecretFrom,
    /// Steps that ask for it run again when its value changes.
    pub(crate) cache_key: bool,
}

/// Where the value of a secret is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretFrom {
    /// In a file.
    File(PathBuf),
    /// In a variable.
    Variable(String),
    /// In the variable called as the secret is or, where there is none, in the file called so.
    Name,
}

/// Parses `id=ID[,src=PATH|,env=NAME][,type=file|env][,cache-key]`.
pub(crate) fn secret(text: &str) -> Parsed<SecretSpec> {
    let (mut id, mut file, mut variable, mut kind) = (None, None, None, None);
    let mut cache_key = false;
    for field in output::fields(text)? {
        if field.eq_ignore_ascii_case("cache-key") {
            cache_key = true;
            continue;
        }
        let Some((key, value)) = field.split_once('=') else {
            return Err(format!(
                "`{field}` is not KEY=VALUE: write `id=NAME,src=FILE` or `id=NAME,env=VARIABLE`"
            ));
        };
        let value = value.to_owned();
        match key.to_ascii_lowercase().as_str() {
            "id" => id = Some(value),
            "cache-key" => cache_key = output::boolean(&value)?,
            "src" | "source" => file = Some(value),
            "env" => variable = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            "type" => return Err(format!("`{value}` is no type of secret: write `file` or `env`")),
            key => {
                let nearest =
                    kiln::dockerfile::suggest(key, &["id", "src", "source", "env", "type", "cache-key"]);
                let meant = nearest.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
                return Err(format!("`{key}` is not known{meant}"));
            }
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or("the secret needs a name: write `id=NAME`")?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = file.take();
    }
    let from = match (variable.filter(|v| !v.is_empty()), file.filter(|f| !f.is_empty())) {
        (Some(variable), _) => SecretFrom::Variable(variable),
        (None, Some(file)) => SecretFrom::File(PathBuf::from(file)),
        (None, None) => SecretFrom::Name,
    };
    Ok(SecretSpec { id, from, cache_key })
}

/// A `--ssh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SshSpec {
    /// What the Dockerfile calls it.
    pub(crate) id: String,
    /// The agent's socket; absent for that of the environment.
    pub(crate) socket: Option<PathBuf>,
    /// Pass on everything that is said to the agent.
    pub(crate) raw: bool,
}

/// Parses `default` or `ID[=SOCKET[,raw]]`.
pub(crate) fn ssh(text: &str) -> Parsed<SshSpec> {
    let (id, paths) = text.split_once('=').map_or((text, None), |(id, paths)| (id, Some(paths)));
    if id.is_empty() {
        return Err("expected `default` or ID=SOCKET".to_owned());
    }
    let (mut socket, mut raw) = (None, false);
    for word in paths.unwrap_or_default().split(',').filter(|word| !word.is_empty()) {
        match word {
            "raw" | "raw=true" => raw = true,
            "raw=false" => raw = false,
            path if socket.is_none() => socket = Some(PathBuf::from(path)),
            _ => {
                return Err("several paths stand for several keys, which kiln does not read: load them \
                            with `ssh-add` and give the socket of the agent"
                    .to_owned());
            }
        }
    }
    Ok(SshSpec { id: id.to_owned(), socket, raw })
}

/// Parses what a RUN is allowed.
pub(crate) fn entitlement(text: &str) -> Parsed<Entitlement> {
    match text {
        "security.insecure" => Ok(Entitlement::SecurityInsecure),
        "network.host" => Ok(Entitlement::NetworkHost),
        other => {
            let nearest = kiln::dockerfile::suggest(other, &["security.insecure", "network.host"]);
            let meant = nearest.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
            Err(format!("`{other}` is nothing to allow{meant}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_written_as_for_buildx() {
        let check = |text: &str, id: &str, from: SecretFrom| {
            assert_eq!(secret(text), Ok(SecretSpec { id: id.to_owned(), from, cache_key: false }), "{text}");
        };
        let file = |path: &str| SecretFrom::File(PathBuf::from(path));
        let variable = |name: &str| SecretFrom::Variable(name.to_owned());
        check("id=a,src=/p", "a", file("/p"));
        check("id=a,source=p", "a", file("p"));
        check("type=file,ID=a,src=p", "a", file("p"));
        check("id=a,env=B", "a", variable("B"));
        check("type=env,id=a,src=B", "a", variable("B"));
        check("type=env,id=a", "a", SecretFrom::Name);
        check("id=a", "a", SecretFrom::Name);
        check("id=a,\"src=x,y\"", "a", file("x,y"));
        for (text, keyed) in
            [("id=a,cache-key", true), ("id=a,cache-key=true", true), ("id=a,cache-key=0", false)]
        {
            assert_eq!(secret(text).unwrap().cache_key, keyed, "{text}");
        }
        assert!(secret("src=p").is_err());
        assert!(secret("id=a,type=vault").unwrap_err().contains("`vault` is no type"));
        assert!(secret("id=a,scr=p").unwrap_err().contains("did you mean `src`?"));
        assert!(secret("a").unwrap_err().contains("id=NAME,src=FILE"));
    }

    #[test]
    fn agents_have_one_socket() {
        let spec = |id: &str, socket: Option<&str>, raw: bool| {
            Ok(SshSpec { id: id.to_owned(), socket: socket.map(PathBuf::from), raw })
        };
        assert_eq!(ssh("default"), spec("default", None, false));
        assert_eq!(ssh("default="), spec("default", None, false));
        assert_eq!(ssh("git=/run/agent"), spec("git", Some("/run/agent"), false));
        assert_eq!(ssh("git=/run/agent,raw=true"), spec("git", Some("/run/agent"), true));
        assert!(ssh("git=a,b").unwrap_err().contains("ssh-add"));
        assert!(ssh("=a").is_err());
    }

    #[test]
    fn only_what_is_known_can_be_allowed() {
        assert_eq!(entitlement("security.insecure"), Ok(Entitlement::SecurityInsecure));
        assert_eq!(entitlement("network.host"), Ok(Entitlement::NetworkHost));
        assert!(entitlement("security.insecur").unwrap_err().contains("did you mean `security.insecure`?"));
    }
}
