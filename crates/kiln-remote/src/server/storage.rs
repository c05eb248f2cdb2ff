//! Where the embedded registry keeps content: in memory, or in a directory of its own layout.
//!
//! ```text
//! blobs/sha256/<hex>                          content of blobs and manifests
//! repositories/<name>/_blobs/sha256/<hex>     the repository has the blob
//! repositories/<name>/_manifests/sha256/<hex> the repository has the manifest; holds its media type
//! repositories/<name>/_tags/<tag>             holds a digest
//! repositories/<name>/_referrers/<subject>/<digest>   holds a descriptor
//! uploads/<number>                            uploads that run; emptied at start
//! ```
//!
//! A component of a repository's name begins with a letter or digit, so none collides with the `_` names.
//! Keys are built from parsed names and digests only; the directory refuses any other as a second wall.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Small texts and large content under keys like paths. Writes replace; absence is `None` or `false`.
pub(super) trait Store: Send + Sync {
    fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>>;
    fn write(&self, key: &str, content: &[u8]) -> io::Result<()>;
    fn remove(&self, key: &str) -> io::Result<bool>;
    /// Returns the names directly below `prefix`, in order.
    fn list(&self, prefix: &str) -> io::Result<Vec<String>>;
    /// Returns a reader from `offset` on, and the size of the whole.
    fn open(&self, key: &str, offset: u64) -> io::Result<Option<(Content, u64)>>;
    fn create(&self) -> io::Result<Box<dyn Draft>>;
}

pub(super) type Content = Box<dyn Read + Send>;

/// Content that is being written and has no key yet; dropping it leaves nothing.
pub(super) trait Draft: Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn reread(&self) -> io::Result<Content>;
    fn commit(self: Box<Self>, key: &str) -> io::Result<()>;
}

type Entries = Arc<Mutex<BTreeMap<String, Bytes>>>;

#[derive(Default)]
pub(super) struct Memory(Entries);

impl Memory {
    fn get(&self, key: &str) -> Option<Bytes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

impl Store for Memory {
    fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.get(key).map(|content| content.to_vec()))
    }

    fn write(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(key.to_owned(), Bytes::copy_from_slice(content));
        Ok(())
    }

    fn remove(&self, key: &str) -> io::Result<bool> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key).is_some())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = format!("{prefix}/");
        let below = entries.range(start.clone()..).map(|(key, _)| key);
        let names = below.map_while(|key| key.strip_prefix(&start)).map(|rest| rest.split('/').next());
        let mut names: Vec<String> = names.flatten().map(str::to_owned).collect();
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn open(&self, key: &str, offset: u64) -> io::Result<Option<(Content, u64)>> {
        let Some(content) = self.get(key) else { return Ok(None) };
        let size = content.len() as u64;
        let mut reader = Cursor::new(content);
        reader.set_position(offset);
        Ok(Some((Box::new(reader), size)))
    }

    fn create(&self) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(MemoryDraft { entries: Arc::clone(&self.0), content: Vec::new() }))
    }
}

struct MemoryDraft {
    entries: Entries,
    content: Vec<u8>,
}

impl Draft for MemoryDraft {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.extend_from_slice(bytes);
        Ok(())
    }

    fn reread(&self) -> io::Result<Content> {
        Ok(Box::new(Cursor::new(self.content.clone())))
    }

    fn commit(self: Box<Self>, key: &str) -> io::Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.insert(key.to_owned(), Bytes::from(self.content));
        Ok(())
    }
}

pub(super) struct Directory {
    root: PathBuf,
    next: AtomicU64,
}

impl Directory {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let uploads = root.join("uploads");
        match fs::remove_dir_all(&uploads) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&uploads)?;
        Ok(Self { root: root.to_owned(), next: AtomicU64::new(0) })
    }

    fn path(&self, key: &str) -> io::Result<PathBuf> {
        path_of(&self.root, key)
    }

    fn draft(&self) -> io::Result<FileDraft> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("uploads").join(n.to_string());
        let file = File::options().create_new(true).write(true).open(&path)?;
        Ok(FileDraft { root: self.root.clone(), path, file })
    }
}

fn path_of(root: &Path, key: &str) -> io::Result<PathBuf> {
    let safe = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', '\0']);
    if key.split('/').all(safe) {
        return Ok(root.join(key));
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, format!("`{key}` is not a key")))
}

/// Turns the absence of a file into `None`.
fn optional<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

impl Store for Directory {
    fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        optional(fs::read(self.path(key)?))
    }

    fn write(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let mut draft = Box::new(self.draft()?);
        draft.append(content)?;
        draft.commit(key)
    }

    fn remove(&self, key: &str) -> io::Result<bool> {
        Ok(optional(fs::remove_file(self.path(key)?))?.is_some())
    }

    fn list(&self, prefix: &str) -> io::Result<Vec<String>> {
        let Some(entries) = optional(fs::read_dir(self.path(prefix)?))? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, key: &str, offset: u64) -> io::Result<Option<(Content, u64)>> {
        let Some(mut file) = optional(File::open(self.path(key)?))? else { return Ok(None) };
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some((Box::new(file), size)))
    }

    fn create(&self) -> io::Result<Box<dyn Draft>> {
        Ok(Box::new(self.draft()?))
    }
}

struct FileDraft {
    root: PathBuf,
    path: PathBuf,
    file: File,
}

impl Draft for FileDraft {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn reread(&self) -> io::Result<Content> {
        Ok(Box::new(File::open(&self.path)?))
    }

    fn commit(self: Box<Self>, key: &str) -> io::Result<()> {
        let target = path_of(&self.root, key)?;
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::rename(&self.path, target)
    }
}

impl Drop for FileDraft {
    fn drop(&mut self) {
        // Gone already when it was committed.
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contract(store: &dyn Store) {
        assert_eq!(store.read("a/b").unwrap(), None);
        assert_eq!(store.list("a").unwrap(), Vec::<String>::new());
        store.write("a/b", b"1").unwrap();
        store.write("a/b", b"2").unwrap();
        store.write("a/c/d", b"3").unwrap();
        store.write("ab", b"4").unwrap();
        assert_eq!(store.read("a/b").unwrap().unwrap(), b"2");
        assert_eq!(store.list("a").unwrap(), ["b", "c"]);
        let mut draft = store.create().unwrap();
        draft.append(b"hello ").unwrap();
        draft.append(b"world").unwrap();
        draft.commit("x/y").unwrap();
        let (mut content, size) = store.open("x/y", 6).unwrap().unwrap();
        let mut text = String::new();
        content.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), size), ("world", 11));
        assert!(store.remove("a/b").unwrap() && !store.remove("a/b").unwrap());
        assert!(store.open("a/b", 0).unwrap().is_none());
    }

    #[test]
    fn memory_keeps_the_contract() {
        contract(&Memory::default());
    }

    #[test]
    fn a_directory_keeps_the_contract_and_its_walls() {
        let root = std::env::temp_dir().join(format!("kiln-remote-storage-{}", std::process::id()));
        let store = Directory::open(&root).unwrap();
        contract(&store);
        for key in ["../x", "a/../../x", "/etc/passwd", "a//b", "", "a/."] {
            assert!(store.read(key).is_err(), "{key}");
        }
        assert_eq!(fs::read_dir(root.join("uploads")).unwrap().count(), 0);
        fs::remove_dir_all(root).unwrap();
    }
}
