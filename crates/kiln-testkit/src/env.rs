//! One test's own world: directories, store, registry, and kiln as a child process in it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kiln_remote::server::{Faults, Registry, RegistryConfig, Running};
use kiln_remote::{Client, ClientConfig, UploadSource};

use crate::base;

/// Who runs kiln.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// Root, who runs the tests.
    Root,
    /// Whoever runs the tests, not root.
    Caller,
    /// Somebody else, whom root can become.
    Ordinary {
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Whether `/etc/subuid` gives them a range of ids.
        range: bool,
    },
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("root"),
            Self::Caller => f.write_str("the caller"),
            Self::Ordinary { uid, range: true, .. } => write!(f, "user {uid} with a range of ids"),
            Self::Ordinary { uid, range: false, .. } => write!(f, "user {uid} with one id"),
        }
    }
}

impl Person {
    /// Returns a command that runs `program` as this person.
    #[must_use]
    pub fn command(&self, program: &OsStr) -> Command {
        let Self::Ordinary { uid, gid, .. } = self else { return Command::new(program) };
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups", "--"]);
        command.arg(program);
        command
    }

    /// Tells whether image owners other than root can be real for this person.
    #[must_use]
    pub fn has_ids(&self) -> bool {
        !matches!(self, Self::Ordinary { range: false, .. })
    }

    /// Makes `path` theirs.
    ///
    /// # Errors
    /// When its owner cannot be changed.
    pub fn give(&self, path: &Path) -> std::io::Result<()> {
        match self {
            // A link itself: what it names may not exist.
            Self::Ordinary { uid, gid, .. } => std::os::unix::fs::lchown(path, Some(*uid), Some(*gid)),
            Self::Root | Self::Caller => Ok(()),
        }
    }

    fn own(&self, path: &Path) {
        let owned = self.give(path);
        assert!(owned.is_ok(), "cannot give {} to {self}: {owned:?}", path.display());
    }
}

/// What a run of kiln gave.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code, if it was no signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Runs `command` to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        outcome(command)
    }

    /// Asserts success and returns what was on standard output, trimmed.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout.trim()
    }

    /// Asserts failure with `code` and that standard error has every one of `parts`.
    #[track_caller]
    pub fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in:\n{}", self.stderr);
        }
        assert!(self.stdout.is_empty(), "a failed build printed a result: {}", self.stdout);
    }
}

/// A directory tree of its own, with a registry, for one test.
pub struct TestEnv {
    /// The top of everything.
    pub root: PathBuf,
    /// The registry, with the host's base as `base:latest` and nothing else.
    pub registry: Running,
    /// Who runs kiln.
    pub person: Person,
    kiln: PathBuf,
}

impl fmt::Debug for TestEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestEnv")
            .field("root", &self.root)
            .field("person", &self.person)
            .finish_non_exhaustive()
    }
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl TestEnv {
    /// Makes an environment for the caller; `kiln` is the program under test.
    #[must_use]
    pub fn new(kiln: &str) -> Self {
        let person = if rustix::process::geteuid().is_root() { Person::Root } else { Person::Caller };
        Self::of(kiln, person)
    }

    /// Makes an environment in which kiln is run by `person`.
    ///
    /// # Panics
    /// When the environment cannot be made: the test cannot go on.
    #[must_use]
    pub fn of(kiln: &str, person: Person) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("kiln-test-{}-{number}", std::process::id()));
        let made = || -> std::io::Result<(Running, PathBuf)> {
            fs::create_dir_all(&root)?;
            for dir in ["home", "tmp"] {
                fs::create_dir(root.join(dir))?;
                person.own(&root.join(dir));
            }
            // The checkout may lie where another user cannot look; a hard link or a copy does not.
            let copy = root.join("kiln");
            fs::hard_link(kiln, &copy).or_else(|_| fs::copy(kiln, &copy).map(drop))?;
            let registry = Registry::start(RegistryConfig::default()).map_err(std::io::Error::other)?;
            Ok((registry, copy))
        };
        match made() {
            Ok((registry, kiln)) => Self { root, registry, person, kiln },
            Err(error) => panic!("cannot make a test environment in {}: {error}", root.display()),
        }
    }

    /// Returns the registry's host and port.
    #[must_use]
    pub fn host(&self) -> String {
        self.registry.host()
    }

    /// Pushes the host's base to the registry and returns its name there.
    ///
    /// # Panics
    /// When it cannot be made or pushed.
    #[must_use]
    pub fn base(&self) -> String {
        let layout = self.root.join("base");
        let name = format!("{}/base:latest", self.host());
        let made = base::write_layout(&layout).and_then(|()| push_layout(&layout, &name));
        assert!(made.is_ok(), "cannot make the base image: {made:?}");
        self.registry.clear_log();
        name
    }

    /// Writes a file below the root, with its parents.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root.join(path);
        let parent = path.parent().unwrap_or(&self.root).to_owned();
        let written = fs::create_dir_all(parent).and_then(|()| fs::write(&path, content));
        assert!(written.is_ok(), "cannot write {}: {written:?}", path.display());
        path
    }

    /// Returns a command that runs kiln here, with nothing of the caller's environment.
    #[must_use]
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut command = self.person.command(self.kiln.as_os_str());
        let home = self.root.join("home");
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")))
            .env("HOME", &home)
            .env("KILN_STORE", home.join("store"))
            .env("TMPDIR", self.root.join("tmp"))
            .current_dir(&self.root)
            .stdin(Stdio::null());
        command
    }

    /// Runs kiln to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn kiln<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Outcome {
        outcome(&mut self.command(args))
    }

    /// Sets the registry's faults from here on.
    pub fn faults(&self, faults: Faults) {
        self.registry.set_faults(faults);
    }

    /// Returns the paths of the blobs that were fetched since the log was cleared.
    #[must_use]
    pub fn blobs_fetched(&self) -> Vec<String> {
        let fetched = |r: &kiln_remote::server::Request| {
            r.method == "GET" && r.path.contains("/blobs/") && !r.path.contains("/uploads/")
        };
        self.registry.log().into_iter().filter(fetched).map(|r| r.path).collect()
    }
}

/// Runs `command` to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => panic!("cannot run {command:?}: {error}"),
    };
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Drop for TestEnv {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        // Ids of a user namespace can be removed by kiln itself, in a namespace with the same ids.
        let _ = self.kiln(["prune", "--all"]);
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn push_layout(layout: &Path, name: &str) -> std::io::Result<()> {
    use std::sync::Arc;

    struct Blob(PathBuf, kiln_oci::Descriptor);
    impl UploadSource for Blob {
        fn open(&self, offset: u64) -> std::io::Result<Box<dyn std::io::Read + Send>> {
            use std::io::Seek as _;
            let mut file = fs::File::open(&self.0)?;
            file.seek(std::io::SeekFrom::Start(offset))?;
            Ok(Box::new(file))
        }
        fn descriptor(&self) -> std::io::Result<kiln_oci::Descriptor> {
            Ok(self.1.clone())
        }
        fn complete(&self) -> Option<kiln_oci::Descriptor> {
            Some(self.1.clone())
        }
    }

    let reference: kiln_oci::Reference = name.parse().map_err(std::io::Error::other)?;
    let client = Client::new(ClientConfig::default()).map_err(std::io::Error::other)?;
    let blob = |digest: &kiln_oci::Digest| layout.join("blobs/sha256").join(digest.hex());
    let index: kiln_oci::Index = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let Some(descriptor) = index.manifests.first() else {
        return Err(std::io::Error::other("an empty layout"));
    };
    let document = kiln_oci::Document::parse(fs::read(blob(&descriptor.digest))?, None)
        .map_err(std::io::Error::other)?;
    let Some(manifest) = document.manifest() else { return Err(std::io::Error::other("no manifest")) };
    for part in manifest.layers.iter().chain([&manifest.config]) {
        let source: Arc<dyn UploadSource> = Arc::new(Blob(blob(&part.digest), part.clone()));
        client.upload(&reference, &source, None).map_err(std::io::Error::other)?;
    }
    client.put_document(&reference, &document).map_err(std::io::Error::other)?;
    Ok(())
}
