//! HTTP/1.1 as the load client reads it: the head of an answer, chunked bodies, server-sent events.
//!
//! Pure but for [`Connection`]. Deliberately absent: everything a benchmark does not send, such as trailers with a
//! meaning, compression and pipelining.

use std::io;
use std::time::Instant;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Most bytes of a head.
const HEAD_MAX: usize = 64 * 1024;
/// Most headers of a head.
const HEADERS_MAX: usize = 96;
/// Longest line with a chunk's size.
const SIZE_LINE_MAX: usize = 256;
/// What is kept of an answer's end: the last events of a stream fit into it.
const TAIL: usize = 512;

/// How the length of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    /// The body ends where the connection does.
    ToEnd,
}

/// What the load client needs of a head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) framing: Framing,
    pub(crate) is_stream: bool,
    pub(crate) has_retry_after: bool,
    pub(crate) closes: bool,
}

/// The head at the beginning of `bytes` and its length; nothing while it is not whole.
pub(crate) fn head(bytes: &[u8]) -> io::Result<Option<(Head, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let length = match parsed.parse(bytes).map_err(|error| bad(error.to_string()))? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial if bytes.len() > HEAD_MAX => return Err(bad("the head does not end")),
        httparse::Status::Partial => return Ok(None),
    };
    let mut head = Head {
        status: parsed.code.unwrap_or(0),
        framing: Framing::ToEnd,
        is_stream: false,
        has_retry_after: false,
        closes: false,
    };
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            head.framing = Framing::Length(value.parse().map_err(|_| bad("content-length is not a number"))?);
        } else if is("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            head.framing = Framing::Chunked;
        } else if is("content-type") {
            head.is_stream = value.starts_with("text/event-stream");
        } else if is("retry-after") {
            head.has_retry_after = true;
        } else if is("connection") {
            head.closes = value.eq_ignore_ascii_case("close");
        }
    }
    Ok(Some((head, length)))
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A chunked body, taken apart as it arrives.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chunked {
    state: Place,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// In a line with a size.
    #[default]
    Size,
    /// In a chunk's bytes; so many are left.
    Bytes(usize),
    /// Before the line end after a chunk.
    After,
    /// In the lines after the last chunk.
    Trailer,
    Done,
}

impl Chunked {
    pub(crate) fn is_done(&self) -> bool {
        self.state == Place::Done
    }

    /// Hands every piece of the body in `input` to `take`; what comes after the body is left.
    pub(crate) fn feed(&mut self, mut input: &[u8], mut take: impl FnMut(&[u8])) -> io::Result<()> {
        while !input.is_empty() {
            match self.state {
                Place::Done => return Ok(()),
                Place::Bytes(left) => {
                    let (now, rest) = input.split_at(left.min(input.len()));
                    take(now);
                    input = rest;
                    self.state = if now.len() == left { Place::After } else { Place::Bytes(left - now.len()) };
                }
                Place::Size | Place::After | Place::Trailer => {
                    let Some(end) = memchr::memchr(b'\n', input) else {
                        self.line.extend_from_slice(input);
                        return if self.line.len() > SIZE_LINE_MAX {
                            Err(bad("a chunk's size is too long"))
                        } else {
                            Ok(())
                        };
                    };
                    self.line.extend_from_slice(&input[..end]);
                    input = &input[end + 1..];
                    self.state = after_line(self.state, self.line.trim_ascii())?;
                    self.line.clear();
                }
            }
        }
        Ok(())
    }
}

fn after_line(state: Place, line: &[u8]) -> io::Result<Place> {
    match state {
        Place::After if line.is_empty() => Ok(Place::Size),
        Place::After => Err(bad("bytes after a chunk")),
        Place::Trailer => Ok(if line.is_empty() { Place::Done } else { Place::Trailer }),
        Place::Size => {
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
            let text = std::str::from_utf8(digits).map_err(|_| bad("a chunk's size is not a number"))?;
            let size = usize::from_str_radix(text, 16).map_err(|_| bad("a chunk's size is not a number"))?;
            Ok(if size == 0 { Place::Trailer } else { Place::Bytes(size) })
        }
        Place::Bytes(_) | Place::Done => Ok(state),
    }
}

/// Counts server-sent events with data; comments and empty events are none.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    count: u64,
    /// Bytes of the line that has begun, and its first and last.
    length: usize,
    first: u8,
    last: u8,
    has_data: bool,
}

impl Events {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn feed(&mut self, input: &[u8]) {
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', input) {
            self.extend(&input[start..end]);
            self.end_line();
            start = end + 1;
        }
        self.extend(&input[start..]);
    }

    fn extend(&mut self, part: &[u8]) {
        if let (Some(first), Some(last)) = (part.first(), part.last()) {
            if self.length == 0 {
                self.first = *first;
            }
            self.last = *last;
            self.length += part.len();
        }
    }

    fn end_line(&mut self) {
        let is_empty = self.length == 0 || (self.length == 1 && self.last == b'\r');
        if is_empty {
            self.count += u64::from(self.has_data);
            self.has_data = false;
        } else if self.first == b'd' {
            self.has_data = true;
        }
        self.length = 0;
    }
}

/// An answer, read to its end.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) head: Head,
    /// When the first byte of the body was there, or the head when there is no body.
    pub(crate) first_at: Instant,
    pub(crate) events: u64,
    /// The body's last bytes.
    pub(crate) tail: Vec<u8>,
}

impl Reply {
    /// A stream that says that it is whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.contains(b"[DONE]")
    }

    /// A stream that ends by telling an error.
    pub(crate) fn tells_error(&self) -> bool {
        self.contains(b"\"error\"")
    }

    fn contains(&self, words: &[u8]) -> bool {
        memchr::memmem::find(&self.tail, words).is_some()
    }
}

/// A connection to a server, used for one request after another.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(64 * 1024) })
    }

    pub(crate) async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Sends a request and reads the whole answer. A connection that broke inside the body gives what came: `Err` of the
    /// tuple says why.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<(Reply, io::Result<()>)> {
        self.send(request).await?;
        self.buffer.clear();
        let (head, length) = loop {
            self.more().await?;
            if let Some(found) = head(&self.buffer)? {
                break found;
            }
        };
        let mut body = Body::new(head);
        if self.buffer.len() > length {
            body.feed(&self.buffer[length..])?;
        }
        let ended = loop {
            if body.is_done() {
                break Ok(());
            }
            self.buffer.clear();
            match self.more().await {
                Ok(()) => body.feed(&self.buffer)?,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && body.head.framing == Framing::ToEnd => {
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        Ok((body.finish(), ended))
    }

    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

struct Body {
    head: Head,
    chunked: Chunked,
    events: Events,
    read: usize,
    tail: Vec<u8>,
    first_at: Option<Instant>,
}

impl Body {
    fn new(head: Head) -> Self {
        let (chunked, events) = (Chunked::default(), Events::default());
        Self { head, chunked, events, read: 0, tail: Vec::new(), first_at: None }
    }

    fn is_done(&self) -> bool {
        match self.head.framing {
            Framing::Length(length) => self.read >= length,
            Framing::Chunked => self.chunked.is_done(),
            Framing::ToEnd => false,
        }
    }

    fn feed(&mut self, input: &[u8]) -> io::Result<()> {
        self.first_at.get_or_insert_with(Instant::now);
        self.read += input.len();
        let (events, tail, is_stream) = (&mut self.events, &mut self.tail, self.head.is_stream);
        let mut take = |part: &[u8]| {
            if is_stream {
                events.feed(part);
            }
            keep_tail(tail, part);
        };
        match self.head.framing {
            Framing::Chunked => self.chunked.feed(input, take),
            Framing::Length(_) | Framing::ToEnd => {
                take(input);
                Ok(())
            }
        }
    }

    fn finish(self) -> Reply {
        let first_at = self.first_at.unwrap_or_else(Instant::now);
        Reply { head: self.head, first_at, events: self.events.count(), tail: self.tail }
    }
}

fn keep_tail(tail: &mut Vec<u8>, part: &[u8]) {
    if part.len() >= TAIL {
        tail.clear();
        tail.extend_from_slice(&part[part.len() - TAIL..]);
    } else {
        tail.extend_from_slice(part);
        if tail.len() > 4 * TAIL {
            tail.drain(..tail.len() - TAIL);
        }
    }
}

#[cfg(test)]
mod tests;
