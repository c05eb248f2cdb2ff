//! `case.toml` as data. An unknown key is an error, because a misspelt expectation would expect nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// One folder of the corpus.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// `GROUP/NAME`.
    #[serde(skip)]
    pub name: String,
    /// The folder.
    #[serde(skip)]
    pub dir: PathBuf,
    /// The rule, as a sentence.
    pub title: String,
    /// Where the rule is written: a section of the language reference, or what of BuildKit's code decides.
    pub reference: String,
    /// What the image stands on: `scratch`, `tools`, or the name of a parent.
    #[serde(default = "scratch")]
    pub base: String,
    /// Programs that the commands of the case call.
    #[serde(default)]
    pub needs: Vec<String>,
    /// Whether making the context wants root: attributes that only root may set.
    #[serde(default)]
    pub needs_root: bool,
    /// `--build-arg`.
    #[serde(default)]
    pub build_args: BTreeMap<String, String>,
    /// `--label`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `--target`.
    #[serde(default)]
    pub target: Option<String>,
    /// `--platform`.
    #[serde(default)]
    pub platform: Option<String>,
    /// `--build-context`: names and directories of the case, or another source in full.
    #[serde(default)]
    pub contexts: BTreeMap<String, String>,
    /// Images that are built first: their names and Dockerfiles.
    #[serde(default)]
    pub parents: BTreeMap<String, String>,
    /// `--secret`: ids and contents.
    #[serde(default)]
    pub secrets: BTreeMap<String, String>,
    /// Entitlements that BuildKit wants for the case.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Directory whose files are served over HTTP; the build argument `SERVER` has host and port.
    #[serde(default)]
    pub serve: Option<String>,
    /// Why kiln cannot do this yet.
    #[serde(default)]
    pub pending: Option<String>,
    /// What git cannot keep of the context.
    #[serde(default)]
    pub context: Vec<Extra>,
    /// The image.
    #[serde(default)]
    pub expect: Option<Expected>,
    /// The failure.
    #[serde(default)]
    pub error: Option<Failure>,
    /// Where kiln differs from BuildKit, and why.
    #[serde(default)]
    pub difference: Option<Difference>,
}

fn scratch() -> String {
    "scratch".to_owned()
}

/// An entry of the context that a checkout cannot have.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// Path from the folder of the case: `context/x`.
    pub path: String,
    /// Content of a new file.
    #[serde(default)]
    pub content: Option<String>,
    /// Size of a new file of zeros.
    #[serde(default)]
    pub size: Option<u64>,
    /// Mode.
    #[serde(default)]
    pub mode: Option<u32>,
    /// Target of a symbolic link.
    #[serde(default)]
    pub symlink: Option<String>,
    /// Path of the file that this is another name of.
    #[serde(default)]
    pub hardlink: Option<String>,
    /// A named pipe.
    #[serde(default)]
    pub fifo: bool,
    /// A directory.
    #[serde(default)]
    pub dir: bool,
    /// Extended attributes: names, and bytes in hexadecimal digits.
    #[serde(default)]
    pub xattrs: BTreeMap<String, String>,
    /// A tar archive of a directory of the case.
    #[serde(default)]
    pub archive: Option<Archive>,
    /// A git repository whose branch `main` and tag `v1` have the files of this directory of the case.
    #[serde(default)]
    pub repository: Option<String>,
}

/// An archive that is made for the case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Archive {
    /// Directory of the case that is packed.
    pub of: String,
    /// `none`, `gzip`, `bzip2`, `xz` or `zstd`.
    #[serde(default)]
    pub compression: Option<String>,
}

/// What an image is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Layers above the base.
    #[serde(default)]
    pub layers: Option<usize>,
    /// Every path in which the root file system differs from that of the base.
    #[serde(default)]
    pub rootfs: Option<String>,
    /// History above the base.
    #[serde(default)]
    pub history: Option<Vec<String>>,
    /// Fields of `config` that differ from those of the base.
    #[serde(default)]
    pub config: Option<BTreeMap<String, Value>>,
    /// Fields of `config` that the base has and the image has not.
    #[serde(default)]
    pub absent: Option<Vec<String>>,
    /// Fields beside `config`: author, architecture, os, variant.
    #[serde(default)]
    pub document: Option<BTreeMap<String, Value>>,
}

/// How a build fails.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Exit code of kiln, 1 if not said.
    #[serde(default)]
    pub code: Option<i32>,
    /// Line of the Dockerfile that both point at.
    #[serde(default)]
    pub line: Option<usize>,
    /// Parts of kiln's message.
    #[serde(default)]
    pub kiln: Vec<String>,
    /// Parts of BuildKit's message.
    #[serde(default)]
    pub buildkit: Vec<String>,
}

/// Where kiln differs from BuildKit: `reason`, and kiln's result over that of the case.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Difference {
    /// Why that is better.
    pub reason: String,
    /// What of the image is different; the rest is as the case says.
    #[serde(default)]
    pub expect: Option<Expected>,
    /// The failure, where only kiln fails.
    #[serde(default)]
    pub error: Option<Failure>,
}

impl Expected {
    /// Returns this with everything that `other` says in its place.
    #[must_use]
    pub(super) fn with(&self, other: &Self) -> Self {
        let other = other.clone();
        Self {
            layers: other.layers.or(self.layers),
            rootfs: other.rootfs.or_else(|| self.rootfs.clone()),
            history: other.history.or_else(|| self.history.clone()),
            config: other.config.or_else(|| self.config.clone()),
            absent: other.absent.or_else(|| self.absent.clone()),
            document: other.document.or_else(|| self.document.clone()),
        }
    }
}

impl Case {
    /// Reads every case below `corpus`, sorted by name.
    ///
    /// # Errors
    /// When a folder is no case: the message names it.
    pub fn all(corpus: &Path) -> Result<Vec<Self>, String> {
        let mut cases = Vec::new();
        for group in folders(corpus)? {
            for dir in folders(&group)? {
                cases.push(Self::read(corpus, &dir)?);
            }
        }
        Ok(cases)
    }

    fn read(corpus: &Path, dir: &Path) -> Result<Self, String> {
        let file = dir.join("case.toml");
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut case: Self = toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        case.name = dir.strip_prefix(corpus).unwrap_or(dir).to_string_lossy().into_owned();
        dir.clone_into(&mut case.dir);
        if case.expect.is_some() == case.error.is_some() {
            return Err(format!("{}: a case has either [expect] or [error]", file.display()));
        }
        Ok(case)
    }
}

fn folders(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let list = || -> std::io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        found.sort();
        Ok(found)
    };
    list().map_err(|e| format!("cannot list {}: {e}", dir.display()))
}
