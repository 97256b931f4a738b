//! What a gateway sent to the mock.

use std::io;
use std::time::Duration;

use memchr::memmem;

/// Most bytes of a head.
const HEAD_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 96;
/// Tokens of an answer when the request does not say.
const TOKENS: usize = 16;
/// Digits of a number that are read.
const DIGITS_MAX: usize = 18;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Chat,
    Completion,
    Embeddings,
    Tokenize,
    Models,
    Metrics,
    Stats,
    /// What routers ask a server about itself.
    Facts,
    Health,
    Unknown,
}

/// Where the body of the request at the beginning of a buffer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) route: Route,
    pub(super) body_at: usize,
    pub(super) body_length: usize,
}

impl Request {
    /// Nothing while the head is not whole.
    pub(super) fn read(bytes: &[u8]) -> io::Result<Option<Self>> {
        let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut headers);
        let body_at = match parsed.parse(bytes).map_err(|error| bad(error.to_string()))? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if bytes.len() > HEAD_MAX => return Err(bad("the head does not end".to_owned())),
            httparse::Status::Partial => return Ok(None),
        };
        let mut body_length = 0;
        for header in parsed.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let text = std::str::from_utf8(header.value).unwrap_or_default().trim();
                body_length = text.parse().map_err(|_| bad("content-length is not a number".to_owned()))?;
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(bad("the mock reads no chunked requests".to_owned()));
            }
        }
        let route = route(parsed.path.unwrap_or_default());
        Ok(Some(Self { route, body_at, body_length }))
    }
}

fn route(path: &str) -> Route {
    match path.split('?').next().unwrap_or_default() {
        "/v1/chat/completions" => Route::Chat,
        "/v1/completions" => Route::Completion,
        "/v1/embeddings" => Route::Embeddings,
        "/tokenize" => Route::Tokenize,
        "/v1/models" => Route::Models,
        "/metrics" => Route::Metrics,
        "/stats" => Route::Stats,
        "/get_server_info" | "/server_info" | "/get_model_info" | "/model_info" => Route::Facts,
        "/health" | "/health_generate" | "/version" => Route::Health,
        _ => Route::Unknown,
    }
}

/// A chat or completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) tokens: usize,
    pub(super) stream: bool,
    pub(super) pace: Duration,
    pub(super) id: Option<u64>,
}

impl Asked {
    /// By search, not by parsing: the mock must cost less than what it measures.
    pub(super) fn read(body: &[u8]) -> Self {
        let tokens = number(body, b"\"max_tokens\":").or_else(|| number(body, b"\"max_completion_tokens\":"));
        Self {
            tokens: tokens.and_then(|tokens| usize::try_from(tokens).ok()).unwrap_or(TOKENS),
            stream: after(body, b"\"stream\":").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"true")),
            pace: Duration::from_micros(number(body, b"pace=").unwrap_or(0)),
            id: number(body, b"id="),
        }
    }
}

fn after<'a>(body: &'a [u8], words: &[u8]) -> Option<&'a [u8]> {
    memmem::find(body, words).map(|at| &body[at + words.len()..])
}

fn number(body: &[u8], words: &[u8]) -> Option<u64> {
    let rest = after(body, words)?.trim_ascii_start();
    let digits = rest.iter().take(DIGITS_MAX).take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()
}
