//! `check=`: in the directive, in comments, in the build argument.

use super::*;

const FILE: &str = "FROM scratch as base\ncopy Dockerfile .\n";

fn rules(facts: &Facts, source: &str) -> Vec<&'static str> {
    report(source, facts).findings.iter().map(|found| found.code).collect()
}

#[test]
fn the_directive_skips_rules() {
    let check = |directive: &str, expect: &[&str]| {
        assert_eq!(rules(&Facts::default(), &format!("#{directive}\n{FILE}")), expect, "{directive}");
    };
    check(" a comment", &["FromAsCasing", "ConsistentInstructionCasing"]);
    check("check=skip=all", &[]);
    check("check=skip=ConsistentInstructionCasing,FromAsCasing", &[]);
    check("check = skip=ConsistentInstructionCasing ; error=true", &["FromAsCasing"]);
}

#[test]
fn the_build_argument_takes_its_place() {
    let facts =
        |value: &str| Facts { build_args: text(&[("BUILDKIT_DOCKERFILE_CHECK", value)]), ..Facts::default() };
    let skipped = format!("#check=skip=all\n{FILE}");
    assert_eq!(rules(&facts("skip=ConsistentInstructionCasing;error=true"), &skipped), ["FromAsCasing"]);
    assert_eq!(rules(&facts("skip=all"), FILE), [""; 0]);
    let (tree, _) = crate::parse(&skipped);
    let policy = |value: &str| Policy::of(&tree, &facts(value).build_args);
    assert!(policy("error=true").unwrap().check.error);
    assert_eq!(
        policy("skp=all").unwrap_err().to_string(),
        "build argument `BUILDKIT_DOCKERFILE_CHECK`: unknown check option `skp`: the options are `skip`, `error` and `experimental`"
    );
}

#[test]
fn a_comment_acts_on_its_instruction() {
    const RULE: &str = "SecretsUsedInArgOrEnv";
    let check = |comment: &str, expect: &[(&str, &str)]| {
        super::check(&format!("FROM scratch\n{comment}\nENV password=1\nARG token\n"), expect);
    };
    let (env, arg) = ((RULE, "password"), (RULE, "token"));
    check("# check=skip=SecretsUsedInArgOrEnv // it is none", &[arg]);
    check("# check=skip=all", &[arg]);
    check("# check=skip=all\n\n# more", &[arg]);
    check("# check=skip=all\n#", &[env, arg]);
    check("# check=skip=UndefinedVar", &[env, arg]);
    check("# check=skp=all", &[env, arg]);
    clean("# a comment first\n\n# check=skip=StageNameCasing\nFROM scratch AS Base\n");
    clean("FROM scratch\n# check=skip=NoEmptyContinuation\nCOPY a \\\n\n b\n");
}
