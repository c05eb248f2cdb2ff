//! A finished image, read back and checked: whatever a test looks at has passed the checks of [`Image::pull`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;

use kiln_oci::layer::{Entry, EntryPath, Kind, LayerReader, Limits};
use kiln_oci::{Digest, ImageConfig, Manifest, Reference};
use kiln_remote::{Client, ClientConfig};

/// An image with its layers as lists of entries.
#[derive(Debug)]
pub struct Image {
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, base first.
    pub layers: Vec<Listing>,
}

/// The entries of one layer in their order, with the contents of small files.
#[derive(Debug, Default)]
pub struct Listing {
    /// Entries with content.
    pub entries: Vec<(Entry, Vec<u8>)>,
}

/// Content beyond this is not kept.
const KEEP: u64 = 64 << 10;

impl Image {
    /// Pulls `name` and checks what every image must fulfil.
    ///
    /// # Panics
    /// When the image cannot be read or breaks a rule: digests and sizes agree, config and manifest list the same
    /// layers, history and layers agree, every layer is sorted, without duplicates, parents before children, and
    /// hard links name what came before.
    #[must_use]
    pub fn pull(name: &str) -> Self {
        match Self::read(name) {
            Ok(image) => image,
            Err(why) => panic!("{name}: {why}"),
        }
    }

    fn read(name: &str) -> Result<Self, String> {
        let reference: Reference = name.parse().map_err(|e| text(&e))?;
        let client = Client::new(ClientConfig::default()).map_err(|e| text(&e))?;
        let document = client.document(&reference).map_err(|e| text(&e))?;
        let manifest = document.manifest().ok_or("not a manifest")?.clone();
        let mut bytes = Vec::new();
        let mut reader = client.blob(&reference, &manifest.config, None).map_err(|e| text(&e))?;
        reader.read_to_end(&mut bytes).map_err(|e| text(&e))?;
        let config: ImageConfig = serde_json::from_slice(&bytes).map_err(|e| text(&e))?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err("config and manifest disagree about the number of layers".to_owned());
        }
        let made = config.history.iter().filter(|h| !h.empty_layer).count();
        if made != manifest.layers.len() {
            return Err(format!("the history tells of {made} layers, there are {}", manifest.layers.len()));
        }
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
            let blob = client.blob(&reference, descriptor, None).map_err(|e| text(&e))?;
            let listing = Listing::read(blob, diff_id)?;
            layers.push(listing);
        }
        Ok(Self { digest: document.digest().clone(), manifest, config, layers })
    }

    /// Returns the last layer.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn last(&self) -> &Listing {
        match self.layers.last() {
            Some(layer) => layer,
            None => panic!("the image has no layer"),
        }
    }

    /// Returns the topmost entry at `path` over all layers, whiteouts not considered.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.layers.iter().rev().find_map(|l| l.entry(path))
    }
}

impl Listing {
    /// Reads a layer that must unpack to `diff_id`, and checks what every layer must fulfil.
    ///
    /// # Errors
    /// When it cannot be read or breaks a rule.
    pub fn read(blob: impl std::io::Read, diff_id: &Digest) -> Result<Self, String> {
        let mut reader = LayerReader::new(blob, Limits::default()).map_err(|e| text(&e))?;
        let mut listing = Self::default();
        while let Some((entry, content)) = reader.next().map_err(|e| text(&e))? {
            let mut bytes = Vec::new();
            content.take(KEEP).read_to_end(&mut bytes).map_err(|e| text(&e))?;
            listing.entries.push((entry, bytes));
        }
        let summary = reader.finish().map_err(|e| text(&e))?;
        if summary.diff_id != *diff_id {
            return Err(format!("a layer unpacks to {}, the config says {diff_id}", summary.diff_id));
        }
        listing.check()?;
        Ok(listing)
    }

    /// Returns the entry at `path`.
    #[must_use]
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.iter().map(|(e, _)| e).find(|e| e.path.as_bytes() == path.as_bytes())
    }

    /// Returns the content of the file at `path` as text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let (_, bytes) = self.entries.iter().find(|(e, _)| e.path.as_bytes() == path.as_bytes())?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    }

    /// Returns one line for each entry: `kind mode uid:gid path`, with the target of a link.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let line = |(entry, _): &(Entry, Vec<u8>)| {
            let (kind, more) = match &entry.kind {
                Kind::File { size } => ("file", format!(" {size}")),
                Kind::Directory => ("dir", String::new()),
                Kind::Symlink { target } => ("link", format!(" -> {}", String::from_utf8_lossy(target))),
                Kind::HardLink { target } => ("hard", format!(" = {target}")),
                Kind::CharDevice { major, minor } => ("char", format!(" {major}:{minor}")),
                Kind::BlockDevice { major, minor } => ("block", format!(" {major}:{minor}")),
                Kind::Fifo => ("fifo", String::new()),
            };
            format!("{kind} {:o} {}:{} {}{more}", entry.mode, entry.uid, entry.gid, entry.path)
        };
        self.entries.iter().map(line).collect()
    }

    fn check(&self) -> Result<(), String> {
        let mut seen: BTreeMap<&EntryPath, &Entry> = BTreeMap::new();
        for (entry, _) in &self.entries {
            if seen.contains_key(&entry.path) {
                return Err(format!("`{}` is in its layer twice", entry.path));
            }
            if let Kind::HardLink { target } = &entry.kind
                && !seen.contains_key(target)
            {
                return Err(format!("hard link `{}` comes before `{target}`", entry.path));
            }
            if let Some(parent) = entry.path.parent().filter(|p| !p.is_root())
                && seen.get(&parent).is_some_and(|p| p.kind != Kind::Directory)
            {
                return Err(format!("`{}` lies in something that is no directory", entry.path));
            }
            seen.insert(&entry.path, entry);
        }
        Ok(())
    }
}

/// Returns an error with all its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut all = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _ = write!(all, ": {cause}");
        source = cause.source();
    }
    all
}
