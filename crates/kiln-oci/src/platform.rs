//! Platforms: operating system, architecture and variant (OCI image specification, `image-index.md`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A platform, written `os/architecture[/variant]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Architecture in Go's words (`amd64`, `arm64`, …).
    pub architecture: String,
    /// Operating system in Go's words (`linux`).
    pub os: String,
    /// Variant of the architecture (`v7`, `v8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system, for Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system.
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// Says why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a platform: expected `os/architecture[/variant]`, for example `linux/arm64`")]
pub struct PlatformError(pub String);

impl Platform {
    /// Returns the platform of `os`, `architecture` and `variant`, normalised.
    #[must_use]
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let (architecture, variant) = normalize(&architecture.to_ascii_lowercase(), variant);
        Self { architecture, os, variant, os_version: None, os_features: Vec::new() }
    }

    /// Returns the platform that this binary runs on.
    #[must_use]
    pub fn host() -> Self {
        Self::new("linux", std::env::consts::ARCH, None)
    }

    /// Tells whether an image for `offered` runs on `self`.
    ///
    /// `arm64` without a variant and `arm64/v8` are the same; a variant that only one side names does not
    /// matter otherwise, because most indexes leave it out.
    #[must_use]
    pub fn accepts(&self, offered: &Self) -> bool {
        let offered = Self::new(&offered.os, &offered.architecture, offered.variant.as_deref());
        let same_variant = match (&self.variant, &offered.variant) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.os == offered.os && self.architecture == offered.architecture && same_variant
    }
}

/// Applies containerd's aliases, so that `x86_64` and `amd64` name one thing.
fn normalize(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let variant = variant.filter(|v| !v.is_empty()).map(str::to_ascii_lowercase);
    let (architecture, variant) = match (architecture, variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", other) => ("amd64", other),
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
        ("aarch64" | "arm64", other) => ("arm64", other),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("i386" | "i686" | "x86", _) => ("386", None),
        ("powerpc64" | "powerpc64le", other) => ("ppc64le", other),
        (other, variant) => (other, variant),
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word =
            |w: &str| !w.is_empty() && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        let parts: Vec<&str> = text.split('/').collect();
        if !parts.iter().all(|p| word(p)) {
            return Err(PlatformError(text.to_owned()));
        }
        match parts.as_slice() {
            ["local"] => Ok(Self::host()),
            ["linux" | "windows" | "darwin" | "freebsd"] => {
                Ok(Self::new(parts[0], std::env::consts::ARCH, None))
            }
            [architecture] => Ok(Self::new("linux", architecture, None)),
            [os, architecture] => Ok(Self::new(os, architecture, None)),
            [os, architecture, variant] => Ok(Self::new(os, architecture, Some(variant))),
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Picks the manifest for `wanted` among the descriptors of an index: an exact variant first, then any that runs.
#[must_use]
pub fn select<'a>(wanted: &Platform, offered: &'a [crate::Descriptor]) -> Option<&'a crate::Descriptor> {
    let platform = |d: &crate::Descriptor| d.platform.clone();
    let exact = |p: &Platform| Platform::new(&p.os, &p.architecture, p.variant.as_deref()) == *wanted;
    offered
        .iter()
        .find(|d| platform(d).is_some_and(|p| exact(&p)))
        .or_else(|| offered.iter().find(|d| platform(d).is_some_and(|p| wanted.accepts(&p))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_name_one_platform() {
        for (alias, name) in [
            ("linux/x86_64", "linux/amd64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
        ] {
            assert_eq!(alias.parse::<Platform>().unwrap().to_string(), name);
        }
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/am d64"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn arm64_accepts_v8_but_v7_is_not_v6() {
        let p = |s: &str| s.parse::<Platform>().unwrap();
        assert!(p("linux/arm64").accepts(&p("linux/arm64/v8")));
        assert!(!p("linux/arm/v6").accepts(&p("linux/arm/v7")));
        assert!(!p("linux/amd64").accepts(&p("linux/arm64")));
    }
}
