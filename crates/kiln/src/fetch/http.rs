//! Files of web servers: asked for with what is remembered of them, downloaded only when they changed.
//!
//! ```text
//! http/HASH-OF-URL.json   {"url", "etag", "last_modified", "digest", "size"}
//! blobs/sha256/DIGEST     the file
//! ```
//!
//! A file is a blob like any other: verified when it is read, and deleted by `kiln prune`.

use std::io::{Read, Write};

use kiln_oci::{Descriptor, Digest, Hasher, MediaType};
use kiln_remote::{WebAnswer, WebMethod, WebRequest};
use serde::{Deserialize, Serialize};

use super::{Purpose, authorization, failed};
use crate::address::Url;
use crate::engine::{Engine, Transfer};
use crate::error::{Error, FileContext as _, Result};
use crate::graph::HttpFile;

/// How often a download begins anew when it breaks off and the server cannot go on in the middle.
const ATTEMPTS: u32 = 3;

/// The media type of a file whose type is nobody's business.
const FILE: &str = "application/octet-stream";

/// What the store remembers of a URL.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Known {
    /// For people who look into the store; without credentials.
    url: String,
    etag: Option<String>,
    last_modified: Option<i64>,
    /// `Last-Modified` as the server wrote it, to be sent back.
    last_modified_text: Option<String>,
    digest: Digest,
    size: u64,
}

/// Makes the file of `url` a blob of the store, and tells which.
///
/// With a `checksum`, a file that is here is asked for no more, and one that differs is an error.
///
/// # Errors
/// When the server cannot be reached or refuses, or sends another file.
pub(crate) fn file(engine: &Engine, url: &Url, checksum: Option<&Digest>) -> Result<HttpFile> {
    let hash = Digest::sha256(url.reveal().as_bytes());
    let _lock = engine.store.lock(&format!("http-{}", hash.hex()))?;
    let record = engine.store.http_record(&hash);
    let known: Option<Known> =
        std::fs::read(&record).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let known = known.filter(|known| engine.store.has(&descriptor(known)));
    if let Some(wanted) = checksum {
        if let Some(known) = known.as_ref().filter(|known| known.digest == *wanted) {
            return Ok(found(url, known));
        }
        if let Some(known) = headers_only(engine, url, wanted) {
            remember(engine, &record, &known)?;
            return Ok(found(url, &known));
        }
    }
    let fresh = match download(engine, url, known.as_ref(), checksum)? {
        None => known
            .ok_or_else(|| Error::internal("a server said that nothing changed, and nothing was there"))?,
        Some(fresh) => {
            remember(engine, &record, &fresh)?;
            fresh
        }
    };
    check(url, &fresh.digest, checksum)?;
    Ok(found(url, &fresh))
}

/// Returns the descriptor of a file as a blob.
pub(crate) fn blob(file: &HttpFile) -> Descriptor {
    Descriptor::new(MediaType::new(FILE), file.digest.clone(), file.size)
}

fn descriptor(known: &Known) -> Descriptor {
    Descriptor::new(MediaType::new(FILE), known.digest.clone(), known.size)
}

fn found(url: &Url, known: &Known) -> HttpFile {
    HttpFile {
        url: url.clone(),
        digest: known.digest.clone(),
        size: known.size,
        last_modified: known.last_modified,
    }
}

fn remember(engine: &Engine, record: &std::path::Path, known: &Known) -> Result<()> {
    let bytes =
        serde_json::to_vec(known).map_err(|e| Error::internal("cannot write what a URL gave").because(e))?;
    engine.store.replace(record, &bytes)
}

fn check(url: &Url, digest: &Digest, checksum: Option<&Digest>) -> Result<()> {
    match checksum {
        Some(wanted) if wanted != digest => Err(Error::input(format!(
            "`{url}` has the digest {digest}, and `--checksum` says {wanted}"
        ))
        .hint(
            "the file changed, or is not the one that was meant; look at it before you change the checksum",
        )),
        _ => Ok(()),
    }
}

fn request(engine: &Engine, url: &Url, method: WebMethod) -> WebRequest {
    WebRequest {
        operation: "fetch",
        method,
        url: url.reveal().to_owned(),
        headers: Vec::new(),
        authorization: authorization(&engine.grants, url, Purpose::File),
    }
}

/// The content that is asked for is here under another URL: only its time is missing.
fn headers_only(engine: &Engine, url: &Url, wanted: &Digest) -> Option<Known> {
    let path = engine.store.blob_path(wanted).ok()?;
    let size = std::fs::metadata(path).ok()?.len();
    let answer = engine.client.web(&request(engine, url, WebMethod::Head)).ok()?.expect(&[200]).ok()?;
    Some(known(url, &answer, wanted.clone(), size))
}

fn known(url: &Url, answer: &WebAnswer, digest: Digest, size: u64) -> Known {
    Known {
        url: kiln_remote::redact_url(url.reveal()),
        etag: answer.header("etag").map(str::to_owned),
        last_modified: answer.last_modified(),
        last_modified_text: answer.header("last-modified").map(str::to_owned),
        digest,
        size,
    }
}

/// Asks for the file; `None` when it is the one that is known.
fn download(
    engine: &Engine,
    url: &Url,
    before: Option<&Known>,
    checksum: Option<&Digest>,
) -> Result<Option<Known>> {
    let mut request = request(engine, url, WebMethod::Get);
    // A remembered file that is not the one asked for is of no use.
    let before = before.filter(|known| checksum.is_none_or(|wanted| known.digest == *wanted));
    if let Some(before) = before {
        match (&before.etag, &before.last_modified_text) {
            (Some(etag), _) => request.headers.push(("if-none-match".to_owned(), etag.clone())),
            (None, Some(time)) => request.headers.push(("if-modified-since".to_owned(), time.clone())),
            (None, None) => {}
        }
    }
    let mut attempt = 1;
    loop {
        match once(engine, url, &request, before, checksum) {
            Err(error)
                if attempt < ATTEMPTS && error.kind == crate::ErrorKind::Network && broke_off(&error) =>
            {
                engine.cancel.check()?;
                attempt += 1;
            }
            outcome => return outcome,
        }
    }
}

/// The message of a transfer that began and did not end.
const BROKE_OFF: &str = "the transfer broke off";

fn broke_off(error: &Error) -> bool {
    error.message == BROKE_OFF
}

fn once(
    engine: &Engine,
    url: &Url,
    request: &WebRequest,
    before: Option<&Known>,
    checksum: Option<&Digest>,
) -> Result<Option<Known>> {
    let answer = engine.client.web(request).map_err(|e| failed(url, e))?;
    if answer.status == 304 && before.is_some() {
        return Ok(None);
    }
    let answer = answer.expect(&[200]).map_err(|e| failed(url, e))?;
    // Some servers send everything although they know that nothing changed.
    let tag = answer.header("etag").filter(|tag| tag.starts_with('"'));
    if tag.is_some() && tag == before.and_then(|known| known.etag.as_deref()) {
        return Ok(None);
    }
    let announced = answer.header("content-length").and_then(|text| text.parse::<u64>().ok());
    let limit = engine.limits.layer_size;
    let too_large = || {
        Error::input(format!("`{url}` is larger than {limit} bytes"))
            .hint("raise the limit with `--max-layer-size SIZE` if you trust the server")
    };
    if announced.is_some_and(|size| size > limit) {
        return Err(too_large());
    }
    let mut facts = known(url, &answer, Digest::sha256(b""), 0);
    let transfer = Transfer::new(&engine.sink, format!("fetch {url}"), announced);
    let mut reader = answer.reader(Some(transfer.observer()));
    let mut writer = engine.store.writer()?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        engine.cancel.check()?;
        let n = reader.read(&mut buffer).map_err(|e| Error::from_io(BROKE_OFF, e))?;
        if n == 0 {
            break;
        }
        facts.size += n as u64;
        if facts.size > limit {
            return Err(too_large());
        }
        hasher.update(&buffer[..n]);
        writer.write_all(&buffer[..n]).on("write", engine.store.root())?;
    }
    transfer.done();
    facts.digest = hasher.finish();
    // What is not asked for does not enter the store.
    check(url, &facts.digest, checksum)?;
    writer.finish(&descriptor(&facts))?;
    Ok(Some(facts))
}
