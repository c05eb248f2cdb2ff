//! Smart HTTP over a client that the caller brings.
//!
//! A request is collected, sent when its answer is first read, and its answer streamed: what a shallow fetch sends
//! is small, what it gets is not.

use std::any::Any;
use std::io::{self, BufRead, Cursor, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};

/// An HTTP client.
///
/// Headers are whole lines, `name: value`. A status of 401 or 403 is [`io::ErrorKind::PermissionDenied`], one of 404
/// [`io::ErrorKind::NotFound`], any other but 200 another error. Redirects of a GET are followed; whether credentials
/// go along is the client's decision.
pub trait Web: Send + Sync {
    /// Sends a GET.
    ///
    /// # Errors
    /// When there is no answer, or not the status 200.
    fn get(&self, url: &str, headers: &[String]) -> io::Result<Answer>;

    /// Sends a POST.
    ///
    /// # Errors
    /// When there is no answer, or not the status 200.
    fn post(&self, url: &str, headers: &[String], body: Vec<u8>) -> io::Result<Answer>;
}

/// An answer whose status was 200.
pub struct Answer {
    /// The URL that answered, after redirects.
    pub url: String,
    /// Headers, as lines.
    pub headers: Vec<String>,
    /// The body.
    pub body: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("headers", &self.headers).finish_non_exhaustive()
    }
}

/// The library's view of [`Web`].
pub(crate) struct Adapter {
    web: Arc<dyn Web>,
    /// Where the repository turned out to be.
    moved: Option<String>,
}

impl Adapter {
    pub(crate) fn new(web: Arc<dyn Web>) -> Self {
        Self { web, moved: None }
    }

    /// Replaces the base that was asked for by the one that answered.
    fn at(&self, url: &str, base: &str) -> String {
        match (&self.moved, url.strip_prefix(base)) {
            (Some(moved), Some(rest)) => format!("{moved}{rest}"),
            _ => url.to_owned(),
        }
    }
}

impl Http for Adapter {
    type Headers = Cell;
    type ResponseBody = Cell;
    type PostBody = Post;

    fn get(
        &mut self,
        url: &str,
        base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix_error::Result<GetResponse<Cell, Cell>> {
        let headers: Vec<String> = headers.into_iter().map(|h| h.as_ref().to_owned()).collect();
        let answer = self.web.get(url, &headers).map_err(gix_error::Error::from_error)?;
        // The rest of the URL is what the protocol appends; a server that moved keeps it.
        if let Some(rest) = url.strip_prefix(base).filter(|_| answer.url != url) {
            self.moved = answer.url.strip_suffix(rest).map(str::to_owned);
        }
        let call = Arc::new(Mutex::new(Call::answered(answer)));
        Ok(GetResponse { headers: Cell::headers(&call), body: Cell::body(&call) })
    }

    fn post(
        &mut self,
        url: &str,
        base: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _: PostBodyDataKind,
    ) -> gix_error::Result<PostResponse<Cell, Cell, Post>> {
        let call = Arc::new(Mutex::new(Call {
            web: Some(Arc::clone(&self.web)),
            url: self.at(url, base),
            request: headers.into_iter().map(|h| h.as_ref().to_owned()).collect(),
            sent: Vec::new(),
            headers: Cursor::default(),
            body: None,
        }));
        Ok(PostResponse {
            post_body: Post(Arc::clone(&call)),
            headers: Cell::headers(&call),
            body: Cell::body(&call),
        })
    }

    fn configure(&mut self, _: &dyn Any) -> gix_error::Result<()> {
        Ok(())
    }
}

/// One request and its answer.
struct Call {
    /// Present until the request is sent.
    web: Option<Arc<dyn Web>>,
    url: String,
    request: Vec<String>,
    sent: Vec<u8>,
    headers: Cursor<Vec<u8>>,
    body: Option<Box<dyn Read + Send>>,
}

impl Call {
    fn answered(answer: Answer) -> Self {
        let mut call = Self {
            web: None,
            url: String::new(),
            request: Vec::new(),
            sent: Vec::new(),
            headers: Cursor::default(),
            body: None,
        };
        call.take(answer);
        call
    }

    fn take(&mut self, answer: Answer) {
        self.headers = Cursor::new(answer.headers.join("\n").into_bytes());
        self.body = Some(answer.body);
    }

    fn send(&mut self) -> io::Result<()> {
        if let Some(web) = self.web.take() {
            let body = std::mem::take(&mut self.sent);
            let answer = web.post(&self.url, &self.request, body)?;
            self.take(answer);
        }
        Ok(())
    }
}

/// The body of a request, collected.
pub(crate) struct Post(Arc<Mutex<Call>>);

impl Write for Post {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).sent.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Headers or body of an answer, read through a buffer of its own.
pub(crate) struct Cell {
    call: Arc<Mutex<Call>>,
    part: Part,
    buffer: Vec<u8>,
    at: usize,
}

#[derive(Clone, Copy)]
enum Part {
    Headers,
    Body,
}

impl Cell {
    fn headers(call: &Arc<Mutex<Call>>) -> Self {
        Self { call: Arc::clone(call), part: Part::Headers, buffer: Vec::new(), at: 0 }
    }

    fn body(call: &Arc<Mutex<Call>>) -> Self {
        Self { part: Part::Body, ..Self::headers(call) }
    }
}

impl BufRead for Cell {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.buffer.len() {
            self.buffer.resize(64 << 10, 0);
            self.at = 0;
            let mut call = self.call.lock().unwrap_or_else(PoisonError::into_inner);
            let read = call.send().and_then(|()| match (self.part, &mut call.body) {
                (Part::Headers, _) => call.headers.read(&mut self.buffer),
                (Part::Body, Some(body)) => body.read(&mut self.buffer),
                (Part::Body, None) => Ok(0),
            });
            drop(call);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            read?;
        }
        Ok(&self.buffer[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = (self.at + amount).min(self.buffer.len());
    }
}

impl Read for Cell {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.fill_buf()?;
        let n = bytes.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
