//! Rules of kiln's own: each with what it finds, and with what looks like it and is fine.

use super::*;

/// A file of one stage on `scratch`, of which everything is known.
fn stage(instructions: &str) -> String {
    format!("FROM scratch\n{instructions}\n")
}

#[test]
fn apt_cache_left() {
    const RULE: &str = "AptCacheLeft";
    let found = |run: &str| check(&stage(run), &[(RULE, run)]);
    found("RUN apt-get update && apt-get install -y curl");
    found("RUN apt-get -qq update; apt-get install -y curl && rm -rf /tmp/x");
    found("RUN DEBIAN_FRONTEND=x /usr/bin/apt update");
    found("RUN [\"apt-get\", \"update\"]");
    found("RUN --mount=type=cache,target=/var/cache/apt apt-get update");
    check(&stage("RUN <<EOF\napt-get update\napt-get install x\nEOF"), &[(RULE, "RUN <<EOF")]);
    for fine in [
        "RUN apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*",
        "RUN apt-get update && rm -rf /var/lib/apt",
        "RUN apt-get update && rm -rf /var/lib/{apt,dpkg}",
        "RUN apt-get update && apt-get install x && apt-get dist-clean",
        "RUN apt-get update && find /var/lib/apt/lists -type f -delete",
        "RUN apt-get update && ./cleanup.sh",
        "RUN --mount=type=cache,target=/var/lib/apt apt-get update",
        "RUN --mount=type=tmpfs,target=/var/lib/apt/lists/ apt-get update",
        "RUN apt-get install -y ./local.deb",
        "RUN echo apt-get update",
        "RUN echo 'apt-get update && x'",
    ] {
        clean(&stage(fine));
    }
    // What is only copied from is in no image.
    clean("FROM scratch AS build\nRUN apt-get update\nFROM scratch\nCOPY --from=build /a /b\n");
    check("FROM scratch AS base\nRUN apt-get update\nFROM base\n", &[(RULE, "RUN apt-get update")]);
}

#[test]
fn apk_cache_left() {
    const RULE: &str = "ApkCacheLeft";
    for run in ["RUN apk update && apk add curl", "RUN apk add -U curl", "RUN apk --update add curl"] {
        check(&stage(run), &[(RULE, run)]);
    }
    for fine in [
        "RUN apk add --no-cache curl",
        "RUN apk add -U --no-cache curl",
        "RUN apk update && apk add curl && rm -rf /var/cache/apk/*",
        "RUN --mount=type=cache,target=/var/cache/apk apk add -U curl",
        "RUN apk del curl",
    ] {
        clean(&stage(fine));
    }
}

#[test]
fn dnf_cache_left() {
    const RULE: &str = "DnfCacheLeft";
    for run in ["RUN dnf -y install curl", "RUN yum update -y", "RUN microdnf install curl && true"] {
        check(&stage(run), &[(RULE, run)]);
    }
    for fine in [
        "RUN dnf -y install curl && dnf clean all",
        "RUN yum install -y curl && rm -rf /var/cache/yum",
        "RUN --mount=type=cache,target=/var/cache dnf install -y curl",
        "RUN dnf remove curl",
    ] {
        clean(&stage(fine));
    }
}

#[test]
fn layer_only_deletes() {
    const RULE: &str = "LayerOnlyDeletes";
    check(&stage("COPY app.tar /tmp/\nRUN rm /tmp/app.tar"), &[(RULE, "RUN rm /tmp/app.tar")]);
    check(&stage("COPY src /build/src\nRUN make\nRUN rm -rf /build"), &[(RULE, "RUN rm -rf /build")]);
    check(&stage("WORKDIR /w\nADD x /w/x\nRUN rm -f /w/x && rm /y"), &[(RULE, "RUN rm -f /w/x && rm /y")]);
    check(&stage("RUN make\nRUN rm -rf /var/cache/*"), &[(RULE, "RUN rm -rf /var/cache/*")]);
    let inherited = "FROM scratch AS a\nCOPY x /opt/x\nFROM a\nRUN rm /opt/x\n";
    check(inherited, &[(RULE, "RUN rm /opt/x")]);
    for fine in [
        // The base image's own file can go in no other way.
        "RUN make\nRUN rm /etc/nginx/conf.d/default.conf",
        "COPY site.conf /etc/nginx/\nRUN rm /etc/nginx/nginx.conf",
        "COPY x /tmp/x\nRUN tar xf /tmp/x && rm /tmp/x",
        "RUN rm -rf /var/cache/debconf",
        "COPY x /opt/x\nRUN rm -rf /srv",
        "COPY x /opt/x\nRUN rm -rf $DIR",
        "RUN make\nRUN --mount=type=cache,target=/tmp/build rm -rf /tmp/build/old",
    ] {
        clean(&stage(fine));
    }
    clean("FROM scratch AS a\nCOPY x /opt/x\nRUN rm /opt/x\nFROM scratch\nCOPY --from=a / /\n");
}

#[test]
fn unreachable_stage() {
    check("FROM scratch\nCOPY a b\nFROM scratch\n", &[("UnreachableStage", "scratch")]);
    clean("FROM scratch AS test\nCOPY a b\nFROM scratch\n");
    clean("FROM scratch\nCOPY a b\nFROM scratch\nCOPY --from=0 a b\n");
    clean("FROM scratch\nFROM scratch\nRUN --mount=from=0,target=/x y\n");
}

#[test]
fn duplicate_mount_option() {
    check(&stage("RUN --mount=type=tmpfs,target=/x,dst=/y a"), &[("DuplicateMountOption", "dst=/y")]);
    clean(&stage("RUN --mount=type=tmpfs,target=/x --mount=type=tmpfs,target=/y a"));
    clean(&stage("RUN --mount=type=bind,source=/x,target=/x a"));
}

#[test]
fn unpinned_base() {
    let locked = || Facts { pinning: Pinning::Digest, ..Facts::default() };
    check_with(&locked(), "FROM debian:12\n", &[("UnpinnedBase", "debian:12")]);
    check_with(&locked(), "ARG B=debian\nFROM $B\n", &[("UnpinnedBase", "$B")]);
    let pinned = "FROM debian@sha256:0000000000000000000000000000000000000000000000000000000000000000 AS a\n";
    check_with(&locked(), &format!("{pinned}FROM a\nFROM scratch AS c\n"), &[("UnreachableStage", "a")]);
    check_with(&Facts { contexts: ["debian".to_owned()].into(), ..locked() }, "FROM debian\n", &[]);
    clean("FROM debian:12\n");
}
