//! What docs/checks.md says about a rule: the binary carries it, so that nobody has to look for the file.

/// The page, with one entry for each rule under a heading of the third level.
const PAGE: &str = include_str!("../../../../docs/checks.md");

/// Returns the entry of a rule without its heading.
pub(crate) fn entry(rule: &str) -> Option<&'static str> {
    let entries = PAGE.split("\n### ").skip(1);
    let mut named = entries.filter_map(|entry| entry.split_once('\n'));
    let (_, body) = named.find(|(name, _)| name.trim() == rule)?;
    Some(body.split("\n## ").next().unwrap_or(body).trim())
}

#[cfg(test)]
mod tests {
    use kiln::dockerfile::lint::RULES;

    use super::*;

    #[test]
    fn every_rule_is_explained() {
        for rule in &RULES {
            let entry = entry(rule.name).unwrap();
            assert!(entry.contains("Bad:") && entry.contains("Good:"), "{}: {entry}", rule.name);
            assert!(!entry.contains("\n##"), "{}: {entry}", rule.name);
        }
        assert_eq!(entry("Nothing"), None);
    }
}
