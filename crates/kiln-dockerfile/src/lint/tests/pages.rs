//! `docs/checks.md`: every rule has its entry, and its examples are true.

use super::*;

const PAGE: &str = include_str!("../../../../../docs/checks.md");

/// One entry of the page.
struct Entry<'a> {
    rule: &'a str,
    body: &'a str,
}

fn entries() -> Vec<Entry<'static>> {
    let parts = PAGE.split("\n### ").skip(1);
    parts
        .map(|part| {
            let (rule, body) = part.split_once('\n').unwrap();
            Entry { rule: rule.trim(), body: body.split("\n## ").next().unwrap() }
        })
        .collect()
}

impl Entry<'_> {
    /// The blocks of code with a label, in order.
    fn blocks(&self, label: &str) -> Vec<&str> {
        let opening = format!("```{label}\n");
        self.body.split(&opening).skip(1).map(|part| part.split("```").next().unwrap()).collect()
    }

    /// The circumstances that the entry describes.
    fn facts(&self) -> Facts {
        let ignore = self.blocks("ignore").first().map(|text| Ignore::parse(text).0);
        let mut facts = Facts { ignore, ..Facts::default() };
        if self.rule == "UnpinnedBase" {
            facts.pinning = Pinning::Digest;
        }
        if self.rule == "InvalidBaseImagePlatform" {
            facts.bases.insert(0, image("linux/amd64", "linux/arm64", &[]));
        }
        if self.rule == "InvalidDefaultArgInFrom" {
            facts.build_args = text(&[("VERSION", "12")]);
        }
        facts
    }
}

#[test]
fn every_rule_has_an_entry_and_every_entry_a_rule() {
    let written: Vec<_> = entries().iter().map(|entry| entry.rule).collect();
    let known: Vec<_> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(written, known);
}

#[test]
fn bad_examples_raise_their_rule_and_good_ones_none() {
    for entry in entries() {
        let blocks = entry.blocks("dockerfile");
        let [bad, good] = blocks.as_slice() else { panic!("{} needs two examples", entry.rule) };
        let found = report(bad, &entry.facts()).findings;
        assert!(!found.is_empty(), "{}: nothing is found in\n{bad}", entry.rule);
        for finding in found {
            assert_eq!(finding.code, entry.rule, "{bad}");
        }
        let mut facts = entry.facts();
        if entry.rule == "InvalidBaseImagePlatform" {
            facts.bases.insert(0, image("linux/arm64", "linux/arm64", &[]));
        }
        assert_eq!(report(good, &facts).findings, [], "{}: {good}", entry.rule);
    }
}

/// A piece of a file, cut off anywhere, is looked at without harm, and no fix breaks what was whole.
#[test]
fn every_beginning_of_an_example_can_be_checked_and_fixed() {
    for entry in entries() {
        let facts = entry.facts();
        for block in entry.blocks("dockerfile") {
            let block = format!("{block}# ä\nCMD a\nENTRYPOINT <<EOF\nCOPY \"$A\" '\n");
            for end in (0..block.len()).filter(|end| block.is_char_boundary(*end)) {
                let source = &block[..end];
                let (tree, diagnostics) = crate::parse(source);
                let findings =
                    report_of(&File { tree: &tree, source, diagnostics: &diagnostics }, &facts).findings;
                for finding in &findings {
                    assert!(
                        source.get(finding.span.start..finding.span.end).is_some(),
                        "{source}: {finding:?}"
                    );
                }
                let faulty = |diagnostics: &[Diagnostic]| diagnostics.iter().any(Diagnostic::is_error);
                let (fixed, _) = apply(source, &findings);
                assert!(faulty(&diagnostics) || !faulty(&crate::parse(&fixed).1), "{source}\n{fixed}");
            }
        }
    }
}
