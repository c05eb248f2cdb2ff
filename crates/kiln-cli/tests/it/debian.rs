//! The main job on real parts: a Debian base, a real registry, a package, a compiler, and a client of another maker.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kiln_testkit::lane;

use crate::env_of;
use crate::environments::printed_in_containers;

const WHAT: &str = "a two-stage build on a Debian base";

const DOCKERFILE: &str = r#"# check=skip=all
ARG BASE
FROM ${BASE} AS build
ARG VERSION=1.2
ENV CFLAGS="-O2 -static"
WORKDIR /src
COPY . .
RUN dpkg -i debs/*.deb && hello > greeting.txt
RUN cc $CFLAGS -DVERSION="\"$VERSION\"" -o app main.c && ./app && install -d -o www-data -m 2750 data

FROM ${BASE}
LABEL org.opencontainers.image.version=1.2
COPY --from=build --chown=www-data:www-data /src/app /usr/local/bin/app
COPY --from=build /src/greeting.txt /src/data /srv/
RUN useradd --uid 1234 --no-log-init app && chown app /srv && rm -f /var/log/lastlog /var/log/faillog
USER app
WORKDIR /srv
RUN id -un > me
EXPOSE 8080/tcp
HEALTHCHECK --interval=10s --timeout=2s CMD ["app", "--check"]
ENTRYPOINT ["app"]
CMD ["--serve"]
"#;

const MAIN: &str = "#include <stdio.h>\nint main(void) { puts(\"app \" VERSION); return 0; }\n";

/// A registry of the distribution, ended with the test.
pub(crate) struct DistributionRegistry {
    child: Child,
    /// Host and port.
    pub(crate) host: String,
}

impl Drop for DistributionRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts one that keeps its content in `dir`.
pub(crate) fn start_registry(program: &Path, dir: &Path) -> DistributionRegistry {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = dir.join("registry.yml");
    let data = dir.join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n\
         http: {{addr: \"127.0.0.1:{port}\"}}\n",
        data.display()
    );
    fs::write(&config, text).unwrap();
    let child = Command::new(program)
        .arg("serve")
        .arg(&config)
        .env("OTEL_TRACES_EXPORTER", "none")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let registry = DistributionRegistry { child, host: format!("127.0.0.1:{port}") };
    for _ in 0..200 {
        if std::net::TcpStream::connect(&registry.host).is_ok() {
            return registry;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("the registry does not answer");
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned())
}

/// Bootstraps a root file system from distribution packages, as a tar file.
fn bootstrap(mmdebstrap: &Path, dir: &Path) -> Result<PathBuf, String> {
    let tar = dir.join("debian.tar");
    run(Command::new(mmdebstrap)
        .args(["--quiet", "--variant=minbase", "--include=gcc,libc6-dev", "--format=tar"])
        .args(["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"])
        .arg("--dpkgopt=path-exclude=/usr/share/locale/*")
        .arg(codename())
        .arg(&tar)
        .env("SOURCE_DATE_EPOCH", "1700000000"))?;
    Ok(tar)
}

/// Returns the release of this machine's own distribution, whose packages it can get.
fn codename() -> String {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    name.map_or_else(|| "stable".to_owned(), |n| n.trim_matches('"').to_owned())
}

#[test]
fn a_real_dockerfile_becomes_a_pushed_image_that_runs() {
    if !is_root() {
        lane::left_out(WHAT, "bootstrapping Debian and running the result need root");
        return;
    }
    let programs = ["mmdebstrap", "docker-registry", "skopeo"].map(|p| lane::program(p, WHAT));
    let [Some(mmdebstrap), Some(registry), Some(skopeo)] = programs else { return };
    let people = lane::people(WHAT);
    let Some(first) = people.first() else { return };
    let lab = env_of(first.clone());
    let tar = match bootstrap(&mmdebstrap, &lab.root) {
        Ok(tar) => tar,
        Err(why) => {
            lane::left_out(WHAT, &format!("no Debian could be bootstrapped: {why}"));
            return;
        }
    };
    let registry = start_registry(&registry, &lab.root);
    let base = format!("{}/debian:stable", registry.host);
    import(&lab, &skopeo, &tar, &base);
    let deb =
        run(Command::new("apt-get").args(["download", "-qq", "hello"]).current_dir(lab.root.join("tmp")));
    if let Err(why) = deb {
        lane::left_out(WHAT, &format!("no package could be downloaded: {why}"));
        return;
    }
    let deb = fs::read_dir(lab.root.join("tmp"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.unwrap();

    let mut digests = Vec::new();
    for person in people {
        for (umask, dir) in [("022", "first"), ("077", "second/place")] {
            let env = env_of(person.clone());
            env.write(&format!("{dir}/Dockerfile"), DOCKERFILE);
            env.write(&format!("{dir}/main.c"), MAIN);
            env.write(&format!("{dir}/.dockerignore"), "*.o\n");
            env.write(&format!("{dir}/junk.o"), format!("{person}{umask}"));
            env.write(&format!("{dir}/debs/hello.deb"), fs::read(&deb).unwrap());
            let name = format!("{}/app:{}", registry.host, digests.len());
            let mut command = person.command("sh".as_ref());
            let kiln = env.root.join("kiln");
            command
                .arg("-c")
                .arg(format!(
                    "umask {umask}; exec '{}' build --build-arg BASE={base} -t {name} --push {dir}",
                    kiln.display()
                ))
                .current_dir(&env.root)
                .env("HOME", env.root.join("home"))
                .env("KILN_STORE", env.root.join("home/store"));
            let digest = run(&mut command).unwrap_or_else(|e| panic!("as {person} under umask {umask}: {e}"));
            digests.push(digest.trim().to_owned());
        }
    }
    let files = |context: &Path| {
        fs::write(context.join("Dockerfile"), DOCKERFILE).unwrap();
        fs::write(context.join("main.c"), MAIN).unwrap();
        fs::create_dir(context.join("debs")).unwrap();
        fs::copy(&deb, context.join("debs/hello.deb")).unwrap();
    };
    let argument = format!("BASE={base}");
    let name = format!("{}/app:pod", registry.host);
    let args = ["build", "--build-arg", &argument, "-t", &name, "--push", "ctx"];
    for (pod, digest) in printed_in_containers(&lab, &["E4", "E5L", "E6L"], WHAT, &files, &args) {
        assert_eq!(digest, digests[0], "{pod}");
    }
    assert!(digests.len() >= 2 && digests.iter().all(|d| *d == digests[0]), "{digests:#?}");

    let copied = lab.root.join("copied");
    let from = format!("docker://{}/app:0", registry.host);
    let to = format!("oci:{}:app", copied.display());
    run(Command::new(&skopeo).args([
        "copy",
        "-q",
        "--src-tls-verify=false",
        "--preserve-digests",
        &from,
        &to,
    ]))
    .unwrap();
    let inspect = run(Command::new(&skopeo).args(["inspect", "--config", "--raw", &to])).unwrap();
    let config: serde_json::Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(config["config"]["Entrypoint"][0], "app");
    assert_eq!(config["config"]["User"], "app");
    assert_eq!(config["config"]["Healthcheck"]["Interval"], 10_000_000_000_u64);

    // The root file system runs: kiln's own output, entered with nothing but chroot.
    lab.write("out/Dockerfile", format!("FROM {}/app:0\n", registry.host));
    lab.kiln(["build", "-o", "type=local,dest=root", "out"]).ok();
    let root = lab.root.join("root");
    let told =
        run(Command::new("chroot").args(["--userspec=app"]).arg(&root).args(["/usr/local/bin/app"])).unwrap();
    assert_eq!(told, "app 1.2\n");
    assert_eq!(fs::read_to_string(root.join("srv/me")).unwrap(), "app\n");
    assert_eq!(fs::read_to_string(root.join("srv/greeting.txt")).unwrap(), "Hello, world!\n");
    let meta = fs::metadata(root.join("usr/local/bin/app")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&meta), 33);
    run(Command::new("rm").arg("-rf").arg(&root)).unwrap();
    crate::owners::packages_are_installed_alike(&lab, &base, &registry.host, &tar);
}

/// Makes an image of the bootstrapped files and pushes it with skopeo, so that kiln is not its own witness.
fn import(lab: &kiln_testkit::TestEnv, skopeo: &Path, tar: &Path, base: &str) {
    let layout = lab.root.join("base-layout");
    kiln_testkit::base::layout_of_tar(&layout, tar).unwrap();
    let (from, to) = (format!("oci:{}:latest", layout.display()), format!("docker://{base}"));
    run(Command::new(skopeo).args(["copy", "-q", "--dest-tls-verify=false", &from, &to])).unwrap();
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}
