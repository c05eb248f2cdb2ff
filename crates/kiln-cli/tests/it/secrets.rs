//! What a build is trusted with: secrets that leave no trace, SSH agents, and commands with more rights.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use kiln_testkit::{Image, Person, TestEnv, lane};

use crate::tools::tool;
use crate::{env, env_of};

/// Builds `lines` onto the host's base and returns the image.
fn build(env: &TestEnv, lines: &str, more: &[&str]) -> Image {
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\n{lines}\n"));
    let name = format!("{}/secrets:1", env.host());
    let mut args = vec!["build", "-t", &name, "--push"];
    args.extend(more);
    args.push("ctx");
    env.kiln(args).ok();
    Image::pull(&name)
}

fn fails(env: &TestEnv, lines: &str, more: &[&str], parts: &[&str]) {
    let base = env.base();
    env.write("ctx/Dockerfile", format!("FROM {base}\n{lines}\n"));
    let mut args = vec!["build"];
    args.extend(more);
    args.push("ctx");
    env.kiln(args).fails(1, parts);
}

fn for_somebody(what: &str) -> Option<TestEnv> {
    lane::people(what).into_iter().next().map(env_of)
}

/// Gives a file to whoever runs kiln.
fn own(env: &TestEnv, path: &str) {
    if let Person::Ordinary { uid, gid, .. } = env.person {
        std::os::unix::fs::chown(env.root.join(path), Some(uid), Some(gid)).unwrap();
    }
}

#[test]
fn secrets_are_files_and_variables() {
    for person in lane::people("secrets") {
        let env = env_of(person);
        env.write("home/token", "from a file\n");
        own(&env, "home/token");
        let image = build(
            &env,
            "WORKDIR /w\nENV BOTH=known\n\
             RUN --mount=type=secret,id=token cat /run/secrets/token > /out && stat -c '%a %u:%g' /run/secrets/token >> /out\n\
             RUN --mount=type=secret,id=dir/token,target=here --mount=type=secret,target=/x/token,mode=0444 cat here /x/token >> /out && stat -c %a /x/token >> /out\n\
             RUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=token,env=BOTH,target=/both echo \"$TOKEN $BOTH\" >> /out && cat /both >> /out && test ! -e /run/secrets\n\
             RUN --mount=type=secret,id=gone --mount=type=secret,id=gone,env=GONE test ! -e /run/secrets/gone && echo \"${GONE-unset}$BOTH\" >> /out\n\
             RUN --mount=type=secret,id=token ! sh -c 'echo x > /run/secrets/token'\n\
             RUN [ -z \"$TOKEN\" ] && [ ! -e /run/secrets ] && [ ! -e /x ] && [ ! -e here ]",
            &["--secret", "id=token,src=home/token", "--secret", "type=file,id=dir/token,source=home/token"],
        );
        let text = "from a file\n";
        assert_eq!(
            image.layers.iter().rev().find_map(|layer| layer.text("out")).unwrap(),
            format!("{text}400 0:0\n{text}{text}444\n{text} {text}\n{text}known\n")
        );
        let image = build(
            &env,
            "USER www-data\nRUN --mount=type=secret,id=token,uid=33,gid=50,mode=0440 stat -c '%a %u:%g' /run/secrets/token > /tmp/out && cat /run/secrets/token >> /tmp/out",
            &["--secret", "id=token,src=home/token"],
        );
        assert_eq!(image.last().text("tmp/out").unwrap(), "440 33:50\nfrom a file\n");
    }
}

#[test]
fn the_environment_gives_secrets() {
    let Some(env) = for_somebody("secrets from the environment") else { return };
    let base = env.base();
    env.write("by-name", "a file\n");
    env.write(
        "ctx/Dockerfile",
        format!("FROM {base}\nRUN --mount=type=secret,id=A --mount=type=secret,id=b --mount=type=secret,id=c --mount=type=secret,id=by-name cat /run/secrets/A /run/secrets/b /run/secrets/c /run/secrets/by-name > /out\n"),
    );
    let name = format!("{}/variables:1", env.host());
    let secrets = [
        "--secret",
        "id=A",
        "--secret",
        "id=b,env=B",
        "--secret",
        "type=env,id=c,src=C",
        "--secret",
        "id=by-name",
    ];
    let mut args = vec!["build", "-t", &name, "--push"];
    args.extend(secrets);
    args.push("ctx");
    let output = env.command(args).env("A", "one\n").env("B", "two\n").env("C", "three\n").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Image::pull(&name).last().text("out").unwrap(), "one\ntwo\nthree\na file\n");
}

#[test]
fn a_secret_that_is_missing_is_explained() {
    let Some(env) = for_somebody("missing secrets") else { return };
    env.write("t", "x");
    let line = "RUN true\nRUN --mount=type=secret,id=token,required=true true";
    fails(
        &env,
        line,
        &["--secret", "id=tokne,src=t"],
        &["needs the secret `token`", "Dockerfile:3", "did you mean `tokne`?", "--secret id=token,src=FILE"],
    );
    fails(&env, line, &["--secret", "id=token,src=gone"], &["cannot read secret `token` from `gone`"]);
    env.write("large", vec![b'x'; 500 * 1024 + 1]);
    fails(&env, line, &["--secret", "id=token,src=large"], &["secret `token` is larger than 500 KiB"]);
    env.write("large", vec![b'x'; 500 * 1024]);
    build(&env, line, &["--secret", "id=token,src=large"]);
    env.write("zero", b"a\0b");
    let variable = "RUN --mount=type=secret,id=token,env=T true";
    fails(
        &env,
        variable,
        &["--secret", "id=token,src=zero"],
        &["zero byte", "leave out `env`", "Dockerfile:2"],
    );
}

#[test]
fn a_secret_is_in_no_key() {
    let Some(env) = for_somebody("keys of secrets") else { return };
    let line = "RUN --mount=type=secret,id=t cat /run/secrets/t > /out";
    env.write("t", "first");
    build(&env, line, &["--secret", "id=t,src=t"]);
    env.write("t", "second");
    let image = build(&env, line, &["--secret", "id=t,src=t"]);
    assert_eq!(image.last().text("out").unwrap(), "first");
    // A step of the cache needs no secret.
    assert_eq!(build(&env, line, &[]).digest, image.digest);
}

/// Searches every file below `dir` for `needles`.
fn search(dir: &Path, needles: &[&[u8]], found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            search(&path, needles, found);
        } else if meta.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            for needle in needles {
                if bytes.windows(needle.len()).any(|window| window == *needle) {
                    found.push(format!("{} in {}", String::from_utf8_lossy(needle), path.display()));
                }
            }
        }
    }
}

#[test]
fn no_secret_is_found_anywhere_afterwards() {
    for person in lane::people("traces of secrets") {
        let env = env_of(person);
        let base = env.base();
        let (file, variable) = ("hunter2-of-the-file", "hunter2-of-the-variable");
        env.write("elsewhere/file", file);
        let dockerfile = |last: &str| {
            format!(
                "FROM {base}\n\
                 RUN --mount=type=secret,id=f,target=/etc/deep/f --mount=type=secret,id=v,env=V sh -c 'test \"$(cat /etc/deep/f)\" = hunter2-of-the-f\"\"ile && test -n \"$V\"'\n\
                 RUN --mount=type=secret,id=v --mount=type=cache,target=/c --mount=type=tmpfs,target=/t cp /run/secrets/v /t/ && ls /c > /listing\n\
                 RUN --mount=type=secret,id=f,env=F --mount=type=secret,id=v,env=V echo \"$F\"; printf %s \"$V\" >&2; {last}\n"
            )
        };
        let mut logs = String::new();
        for (last, progress) in [("true", "plain"), ("true", "json"), ("exit 3", "plain"), ("exit 3", "json")]
        {
            env.write("ctx/Dockerfile", dockerfile(last));
            let name = format!("{}/traces:1", env.host());
            let output = env
                .command([
                    "build",
                    "--no-cache",
                    "--progress",
                    progress,
                    "-t",
                    &name,
                    "--push",
                    "-o",
                    "type=oci,dest=home/out",
                    "--secret",
                    "id=f,src=elsewhere/file",
                    "--secret",
                    "id=v,env=HUNTER",
                    // So that a search through blobs sees what is in them.
                    "--compression",
                    "uncompressed",
                    "ctx",
                ])
                .env("HUNTER", variable)
                .output()
                .unwrap();
            assert_eq!(
                output.status.code(),
                Some(i32::from(last != "true")),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            logs += &String::from_utf8_lossy(&output.stdout);
            logs += &String::from_utf8_lossy(&output.stderr);
        }
        let printed = env
            .command([
                "build",
                "--print",
                "request",
                "--secret",
                "id=f,src=elsewhere/file",
                "--secret",
                "id=v,env=HUNTER",
                "ctx",
            ])
            .env("HUNTER", variable)
            .output()
            .unwrap();
        let request = String::from_utf8_lossy(&printed.stdout).into_owned();
        assert!(request.contains("elsewhere/file") && request.contains("***"), "{request}");
        logs += &request;
        assert!(!logs.contains(file) && !logs.contains(variable), "{logs}");
        // The last command prints both in each of four builds, and the error of those that fail repeats it.
        assert!(logs.matches("***").count() >= 12, "{logs}");
        let needles = [file.as_bytes(), variable.as_bytes()];
        let mut found = Vec::new();
        search(&env.root.join("home"), &needles, &mut found);
        search(&env.root.join("tmp"), &needles, &mut found);
        assert_eq!(found, Vec::<String>::new());
        // The search does find what is there.
        search(&env.root.join("elsewhere"), &needles, &mut found);
        assert_eq!(found.len(), 1);
        let image = Image::pull(&format!("{}/traces:1", env.host()));
        let config = serde_json::to_string(&image.config).unwrap();
        assert!(!config.contains("hunter2-of-the-v"), "{config}");
    }
}

/// An agent that answers every visitor with what they said.
fn echoing_agent(env: &TestEnv, path: &str) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(env.root.join(path)).unwrap();
    std::fs::set_permissions(env.root.join(path), PermissionsExt::from_mode(0o600)).unwrap();
    own(env, path);
    std::thread::spawn(move || {
        let (mut visitor, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        visitor.read_to_end(&mut heard).unwrap();
        visitor.write_all(b"heard ").unwrap();
        visitor.write_all(&heard).unwrap();
    })
}

#[test]
fn an_agent_is_within_reach_of_a_command() {
    let what = "SSH agents";
    for person in lane::people(what) {
        let env = env_of(person);
        if tool(&env, "perl", what).is_none() {
            return;
        }
        let agent = echoing_agent(&env, "home/agent");
        env.write(
            "ctx/ask",
            "socket(S, 1, 1, 0) or die $!; connect(S, pack('S a108', 1, $ENV{SSH_AUTH_SOCK})) or die $!;\n\
             syswrite(S, 'hello'); shutdown(S, 1); print while <S>; print qq(\\n);\n",
        );
        let image = build(
            &env,
            "COPY tools /\n\
             RUN --mount=type=ssh,required=true --mount=source=ask,target=/ask perl /ask > /out && echo $SSH_AUTH_SOCK >> /out && stat -c '%a %u:%g %F' $SSH_AUTH_SOCK >> /out\n\
             RUN --mount=type=ssh,id=none --mount=type=ssh,target=/here,mode=0666 test -S /here && test ! -e /run/buildkit/ssh_agent.0 && echo $SSH_AUTH_SOCK >> /out\n\
             RUN test -z \"$SSH_AUTH_SOCK\" && test ! -e /run",
            &["--ssh", "default=home/agent,raw=true"],
        );
        agent.join().unwrap();
        assert_eq!(
            image.layers.iter().rev().find_map(|layer| layer.text("out")).unwrap(),
            "heard hello\n/run/buildkit/ssh_agent.0\n600 0:0 socket\n/run/buildkit/ssh_agent.0\n"
        );
        std::fs::remove_file(env.root.join("home/agent")).unwrap();
        let agent = echoing_agent(&env, "home/agent");
        let image = build(
            &env,
            "COPY tools /\nUSER www-data\n\
                 RUN --mount=type=ssh,uid=33 --mount=source=ask,target=/ask perl /ask > /tmp/out",
            &["--ssh", "default=home/agent,raw=true"],
        );
        agent.join().unwrap();
        assert_eq!(image.last().text("tmp/out").unwrap(), "heard hello\n");
    }
}

#[test]
fn a_real_agent_shows_its_keys() {
    let what = "a real SSH agent";
    if [lane::program("ssh-agent", what), lane::program("ssh-keygen", what)].contains(&None) {
        return;
    }
    for person in lane::people(what) {
        let env = env_of(person);
        if tool(&env, "ssh-add", what).is_none() {
            return;
        }
        let run = |args: &[&str]| {
            // Not as the person, who may have no name, which these programs want; an agent listens to root too.
            let home = env.root.join("home");
            let mut command = Command::new(args[0]);
            command.args(&args[1..]).current_dir(&home).env("SSH_AUTH_SOCK", home.join("agent"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        run(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "a key", "-f", "key"]);
        let mut command = env.person.command("ssh-agent".as_ref());
        command.args(["-D", "-a"]).arg(env.root.join("home/agent")).stdout(std::process::Stdio::null());
        let mut agent = command.stderr(std::process::Stdio::null()).spawn().unwrap();
        // The socket's file is there a moment before somebody listens.
        while std::os::unix::net::UnixStream::connect(env.root.join("home/agent")).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        run(&["ssh-add", "-q", "key"]);
        let expect = run(&["ssh-add", "-l"]);
        let image = build(
            &env,
            "COPY tools /\nRUN --mount=type=ssh,required ! ssh-add -D && ssh-add -l > /out",
            &["--ssh", "default=home/agent"],
        );
        let _ = agent.kill();
        let _ = agent.wait();
        assert_eq!(image.last().text("out").unwrap(), expect);
        assert!(expect.contains("a key (ED25519)"), "{expect}");
    }
}

#[test]
fn an_agent_that_is_missing_is_explained() {
    let Some(env) = for_somebody("missing agents") else { return };
    let line = "RUN --mount=type=ssh,required=true true";
    fails(&env, line, &[], &["needs the SSH agent `default`", "Dockerfile:2", "--ssh default"]);
    build(&env, "RUN --mount=type=ssh test ! -e /run/buildkit", &[]);
    env.write("key.pem", "a key");
    fails(&env, line, &["--ssh", "default=key.pem"], &["`key.pem`", "no socket of an agent", "ssh-add FILE"]);
    fails(&env, line, &["--ssh", "default=gone"], &["cannot use `gone` as SSH agent `default`"]);
    env.kiln(["build", "--ssh", "default", "ctx"]).fails(2, &["SSH_AUTH_SOCK is not set"]);
}

#[test]
fn more_rights_have_to_be_allowed() {
    let line = "RUN true\nRUN --security=insecure grep CapEff /proc/self/status > /out";
    fails(
        &env(),
        line,
        &[],
        &[
            "RUN --security=insecure is not allowed in this build",
            "Dockerfile:3",
            "--allow security.insecure",
        ],
    );
    env().kiln(["build", "--allow", "device", "ctx"]).fails(2, &["`device` is nothing to allow"]);
    for person in lane::people("RUN --security=insecure") {
        let env = env_of(person);
        let image = build(&env, line, &["--allow", "security.insecure", "--allow", "network.host"]);
        let all = image.last().text("out").unwrap();
        // More than the fourteen of the sandbox, whose line ends in a80425fb.
        assert!(all.contains("ffffff"), "{all}");
        let image = build(&env, "RUN --security=sandbox grep CapEff /proc/self/status > /out", &[]);
        assert!(image.last().text("out").unwrap().ends_with("a80425fb\n"));
    }
}
