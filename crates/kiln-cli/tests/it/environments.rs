//! One Dockerfile in every environment that kiln is made for: which isolation it gets there, and that the image is the same.
//!
//! The names are those of docs/environments.md. E4 to E7 are containers with the profiles that engines really use, made by
//! `kiln_testkit::container`, most of them from the manifests in `deploy/kubernetes`. What that module's header lists as not
//! there is not tested.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_testkit::container::{Container, Runtime};
use kiln_testkit::kubernetes::{self, Filter};
use kiln_testkit::{Image, Outcome, Person, TestEnv, lane, seccomp};
use serde_json::{Value, json};

use crate::{KILN, env, env_of};

const WHAT: &str = "environments";

/// Files that are made, changed and deleted; other owners; a user; a stage out of another.
const DOCKERFILE: &str = r#"FROM BASE AS build
WORKDIR /src
COPY input.txt .
RUN sed s/plain/cooked/ input.txt > out.txt && chmod 640 out.txt && chown 33:50 out.txt && ln -s out.txt link && ln -s out.txt kept
RUN mkdir -p gone/sub && touch gone/sub/file && echo one > changed
RUN echo piped | cat /dev/stdin > stdin 2> /dev/null && echo out > /dev/stdout
RUN rm -r gone && echo two >> changed && touch -d @1000000 old && mkfifo pipe
USER www-data
RUN id -u > /tmp/me && id -g >> /tmp/me && stat -c %u:%g /src/out.txt >> /tmp/me

FROM BASE
COPY --from=build --chown=33:33 /src/out.txt /srv/out.txt
COPY --from=build /src /srv/all
COPY --from=build /tmp/me /srv/me
RUN chown -R 33:33 /srv/all && rm /srv/all/link && chmod 2755 /srv/all
USER www-data
RUN cat /srv/out.txt > /tmp/copy
CMD ["sh"]
"#;

/// What a build is expected to come to.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// An image, with this isolation.
    Runs(&'static str),
    /// No RUN, exit code 4, and these words about it.
    Refuses(&'static [&'static str]),
}

/// One environment.
struct Place {
    name: &'static str,
    what: &'static str,
    who: Who,
    expect: Expect,
}

enum Who {
    Person(Person),
    Container(Container),
}

/// What happened in one.
struct Row {
    place: Place,
    outcome: Outcome,
    took: Duration,
    /// What `kiln doctor` said there afterwards, as JSON.
    doctor: Outcome,
}

impl Row {
    /// Returns the isolation as kiln names it, if it got so far.
    fn isolation(&self) -> Option<&str> {
        let line = self.outcome.stderr.lines().find_map(|l| l.strip_prefix("note: isolation "))?;
        line.split([':', ' ']).next()
    }

    /// Returns the isolation that `kiln doctor` promises.
    fn promised(&self) -> Option<String> {
        let told: Value = serde_json::from_str(&self.doctor.stdout).ok()?;
        Some(told["chosen"].as_str()?.to_owned())
    }

    /// Returns what is not as expected.
    fn deviation(&self) -> Option<String> {
        let said = &self.outcome.stderr;
        let promised = self.promised();
        let fine = match self.place.expect {
            Expect::Runs(isolation) => {
                self.outcome.code == Some(0)
                    && self.isolation() == Some(isolation)
                    && promised.as_deref() == Some(isolation)
                    && self.doctor.code == Some(0)
            }
            Expect::Refuses(words) => {
                self.outcome.code == Some(4)
                    && words.iter().all(|w| said.contains(w))
                    && promised.as_deref() == Some("none")
                    && self.doctor.code == Some(4)
            }
        };
        (!fine).then(|| {
            format!(
                "{}, expected {:?}, code {:?}:\n{said}",
                self.place.name, self.place.expect, self.outcome.code
            )
        })
    }
}

fn people() -> Vec<Place> {
    let place = |person: Person| {
        let (name, what, expect) = match &person {
            Person::Root => ("E1", "root on the machine", Expect::Runs("userns")),
            Person::Ordinary { range: false, .. } => {
                ("E3", "user with one id", Expect::Runs("userns-single"))
            }
            Person::Caller | Person::Ordinary { .. } => {
                ("E2", "user with a range of ids", Expect::Runs("userns"))
            }
        };
        Place { name, what, who: Who::Person(person), expect }
    };
    lane::people(WHAT).into_iter().map(place).collect()
}

/// The seccomp profiles that could be had.
struct Profiles {
    docker: Option<Value>,
    crio: Option<Value>,
    kiln: Value,
}

impl Profiles {
    fn find(dir: &Path) -> Self {
        let what = "environments with the filter of an engine";
        let text = fs::read(deploy("seccomp/kiln.json")).unwrap();
        Self {
            docker: seccomp::docker(dir, what),
            crio: seccomp::crio(what),
            kiln: serde_json::from_slice(&text).unwrap(),
        }
    }
}

/// Returns the path of a file for operators.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy").join(path)
}

/// Returns the container of a manifest, if there is the filter that it asks for; `default` is that of the node's engine.
pub(crate) fn manifest(name: &str, default: Option<&Value>, kiln: &Value) -> Option<Container> {
    let text = fs::read_to_string(deploy("kubernetes").join(name)).unwrap();
    let documents = kubernetes::documents(&text).unwrap();
    let (_, spec) = kubernetes::pod(&documents[0]).unwrap();
    let (container, filter) = kubernetes::container(spec);
    let profile = match filter {
        Filter::Unconfined => return Some(container),
        Filter::Localhost => kiln.clone(),
        Filter::RuntimeDefault => seccomp::for_container(default?, &container.capabilities),
    };
    Some(container.filtered(profile))
}

fn containers(profiles: &Profiles) -> Vec<Place> {
    use Expect::{Refuses, Runs};

    let (docker, crio, own) = (profiles.docker.as_ref(), profiles.crio.as_ref(), &profiles.kiln);
    let pods = [
        ("E4", "baseline.yaml", docker, Runs("chroot")),
        ("E4L", "baseline-profile.yaml", docker, Runs("userns")),
        ("E5", "restricted-without-run.yaml", docker, Refuses(&["Localhost"])),
        ("E5c", "restricted-without-run.yaml", crio, Runs("userns-single")),
        ("E5L", "restricted-profile.yaml", docker, Runs("userns-single")),
        ("E6", "host-users.yaml", docker, Runs("chroot")),
        ("E6L", "host-users-profile.yaml", docker, Runs("userns")),
        ("E6s", "host-users-sys-admin.yaml", docker, Runs("userns")),
    ];
    let mut places: Vec<Place> = pods
        .into_iter()
        .filter_map(|(name, what, default, expect)| {
            let who = Who::Container(manifest(what, default, own)?);
            Some(Place { name, what, who, expect })
        })
        .collect();
    let unconfined = Who::Container(Container::default());
    let user = || Container {
        uid: 1000,
        capabilities: vec!["CAP_SETUID", "CAP_SETGID"],
        file_capabilities: true,
        ..Container::default()
    };
    let (kimia, kimia_filtered) = (Who::Container(user()), Who::Container(user().filtered(own.clone())));
    places.extend([
        Place { name: "E4u", what: "default container, Unconfined", who: unconfined, expect: Runs("userns") },
        Place { name: "E7", what: "user, file capabilities, Unconfined", who: kimia, expect: Runs("userns") },
        Place {
            name: "E7L",
            what: "user, file capabilities, kiln's profile",
            who: kimia_filtered,
            expect: Runs("userns"),
        },
    ]);
    if let Some(profile) = docker {
        let admin = Container::default().adding(&["CAP_SYS_ADMIN"]);
        let profile = seccomp::for_container(profile, &admin.capabilities);
        let who = Who::Container(admin.filtered(profile));
        places.push(Place { name: "E4s", what: "default container, SYS_ADMIN", who, expect: Runs("userns") });
    }
    places.sort_by_key(|place| place.name);
    places
}

/// Builds the context of `dockerfile` there.
fn build(lab: &TestEnv, runtime: Option<&Runtime>, place: Place, dockerfile: &str) -> Option<Row> {
    let name = format!("{}/environment:{}", lab.host(), place.name);
    let files = |context: &Path| {
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        fs::write(context.join("input.txt"), "plain\n").unwrap();
    };
    run(lab, runtime, place, &files, &["build", "-t", &name, "--push", "ctx"])
}

/// Runs kiln there, in a directory with the context `ctx`, and `kiln doctor` after it.
fn run(
    lab: &TestEnv,
    runtime: Option<&Runtime>,
    place: Place,
    files: &dyn Fn(&Path),
    args: &[&str],
) -> Option<Row> {
    let doctor = ["doctor", "--format", "json"];
    let prepare = |root: &Path| {
        fs::create_dir_all(root.join("ctx")).unwrap();
        files(&root.join("ctx"));
    };
    let (outcome, took, doctor) = match &place.who {
        Who::Person(person) => {
            let env = env_of(person.clone());
            prepare(&env.root);
            let start = Instant::now();
            (env.kiln(args), start.elapsed(), env.kiln(doctor))
        }
        Who::Container(container) => {
            let dir = lab.root.join(place.name);
            prepare(&dir.join("volume"));
            let start = Instant::now();
            let kiln = |args: &[&str]| runtime.map(|r| r.kiln(container, &dir, Path::new(KILN), args));
            (kiln(args)?, start.elapsed(), kiln(&doctor)?)
        }
    };
    Some(Row { place, outcome, took, doctor })
}

/// Runs kiln in the containers of these names, as far as they can be had, and returns what each printed.
pub(crate) fn printed_in_containers(
    lab: &TestEnv,
    names: &[&str],
    what: &str,
    files: &dyn Fn(&Path),
    args: &[&str],
) -> Vec<(&'static str, String)> {
    let Some(runtime) = Runtime::find(Path::new(KILN), &lab.root.join("probe"), what) else {
        return Vec::new();
    };
    containers(&Profiles::find(&lab.root.join("profiles")))
        .into_iter()
        .filter(|place| names.contains(&place.name))
        .filter_map(|place| run(lab, Some(&runtime), place, files, args))
        .map(|row| (row.place.name, row.outcome.ok().to_owned()))
        .collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = "one Dockerfile in every environment\n".to_owned();
    for row in rows {
        let digest = row.outcome.stdout.trim();
        let digest = match row.outcome.code {
            Some(0) => digest.get(..19).unwrap_or(digest),
            Some(4) => "RUN refused",
            _ => "failed",
        };
        let isolation = row.isolation().unwrap_or("none");
        let seconds = row.took.as_secs_f64();
        let _ = writeln!(
            table,
            "  {:<4} {:<42} {isolation:<14} {seconds:>5.1} s  {digest}",
            row.place.name, row.place.what
        );
    }
    table
}

/// Lists what two images do not have in common, layer by layer.
fn differences(one: &Image, other: &Image) -> Vec<String> {
    let entries = |image: &Image, layer: usize| -> BTreeSet<String> {
        let entries = image.layers.get(layer).map_or(&[][..], |l| &l.entries);
        entries
            .iter()
            .map(|(entry, content)| format!("{entry:?} {}", String::from_utf8_lossy(content)))
            .collect()
    };
    let mut lines = Vec::new();
    for layer in 0..one.layers.len().max(other.layers.len()) {
        let (ours, theirs) = (entries(one, layer), entries(other, layer));
        lines.extend(ours.difference(&theirs).map(|entry| format!("layer {layer} - {entry}")));
        lines.extend(theirs.difference(&ours).map(|entry| format!("layer {layer} + {entry}")));
    }
    lines
}

#[test]
fn one_dockerfile_makes_one_image_everywhere() {
    let lab = env();
    let dockerfile = DOCKERFILE.replace("BASE", &lab.base());
    let runtime = Runtime::find(Path::new(KILN), &lab.root.join("probe"), WHAT);
    let mut places = people();
    if runtime.is_some() {
        places.extend(containers(&Profiles::find(&lab.root.join("profiles"))));
    }
    let rows: Vec<Row> =
        places.into_iter().filter_map(|place| build(&lab, runtime.as_ref(), place, &dockerfile)).collect();
    lane::note(table(&rows).trim_end());
    let deviations: Vec<String> = rows.iter().filter_map(Row::deviation).collect();
    assert!(deviations.is_empty(), "{}", deviations.join("\n"));
    let built: Vec<&Row> = rows.iter().filter(|row| row.outcome.code == Some(0)).collect();
    let Some(first) = built.first() else { return };
    let pull = |row: &Row| Image::pull(&format!("{}/environment:{}", lab.host(), row.place.name));
    let image = pull(first);
    if let Some(row) = built.iter().find(|row| row.outcome.stdout != first.outcome.stdout) {
        panic!("{} has another digest: {:#?}", row.place.name, differences(&image, &pull(row)));
    }
    assert_eq!(image.entry("srv/out.txt").map(|e| (e.uid, e.gid, e.mode)), Some((33, 33, 0o640)));
    assert_eq!(image.entry("srv/all/old").map(|e| (e.uid, e.mtime.secs)), Some((33, 1_000_000)));
    assert_eq!(image.last().text("tmp/copy").unwrap(), "cooked\n");
}

#[test]
fn the_page_for_operators_says_what_is_tested() {
    let page = fs::read_to_string(deploy("../docs/environments.md")).unwrap();
    let empty = Profiles { docker: Some(json!({})), crio: Some(json!({})), kiln: json!({}) };
    let expected = [("E1", "userns"), ("E2", "userns"), ("E3", "userns-single")].into_iter();
    let places = containers(&empty);
    let in_containers = places.iter().map(|place| match place.expect {
        Expect::Runs(isolation) => (place.name, isolation),
        Expect::Refuses(_) => (place.name, "none"),
    });
    for (name, isolation) in expected.chain(in_containers) {
        let row = page.lines().find(|line| line.starts_with(&format!("| {name} |"))).unwrap_or_default();
        let cell = row.split('|').nth(3).unwrap_or_default().trim();
        assert_eq!(cell, format!("`{isolation}`"), "{name}: {row}");
    }
    let told = env().kiln(["doctor", "--answers", "--format", "json"]);
    let answers: Value = serde_json::from_str(&told.stdout).unwrap();
    for answer in answers["answers"].as_array().unwrap() {
        let (step, errno) = (answer["step"].as_str().unwrap(), answer["errno"].as_str().unwrap());
        let step = match step {
            "user-namespace" => "create a user namespace",
            "mount" => "mount in it",
            "overlay" => "mount an overlay",
            "id-map" => "shift owners of layers",
            "supervise" => "supervise system calls",
            other => other,
        };
        let is_it = |line: &&str| line.starts_with(&format!("| {step} |")) && line.contains(errno);
        assert!(page.lines().any(|line| is_it(&line)), "{answer}");
    }
}

/// Builds a Dockerfile in the containers of these names and hands each row to `check`.
fn in_containers(
    what: &str,
    names: &[&str],
    dockerfile: &str,
    change: fn(&mut Container),
    check: impl Fn(&Row),
) {
    let lab = env();
    let dockerfile = dockerfile.replace("BASE", &lab.base());
    let Some(runtime) = Runtime::find(Path::new(KILN), &lab.root.join("probe"), what) else { return };
    for mut place in containers(&Profiles::find(&lab.root.join("profiles"))) {
        if !names.contains(&place.name) {
            continue;
        }
        if let Who::Container(container) = &mut place.who {
            change(container);
        }
        if let Some(row) = build(&lab, Some(&runtime), place, &dockerfile) {
            check(&row);
        }
    }
}

#[test]
fn a_build_without_run_is_the_same_in_pods_that_may_nothing() {
    let what = "builds without RUN in pods";
    let dockerfile = "FROM BASE\nWORKDIR /srv\nCOPY --chown=33:50 --chmod=640 input.txt /srv/new/\nENV A=b\nUSER www-data\n";
    let digests = std::cell::RefCell::new(Vec::new());
    in_containers(
        what,
        &["E4", "E4s", "E5", "E5L", "E6"],
        dockerfile,
        |_| {},
        |row| {
            assert_eq!(row.outcome.code, Some(0), "{}: {}", row.place.name, row.outcome.stderr);
            digests.borrow_mut().push(row.outcome.stdout.clone());
        },
    );
    let mut digests = digests.into_inner();
    digests.dedup();
    assert!(digests.len() <= 1, "{digests:#?}");
}

#[test]
fn a_store_on_the_root_of_a_container_is_told_to_move() {
    let change = |container: &mut Container| {
        container.variables = vec!["KILN_STORE=/store".to_owned()];
        container.read_only_root = false;
    };
    let names = ["E4L", "E4s", "E4u", "E7"];
    in_containers("a store on an overlay", &names, "FROM BASE\nRUN true\n", change, |row| {
        let parts: &[&str] = match row.place.name {
            // Its user may not even make the directory.
            "E7" => &["cannot create `/store", "--store DIR"],
            "E4s" => &["RUN cannot be isolated here", "put kiln's store (--store)"],
            _ => &["RUN cannot be isolated here", "put kiln's store (--store)", "volume"],
        };
        row.outcome.fails(4, parts);
    });
}

#[test]
fn a_command_in_a_pod_cannot_read_what_kiln_was_given() {
    let change =
        |container: &mut Container| container.variables.push("GIT_AUTH_TOKEN=not-for-you".to_owned());
    let dockerfile = "FROM BASE\nRUN if grep -aqs not-for-you /proc/[0-9]*/environ /proc/[0-9]*/mem; then exit 9; fi; \\\n\
        test -z \"$GIT_AUTH_TOKEN\"\n";
    in_containers(
        "secrets in pods",
        &["E4", "E4L", "E4u", "E5c", "E5L", "E6", "E6L", "E7"],
        dockerfile,
        change,
        |row| {
            assert_eq!(row.outcome.code, Some(0), "{}: {}", row.place.name, row.outcome.stderr);
        },
    );
}

#[test]
fn set_uid_programs_of_an_image_work_where_a_pod_may_escalate() {
    let dockerfile = "FROM BASE\nRUN cp /bin/id /bin/whoever && chmod 4755 /bin/whoever\nUSER www-data\n\
        RUN test \"$(whoever -u)\" = 0\n";
    in_containers(
        "set-uid programs in pods",
        &["E4L", "E5L", "E6L", "E7L"],
        dockerfile,
        |_| {},
        |row| {
            // Restricted demands `allowPrivilegeEscalation: false`.
            let expect = if row.place.name == "E5L" { 1 } else { 0 };
            assert_eq!(row.outcome.code, Some(expect), "{}: {}", row.place.name, row.outcome.stderr);
        },
    );
}
