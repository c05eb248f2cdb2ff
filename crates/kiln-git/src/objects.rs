//! The objects that were fetched.

use gix_hash::ObjectId;
use gix_object::{CommitRef, Kind as ObjectKind};

use crate::error::{Error, Result};

/// What a build needs to know of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Its files.
    pub tree: ObjectId,
    /// When it was committed, in seconds since 1970.
    pub time: i64,
}

/// The objects of one fetch, which refer to each other only.
pub struct Objects {
    bundle: gix_pack::Bundle,
    inflate: gix_zlib::Inflate,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("count", &self.bundle.index.num_objects()).finish_non_exhaustive()
    }
}

impl Objects {
    pub(crate) fn new(bundle: gix_pack::Bundle) -> Self {
        Self { bundle, inflate: gix_zlib::Inflate::default() }
    }

    /// Tells whether an object is here.
    #[must_use]
    pub fn has(&self, id: ObjectId) -> bool {
        self.bundle.index.lookup(id).is_some()
    }

    /// Reads an object.
    pub(crate) fn read(&mut self, id: ObjectId, expected: ObjectKind) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let found = self
            .bundle
            .find(&id, &mut bytes, &mut self.inflate, &mut gix_pack::cache::Never)
            .map_err(|e| Error::library(format!("object {id} is damaged"), e))?;
        match found.map(|(data, _)| data.kind) {
            Some(kind) if kind == expected => Ok(bytes),
            Some(kind) => Err(Error::content(format!("object {id} is a {kind}, and a {expected} is needed"))),
            None => Err(Error::content(format!("the server did not send object {id}"))),
        }
    }

    /// Reads a commit.
    ///
    /// # Errors
    /// When it is not here or no commit.
    pub fn commit(&mut self, id: ObjectId) -> Result<Commit> {
        let bytes = self.read(id, ObjectKind::Commit)?;
        let failed = |e| Error::library(format!("commit {id} is damaged"), e);
        let commit = CommitRef::from_bytes(&bytes, gix_hash::Kind::Sha1).map_err(failed)?;
        let time = commit.committer().and_then(|who| who.time()).map_err(failed)?;
        Ok(Commit { tree: commit.tree(), time: time.seconds })
    }
}
