//! Names to digests: the one place where a build asks what a tag means now.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;

use kiln_oci::{Descriptor, Digest, Document, ImageConfig, Index, MediaType, Platform, Reference};

use crate::address;
use crate::context::Context;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::fetch;
use crate::frontend::dockerfile::{Ask, Pin, Pins, Wanted};
use crate::graph::BaseImage;
use crate::request::{BuildRequest, NamedContext};
use crate::rootfs::Origin;

/// An image config is a document; a larger one is refused.
const MAX_CONFIG: u64 = 16 << 20;

/// Resolves `wanted`, all at once, and adds what they stand for to `pins`.
///
/// # Errors
/// When a name cannot be resolved; the error names its place in the Dockerfile.
pub(crate) fn resolve(
    engine: &Engine,
    request: &BuildRequest,
    wanted: Vec<Wanted>,
    pins: &mut Pins,
) -> Result<()> {
    let known: &Pins = pins;
    let results: Vec<_> = std::thread::scope(|scope| {
        let work: Vec<_> =
            wanted.into_iter().map(|w| scope.spawn(move || (one(engine, request, &w, known), w))).collect();
        work.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    for result in results {
        let (pin, wanted) = result.map_err(|_| Error::internal("a thread that resolves names panicked"))?;
        let pin = pin.and_then(|p| limited(engine, p)).map_err(|e| {
            let message = match wanted.ask {
                Ask::Name => format!("cannot use `{}` as an image", wanted.name),
                Ask::Http(..) | Ask::Git(..) => format!("cannot add `{}`", wanted.name),
            };
            let error = e.within(message).at(wanted.place.clone());
            match &wanted.similar {
                Some(stage) => error.hint(format!("did you mean the stage `{stage}`?")),
                None => error,
            }
        })?;
        pins.insert(wanted.key(), pin);
    }
    Ok(())
}

/// Refuses an image with more layers than the build allows.
fn limited(engine: &Engine, pin: Pin) -> Result<Pin> {
    let limit = engine.limits.layers;
    match &pin {
        Pin::Image(base) if base.layers.len() > limit => {
            Err(Error::input(format!("it has {} layers, more than the limit of {limit}", base.layers.len()))
                .hint("raise the limit with `--max-layers N` if you trust the image"))
        }
        _ => Ok(pin),
    }
}

/// Resolves what lies elsewhere, unless it was: within one build, an address means one thing.
fn once(engine: &Engine, ask: &Ask, known: &Pins) -> Result<Pin> {
    known.get(&ask.key()).map_or_else(|| elsewhere(engine, ask), |pin| Ok(pin.clone()))
}

/// Resolves what lies elsewhere.
pub(crate) fn elsewhere(engine: &Engine, ask: &Ask) -> Result<Pin> {
    match ask {
        Ask::Http(url, checksum) => {
            fetch::http::file(engine, url, checksum.as_ref()).map(|file| Pin::Http(Box::new(file)))
        }
        Ask::Git(address, keep) => {
            fetch::git::resolve(engine, address, *keep).map(|commit| Pin::Git(Box::new(commit)))
        }
        Ask::Name => Err(Error::internal("a name is nowhere else")),
    }
}

/// A Dockerfile may be a stranger's: it uses the keys of whoever builds it only if that was allowed.
fn refuse_keys(engine: &Engine, ask: &Ask) -> Result<()> {
    let by_ssh = |remote: &str| !address::is_http(remote) && !remote.starts_with("git://");
    match ask {
        Ask::Git(address, _)
            if by_ssh(address.remote.reveal()) && !engine.grants.agents.contains_key("default") =>
        {
            Err(Error::input("a repository behind `ssh` needs your keys, which this build may not use")
                .hint("pass `--ssh default` if you trust the Dockerfile with them"))
        }
        _ => Ok(()),
    }
}

fn one(engine: &Engine, request: &BuildRequest, wanted: &Wanted, known: &Pins) -> Result<Pin> {
    if !matches!(wanted.ask, Ask::Name) {
        refuse_keys(engine, &wanted.ask)?;
        return elsewhere(engine, &wanted.ask);
    }
    let named = request.context_named(&wanted.name, &wanted.platform);
    match named.and_then(|key| request.named_contexts.get(key)) {
        Some(NamedContext::Directory(dir)) => {
            Context::directory(dir, &wanted.name)?;
            return Ok(Pin::Directory(dir.clone()));
        }
        Some(NamedContext::OciLayout { path, target }) => {
            return layout(path, target.as_deref(), wanted).map(|b| Pin::Image(Box::new(b)));
        }
        Some(NamedContext::Image(reference)) => {
            return registry(engine, reference, wanted).map(|b| Pin::Image(Box::new(b)));
        }
        Some(NamedContext::Git(address)) => {
            let keep = address.keep_git_dir == Some(true);
            return once(engine, &Ask::Git(address.clone(), keep), known);
        }
        Some(NamedContext::Http(url)) => return once(engine, &Ask::Http(url.clone(), None), known),
        None => {}
    }
    let reference: Reference =
        wanted.name.parse().map_err(|e: kiln_oci::ReferenceError| Error::input(e.to_string()))?;
    if !request.pull
        && let Some(base) = stored(engine, &reference, wanted)?
    {
        return Ok(Pin::Image(Box::new(base)));
    }
    registry(engine, &reference, wanted).map(|b| Pin::Image(Box::new(b)))
}

/// Looks for an image of that name that was built here.
fn stored(engine: &Engine, reference: &Reference, wanted: &Wanted) -> Result<Option<BaseImage>> {
    let Some(image) = engine.store.find_image(reference)? else { return Ok(None) };
    let Some((document, config)) = engine.store.image_documents(&image.descriptor) else { return Ok(None) };
    // From here on its layers stay, although they may be looked into much later.
    let layers = document.manifest().map(|m| m.layers.as_slice()).unwrap_or_default();
    let lacks = !layers.iter().map(|layer| engine.store.has(layer)).fold(true, |all, one| all & one);
    if lacks && engine.store.find_image(reference)?.is_none() {
        // `kiln prune --all` was quicker.
        return Ok(None);
    }
    let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    if !wanted.platform.accepts(&platform) {
        return Ok(None);
    }
    base(wanted, &document, config, Origin::Store).map(Some)
}

fn registry(engine: &Engine, reference: &Reference, wanted: &Wanted) -> Result<BaseImage> {
    let document = fetch_document(engine, reference)?;
    let document = match document.index() {
        None => document,
        Some(index) => {
            let chosen = choose(index, wanted)?;
            fetch_document(engine, &reference.with_digest(chosen.digest.clone()))?
        }
    };
    let config = {
        let descriptor = &manifest(&document)?.config;
        let bytes = match engine.store.read_blob(descriptor) {
            Some(bytes) => bytes,
            None => {
                if descriptor.size > MAX_CONFIG {
                    return Err(Error::input(format!(
                        "its config has {} bytes, more than {MAX_CONFIG}",
                        descriptor.size
                    )));
                }
                let mut bytes = Vec::new();
                let mut reader = engine.client.blob(reference, descriptor, None)?;
                reader.read_to_end(&mut bytes).map_err(|e| Error::from_io("cannot fetch its config", e))?;
                engine.store.write_blob(descriptor.media_type.as_str(), &bytes)?;
                bytes
            }
        };
        parse_config(&bytes)?
    };
    base(wanted, &document, config, Origin::Registry(reference.with_digest(document.digest().clone())))
}

/// Fetches a manifest or index; what is asked for by digest is taken from the store if it is there.
fn fetch_document(engine: &Engine, reference: &Reference) -> Result<Document> {
    if let Some(digest) = reference.digest()
        && let Some(bytes) = engine.store.read_digest(digest)
        && let Ok(document) = Document::parse(bytes, None)
    {
        return Ok(document);
    }
    if reference.digest().is_none() {
        // A tag costs one request when its manifest is known already, and two when it is not.
        let descriptor = engine.client.resolve(reference)?;
        if let Some(bytes) = engine.store.read_blob(&descriptor)
            && let Ok(document) = Document::parse(bytes, Some(&descriptor.media_type))
        {
            return Ok(document);
        }
    }
    let document = engine.client.document(reference)?;
    engine.store.write_blob(document.descriptor.media_type.as_str(), &document.bytes)?;
    Ok(document)
}

fn choose<'a>(index: &'a Index, wanted: &Wanted) -> Result<&'a Descriptor> {
    kiln_oci::select(&wanted.platform, &index.manifests).ok_or_else(|| {
        let offered: Vec<String> = index
            .manifests
            .iter()
            .filter_map(|m| m.platform.as_ref())
            .filter(|p| p.os != "unknown")
            .map(ToString::to_string)
            .collect();
        Error::input(format!("it has no image for {}", wanted.platform))
            .hint(format!("it is there for: {}", offered.join(", ")))
    })
}

fn manifest(document: &Document) -> Result<&kiln_oci::Manifest> {
    document
        .manifest()
        .ok_or_else(|| Error::input("its index points to another index, which kiln does not follow"))
}

fn parse_config(bytes: &[u8]) -> Result<ImageConfig> {
    serde_json::from_slice(bytes).map_err(|e| Error::input("its config is not an image config").because(e))
}

fn layout(path: &Path, target: Option<&str>, wanted: &Wanted) -> Result<BaseImage> {
    let failed = |what: &str| Error::input(format!("{what} in the OCI layout `{}`", path.display()));
    let read = |digest: &Digest| -> Result<Vec<u8>> {
        let file = path.join("blobs").join(digest.algorithm()).join(digest.hex());
        let bytes = std::fs::read(&file).map_err(|e| failed("a blob is missing").because(e))?;
        if digest.algorithm() == "sha256" && Digest::sha256(&bytes) != *digest {
            return Err(failed(&format!("blob {digest} is damaged")));
        }
        Ok(bytes)
    };
    let bytes = std::fs::read(path.join("index.json")).map_err(|e| {
        failed("there is no `index.json`")
            .because(e)
            .hint("an OCI layout is a directory with `index.json` and `blobs`")
    })?;
    let index: Index =
        serde_json::from_slice(&bytes).map_err(|e| failed("`index.json` is damaged").because(e))?;
    let named = |d: &&Descriptor| match target {
        None => true,
        Some(target) => {
            d.digest.as_str() == target
                || d.annotations.get(crate::store::REF_NAME).is_some_and(|n| n == target)
        }
    };
    let mut found: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
    if found.len() > 1 && found.iter().all(|d| d.platform.is_some()) {
        found = vec![choose(&index, wanted)?];
    }
    let descriptor = match found.as_slice() {
        [one] => (*one).clone(),
        [] => return Err(failed("there is no such image")),
        _ => return Err(failed("there are several images").hint("name one: `oci-layout://DIR:TAG`")),
    };
    let mut document = Document::parse(read(&descriptor.digest)?, Some(&descriptor.media_type))
        .map_err(|e| failed("the manifest is damaged").because(e))?;
    if let Some(inner) = document.index() {
        let chosen = choose(inner, wanted)?.clone();
        document = Document::parse(read(&chosen.digest)?, Some(&chosen.media_type))
            .map_err(|e| failed("the manifest is damaged").because(e))?;
    }
    let config = parse_config(&read(&manifest(&document)?.config.digest)?)?;
    base(wanted, &document, config, Origin::Layout(path.to_owned()))
}

fn base(wanted: &Wanted, document: &Document, config: ImageConfig, origin: Origin) -> Result<BaseImage> {
    let manifest = manifest(document)?;
    if !manifest.config.media_type.as_str().is_empty()
        && ![MediaType::OCI_CONFIG, MediaType::DOCKER_CONFIG].contains(&manifest.config.media_type.as_str())
    {
        return Err(Error::input(format!(
            "it is an artifact of type `{}`, not an image",
            manifest.config.media_type
        )));
    }
    if manifest.layers.len() != config.rootfs.diff_ids.len() {
        return Err(Error::input(format!(
            "its manifest lists {} layers and its config {}",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    let platform = Platform::new(&config.os, &config.architecture, config.variant.as_deref());
    if !config.architecture.is_empty() && !wanted.platform.accepts(&platform) {
        return Err(Error::input(format!("it is for {platform}, and {} is asked for", wanted.platform))
            .hint(format!("build with `--platform {platform}`, or take another image")));
    }
    let layers = manifest.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().cloned()).collect();
    Ok(BaseImage {
        name: wanted.name.clone(),
        digest: document.digest().clone(),
        layers,
        origin,
        config,
        platform: wanted.platform.clone(),
    })
}

/// Opens the contexts that a plan copies from, by name; the build context has the empty name.
pub(crate) fn contexts(main: Context, request: &BuildRequest) -> Result<BTreeMap<String, Context>> {
    let mut contexts = BTreeMap::from([(String::new(), main)]);
    for (name, named) in &request.named_contexts {
        if let NamedContext::Directory(dir) = named {
            contexts.insert(name.clone(), Context::directory(dir, name)?);
        }
    }
    Ok(contexts)
}
