//! The Dockerfiles of kaniko, which kaniko cannot build: both generations, with small programs in place of its own.
//!
//! What they ask of a builder is caches in a RUN, and a RUN in an empty root file system that has its shell from a
//! stage mounted on `/usr`, and leaves nothing in its layer but what it made.

use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_testkit::{Image, TestEnv, lane};

use crate::env_of;
use crate::tools::{executable, tool};

/// The programs that are built: kaniko's two, and what of busybox the Dockerfiles call.
const PROGRAMS: [(&str, &str); 3] = [
    ("executor", "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"executor\\n\") }\n"),
    ("warmer", "package main\n\nimport \"os\"\n\nfunc main() { os.Stdout.WriteString(\"warmer\\n\") }\n"),
    (
        "busybox",
        r#"package main

import "os"

func main() {
	args := os.Args
	if base(args[0]) == "busybox" {
		args = args[1:]
	}
	switch base(args[0]) {
	case "sh":
		// The one line that the Dockerfiles have: mkdir -p DIR && chmod 777 DIR.
		if args[2] != "mkdir -p /kaniko && chmod 777 /kaniko" {
			os.Exit(2)
		}
		must(os.MkdirAll("/kaniko", 0755))
		must(os.Chmod("/kaniko", 0777))
	case "mkdir":
		must(os.MkdirAll(args[2], 0755))
	case "ln":
		must(os.Symlink(args[2], args[3]))
	case "cp":
		content, err := os.ReadFile(args[1])
		must(err)
		must(os.WriteFile(args[2], content, 0755))
	default:
		os.Exit(127)
	}
}

func base(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

func must(err error) {
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
"#,
    ),
];

/// Writes the sources and, as the context `go`, as much of the host's Go as they need; says so where there is none.
fn sources(env: &TestEnv, what: &str) -> Option<()> {
    lane::program("go", what)?;
    env.write("ctx/go.mod", "module example.com/kaniko\n\ngo 1.19\n");
    for (name, text) in PROGRAMS {
        env.write(&format!("ctx/cmd/{name}/main.go"), text);
    }
    env.write("ctx/Makefile", "out/%: cmd/%/main.go\n\tgo build -buildvcs=false -o $@ ./cmd/$*\n");
    env.write("ctx/files/nsswitch.conf", "hosts: files dns\n");
    tool(env, "make", what)?;
    let go = |args: &[&str]| {
        let output = Command::new("go")
            .args(args)
            .current_dir(env.root.join("ctx"))
            .env("GOFLAGS", "-mod=mod")
            .env("CGO_ENABLED", "0")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let root = PathBuf::from(go(&["env", "GOROOT"]));
    let tools = PathBuf::from(go(&["env", "GOTOOLDIR"]));
    let inside = |path: &Path| format!("go/{}", path.strip_prefix(&root).unwrap().display());
    executable(env, "go/bin/go", &root.join("bin/go"));
    for name in ["compile", "link", "asm", "buildid"] {
        let path = tools.join(name);
        if path.exists() {
            executable(env, &inside(&path), &path);
        }
    }
    let include = root.join("pkg/include");
    for header in std::fs::read_dir(include).unwrap().flatten() {
        env.write(&inside(&header.path()), std::fs::read(header.path()).unwrap());
    }
    if let Ok(version) = std::fs::read(root.join("VERSION")) {
        env.write("go/VERSION", version);
    }
    let needed = go(&["list", "-deps", "-f", "{{if .Standard}}{{.ImportPath}}{{end}}", "./..."]);
    // The runtime includes headers of a package that it does not import.
    for package in needed.lines().chain(["runtime/cgo"]) {
        let from = root.join("src").join(package);
        for file in std::fs::read_dir(&from).into_iter().flatten().flatten() {
            let path = file.path();
            if path.is_file() && !path.to_string_lossy().ends_with("_test.go") {
                env.write(
                    &format!("go/src/{package}/{}", file.file_name().display()),
                    std::fs::read(path).unwrap(),
                );
            }
        }
    }
    Some(())
}

/// The stage that builds the programs, as kaniko's: make with two caches.
fn builder(base: &str) -> String {
    format!(
        "FROM {base} AS builder\nCOPY tools /\nENV PATH=/usr/local/go/bin:$PATH GOROOT=/usr/local/go GOPATH=/go GOFLAGS=-mod=mod CGO_ENABLED=0\n\
         WORKDIR /src\nARG TARGETARCH\nARG TARGETOS\nCOPY . .\n\
         RUN --mount=from=go,target=/usr/local/go --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg make out/executor out/warmer\n\
         RUN --mount=from=go,target=/usr/local/go --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg make out/busybox\n"
    )
}

fn build(env: &TestEnv, dockerfile: &str, target: &str) -> Image {
    env.write("ctx/Dockerfile", dockerfile);
    env.write("ctx/.dockerignore", "Dockerfile\n");
    let name = format!("{}/kaniko:{target}", env.host());
    env.kiln(["build", "--build-context", "go=go", "--target", target, "-t", &name, "--push", "ctx"]).ok();
    Image::pull(&name)
}

#[test]
fn kanikos_own_dockerfile_is_built() {
    let what = "kaniko's own Dockerfile";
    // Compiling Go takes long enough once.
    let Some(person) = lane::people(what).into_iter().next() else { return };
    let env = env_of(person);
    if sources(&env, what).is_none() {
        return;
    }
    let base = env.base();
    let dockerfile = builder(&base)
        + "FROM scratch AS busybox\nCOPY --from=builder /src/out/busybox /bin/busybox\n\
           FROM scratch AS kaniko-base-slim\n\
           RUN --mount=from=busybox,dst=/usr/ [\"busybox\", \"sh\", \"-c\", \"mkdir -p /kaniko && chmod 777 /kaniko\"]\n\
           COPY --from=builder --chown=0:0 /src/out/executor /kaniko/executor\n\
           COPY files/nsswitch.conf /etc/nsswitch.conf\n\
           ENV HOME=/root USER=root PATH=/usr/local/bin:/kaniko\n\
           FROM kaniko-base-slim AS kaniko-slim\nENTRYPOINT [\"/kaniko/executor\"]\n\
           FROM kaniko-base-slim AS kaniko-debug\n\
           COPY --from=builder /src/out/warmer /kaniko/warmer\nCOPY --from=busybox /bin /busybox\nVOLUME /busybox\n\
           RUN [\"/busybox/busybox\", \"mkdir\", \"-p\", \"/bin\"]\n\
           RUN [\"/busybox/busybox\", \"ln\", \"-s\", \"/busybox/busybox\", \"/bin/sh\"]\n\
           ENTRYPOINT [\"/kaniko/executor\"]\nWORKDIR /workspace\n";
    let image = build(&env, &dockerfile, "kaniko-debug");
    let lines: Vec<Vec<String>> = image.layers.iter().map(kiln_testkit::Listing::lines).collect();
    let size = |layer: usize, path: &str| match image.layers[layer].entry(path).unwrap().kind {
        kiln::oci::layer::Kind::File { size } => size,
        _ => panic!("{path} is no file"),
    };
    assert_eq!(lines[0], ["dir 777 0:0 kaniko"]);
    assert_eq!(
        lines[1],
        [
            "dir 777 0:0 kaniko".to_owned(),
            format!("file 755 0:0 kaniko/executor {}", size(1, "kaniko/executor"))
        ]
    );
    assert_eq!(lines[2], ["dir 755 0:0 etc", "file 644 0:0 etc/nsswitch.conf 17"]);
    assert_eq!(
        lines[3],
        ["dir 777 0:0 kaniko".to_owned(), format!("file 755 0:0 kaniko/warmer {}", size(3, "kaniko/warmer"))]
    );
    assert_eq!(
        lines[4],
        [
            "dir 755 0:0 busybox".to_owned(),
            format!("file 755 0:0 busybox/busybox {}", size(4, "busybox/busybox"))
        ]
    );
    assert_eq!(lines[5], ["dir 755 0:0 bin"]);
    assert_eq!(lines[6], ["dir 755 0:0 bin", "link 777 0:0 bin/sh -> /busybox/busybox"]);
    assert_eq!(lines[7], ["dir 755 0:0 workspace"]);
    assert_eq!(lines.len(), 8);
    // What the caches hold is in the store: the second generation compiles the library no more.
    assert!(env.kiln(["cache", "ls"]).ok().contains("/root/.cache/go-build"));
    let dockerfile = builder(&base)
        + "FROM scratch AS busybox\nCOPY --from=builder /src/out/busybox /bin/busybox\n\
           RUN [\"/bin/busybox\", \"sh\", \"-c\", \"mkdir -p /kaniko && chmod 777 /kaniko\"]\n\
           FROM --platform=$BUILDPLATFORM scratch AS certs\nCOPY files/nsswitch.conf /certs/nsswitch.conf\n\
           FROM scratch AS kaniko-base-amd64\nFROM scratch AS kaniko-base-arm64\n\
           FROM kaniko-base-${TARGETARCH} AS kaniko-base\nCOPY --from=busybox /kaniko /kaniko\n\
           FROM kaniko-base AS kaniko-base-2\nCOPY --from=builder /src/out/executor /kaniko/executor\nCOPY --from=certs /certs /kaniko/ssl\n\
           FROM busybox AS kaniko-alpine\n\
           RUN --mount=from=kaniko-base-2,source=/kaniko,target=/mnt/kaniko [\"/bin/busybox\", \"cp\", \"/mnt/kaniko/executor\", \"/kaniko/executor\"]\n";
    let dockerfile = format!("ARG TARGETARCH\n{dockerfile}");
    let image = build(&env, &dockerfile, "kaniko-alpine");
    assert_eq!(image.layers[1].lines(), ["dir 777 0:0 kaniko"]);
    let size = match image.last().entry("kaniko/executor").unwrap().kind {
        kiln::oci::layer::Kind::File { size } => size,
        _ => 0,
    };
    assert_eq!(
        image.last().lines(),
        ["dir 777 0:0 kaniko".to_owned(), format!("file 755 0:0 kaniko/executor {size}")]
    );
}
