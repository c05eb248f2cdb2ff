//! Variables: which value a name has at a point of the file.
//!
//! One ordered list serves ARG and ENV, and the later assignment wins, which is what BuildKit does (its
//! documentation says that ENV always beats ARG; its code lets a later ARG with a value win).

use std::collections::BTreeMap;

use kiln_oci::Platform;

/// Proxy variables: usable without ARG, kept out of history and of cache keys.
pub(super) const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "all_proxy",
];

/// Variables and their values, in the order of their first assignment.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars {
    entries: Vec<(String, String)>,
    /// Where each name is among the entries; a generated file may have very many.
    places: BTreeMap<String, usize>,
}

impl Vars {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.entries.get(*self.places.get(name)?).map(|(_, value)| value.as_str())
    }

    pub(super) fn set(&mut self, name: &str, value: &str) {
        match self.places.get(name).and_then(|place| self.entries.get_mut(*place)) {
            Some(entry) => value.clone_into(&mut entry.1),
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value.to_owned()));
            }
        }
    }

    pub(super) fn pairs(&self) -> &[(String, String)] {
        &self.entries
    }
}

/// Returns the variables that describe the platforms and the target of a build.
pub(super) fn platform_args(target: &Platform, build: &Platform, stage: &str) -> BTreeMap<String, String> {
    let mut vars = BTreeMap::new();
    for (prefix, platform) in [("TARGET", target), ("BUILD", build)] {
        vars.insert(format!("{prefix}PLATFORM"), platform.to_string());
        vars.insert(format!("{prefix}OS"), platform.os.clone());
        vars.insert(format!("{prefix}OSVERSION"), platform.os_version.clone().unwrap_or_default());
        vars.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        vars.insert(format!("{prefix}VARIANT"), platform.variant.clone().unwrap_or_default());
    }
    vars.insert("TARGETSTAGE".to_owned(), stage.to_owned());
    vars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_assignment_wins_in_place() {
        let mut vars = Vars::default();
        vars.set("A", "1");
        vars.set("B", "2");
        vars.set("A", "3");
        assert_eq!(vars.pairs(), [("A".to_owned(), "3".to_owned()), ("B".to_owned(), "2".to_owned())]);
        assert_eq!(vars.get("C"), None);
    }

    #[test]
    fn platform_variables_say_what_the_platform_is() {
        let p = |s: &str| s.parse::<Platform>().unwrap();
        let vars = platform_args(&p("linux/arm/v7"), &p("linux/amd64"), "app");
        assert_eq!(vars["TARGETPLATFORM"], "linux/arm/v7");
        assert_eq!(vars["TARGETVARIANT"], "v7");
        assert_eq!(vars["BUILDARCH"], "amd64");
        assert_eq!(vars["TARGETSTAGE"], "app");
    }
}
