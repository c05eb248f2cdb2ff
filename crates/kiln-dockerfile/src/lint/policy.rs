//! Which rules are on: the `check` directive, the build argument that overrides it, and comments above
//! instructions.

use std::collections::BTreeMap;

use crate::directive::Check;
use crate::parser::{Dockerfile, Statement};
use crate::source::Spanned;

use super::rules;

/// The build argument that takes the place of the directive.
const OVERRIDE: &str = "BUILDKIT_DOCKERFILE_CHECK";

/// The options in force for a whole file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The options.
    pub check: Check,
}

/// Why the options cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("build argument `{OVERRIDE}`: {0}")]
pub struct PolicyError(String);

impl Policy {
    /// Reads the options: those of the build argument `BUILDKIT_DOCKERFILE_CHECK`, else those of the directive.
    ///
    /// # Errors
    ///
    /// Returns the fault of the build argument. A faulty directive is an error of the parser.
    pub fn of(tree: &Dockerfile, build_args: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        if let Some(given) = build_args.get(OVERRIDE) {
            return Check::parse(given).map(|check| Self { check }).map_err(PolicyError);
        }
        let directive = tree.directives.check.as_ref();
        let check = directive.and_then(|value| Check::parse(&value.value).ok()).unwrap_or_default();
        Ok(Self { check })
    }
}

/// The `check` comments above instructions, by the place of the instruction.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// Where each instruction starts, ascending, with the options of its comment.
    starts: Vec<(usize, Option<Check>)>,
}

impl Places {
    pub(super) fn new(tree: &Dockerfile) -> Self {
        let mut starts: Vec<_> = tree.global_args.iter().map(place).collect();
        for stage in &tree.stages {
            starts.push(place(&stage.from));
            starts.extend(stage.instructions.iter().map(place));
        }
        Self { starts }
    }

    /// Tells whether a rule is on for the instruction at an offset.
    ///
    /// BuildKit lets a comment act on some rules only; here it acts on all, because nobody who writes one means
    /// less.
    pub(super) fn applies(&self, policy: &Policy, name: &str, offset: usize) -> bool {
        let local = self.local(offset);
        let either = |meant: fn(&Check) -> &crate::CheckRules| {
            meant(&policy.check).contains(name) || local.is_some_and(|check| meant(check).contains(name))
        };
        if rules::rule(name).is_some_and(|rule| rule.experimental) {
            return either(|check| &check.experimental);
        }
        !either(|check| &check.skip)
    }

    fn local(&self, offset: usize) -> Option<&Check> {
        let after = self.starts.partition_point(|(start, _)| *start <= offset);
        self.starts.get(after.checked_sub(1)?)?.1.as_ref()
    }
}

fn place<T>(statement: &Statement<T>) -> (usize, Option<Check>) {
    (statement.span.start, statement.comments.iter().find_map(options))
}

/// Reads `check=…`; what follows the first blank is an explanation for people.
fn options(comment: &Spanned<String>) -> Option<Check> {
    let value = check_value(&comment.value)?;
    let value = value.split(char::is_whitespace).next().unwrap_or_default();
    Check::parse(value).ok()
}

/// Returns what follows `check=` in a comment.
pub(super) fn check_value(comment: &str) -> Option<&str> {
    let (key, value) = comment.split_once('=')?;
    key.trim().eq_ignore_ascii_case("check").then(|| value.trim())
}
