//! What every test needs: a registry, a client, content and sources.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kiln_oci::{Descriptor, Digest, Document, MediaType, Reference};
use kiln_remote::server::{Faults, Registry, RegistryConfig, Running};
use kiln_remote::{Client, ClientConfig, Retries, Roots, UploadSource};

pub(crate) fn registry() -> Running {
    Registry::start(RegistryConfig::default()).unwrap()
}

pub(crate) fn faulty(faults: Faults) -> Running {
    Registry::start(RegistryConfig { faults, ..RegistryConfig::default() }).unwrap()
}

/// A configuration that fails quickly and trusts nothing of the machine that runs the test.
pub(crate) fn config() -> ClientConfig {
    let retries =
        Retries { first: Duration::from_millis(1), longest: Duration::from_millis(20), ..Retries::default() };
    let roots = Roots { embedded: false, system: false, files: Vec::new() };
    ClientConfig { retries, roots, ..ClientConfig::default() }
}

pub(crate) fn client() -> Client {
    Client::new(config()).unwrap()
}

pub(crate) fn reference(registry: &Running, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

/// Content that does not repeat, so that a byte out of place shows.
pub(crate) fn content(size: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..size).map(|_| next()).collect()
}

pub(crate) fn layer(bytes: &[u8]) -> Descriptor {
    Descriptor::of(MediaType::OCI_LAYER, bytes)
}

/// Content that is complete from the start.
pub(crate) struct Fixed(pub(crate) Vec<u8>);

impl UploadSource for Fixed {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(io::Cursor::new(self.0[usize::try_from(offset).unwrap()..].to_vec())))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        Ok(layer(&self.0))
    }

    fn complete(&self) -> Option<Descriptor> {
        Some(layer(&self.0))
    }
}

pub(crate) fn fixed(bytes: &[u8]) -> Arc<dyn UploadSource> {
    Arc::new(Fixed(bytes.to_vec()))
}

/// Content that somebody is still writing.
#[derive(Clone, Default)]
pub(crate) struct Growing(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    end: Option<bool>,
}

impl Growing {
    pub(crate) fn write(&self, bytes: &[u8]) {
        self.0.0.lock().unwrap().bytes.extend_from_slice(bytes);
        self.0.1.notify_all();
    }

    pub(crate) fn finish(&self) {
        self.0.0.lock().unwrap().end = Some(true);
        self.0.1.notify_all();
    }

    pub(crate) fn fail(&self) {
        self.0.0.lock().unwrap().end = Some(false);
        self.0.1.notify_all();
    }

    fn failure() -> io::Error {
        io::Error::other("the build step failed")
    }
}

struct GrowingReader(Growing, usize);

impl Read for GrowingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (lock, more) = &*self.0.0;
        let mut state = lock.lock().unwrap();
        loop {
            let rest = &state.bytes[self.1..];
            if !rest.is_empty() {
                let n = rest.len().min(buffer.len());
                buffer[..n].copy_from_slice(&rest[..n]);
                self.1 += n;
                return Ok(n);
            }
            match state.end {
                Some(true) => return Ok(0),
                Some(false) => return Err(Growing::failure()),
                None => state = more.wait(state).unwrap(),
            }
        }
    }
}

impl UploadSource for Growing {
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(GrowingReader(self.clone(), usize::try_from(offset).unwrap())))
    }

    fn descriptor(&self) -> io::Result<Descriptor> {
        let (lock, more) = &*self.0;
        let state = more.wait_while(lock.lock().unwrap(), |state| state.end.is_none()).unwrap();
        if state.end == Some(true) { Ok(layer(&state.bytes)) } else { Err(Self::failure()) }
    }

    fn complete(&self) -> Option<Descriptor> {
        let state = self.0.0.lock().unwrap();
        (state.end == Some(true)).then(|| layer(&state.bytes))
    }
}

pub(crate) fn upload(client: &Client, target: &Reference, bytes: &[u8]) -> Descriptor {
    client.upload(target, &fixed(bytes), None).unwrap().descriptor
}

pub(crate) fn download(client: &Client, from: &Reference, descriptor: &Descriptor) -> io::Result<Vec<u8>> {
    let mut reader = client.blob(from, descriptor, None).map_err(io::Error::other)?;
    let mut out = Vec::new();
    reader.read_to_end(&mut out).map(|_| out)
}

/// Pushes an image with one layer and returns its manifest.
pub(crate) fn push_image(client: &Client, target: &Reference, bytes: &[u8]) -> Document {
    let layer = upload(client, target, bytes);
    let config = upload(client, target, b"{}");
    let document = manifest(&config.digest, &[layer], "");
    client.put_document(target, &document).unwrap();
    document
}

pub(crate) fn manifest(config: &Digest, layers: &[Descriptor], note: &str) -> Document {
    let value = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::OCI_MANIFEST,
        "config": { "mediaType": MediaType::OCI_CONFIG, "digest": config, "size": 2 },
        "layers": layers,
        "annotations": { "note": note },
    });
    Document::parse(value.to_string().into_bytes(), None).unwrap()
}

pub(crate) fn certificate(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/it/certificates").join(name)
}

/// Counts the requests of a method whose path contains a text.
pub(crate) fn count(registry: &Running, method: &str, path: &str) -> usize {
    registry.log().iter().filter(|r| r.method == method && r.path.contains(path)).count()
}

/// A directory that goes away with the test.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kiln-remote-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}
