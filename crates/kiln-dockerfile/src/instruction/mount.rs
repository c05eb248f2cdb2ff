//! `RUN --mount`: files that a command sees and the image does not keep.
//!
//! [`Mount`] is what was written. Its options may have variables, the type included, so most rules can be
//! checked only by [`Mount::resolve`], which makes a [`ResolvedMount`] of it. Options without variables are
//! resolved once while parsing, for the sake of their faults.

mod resolve;

use std::collections::BTreeSet;

pub use resolve::parse_size;
use resolve::{Setting, Settings};

use crate::csv;
use crate::diagnostic::{Diagnostic, quote};
use crate::expand::ExpandError;
use crate::flag::FlagValue;
use crate::source::{Span, Spanned};
use crate::suggest::suggest;
use crate::word::is_literal;

/// A mount as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The options in order.
    pub options: Vec<MountOption>,
    /// The value of the flag.
    pub span: Span,
}

/// One `key[=value]` of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOption {
    /// The key in lower case, with `src`, `dst`, `ro` and other short forms spelt out.
    pub key: Spanned<&'static str>,
    /// The value, unexpanded.
    pub value: Option<Spanned<String>>,
}

/// Whether a command may write to a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may; into a bind mount for the time of the command only.
    ReadWrite,
}

/// How commands share a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// Any number at the same time.
    #[default]
    Shared,
    /// A second command gets a cache of its own.
    Private,
    /// A second command waits.
    Locked,
}

/// A mount of type `cache`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// The name; by default the cleaned target.
    pub id: Option<String>,
    /// Where it is mounted.
    pub target: Option<String>,
    /// What an empty cache starts with: a stage, image or named context.
    pub from: Option<String>,
    /// The path in `from`.
    pub source: Option<String>,
    /// How it is shared.
    pub sharing: Sharing,
    /// The mode of a new cache; by default 0755.
    pub mode: Option<u32>,
    /// The owner of a new cache; by default 0.
    pub uid: Option<u32>,
    /// The group of a new cache; by default 0.
    pub gid: Option<u32>,
    /// Whether the command may write.
    pub access: Access,
}

/// A mount with its options known. A relative target is relative to the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvedMount {
    /// Files of the context, a stage, an image or a named context.
    Bind {
        /// Where it is mounted.
        target: Option<String>,
        /// The path in `from`; by default its root.
        source: Option<String>,
        /// Where the files are; by default the build context.
        from: Option<String>,
        /// Whether the command may write.
        access: Access,
    },
    /// A directory kept from build to build.
    Cache(CacheMount),
    /// Memory.
    Tmpfs {
        /// Where it is mounted.
        target: Option<String>,
        /// The limit in bytes.
        size: Option<u64>,
        /// The mode of its root.
        mode: Option<u32>,
        /// Whether the command may write.
        access: Access,
    },
    /// A secret of the build.
    Secret {
        /// The name; by default the last part of the target.
        id: String,
        /// The file. Absent means `/run/secrets/<last part of id>`, or no file when `env` is given.
        target: Option<String>,
        /// The variable that holds the secret.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// The mode; by default 0400.
        mode: Option<u32>,
        /// The owner; by default 0.
        uid: Option<u32>,
        /// The group; by default 0.
        gid: Option<u32>,
    },
    /// A socket of an SSH agent.
    Ssh {
        /// The name; by default `default`.
        id: Option<String>,
        /// The socket; by default `/run/buildkit/ssh_agent.<number>`.
        target: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// The mode; by default 0600.
        mode: Option<u32>,
        /// The owner; by default 0.
        uid: Option<u32>,
        /// The group; by default 0.
        gid: Option<u32>,
    },
}

/// The keys, each with the spelling that stands for it. Those of the last group come from Buildah; they steer
/// what kiln does not do or always does, and are accepted so that its files build.
const KEYS: [(&str, &str); 28] = [
    ("type", "type"),
    ("from", "from"),
    ("source", "source"),
    ("src", "source"),
    ("target", "target"),
    ("dst", "target"),
    ("destination", "target"),
    ("readonly", "readonly"),
    ("ro", "readonly"),
    ("readwrite", "readwrite"),
    ("rw", "readwrite"),
    ("id", "id"),
    ("sharing", "sharing"),
    ("required", "required"),
    ("mode", "mode"),
    ("uid", "uid"),
    ("gid", "gid"),
    ("size", "size"),
    ("env", "env"),
    ("tmpfs-size", "size"),
    ("tmpfs-mode", "tmpfs-mode"),
    ("tmpcopyup", "tmpcopyup"),
    ("z", "z"),
    ("u", "u"),
    ("relabel", "relabel"),
    ("bind-propagation", "bind-propagation"),
    ("bind-nonrecursive", "bind-nonrecursive"),
    ("consistency", "consistency"),
];

/// The keys that may stand alone.
const SWITCHES: [&str; 7] = ["readonly", "readwrite", "required", "z", "u", "bind-nonrecursive", "tmpcopyup"];

/// Reads the value of `--mount`.
pub(super) fn parse(value: &FlagValue, diagnostics: &mut Vec<Diagnostic>) -> Option<Mount> {
    let fields = match csv::parse(value) {
        Ok(fields) => fields,
        Err(reason) => {
            let message = format!("invalid mount {}: {reason}", quote(value.text()));
            diagnostics.push(Diagnostic::error("invalid-mount", value.span(), message));
            return None;
        }
    };
    let mut options = Vec::new();
    let mut seen = BTreeSet::new();
    let mut faulty = false;
    for field in fields {
        if field.text().is_empty() {
            let message = "`--mount` has an option without text";
            let diagnostic = Diagnostic::error("empty-mount-option", value.span(), message);
            diagnostics.push(diagnostic.with_help("remove the comma that is too much"));
            faulty = true;
            continue;
        }
        match option(&field) {
            Ok(option) => {
                if !seen.insert(option.key.value) {
                    let message =
                        format!("mount option `{}` is given twice; the last one counts", option.key.value);
                    let warning = Diagnostic::warning("DuplicateMountOption", field.span(), message);
                    diagnostics.push(warning.with_help("remove one of the two"));
                }
                options.push(option);
            }
            Err(diagnostic) => {
                faulty = true;
                diagnostics.push(diagnostic);
            }
        }
    }
    if faulty {
        return None;
    }
    let mount = Mount { options, span: value.span() };
    let known =
        mount.options.iter().filter_map(|option| option.value.as_ref()).all(|value| is_literal(&value.value));
    if known && let Err(diagnostic) = mount.resolve(&mut |value| Ok(value.to_owned())) {
        diagnostics.push(diagnostic);
        return None;
    }
    Some(mount)
}

fn option(field: &FlagValue) -> Result<MountOption, Diagnostic> {
    let (key, value) = field.split_equals();
    let written = key.text().to_ascii_lowercase();
    let Some((_, canonical)) = KEYS.iter().find(|(spelling, _)| *spelling == written) else {
        let spellings: Vec<&str> = KEYS.iter().map(|(spelling, _)| *spelling).collect();
        let message = format!("unknown mount option {}", quote(key.text()));
        let diagnostic = Diagnostic::error("unknown-mount-option", key.span(), message);
        return Err(diagnostic.with_suggestion(suggest(&written, &spellings)));
    };
    if value.is_none() && !SWITCHES.contains(canonical) {
        let message = format!("mount option `{written}` needs a value");
        let help = format!("write `{written}=<value>`");
        return Err(Diagnostic::error("missing-mount-value", field.span(), message).with_help(help));
    }
    let value = value.map(|value| value.spanned());
    if *canonical == "from" && value.as_ref().is_some_and(|value| has_variable(&value.value)) {
        let message = "variables are not expanded in `from` of a mount";
        let help = "write `FROM $IMAGE AS name` as a stage of its own, and use its name here";
        return Err(Diagnostic::error("variable-in-from", field.span(), message).with_help(help));
    }
    Ok(MountOption { key: Spanned::new(canonical, key.span()), value })
}

/// A dollar sign at the very end is no variable.
fn has_variable(text: &str) -> bool {
    text.find('$').is_some_and(|at| at + 1 < text.len())
}

impl Mount {
    /// Returns the value of an option as written, of several the last.
    #[must_use]
    pub fn option(&self, key: &str) -> Option<&Spanned<String>> {
        self.options.iter().rev().find(|option| option.key.value == key)?.value.as_ref()
    }

    /// Expands the options and gives them their meaning.
    ///
    /// `expand` is called once for every value except that of `from`.
    ///
    /// # Errors
    ///
    /// Returns the first fault: of the expansion, of a value, or of options that do not go together.
    pub fn resolve(
        &self,
        expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
    ) -> Result<ResolvedMount, Diagnostic> {
        let mut settings = Vec::new();
        for option in &self.options {
            let value = match &option.value {
                Some(value) if option.key.value != "from" => {
                    Some(expand(&value.value).map_err(|error| error.at(value.span))?)
                }
                Some(value) => Some(value.value.clone()),
                None => None,
            };
            let span = option.value.as_ref().map_or(option.key.span, |value| value.span);
            settings.push(Setting { key: option.key.value, value, span });
        }
        Settings { settings, span: self.span }.resolve()
    }
}

#[cfg(test)]
mod tests;
