//! Same input, same digest: another directory, user, umask, time, number of workers.

use std::fs;
use std::process::Command;

use kiln_testkit::{Image, lane};

use crate::{KILN, env, env_of};

const DOCKERFILE: &str = r#"FROM base AS build
ARG VERSION=3
ENV MODE=release
WORKDIR /src
COPY src .
RUN cat a.txt b/c.txt > out && mkdir -p d/e && ln -s out link && ln out hard && chmod 4755 out && echo $VERSION-$MODE > v
RUN rm a.txt && rm -r b && mkdir b && touch b/new
FROM base
COPY --from=build /src /app
COPY --chown=33:50 src /owned
RUN id -u > /app/uid && umask > /app/umask && pwd >> /app/uid && sleep 0.01
CMD ["cat", "/app/out"]
"#;

fn context(env: &kiln_testkit::TestEnv, dir: &str) {
    env.write(&format!("{dir}/Dockerfile"), DOCKERFILE);
    env.write(&format!("{dir}/src/a.txt"), "a\n");
    env.write(&format!("{dir}/src/b/c.txt"), "c\n");
}

#[test]
fn user_directory_umask_and_time_do_not_matter() {
    let mut digests: Vec<(String, String)> = Vec::new();
    for person in lane::people("one digest for everybody") {
        let env = env_of(person.clone());
        kiln_testkit::base::write_layout(&env.root.join("layout")).unwrap();
        context(&env, "one");
        context(&env, "elsewhere/two");
        // Files of another time and of another hand's umask: the modes are part of the input, the times are not.
        let touched =
            Command::new("touch").args(["-d", "2001-02-03"]).arg(env.root.join("one/src/a.txt")).status();
        assert!(touched.unwrap().success());
        for (umask, dir, jobs) in [("022", "one", "1"), ("077", "elsewhere/two", "8")] {
            let mut command = person.command("sh".as_ref());
            let script = format!(
                "umask {umask}; exec '{}/kiln' build --build-context base=oci-layout://{}/layout --jobs {jobs} --no-cache --progress plain {dir}",
                env.root.display(),
                env.root.display()
            );
            command.arg("-c").arg(script).current_dir(&env.root).env_clear();
            command
                .env("PATH", std::env::var_os("PATH").unwrap_or_default())
                .env("HOME", env.root.join("home"));
            command.env("KILN_STORE", env.root.join(format!("home/store-{umask}")));
            let output = command.output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "as {person}, umask {umask}:\n{stderr}");
            digests.push((format!("{person}, umask {umask}"), String::from_utf8(output.stdout).unwrap()));
        }
        let _ = env.kiln(["prune", "--all", "--store", "home/store-022"]);
        let _ = env.kiln(["prune", "--all", "--store", "home/store-077"]);
    }
    let first = digests.first().map(|(_, d)| d.clone());
    assert!(digests.iter().all(|(_, d)| Some(d) == first.as_ref()), "{digests:#?}");
}

#[test]
fn compression_does_not_depend_on_the_number_of_processors() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY big /big\n");
    let text: Vec<u8> = (0..3_000_000_u32).flat_map(|i| i.to_string().into_bytes()).collect();
    env.write("ctx/big", text);
    let build = |processors: &str, codec: &str| {
        let output = Command::new("taskset")
            .args([
                "-c",
                processors,
                KILN,
                "build",
                "--no-cache",
                "--compression",
                codec,
                "--store",
                "store",
                "ctx",
            ])
            .current_dir(&env.root)
            .output();
        output.map(|o| (o.status.success(), String::from_utf8_lossy(&o.stdout).into_owned()))
    };
    for codec in ["gzip", "zstd"] {
        // Several times: which thread gets which block differs from run to run.
        let builds = [build("0", codec), build("0-63", codec), build("0-63", codec)];
        let [Ok(one), Ok(all), Ok(again)] = builds else {
            lane::left_out("compression on one and on all processors", "there is no `taskset`");
            return;
        };
        assert!(one.0 && all.0 && again.0);
        assert_eq!(one.1, all.1, "{codec}");
        assert_eq!(all.1, again.1, "{codec}");
    }
}

#[test]
fn the_epoch_cuts_times_and_is_the_time_of_the_image() {
    let env = env();
    env.write("ctx/Dockerfile", "FROM scratch\nCOPY f /f\n");
    env.write("ctx/f", "f");
    let name = format!("{}/epoch:1", env.host());
    let built = |args: &[&str]| {
        let all: Vec<&str> =
            ["build", "-t", &name, "--push"].iter().chain(args).copied().chain(["ctx"]).collect();
        env.kiln(all).ok();
        let image = Image::pull(&name);
        (image.config.created.clone().unwrap(), image.last().entry("f").unwrap().mtime.secs)
    };
    assert_eq!(built(&[]), ("1980-01-02T00:00:00Z".to_owned(), 315_619_200));
    assert_eq!(
        built(&["--source-date-epoch", "1700000000"]),
        ("2023-11-14T22:13:20Z".to_owned(), 1_700_000_000)
    );
}

#[test]
fn two_builds_at_once_share_a_store() {
    let env = env();
    for n in 0..4 {
        env.write(&format!("ctx{n}/Dockerfile"), "FROM scratch\nCOPY . /x\nWORKDIR /y\n");
        env.write(&format!("ctx{n}/f"), "same");
    }
    let children: Vec<_> = (0..4)
        .map(|n| {
            let mut command = env.command(["build", &format!("ctx{n}")]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let mut digests: Vec<String> = Vec::new();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        digests.push(String::from_utf8(output.stdout).unwrap());
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    assert!(
        fs::read_dir(env.root.join("home/store/tmp")).unwrap().next().is_none(),
        "something stayed in tmp"
    );
}
