//! Uploads of blobs: sessions that grow by `PATCH` and end by `PUT`, single requests, and mounts.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use hyper::{Method, Request, StatusCode};
use tokio::sync::Mutex as Turn;

use kiln_oci::{Digest, Hasher, Verifier};

use super::access::{Action, random_name};
use super::answer::{Answer, DIGEST, empty, failure, set};
use super::content::{Query, blob_key, content_key, parameter};
use super::routes::Service;
use super::storage::Draft;

/// More open uploads than this are refused: somebody does not finish any.
const MOST_SESSIONS: usize = 1000;

/// The uploads that run, by name. One request at a time works on each.
#[derive(Default)]
pub(super) struct Uploads(Mutex<BTreeMap<String, Arc<Turn<Session>>>>);

struct Session {
    repository: String,
    draft: Box<dyn Draft>,
    hasher: Hasher,
    size: u64,
}

impl Uploads {
    fn get(&self, id: &str) -> Option<Arc<Turn<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn remove(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    fn insert(&self, id: &str, session: Session) -> bool {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = sessions.len() < MOST_SESSIONS;
        if room {
            sessions.insert(id.to_owned(), Arc::new(Turn::new(session)));
        }
        room
    }
}

fn created(repository: &str, digest: &Digest) -> Answer {
    let answer = set(empty(StatusCode::CREATED), LOCATION, &format!("/v2/{repository}/blobs/{digest}"));
    set(answer, DIGEST, digest.as_str())
}

fn progress(status: StatusCode, repository: &str, id: &str, size: u64) -> Answer {
    let answer = set(empty(status), LOCATION, &format!("/v2/{repository}/blobs/uploads/{id}"));
    // As the registries in use do, `0-0` stands for nothing as well.
    set(answer, RANGE, &format!("0-{}", size.saturating_sub(1)))
}

fn digest_of(query: &Query) -> Result<Option<Digest>, Box<Answer>> {
    let parsed = parameter(query, "digest").map(str::parse::<Digest>).transpose();
    parsed.map_err(|e| Box::new(failure(StatusCode::BAD_REQUEST, "DIGEST_INVALID", &e.to_string())))
}

impl Service {
    pub(super) async fn begin_upload(
        &self,
        repository: &str,
        query: &Query,
        request: Request<Incoming>,
    ) -> io::Result<Answer> {
        if let (Some(mount), Some(from)) = (parameter(query, "mount"), parameter(query, "from"))
            && let Ok(digest) = mount.parse::<Digest>()
            && let Ok(super::routes::Route::Tags(from)) =
                super::routes::parse(&format!("/v2/{from}/tags/list"))
            && self.has_blob(&from, &digest)?
            && self.may(request.headers(), &from, Action::Pull)
        {
            self.store.write(&blob_key(repository, &digest), b"")?;
            return Ok(created(repository, &digest));
        }
        let digest = match digest_of(query) {
            Ok(digest) => digest,
            Err(answer) => return Ok(*answer),
        };
        let draft = self.store.create()?;
        let mut session =
            Session { repository: repository.to_owned(), draft, hasher: Hasher::new(), size: 0 };
        if let Some(digest) = digest {
            self.take_body(&mut session, request).await?;
            return self.finish(session, &digest);
        }
        let Some(id) = random_name().filter(|id| self.uploads.insert(id, session)) else {
            return Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "TOOMANYREQUESTS", "too many open uploads"));
        };
        Ok(progress(StatusCode::ACCEPTED, repository, &id, 0))
    }

    pub(super) async fn session(
        &self,
        repository: &str,
        id: &str,
        method: &Method,
        query: &Query,
        request: Request<Incoming>,
    ) -> io::Result<Answer> {
        let unknown = || failure(StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        let Some(turn) = self.uploads.get(id) else { return Ok(unknown()) };
        let mut session = turn.lock().await;
        if session.repository != repository {
            return Ok(unknown());
        }
        match *method {
            Method::GET => Ok(progress(StatusCode::NO_CONTENT, repository, id, session.size)),
            Method::DELETE => {
                self.uploads.remove(id);
                Ok(empty(StatusCode::NO_CONTENT))
            }
            Method::PATCH => {
                if let Some(refusal) = self.refuse(&request, &session, id) {
                    return Ok(refusal);
                }
                self.take_body(&mut session, request).await?;
                Ok(progress(StatusCode::ACCEPTED, repository, id, session.size))
            }
            Method::PUT => {
                let digest = match digest_of(query) {
                    Ok(Some(digest)) => digest,
                    Ok(None) => return Ok(failure(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "no digest")),
                    Err(answer) => return Ok(*answer),
                };
                if let Some(refusal) = self.refuse(&request, &session, id) {
                    return Ok(refusal);
                }
                self.take_body(&mut session, request).await?;
                self.uploads.remove(id);
                let ended = std::mem::replace(
                    &mut *session,
                    Session {
                        repository: String::new(),
                        draft: self.store.create()?,
                        hasher: Hasher::new(),
                        size: 0,
                    },
                );
                self.finish(ended, &digest)
            }
            _ => Ok(failure(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "the method is not for uploads")),
        }
    }

    /// Returns why this body is not taken, if so.
    fn refuse(&self, request: &Request<Incoming>, session: &Session, id: &str) -> Option<Answer> {
        let header = |name| {
            request.headers().get(name).and_then(|value: &hyper::header::HeaderValue| value.to_str().ok())
        };
        let length = header(CONTENT_LENGTH).and_then(|text| text.parse::<u64>().ok());
        if self.faults(|faults| faults.refuse_streams) {
            let range = header(CONTENT_RANGE).is_some();
            if length.is_none() {
                return Some(failure(StatusCode::LENGTH_REQUIRED, "UNSUPPORTED", "the length is required"));
            }
            if length != Some(0) && !range {
                return Some(failure(StatusCode::PAYLOAD_TOO_LARGE, "UNSUPPORTED", "only pieces are taken"));
            }
        }
        let range = header(CONTENT_RANGE)?;
        let bounds =
            range.split_once('-').and_then(|(a, b)| Some((a.parse::<u64>().ok()?, b.parse::<u64>().ok()?)));
        let fits = bounds.is_some_and(|(start, last)| {
            start == session.size
                && length.is_none_or(|length| last.checked_sub(start) == length.checked_sub(1))
        });
        if fits {
            return None;
        }
        let size = session.size;
        let answer =
            failure(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", "the range does not follow");
        let answer = set(answer, LOCATION, &format!("/v2/{}/blobs/uploads/{id}", session.repository));
        Some(set(answer, RANGE, &format!("0-{}", size.saturating_sub(1))))
    }

    /// Adds a request's body to an upload. What came before a failure stays.
    async fn take_body(&self, session: &mut Session, request: Request<Incoming>) -> io::Result<()> {
        let mut body = request.into_body();
        let mut taken = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(io::Error::other)?.into_data() else { continue };
            session.draft.append(&data)?;
            session.hasher.update(&data);
            session.size += data.len() as u64;
            taken += data.len() as u64;
            let cut = self.faults(|faults| {
                let due = faults.drop_upload_after.is_some_and(|after| taken >= after);
                due.then(|| faults.drop_upload_after.take()).is_some()
            });
            if cut {
                return Err(io::Error::other("cut on request"));
            }
        }
        Ok(())
    }

    fn finish(&self, session: Session, digest: &Digest) -> io::Result<Answer> {
        let invalid = || failure(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "the content has another digest");
        if digest.algorithm() == "sha256" {
            if session.hasher.finish() != *digest {
                return Ok(invalid());
            }
        } else {
            let mut verifier = Verifier::new(session.draft.reread()?, digest.clone(), session.size);
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match verifier.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(invalid()),
                    Err(error) => return Err(error),
                }
            }
        }
        session.draft.commit(&content_key(digest))?;
        self.store.write(&blob_key(&session.repository, digest), b"")?;
        if self.faults(|faults| std::mem::take(&mut faults.lose_answer)) {
            return Err(io::Error::other("cut on request"));
        }
        Ok(created(&session.repository, digest))
    }
}
