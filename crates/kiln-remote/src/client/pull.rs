//! Reading from registries: manifests, their descriptors, and tags.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use kiln_oci::{Descriptor, Digest, Document, MediaType, Reference, Verifier};

use super::auth::Scopes;
use super::call::{Address, Answer, Call, Trust};
use super::transport::{Host, Lane};
use super::{Notice, Shared, location};
use crate::error::{Asked, Error, ErrorKind};
use crate::hosts::{Endpoint, Role};

/// The size that the distribution specification lets registries refuse at.
const DOCUMENT_LIMIT: usize = 4 << 20;
/// A page of tags; what registries send at most is smaller.
const TAGS_LIMIT: usize = 4 << 20;
/// With a thousand tags a page, nobody has as many.
const PAGES: usize = 1000;
/// A mirror is an optimisation: it gets fewer chances than the registry itself.
const MIRROR_ATTEMPTS: u32 = 2;

const DIGEST_HEADER: &str = "docker-content-digest";

/// One of the hosts that may have what a reference names.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) host: Arc<Host>,
    /// The repository as this host names it.
    pub(crate) repository: String,
    pub(crate) attempts: u32,
}

impl Place {
    pub(crate) fn call(&self, asked: &Asked, method: Method, path: &str) -> Call {
        Call {
            asked: Asked { host: self.host.name.clone(), ..asked.clone() },
            method,
            address: Address::Path(format!("/v2/{}/{path}", self.repository)),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            scopes: Scopes::pull(&self.repository),
            lane: Lane::Request,
            attempts: self.attempts,
            trust: Trust::Host,
        }
    }
}

pub(crate) fn asked(operation: &'static str, reference: &Reference, target: &str) -> Asked {
    Asked {
        operation,
        registry: reference.registry().to_owned(),
        host: reference.registry().to_owned(),
        repository: reference.repository().to_owned(),
        target: target.to_owned(),
    }
}

impl Shared {
    pub(crate) fn place(&self, reference: &Reference, endpoint: &Endpoint) -> Result<Place, Error> {
        let attempts = self.config.retries.attempts.max(1);
        Ok(Place {
            host: self.host(&endpoint.host)?,
            repository: format!("{}{}", endpoint.prefix, reference.repository()),
            attempts: match endpoint.role {
                Role::Mirror => attempts.min(MIRROR_ATTEMPTS),
                Role::Origin => attempts,
            },
        })
    }

    /// Returns the registry itself, where writes go.
    pub(crate) fn origin(&self, reference: &Reference) -> Result<Place, Error> {
        self.place(reference, &Endpoint::origin(reference.registry()))
    }

    /// Asks mirrors and the registry in order; the first success counts, else the registry's own failure.
    pub(crate) async fn anywhere<T>(
        &self,
        reference: &Reference,
        ask: impl AsyncFn(&Place) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for endpoint in self.config.hosts.endpoints(reference.registry()) {
            let place = self.place(reference, &endpoint)?;
            if endpoint.role == Role::Mirror && place.host.rests() {
                continue;
            }
            match (ask(&place).await, endpoint.role) {
                (Err(error), Role::Mirror) => {
                    if matches!(error.kind(), ErrorKind::Network | ErrorKind::Tls) {
                        place.host.rest();
                    }
                    self.notice(Notice::MirrorFailed { error });
                }
                (outcome, _) => return outcome,
            }
        }
        // The list of endpoints always ends with the origin.
        Err(Error::Protocol {
            asked: asked("reach", reference, reference.target()).into(),
            reason: "no host is configured".to_owned(),
        })
    }

    pub(crate) async fn resolve(&self, reference: &Reference) -> Result<Descriptor, Error> {
        let asked = asked("resolve manifest", reference, reference.target());
        self.anywhere(reference, async |place| {
            let mut call = place.call(&asked, Method::HEAD, &format!("manifests/{}", reference.target()));
            accept_documents(&mut call.headers);
            let answer = self.send(&place.host, &call).await?;
            let headless = matches!(answer.status().as_u16(), 400 | 405 | 501);
            if !headless && answer.status() != StatusCode::OK {
                return Err(self.failure(&call.asked, answer).await);
            }
            match descriptor_of(answer.headers()).filter(|_| !headless) {
                Some(descriptor) => {
                    check_digest(&call.asked, reference.digest(), &descriptor.digest)?;
                    Ok(descriptor)
                }
                None => Ok(self.document_at(place, reference).await?.descriptor),
            }
        })
        .await
    }

    pub(crate) async fn document(&self, reference: &Reference) -> Result<Document, Error> {
        self.anywhere(reference, async |place| self.document_at(place, reference).await).await
    }

    async fn document_at(&self, place: &Place, reference: &Reference) -> Result<Document, Error> {
        let asked = asked("fetch manifest", reference, reference.target());
        let mut call = place.call(&asked, Method::GET, &format!("manifests/{}", reference.target()));
        accept_documents(&mut call.headers);
        let (answer, bytes) = self.fetch(&place.host, &call, DOCUMENT_LIMIT).await?;
        let said = text_of(&answer, CONTENT_TYPE.as_str()).map(MediaType::new);
        // Some servers say no more than that it is JSON; then the document speaks for itself.
        let said = said.filter(|said| said.is_index() || said.is_manifest());
        let promised = text_of(&answer, DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
        let wanted = reference.digest().or(promised.as_ref());
        if let Some(wanted) = wanted {
            verify(&call.asked, &bytes, wanted)?;
        }
        let mut document = Document::parse(bytes, said.as_ref()).map_err(|source| Error::Document {
            asked: call.asked.clone().into(),
            source: Arc::new(source),
        })?;
        if let Some(wanted) = wanted {
            // The same content, under the algorithm that was asked for.
            document.descriptor.digest = wanted.clone();
        }
        Ok(document)
    }

    pub(crate) async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let asked = asked("list tags of", reference, "");
        // A mirror knows the tags that it was asked for, which may not be all.
        let place = self.origin(reference)?;
        let mut call = place.call(&asked, Method::GET, "tags/list?n=1000");
        let mut tags = Vec::new();
        for _ in 0..PAGES {
            let (answer, bytes) = self.fetch(&place.host, &call, TAGS_LIMIT).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|_| call.protocol("the list of tags is not JSON"))?;
            tags.extend(page.tags.unwrap_or_default());
            match location::next_page(&answer.url, &answer.headers) {
                None => break,
                Some(next) if location::same_server(&next, &answer.url) => call.address = Address::Url(next),
                Some(_) => return Err(call.protocol("the list of tags goes on at another host")),
            }
        }
        Ok(tags)
    }

    /// Fetches a small body whole, trying again where it breaks off.
    async fn fetch(&self, host: &Arc<Host>, call: &Call, limit: usize) -> Result<(Head, Vec<u8>), Error> {
        let mut failures = 0;
        loop {
            let answer = self.ask(host, call, &[StatusCode::OK]).await?;
            let Answer { response, url, slot: _slot, .. } = answer;
            let too_large = || Error::TooLarge { asked: call.asked.clone().into(), limit };
            let head = Head { url, headers: response.headers().clone() };
            let announced = text_of(&head, CONTENT_LENGTH.as_str()).and_then(|text| text.parse::<u64>().ok());
            if announced.is_some_and(|length| length > limit as u64) {
                return Err(too_large());
            }
            // One byte more tells a document that is too large from one that just fits.
            match self.read(response, limit + 1).await {
                Ok(bytes) if bytes.len() > limit => return Err(too_large()),
                Ok(bytes) => return Ok((head, bytes)),
                Err(failure) => {
                    failures += 1;
                    let error = failure.error(&call.asked);
                    if failures >= call.attempts {
                        return Err(error);
                    }
                    self.pause(error, failures, None).await;
                }
            }
        }
    }
}

/// An answer without its body.
struct Head {
    url: hyper::Uri,
    headers: HeaderMap,
}

fn text_of<'h>(head: &'h Head, name: &str) -> Option<&'h str> {
    head.headers.get(name)?.to_str().ok()
}

pub(crate) fn accept_documents(headers: &mut HeaderMap) {
    for media_type in MediaType::MANIFESTS {
        headers.append(ACCEPT, HeaderValue::from_static(media_type));
    }
}

/// Reads a descriptor off the headers of a `HEAD`, when they say everything.
pub(crate) fn descriptor_of(headers: &HeaderMap) -> Option<Descriptor> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let media_type = MediaType::new(text(CONTENT_TYPE.as_str())?);
    if !media_type.is_index() && !media_type.is_manifest() {
        return None;
    }
    let digest = text(DIGEST_HEADER)?.parse().ok()?;
    let size = text(CONTENT_LENGTH.as_str())?.parse().ok().filter(|size| *size > 0)?;
    Some(Descriptor::new(media_type, digest, size))
}

/// Fails when the registry names another digest than the one asked for.
pub(crate) fn check_digest(asked: &Asked, wanted: Option<&Digest>, found: &Digest) -> Result<(), Error> {
    match wanted {
        // Another algorithm is another name for what may be the same content.
        Some(wanted) if wanted.algorithm() == found.algorithm() && wanted != found => Err(Error::Digest {
            asked: asked.clone().into(),
            found: found.to_string(),
            expected: wanted.to_string(),
        }),
        _ => Ok(()),
    }
}

fn verify(asked: &Asked, bytes: &[u8], wanted: &Digest) -> Result<(), Error> {
    let mut verifier = Verifier::new(bytes, wanted.clone(), bytes.len() as u64);
    let mut sink = [0; 16 * 1024];
    loop {
        match verifier.read(&mut sink) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(_) => {
                let found = Digest::sha256(bytes).to_string();
                return Err(Error::Digest {
                    asked: asked.clone().into(),
                    found,
                    expected: wanted.to_string(),
                });
            }
        }
    }
}
