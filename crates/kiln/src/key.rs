//! Cache keys as lists of named parts: the digest decides whether a step is in a cache, the parts tell why it is not.
//!
//! A part is hashed with its name, both framed by their length, so that no two lists hash alike by shifting bytes from
//! one part to the next. What a part *shows* may be shorter than what it hashes. A remark is shown and not hashed:
//! the name that a base image was asked by, for one.

use kiln_oci::{Digest, Hasher};
use serde::{Deserialize, Serialize};

/// A value longer than this is shown as its digest.
const SHOWN: usize = 200;

/// Hexadecimal digits of the digest of a value that may leave this machine.
const PART_FINGERPRINT: usize = 8;
/// Hexadecimal digits that are shown of the digest of a secret.
const FINGERPRINT: usize = 3;

/// Name of the part that stands for the root file system that a step works on.
pub const BELOW: &str = "below";
/// First word of parts that stand for the files of another step.
pub const FROM: &str = "from";
/// First words of parts that stand for files of a context.
pub const FILES: &str = "files of";
/// First word of parts that stand for one variable.
pub const VARIABLE: &str = "variable";

/// One thing that a key depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// What it is, such as `variable PATH`.
    pub name: String,
    /// What it was, or the digest of that.
    pub value: String,
}

/// The key of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// Covers every part.
    pub digest: Digest,
    /// Covers every part but those that name other steps: equal for two steps that do the same to whatever is below.
    pub operation: Digest,
    /// In the order in which they were hashed.
    pub parts: Vec<Part>,
}

/// A step of an earlier build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    /// Its title, with stage and number.
    pub title: String,
    /// Digest of its key.
    pub key: Digest,
    /// What its key was made from.
    pub parts: Vec<Part>,
    /// Whether the values of its parts are as they were shown; else they are fingerprints.
    pub is_exact: bool,
}

impl Part {
    /// Returns the part as it may leave this machine: a little of the digest of its value.
    #[must_use]
    pub fn fingerprint(&self) -> Self {
        let value = Digest::sha256(self.value.as_bytes()).hex().chars().take(PART_FINGERPRINT).collect();
        Self { name: self.name.clone(), value }
    }
}

/// Collects the parts of a key.
#[derive(Debug)]
pub struct KeyBuilder {
    all: Hasher,
    operation: Hasher,
    parts: Vec<Part>,
}

impl KeyBuilder {
    /// Starts a key of a kind of operation, such as `exec`, of a version of kiln's layers.
    #[must_use]
    pub fn new(version: &str, kind: &str) -> Self {
        let mut key = Self { all: Hasher::new(), operation: Hasher::new(), parts: Vec::new() };
        key.part("kiln", version);
        key.part("operation", kind);
        key
    }

    /// Adds something that the step depends on.
    pub fn part(&mut self, name: impl Into<String>, value: impl AsRef<[u8]>) {
        let (name, value) = (name.into(), value.as_ref());
        for hasher in [&mut self.all, &mut self.operation] {
            hasher.field(name.as_bytes());
            hasher.field(value);
        }
        self.parts.push(Part { name, value: shown(value) });
    }

    /// Adds a value that must not be guessed from what is shown of it: so little that almost any value would fit.
    pub fn secret(&mut self, name: impl Into<String>, value: &[u8]) {
        let name = name.into();
        for hasher in [&mut self.all, &mut self.operation] {
            hasher.field(name.as_bytes());
            hasher.field(value);
        }
        let digest = Digest::sha256(value);
        self.parts.push(Part { name, value: digest.hex().chars().take(FINGERPRINT).collect() });
    }

    /// Adds the step below, by its key.
    pub fn below(&mut self, key: &Digest) {
        self.input(BELOW, BELOW.to_owned(), key);
    }

    /// Adds a step whose files the step takes, by its key; `title` is shown and counts for nothing.
    pub fn from(&mut self, title: &str, key: &Digest) {
        self.input(FROM, format!("{FROM} {title}"), key);
    }

    fn input(&mut self, kind: &str, shown: String, key: &Digest) {
        self.all.field(kind.as_bytes());
        self.all.field(key.as_str().as_bytes());
        self.operation.field(kind.as_bytes());
        self.parts.push(Part { name: shown, value: key.as_str().to_owned() });
    }

    /// Adds something that counts for nothing and helps to explain what does.
    pub fn remark(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.parts.push(Part { name: name.into(), value: value.into() });
    }

    /// Returns the key.
    #[must_use]
    pub fn finish(self) -> Key {
        Key { digest: self.all.finish(), operation: self.operation.finish(), parts: self.parts }
    }
}

impl Key {
    /// Returns the key of the same operation on inputs that are named by what they hold: the digests of their layers.
    ///
    /// It finds a step whose inputs were made anew and came out as they were.
    #[must_use]
    pub fn by_content<'a>(&self, inputs: impl IntoIterator<Item = &'a [Digest]>) -> Digest {
        let mut hasher = Hasher::new();
        hasher.field(b"by content");
        hasher.field(self.operation.as_str().as_bytes());
        for layers in inputs {
            hasher.field(&(layers.len() as u64).to_le_bytes());
            for layer in layers {
                hasher.field(layer.as_str().as_bytes());
            }
        }
        hasher.finish()
    }

    /// Returns the value of the part called `name`.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.parts.iter().find(|part| part.name == name).map(|part| part.value.as_str())
    }
}

fn shown(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) if text.len() <= SHOWN => text.to_owned(),
        _ => Digest::sha256(value).as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(parts: &[(&str, &str)], below: &str) -> Key {
        let mut key = KeyBuilder::new("1", "exec");
        key.below(&Digest::sha256(below.as_bytes()));
        for (name, value) in parts {
            key.part(*name, value);
        }
        key.finish()
    }

    #[test]
    fn bytes_do_not_move_between_parts() {
        let lists: [&[(&str, &str)]; 5] =
            [&[("a", "bc")], &[("ab", "c")], &[("a", "b"), ("c", "")], &[("a", "b"), ("", "c")], &[]];
        for (i, a) in lists.iter().enumerate() {
            for (j, b) in lists.iter().enumerate() {
                assert_eq!(key(a, "x").digest == key(b, "x").digest, i == j, "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_operation_leaves_out_which_step_is_below() {
        let (a, b) = (key(&[("command", "make")], "a"), key(&[("command", "make")], "b"));
        assert_ne!(a.digest, b.digest);
        assert_eq!(a.operation, b.operation);
        assert_ne!(a.operation, key(&[("command", "make all")], "a").operation);
        let (one, two) = ([Digest::sha256(b"1")], [Digest::sha256(b"1"), Digest::sha256(b"2")]);
        assert_eq!(a.by_content([&one[..], &two[..]]), b.by_content([&one[..], &two[..]]));
        assert_ne!(a.by_content([&one[..], &two[..]]), a.by_content([&two[..], &one[..]]));
        assert_ne!(a.by_content([&two[..], &[]]), a.by_content([&one[..], &two[1..]]));
    }

    #[test]
    fn remarks_do_not_count_and_long_values_are_shown_as_digests() {
        let mut remarked = KeyBuilder::new("1", "exec");
        remarked.below(&Digest::sha256(b"x"));
        remarked.remark("image", "debian:12");
        let remarked = remarked.finish();
        assert_eq!(remarked.digest, key(&[], "x").digest);
        assert_eq!(remarked.value("image"), Some("debian:12"));
        let long = "y".repeat(SHOWN + 1);
        let (a, b) = (key(&[("script", &long)], "x"), key(&[("script", &format!("{long}y"))], "x"));
        assert_ne!(a.digest, b.digest);
        assert_eq!(a.value("script"), Some(Digest::sha256(long.as_bytes()).as_str()));
        assert_ne!(a.value("script"), b.value("script"));
    }
}
