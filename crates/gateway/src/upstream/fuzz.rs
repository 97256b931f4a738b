//! The leg to a replica, with peers that say anything: heads, chunked bodies, addresses, and whole replies on a connection
//! that is played from bytes.

use std::io;
use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::address::Address;
use super::chunked::{BadChunk, Decoder};
use super::exchange::{Fault, Reply, exchange};
use super::head::{self, BadHead, Framing, HEAD_MAX_BYTES};
use super::pool::{Connection, Origin, Pool};
use super::socket::Socket;
use crate::fuzz::Dice;
use crate::sse::{Border, EVENT_MAX_BYTES};

/// Largest body that is read whole here.
const BODY_MAX_BYTES: usize = 16 * 1024;
/// What one read has room for before any was full.
const FIRST_READ_BYTES: usize = 8 * 1024;
/// Heads before the one that counts.
const INTERIM_HEADS_MAX: usize = 8;

/// The other end of a connection: it says what it was given, piece by piece, then goes on as told. It is always ready, so
/// that whoever asks it needs no clock and no runtime.
#[derive(Debug)]
pub(crate) struct Played {
    pieces: std::vec::IntoIter<Bytes>,
    now: Bytes,
    /// Said again and again at the end; nothing when it closes instead.
    endless: Bytes,
    /// How often.
    left: usize,
}

impl Played {
    fn new(pieces: Vec<Bytes>) -> Self {
        Self { pieces: pieces.into_iter(), now: Bytes::new(), endless: Bytes::new(), left: 0 }
    }

    /// Whether nothing is left to be said.
    pub(super) fn is_over(&self) -> bool {
        self.now.is_empty() && self.pieces.as_slice().is_empty() && self.left == 0
    }
}

impl AsyncRead for Played {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.now.is_empty() {
            match self.pieces.next() {
                Some(piece) => self.now = piece,
                None if self.left > 0 => {
                    self.left -= 1;
                    self.now = self.endless.clone();
                }
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.now.len().min(into.remaining());
        into.put_slice(&self.now.split_to(count));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Played {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// What a chunked body comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ended {
    /// After so many bytes.
    Done(usize),
    /// It may go on.
    Open,
    Bad(BadChunk),
}

/// A chunked body: cut anywhere it gives the same payload as a plain reading of it, and what was coded is what is decoded.
pub fn chunked(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let plain = read_plainly(bytes);
    assert_eq!(decoded(&[bytes]), plain, "in one piece");
    assert_eq!(decoded(&dice.pieces(bytes)), plain, "in pieces");
    let mut coded = Vec::new();
    for chunk in dice.pieces(bytes) {
        let extension = ["", ";a=b", " ;x", "\t"][dice.below(4)];
        coded.extend_from_slice(format!("{:0width$x}{extension}\r\n", chunk.len(), width = dice.below(8)).as_bytes());
        coded.extend_from_slice(chunk);
        coded.extend_from_slice(b"\r\n");
    }
    coded.extend_from_slice([&b"0\r\n\r\n"[..], b"000;x\r\na: b\r\n\r\n"][dice.below(2)]);
    let end = coded.len();
    // The next answer.
    coded.extend_from_slice(&b"HTTP/1.1 200 OK\r\n"[..dice.below(18)]);
    assert_eq!(decoded(&dice.pieces(&coded)), (bytes.to_vec(), Ended::Done(end)), "coded and decoded");
}

fn decoded(pieces: &[&[u8]]) -> (Vec<u8>, Ended) {
    let mut decoder = Decoder::new();
    let (mut payload, mut used) = (Vec::new(), 0);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut rest = &mut piece[..];
        while !rest.is_empty() && !decoder.is_done() {
            let step = match decoder.decode(rest) {
                Ok(step) => step,
                Err(bad) => return (payload, Ended::Bad(bad)),
            };
            assert!(step.used > 0 && step.payload <= step.used, "it goes on or says why not");
            payload.extend_from_slice(&rest[..step.payload]);
            used += step.used;
            rest = &mut rest[step.used..];
        }
    }
    (payload, if decoder.is_done() { Ended::Done(used) } else { Ended::Open })
}

/// RFC 9112 §7.1 read line by line, with the same limits: what [`Decoder`] must come to.
fn read_plainly(bytes: &[u8]) -> (Vec<u8>, Ended) {
    let (mut at, mut payload) = (0, Vec::new());
    let end = read_chunks(bytes, &mut at, &mut payload).and_then(|()| read_trailers(bytes, &mut at));
    (payload, end.err().unwrap_or(Ended::Done(at)))
}

fn read_chunks(bytes: &[u8], at: &mut usize, payload: &mut Vec<u8>) -> Result<(), Ended> {
    loop {
        let digits = bytes[*at..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        if digits > 15 {
            return Err(Ended::Bad(BadChunk::Size));
        }
        let number = std::str::from_utf8(&bytes[*at..*at + digits]).expect("digits");
        *at += digits;
        let after = *bytes.get(*at).ok_or(Ended::Open)?;
        let size = usize::from_str_radix(number, 16).map_err(|_| Ended::Bad(BadChunk::Size))?;
        match after {
            b'\r' => {}
            b';' | b' ' | b'\t' => {
                *at += 1;
                skip_to_return(bytes, at, 1024)?;
            }
            _ => return Err(Ended::Bad(BadChunk::Size)),
        }
        *at += 1;
        expect(bytes, at, b'\n', BadChunk::LineEnd)?;
        if size == 0 {
            return Ok(());
        }
        let here = &bytes[*at..][..size.min(bytes.len() - *at)];
        payload.extend_from_slice(here);
        *at += here.len();
        if here.len() < size {
            return Err(Ended::Open);
        }
        expect(bytes, at, b'\r', BadChunk::PayloadEnd)?;
        expect(bytes, at, b'\n', BadChunk::PayloadEnd)?;
    }
}

fn read_trailers(bytes: &[u8], at: &mut usize) -> Result<(), Ended> {
    let mut room = 8 * 1024;
    loop {
        let length = skip_to_return(bytes, at, room)?;
        room -= length;
        *at += 1;
        expect(bytes, at, b'\n', BadChunk::LineEnd)?;
        if length == 0 {
            return Ok(());
        }
    }
}

/// Goes to the next carriage return, at most `room` bytes away, and says how far that was.
fn skip_to_return(bytes: &[u8], at: &mut usize, room: usize) -> Result<usize, Ended> {
    let rest = &bytes[*at..];
    let end = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    if end.unwrap_or(rest.len()) > room {
        return Err(Ended::Bad(BadChunk::TooLong));
    }
    let end = end.ok_or(Ended::Open)?;
    *at += end;
    if rest[end] == b'\r' { Ok(end) } else { Err(Ended::Bad(BadChunk::LineEnd)) }
}

fn expect(bytes: &[u8], at: &mut usize, byte: u8, bad: BadChunk) -> Result<(), Ended> {
    let found = *bytes.get(*at).ok_or(Ended::Open)?;
    *at += 1;
    if found == byte { Ok(()) } else { Err(Ended::Bad(bad)) }
}

/// A response's head: in parts it is the same head, what follows it changes nothing, and its framing is what a plain look at
/// its lines says.
pub fn head(input: &[u8]) {
    let (mut dice, bytes) = Dice::of(input);
    let whole = head::read(bytes, &mut 0);
    let in_parts = read_in_parts(bytes, &mut dice);
    match (&whole, &in_parts) {
        (Ok(Some(whole)), Ok(Some(parts))) => {
            assert_eq!(describe(whole), describe(parts), "in parts it is another head");
            let head = &bytes[..whole.length];
            assert!(whole.length <= HEAD_MAX_BYTES && (head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")));
            let framing = framing_by_lines(head, whole.status);
            assert_eq!(framing, Some(framing_of(&whole.framing)), "{}", head.escape_ascii());
            let alone = head::read(head, &mut 0).expect("it was good").expect("it was whole");
            assert_eq!(describe(&alone), describe(whole), "what follows a head changes it");
        }
        (Ok(None), Ok(None)) => assert!(bytes.len() <= HEAD_MAX_BYTES, "it is waited for without end"),
        // Longer than allowed in parts may be something else in one.
        (Err(bad), Err(_)) => assert!(bad.to_string().len() > 20, "{bad}"),
        (whole, parts) => panic!("{:?} in one, {:?} in parts", whole.as_ref().map(|_| ()), parts.as_ref().map(|_| ())),
    }
    let length = dice.below(1 << 20);
    let blank = ["", " ", "\t "][dice.below(3)];
    let name = ["content-length", "Content-Length", "CONTENT-LENGTH"][dice.below(3)];
    let status = 200 + dice.below(300);
    let written =
        format!("HTTP/1.1 {status} x y\r\na: b\r\n{name}:{blank}{length}{blank}\r\nretry-after: {length}\r\n\r\n");
    let read = head::read(written.as_bytes(), &mut 0).expect("a good head").expect("a whole one");
    let expected = if matches!(status, 204 | 304) { "length 0".to_owned() } else { format!("length {length}") };
    assert_eq!((usize::from(read.status), framing_of(&read.framing)), (status, expected), "written and read");
    assert_eq!(read.facts.retry_after, Some(Duration::from_secs(length as u64)));
}

/// What is read of bytes that come piece by piece: the first head, or the first thing that is wrong.
fn read_in_parts(bytes: &[u8], dice: &mut Dice) -> Result<Option<head::Head>, BadHead> {
    let (mut end, mut scanned) = (0, 0);
    for piece in dice.pieces(bytes) {
        end += piece.len();
        if let Some(head) = head::read(&bytes[..end], &mut scanned)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

fn describe(head: &head::Head) -> String {
    let framing = framing_of(&head.framing);
    format!("{} {} {framing} {} {:?}", head.status, head.length, head.keeps_alive, head.facts)
}

fn framing_of(framing: &Framing) -> String {
    match framing {
        Framing::Length(length) => format!("length {length}"),
        Framing::Chunked(_) => "chunked".to_owned(),
        Framing::ToEnd => "to the end".to_owned(),
    }
}

/// Where a body ends by the lines of its head; nothing where two readers could differ.
fn framing_by_lines(head: &[u8], status: u16) -> Option<String> {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii().to_ascii_lowercase()))
    });
    let lines: Vec<(Vec<u8>, Vec<u8>)> = lines.collect();
    let values =
        |name: &[u8]| lines.iter().filter(|line| line.0 == name).map(|line| line.1.as_slice()).collect::<Vec<_>>();
    let (lengths, codings) = (values(b"content-length"), values(b"transfer-encoding"));
    let length = match lengths.first() {
        Some(text) if text.iter().all(u8::is_ascii_digit) => Some(std::str::from_utf8(text).ok()?.parse::<u64>().ok()?),
        Some(_) => return None,
        None => None,
    };
    let is_clear = codings.len() <= 1 && codings.iter().all(|coding| coding == b"chunked");
    if matches!(status, 100..=199 | 204 | 304) {
        return is_clear.then(|| "length 0".to_owned());
    }
    match (length, codings.is_empty()) {
        (Some(length), true) => Some(format!("length {length}")),
        (None, false) if is_clear => Some("chunked".to_owned()),
        (None, true) => Some("to the end".to_owned()),
        _ => None,
    }
}

/// What a whole reply came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Answer(u16, Vec<u8>),
    Fault(String),
}

/// A whole reply, as the network brings it: the same whatever the cuts, what its parts say when they are read one by one, and
/// its connection is used again only where nothing of it can be taken for the next answer.
pub fn reply(input: &[u8]) {
    let _inside = runtime().enter();
    let (mut dice, bytes) = Dice::of(input);
    let expected = reply_by_parts(bytes);
    let origin = origin();
    assert_eq!(replied(&origin, &[bytes]), expected, "in one piece: {}", bytes.escape_ascii());
    if origin.idle_count() == 1 && bytes.len() <= FIRST_READ_BYTES {
        assert!(matches!(expected, Came::Answer(..)), "a connection that failed is kept");
        let more = [bytes, b"HTTP/1.1 200 OK\r\n"].concat();
        let origin = self::origin();
        let came = replied(&origin, &[&more]);
        assert!(origin.idle_count() == 0 || more.len() > FIRST_READ_BYTES || came != expected, "what follows is kept");
    }
    let pieces = dice.pieces(bytes);
    assert_eq!(replied(&self::origin(), &pieces), expected, "in pieces: {}", bytes.escape_ascii());
}

fn origin() -> std::sync::Arc<Origin> {
    Pool::default().origin("http://127.0.0.1:1").expect("a good URL")
}

fn replied(origin: &std::sync::Arc<Origin>, pieces: &[&[u8]]) -> Came {
    let played = Played::new(pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect());
    let came = asked(origin, played).and_then(|reply| {
        let status = reply.status;
        let body = reply.body.whole(BODY_MAX_BYTES).now_or_never().expect("it is always ready")?;
        Ok(Came::Answer(status, body.to_vec()))
    });
    came.unwrap_or_else(|fault| Came::Fault(fault.to_string()))
}

/// The pool keeps connections by the runtime that made them; nothing here waits for it.
fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_current_thread().build().expect("a runtime that drives nothing"))
}

fn asked(origin: &std::sync::Arc<Origin>, played: Played) -> Result<Reply, Fault> {
    let connection = Connection { socket: Socket::Played(played), read: BytesMut::new() };
    let request = [Bytes::from_static(b"POST / HTTP/1.1\r\n\r\n")];
    let spoken = exchange(origin, connection, &request, Duration::from_secs(1)).now_or_never();
    spoken.expect("it is always ready").map_err(|failed| failed.fault)
}

/// The same by the head's reader and the plain reading of a chunked body.
fn reply_by_parts(bytes: &[u8]) -> Came {
    let fault = |fault: &Fault| Came::Fault(fault.to_string());
    let mut rest = bytes;
    let mut interim = 0;
    let head = loop {
        match first_head(rest) {
            Ok(Some(head)) if (100..200).contains(&head.status) => {
                rest = &rest[head.length..];
                interim += 1;
                if interim > INTERIM_HEADS_MAX {
                    return fault(&BadHead::TooLong.into());
                }
            }
            Ok(Some(head)) => break head,
            Ok(None) => return fault(&Fault::EndedEarly),
            Err(bad) => return fault(&bad.into()),
        }
    };
    rest = &rest[head.length..];
    let too_large = Fault::TooLarge(BODY_MAX_BYTES);
    let body = match &head.framing {
        Framing::Length(length) if *length > BODY_MAX_BYTES as u64 => return fault(&too_large),
        Framing::Length(length) => match rest.get(..usize::try_from(*length).unwrap_or(usize::MAX)) {
            Some(body) => body.to_vec(),
            None => return fault(&Fault::EndedEarly),
        },
        Framing::ToEnd if rest.len() > BODY_MAX_BYTES => return fault(&too_large),
        Framing::ToEnd => rest.to_vec(),
        Framing::Chunked(_) => match read_plainly(rest) {
            (payload, _) if payload.len() > BODY_MAX_BYTES => return fault(&too_large),
            (payload, Ended::Done(_)) => payload,
            (_, Ended::Open) => return fault(&Fault::EndedEarly),
            (_, Ended::Bad(bad)) => return fault(&bad.into()),
        },
    };
    Came::Answer(head.status, body)
}

/// The head at the start of `bytes`. What is behind the first 32 KiB is not needed to know one.
fn first_head(bytes: &[u8]) -> Result<Option<head::Head>, BadHead> {
    head::read(bytes, &mut 0)
}

/// A replica's URL: what is sent by it is one line each, to the host it names.
pub fn address(input: &[u8]) {
    let Ok(url) = std::str::from_utf8(input) else { return };
    let Ok(address) = Address::parse(url) else { return };
    let lines: Vec<&str> = address.head_lines.split("\r\n").collect();
    let is_clean = |line: &&str| !line.contains(['\r', '\n', '\0']);
    assert!(lines.len() <= 3 && lines.last() == Some(&"") && lines.iter().all(is_clean), "{:?}", address.head_lines);
    assert!(lines[0].starts_with("host: ") && lines[0].len() > 6, "{:?}", address.head_lines);
    assert!(!address.host.is_empty() && !address.host.contains(['@', '/', ' ']), "{:?}", address.host);
    assert!(address.prefix.is_empty() || address.prefix.starts_with('/'), "{:?}", address.prefix);
    assert!(!address.prefix.contains([' ', '\r', '\n']), "{:?}", address.prefix);
}

/// What a peer does without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// Header after header.
    Head,
    /// One header.
    HeaderLine,
    /// Interim heads.
    Interim,
    /// A plain body that was announced as endless.
    Body,
    /// A chunk's extension.
    Extension,
    /// A trailer after trailer.
    Trailers,
    /// One event.
    Event,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Head, Self::HeaderLine, Self::Interim, Self::Body, Self::Extension, Self::Trailers, Self::Event];

    fn starts(self) -> (&'static str, &'static [u8]) {
        match self {
            Self::Head => ("HTTP/1.1 200 OK\r\n", b"x-y: zzzzzzzzzzzzzzzzzzzz\r\n"),
            Self::HeaderLine => ("HTTP/1.1 200 OK\r\nx-y: ", b"zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz"),
            Self::Interim => ("", b"HTTP/1.1 100 Continue\r\n\r\n"),
            Self::Body => ("HTTP/1.1 200 OK\r\n\r\n", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
            Self::Extension => {
                ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
            }
            Self::Trailers => ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
            Self::Event => {
                ("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: ", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
            }
        }
    }
}

/// A peer that goes on for `bytes`: where it is cut off, in words, and after how many bytes.
pub fn lie(lie: Lie, bytes: usize) -> (String, usize) {
    let _inside = runtime().enter();
    let (start, again) = lie.starts();
    let endless = Bytes::from(again.repeat(64 * 1024 / again.len()));
    let left = bytes / endless.len();
    let played = Played { endless, left, ..Played::new(vec![Bytes::from_static(start.as_bytes())]) };
    let mut reply = match asked(&origin(), played) {
        Ok(reply) => reply,
        Err(fault) => return (fault.to_string(), 0),
    };
    if lie != Lie::Event {
        let whole = reply.body.whole(BODY_MAX_BYTES).now_or_never().expect("it is always ready");
        return (whole.map_or_else(|fault| fault.to_string(), |body| format!("{} bytes", body.len())), 0);
    }
    let mut border = Border::default();
    loop {
        match border.find(reply.body.bytes()) {
            Ok(found) => assert_eq!(found, None, "it does not end"),
            Err(long) => return (long.to_string(), reply.body.bytes().len()),
        }
        assert!(reply.body.bytes().len() <= 2 * EVENT_MAX_BYTES, "it is waited for without end");
        match reply.body.more().now_or_never().expect("it is always ready") {
            Ok(true) => {}
            Ok(false) => return ("the end".to_owned(), reply.body.bytes().len()),
            Err(fault) => return (fault.to_string(), reply.body.bytes().len()),
        }
    }
}
