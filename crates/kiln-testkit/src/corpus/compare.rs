//! The differences between what a case says and what a builder did, as lines for a person.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Base, Case, Expected, Failure, Observed};
use crate::Outcome;

/// Whose result is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// kiln: its differences count.
    Kiln,
    /// BuildKit: the case as it stands.
    BuildKit,
}

impl Case {
    /// Returns what differs, line by line; nothing if all is as the case says.
    ///
    /// `observe` reads the image after a build that succeeded.
    pub fn compare(
        &self,
        subject: Subject,
        outcome: &Outcome,
        base: &Base,
        observe: impl FnOnce() -> Result<Observed, String>,
    ) -> Vec<String> {
        let (expected, failure) = self.expectation(subject);
        if let Some(failure) = failure {
            return failed(subject, &failure, outcome);
        }
        if outcome.code != Some(0) {
            return vec![format!("the build failed with {:?}:", outcome.code), outcome.stderr.clone()];
        }
        match observe() {
            Ok(observed) => image(&expected.unwrap_or_default(), base, &observed),
            Err(why) => vec![format!("the image cannot be read: {why}")],
        }
    }

    /// Returns what `subject` shall do: an image or a failure.
    fn expectation(&self, subject: Subject) -> (Option<Expected>, Option<Failure>) {
        let own = (self.expect.clone(), self.error.clone());
        let Some(difference) = self.difference.as_ref().filter(|_| subject == Subject::Kiln) else {
            return own;
        };
        match (&difference.expect, &difference.error) {
            (_, Some(failure)) => (None, Some(failure.clone())),
            (Some(expect), None) => (Some(self.expect.clone().unwrap_or_default().with(expect)), None),
            (None, None) => own,
        }
    }
}

fn failed(subject: Subject, failure: &Failure, outcome: &Outcome) -> Vec<String> {
    if outcome.code == Some(0) {
        return vec!["the build succeeded, and ought to fail".to_owned()];
    }
    let mut found = Vec::new();
    let parts = match subject {
        Subject::Kiln => {
            let code = failure.code.unwrap_or(1);
            if outcome.code != Some(code) {
                found.push(format!("exit code {:?} in place of {code}", outcome.code));
            }
            &failure.kiln
        }
        Subject::BuildKit => &failure.buildkit,
    };
    found.extend(
        parts.iter().filter(|p| !outcome.stderr.contains(p.as_str())).map(|p| format!("`{p}` is not said")),
    );
    if let Some(line) = failure.line {
        let place = format!("Dockerfile:{line}");
        let said = outcome
            .stderr
            .match_indices(&place)
            .any(|(at, text)| !outcome.stderr[at + text.len()..].starts_with(|c: char| c.is_ascii_digit()));
        if !said {
            found.push(format!("`{place}` is not said"));
        }
    }
    if !found.is_empty() {
        found.push(format!("in the message:\n{}", outcome.stderr.trim_end()));
    }
    found
}

fn image(expected: &Expected, base: &Base, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(layers) = expected.layers.filter(|n| *n != observed.layers) {
        found.push(format!("{} new layers in place of {layers}", observed.layers));
    }
    if let Some(rootfs) = &expected.rootfs {
        found.extend(files(rootfs, &observed.rootfs));
    }
    if let Some(history) = &expected.history {
        found.extend(lines("history", history, &observed.history));
    }
    found.extend(config(expected, base, observed));
    found.extend(document(expected, base, observed));
    found
}

fn files(expected: &str, observed: &[(String, i64)]) -> Vec<String> {
    let expected: Vec<&str> = expected.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let same = |line: &str, (found, mtime): &(String, i64)| match line.strip_suffix(" *") {
        Some(start) => found.strip_prefix(start).is_some_and(|rest| rest.starts_with(' ')),
        None => line == found || line == format!("{found} @{mtime}"),
    };
    let missing = expected.iter().filter(|line| !observed.iter().any(|f| same(line, f)));
    let more = observed.iter().filter(|f| !expected.iter().any(|line| same(line, f)));
    let timed = expected.iter().any(|line| line.contains(" @"));
    missing
        .map(|line| format!("- {line}"))
        .chain(more.map(|(line, time)| if timed { format!("+ {line} @{time}") } else { format!("+ {line}") }))
        .collect()
}

fn lines(what: &str, expected: &[String], observed: &[String]) -> Vec<String> {
    if expected == observed {
        return Vec::new();
    }
    let mut found = vec![format!("{what}:")];
    found.extend(expected.iter().filter(|l| !observed.contains(l)).map(|l| format!("- {l}")));
    found.extend(observed.iter().filter(|l| !expected.contains(l)).map(|l| format!("+ {l}")));
    if found.len() == 1 {
        found.push(format!("the order is {observed:#?}"));
    }
    found
}

/// Compares all fields of `config`: what the case does not mention is as in the base.
fn config(expected: &Expected, base: &Base, observed: &Observed) -> Vec<String> {
    let mut wanted: BTreeMap<String, Value> = Observed::fields(&base.config.config).into_iter().collect();
    // Triggers belong to the base alone.
    wanted.remove("OnBuild");
    wanted.extend(expected.config.clone().unwrap_or_default());
    for name in expected.absent.iter().flatten() {
        wanted.remove(name);
    }
    let got: BTreeMap<String, Value> = Observed::fields(&observed.config.config).into_iter().collect();
    fields("config", &wanted, &got)
}

fn document(expected: &Expected, base: &Base, observed: &Observed) -> Vec<String> {
    let of = |config: &kiln_oci::ImageConfig| -> BTreeMap<String, Value> {
        let fields = [
            ("author", config.author.clone()),
            ("architecture", Some(config.architecture.clone())),
            ("os", Some(config.os.clone())),
            ("variant", config.variant.clone()),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.map(|(name, value)| (name.to_owned(), Value::from(value))).collect()
    };
    let mut wanted = of(&base.config);
    wanted.extend(expected.document.clone().unwrap_or_default());
    let mut got = of(&observed.config);
    // The time of the image is that of the build, and compared where a case fixes it.
    if wanted.contains_key("created") {
        got.extend(observed.config.created.clone().map(|time| ("created".to_owned(), Value::from(time))));
    }
    fields("document", &wanted, &got)
}

fn fields(what: &str, wanted: &BTreeMap<String, Value>, got: &BTreeMap<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in wanted.iter().filter(|(name, value)| got.get(*name) != Some(value)) {
        found.push(format!("- {what}.{name} = {value}"));
        if let Some(value) = got.get(name) {
            found.push(format!("+ {what}.{name} = {value}"));
        }
    }
    let more = got.iter().filter(|(name, _)| !wanted.contains_key(*name));
    found.extend(more.map(|(name, value)| format!("+ {what}.{name} = {value}")));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(code: i32, stderr: &str) -> Outcome {
        Outcome { code: Some(code), stdout: String::new(), stderr: stderr.to_owned() }
    }

    #[test]
    fn every_path_is_expected_or_told() {
        let check = |expected: &str, observed: &[(&str, i64)], expect: &[&str]| {
            let observed: Vec<_> = observed.iter().map(|(line, time)| ((*line).to_owned(), *time)).collect();
            assert_eq!(files(expected, &observed), expect);
        };
        let line = "file 644 0:0 /f \"x\"";
        check(line, &[(line, 7)], &[]);
        check("file 644 0:0 /f *", &[(line, 7)], &[]);
        check("file 644 0:0 /f \"x\" @7", &[(line, 7)], &[]);
        check("", &[(line, 7)], &["+ file 644 0:0 /f \"x\""]);
        check(line, &[], &["- file 644 0:0 /f \"x\""]);
        check(
            "file 644 0:0 /f \"x\" @8",
            &[(line, 7)],
            &["- file 644 0:0 /f \"x\" @8", "+ file 644 0:0 /f \"x\" @7"],
        );
        check("file 644 0:0 /fo *", &[(line, 7)], &["- file 644 0:0 /fo *", "+ file 644 0:0 /f \"x\""]);
    }

    #[test]
    fn fields_beyond_the_expected_are_told() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect()
        };
        let found =
            fields("config", &map(&[("User", "a"), ("Shell", "s")]), &map(&[("User", "b"), ("Cmd", "c")]));
        assert_eq!(
            found,
            [
                "- config.Shell = \"s\"",
                "- config.User = \"a\"",
                "+ config.User = \"b\"",
                "+ config.Cmd = \"c\""
            ]
        );
    }

    #[test]
    fn a_failure_has_its_code_its_words_and_its_line() {
        let failure = Failure { line: Some(2), kiln: vec!["no user".to_owned()], ..Failure::default() };
        let check = |outcome: &Outcome| failed(Subject::Kiln, &failure, outcome);
        assert_eq!(check(&outcome(1, "no user `x`\n --> Dockerfile:2:1")), Vec::<String>::new());
        assert_eq!(check(&outcome(0, "")), ["the build succeeded, and ought to fail"]);
        let found = check(&outcome(3, "no group\n --> Dockerfile:21:1"));
        assert_eq!(found.len(), 4, "{found:?}");
    }
}
