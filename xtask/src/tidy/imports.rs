//! Which crate may use which: the table of `ARCHITECTURE.md`, read from the manifests.

use super::{Finding, SourceFile};

/// What one crate may use.
struct Allowed {
    name: &'static str,
    /// Crates of this workspace.
    ours: &'static [&'static str],
    /// Crates of this workspace that its tests may use besides.
    tests: &'static [&'static str],
    /// Libraries whose presence would mean that the crate does somebody else's work.
    never: &'static [&'static str],
}

const NETWORK: [&str; 4] = ["tokio", "hyper", "reqwest", "ureq"];
/// The parts of gitoxide: whoever uses one of them speaks of commits, not of builds.
const GIT: &str = "gix";
const TERMINAL: [&str; 3] = ["clap", "indicatif", "annotate-snippets"];

const TABLE: [Allowed; 10] = [
    Allowed { name: "kiln-oci", ours: &[], tests: &[], never: &["rustix", "libc"] },
    Allowed { name: "kiln-dockerfile", ours: &[], tests: &[], never: &["serde_json", "rustix", "libc"] },
    Allowed { name: "kiln-remote", ours: &["kiln-oci"], tests: &[], never: &["rustix", "libc"] },
    Allowed { name: "kiln-git", ours: &[], tests: &[], never: &["rustix", "libc", "rustls"] },
    Allowed { name: "kiln-sandbox", ours: &[], tests: &[], never: &[] },
    Allowed {
        name: "kiln",
        ours: &["kiln-oci", "kiln-dockerfile", "kiln-remote", "kiln-git", "kiln-sandbox"],
        tests: &["kiln-testkit"],
        never: &["libc"],
    },
    Allowed { name: "kiln-cli", ours: &["kiln"], tests: &["kiln-testkit", "kiln-remote"], never: &["libc"] },
    Allowed { name: "kiln-testkit", ours: &["kiln-oci", "kiln-remote", "kiln"], tests: &[], never: &[] },
    Allowed { name: "xtask", ours: &[], tests: &[], never: &[] },
    Allowed { name: "xtask-bench", ours: &["kiln-oci", "kiln"], tests: &[], never: &[] },
];

pub(super) fn check(manifests: &[SourceFile]) -> Vec<Finding> {
    manifests.iter().flat_map(manifest).collect()
}

fn manifest(file: &SourceFile) -> Vec<Finding> {
    let name = package(&file.text).unwrap_or_default();
    let Some(allowed) = TABLE.iter().find(|a| a.name == name) else {
        let what =
            format!("package `{name}` is not in the table of imports: add it there and to ARCHITECTURE.md");
        return vec![Finding::new(&file.path, what)];
    };
    let mut found = Vec::new();
    for (line, used, test) in dependencies(&file.text) {
        let place = format!("{}:{line}", file.path);
        let ours = used == "kiln" || used.starts_with("kiln-") || used == "xtask";
        if ours && !allowed.ours.contains(&used) && !(test && allowed.tests.contains(&used)) {
            found.push(Finding::new(
                &place,
                format!("`{name}` may not use `{used}`: data flows the other way"),
            ));
        }
        if name == "xtask" {
            found.push(Finding::new(&place, format!("`xtask` has no dependencies, not even `{used}`")));
        }
        let network = name != "kiln-remote" && NETWORK.contains(&used);
        let terminal = name != "kiln-cli" && TERMINAL.contains(&used);
        let git = name != "kiln-git" && used.split('-').next() == Some(GIT);
        if network || terminal || git || allowed.never.contains(&used) {
            found.push(Finding::new(&place, format!("`{used}` is not the business of `{name}`")));
        }
    }
    found
}

fn package(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("name = \""))?;
    line.strip_suffix('"')
}

/// Returns every dependency with its line and whether only tests have it.
fn dependencies(text: &str) -> Vec<(usize, &str, bool)> {
    let mut section = "";
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
            continue;
        }
        if !section.ends_with("dependencies") || section.starts_with("workspace") || line.starts_with('#') {
            continue;
        }
        if let Some((key, _)) = line.split_once('=') {
            let name = key.split('.').next().unwrap_or(key).trim();
            found.push((index + 1, name, section.ends_with("dev-dependencies")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let file = SourceFile { path: "Cargo.toml".to_owned(), text: text.to_owned() };
        let found: Vec<String> = manifest(&file).into_iter().map(|f| f.message).collect();
        assert_eq!(found.len(), expect.len(), "{found:?}");
        for (found, expect) in found.iter().zip(expect) {
            assert!(found.contains(expect), "{found}");
        }
    }

    #[test]
    fn crates_use_what_the_table_says() {
        check("name = \"kiln-oci\"\n[dependencies]\nserde.workspace = true\n", &[]);
        check(
            "name = \"kiln-oci\"\n[dependencies]\nkiln.workspace = true\n",
            &["`kiln-oci` may not use `kiln`"],
        );
        check("name = \"kiln\"\n[dev-dependencies]\nkiln-testkit.workspace = true\n", &[]);
        check(
            "name = \"kiln\"\n[dependencies]\nkiln-testkit.workspace = true\n",
            &["may not use `kiln-testkit`"],
        );
        check("name = \"kiln\"\n[dependencies]\ntokio = \"1\"\nclap = \"4\"\n", &["`tokio`", "`clap`"]);
        check("name = \"kiln\"\n[dependencies]\ngix-pack = \"1\"\n", &["`gix-pack` is not the business"]);
        check("name = \"kiln-extra\"\n", &["not in the table"]);
    }
}
