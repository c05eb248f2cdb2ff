use super::*;
use crate::instruction::Instruction;

/// Reads one mount through a whole file, as users do.
fn parse_mount(text: &str) -> Result<Mount, Vec<Diagnostic>> {
    let (dockerfile, diagnostics) = crate::parse(&format!("FROM a\nRUN --mount={text} true\n"));
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Err(diagnostics);
    }
    match &dockerfile.stages[0].instructions[0].instruction {
        Instruction::Run(run) => Ok(run.mounts[0].clone()),
        other => panic!("{other:?}"),
    }
}

fn resolve(text: &str) -> ResolvedMount {
    parse_mount(text).unwrap().resolve(&mut |value| Ok(value.replace("$V", "value"))).unwrap()
}

fn check_error(text: &str, code: &str, message: &str) {
    let diagnostics = parse_mount(text).unwrap_err();
    assert_eq!((diagnostics[0].code, diagnostics[0].message.as_str()), (code, message), "{text}");
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn bind_is_the_default_and_read_only() {
    let bind = |access| ResolvedMount::Bind { target: some("/x"), source: None, from: None, access };
    let check = |text: &str, expect: ResolvedMount| assert_eq!(resolve(text), expect, "{text}");
    check("target=/x", bind(Access::ReadOnly));
    check("type=bind,dst=/x", bind(Access::ReadOnly));
    check("TYPE=BIND,Destination=/x,ro", bind(Access::ReadOnly));
    check("target=/x,rw", bind(Access::ReadWrite));
    check("target=/x,readwrite=false", bind(Access::ReadOnly));
    check("target=/x,ro=0", bind(Access::ReadWrite));
    check("target=/x,z,bind-propagation=rslave", bind(Access::ReadOnly));
    let whole = ResolvedMount::Bind {
        target: some("/x"),
        source: some("src"),
        from: some("base"),
        access: Access::ReadOnly,
    };
    check("from=base,src=src,target=/x", whole.clone());
    check("\"from=base,source=src,target=/x\"", whole);
}

#[test]
fn cache() {
    let plain = CacheMount {
        id: None,
        target: some("/c"),
        from: None,
        source: None,
        sharing: Sharing::Shared,
        mode: None,
        uid: None,
        gid: None,
        access: Access::ReadWrite,
    };
    let check =
        |text: &str, expect: CacheMount| assert_eq!(resolve(text), ResolvedMount::Cache(expect), "{text}");
    check("type=cache,target=/c", plain.clone());
    check(
        "type=cache,target=/c,id=i,sharing=locked",
        CacheMount { id: some("i"), sharing: Sharing::Locked, ..plain.clone() },
    );
    check(
        "type=cache,target=/c,mode=0700,uid=1,gid=2,ro",
        CacheMount { mode: Some(0o700), uid: Some(1), gid: Some(2), access: Access::ReadOnly, ..plain },
    );
}

#[test]
fn tmpfs() {
    let check = |text: &str, size: Option<u64>, mode: Option<u32>| {
        let expect = ResolvedMount::Tmpfs { target: some("/t"), size, mode, access: Access::ReadWrite };
        assert_eq!(resolve(text), expect, "{text}");
    };
    check("type=tmpfs,target=/t", None, None);
    check("type=tmpfs,target=/t,size=64m", Some(64 << 20), None);
    check("type=tmpfs,target=/t,tmpfs-size=1k,tmpfs-mode=1777,tmpcopyup", Some(1024), Some(0o1777));
}

#[test]
fn secret() {
    let check = |text: &str, id: &str, target: Option<&str>, env: Option<&str>, required: bool| {
        let expect = ResolvedMount::Secret {
            id: id.to_owned(),
            target: target.map(str::to_owned),
            env: env.map(str::to_owned),
            required,
            mode: None,
            uid: None,
            gid: None,
        };
        assert_eq!(resolve(text), expect, "{text}");
    };
    check("type=secret,id=s", "s", None, None, false);
    check("type=secret,source=s,required", "s", None, None, true);
    check("type=secret,target=/etc/key.pem", "key.pem", Some("/etc/key.pem"), None, false);
    check("type=secret,id=s,env=KEY,required=true", "s", None, Some("KEY"), true);
    check("type=secret,id=$V,required=false", "value", None, None, false);
}

#[test]
fn ssh() {
    let mount = resolve("type=ssh,id=i,required,mode=0666,uid=1");
    let expect = ResolvedMount::Ssh {
        id: some("i"),
        target: None,
        required: true,
        mode: Some(0o666),
        uid: Some(1),
        gid: None,
    };
    assert_eq!(mount, expect);
}

#[test]
fn variables_wait_for_their_values() {
    let mount = parse_mount("type=$V,target=/x").unwrap();
    let error = mount.resolve(&mut |value| Ok(value.replace("$V", "value"))).unwrap_err();
    assert_eq!(error.message, "unknown mount type `value`");
    assert!(mount.resolve(&mut |value| Ok(value.replace("$V", "cache"))).is_ok());
    let failing = mount.resolve(&mut |value| {
        crate::expand::expand_word(&format!("{value}${{}}"), crate::Escape::Backslash, &|_| None)
            .map(|found| found.text)
    });
    assert_eq!(failing.unwrap_err().code, "invalid-expansion");
}

#[test]
fn faults() {
    check_error("type=bnd,target=/x", "invalid-mount", "unknown mount type `bnd`");
    check_error("targt=/x", "unknown-mount-option", "unknown mount option `targt`");
    check_error("target", "missing-mount-value", "mount option `target` needs a value");
    check_error("target=/", "invalid-mount", "a mount cannot have `/` as its target");
    check_error("target=/x/..", "invalid-mount", "a mount cannot have `/` as its target");
    check_error("from=$V,target=/x", "variable-in-from", "variables are not expanded in `from` of a mount");
    check_error(
        "target=/x,mode=0700",
        "invalid-mount",
        "mount option `mode` is not for mounts of type `bind`",
    );
    check_error(
        "target=/x,required",
        "invalid-mount",
        "mount option `required` is not for mounts of type `bind`",
    );
    check_error(
        "type=cache,target=/x,sharing=lokced",
        "invalid-mount",
        "unknown sharing `lokced` of a cache mount",
    );
    check_error(
        "type=cache,target=/x,mode=9",
        "invalid-mount",
        "mount option `mode` must be an octal number, not `9`",
    );
    check_error(
        "type=cache,target=/x,uid=root",
        "invalid-mount",
        "mount option `uid` must be a number, not `root`",
    );
    check_error(
        "type=cache,target=/x,ro=maybe",
        "invalid-mount",
        "mount option `readonly` must be `true` or `false`, not `maybe`",
    );
    check_error("type=tmpfs,target=/x,size=big", "invalid-mount", "invalid size `big` of a mount");
    check_error("type=secret", "invalid-mount", "a secret mount needs `id` or `target`");
    check_error(
        "type=secret,id=a,source=b",
        "invalid-mount",
        "a secret mount has either `id` or `source`, not both",
    );
    check_error(
        "type=secret,id=a,from=b",
        "invalid-mount",
        "mount option `from` is not for mounts of type `secret`",
    );
    check_error("type=ssh,env=A", "invalid-mount", "mount option `env` is not for mounts of type `ssh`");
}

#[test]
fn suggestions() {
    let help = |text: &str| parse_mount(text).unwrap_err()[0].help.clone();
    assert_eq!(help("targt=/x"), some("did you mean `target`?"));
    assert_eq!(help("type=secert,id=x"), some("did you mean `secret`?"));
    assert_eq!(help("type=cache,target=/x,sharing=lokced"), some("did you mean `locked`?"));
}

#[test]
fn doubled_options_are_a_warning() {
    let (dockerfile, diagnostics) = crate::parse("FROM a\nRUN --mount=target=/x,dst=/y true\n");
    assert_eq!(diagnostics.iter().map(|found| found.code).collect::<Vec<_>>(), ["DuplicateMountOption"]);
    let Instruction::Run(run) = &dockerfile.stages[0].instructions[0].instruction else { panic!() };
    assert_eq!(run.mounts[0].option("target").map(|value| value.value.as_str()), Some("/y"));
}

#[test]
fn places_point_into_the_flag() {
    let source = "FROM a\nRUN --mount=type=cache,target=/x,uid=me true\n";
    let (_, diagnostics) = crate::parse(source);
    assert_eq!(diagnostics[0].span.text(source), "me");
}

#[test]
fn sizes() {
    let check = |text: &str, expect: Option<u64>| assert_eq!(parse_size(text), expect, "{text}");
    check("0", Some(0));
    check("1024", Some(1024));
    check("1b", Some(1));
    check("2k", Some(2048));
    check("2KB", Some(2048));
    check("2KiB", Some(2048));
    check("2 m", Some(2 << 20));
    check("1.5g", Some(3 << 29));
    check("1t", Some(1 << 40));
    check("1p", Some(1 << 50));
    check("", None);
    check("k", None);
    check("-1", None);
    check("1.2.3", None);
    check("1x", None);
    check("1ib", None);
    check("99999999999p", None);
}
