//! Owners, modes, types and attributes in layers: the same bytes whoever builds, as root, with a range of ids or with one id.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_testkit::{Image, Person, TestEnv, lane};

use crate::env_of;
use crate::tools::tool;

/// Returns every entry of every layer as a line, with its attributes.
fn entries(image: &Image) -> Vec<Vec<String>> {
    let of_layer = |layer: &kiln_testkit::Listing| {
        let lines = layer.lines().into_iter().zip(&layer.entries);
        lines.map(|(line, (entry, _))| format!("{line} {:?} {}", entry.xattrs, entry.mtime.secs)).collect()
    };
    image.layers.iter().map(of_layer).collect()
}

/// Compares what everybody built: entry by entry, to say what differs, then by digest.
fn all_the_same(built: &[(Person, Image)]) {
    let Some(((first, expected), others)) = built.split_first() else { return };
    for (person, image) in others {
        for (number, (theirs, ours)) in entries(image).iter().zip(&entries(expected)).enumerate() {
            assert_eq!(theirs, ours, "layer {number} of {person} (left) and {first} (right)");
        }
        assert_eq!(image.digest, expected.digest, "{person}, {first}");
    }
}

const DOCKERFILE: &str = r#"FROM BASE
COPY tools /
COPY --chown=1000660000:0 given /given
RUN mkdir /d && cd /d && echo x > file && mkdir -m 2775 group && ln -s file link && mkfifo pipe \
 && chown 33:50 file && chown 0:50 group && chown -h 1:2 link && chown 3:4 pipe && chmod 4755 file \
 && touch group/handed-on && mkdir group/sub && ln -s x group/link && test "$(stat -c %u:%g group/link)" = 0:50
RUN mknod /d/null c 1 3 && mknod -m 600 /d/loop b 7 1 && chown 0:6 /d/loop
RUN cd /d && test -c null && test "$(stat -c '%u:%g %t:%T %F' loop)" = '0:6 7:1 block special file' \
 && mv link moved && chown 5 pipe && rm null && cp -a file copy && test "$(stat -c '%u:%g %a' copy)" = '33:50 4755'
RUN cd / && tar -cf d.tar d && mkdir out && tar -C out -xpf d.tar && rm d.tar
RUN chown -h 3000000000:3000000001 /d/moved /d/copy && touch /d/late && chown 70000 /d/late && chown 7:8 /d/late
RUN test "$(stat -c %u:%g /given/f /d/late)" = "$(printf '1000660000:0\n7:8')" && chmod 640 /given/f
RUN setpriv --reuid 33 --regid 50 --groups 4,5 sh -c 'umask 027; cd /tmp && id -G > mine && mkdir dir && ln -s mine link'
USER 1000:1001
RUN id -u > /tmp/of-1000 && id -g >> /tmp/of-1000 && ln -s of-1000 /tmp/link-of-1000
USER 1000660000
RUN id -u > /tmp/of-cluster && mkdir /tmp/dir-of-cluster
"#;

#[test]
fn everybody_builds_the_same_owners() {
    let what = "owners of every kind, by everybody";
    let mut built = Vec::new();
    for person in lane::people(what) {
        let env = env_of(person.clone());
        for name in ["mknod", "setpriv", "tar"] {
            if tool(&env, name, what).is_none() {
                return;
            }
        }
        let (base, name) = (env.base(), format!("{}/owners:1", env.host()));
        env.write("ctx/given/f", "x");
        env.write("ctx/Dockerfile", DOCKERFILE.replace("BASE", &base));
        env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
        built.push((person, Image::pull(&name)));
    }
    let Some((_, image)) = built.first() else { return };
    let lines = |from_last: usize| image.layers[image.layers.len() - from_last].lines();
    assert_eq!(
        lines(1),
        [
            "dir 1777 0:0 tmp",
            "dir 755 1000660000:0 tmp/dir-of-cluster",
            "file 644 1000660000:0 tmp/of-cluster 11"
        ]
    );
    assert_eq!(
        lines(2),
        [
            "dir 1777 0:0 tmp",
            "link 777 1000:1001 tmp/link-of-1000 -> of-1000",
            "file 644 1000:1001 tmp/of-1000 10"
        ]
    );
    assert_eq!(
        lines(3),
        [
            "dir 1777 0:0 tmp",
            "dir 750 33:50 tmp/dir",
            "link 777 33:50 tmp/link -> mine",
            "file 640 33:50 tmp/mine 7"
        ]
    );
    assert_eq!(lines(4), ["dir 755 1000660000:0 given", "file 640 1000660000:0 given/f 1"]);
    assert_eq!(
        lines(5),
        [
            "dir 755 0:0 d",
            "file 755 3000000000:3000000001 d/copy 2",
            "file 644 7:8 d/late 0",
            "link 777 3000000000:3000000001 d/moved -> file"
        ]
    );
    assert!(lines(6).contains(&"block 600 0:6 out/d/loop 7:1".to_owned()), "{:?}", lines(6));
    assert_eq!(lines(8), ["dir 755 0:0 d", "block 600 0:6 d/loop 7:1", "char 644 0:0 d/null 1:3"]);
    assert_eq!(
        lines(9),
        [
            "dir 755 0:0 d",
            "file 4755 33:50 d/file 2",
            "dir 2775 0:50 d/group",
            "file 644 0:50 d/group/handed-on 0",
            "link 777 0:50 d/group/link -> x",
            "dir 2755 0:50 d/group/sub",
            "link 777 1:2 d/link -> file",
            "fifo 644 3:4 d/pipe"
        ]
    );
    all_the_same(&built);
}

/// Packages with users and groups of their own, set-group-id programs, capabilities and services.
const PACKAGES: [&str; 6] = ["iputils-ping", "openssh-client", "sudo", "cron", "dbus", "libcap2-bin"];

const INSTALL: &str = r#"# check=skip=all
FROM BASE
ENV DEBIAN_FRONTEND=noninteractive
COPY debs /debs
RUN apt-get install -y --no-install-recommends /debs/*.deb < /dev/null \
 && rm -rf /var/log/apt /var/log/*.log /var/cache/ldconfig/aux-cache /var/lib/dbus/machine-id /etc/machine-id \
    /var/cache/apt/*.bin /var/cache/debconf/*-old /var/lib/dpkg/*-old
RUN useradd --create-home --uid 1234 --groups sudo app && echo 'app ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/app \
 && su app -c 'umask 027; cd; id > mine; mkdir -m 2770 shared; ln -s mine link; mkfifo pipe; chgrp sudo mine' \
 && su app -c 'sudo -n touch /srv/by-root; sudo -n -u nobody touch /tmp/by-nobody' \
 && mkdir -p /srv/tree/a/b && cd /srv/tree && touch f a/g a/b/h && ln -s f l && chown -R app:www-data . && chown -h 33:34 l \
 && chmod 2755 a && mknod /srv/null c 1 3 && mknod -m 600 /srv/loop b 7 0 && setcap cap_net_bind_service=+ep f \
 && rm -f /var/log/lastlog /var/log/faillog
RUN cp -a /srv/tree /srv/copy && tar -C /srv -cf /srv/t.tar copy loop && mkdir /srv/out && tar -C /srv/out -xf /srv/t.tar \
 && rm /srv/t.tar && ! su app -c 'chown nobody /home/app/mine'
USER app
RUN id > /tmp/id && ping -V > /dev/null && crontab -l 2>&1 | grep 'no crontab' && sudo -n id -u >> /tmp/id
"#;

/// Installs packages of a distribution on `base`, whose files are in `tar`, as everybody.
pub(crate) fn packages_are_installed_alike(lab: &TestEnv, base: &str, host: &str, tar: &Path) {
    let what = "real packages installed by everybody";
    let debs = match download(lab, tar) {
        Ok(debs) => debs,
        Err(why) => return lane::left_out(what, &format!("no packages could be downloaded: {why}")),
    };
    let mut built = Vec::new();
    for person in lane::people(what) {
        let env = env_of(person.clone());
        env.write("ctx/Dockerfile", INSTALL.replace("BASE", base));
        for (name, bytes) in &debs {
            env.write(&format!("ctx/debs/{name}"), bytes);
        }
        let name = format!("{host}/installed:{}", built.len());
        let started = std::time::Instant::now();
        env.kiln(["build", "-t", &name, "--push", "ctx"]).ok();
        lane::note(&format!("{what}: {:.1} s as {person}", started.elapsed().as_secs_f64()));
        built.push((person, Image::pull(&name)));
    }
    let Some((_, image)) = built.first() else { return };
    let owner = |path: &str| image.entry(path).map(|entry| (entry.uid, entry.gid, entry.mode));
    assert_eq!(owner("home/app/mine"), Some((1234, 27, 0o640)));
    assert_eq!(owner("tmp/by-nobody"), Some((65534, 65534, 0o644)));
    assert_eq!(owner("srv/out/copy/a"), Some((1234, 33, 0o2755)));
    assert_eq!(
        image.last().text("tmp/id").unwrap(),
        "uid=1234(app) gid=1234(app) groups=1234(app),27(sudo)\n0\n"
    );
    all_the_same(&built);
}

/// Fetches what the packages need beyond the base.
fn download(lab: &TestEnv, tar: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let run = |command: &mut Command| {
        let output = command.output().map_err(|e| e.to_string())?;
        let error = || String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
        if output.status.success() { Ok(output.stdout) } else { Err(error()) }
    };
    let status = run(Command::new("tar").arg("-xOf").arg(tar).arg("./var/lib/dpkg/status"))?;
    let status = lab.write("status", status);
    let list = run(Command::new("apt-get")
        .args(["-qq", "--print-uris", "--no-install-recommends", "install"])
        .args(PACKAGES)
        .arg("-o")
        .arg(format!("Dir::State::status={}", status.display())))?;
    let list = String::from_utf8_lossy(&list).into_owned();
    let names = list.lines().filter_map(|line| line.split(' ').nth(1)?.split('_').next());
    let dir = lab.root.join("debs");
    fs::create_dir(&dir).map_err(|e| e.to_string())?;
    run(Command::new("apt-get").args(["download", "-qq"]).args(names).current_dir(&dir))?;
    let files = fs::read_dir(&dir).map_err(|e| e.to_string())?.flatten();
    // A colon of a version would not be one in an argument of apt.
    Ok(files
        .map(|file| (file.file_name().to_string_lossy().replace("%3a", "-"), fs::read(file.path()).unwrap()))
        .collect())
}
