//! What is taken for granted about a base image whose files nobody has looked at.
//!
//! `COPY app /app` onto a base from a registry needs to know whether the base has an `/app`, and that is all it
//! would have to download the base for. Every image built from a distribution has the same top: `/usr`, `/etc`
//! and their like, and a path outside of that top exists only if some instruction made it, which the image's
//! history then names. So:
//!
//! * the directories in [`PLAIN`] are directories of root with mode 0755, as they would be if they were made;
//! * a path directly in one of [`OPEN`], or below such a path, does not exist if neither the history nor the
//!   config of the base mentions it;
//! * of everything else nothing is known, and the files of the base are looked at.
//!
//! The answer depends on the base's documents alone, never on what this machine has in its store, so that every
//! machine builds the same layer.

use kiln_oci::layer::{Entry, EntryPath, Kind};
use kiln_oci::{Hasher, ImageConfig};

use super::tree::LATEST;

/// Directories that are the same in every image that has them.
const PLAIN: [&str; 18] = [
    "etc",
    "home",
    "mnt",
    "opt",
    "srv",
    "usr",
    "usr/bin",
    "usr/lib",
    "usr/local",
    "usr/local/bin",
    "usr/sbin",
    "usr/share",
    "usr/src",
    "var",
    "var/cache",
    "var/lib",
    "var/log",
    "var/opt",
];

/// Directories in which a distribution puts nothing of its own.
const OPEN: [&str; 6] = ["", "mnt", "opt", "srv", "usr/local/bin", "usr/src"];

/// Names directly below the root that are a distribution's.
const TOP: [&str; 16] = [
    "bin",
    "boot",
    "dev",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "lost+found",
    "media",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "init",
];

/// What is known of a path without looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// It is this directory.
    Directory(Entry),
    /// It does not exist.
    Absent,
    /// Nothing.
    No,
}

/// What a base image's documents say.
#[derive(Debug, Clone)]
pub(crate) struct Assumptions {
    /// History and config as one text.
    mentioned: String,
    /// Whether the history tells of every layer.
    told: bool,
}

impl Assumptions {
    /// Reads the documents of a base with `layers` layers.
    pub(crate) fn new(config: &ImageConfig, layers: usize) -> Self {
        let made = config.history.iter().filter(|h| !h.empty_layer);
        let told = made.clone().count() >= layers && made.clone().all(|h| h.created_by.is_some());
        let mut mentioned = String::new();
        for text in config.history.iter().filter_map(|h| h.created_by.as_deref()) {
            mentioned.push_str(text);
            mentioned.push('\n');
        }
        mentioned.push_str(&serde_json::to_string(&config.config).unwrap_or_default());
        Self { mentioned, told }
    }

    /// Adds what every answer depends on to a cache key.
    pub(crate) fn hash(&self, hasher: &mut Hasher) {
        hasher.field(&[u8::from(self.told)]);
        hasher.field(self.mentioned.as_bytes());
    }

    pub(super) fn know(&self, path: &EntryPath) -> Known {
        let text = String::from_utf8_lossy(path.as_bytes()).into_owned();
        if path.is_root() || PLAIN.contains(&text.as_str()) {
            let entry = Entry::new(path.clone(), Kind::Directory, 0o755);
            return Known::Directory(Entry { mtime: LATEST, ..entry });
        }
        if self.told && self.is_open(path) { Known::Absent } else { Known::No }
    }

    fn is_open(&self, path: &EntryPath) -> bool {
        let mut below = path.clone();
        while let Some(parent) = below.parent() {
            let dir = String::from_utf8_lossy(parent.as_bytes()).into_owned();
            if OPEN.contains(&dir.as_str()) {
                let name = String::from_utf8_lossy(below.name()).into_owned();
                let distribution =
                    dir.is_empty() && (TOP.contains(&name.as_str()) || PLAIN.contains(&name.as_str()));
                return !distribution && !self.mentioned.contains(&name);
            }
            below = parent;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_oci::History;

    fn base(history: &[&str]) -> Assumptions {
        let mut config = ImageConfig::default();
        config.config.working_dir = "/work".into();
        for text in history {
            config.history.push(History { created_by: Some((*text).to_owned()), ..History::default() });
        }
        Assumptions::new(&config, 2)
    }

    fn check(base: &Assumptions, path: &str, expect: &str) {
        let found = match base.know(&EntryPath::new(path).unwrap()) {
            Known::Directory(_) => "directory",
            Known::Absent => "absent",
            Known::No => "unknown",
        };
        assert_eq!(found, expect, "{path}");
    }

    #[test]
    fn what_distributions_share_is_known_and_what_they_hold_is_not() {
        let base = base(&["ADD rootfs.tar /", "RUN mkdir -p /data"]);
        for (path, expect) in [
            ("", "directory"),
            ("usr/local/bin", "directory"),
            ("hello.txt", "absent"),
            ("app", "absent"),
            ("app/sub/file", "absent"),
            ("opt/tool", "absent"),
            ("usr/local/bin/server", "absent"),
            ("bin", "unknown"),
            ("lib/x", "unknown"),
            ("tmp", "unknown"),
            ("etc/nginx", "unknown"),
            ("usr/bin/python", "unknown"),
            ("var/www", "unknown"),
            ("home/app", "unknown"),
            ("data", "unknown"),
            ("data/x", "unknown"),
            ("work/x", "unknown"),
        ] {
            check(&base, path, expect);
        }
    }

    #[test]
    fn a_base_that_does_not_tell_its_history_is_not_trusted() {
        check(&base(&["ADD rootfs.tar /"]), "app", "unknown");
    }
}
