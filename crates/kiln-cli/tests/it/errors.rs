//! Errors: each says what was asked, where, why, and what to do.

use crate::env;

/// Builds `dockerfile` in a context with `dist/app` (ignored) and `src/main.c`; it must fail with `parts`.
#[track_caller]
fn check(dockerfile: &str, parts: &[&str]) {
    let env = env();
    env.write("ctx/Dockerfile", dockerfile);
    env.write("ctx/dist/app", "app");
    env.write("ctx/src/main.c", "c");
    env.write("ctx/.dockerignore", "# built files\n\ndist/\n");
    let outcome = env.kiln(["build", "ctx"]);
    outcome.fails(1, &["error: "]);
    outcome.fails(1, parts);
}

#[test]
fn a_missing_source_is_explained() {
    check(
        "FROM scratch\n\nCOPY dist/app /usr/bin/app\n",
        &[
            "COPY cannot find `dist/app` in the build context",
            "Dockerfile:3:6",
            "COPY dist/app /usr/bin/app",
            "^^^^^^^^",
            "caused by: `.dockerignore:3` excludes `dist`",
            "hint: add `!dist/app` to .dockerignore",
        ],
    );
    check("FROM scratch\nCOPY src/mian.c /\n", &["cannot find `src/mian.c`", "did you mean `src/main.c`?"]);
    check("FROM scratch\nADD src/nothing /\n", &["ADD cannot find `src/nothing`", "Dockerfile:2:5"]);
    check("FROM scratch AS a\nFROM scratch\nCOPY --from=a /x /\n", &["cannot find `/x` in", "Dockerfile:3"]);
}

#[test]
fn all_missing_sources_are_reported_together() {
    check(
        "FROM scratch\nCOPY nothing /\nCOPY src/main.c /\nCOPY dist/app none /\n",
        &["cannot find `nothing`", "Dockerfile:2:6", "cannot find `dist/app`", "Dockerfile:4:6"],
    );
}

#[test]
fn a_link_out_of_the_context_leads_nowhere() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY leak /\n");
    env.write("secret", "of the machine");
    std::os::unix::fs::symlink("../secret", env.root.join("ctx/leak")).unwrap();
    env.kiln(["build", "ctx"])
        .fails(1, &["COPY cannot find `leak`", "symbolic link to `../secret`", "inside of the context only"]);
}

#[test]
fn faults_of_the_file_are_reported_together() {
    check(
        "FROM scratch\nCOPPY a b\nRUN --mont=type=bind true\nEXPOSE 99999\n",
        &["Dockerfile:2:1", "did you mean `COPY`?", "Dockerfile:3", "Dockerfile:4", "99999"],
    );
    check("RUN true\n", &["in no build stage"]);
    check("", &["no instructions"]);
    check("FROM scratch\nRUN <<EOF\nnever ends\n", &["heredoc `EOF` has no end"]);
}

#[test]
fn what_cannot_be_is_refused() {
    check("ARG B\nFROM $B\n", &["base name `$B` is empty", "Dockerfile:2", "--build-arg"]);
    check(
        "FROM scratch\nCOPY --from=later x /\nFROM scratch AS later\nFROM scratch\nCOPY --from=0 x /\n",
        &["later stage"],
    );
    check("FROM scratch AS self\nCOPY --from=self /a /b\n", &["copies from itself"]);
    check("FROM scratch\nCOPY --from=7 /a /b\n", &["no stage 7"]);
    check(
        "FROM scratch\nCOPY src/main.c /a\nCOPY src /a\n",
        &["cannot copy to non-directory `/a`", "Dockerfile:3"],
    );
    check("FROM scratch\nCOPY --chmod=9 src /a\n", &["`9` is not a file mode"]);
    check("FROM scratch\nCOPY --chown=nobody src /a\n", &["no user `nobody`"]);
    check(
        "FROM scratch\nCOPY --chmod=u+q src /a\n",
        &["`u+q` is not a file mode: `q` stands where", "Dockerfile:2:14", "such as u=rwX,go=rX"],
    );
    check(
        "FROM scratch\nARG M=u\nCOPY --chmod=$M src /a\n",
        &["`u` is not a file mode: it has no `+`", "Dockerfile:3:14"],
    );
    check(
        "FROM scratch\nCOPY --link --chown=app src /a\n",
        &["`COPY --link` cannot look up the owner `app`", "Dockerfile:2:21", "give numbers"],
    );
    check("FROM scratch\nCOPY --parents src/nothing /\n", &["cannot find `src/nothing`", "Dockerfile:2"]);
    check("FROM scratch\nADD --parents src /\n", &["parents"]);
    check("FROM scratch\nCOPY nowhere/*.c /\n", &["cannot find `nowhere/*.c`"]);
    check("FROM scratch\nENV A=${B:?must be given}\n", &["must be given", "Dockerfile:2"]);
    check("FROM --platform=nonsense/x/y/z scratch\n", &["is not a platform"]);
    check("FROM Debian\n", &["cannot use `Debian` as an image", "lower case"]);
}

#[test]
fn what_is_not_done_yet_is_refused_and_not_ignored() {
    for (line, what) in [
        ("RUN --device=vendor.example/device=one true", "RUN --device"),
        ("RUN --mount=type=tmpfs,target=/x,tmpcopyup true", "option `tmpcopyup` of a mount"),
        ("RUN --mount=target=/x,U=true true", "option `u` of a mount"),
        ("FROM --after=x scratch", "FROM --after"),
    ] {
        check(&format!("FROM scratch\n{line}\n"), &[what, "not supported by this version", "Dockerfile:2"]);
    }
}

#[test]
fn requests_are_checked_before_anything_is_done() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nENV A=1\n");
    env.kiln(["build", "--push", "ctx"]).fails(2, &["no name to push", "hint: name it: `--tag"]);
    env.kiln(["build", "nowhere"]).fails(1, &["cannot open the build context `nowhere`"]);
    env.kiln(["build", "-f", "Dokerfile", "ctx"]).fails(1, &["`Dokerfile` does not exist"]);
    env.kiln(["build", "--no-such-option", "ctx"]).fails(2, &["--no-such-option"]);
    env.kiln(["build", "-o", "type=oki,dest=x", "ctx"]).fails(2, &["oki"]);
    env.write("empty/f", "");
    env.kiln(["build", "empty"]).fails(1, &["no Dockerfile", "hint: name it with `-f FILE`"]);
}

#[test]
fn registries_that_fail_are_named() {
    let env = env();
    let host = env.host();
    env.write("ctx/Dockerfile", format!("FROM {host}/missing:1\n"));
    env.kiln(["build", "ctx"]).fails(1, &["cannot use", "missing:1", "Dockerfile:1"]);
    env.write("ctx/Dockerfile", "FROM 127.0.0.1:1/nobody:1\n");
    let outcome = env.kiln(["build", "ctx"]);
    outcome.fails(3, &["127.0.0.1:1", "Dockerfile:1"]);
}
