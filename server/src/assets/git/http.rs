//! The HTTP of git's protocol over connections of our own: the same addresses, origins and secrets as for
//! everything else that is fetched.

use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use gix_error::{ErrorExt as _, Result};
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use hyper::header::{HeaderName, HeaderValue};
use tokio::runtime::Handle;
use url::Url;

use crate::assets::FetchError;
use crate::assets::origin::{Content, Headers, Origins, Received, parse};

/// Bytes of a request, which names what is wanted.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What one talk with an origin shares.
#[derive(Clone)]
pub(super) struct Talk {
    pub(super) origins: Arc<Origins>,
    /// Headers for the first origin only.
    pub(super) secrets: Rc<Headers>,
    pub(super) first: Url,
    pub(super) runtime: Handle,
    /// Set when nobody waits any more.
    pub(super) stopped: Arc<AtomicBool>,
    /// Bytes that may still come.
    pub(super) allowance: Rc<Cell<u64>>,
    /// The first thing that went wrong here, which the library would only tell as text.
    pub(super) failed: Rc<RefCell<Option<FetchError>>>,
}

impl Talk {
    fn fail(&self, error: FetchError) -> io::Error {
        let told = io::Error::other(error.to_string());
        self.failed.borrow_mut().get_or_insert(error);
        told
    }

    fn secrets_for(&self, url: &Url) -> &[(HeaderName, HeaderValue)] {
        if url.origin() == self.first.origin() { &self.secrets } else { &[] }
    }

    fn get(&self, url: &Url, headers: &Headers) -> io::Result<Received> {
        let answer = self.runtime.block_on(self.origins.follow(url, headers, self.secrets_for(url)));
        answer.map_err(|error| self.fail(error))
    }

    fn post(&self, url: &Url, headers: &Headers, body: Bytes) -> io::Result<Received> {
        let answer = self.runtime.block_on(self.origins.post(url, headers, self.secrets_for(url), body));
        answer.map_err(|error| self.fail(error))
    }
}

/// Git's client over a talk.
pub(super) struct GitHttp {
    talk: Talk,
    /// Where the repository is, after the origin pointed on.
    base: Option<String>,
}

impl GitHttp {
    pub(super) fn new(talk: Talk) -> Self {
        Self { talk, base: None }
    }

    fn request(
        &self,
        url: &str,
        lines: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> io::Result<(Url, Headers)> {
        let url = parse(url).map_err(|error| self.talk.fail(error))?;
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value.trim()).ok()?))
        };
        let headers = lines.into_iter().filter_map(|line| header(line.as_ref()));
        Ok((url, headers.filter(|(name, _)| name != "user-agent").collect()))
    }
}

impl Http for GitHttp {
    type Headers = AnswerHeaders;
    type ResponseBody = AnswerBody;
    type PostBody = RequestBody;

    fn get(
        &mut self,
        url: &str,
        base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<GetResponse<Self::Headers, Self::ResponseBody>> {
        let (url, headers) = self.request(url, headers).map_err(|error| error.raise())?;
        let received = self.talk.get(&url, &headers).map_err(|error| error.raise())?;
        let tail = url.as_str().strip_prefix(base_url).unwrap_or_default();
        self.base = received.url.as_str().strip_suffix(tail).map(str::to_owned);
        let exchange = Exchange::answered(self.talk.clone(), received);
        Ok(GetResponse { headers: AnswerHeaders::of(&exchange), body: AnswerBody::of(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        _: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _: PostBodyDataKind,
    ) -> Result<PostResponse<Self::Headers, Self::ResponseBody, Self::PostBody>> {
        let (url, headers) = self.request(url, headers).map_err(|error| error.raise())?;
        let state = State::Asking { url, headers, body: Vec::new() };
        let exchange = Rc::new(RefCell::new(Exchange { talk: self.talk.clone(), state }));
        Ok(PostResponse {
            post_body: RequestBody(Rc::clone(&exchange)),
            headers: AnswerHeaders::of(&exchange),
            body: AnswerBody::of(&exchange),
        })
    }

    fn configure(&mut self, _: &dyn std::any::Any) -> Result {
        Ok(())
    }

    fn redirected_base_url(&self) -> Option<String> {
        self.base.clone()
    }
}

/// One request and its answer. It is sent when somebody first reads the answer.
struct Exchange {
    talk: Talk,
    state: State,
}

enum State {
    Asking { url: Url, headers: Headers, body: Vec<u8> },
    Answered { headers: Option<Vec<u8>>, content: Option<Content> },
}

impl Exchange {
    fn answered(talk: Talk, received: Received) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { talk, state: State::from(received) }))
    }

    fn answer(&mut self) -> io::Result<(&mut Option<Vec<u8>>, &mut Option<Content>)> {
        if let State::Asking { url, headers, body } = &mut self.state {
            let received = self.talk.post(url, headers, std::mem::take(body).into())?;
            self.state = State::from(received);
        }
        match &mut self.state {
            State::Answered { headers, content } => Ok((headers, content)),
            State::Asking { .. } => unreachable!("it was sent above"),
        }
    }
}

impl From<Received> for State {
    fn from(received: Received) -> Self {
        let mut lines = Vec::new();
        for (name, value) in &received.headers {
            lines.extend_from_slice(name.as_str().as_bytes());
            lines.extend_from_slice(b": ");
            lines.extend_from_slice(value.as_bytes());
            lines.push(b'\n');
        }
        Self::Answered { headers: Some(lines), content: Some(received.content) }
    }
}

/// What is sent, until the answer is read.
pub(super) struct RequestBody(Rc<RefCell<Exchange>>);

impl Write for RequestBody {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0.borrow_mut().state {
            State::Asking { body, .. } if body.len() + bytes.len() <= REQUEST_BYTES_MAX => {
                body.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            State::Asking { .. } => Err(io::Error::other("the request is too large")),
            State::Answered { .. } => Err(io::Error::other("the request was sent already")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The header lines of an answer.
pub(super) struct AnswerHeaders {
    exchange: Rc<RefCell<Exchange>>,
    lines: Option<Cursor<Vec<u8>>>,
}

impl AnswerHeaders {
    fn of(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: Rc::clone(exchange), lines: None }
    }
}

impl BufRead for AnswerHeaders {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.lines.is_none() {
            let lines = self.exchange.borrow_mut().answer()?.0.take();
            self.lines = Some(Cursor::new(lines.unwrap_or_default()));
        }
        self.lines.as_mut().expect("it was set above").fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(lines) = &mut self.lines {
            lines.consume(amount);
        }
    }
}

impl Read for AnswerHeaders {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

/// The bytes of an answer.
pub(super) struct AnswerBody {
    exchange: Rc<RefCell<Exchange>>,
    reader: Option<BufReader<Pieces>>,
}

impl AnswerBody {
    fn of(exchange: &Rc<RefCell<Exchange>>) -> Self {
        Self { exchange: Rc::clone(exchange), reader: None }
    }
}

impl BufRead for AnswerBody {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.reader.is_none() {
            let mut exchange = self.exchange.borrow_mut();
            let content = exchange.answer()?.1.take();
            let pieces = Pieces { talk: exchange.talk.clone(), content, piece: Bytes::new() };
            self.reader = Some(BufReader::new(pieces));
        }
        self.reader.as_mut().expect("it was set above").fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        if let Some(reader) = &mut self.reader {
            reader.consume(amount);
        }
    }
}

impl Read for AnswerBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

struct Pieces {
    talk: Talk,
    content: Option<Content>,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            let Some(content) = &mut self.content else { return Ok(0) };
            if self.talk.stopped.load(Ordering::Relaxed) {
                return Err(io::Error::other("nobody waits for it any more"));
            }
            match self.talk.runtime.block_on(content.next()) {
                Ok(Some(piece)) => self.piece = piece,
                Ok(None) => self.content = None,
                Err(error) => return Err(self.talk.fail(error)),
            }
            let left = self.talk.allowance.get().checked_sub(self.piece.len() as u64);
            let Some(left) = left else {
                let text = "the origin sends more than is taken (limit assets.content_bytes_max)";
                return Err(self.talk.fail(FetchError::Exhausted(text.into())));
            };
            self.talk.allowance.set(left);
        }
        let amount = buffer.len().min(self.piece.len());
        buffer[..amount].copy_from_slice(&self.piece.split_to(amount));
        Ok(amount)
    }
}
