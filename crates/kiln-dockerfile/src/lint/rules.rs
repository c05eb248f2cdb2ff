//! The table of rules.

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// The name, as `skip=` takes it.
    pub name: &'static str,
    /// What the rule is about, in one sentence.
    pub summary: &'static str,
    /// Whose rule it is.
    pub origin: Origin,
    /// Whether it is off unless `experimental=` names it.
    pub experimental: bool,
}

/// Whose rule it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// BuildKit has it under the same name; its page, where there is one.
    BuildKit(Option<&'static str>),
    /// Only kiln has it.
    Kiln,
}

impl Rule {
    /// Returns the address of BuildKit's page about the rule.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        match self.origin {
            Origin::BuildKit(Some(page)) => {
                Some(format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
            }
            Origin::BuildKit(None) | Origin::Kiln => None,
        }
    }
}

const fn buildkit(name: &'static str, page: &'static str, summary: &'static str) -> Rule {
    Rule { name, summary, origin: Origin::BuildKit(Some(page)), experimental: false }
}

const fn own(name: &'static str, summary: &'static str) -> Rule {
    Rule { name, summary, origin: Origin::Kiln, experimental: false }
}

/// Every rule: those of BuildKit in its order, then kiln's.
pub const RULES: [Rule; 29] = [
    buildkit("StageNameCasing", "stage-name-casing", "names of stages are written in lower case"),
    buildkit("FromAsCasing", "from-as-casing", "`AS` has the case of its `FROM`"),
    buildkit("NoEmptyContinuation", "no-empty-continuation", "a continued instruction has no empty lines"),
    buildkit(
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "all instructions of a file have one case",
    ),
    buildkit("DuplicateStageName", "duplicate-stage-name", "no two stages have one name"),
    buildkit("ReservedStageName", "reserved-stage-name", "no stage has a name that means something else"),
    buildkit(
        "JSONArgsRecommended",
        "json-args-recommended",
        "CMD and ENTRYPOINT start their program without a shell",
    ),
    buildkit("MaintainerDeprecated", "maintainer-deprecated", "the author is a label, not MAINTAINER"),
    buildkit("UndefinedArgInFrom", "undefined-arg-in-from", "variables in FROM are declared above it"),
    buildkit(
        "WorkdirRelativePath",
        "workdir-relative-path",
        "the first WORKDIR of a stage does not depend on its base",
    ),
    buildkit("UndefinedVar", "undefined-var", "a variable is declared before it is used"),
    buildkit(
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "a stage has one CMD, ENTRYPOINT and HEALTHCHECK",
    ),
    buildkit("LegacyKeyValueFormat", "legacy-key-value-format", "ENV and LABEL are written with `=`"),
    Rule {
        name: "InvalidBaseImagePlatform",
        summary: "a base image is for the platform that is built for",
        origin: Origin::BuildKit(None),
        experimental: false,
    },
    buildkit(
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "`--platform` of FROM does not repeat the default",
    ),
    buildkit("SecretsUsedInArgOrEnv", "secrets-used-in-arg-or-env", "secrets are not passed in ARG and ENV"),
    buildkit(
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "the defaults of ARG make a valid base image",
    ),
    buildkit(
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "`--platform` of FROM is not fixed",
    ),
    buildkit("CopyIgnoredFile", "copy-ignored-file", "COPY and ADD name no file that is ignored"),
    Rule {
        name: "InvalidDefinitionDescription",
        summary: "a comment above FROM or ARG describes it",
        origin: Origin::BuildKit(Some("invalid-definition-description")),
        experimental: true,
    },
    buildkit("ExposeProtoCasing", "expose-proto-casing", "protocols of EXPOSE are written in lower case"),
    buildkit("ExposeInvalidFormat", "expose-invalid-format", "EXPOSE names ports of the container only"),
    own("AptCacheLeft", "a layer does not keep the package lists of apt"),
    own("ApkCacheLeft", "a layer does not keep the package index of apk"),
    own("DnfCacheLeft", "a layer does not keep the package metadata of dnf and yum"),
    own("LayerOnlyDeletes", "no step only deletes what earlier steps made"),
    own("UnreachableStage", "every stage without a name is used"),
    own("DuplicateMountOption", "an option of `--mount` is given once"),
    own("UnpinnedBase", "base images are named by digest; only with `--locked`"),
];

/// Finds a rule by its name, without regard to case.
#[must_use]
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_rules_of_buildkit_have_pages() {
        let names: std::collections::BTreeSet<_> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(names.len(), RULES.len());
        assert_eq!(RULES.iter().filter(|rule| rule.origin != Origin::Kiln).count(), 22);
        assert_eq!(
            rule("undefinedvar").and_then(Rule::url).as_deref(),
            Some("https://docs.docker.com/go/dockerfile/rule/undefined-var/")
        );
        assert_eq!(rule("AptCacheLeft").and_then(Rule::url), None);
        assert_eq!(rule("x"), None);
    }
}
