//! Builds of hundreds of steps: no limit of the kernel shows, and each step costs what the first did.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use kiln_testkit::{Image, lane};

use crate::{env, env_of};

/// What a build of so many steps may take on a busy machine; looking at every layer at every step takes minutes.
const SOON: Duration = Duration::from_secs(60);

/// Returns COPY instructions onto `/n/FROM` up to `/n/TO`, without the last.
fn copies(flags: &str, from: u32, to: u32) -> String {
    (from..to).fold(String::new(), |mut out, n| {
        writeln!(out, "COPY {flags} file /n/{n}").unwrap();
        out
    })
}

#[test]
fn more_layers_than_an_overlay_takes_are_one_root() {
    let everybody = lane::people("a root of more than 500 layers");
    for person in everybody.clone() {
        let env = env_of(person.clone());
        let base = env.base();
        env.write("ctx/file", "x");
        let owner = "33:50";
        // Of every kind of change one that is far below, so that a whole group of layers lies in between.
        let made = format!(
            "RUN mkdir -p /d/gone /o && touch /d/gone/x /f /o/old /d/kept /turns && ln /d/kept /d/hard \
             && chown {owner} /d/kept"
        );
        let hidden = "RUN rm -r /d/gone /f /o /turns && mkdir /o /turns && touch /o/new && chmod 750 /d";
        let back = "RUN mkdir /f /d/gone && touch /f/x && rmdir /turns && touch /turns";
        let check = format!(
            "RUN set -- /n/* && test $# = 520 && test -d /d/gone && test ! -e /d/gone/x && test -e /f/x \
             && test ! -e /o/old && test -e /o/new && test -f /turns && test /d/kept -ef /d/hard \
             && test \"$(stat -c %u:%g /d/hard)\" = {owner} && test \"$(stat -c %a /d)\" = 750 \
             && touch /d/gone/y && rm /n/300 /o/new && rm -r /f"
        );
        let (first, second, third) =
            (copies("--link", 0, 150), copies("--link", 150, 300), copies("--link", 300, 520));
        env.write(
            "ctx/Dockerfile",
            format!("FROM {base}\n{made}\n{first}{hidden}\n{second}{back}\n{third}{check}\n"),
        );
        env.kiln(["build", "-t", "many", "ctx"]).ok();
        if person != everybody[0] {
            continue;
        }
        let name = format!("{}/many:1", env.host());
        env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
        let image = Image::pull(&name);
        assert_eq!(image.layers.len(), 525);
        let changed: Vec<_> = image.last().entries.iter().map(|(entry, _)| entry.path.to_string()).collect();
        assert_eq!(changed, [".wh.f", "d", "d/gone", "d/gone/y", "n", "n/.wh.300", "o", "o/.wh.new"]);
        // What stands for many layers is found again, and goes as other snapshots do.
        env.write(
            "ctx/Dockerfile",
            format!(
                "FROM {base}\n{made}\n{first}{hidden}\n{second}{back}\n{third}{check}\nRUN test ! -e /f\n"
            ),
        );
        env.kiln(["build", "ctx"]).ok();
        env.kiln(["prune"]).ok();
        let scheme =
            std::fs::read_dir(env.root.join("home/store/snapshots")).unwrap().next().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(scheme.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_step_costs_the_same_on_top_of_hundreds() {
    let env = env();
    env.write("ctx/file", "x");
    env.write("ctx/Dockerfile", format!("FROM scratch\n{}", copies("", 0, 400)));
    let start = Instant::now();
    let told = env.kiln(["build", "-o", "type=oci,dest=out.tar", "ctx"]);
    let took = start.elapsed();
    told.ok();
    assert!(took < SOON, "{took:?}");
    // What every step found below it was right: the directory was made once.
    env.write("last/Dockerfile", format!("FROM scratch\n{}", copies("", 0, 9)));
    env.write("last/file", "x");
    let name = format!("{}/few:1", env.host());
    env.kiln(["build", "-t", &name, "--push", "last"]).ok();
    let image = Image::pull(&name);
    assert_eq!(image.layers[0].lines(), ["dir 755 0:0 n", "file 644 0:0 n/0 1"]);
    assert_eq!(image.last().lines(), ["dir 755 0:0 n", "file 644 0:0 n/8 1"]);
}

#[test]
fn an_image_that_docker_cannot_run_is_warned_of_once() {
    let env = env();
    env.write("ctx/file", "x");
    let build = |count| {
        env.write("ctx/Dockerfile", format!("FROM scratch\n{}", copies("", 0, count)));
        let outcome = env.kiln(["build", "ctx"]);
        outcome.ok();
        outcome.stderr
    };
    assert!(!build(125).contains("will have"));
    let told = build(126);
    for part in ["the image will have 126 layers", "none of more than 125", "join RUN instructions"] {
        assert_eq!(told.matches(part).count(), 1, "`{part}` in\n{told}");
    }
}
