//! Writing to registries, except for the content of blobs: existence, mounts, manifests, deletion.

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};

use kiln_oci::{Descriptor, Digest, Document, Reference};

use super::Shared;
use super::auth::{self, Scopes};
use super::call::{Address, Trust};
use super::location;
use super::pull::{accept_documents, asked, check_digest, descriptor_of};
use crate::error::{Error, ErrorKind};

impl Shared {
    pub(crate) async fn exists(&self, target: &Reference, digest: &Digest) -> Result<bool, Error> {
        let asked = asked("check blob", target, digest.as_str());
        let place = self.origin(target)?;
        let mut call = place.call(&asked, Method::HEAD, &format!("blobs/{digest}"));
        // The upload that follows needs the same token.
        call.scopes = Scopes::push(&place.repository);
        let answer = self.send(&place.host, &call).await?;
        match answer.status() {
            StatusCode::OK => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.failure(&call.asked, answer).await),
        }
    }

    pub(crate) async fn names_document(&self, target: &Reference, document: &Digest) -> Result<bool, Error> {
        let name = target.tag().unwrap_or(document.as_str());
        let asked = asked("check manifest", target, name);
        let place = self.origin(target)?;
        let mut call = place.call(&asked, Method::HEAD, &format!("manifests/{name}"));
        accept_documents(&mut call.headers);
        // The upload that may follow needs the same token.
        call.scopes = Scopes::push(&place.repository);
        let answer = self.send(&place.host, &call).await?;
        // Whatever else the registry says, the push that follows finds out, and reports it as what it is.
        if answer.status() != StatusCode::OK {
            return Ok(false);
        }
        Ok(descriptor_of(answer.headers()).is_some_and(|found| found.digest == *document))
    }

    pub(crate) async fn mount(
        &self,
        target: &Reference,
        digest: &Digest,
        from: &Reference,
    ) -> Result<bool, Error> {
        if target.registry() != from.registry() || target.repository() == from.repository() {
            return Ok(false);
        }
        let asked = asked("mount blob into", target, digest.as_str());
        let place = self.origin(target)?;
        let query = auth::form(&[("mount", digest.as_str()), ("from", from.repository())]);
        let mut call = place.call(&asked, Method::POST, &format!("blobs/uploads/?{query}"));
        call.scopes = Scopes::push(&place.repository).and(&Scopes::pull(from.repository()));
        let answer = match self.send(&place.host, &call).await {
            Ok(answer) => answer,
            // A token server may refuse the second repository; uploading needs only the first.
            Err(error @ Error::Token { .. })
                if matches!(error.kind(), ErrorKind::Denied | ErrorKind::Unauthorized) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        match answer.status() {
            StatusCode::CREATED => Ok(true),
            StatusCode::ACCEPTED => {
                if let Some(session) = location::session(&answer.url, answer.headers()) {
                    call.method = Method::DELETE;
                    call.address = Address::Url(session.clone());
                    call.attempts = 1;
                    call.trust = if location::same_server(&session, &answer.url) {
                        Trust::Host
                    } else {
                        Trust::Nobody
                    };
                    // The registry began an upload instead; when it cannot be ended, it ends by itself.
                    drop(self.send(&place.host, &call).await);
                }
                Ok(false)
            }
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => Ok(false),
            _ => Err(self.failure(&call.asked, answer).await),
        }
    }

    pub(crate) async fn put_document(
        &self,
        target: &Reference,
        document: &Document,
    ) -> Result<Descriptor, Error> {
        let name = target.tag().unwrap_or(document.digest().as_str());
        let asked = asked("push manifest", target, name);
        check_digest(&asked, target.digest(), document.digest())?;
        let place = self.origin(target)?;
        let mut call = place.call(&asked, Method::PUT, &format!("manifests/{name}"));
        call.scopes = Scopes::push(&place.repository);
        call.body = Bytes::copy_from_slice(&document.bytes);
        let media_type = HeaderValue::from_str(document.descriptor.media_type.as_str())
            .map_err(|_| call.protocol("the media type is no header value"))?;
        call.headers.insert(CONTENT_TYPE, media_type);
        let expected = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
        let answer = self.ask(&place.host, &call, &expected).await?;
        let stored = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        if let Some(stored) = stored.and_then(|text| text.parse::<Digest>().ok()) {
            check_digest(&call.asked, Some(document.digest()), &stored)?;
        }
        Ok(document.descriptor.clone())
    }

    pub(crate) async fn delete(&self, reference: &Reference) -> Result<(), Error> {
        let asked = asked("delete manifest", reference, reference.target());
        let place = self.origin(reference)?;
        let mut call = place.call(&asked, Method::DELETE, &format!("manifests/{}", reference.target()));
        call.scopes = Scopes::delete(&place.repository);
        self.ask(&place.host, &call, &[StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT]).await?;
        Ok(())
    }
}
