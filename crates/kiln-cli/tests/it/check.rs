//! `kiln check` and `--call`: what is found, how it is printed, what is changed.

use kiln_testkit::{Outcome, TestEnv};
use serde_json::Value;

use crate::env;

/// A file with two findings that can be fixed, one that cannot, and a base that nobody has to know.
const DOCKERFILE: &str = "\
FROM scratch AS Base
ENV greeting hello
CMD run && wait
";

fn env_with(dockerfile: &str) -> TestEnv {
    let env = env();
    env.write("ctx/Dockerfile", dockerfile);
    env
}

fn json(outcome: &Outcome) -> Value {
    match serde_json::from_str(&outcome.stdout) {
        Ok(value) => value,
        Err(error) => panic!("{error}:\n{}\n{}", outcome.stdout, outcome.stderr),
    }
}

/// The rules of the findings of `kiln check --format json`.
fn rules(value: &Value) -> Vec<&str> {
    value["findings"].as_array().unwrap().iter().map(|finding| finding["rule"].as_str().unwrap()).collect()
}

#[test]
fn findings_are_shown_with_their_place_and_what_to_write() {
    let env = env_with(DOCKERFILE);
    let outcome = env.kiln(["check", "ctx"]);
    assert_eq!(outcome.code, Some(1), "{}", outcome.stderr);
    for part in [
        "warning[StageNameCasing]: the name `Base` of the stage is not in lower case",
        " --> ctx/Dockerfile:1:17",
        "1 | FROM scratch AS Base\n  |                 ^^^^\n",
        "1 + FROM scratch AS base",
        "warning[LegacyKeyValueFormat]",
        "2 + ENV greeting=hello",
        "warning[JSONArgsRecommended]",
        "help: write CMD in JSON form",
    ] {
        assert!(outcome.stdout.contains(part), "`{part}` is not in:\n{}", outcome.stdout);
    }
    assert_eq!(outcome.stderr, "3 findings in ctx/Dockerfile\nhint: `kiln check --fix` repairs 2 of them\n");
}

#[test]
fn a_clean_file_is_a_success() {
    let env = env_with("FROM scratch AS base\nENV greeting=hello\n");
    let outcome = env.kiln(["check", "ctx"]);
    assert_eq!(outcome.ok(), "");
    assert_eq!(outcome.stderr, "nothing found in ctx/Dockerfile\n");
    assert_eq!(env.kiln(["build", "--check", "ctx"]).ok(), "");
    // The directory is the working directory unless it is named.
    let mut command = env.command(["check"]);
    let output = command.current_dir(env.root.join("ctx")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "nothing found in Dockerfile\n");
}

#[test]
fn json_has_its_documented_shape() {
    let env = env_with(DOCKERFILE);
    let outcome = env.kiln(["check", "--format", "json", "ctx"]);
    assert_eq!(outcome.code, Some(1));
    let value = json(&outcome);
    assert_eq!((&value["version"], &value["file"]), (&1.into(), &"ctx/Dockerfile".into()));
    assert_eq!(rules(&value), ["StageNameCasing", "LegacyKeyValueFormat", "JSONArgsRecommended"]);
    assert_eq!(
        value["findings"][0],
        serde_json::json!({
            "rule": "StageNameCasing",
            "level": "warning",
            "message": "the name `Base` of the stage is not in lower case",
            "help": "write `base`; stages are found without regard to case",
            "url": "https://docs.docker.com/go/dockerfile/rule/stage-name-casing/",
            "start": { "line": 1, "column": 17, "offset": 16 },
            "end": { "line": 1, "column": 21, "offset": 20 },
            "fix": [{
                "start": { "line": 1, "column": 17, "offset": 16 },
                "end": { "line": 1, "column": 21, "offset": 20 },
                "replacement": "base",
            }],
        })
    );
    assert_eq!(value["findings"][2].get("fix"), None);
    assert_eq!((&value["errors"], &value["unchecked"]), (&Value::Array(vec![]), &Value::Array(vec![])));
    assert_eq!(outcome.stderr, "");
}

#[test]
fn sarif_is_what_review_tools_expect() {
    let env = env_with(DOCKERFILE);
    let value = json(&env.kiln(["check", "--format", "sarif", "ctx"]));
    assert_eq!(value["version"], "2.1.0");
    let run = &value["runs"][0];
    let known = run["tool"]["driver"]["rules"].as_array().unwrap();
    assert_eq!(run["tool"]["driver"]["name"], "kiln");
    assert!(known.iter().filter(|rule| rule["helpUri"].is_string()).count() >= 21);
    let results = run["results"].as_array().unwrap();
    assert_eq!(results.len(), 3);
    for result in results {
        let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
        assert_eq!(known[index]["id"], result["ruleId"]);
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "ctx/Dockerfile");
        assert!(place["region"]["startLine"].as_u64().unwrap() >= 1);
    }
    let region = serde_json::json!({ "startLine": 1, "startColumn": 17, "endLine": 1, "endColumn": 21 });
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"], region);
    let replacement = &results[0]["fixes"][0]["artifactChanges"][0]["replacements"][0];
    assert_eq!(replacement["deletedRegion"], region);
    assert_eq!(replacement["insertedContent"]["text"], "base");
}

#[test]
fn fixes_are_written_to_the_file() {
    let env = env_with(DOCKERFILE);
    let outcome = env.kiln(["check", "--fix", "ctx"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("JSONArgsRecommended"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("StageNameCasing"), "{}", outcome.stdout);
    assert_eq!(outcome.stderr, "2 findings fixed in ctx/Dockerfile\n1 finding in ctx/Dockerfile\n");
    let fixed = std::fs::read_to_string(env.root.join("ctx/Dockerfile")).unwrap();
    assert_eq!(fixed, "FROM scratch AS base\nENV greeting=hello\nCMD run && wait\n");
    let mut left: Vec<_> =
        env.root.join("ctx").read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["Dockerfile"]);
}

#[test]
fn a_rule_is_explained() {
    let env = env();
    let outcome = env.kiln(["check", "--explain", "undefinedvar"]);
    let text = outcome.ok();
    assert!(text.starts_with("# UndefinedVar\n\nA variable that nobody set is empty"), "{text}");
    assert!(text.ends_with("https://docs.docker.com/go/dockerfile/rule/undefined-var/"), "{text}");
    env.kiln(["check", "--explain", "UndefinedVra"]).fails(2, &["no rule `UndefinedVra`", "`UndefinedVar`?"]);
}

#[test]
fn only_a_file_can_be_fixed() {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let env = env_with(DOCKERFILE);
    let file = env.root.join("ctx/Dockerfile");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(env.kiln(["check", "--fix", "ctx"]).code, Some(1));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let mut command = env.command(["check", "--fix", "-"]);
    let piped = command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = piped.stdout(std::process::Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(DOCKERFILE.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no file to fix"));
}

#[test]
fn faults_of_the_file_are_reported_with_the_findings() {
    let env = env_with("FROM scratch\nCOPPY a b\n");
    let outcome = env.kiln(["check", "ctx"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("error: unknown instruction `COPPY`"), "{}", outcome.stdout);
    assert_eq!(outcome.stderr, "1 error in ctx/Dockerfile\n");
    let env = env_with("FROM scratch AS A\nCOPY --from=9 a b\n");
    let value = json(&env.kiln(["check", "--format", "json", "ctx"]));
    assert_eq!(rules(&value), ["StageNameCasing"]);
    assert_eq!(value["errors"][0]["message"], "there is no stage 9 above this one");
    assert_eq!(value["errors"][0]["start"]["line"], 2);
    let nothing = env.kiln(["check", "--target", "nothing", "ctx"]);
    assert!(nothing.stdout.contains("has no stage called `nothing`"), "{}", nothing.stdout);
    env.kiln(["check", "nowhere"]).fails(1, &["cannot open the build context `nowhere`"]);
}

#[test]
fn base_images_are_asked_for_their_variables_and_nothing_else() {
    let env = env();
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\nLABEL a=$PATH b=$NOWHERE\n"));
    let outcome = env.kiln(["check", "--format", "json", "ctx"]);
    let value = json(&outcome);
    assert_eq!(rules(&value), ["UndefinedVar"], "{}", outcome.stderr);
    assert_eq!(value["unchecked"], Value::Array(vec![]));
    // The config, and no layer.
    assert_eq!(env.blobs_fetched().len(), 1, "{:?}", env.blobs_fetched());
}

#[test]
fn what_depends_on_a_base_that_cannot_be_asked_is_left_out_and_named() {
    let check = |arguments: &[&str], reason: &str| {
        let env = env_with("FROM 127.0.0.1:1/base:1 AS Base\nLABEL a=$NOWHERE\n");
        let outcome = env.kiln([&["check"], arguments, &["ctx"]].concat());
        assert_eq!(outcome.code, Some(1));
        assert!(outcome.stdout.contains("StageNameCasing"), "{}", outcome.stdout);
        assert!(!outcome.stdout.contains("UndefinedVar"), "{}", outcome.stdout);
        for part in ["note: not checked for `127.0.0.1:1/base:1`", reason, "UndefinedVar"] {
            assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        }
    };
    check(&["--offline"], "registries were not asked");
    check(&[], "refused");
}

#[test]
fn a_missing_base_image_is_an_error_of_the_file() {
    let env = env();
    env.write("ctx/Dockerfile", format!("FROM {}/missing:1\n", env.host()));
    let outcome = env.kiln(["check", "ctx"]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stdout.contains("missing:1` as an image"), "{}\n{}", outcome.stdout, outcome.stderr);
}

#[test]
fn ignored_files_and_unpinned_bases_are_found() {
    let env = env_with("FROM scratch\nCOPY dist/app /app\n");
    env.write("ctx/.dockerignore", "dist\n");
    env.write("ctx/dist/app", "");
    assert_eq!(rules(&json(&env.kiln(["check", "--format", "json", "ctx"]))), ["CopyIgnoredFile"]);
    let env = env_with("FROM debian:12\n");
    let locked = json(&env.kiln(["check", "--offline", "--locked", "--format", "json", "ctx"]));
    assert_eq!(rules(&locked), ["UnpinnedBase"]);
}

#[test]
fn a_build_warns_once_and_shows_a_few_of_many() {
    let pairs: String = (0..6).map(|number| format!("ENV k{number} v\n")).collect();
    let text = format!("FROM scratch AS base\n{pairs}");
    let env = env_with(&text);
    let outcome = env.kiln(["build", "ctx"]);
    outcome.ok();
    let warnings: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("warning:")).collect();
    assert_eq!(warnings.len(), 4, "{}", outcome.stderr);
    assert!(warnings[0].ends_with("(Dockerfile:2)"), "{}", warnings[0]);
    assert!(
        warnings[3].contains("LegacyKeyValueFormat: 3 more, which `kiln check` shows"),
        "{}",
        warnings[3]
    );
    let skipped = env_with(&format!("# check=skip=all\n{text}")).kiln(["build", "ctx"]);
    assert!(!skipped.stderr.contains("warning"), "{}", skipped.stderr);
}

#[test]
fn with_error_true_a_finding_fails_the_build_before_any_step() {
    let env = env_with("# check=error=true\nFROM scratch AS Base\nCOPY nothing /\n");
    env.kiln(["build", "ctx"]).fails(
        1,
        &[
            "warning: StageNameCasing",
            "error: build checks found something: StageNameCasing",
            "Dockerfile:2:17",
        ],
    );
    // The argument takes the place of the directive.
    let lenient = env.kiln(["build", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skip=all", "ctx"]);
    lenient.fails(1, &["COPY cannot find `nothing`"]);
    env.kiln(["build", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=skp", "ctx"])
        .fails(1, &["build argument `BUILDKIT_DOCKERFILE_CHECK`", "`key=value`"]);
    let strict = json(&env.kiln(["check", "--format", "json", "ctx"]));
    assert_eq!(strict["findings"][0]["level"], "error");
}

#[test]
fn call_check_answers_in_the_shape_of_buildkit() {
    let env = env_with(DOCKERFILE);
    let outcome = env.kiln(["build", "--call=check,format=json", "ctx"]);
    assert_eq!(outcome.code, Some(1));
    let value = json(&outcome);
    let warning = &value["warnings"][1];
    assert_eq!(warning["ruleName"], "LegacyKeyValueFormat");
    assert_eq!(warning["url"], "https://docs.docker.com/go/dockerfile/rule/legacy-key-value-format/");
    let lines = serde_json::json!({ "ranges": [{ "start": { "line": 2 }, "end": { "line": 2 } }] });
    assert_eq!(warning["location"], lines);
    assert_eq!(value["sources"][0]["filename"], "Dockerfile");
    assert!(value["sources"][0]["data"].as_str().unwrap().starts_with("RlJPTSBzY3JhdGNo"));
    assert_eq!(value.get("buildError"), None);
    let ignored = env.kiln(["build", "--call=check,ignorestatus=true", "ctx"]);
    assert!(ignored.ok().contains("StageNameCasing"));
    let broken = env_with("FROM scratch\nCOPPY a b\n").kiln(["build", "--call=check,format=json", "ctx"]);
    let value = json(&broken);
    assert_eq!(value["buildError"]["message"], "unknown instruction `COPPY`");
    assert_eq!(value["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    env.kiln(["build", "--call=chek", "ctx"]).fails(2, &["expected `check`, `outline`"]);
}

const OFFER: &str = "\
# VERSION of the tools
ARG VERSION=1.2
# tools has what builds
FROM 127.0.0.1:1/tools:$VERSION AS tools
# FLAGS for the compiler
ARG FLAGS=-O2
FROM scratch
";

#[test]
fn targets_are_listed() {
    let env = env_with(OFFER);
    let text = env.kiln(["build", "--call=targets", "ctx"]);
    assert_eq!(
        text.stdout,
        "TARGET      BASE                         DESCRIPTION\n\
         tools       127.0.0.1:1/tools:$VERSION   has what builds\n\
         (default)   scratch\n"
    );
    let value = json(&env.kiln(["build", "--call=targets,format=json", "ctx"]));
    assert_eq!(
        value["targets"],
        serde_json::json!([
            {
                "name": "tools",
                "description": "has what builds",
                "base": "127.0.0.1:1/tools:$VERSION",
                "location": { "ranges": [{ "start": { "line": 4 }, "end": { "line": 4 } }] },
            },
            {
                "default": true,
                "base": "scratch",
                "location": { "ranges": [{ "start": { "line": 7 }, "end": { "line": 7 } }] },
            },
        ])
    );
}

#[test]
fn the_outline_of_a_target_is_shown() {
    let env = env_with(OFFER);
    let text = env.kiln(["build", "--call=outline", "--target=tools", "--build-arg=FLAGS=-g", "ctx"]);
    assert_eq!(
        text.stdout,
        "TARGET:        tools\n\
         DESCRIPTION:   has what builds\n\n\
         BUILD ARG   VALUE   DESCRIPTION\n\
         VERSION     1.2     of the tools\n\
         FLAGS       -g      for the compiler\n"
    );
    let value = json(&env.kiln(["build", "--call=outline,format=json", "--target=tools", "ctx"]));
    assert_eq!(value["name"], "tools");
    assert_eq!(value["args"][1]["value"], "-O2");
    assert_eq!(value["args"][1]["location"]["ranges"][0]["start"]["line"], 6);
    assert!(value["sources"][0].is_string());
    env.kiln(["build", "--call=outline", "--target=tolls", "ctx"])
        .fails(1, &["has no stage called `tolls`", "did you mean `tools`?"]);
}
