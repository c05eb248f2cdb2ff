//! The meaning of mount options once their values are known.

use super::{Access, CacheMount, ResolvedMount, Sharing};
use crate::diagnostic::{Diagnostic, quote};
use crate::source::Span;
use crate::suggest::suggest;
use crate::word::parse_bool;

/// The keys that only some types know.
const LIMITED: [(&str, &[&str]); 8] = [
    ("sharing", &["cache"]),
    ("required", &["secret", "ssh"]),
    ("mode", &["cache", "secret", "ssh"]),
    ("uid", &["cache", "secret", "ssh"]),
    ("gid", &["cache", "secret", "ssh"]),
    ("size", &["tmpfs"]),
    ("env", &["secret"]),
    ("from", &["bind", "cache", "tmpfs", "ssh"]),
];

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

/// An option after expansion.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) value: Option<String>,
    pub(super) span: Span,
}

pub(super) struct Settings {
    pub(super) settings: Vec<Setting>,
    pub(super) span: Span,
}

impl Settings {
    pub(super) fn resolve(&self) -> Result<ResolvedMount, Diagnostic> {
        let kind = self.kind()?;
        for setting in &self.settings {
            let types = LIMITED.iter().find(|(key, _)| *key == setting.key).map(|(_, types)| *types);
            if types.is_some_and(|types| !types.contains(&kind)) {
                let message = format!("mount option `{}` is not for mounts of type `{kind}`", setting.key);
                let types = types.unwrap_or_default().join("`, `");
                return Err(invalid(setting.span, message).with_help(format!("it is for `{types}`")));
            }
        }
        let target = self.target()?;
        let access = self.access(kind)?;
        Ok(match kind {
            "cache" => ResolvedMount::Cache(CacheMount {
                id: self.text("id"),
                target,
                from: self.text("from"),
                source: self.text("source"),
                sharing: self.sharing()?,
                mode: self.number("mode", 8)?,
                uid: self.number("uid", 10)?,
                gid: self.number("gid", 10)?,
                access,
            }),
            "tmpfs" => ResolvedMount::Tmpfs {
                target,
                size: self.size()?,
                mode: self.number("tmpfs-mode", 8)?,
                access,
            },
            "secret" => ResolvedMount::Secret {
                id: self.secret_id(target.as_deref())?,
                target,
                env: self.env()?,
                required: self.required()?,
                mode: self.number("mode", 8)?,
                uid: self.number("uid", 10)?,
                gid: self.number("gid", 10)?,
            },
            "ssh" => ResolvedMount::Ssh {
                id: self.text("id").or_else(|| self.text("source")),
                target,
                required: self.required()?,
                mode: self.number("mode", 8)?,
                uid: self.number("uid", 10)?,
                gid: self.number("gid", 10)?,
            },
            _ => ResolvedMount::Bind { target, source: self.text("source"), from: self.text("from"), access },
        })
    }

    fn last(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rev().find(|setting| setting.key == key)
    }

    /// The value of a key; an empty one counts as absent.
    fn text(&self, key: &str) -> Option<String> {
        self.last(key)?.value.clone().filter(|value| !value.is_empty())
    }

    fn kind(&self) -> Result<&'static str, Diagnostic> {
        let Some(setting) = self.last("type") else { return Ok("bind") };
        let value = setting.value.as_deref().unwrap_or_default();
        TYPES.into_iter().find(|known| known.eq_ignore_ascii_case(value)).ok_or_else(|| {
            let diagnostic = invalid(setting.span, format!("unknown mount type {}", quote(value)));
            match suggest(value, &TYPES) {
                Some(near) => diagnostic.with_suggestion(Some(near)),
                None => diagnostic.with_help(format!("the types are `{}`", TYPES.join("`, `"))),
            }
        })
    }

    fn target(&self) -> Result<Option<String>, Diagnostic> {
        let target = self.text("target");
        match target.as_deref().map(crate::ignore::clean_path) {
            Some(clean) if clean == "/" => {
                Err(invalid(self.span_of("target"), "a mount cannot have `/` as its target"))
            }
            _ => Ok(target),
        }
    }

    fn access(&self, kind: &str) -> Result<Access, Diagnostic> {
        let mut access = match kind {
            "cache" | "tmpfs" => Access::ReadWrite,
            _ => Access::ReadOnly,
        };
        for setting in &self.settings {
            let read_only_when = match setting.key {
                "readonly" => true,
                "readwrite" => false,
                _ => continue,
            };
            let read_only = boolean(setting)? == read_only_when;
            access = if read_only { Access::ReadOnly } else { Access::ReadWrite };
        }
        Ok(access)
    }

    fn required(&self) -> Result<bool, Diagnostic> {
        self.last("required").map_or(Ok(false), boolean)
    }

    fn sharing(&self) -> Result<Sharing, Diagnostic> {
        let Some(setting) = self.last("sharing") else { return Ok(Sharing::Shared) };
        let value = setting.value.as_deref().unwrap_or_default();
        match value.to_ascii_lowercase().as_str() {
            "shared" => Ok(Sharing::Shared),
            "private" => Ok(Sharing::Private),
            "locked" => Ok(Sharing::Locked),
            _ => {
                let diagnostic =
                    invalid(setting.span, format!("unknown sharing {} of a cache mount", quote(value)));
                Err(match suggest(value, &["shared", "private", "locked"]) {
                    Some(near) => diagnostic.with_suggestion(Some(near)),
                    None => diagnostic.with_help("sharing is one of `shared`, `private`, `locked`"),
                })
            }
        }
    }

    fn number(&self, key: &str, radix: u32) -> Result<Option<u32>, Diagnostic> {
        let Some(setting) = self.last(key) else { return Ok(None) };
        let value = setting.value.as_deref().unwrap_or_default();
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        match u32::from_str_radix(value, radix) {
            Ok(number) if digits => Ok(Some(number)),
            _ => {
                let kind = if radix == 8 { "an octal number" } else { "a number" };
                let message = format!("mount option `{key}` must be {kind}, not {}", quote(value));
                Err(invalid(setting.span, message))
            }
        }
    }

    fn size(&self) -> Result<Option<u64>, Diagnostic> {
        let Some(setting) = self.last("size") else { return Ok(None) };
        let value = setting.value.as_deref().unwrap_or_default();
        let invalid_size = || {
            let message = format!("invalid size {} of a mount", quote(value));
            invalid(setting.span, message)
                .with_help("write a number of bytes, or one with `k`, `m`, `g` or `t`")
        };
        parse_size(value).map(Some).ok_or_else(invalid_size)
    }

    fn secret_id(&self, target: Option<&str>) -> Result<String, Diagnostic> {
        match (self.text("source"), self.text("id")) {
            (Some(_), Some(_)) => {
                Err(invalid(self.span, "a secret mount has either `id` or `source`, not both"))
            }
            (Some(id), None) | (None, Some(id)) => Ok(id),
            (None, None) => {
                let name = target.and_then(|target| target.trim_end_matches('/').rsplit('/').next());
                let named = name.filter(|name| !name.is_empty()).map(str::to_owned);
                named.ok_or_else(|| {
                    invalid(self.span, "a secret mount needs `id` or `target`").with_help("write `id=<name>`")
                })
            }
        }
    }

    fn env(&self) -> Result<Option<String>, Diagnostic> {
        match self.last("env") {
            Some(setting) if setting.value.as_deref().unwrap_or_default().is_empty() => {
                Err(invalid(setting.span, "mount option `env` needs the name of a variable"))
            }
            Some(setting) => Ok(setting.value.clone()),
            None => Ok(None),
        }
    }

    fn span_of(&self, key: &str) -> Span {
        self.last(key).map_or(self.span, |setting| setting.span)
    }
}

fn invalid(span: Span, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error("invalid-mount", span, message)
}

fn boolean(setting: &Setting) -> Result<bool, Diagnostic> {
    let Some(value) = &setting.value else { return Ok(true) };
    parse_bool(value).ok_or_else(|| {
        let message =
            format!("mount option `{}` must be `true` or `false`, not {}", setting.key, quote(value));
        invalid(setting.span, message)
    })
}

/// Reads a number of bytes with an optional binary unit: `64m`, `1.5GiB`, `1024`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let unit_start = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at_checked(unit_start.unwrap_or(text.len()))?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let letter = match unit.as_str() {
        "" | "b" => "",
        other => other.strip_suffix("ib").or_else(|| other.strip_suffix('b')).unwrap_or(other),
    };
    let power = match letter {
        "" if matches!(unit.as_str(), "" | "b") => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let scale = 1024_u64.checked_pow(power)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut size = whole.checked_mul(scale)?;
    let mut part = scale;
    for digit in fraction.bytes().take_while(u8::is_ascii_digit) {
        size = size.checked_add(u64::from(digit - b'0') * part / 10)?;
        part /= 10;
    }
    Some(size)
}
