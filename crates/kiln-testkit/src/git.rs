//! Repositories for tests, made and served by the program `git`, which knows nothing of the machine's settings.

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::lane;
use crate::web::{Received, Reply, WebServer};

/// When a commit of a test was made that says nothing else.
pub const COMMIT_TIME: i64 = 1_000_000_000;

/// A directory of repositories.
#[derive(Debug, Clone)]
pub struct Repositories {
    root: PathBuf,
    time: i64,
}

impl Repositories {
    /// Keeps repositories below `root`; absent, with a word about `what` is left out, on a machine without `git`.
    #[must_use]
    pub fn new(root: PathBuf, what: &str) -> Option<Self> {
        lane::program("git", what)?;
        let made = std::fs::create_dir_all(&root);
        assert!(made.is_ok(), "cannot create {}: {made:?}", root.display());
        Some(Self { root, time: COMMIT_TIME })
    }

    /// Returns the same repositories, with commits from now on made at `time`.
    #[must_use]
    pub fn at(&self, time: i64) -> Self {
        Self { time, ..self.clone() }
    }

    /// Returns where a repository is.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Runs `git` in a repository and returns what it printed, trimmed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn git<S: AsRef<OsStr>>(&self, name: &str, args: &[S]) -> String {
        let mut command = Command::new("git");
        let date = format!("{} +0000", self.time);
        environment(&mut command);
        command
            .args(args)
            .current_dir(self.path(name))
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .env("GIT_AUTHOR_NAME", "a")
            .env("GIT_AUTHOR_EMAIL", "a@example.com")
            .env("GIT_COMMITTER_NAME", "a")
            .env("GIT_COMMITTER_EMAIL", "a@example.com");
        match command.output() {
            Ok(output) if output.status.success() => {
                String::from_utf8_lossy(&output.stdout).trim().to_owned()
            }
            other => panic!("{command:?}: {other:?}"),
        }
    }

    /// Makes an empty repository with the branch `main`.
    pub fn init(&self, name: &str) {
        let made = std::fs::create_dir_all(self.path(name));
        assert!(made.is_ok(), "cannot create {name}: {made:?}");
        self.git(name, &["init", "--quiet", "--initial-branch=main"]);
    }

    /// Writes files and commits them; returns the commit.
    ///
    /// # Panics
    /// When a file cannot be written.
    #[track_caller]
    pub fn commit(&self, name: &str, files: &[(&str, &str)]) -> String {
        for (file, content) in files {
            let path = self.path(name).join(file);
            let parent = path.parent().unwrap_or(&self.root).to_owned();
            let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, content));
            assert!(written.is_ok(), "cannot write {}: {written:?}", path.display());
        }
        self.git(name, &["add", "--all"]);
        self.git(name, &["commit", "--quiet", "--allow-empty", "--message=x"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    /// Serves the repositories by smart HTTP, those whose path begins with `/private` only with the header
    /// `Authorization` of `login`.
    #[must_use]
    pub fn serve(&self, login: &'static str) -> WebServer {
        let repositories = self.clone();
        WebServer::start(move |request| {
            if request.path.starts_with("/private") && request.header("authorization") != Some(login) {
                return Reply::new(401, "").with("www-authenticate", "Basic realm=\"x\"");
            }
            repositories.backend(request)
        })
    }

    /// Answers with `git http-backend`, as a web server with CGI does.
    #[must_use]
    pub fn backend(&self, request: &Received) -> Reply {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let mut command = Command::new("git");
        environment(&mut command);
        command
            .arg("http-backend")
            .env("GIT_PROJECT_ROOT", &self.root)
            .env("GIT_HTTP_EXPORT_ALL", "1")
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REQUEST_METHOD", &request.method)
            .env("CONTENT_TYPE", request.header("content-type").unwrap_or_default())
            .env("CONTENT_LENGTH", request.body.len().to_string())
            .env("REMOTE_ADDR", "127.0.0.1")
            .env("GIT_PROTOCOL", request.header("git-protocol").unwrap_or_default())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let output = command.spawn().and_then(|mut child| {
            if let Some(mut input) = child.stdin.take() {
                input.write_all(&request.body)?;
            }
            child.wait_with_output()
        });
        let Ok(output) = output else { return Reply::new(500, "git http-backend does not run") };
        cgi(&output.stdout)
    }

    /// Serves the repositories with `git daemon`; absent where there is none.
    #[must_use]
    pub fn daemon(&self, what: &str) -> Option<Daemon> {
        let path = Command::new("git").arg("--exec-path").output().ok()?;
        let program = Path::new(String::from_utf8_lossy(&path.stdout).trim()).join("git-daemon");
        if !program.is_file() {
            lane::left_out(what, "there is no `git daemon` on this machine");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let mut command = Command::new(program);
        environment(&mut command);
        let mut base = std::ffi::OsString::from("--base-path=");
        base.push(&self.root);
        command
            .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(base)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().ok()?;
        let daemon = Daemon { child, port };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "git daemon does not listen");
            std::thread::yield_now();
        }
        Some(daemon)
    }
}

/// A `git daemon` that runs until it is dropped.
pub struct Daemon {
    child: Child,
    port: u16,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Daemon").field("port", &self.port).finish_non_exhaustive()
    }
}

impl Daemon {
    /// Returns the URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("git://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes every setting of the machine and its user away from `git`.
fn environment(command: &mut Command) {
    for variable in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_CONFIG"] {
        command.env_remove(variable);
    }
    command
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("GIT_TERMINAL_PROMPT", "0");
}

/// Reads what a CGI program prints.
fn cgi(output: &[u8]) -> Reply {
    let end = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let mut reply = Reply::new(200, output.get(end + 4..).unwrap_or_default());
    for line in String::from_utf8_lossy(&output[..end]).lines() {
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("status") => {
                reply.status = value.trim().split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(500);
            }
            Some((name, value)) => reply.headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => {}
        }
    }
    reply
}
