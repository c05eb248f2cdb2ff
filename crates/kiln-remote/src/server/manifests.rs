//! Manifests: stored as blobs with a media type, found by digest, tag and subject.

use std::io;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use kiln_oci::{Descriptor, Digest, Document, MediaType};

use super::answer::{Answer, DIGEST, Reply, empty, failure, json, set};
use super::content::{Query, content_key, parameter};
use super::routes::{Service, Target, read};

/// Twice what the specification has every registry take.
const LIMIT: usize = 8 << 20;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

fn manifest_key(repository: &str, digest: &Digest) -> String {
    format!("repositories/{repository}/_manifests/{}/{}", digest.algorithm(), digest.hex())
}

fn tag_key(repository: &str, tag: &str) -> String {
    format!("repositories/{repository}/_tags/{tag}")
}

fn referrers_key(repository: &str, subject: &Digest) -> String {
    format!("repositories/{repository}/_referrers/{}-{}", subject.algorithm(), subject.hex())
}

fn unknown() -> Answer {
    failure(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", "manifest unknown")
}

fn invalid(message: &str) -> Answer {
    failure(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message)
}

impl Service {
    fn find(&self, repository: &str, target: &Target) -> io::Result<Option<(Digest, String)>> {
        let digest = match target {
            Target::Digest(digest) => Some(digest.clone()),
            Target::Tag(tag) => {
                let text = self.store.read(&tag_key(repository, tag))?;
                text.and_then(|text| String::from_utf8(text).ok()?.parse().ok())
            }
        };
        let Some(digest) = digest else { return Ok(None) };
        let media_type = self.store.read(&manifest_key(repository, &digest))?;
        Ok(media_type.and_then(|text| String::from_utf8(text).ok()).map(|media_type| (digest, media_type)))
    }

    pub(super) fn get_manifest(
        &self,
        repository: &str,
        target: &Target,
        method: &Method,
    ) -> io::Result<Answer> {
        let Some((digest, media_type)) = self.find(repository, target)? else { return Ok(unknown()) };
        let Some(content) = self.store.read(&content_key(&digest))? else { return Ok(unknown()) };
        let size = content.len();
        let head = *method == Method::HEAD;
        let body = if head { Bytes::new() } else { Bytes::from(content) };
        let mut answer = Response::new(Reply::Bytes(body));
        answer = set(answer, CONTENT_TYPE, &media_type);
        answer = set(answer, CONTENT_LENGTH, &size.to_string());
        if !(head && self.faults(|faults| faults.no_head_digest)) {
            answer = set(answer, DIGEST, digest.as_str());
        }
        Ok(answer)
    }

    pub(super) async fn put_manifest(
        &self,
        repository: &str,
        target: &Target,
        request: Request<Incoming>,
    ) -> io::Result<Answer> {
        let said =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(MediaType::new);
        let Some(content) = read(request.into_body(), LIMIT).await? else {
            return Ok(failure(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", "manifest is too large"));
        };
        let document = match Document::parse(content, said.as_ref()) {
            Ok(document) => document,
            Err(error) => return Ok(invalid(&error.to_string())),
        };
        let digest = document.digest().clone();
        if let Target::Digest(wanted) = target
            && *wanted != digest
        {
            return Ok(failure(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the content has another digest"));
        }
        if let Some(missing) = self.missing(repository, &document)? {
            let message = format!("`{missing}` is not in the repository");
            return Ok(failure(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", &message));
        }
        self.store.write(&content_key(&digest), &document.bytes)?;
        let media_type = document.descriptor.media_type.as_str();
        self.store.write(&manifest_key(repository, &digest), media_type.as_bytes())?;
        let subject = self.note_subject(repository, &document)?;
        if let Target::Tag(tag) = target {
            self.store.write(&tag_key(repository, tag), digest.as_str().as_bytes())?;
        }
        let mut answer = empty(StatusCode::CREATED);
        answer = set(answer, LOCATION, &format!("/v2/{repository}/manifests/{digest}"));
        answer = set(answer, DIGEST, digest.as_str());
        Ok(match subject {
            Some(subject) => set(answer, SUBJECT, subject.as_str()),
            None => answer,
        })
    }

    /// Returns the first content that the document needs and the repository does not have.
    fn missing(&self, repository: &str, document: &Document) -> io::Result<Option<Digest>> {
        if let Some(manifest) = document.manifest() {
            let here = |d: &&Descriptor| !d.media_type.is_foreign() && d.urls.is_empty();
            for blob in manifest.layers.iter().filter(here).chain([&manifest.config]) {
                if !self.has_blob(repository, &blob.digest)? {
                    return Ok(Some(blob.digest.clone()));
                }
            }
        }
        for child in document.index().into_iter().flat_map(|index| &index.manifests) {
            if self.store.read(&manifest_key(repository, &child.digest))?.is_none() {
                return Ok(Some(child.digest.clone()));
            }
        }
        Ok(None)
    }

    fn note_subject(&self, repository: &str, document: &Document) -> io::Result<Option<Digest>> {
        let value: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
        let subject = value.get("subject").and_then(|subject| subject.get("digest")).and_then(Value::as_str);
        let Some(subject) = subject.and_then(|text| text.parse::<Digest>().ok()) else { return Ok(None) };
        let descriptor = &document.descriptor;
        let config_type = value.pointer("/config/mediaType").cloned();
        let artifact_type = value.get("artifactType").cloned().or(config_type);
        let mut entry = json!({
            "mediaType": descriptor.media_type,
            "digest": descriptor.digest,
            "size": descriptor.size,
        });
        for (name, field) in
            [("artifactType", artifact_type), ("annotations", value.get("annotations").cloned())]
        {
            if let Some(field) = field {
                entry[name] = field;
            }
        }
        let digest = &descriptor.digest;
        let key = format!("{}/{}-{}", referrers_key(repository, &subject), digest.algorithm(), digest.hex());
        self.store.write(&key, entry.to_string().as_bytes())?;
        Ok(Some(subject))
    }

    pub(super) fn referrers(&self, repository: &str, subject: &Digest, query: &Query) -> io::Result<Answer> {
        let wanted = parameter(query, "artifactType");
        let mut manifests: Vec<Value> = Vec::new();
        let below = referrers_key(repository, subject);
        for name in self.store.list(&below)? {
            let text = self.store.read(&format!("{below}/{name}"))?;
            manifests.extend(text.and_then(|text| serde_json::from_slice(&text).ok()));
        }
        manifests.retain(|entry| wanted.is_none_or(|wanted| entry["artifactType"].as_str() == Some(wanted)));
        let index = json!({ "schemaVersion": 2, "mediaType": MediaType::OCI_INDEX, "manifests": manifests });
        let answer = set(json(StatusCode::OK, &index), CONTENT_TYPE, MediaType::OCI_INDEX);
        Ok(if wanted.is_some() { set(answer, FILTERS, "artifactType") } else { answer })
    }

    pub(super) fn delete_manifest(&self, repository: &str, target: &Target) -> io::Result<Answer> {
        let gone = match target {
            Target::Tag(tag) => self.store.remove(&tag_key(repository, tag))?,
            Target::Digest(digest) => self.forget(repository, digest)?,
        };
        Ok(if gone { empty(StatusCode::ACCEPTED) } else { unknown() })
    }

    /// Takes a manifest out of the repository, with the tags and the referrer's entry that lead to it.
    fn forget(&self, repository: &str, digest: &Digest) -> io::Result<bool> {
        for tag in self.store.list(&format!("repositories/{repository}/_tags"))? {
            let key = tag_key(repository, &tag);
            if self.store.read(&key)?.as_deref() == Some(digest.as_str().as_bytes()) {
                self.store.remove(&key)?;
            }
        }
        let referrers = format!("repositories/{repository}/_referrers");
        for subject in self.store.list(&referrers)? {
            self.store.remove(&format!("{referrers}/{subject}/{}-{}", digest.algorithm(), digest.hex()))?;
        }
        self.store.remove(&manifest_key(repository, digest))
    }
}
