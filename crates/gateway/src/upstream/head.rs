//! The head of a replica's response: what of it matters, and how its body is delimited (RFC 9112 §6).
//!
//! INVARIANT: no input makes it panic. A head that two readers could read differently is no head: a second length, a length
//! beside a transfer coding, a coding that is not `chunked`.

use std::time::Duration;

use super::chunked::Decoder;

/// Longest head; servers of models send a few hundred bytes.
pub(super) const HEAD_MAX_BYTES: usize = 32 * 1024;
/// Most headers in it.
const HEADERS_MAX: usize = 96;

/// A response's head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Its own length in bytes.
    pub(super) length: usize,
    pub(super) framing: Framing,
    /// Whether another request may follow on the connection, once this body has been read.
    pub(super) keeps_alive: bool,
    pub(super) facts: Facts,
}

/// What the gateway looks at in a response besides its body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) is_event_stream: bool,
    pub(crate) retry_after: Option<Duration>,
}

/// Where a body ends.
#[derive(Debug, Clone)]
pub(super) enum Framing {
    /// After so many bytes more.
    Length(u64),
    /// Where its coding says.
    Chunked(Decoder),
    /// With the connection.
    ToEnd,
}

/// Bytes that are not the head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadHead {
    #[error("what it sent is no head of an HTTP response: {0}")]
    Syntax(httparse::Error),
    #[error("the head of its response is longer than {HEAD_MAX_BYTES} bytes")]
    TooLong,
    #[error("the head of its response does not say clearly where the body ends")]
    Framing,
    #[error("it switched to a protocol that nobody asked for")]
    Switched,
}

/// Reads a head at the start of `bytes`; nothing while it is not whole. `scanned` is where the search for its end goes on.
pub(super) fn read(bytes: &[u8], scanned: &mut usize) -> Result<Option<Head>, BadHead> {
    // Parsed once: a peer that sends byte by byte must not have it parsed as often.
    if !ends(bytes, scanned) {
        return if bytes.len() > HEAD_MAX_BYTES { Err(BadHead::TooLong) } else { Ok(None) };
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(BadHead::Syntax)? {
        httparse::Status::Complete(length) if length <= HEAD_MAX_BYTES => length,
        httparse::Status::Complete(_) => return Err(BadHead::TooLong),
        // A blank line before the status line, which is skipped.
        httparse::Status::Partial if bytes.len() <= HEAD_MAX_BYTES => return Ok(None),
        httparse::Status::Partial => return Err(BadHead::TooLong),
    };
    let status = response.code.unwrap_or(0);
    if status == 101 {
        return Err(BadHead::Switched);
    }
    let is_old = response.version == Some(0);
    let said = Said::of(response.headers, is_old)?;
    let framing = said.framing(status)?;
    let keeps_alive = !said.closes && (!is_old || said.keeps_alive) && !matches!(framing, Framing::ToEnd);
    Ok(Some(Head { status, length, framing, keeps_alive, facts: said.facts }))
}

/// Whether a blank line is in `bytes`; looks only at what was not looked at before.
fn ends(bytes: &[u8], scanned: &mut usize) -> bool {
    let from = scanned.saturating_sub(2);
    let ended = memchr::memchr_iter(b'\n', &bytes[from..]).any(|at| {
        let rest = &bytes[from + at + 1..];
        rest.first() == Some(&b'\n') || rest.starts_with(b"\r\n")
    });
    if !ended {
        *scanned = bytes.len();
    }
    ended
}

/// What headers say of the framing.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    is_chunked: bool,
    closes: bool,
    keeps_alive: bool,
    facts: Facts,
}

impl Said {
    fn of(headers: &[httparse::Header<'_>], is_old: bool) -> Result<Self, BadHead> {
        let mut said = Self::default();
        for header in headers {
            let value = header.value.trim_ascii();
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    let length = decimal(value).ok_or(BadHead::Framing)?;
                    if said.length.is_some_and(|before| before != length) {
                        return Err(BadHead::Framing);
                    }
                    said.length = Some(length);
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if is_old || said.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadHead::Framing);
                    }
                    said.is_chunked = true;
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    for option in value.split(|byte| *byte == b',') {
                        said.closes |= option.trim_ascii().eq_ignore_ascii_case(b"close");
                        said.keeps_alive |= option.trim_ascii().eq_ignore_ascii_case(b"keep-alive");
                    }
                }
                12 if header.name.eq_ignore_ascii_case("content-type") => {
                    let begins = b"text/event-stream";
                    said.facts.is_event_stream =
                        value.get(..begins.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(begins));
                }
                11 if header.name.eq_ignore_ascii_case("retry-after") => {
                    said.facts.retry_after = decimal(value).map(Duration::from_secs);
                }
                _ => {}
            }
        }
        Ok(said)
    }

    fn framing(&self, status: u16) -> Result<Framing, BadHead> {
        if matches!(status, 100..=199 | 204 | 304) {
            return Ok(Framing::Length(0));
        }
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(BadHead::Framing),
            (true, None) => Ok(Framing::Chunked(Decoder::new())),
            (false, Some(length)) => Ok(Framing::Length(length)),
            (false, None) => Ok(Framing::ToEnd),
        }
    }
}

/// Digits only: no sign, no list.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests;
