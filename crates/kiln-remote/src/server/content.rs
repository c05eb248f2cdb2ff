//! Blobs that are there, tags, and the catalogue.

use std::io;

use hyper::body::Incoming;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LINK, LOCATION, RANGE};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::json;

use kiln_oci::Digest;

use super::answer::{Answer, DIGEST, Reply, empty, failure, json, set};
use super::routes::Service;

/// Entries of a list where the request names no number.
const PAGE: usize = 1000;

pub(super) type Query = [(String, String)];

pub(super) fn parameter<'q>(query: &'q Query, name: &str) -> Option<&'q str> {
    query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

pub(super) fn content_key(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

pub(super) fn blob_key(repository: &str, digest: &Digest) -> String {
    format!("repositories/{repository}/_blobs/{}/{}", digest.algorithm(), digest.hex())
}

impl Service {
    pub(super) fn has_blob(&self, repository: &str, digest: &Digest) -> io::Result<bool> {
        Ok(self.store.read(&blob_key(repository, digest))?.is_some())
    }

    pub(super) fn get_blob(
        &self,
        repository: &str,
        digest: &Digest,
        request: &Request<Incoming>,
    ) -> io::Result<Answer> {
        let unknown = || failure(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to repository");
        if !self.has_blob(repository, digest)? {
            return Ok(unknown());
        }
        let whole = *request.method() == Method::GET;
        let (redirect, ignore_ranges) =
            self.faults(|faults| (faults.redirect_blobs.clone().filter(|_| whole), faults.ignore_ranges));
        if let Some(base) = redirect {
            let location = format!("{base}{}", request.uri().path());
            return Ok(set(empty(StatusCode::TEMPORARY_REDIRECT), LOCATION, &location));
        }
        let asked = request.headers().get(RANGE).filter(|_| whole && !ignore_ranges);
        let asked = asked.and_then(|value| value.to_str().ok()).and_then(parse_range);
        let start = asked.map_or(0, |(start, _)| start);
        let Some((content, size)) = self.store.open(&content_key(digest), start)? else {
            return Ok(unknown());
        };
        let end = asked.and_then(|(_, last)| last).map_or(size, |last| last.saturating_add(1).min(size));
        if asked.is_some() && start >= end {
            let answer =
                failure(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", "the range is past the end");
            return Ok(set(answer, CONTENT_RANGE, &format!("bytes */{size}")));
        }
        let left = end - start;
        let body = if whole {
            let (breaks, corrupt) =
                self.faults(|faults| (faults.drop_blob_after.take(), faults.corrupt_blobs));
            Reply::Content { content, left, breaks, corrupt }
        } else {
            Reply::Bytes(bytes::Bytes::new())
        };
        let mut answer = Response::new(body);
        answer = set(answer, CONTENT_TYPE, "application/octet-stream");
        answer = set(answer, CONTENT_LENGTH, &left.to_string());
        answer = set(answer, DIGEST, digest.as_str());
        answer = set(answer, ACCEPT_RANGES, "bytes");
        if asked.is_some() {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            answer = set(answer, CONTENT_RANGE, &format!("bytes {start}-{}/{size}", end - 1));
        }
        Ok(answer)
    }

    /// Takes the blob out of the repository. Its content stays, for others may have it.
    pub(super) fn delete_blob(&self, repository: &str, digest: &Digest) -> io::Result<Answer> {
        Ok(if self.store.remove(&blob_key(repository, digest))? {
            empty(StatusCode::ACCEPTED)
        } else {
            failure(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "blob unknown to repository")
        })
    }

    pub(super) fn tags(&self, repository: &str, query: &Query) -> io::Result<Answer> {
        if self.store.list(&format!("repositories/{repository}/_manifests"))?.is_empty() {
            return Ok(failure(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "repository unknown"));
        }
        let tags = self.store.list(&format!("repositories/{repository}/_tags"))?;
        let (page, more) = page_of(tags, query);
        let answer = json(StatusCode::OK, &json!({ "name": repository, "tags": page }));
        Ok(link(answer, &format!("/v2/{repository}/tags/list"), &page, more, query))
    }

    pub(super) fn catalog(&self, query: &Query) -> io::Result<Answer> {
        let mut found = Vec::new();
        let mut below = vec![String::new()];
        while let Some(name) = below.pop() {
            let prefix =
                if name.is_empty() { "repositories".to_owned() } else { format!("repositories/{name}") };
            for entry in self.store.list(&prefix)? {
                if entry == "_manifests" {
                    found.push(name.clone());
                } else if !entry.starts_with('_') {
                    below.push(if name.is_empty() { entry } else { format!("{name}/{entry}") });
                }
            }
        }
        found.sort_unstable();
        let (page, more) = page_of(found, query);
        let answer = json(StatusCode::OK, &json!({ "repositories": page }));
        Ok(link(answer, "/v2/_catalog", &page, more, query))
    }
}

fn page_size(query: &Query) -> usize {
    parameter(query, "n").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE)
}

/// Returns the part of a sorted list that the query asks for, and whether there is more.
fn page_of(names: Vec<String>, query: &Query) -> (Vec<String>, bool) {
    let last = parameter(query, "last").unwrap_or_default().to_owned();
    let mut rest = names.into_iter().filter(|name| *name > last);
    let page: Vec<String> = rest.by_ref().take(page_size(query)).collect();
    (page, rest.next().is_some())
}

fn link(answer: Answer, path: &str, page: &[String], more: bool, query: &Query) -> Answer {
    match page.last().filter(|_| more) {
        Some(last) => {
            set(answer, LINK, &format!("<{path}?last={last}&n={}>; rel=\"next\"", page_size(query)))
        }
        None => answer,
    }
}

/// Reads `bytes=A-` and `bytes=A-B`; anything else is answered with everything, as HTTP allows.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (start, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
    Some((start.parse().ok()?, last))
}
