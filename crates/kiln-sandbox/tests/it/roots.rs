//! Paths and attributes inside a root, with the rights of each lane.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Instant;

use kiln_sandbox::{IdMap, Mode, ResolvedUser, RootDir, probe};

use crate::cases::Case;
use crate::lab::Lab;

pub(crate) const ALL: &[Case] = &[
    ("capabilities_of_an_unpacked_file_work", capabilities_of_an_unpacked_file_work),
    ("capabilities_set_inside_are_plain_outside", capabilities_set_inside_are_plain_outside),
    ("many_files", many_files),
    ("foreign_closed_trees_are_removed", foreign_closed_trees_are_removed),
    ("probe_tells_the_whole_ladder", probe_tells_the_whole_ladder),
];

const CAPABILITY: &str = "security.capability";

/// Version 2, effective, `cap_net_raw` permitted: as images store it.
fn net_raw() -> Vec<u8> {
    let mut value = vec![1, 0, 0, 2];
    value.extend(u32::to_le_bytes(1 << 13));
    value.extend([0; 12]);
    value
}

fn capabilities_of_an_unpacked_file_work(lab: &Lab) {
    if lab.is_single() {
        return;
    }
    let mut spec = lab.spec("");
    std::fs::copy("/bin/grep", spec.upper.join("g")).unwrap();
    let upper = RootDir::open(&spec.upper).unwrap();
    let owner = lab.isolation.disk_id(0);
    upper.chown(Path::new("g"), owner, owner).unwrap();
    upper.set_xattr(Path::new("g"), OsStr::new(CAPABILITY), &net_raw()).unwrap();
    assert_eq!(upper.xattrs(Path::new("g")).unwrap()[OsStr::new(CAPABILITY)], net_raw());
    spec.args = ["/g", "CapEff", "/proc/self/status"].map(OsString::from).to_vec();
    spec.user = ResolvedUser { uid: 1000, gid: 1000, groups: Vec::new() };
    assert_eq!(lab.execute(&spec).output, "CapEff:\t0000000000002000\n");
}

fn capabilities_set_inside_are_plain_outside(lab: &Lab) {
    let outcome = lab.run("cp /bin/cat /c && setcap cap_net_raw+ep /c");
    assert_eq!(outcome.output, "");
    let value = outcome.upper.xattrs(Path::new("c")).unwrap().remove(OsStr::new(CAPABILITY));
    assert_eq!(value, Some(net_raw()));
}

/// Prints what unpacking many small files costs.
fn many_files(lab: &Lab) {
    const DIRS: u32 = 200;
    const FILES: u32 = 50;
    let dir = lab.spec("").upper;
    let root = RootDir::open(&dir).unwrap();
    let owner = lab.isolation.disk_id(0);
    let start = Instant::now();
    for number in 0..DIRS {
        let parent = format!("usr/share/doc/package{number}");
        root.create_dir_all(Path::new(&parent), 0o755).unwrap();
        for file in 0..FILES {
            let path = format!("{parent}/file{file}");
            drop(root.create_file(Path::new(&path), 0o644).unwrap());
            root.chown(Path::new(&path), owner, owner).unwrap();
        }
    }
    println!("  {} files created and given away in {:?}", DIRS * FILES, start.elapsed());
}

fn foreign_closed_trees_are_removed(lab: &Lab) {
    let spec = lab.spec(
        "mkdir -p /d/e/f && echo x > /d/e/f/g && { chown -R 33:33 /d || true; } && chmod 0 /d/e/f /d/e /d",
    );
    drop(lab.execute(&spec));
    let dir = spec.upper.parent().unwrap();
    kiln_sandbox::remove_tree(dir).unwrap();
    assert!(!dir.exists());
}

fn probe_tells_the_whole_ladder(lab: &Lab) {
    let ids = match lab.isolation.ids {
        kiln_sandbox::Ids::Idmapped { .. } => IdMap::Host,
        kiln_sandbox::Ids::Nested { count } => IdMap::Range { count },
        _ => IdMap::Single,
    };
    let namespace =
        kiln_sandbox::BuildNamespace { ids: ids.clone(), note: None, is_root: ids == IdMap::Host };
    let works: Vec<(Mode, bool)> =
        probe(&namespace, &lab.store).into_iter().map(|(mode, result)| (mode, result.is_ok())).collect();
    let expect = [(Mode::Userns, ids != IdMap::Single), (Mode::UsernsSingle, ids != IdMap::Host)];
    assert_eq!(works[..2], expect);
}
