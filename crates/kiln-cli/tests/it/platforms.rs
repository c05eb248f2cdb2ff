//! RUN for other architectures: programs of arm64 in a build on another machine.

use kiln_testkit::{Image, Person, TestEnv, lane};

use crate::env_of;

/// The code of an error of the machine.
const ENVIRONMENT: i32 = 4;

/// Where a static program is loaded.
const BASE: u64 = 0x40_0000;
/// File header and one program header.
const HEADERS: u64 = 64 + 56;

/// Makes a static arm64 program that prints `text` and ends well, from its instructions.
fn arm64_program(text: &str) -> Vec<u8> {
    /// `movz`: puts a small number into a register.
    fn number(register: u32, value: u32) -> u32 {
        0xD280_0000 | value << 5 | register
    }
    const CALL: u32 = 0xD400_0001;
    const INSTRUCTIONS: u32 = 8;
    // adr x1: the text lies seven instructions further on.
    let address = 0x1000_0001 | (INSTRUCTIONS - 1) << 5;
    let length = u32::try_from(text.len()).unwrap();
    // write(1, text, length); exit(0).
    let code =
        [number(0, 1), address, number(2, length), number(8, 64), CALL, number(0, 0), number(8, 93), CALL];
    assert_eq!(code.len(), INSTRUCTIONS as usize);
    let size = HEADERS + u64::from(INSTRUCTIONS) * 4 + u64::from(length);
    let halves = |list: &[u16]| list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let words = |list: &[u32]| list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    let longs = |list: &[u64]| list.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>();
    [
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec(),
        // An executable for EM_AARCH64; version, entry, program headers, section headers, flags.
        halves(&[2, 183]),
        words(&[1]),
        longs(&[BASE + HEADERS, 64, 0]),
        words(&[0]),
        halves(&[64, 56, 1, 0, 0, 0]),
        // One segment: loaded, readable and executable.
        words(&[1, 5]),
        longs(&[0, BASE, BASE, size, size, 0x1000]),
        words(&code),
        text.as_bytes().to_vec(),
    ]
    .concat()
}

/// Makes a context with `hello`, which is for arm64.
fn context(env: &TestEnv) -> String {
    use std::os::unix::fs::PermissionsExt as _;
    let path = env.write("ctx/hello", arm64_program("hello from arm64\n"));
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    // A base for arm64 whose shell is this machine's: its children are executed as any others are.
    format!(
        "FROM --platform=linux/{} {} AS tools\nFROM scratch\nCOPY --from=tools / /\nCOPY hello /\n",
        host(),
        env.base()
    )
}

/// Returns this machine's architecture as platforms name it.
fn host() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Returns everybody who can build, unless this machine is an arm64 itself, has no qemu, or runs arm64 anyway.
fn people(what: &str) -> Vec<Person> {
    if std::env::consts::ARCH == "aarch64" {
        lane::left_out(what, "this machine is an arm64");
        return Vec::new();
    }
    if lane::program("qemu-aarch64-static", what).is_none() {
        return Vec::new();
    }
    lane::people(what)
}

/// Tells whether the machine itself has an emulator registered.
fn machine_emulates() -> bool {
    std::fs::read_dir("/proc/sys/fs/binfmt_misc")
        .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().contains("aarch64")))
}

#[test]
fn programs_of_arm64_run_without_any_setting_of_the_machine() {
    let before = machine_emulates();
    for person in people("RUN for arm64") {
        let env = env_of(person.clone());
        let stages = context(&env);
        let run = "RUN [\"/hello\"]\nRUN /hello > /out && /bin/sh -c '/hello >> /out'\n";
        env.write("ctx/Dockerfile", stages + run);
        let name = format!("{}/arm:1", env.host());
        let line =
            ["build", "--progress", "plain", "--platform", "linux/arm64", "-t", &name, "--push", "ctx"];
        let told = env.kiln(line);
        if told.code == Some(ENVIRONMENT) {
            told.fails(ENVIRONMENT, &["RUN cannot be done for linux/arm64 here", "hint:"]);
            lane::left_out(&format!("RUN for arm64, as {person}"), &told.stderr);
            continue;
        }
        told.ok();
        assert!(told.stderr.contains("hello from arm64"), "{person}: {}", told.stderr);
        if !machine_emulates() {
            assert!(told.stderr.contains("RUN for linux/arm64 is emulated by `"), "{}", told.stderr);
        }
        let image = Image::pull(&name);
        assert_eq!(image.last().text("out").unwrap(), "hello from arm64\nhello from arm64\n", "{person}");
        assert_eq!(image.config.architecture, "arm64");
        // qemu was not in the image and is not now.
        assert!(image.layers.iter().all(|layer| layer.lines().iter().all(|line| !line.contains("qemu"))));
    }
    assert_eq!(machine_emulates(), before, "the machine was configured");
}

#[test]
fn a_native_stage_of_a_foreign_build_is_not_emulated() {
    let Some(person) = people("native stages of a build for arm64").into_iter().next() else { return };
    let env = env_of(person);
    let base = env.base();
    env.write(
        "ctx/Dockerfile",
        format!("FROM --platform=$BUILDPLATFORM {base} AS build\nRUN echo made > /made\nFROM scratch\nCOPY --from=build /made /\n"),
    );
    let told = env.kiln(["build", "--progress", "plain", "--platform", "linux/arm64", "ctx"]);
    told.ok();
    assert!(!told.stderr.contains("emulated"), "{}", told.stderr);
}

#[test]
fn without_an_emulator_the_build_stops_before_its_first_step() {
    // No emulator has this name here.
    let Some(person) = lane::people("RUN for an architecture without an emulator").into_iter().next() else {
        return;
    };
    let env = env_of(person);
    let base = env.base();
    let dockerfile = |platform: &str| {
        format!(
            "FROM --platform=linux/{} {base} AS a\nRUN echo ran first\nFROM --platform={platform} scratch\nCOPY --from=a / /\nRUN true\n",
            host()
        )
    };
    env.write("ctx/Dockerfile", dockerfile("linux/sparc64"));
    let told = env.kiln(["build", "--progress", "plain", "--platform", "linux/sparc64", "ctx"]);
    told.fails(ENVIRONMENT, &["RUN cannot be done for linux/sparc64 here", "Dockerfile:5", "riscv64"]);
    assert!(!told.stderr.contains("ran first"), "{}", told.stderr);
}

#[test]
fn the_platform_is_a_part_of_the_key() {
    let Some(person) = people("keys of platforms").into_iter().next() else { return };
    let env = env_of(person);
    let stages = context(&env);
    env.write("ctx/Dockerfile", stages + "RUN true\n");
    let runs = |platform: &str| {
        let told = env.kiln(["build", "--progress", "plain", "--platform", platform, "ctx"]);
        told.ok();
        told.stderr.lines().any(|line| line.contains("not cached: ") && line.contains("platform"))
            || told.stderr.contains("is emulated by")
    };
    let native = format!("linux/{}", host());
    env.kiln(["build", "--platform", &native, "ctx"]).ok();
    assert!(runs("linux/arm64"), "a result of another platform was taken");
    assert!(!runs("linux/arm64"), "the result was not found again");
}

#[test]
fn a_program_for_another_machine_is_named_with_the_remedy() {
    if std::env::consts::ARCH == "aarch64" || machine_emulates() {
        lane::left_out("programs for another machine", "this machine executes arm64");
        return;
    }
    let Some(person) = lane::people("programs for another machine").into_iter().next() else { return };
    let env = env_of(person);
    let stages = context(&env);
    env.write("ctx/Dockerfile", stages + "RUN [\"/hello\"]\n");
    env.kiln(["build", "--progress", "plain", "ctx"]).fails(
        1,
        &["exit code 126", "`/hello` is for arm64", "build with `--platform linux/arm64`", "Dockerfile:5"],
    );
}
