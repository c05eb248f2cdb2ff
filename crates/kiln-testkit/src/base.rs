//! A base image made from the host's own shell and tools: no network, no package, one layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_oci::layer::{Compression, Entry, EntryPath, Kind, LayerWriter};
use kiln_oci::{
    ContainerConfig, Descriptor, Digest, History, ImageConfig, Index, Manifest, MediaType, Platform, RootFs,
};

/// Programs that the base gets, where the host has them.
const PROGRAMS: [&str; 34] = [
    "sh",
    "cat",
    "chmod",
    "chown",
    "cp",
    "cut",
    "dd",
    "echo",
    "env",
    "false",
    "grep",
    "head",
    "id",
    "install",
    "ln",
    "ls",
    "mkdir",
    "mkfifo",
    "mv",
    "printf",
    "readlink",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "tail",
    "touch",
    "true",
    "uname",
    "wc",
];

/// A file of the base.
enum File {
    Directory(u32),
    Content(PathBuf, u32),
    Text(&'static str),
    Link(String),
}

/// Writes an OCI layout with the base image into `dir`, under the tag `latest`.
///
/// # Errors
/// When the host has no shell, or a file cannot be read or written.
pub fn write_layout(dir: &Path) -> io::Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let files = files()?;
    let layer = blobs.join("layer.tmp");
    let mut writer = LayerWriter::new(fs::File::create(&layer)?, Compression::Gzip { level: 1 }, 1)
        .map_err(io::Error::other)?;
    for (path, file) in &files {
        append(&mut writer, path, file)?;
    }
    let finished = writer.finish().map_err(io::Error::other)?;
    fs::rename(&layer, blobs.join(finished.descriptor.digest.hex()))?;
    finish(dir, finished.descriptor, finished.diff_id)
}

/// Writes an OCI layout whose one layer is `tar`, as it is, into `dir`, under the tag `latest`.
///
/// # Errors
/// When a file cannot be read or written.
pub fn layout_of_tar(dir: &Path, tar: &Path) -> io::Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut hasher = kiln_oci::Hasher::new();
    let size = io::copy(&mut fs::File::open(tar)?, &mut hasher)?;
    let digest = hasher.finish();
    fs::copy(tar, blobs.join(digest.hex()))?;
    finish(dir, Descriptor::new(MediaType::OCI_LAYER, digest.clone(), size), digest)
}

/// Writes config, manifest and index of a layout with one layer.
fn finish(dir: &Path, layer: Descriptor, diff_id: Digest) -> io::Result<()> {
    let blobs = dir.join("blobs/sha256");
    let put = |media_type: &str, bytes: &[u8]| -> io::Result<Descriptor> {
        fs::write(blobs.join(Digest::sha256(bytes).hex()), bytes)?;
        Ok(Descriptor::of(media_type, bytes))
    };
    let host = Platform::host();
    let config = ImageConfig {
        architecture: host.architecture.clone(),
        os: host.os.clone(),
        config: ContainerConfig {
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            cmd: Some(vec!["sh".to_owned()]),
            ..ContainerConfig::default()
        },
        rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
        history: vec![History { created_by: Some("ADD files in /".to_owned()), ..History::default() }],
        ..ImageConfig::default()
    };
    let config = put(MediaType::OCI_CONFIG, &serde_json::to_vec(&config)?)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MediaType::OCI_MANIFEST.into()),
        artifact_type: None,
        config,
        layers: vec![layer],
        subject: None,
        annotations: BTreeMap::new(),
        other: BTreeMap::new(),
    };
    let mut manifest = put(MediaType::OCI_MANIFEST, &serde_json::to_vec(&manifest)?)?;
    manifest.platform = Some(host);
    manifest.annotations.insert("org.opencontainers.image.ref.name".to_owned(), "latest".to_owned());
    let index = Index {
        schema_version: 2,
        media_type: Some(MediaType::OCI_INDEX.into()),
        manifests: vec![manifest],
        annotations: BTreeMap::new(),
        other: BTreeMap::new(),
    };
    fs::write(dir.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)
}

fn append<W: io::Write>(writer: &mut LayerWriter<W>, path: &EntryPath, file: &File) -> io::Result<()> {
    let mut put = |kind, mode, content: Option<&mut dyn io::Read>| {
        writer.append(&Entry::new(path.clone(), kind, mode), content).map_err(io::Error::other)
    };
    match file {
        File::Directory(mode) => put(Kind::Directory, *mode, None),
        File::Link(target) => put(Kind::Symlink { target: target.clone().into_bytes() }, 0o777, None),
        File::Text(text) => put(Kind::File { size: text.len() as u64 }, 0o644, Some(&mut text.as_bytes())),
        File::Content(source, mode) => {
            let mut source = fs::File::open(source)?;
            let size = source.metadata()?.len();
            put(Kind::File { size }, *mode, Some(&mut source))
        }
    }
}

/// Returns every file of the base by its path.
fn files() -> io::Result<BTreeMap<EntryPath, File>> {
    let mut files = BTreeMap::new();
    let path = |text: &str| EntryPath::rooted(text).map_err(io::Error::other);
    for (dir, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
    ] {
        files.insert(path(dir)?, File::Directory(mode));
    }
    files.insert(
        path("etc/passwd")?,
        File::Text("root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/false\nnobody:x:65534:65534::/:/bin/false\n"),
    );
    files.insert(
        path("etc/group")?,
        File::Text("root:x:0:\nwww-data:x:33:\nstaff:x:50:nobody\nnogroup:x:65534:\n"),
    );
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let Some(found) = which(program) else { continue };
        let real = fs::canonicalize(&found)?;
        libraries.extend(needed(&real));
        files.insert(path(&format!("bin/{program}"))?, File::Content(real, 0o755));
    }
    if !files.contains_key(&path("bin/sh")?) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "this machine has no `sh` on its PATH"));
    }
    for library in libraries {
        let name = library.to_string_lossy().into_owned();
        let inside = path(&name)?;
        let mut parent = inside.parent();
        while let Some(dir) = parent.filter(|d| !d.is_root()) {
            files.entry(dir.clone()).or_insert(File::Directory(0o755));
            parent = dir.parent();
        }
        files.insert(inside, File::Content(fs::canonicalize(&library)?, 0o755));
    }
    files.insert(path("bin/link-to-sh")?, File::Link("sh".to_owned()));
    Ok(files)
}

fn which(program: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|d| Path::new(d).join(program))
        .find(|p| p.exists())
}

/// Returns the libraries of a program as the loader finds them; none for a static one.
pub(crate) fn needed(program: &Path) -> Vec<PathBuf> {
    let Ok(output) = Command::new("ldd").arg(program).output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|w| w.starts_with('/')).map(PathBuf::from).collect()
}
