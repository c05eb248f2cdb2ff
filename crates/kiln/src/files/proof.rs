//! Proof that what is packed is what was hashed: a layer is recorded under its key, and later builds take it for that.
//!
//! The key has seen names, modes and links of a selection; packing walks it again, hashes the same, and compares at the
//! end. Of contents, the index has what each file was. A file that has that stat before and after it is packed has that
//! content, unless it was touched so shortly before that its times say nothing: those few are hashed as they are packed.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use kiln_dockerfile::ignore::Ignore;
use kiln_oci::layer::EntryPath;
use kiln_oci::{Hasher, Sum};
use kiln_sandbox::rootdir::metadata_of;

use super::context::stamp;
use super::digest::top;
use super::select::{Selected, SourceTree};
use super::shape::{Shape, identity};
use super::tree::Node;
use crate::error::{Error, Result};
use crate::store::{ContextIndex, Evidence, Known};

/// Compares one selection with what its key has seen.
pub(super) struct Proof {
    index: Arc<ContextIndex>,
    identity: Sum,
    /// Taken when it was compared.
    shape: Option<Shape>,
    evidence: Option<Evidence>,
    what: String,
}

impl Proof {
    /// Begins with the top of `selected`; `None` when nobody but kiln can change these files.
    pub(super) fn begin(selected: &Selected, exclude: &Ignore) -> Option<Self> {
        let index = Arc::clone(selected.from.tree.index()?);
        let (identity, evidence) = (identity(selected, exclude).shape, index.evidence());
        let mut shape = Shape::default();
        shape.add(&EntryPath::root(), &top(selected));
        Some(Self { index, identity, shape: Some(shape), evidence, what: selected.from.what.clone() })
    }

    /// Adds the next entry.
    pub(super) fn add(&mut self, relative: &EntryPath, node: &Node) {
        if let Some(shape) = &mut self.shape {
            shape.add(relative, node);
        }
    }

    /// Compares the entries, when all have come.
    pub(super) fn end(&mut self) -> Result<()> {
        let shape = self.shape.take().map(Shape::finish);
        if shape.is_none_or(|shape| self.index.is_as_seen(self.identity, shape)) {
            return Ok(());
        }
        Err(changed(&self.what)
            .because("names, modes or links are not what they were when the cache was asked"))
    }
}

/// The error about a context, or a file of it, that is not what it was.
pub(super) fn changed(what: &str) -> Error {
    Error::input(format!("{what} changed during the build"))
        .hint("do not change the context while it is built")
}

/// A file that is being packed.
pub(super) struct Packed {
    file: File,
    /// What the key has seen of it, if there is an index.
    seen: Option<Known>,
    hasher: Option<Hasher>,
    /// What it is, for messages.
    name: String,
}

impl Packed {
    /// Opens the file `path` of `from`; with a proof it has to be what it was.
    pub(super) fn open(from: &SourceTree, path: &EntryPath, proof: Option<&mut Proof>) -> Result<Self> {
        let file = from.tree.open(path)?;
        let name = format!("`{path}` of {}", from.what);
        let evidence = proof.and_then(|proof| proof.evidence.as_mut());
        let Some(evidence) = evidence else { return Ok(Self { file, seen: None, hasher: None, name }) };
        let seen = evidence.of(path).ok_or_else(|| changed(&name))?;
        let hasher = (!seen.settled).then(Hasher::new);
        let packed = Self { file, seen: Some(seen), hasher, name };
        packed.compare()?;
        Ok(packed)
    }

    /// Tells whether the file is still what it was, after it was read by somebody else.
    pub(super) fn verify(mut self) -> Result<()> {
        if self.hasher.is_some() {
            io::copy(&mut self, &mut io::sink())
                .map_err(|e| Error::input(format!("cannot read {}", self.name)).because(e))?;
        }
        self.end()
    }

    fn compare(&self) -> Result<()> {
        let Some(seen) = &self.seen else { return Ok(()) };
        let now = metadata_of(&self.file)
            .map_err(|e| Error::input(format!("cannot look at {}", self.name)).because(e))?;
        if stamp(&now) == seen.stamp { Ok(()) } else { Err(changed(&self.name)) }
    }

    /// Compares again, when it was read to its end.
    pub(super) fn end(mut self) -> Result<()> {
        self.compare()?;
        let sum = self.hasher.take().map(Hasher::sum);
        match (sum, &self.seen) {
            (Some(sum), Some(seen)) if sum != seen.sum => Err(changed(&self.name)),
            _ => Ok(()),
        }
    }
}

impl Read for Packed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buf)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buf[..n]);
        }
        Ok(n)
    }
}
