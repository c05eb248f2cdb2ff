//! Requests to token servers: by user name and password, by identity token (OAuth 2), or anonymously.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};

use super::auth::{self, Scopes, TokenAnswer};
use super::body::Body;
use super::transport::Host;
use super::{Shared, location};
use crate::error::{Asked, Error, Login, parse_faults};
use crate::{Credential, Secret};

/// A token is a few kilobytes, with a chain of certificates in it some dozen.
const ANSWER_LIMIT: usize = 256 * 1024;
/// How the client names itself to OAuth 2 servers.
const CLIENT_ID: &str = "kiln";

impl Shared {
    /// Returns a token of `host` for `scopes`, kept or fetched; `more` is what the registry asked for besides.
    pub(crate) async fn token(
        &self,
        host: &Arc<Host>,
        asked: &Asked,
        realm: &str,
        service: &str,
        scopes: &Scopes,
        more: &Scopes,
    ) -> Result<(Secret, Login), Error> {
        let _one_at_a_time = host.auth.fetching.lock().await;
        let credential = self.credential(&host.name, asked).await?;
        let login = if credential.is_some() { Login::Credentials } else { Login::Anonymous };
        if let Some(Credential::RegistryToken(token)) = credential {
            return Ok((token, login));
        }
        if let Some(token) = host.auth.token(scopes) {
            return Ok((token, login));
        }
        let wanted = scopes.clone().and(more);
        let request = token_request(realm, service, &wanted, credential.as_ref());
        let request = request.ok_or_else(|| Error::Protocol {
            asked: asked.clone().into(),
            reason: format!("token server `{}` is not a URL", crate::redact_url(realm)),
        })?;
        let server = self.server_of(request.uri(), asked)?;
        let response = server.exchange(request, None).await.map_err(|f| f.error(asked, &server.name))?;
        let status = response.status();
        let body = self.read(response, ANSWER_LIMIT).await.map_err(|f| f.error(asked))?;
        if status != StatusCode::OK {
            let (faults, body) = parse_faults(&body);
            let (asked, realm) = (asked.clone(), crate::redact_url(realm));
            return Err(Error::Token {
                asked: asked.into(),
                realm,
                status: status.as_u16(),
                faults,
                body,
                login,
            });
        }
        let answer = serde_json::from_slice::<TokenAnswer>(&body).ok().and_then(TokenAnswer::into_parts);
        let (token, life) = answer.ok_or_else(|| Error::Protocol {
            asked: asked.clone().into(),
            reason: format!("the answer of token server `{}` holds no token", crate::redact_url(realm)),
        })?;
        host.auth.keep(scopes.clone(), token.clone(), life);
        Ok((token, login))
    }

    /// Looks credentials up without holding up the connections: a helper may take seconds.
    pub(crate) async fn credential(&self, host: &str, asked: &Asked) -> Result<Option<Credential>, Error> {
        let credentials = Arc::clone(&self.config.credentials);
        let (host, repository) = (host.to_owned(), asked.repository.clone());
        let lookup = tokio::task::spawn_blocking(move || credentials.get(&host, &repository));
        match lookup.await {
            Ok(found) => found.map_err(|source| Error::Credentials {
                asked: asked.clone().into(),
                source: Arc::new(source),
            }),
            Err(_) => Err(Error::Cancelled),
        }
    }
}

fn token_request(
    realm: &str,
    service: &str,
    scopes: &Scopes,
    credential: Option<&Credential>,
) -> Option<Request<Body>> {
    let realm: Uri = realm.parse().ok()?;
    realm.host()?;
    let mut request = Request::new(Body::Bytes(Bytes::new()));
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(Credential::IdentityToken(token)) = credential {
        let form = auth::form(&[
            ("grant_type", "refresh_token"),
            ("service", service),
            ("client_id", CLIENT_ID),
            ("scope", &scopes.to_string()),
            ("refresh_token", token.reveal()),
        ]);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = realm;
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        request.headers_mut().insert(CONTENT_TYPE, form_type);
        *request.body_mut() = Body::Bytes(Bytes::from(form));
        return Some(request);
    }
    let texts = scopes.texts();
    let mut pairs = vec![("client_id", CLIENT_ID)];
    if !service.is_empty() {
        pairs.push(("service", service));
    }
    // One parameter for each scope: servers split none of them at blanks.
    pairs.extend(texts.iter().map(|text| ("scope", text.as_str())));
    *request.uri_mut() = location::with_query(&realm, &auth::form(&pairs))?;
    if let Some(Credential::Basic { username, password }) = credential {
        request.headers_mut().insert(AUTHORIZATION, auth::basic(username, password.reveal()));
    }
    Some(request)
}
