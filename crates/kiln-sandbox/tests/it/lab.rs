//! A store with one base layer made of this machine's own programs, and a way to run a script over it.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_sandbox::rootdir::Kind;
use kiln_sandbox::{ExecSpec, Exit, Isolation, RootDir, Running, Sandbox, Stdio};

const PROGRAMS: [&str; 30] = [
    "sh", "ls", "cat", "id", "chown", "chmod", "mkdir", "rm", "rmdir", "ln", "stat", "sleep", "true",
    "mount", "unshare", "touch", "cp", "env", "readlink", "grep", "mknod", "uname", "test", "kill", "mkfifo",
    "mv", "setcap", "setpriv", "tar", "chroot",
];

pub(crate) struct Lab {
    pub(crate) isolation: Isolation,
    pub(crate) store: PathBuf,
    pub(crate) base: PathBuf,
    next: Cell<u32>,
}

/// What a run left.
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    pub(crate) output: String,
    pub(crate) stubs: Vec<PathBuf>,
    pub(crate) upper: RootDir,
    /// The upper directory.
    pub(crate) dir: PathBuf,
}

impl Outcome {
    /// Returns the paths in the upper directory, sorted, without the stubs.
    pub(crate) fn changed(&self) -> Vec<String> {
        let mut all = Vec::new();
        walk(&self.upper, Path::new(""), &mut all);
        all.iter()
            .filter(|path| !self.stubs.contains(&Path::new("/").join(path)))
            .map(|path| path.display().to_string())
            .collect()
    }
}

fn walk(root: &RootDir, dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in root.read_dir(dir).expect("list upper") {
        let path = dir.join(&entry.name);
        into.push(path.clone());
        if entry.kind == Kind::Directory {
            walk(root, &path, into);
        }
    }
}

impl Lab {
    pub(crate) fn new(isolation: Isolation, store: &Path) -> Self {
        let base = store.join("base");
        std::fs::create_dir(&base).expect("create the base");
        let root = RootDir::open(&base).expect("open the base");
        for dir in ["bin", "etc", "tmp", "data/sub", "run"] {
            root.create_dir_all(Path::new(dir), 0o755).expect("create a directory");
        }
        root.chmod(Path::new("tmp"), 0o1777).expect("open /tmp");
        for name in PROGRAMS {
            copy_program(&root, name);
        }
        for (path, content) in
            [("etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("data/old", "old\n"), ("data/sub/deep", "deep\n")]
        {
            std::fs::write(base.join(path), content).expect("write a file");
        }
        let mut all = vec![PathBuf::new()];
        walk(&root, Path::new(""), &mut all);
        let owner = isolation.disk_id(0);
        for path in all {
            if root.lstat(&path).expect("look").kind != Kind::Symlink {
                root.chown(&path, owner, owner).expect("give to the container's root");
            }
        }
        Self { isolation, store: store.to_owned(), base, next: Cell::new(0) }
    }

    /// Returns a specification over the base layer with directories of its own.
    pub(crate) fn spec(&self, script: &str) -> ExecSpec {
        let number = self.next.replace(self.next.get() + 1);
        let dir = self.store.join(number.to_string());
        for part in ["upper", "work"] {
            std::fs::create_dir_all(dir.join(part)).expect("create upper and work");
        }
        ExecSpec {
            lower: vec![self.base.clone()],
            upper: dir.join("upper"),
            work: dir.join("work"),
            args: ["sh", "-c", script].map(OsString::from).to_vec(),
            env: vec![("PATH".into(), "/bin".into())],
            ..ExecSpec::default()
        }
    }

    /// Returns a specification whose writable layer is a whole root, for isolations without overlays.
    pub(crate) fn whole_root(&self, script: &str) -> ExecSpec {
        let mut spec = self.spec(script);
        let copied = Command::new("cp").args(["-a", "-T"]).arg(&self.base).arg(&spec.upper).status();
        assert!(copied.expect("run cp").success());
        spec.lower.clear();
        spec
    }

    /// Adds a program of this machine, with its libraries, to a root.
    pub(crate) fn add_program(&self, root: &Path, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        copy_program(&RootDir::open(root).expect("open the root"), name);
    }

    /// Tells whether the isolation says that it lacks something with this word.
    pub(crate) fn lacks(&self, word: &str) -> bool {
        self.isolation.lacking.iter().any(|lacking| lacking.contains(word))
    }

    pub(crate) fn run(&self, script: &str) -> Outcome {
        self.execute(&self.spec(script))
    }

    pub(crate) fn execute(&self, spec: &ExecSpec) -> Outcome {
        let (running, mut output) = self.start(spec);
        let mut text = String::new();
        output.read_to_string(&mut text).expect("read the output");
        let finished = running.wait().expect("wait");
        let upper = RootDir::open(&spec.upper).expect("open upper");
        Outcome { exit: finished.exit, output: text, stubs: finished.stubs, upper, dir: spec.upper.clone() }
    }

    /// Starts a command with both outputs in one pipe.
    pub(crate) fn start(&self, spec: &ExecSpec) -> (Running, std::io::PipeReader) {
        self.start_in(&self.isolation, spec)
    }

    pub(crate) fn start_in(&self, isolation: &Isolation, spec: &ExecSpec) -> (Running, std::io::PipeReader) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let stdio = Stdio { stdout: writer.try_clone().expect("clone").into(), stderr: writer.into() };
        (
            Sandbox::spawn(isolation, spec, stdio).unwrap_or_else(|error| panic!("{error} {:?}", error.hint)),
            reader,
        )
    }

    pub(crate) fn is_single(&self) -> bool {
        self.isolation.mode == kiln_sandbox::Mode::UsernsSingle
    }
}

/// Copies a program and the libraries that it names.
fn copy_program(root: &RootDir, name: &str) {
    let path = ["/bin", "/usr/bin", "/sbin", "/usr/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is not installed"));
    copy(root, &path, &Path::new("bin").join(name));
    let list = Command::new("ldd").arg(&path).output().expect("run ldd");
    for word in String::from_utf8_lossy(&list.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        copy(root, Path::new(word), Path::new(word));
    }
}

fn copy(root: &RootDir, from: &Path, to: &Path) {
    if root.lstat(to).is_ok() {
        return;
    }
    root.create_dir_all(to.parent().expect("a parent"), 0o755).expect("create the parent");
    let mut file = root.create_file(to, 0o755).expect("create the copy");
    std::io::copy(&mut std::fs::File::open(from).expect("open a program"), &mut file).expect("copy");
}
