//! Secrets of a build that are meant for servers, under the names that BuildKit gives them.
//!
//! A name that says its host is sent to that host and to no other. The short names of git (`GIT_AUTH_TOKEN`) say none:
//! BuildKit sends them to every repository that a Dockerfile names, kiln to the host of the build context only, because
//! a Dockerfile may be a stranger's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kiln_remote::Secret;

use super::Purpose;
use crate::address::Url;
use crate::engine::Grants;

/// What a secret is.
enum Form {
    /// The whole value of `Authorization`.
    Header,
    /// A token.
    Token,
}

/// Returns what goes into `Authorization` for the server of `url`, unless its own login is to be used.
pub(super) fn authorization(grants: &Grants, url: &Url, purpose: Purpose) -> Option<Secret> {
    let host = host(url.reveal())?;
    let mut names = Vec::new();
    match purpose {
        Purpose::File => {
            names.push((format!("HTTP_AUTH_HEADER_{host}"), Form::Header));
            names.push((format!("HTTP_AUTH_TOKEN_{host}"), Form::Token));
        }
        Purpose::Repository => {
            names.push((format!("GIT_AUTH_HEADER.{host}"), Form::Header));
            names.push((format!("GIT_AUTH_TOKEN.{host}"), Form::Token));
            if grants.context_host.as_deref() == Some(host) {
                names.push(("GIT_AUTH_HEADER".to_owned(), Form::Header));
                names.push(("GIT_AUTH_TOKEN".to_owned(), Form::Token));
            }
        }
    }
    let (value, form) =
        names.into_iter().find_map(|(name, form)| grants.secrets.get(&name).map(|value| (value, form)))?;
    let value = std::str::from_utf8(value.reveal()).ok()?.trim();
    Some(Secret::new(match (form, purpose) {
        (Form::Header, _) => value.to_owned(),
        (Form::Token, Purpose::File) => format!("Bearer {value}"),
        (Form::Token, Purpose::Repository) => {
            format!("Basic {}", STANDARD.encode(format!("x-access-token:{value}")))
        }
    }))
}

/// Returns the host of a web address, with its port if it names one, without a login.
pub(crate) fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.rsplit('@').next().unwrap_or(authority)).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(secrets: &[(&str, &str)], url: &str, purpose: Purpose) -> Option<String> {
        let secrets = secrets
            .iter()
            .map(|(id, value)| ((*id).to_owned(), crate::request::Secret::new(value.as_bytes())))
            .collect();
        let grants = Grants { secrets, context_host: Some("git.example".to_owned()), ..Grants::default() };
        authorization(&grants, &Url::new(url), purpose).map(|secret| secret.reveal().to_owned())
    }

    #[test]
    fn a_file_gets_the_secret_of_its_host() {
        let secrets = [("HTTP_AUTH_TOKEN_a.example", "t\n"), ("HTTP_AUTH_HEADER_b.example:81", "Custom x")];
        let file = |url| sent(&secrets, url, Purpose::File);
        assert_eq!(file("https://a.example/x").unwrap(), "Bearer t");
        assert_eq!(file("http://user@b.example:81/x").unwrap(), "Custom x");
        assert_eq!(file("https://b.example/x"), None);
        assert_eq!(file("https://evil.example/a.example"), None);
    }

    #[test]
    fn a_short_name_is_for_the_context_only() {
        let secrets = [("GIT_AUTH_TOKEN", "t"), ("GIT_AUTH_HEADER.other.example", "Basic x")];
        let git = |url| sent(&secrets, url, Purpose::Repository);
        assert_eq!(git("https://git.example/r.git").unwrap(), "Basic eC1hY2Nlc3MtdG9rZW46dA==");
        assert_eq!(git("https://other.example/r.git").unwrap(), "Basic x");
        assert_eq!(git("https://evil.example/r.git"), None);
    }
}
