//! Every instruction: its operands, its flags and its faults.

use std::time::Duration;

use super::{check_fault, check_faults, instruction, stage, value, values};
use crate::instruction::{CommandForm, Healthcheck, Network, PairForm, Security, Source};
use crate::{Instruction, parse, parse_trigger};

/// A command as text: that of the shell, or the arguments of the JSON form.
fn command(form: &CommandForm) -> Result<&str, Vec<&str>> {
    match form {
        CommandForm::Shell(text) => Ok(&text.value),
        CommandForm::Exec(arguments) => Err(values(arguments)),
    }
}

#[test]
fn run() {
    let check = |text: &str, expect: Result<&str, Vec<&str>>| match instruction(text) {
        Instruction::Run(run) => assert_eq!(command(&run.command), expect, "{text}"),
        other => panic!("{other:?}"),
    };
    check("RUN echo $A 'b'  c ", Ok("echo $A 'b'  c"));
    check(r#"RUN ["a", "b c"]"#, Err(vec!["a", "b c"]));
    check(r#"RUN   [ "\u00e4\n" ] "#, Err(vec!["ä\n"]));
    check("RUN ['a']", Ok("['a']"));
    check(r#"RUN ["a" ] && b"#, Ok(r#"["a" ] && b"#));
    check("RUN [ -f x ]", Ok("[ -f x ]"));
    check("RUN -- --x", Ok("--x"));
    check("RUN\techo", Ok("echo"));
    check_fault("RUN", "missing-operand", "RUN needs a command", "RUN");
    check_fault("RUN []", "missing-operand", "RUN needs a command", "RUN");
    check_fault(
        r#"RUN ["a", 1]"#,
        "json-not-strings",
        "the JSON form of RUN holds something else than strings",
        r#"["a", 1]"#,
    );
}

#[test]
fn run_flags() {
    let Instruction::Run(run) = instruction(
        "RUN --mount=type=cache,target=/a --mount=target=/b --network=none --security=insecure \
         --device=v.com/c=d,required --device=name=e x",
    ) else {
        panic!()
    };
    assert_eq!(run.mounts.len(), 2);
    assert_eq!(run.network.map(|network| network.value), Some(Network::None));
    assert_eq!(run.security.map(|security| security.value), Some(Security::Insecure));
    let devices: Vec<_> =
        run.devices.iter().map(|device| (device.name.value.as_str(), device.required)).collect();
    assert_eq!(devices, [("v.com/c=d", true), ("e", false)]);
    assert_eq!(command(&run.command), Ok("x"));
    check_fault("RUN --network=nnoe x", "invalid-flag-value", "`--network` cannot be `nnoe`", "nnoe");
    check_fault("RUN --security x", "missing-flag-value", "flag `--security` needs a value", "--security");
    check_fault("RUN --device=required x", "invalid-device", "a device needs a name", "required");
    check_fault(
        r#"RUN --mount=a\"b x"#,
        "invalid-mount",
        "invalid mount `a\"b`: a quote inside a field that is not quoted",
        r#"a\"b"#,
    );
}

#[test]
fn flags_in_general() {
    check_fault("COPY --fron=a b c", "unknown-flag", "unknown flag `--fron` of COPY", "--fron=a");
    check_fault("COPY --from=a --from=b c d", "duplicate-flag", "flag `--from` is given twice", "--from=b");
    check_fault("COPY --link --link c d", "duplicate-flag", "flag `--link` is given twice", "--link");
    check_fault("COPY --from c d", "missing-flag-value", "flag `--from` needs a value", "--from");
    check_fault("COPY --link= c d", "invalid-flag-value", "flag `--link` has no value after `=`", "");
    check_fault("COPY --link=yes c d", "invalid-flag-value", "flag `--link` cannot be `yes`", "yes");
    check_fault("CMD --help", "unknown-flag", "unknown flag `--help` of CMD", "--help");
    check_fault("ENV --x a=b", "unknown-flag", "unknown flag `--x` of ENV", "--x");
    check_fault("ADD --from=x a b", "unknown-flag", "unknown flag `--from` of ADD", "--from=x");
    check_fault(
        "COPY --keep-git-dir a b",
        "unknown-flag",
        "unknown flag `--keep-git-dir` of COPY",
        "--keep-git-dir",
    );
    check_fault("COPY --Link a b", "unknown-flag", "unknown flag `--Link` of COPY", "--Link");
    let (_, diagnostics) = parse("FROM a\nCOPY --form=x a b\n");
    assert_eq!(diagnostics[0].help.as_deref(), Some("did you mean `--from`?"));
}

#[test]
fn flag_values_lose_their_quotes() {
    let chown = |text: &str| match instruction(text) {
        Instruction::Copy(copy) => value(&copy.chown).map(str::to_owned),
        other => panic!("{other:?}"),
    };
    let check = |text: &str, expect: &str| assert_eq!(chown(text).as_deref(), Some(expect), "{text}");
    check("COPY --chown=a:b c d", "a:b");
    check("COPY --chown=\"a b\" c d", "a b");
    check("COPY --chown='a b' c d", "a b");
    check("COPY --\"chown\"=b c d", "b");
    check(r"COPY --chown=a\ b c d", "a b");
    check("COPY --chown= c d", "");
    check("COPY --chown=$A c d", "$A");
    check("COPY --chown=a=b c d", "a=b");
    check("COPY --chown=ä c d", "ä");
}

#[test]
fn copy() {
    let Instruction::Copy(copy) = instruction(
        "COPY --from=stage --chown=1:2 --chmod=u=rwX --link --parents=false --exclude=*.md --exclude=!a.md a b* /dest/",
    ) else {
        panic!()
    };
    let paths: Vec<_> = copy
        .sources
        .iter()
        .map(|source| match source {
            Source::Path(path) => path.value.as_str(),
            Source::Heredoc(_) => panic!(),
        })
        .collect();
    assert_eq!(paths, ["a", "b*"]);
    assert_eq!(copy.dest.value, "/dest/");
    assert_eq!(value(&copy.from), Some("stage"));
    assert_eq!(value(&copy.chown), Some("1:2"));
    assert_eq!(value(&copy.chmod), Some("u=rwX"));
    assert_eq!(copy.link.map(|link| link.value), Some(true));
    assert_eq!(copy.parents.map(|parents| parents.value), Some(false));
    assert_eq!(values(&copy.exclude), ["*.md", "!a.md"]);

    let Instruction::Copy(copy) = instruction(r#"COPY ["a b", "c<<", "/d e"]"#) else { panic!() };
    assert!(
        matches!(&copy.sources[..], [Source::Path(a), Source::Path(c)] if a.value == "a b" && c.value == "c<<")
    );
    assert_eq!(copy.dest.value, "/d e");

    let message = "COPY needs at least one source and a destination";
    check_fault("COPY a", "missing-operand", message, "COPY a");
    check_fault("COPY", "missing-operand", message, "COPY");
    check_fault(r#"COPY ["a"]"#, "missing-operand", message, r#"COPY ["a"]"#);
    check_fault("COPY --from=$A b c", "variable-in-from", "variables are not expanded in `--from`", "$A");
}

#[test]
fn add() {
    let Instruction::Add(add) = instruction(
        "ADD --checksum=sha256:00 --keep-git-dir=true --unpack=FALSE --exclude=x --link https://a/b /c",
    ) else {
        panic!()
    };
    assert_eq!(value(&add.checksum), Some("sha256:00"));
    assert_eq!(add.keep_git_dir.map(|keep| keep.value), Some(true));
    assert_eq!(add.unpack.map(|unpack| unpack.value), Some(false));
    assert_eq!(add.link.map(|link| link.value), Some(true));
    assert_eq!(values(&add.exclude), ["x"]);
    assert_eq!(add.dest.value, "/c");
    let Instruction::Add(add) = instruction("ADD a b") else { panic!() };
    assert_eq!(add.unpack, None);
    check_fault("ADD a", "missing-operand", "ADD needs at least one source and a destination", "ADD a");
}

#[test]
fn env_and_label() {
    let check = |text: &str, form: PairForm, expect: &[(&str, &str)]| {
        let (pairs, found) = match instruction(text) {
            Instruction::Env(env) => (env.pairs, env.form),
            Instruction::Label(label) => (label.pairs, label.form),
            other => panic!("{other:?}"),
        };
        let pairs: Vec<_> =
            pairs.iter().map(|pair| (pair.key.value.as_str(), pair.value.value.as_str())).collect();
        assert_eq!((pairs.as_slice(), found), (expect, form), "{text}");
    };
    check("ENV a=b", PairForm::Equals, &[("a", "b")]);
    check("ENV a=b c=d", PairForm::Equals, &[("a", "b"), ("c", "d")]);
    check(
        r#"ENV a="b c" d=e\ f g='h i'"#,
        PairForm::Equals,
        &[("a", r#""b c""#), ("d", r"e\ f"), ("g", "'h i'")],
    );
    check("ENV a= b=c=d", PairForm::Equals, &[("a", ""), ("b", "c=d")]);
    check("ENV a=b \\\n    c=d", PairForm::Equals, &[("a", "b"), ("c", "d")]);
    check(
        r#"LABEL "com.example.a"="b" c=d"#,
        PairForm::Equals,
        &[(r#""com.example.a""#, r#""b""#), ("c", "d")],
    );

    let (file, diagnostics) = parse("FROM a\nENV a b  c=d \nLABEL a b\n");
    assert_eq!(diagnostics, []);
    let Instruction::Env(env) = &file.stages[0].instructions[0].instruction else { panic!() };
    assert_eq!((env.form, env.pairs[0].value.value.as_str()), (PairForm::Legacy, "b  c=d"));

    check_fault("ENV", "missing-operand", "ENV needs at least one operand", "ENV");
    check_fault("ENV a", "missing-operand", "ENV must have two operands", "a");
    check_fault("ENV a=b c", "missing-equals", "`c` has no `=`", "c");
    check_fault("LABEL =b", "empty-operand", "LABEL has a name that is empty", "=b");
}

#[test]
fn arg() {
    let check = |text: &str, expect: &[(&str, Option<&str>)]| match instruction(text) {
        Instruction::Arg(arg) => {
            let found: Vec<_> = arg
                .declarations
                .iter()
                .map(|declaration| (declaration.name.value.as_str(), value(&declaration.default)))
                .collect();
            assert_eq!(found, expect, "{text}");
        }
        other => panic!("{other:?}"),
    };
    check("ARG a", &[("a", None)]);
    check("ARG a=", &[("a", Some(""))]);
    check("ARG a=b c d=\"e f\"", &[("a", Some("b")), ("c", None), ("d", Some("\"e f\""))]);
    check_fault("ARG", "missing-operand", "ARG needs at least one operand", "ARG");
    check_fault("ARG =b", "empty-operand", "ARG has a name that is empty", "=b");
}

#[test]
fn cmd_and_entrypoint() {
    let check = |text: &str, expect: Result<&str, Vec<&str>>| match instruction(text) {
        Instruction::Cmd(found) => assert_eq!(command(&found.command), expect, "{text}"),
        Instruction::Entrypoint(found) => assert_eq!(command(&found.command), expect, "{text}"),
        other => panic!("{other:?}"),
    };
    check("CMD a b", Ok("a b"));
    check(r#"CMD ["a", "b"]"#, Err(vec!["a", "b"]));
    check("CMD []", Err(vec![]));
    check("ENTRYPOINT a", Ok("a"));
    check("ENTRYPOINT []", Err(vec![]));
    check("CMD", Ok(""));
}

#[test]
fn single_operands() {
    let check = |text: &str, expect: &str| {
        let found = match instruction(text) {
            Instruction::Workdir(workdir) => workdir.path.value,
            Instruction::User(user) => user.user.value,
            Instruction::StopSignal(signal) => signal.signal.value,
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expect, "{text}");
    };
    check("WORKDIR /a b", "/a b");
    check("WORKDIR $A", "$A");
    check("USER 1000:1000", "1000:1000");
    check("STOPSIGNAL SIGKILL", "SIGKILL");
    check("STOPSIGNAL 9", "9");
    check("STOPSIGNAL $S", "$S");
    for name in ["WORKDIR", "USER", "STOPSIGNAL", "MAINTAINER"] {
        check_fault(name, "missing-operand", &format!("{name} needs exactly one operand"), name);
    }
    check_fault("STOPSIGNAL SIGFOO", "invalid-signal", "unknown signal `SIGFOO`", "SIGFOO");
}

#[test]
fn expose() {
    let Instruction::Expose(expose) = instruction("EXPOSE 80 53/udp 8000-8010/tcp $P ${P}/tcp") else {
        panic!()
    };
    assert_eq!(values(&expose.ports), ["80", "53/udp", "8000-8010/tcp", "$P", "${P}/tcp"]);
    check_fault("EXPOSE", "missing-operand", "EXPOSE needs at least one operand", "EXPOSE");
    check_fault("EXPOSE 80 x", "invalid-port", "invalid port `x`: a port is a number from 0 to 65535", "x");
    check_fault("EXPOSE 80/htp", "invalid-port", "unknown protocol `htp` of port `80/htp`", "80/htp");
}

#[test]
fn volume() {
    let check = |text: &str, expect: &[&str]| match instruction(text) {
        Instruction::Volume(volume) => assert_eq!(values(&volume.paths), expect, "{text}"),
        other => panic!("{other:?}"),
    };
    check("VOLUME /a /b", &["/a", "/b"]);
    check(r#"VOLUME ["/a b", "/c"]"#, &["/a b", "/c"]);
    check_fault("VOLUME", "missing-operand", "VOLUME needs at least one operand", "VOLUME");
    check_fault("VOLUME [\"\"]", "empty-operand", "a volume cannot be an empty string", "\"\"");
    check_fault("VOLUME []", "empty-operand", "a volume cannot be an empty string", "[]");
}

#[test]
fn shell() {
    let Instruction::Shell(shell) = instruction(r#"SHELL ["bash", "-c"]"#) else { panic!() };
    assert_eq!(values(&shell.command), ["bash", "-c"]);
    check_fault("SHELL bash -c", "shell-not-json", "SHELL must be in JSON form", "bash -c");
    check_fault("SHELL []", "missing-operand", "SHELL needs at least one operand", "[]");
    check_fault("SHELL", "missing-operand", "SHELL needs at least one operand", "SHELL");
}

#[test]
fn healthcheck() {
    let Instruction::Healthcheck(Healthcheck::Command(check)) = instruction(
        "HEALTHCHECK --interval=1m30s --timeout=3s --start-period=0 --start-interval=100ms --retries=5 CMD curl x",
    ) else {
        panic!()
    };
    assert_eq!(check.interval.map(|found| found.value), Some(Duration::from_secs(90)));
    assert_eq!(check.timeout.map(|found| found.value), Some(Duration::from_secs(3)));
    assert_eq!(check.start_period.map(|found| found.value), Some(Duration::ZERO));
    assert_eq!(check.start_interval.map(|found| found.value), Some(Duration::from_millis(100)));
    assert_eq!(check.retries.map(|found| found.value), Some(5));
    assert_eq!(command(&check.command), Ok("curl x"));

    let Instruction::Healthcheck(Healthcheck::Command(check)) = instruction(r#"HEALTHCHECK cmd ["a"]"#)
    else {
        panic!()
    };
    assert_eq!(command(&check.command), Err(vec!["a"]));
    assert!(matches!(instruction("HEALTHCHECK none"), Instruction::Healthcheck(Healthcheck::None)));

    check_fault("HEALTHCHECK", "missing-operand", "HEALTHCHECK needs at least one operand", "HEALTHCHECK");
    check_fault("HEALTHCHECK CMD", "missing-operand", "HEALTHCHECK CMD needs a command", "CMD");
    check_fault("HEALTHCHECK NONE x", "invalid-healthcheck", "HEALTHCHECK NONE takes no operands", "x");
    check_fault("HEALTHCHECK curl x", "invalid-healthcheck", "unknown type `curl` of HEALTHCHECK", "curl");
    check_fault(
        "HEALTHCHECK --interval=5 CMD x",
        "invalid-duration",
        "invalid duration `5` of `--interval`: a duration needs a unit: `h`, `m`, `s`, `ms`, `us` or `ns`",
        "5",
    );
    check_fault(
        "HEALTHCHECK --timeout=1us CMD x",
        "invalid-duration",
        "invalid duration `1us` of `--timeout`: it cannot be shorter than 1ms",
        "1us",
    );
    check_fault(
        "HEALTHCHECK --retries=-1 CMD x",
        "invalid-flag-value",
        "`--retries` must be a number that is not negative, not `-1`",
        "-1",
    );
}

#[test]
fn onbuild() {
    let stage = stage("ONBUILD RUN a \\\n  b\nonbuild copy --from=x c d\n");
    let triggers: Vec<_> = stage
        .instructions
        .iter()
        .map(|found| match &found.instruction {
            Instruction::Onbuild(onbuild) => (onbuild.instruction.name(), onbuild.trigger.value.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(triggers, [("RUN", "RUN a   b"), ("COPY", "copy --from=x c d")]);
    check_fault("ONBUILD", "missing-operand", "ONBUILD needs at least one operand", "ONBUILD");
    check_fault(
        "ONBUILD ONBUILD RUN a",
        "invalid-trigger",
        "ONBUILD cannot be a trigger of ONBUILD",
        "ONBUILD",
    );
    check_fault("ONBUILD FROM a", "invalid-trigger", "FROM cannot be a trigger of ONBUILD", "FROM");
    check_fault(
        "ONBUILD maintainer a",
        "invalid-trigger",
        "MAINTAINER cannot be a trigger of ONBUILD",
        "maintainer",
    );
    check_fault(
        "ONBUILD COPY a",
        "missing-operand",
        "COPY needs at least one source and a destination",
        "COPY a",
    );
    check_fault("ONBUILD RNU a", "unknown-instruction", "unknown instruction `RNU`", "RNU");
}

#[test]
fn triggers_are_one_instruction() {
    let codes = |text: &str| parse_trigger(text).1.iter().map(|found| found.code).collect::<Vec<_>>();
    assert!(parse_trigger("RUN a").0.is_some());
    assert_eq!(codes("RUN a"), [""; 0]);
    assert_eq!(codes(""), ["invalid-trigger"]);
    assert_eq!(codes("FROM a"), ["invalid-trigger"]);
    assert_eq!(codes("RUN a\nRUN b"), ["invalid-trigger"]);
    assert_eq!(codes("RNU a"), ["unknown-instruction"]);
}

#[test]
fn every_fault_is_reported() {
    check_faults(
        "FROM a\nCOPY x\nENV\nRUN --x y\nWORKDIR /\nUSER\n",
        &[
            ("missing-operand", "COPY needs at least one source and a destination"),
            ("missing-operand", "ENV needs at least one operand"),
            ("unknown-flag", "unknown flag `--x` of RUN"),
            ("missing-operand", "USER needs exactly one operand"),
        ],
    );
}
