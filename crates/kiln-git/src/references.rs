//! What a server has: names and the objects that they stand for now.

use gix_hash::ObjectId;
use gix_protocol::handshake::Ref;
use gix_protocol::ls_refs::RefPrefixes;
use gix_protocol::{Handshake, LsRefsCommand};
use gix_transport::Service;
use gix_utils::progress::Discard;

use crate::error::{Error, Kind, Result};
use crate::remote::{Connected, Remote};
use crate::ssh::Complaint;

/// How this client introduces itself.
pub(crate) fn agent() -> (&'static str, Option<String>) {
    ("agent", Some(concat!("kiln/", env!("CARGO_PKG_VERSION")).to_owned()))
}

/// A name at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Such as `refs/heads/main`, or `HEAD`.
    pub name: String,
    /// What it stands for: a commit, or an annotated tag.
    pub object: ObjectId,
    /// The commit of an annotated tag.
    pub peeled: Option<ObjectId>,
}

/// The reference that a word stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its full name.
    pub name: String,
    /// What it stands for: a commit, or an annotated tag.
    pub object: ObjectId,
    /// The commit.
    pub commit: ObjectId,
}

impl Remote {
    /// Asks which of the references that start with one of `prefixes` there are; none means all.
    ///
    /// # Errors
    /// When the server cannot be reached, refuses, or is no git server.
    pub fn references(&self, prefixes: &[&str]) -> Result<Vec<Reference>> {
        let mut connected = self.connect()?;
        let mut handshake = self.handshake(&mut connected)?;
        self.list(&mut connected, &mut handshake, prefixes)
    }

    pub(crate) fn handshake(&self, connected: &mut Connected) -> Result<Handshake> {
        let nobody = |_| Ok(None);
        gix_protocol::handshake(
            &mut connected.transport,
            Service::UploadPack,
            nobody,
            Vec::new(),
            &mut Discard,
        )
        .map_err(|e| self.failed(connected, e))
    }

    pub(crate) fn failed(&self, connected: &Connected, error: gix_error::Error) -> Error {
        let message = format!("cannot read the repository `{}`", self.url);
        match connected.complaint.as_ref().and_then(Complaint::text) {
            Some(text) => Error::new(Kind::Network, message).because(format!("`ssh` says: {text}")),
            None => Error::library(message, error),
        }
    }

    pub(crate) fn list(
        &self,
        connected: &mut Connected,
        handshake: &mut Handshake,
        prefixes: &[&str],
    ) -> Result<Vec<Reference>> {
        let found = match handshake.refs.take() {
            // Before version 2 of the protocol, a server tells everything at once.
            Some(refs) => refs,
            None => {
                let mut wanted = RefPrefixes::new();
                wanted.extend(prefixes.iter().map(|p| (*p).into()));
                let wanted = (!prefixes.is_empty()).then_some(wanted);
                LsRefsCommand::new(wanted, &handshake.capabilities, agent())
                    .invoke_blocking(&mut connected.transport, &mut Discard, false)
                    .map_err(|e| self.failed(connected, e))?
            }
        };
        Ok(found.into_iter().filter_map(reference).collect())
    }
}

fn reference(found: Ref) -> Option<Reference> {
    let (name, object, peeled) = match found {
        Ref::Peeled { full_ref_name, tag, object } => (full_ref_name, tag, Some(object)),
        Ref::Direct { full_ref_name, object } => (full_ref_name, object, None),
        Ref::Symbolic { full_ref_name, tag: Some(tag), object, .. } => (full_ref_name, tag, Some(object)),
        Ref::Symbolic { full_ref_name, tag: None, object, .. } => (full_ref_name, object, None),
        Ref::Unborn { .. } => return None,
    };
    Some(Reference { name: name.to_string(), object, peeled })
}

/// Chooses what `word` means among `references`, as BuildKit does: `refs/WORD`, then a branch, then a tag.
#[must_use]
pub fn choose(references: &[Reference], word: &str) -> Option<Found> {
    let below = |prefix: &str| format!("{prefix}{}", word.strip_prefix(prefix).unwrap_or(word));
    let names = match word {
        "HEAD" => vec!["HEAD".to_owned()],
        _ => vec![below("refs/"), below("refs/heads/"), below("refs/tags/")],
    };
    let found = names.iter().find_map(|name| references.iter().find(|r| r.name == *name))?;
    Some(Found {
        name: found.name.clone(),
        object: found.object,
        commit: found.peeled.unwrap_or(found.object),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_comes_before_a_tag_and_a_full_name_before_both() {
        let id = |digit: &str| crate::parse_id(&digit.repeat(40)).unwrap();
        let reference = |name: &str, digit: &str, peeled: Option<&str>| Reference {
            name: name.to_owned(),
            object: id(digit),
            peeled: peeled.map(id),
        };
        let there = [
            reference("refs/heads/v1", "1", None),
            reference("refs/tags/v1", "2", Some("3")),
            reference("refs/tags/v2", "4", Some("5")),
            reference("refs/pull/7/head", "6", None),
        ];
        let check = |word: &str, expect: Option<&str>| {
            assert_eq!(choose(&there, word).map(|f| f.commit), expect.map(id), "{word}");
        };
        check("v1", Some("1"));
        check("refs/tags/v1", Some("3"));
        check("tags/v1", Some("3"));
        check("v2", Some("5"));
        check("pull/7/head", Some("6"));
        check("v3", None);
    }
}
