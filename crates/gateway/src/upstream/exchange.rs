//! One request on a connection, and the response it brings.
//!
//! INVARIANT: a connection goes back to the pool only after a response that was read to its end, that said it may, behind
//! which nothing came, and whose request was written whole. In every other case it is closed, which is how a replica learns
//! that nobody wants its answer.

use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};
use tokio_util::io::poll_read_buf;

use super::address::BadAddress;
use super::chunked::BadChunk;
use super::head::{self, BadHead, Facts, Framing, Head};
use super::pool::{Connection, Origin};
use super::socket::Socket;

/// Heads before the one that counts (`100 Continue`, `103 Early Hints`).
const INTERIM_HEADS_MAX: u32 = 8;
/// What one read has room for, at first; doubled when that was not enough.
const READ_MIN_BYTES: usize = 8 * 1024;
/// And at most.
const READ_MAX_BYTES: usize = 64 * 1024;
/// A read with less room than this would cost a system call for little.
const ROOM_MIN_BYTES: usize = 1024;
/// Pieces written with one system call.
const PIECES_MAX: usize = 16;

/// Why there is no answer, or no more of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error(transparent)]
    Address(#[from] BadAddress),
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("its connection broke")]
    Broken(#[source] io::Error),
    #[error("it closed its connection before the end of its answer")]
    EndedEarly,
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error("the head of its answer did not end in time")]
    SlowHead,
    #[error(transparent)]
    Body(#[from] BadChunk),
    #[error("its answer is larger than {0} bytes")]
    TooLarge(usize),
}

/// A response whose head was read.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) facts: Facts,
    pub(crate) body: Incoming,
}

/// The body of a response, as it comes. Dropped before its end, it closes the connection.
pub(crate) struct Incoming {
    origin: Arc<Origin>,
    /// Absent once the body was read to its end.
    connection: Option<Connection>,
    framing: Framing,
    keeps_alive: bool,
    /// The next read.
    room: usize,
}

/// A fault, and whether the replica had begun to answer.
pub(super) struct Failed {
    pub(super) fault: Fault,
    pub(super) was_heard: bool,
}

/// Sends a request of `pieces` and reads the head of the response, which ends within `patience` from its first byte.
pub(super) async fn exchange(
    origin: &Arc<Origin>,
    mut connection: Connection,
    pieces: &[Bytes],
    patience: Duration,
) -> Result<Reply, Failed> {
    let mut talk = Talk { unsent: Unsent::new(pieces), patience, write_error: None, scanned: 0, interim: 0 };
    let mut late = pin!(None);
    let spoken = poll_fn(|cx| talk.poll(&mut connection, late.as_mut(), cx)).await;
    match spoken {
        Ok(head) => {
            let keeps_alive = head.keeps_alive && talk.unsent.is_sent() && talk.write_error.is_none();
            let body = Incoming {
                origin: Arc::clone(origin),
                connection: Some(connection),
                framing: head.framing,
                keeps_alive,
                room: READ_MIN_BYTES,
            };
            Ok(Reply { status: head.status, facts: head.facts, body })
        }
        Err(fault) => Err(Failed { fault, was_heard: talk.interim > 0 || !connection.read.is_empty() }),
    }
}

/// A request on its way out and a head on its way in, at the same time: a replica may refuse what it has not read yet.
struct Talk<'a> {
    unsent: Unsent<'a>,
    patience: Duration,
    write_error: Option<io::Error>,
    scanned: usize,
    interim: u32,
}

impl Talk<'_> {
    fn poll(
        &mut self,
        connection: &mut Connection,
        mut late: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Fault>> {
        // After a failed write there may still be an answer that says why.
        if self.write_error.is_none()
            && let Poll::Ready(Err(error)) = self.unsent.poll_write(&mut connection.socket, cx)
        {
            self.write_error = Some(error);
        }
        loop {
            while let Some(head) = head::read(&connection.read, &mut self.scanned)? {
                connection.read.advance(head.length);
                self.scanned = 0;
                if !(100..200).contains(&head.status) {
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                if self.interim > INTERIM_HEADS_MAX {
                    return Poll::Ready(Err(BadHead::TooLong.into()));
                }
            }
            match read_more(connection, READ_MIN_BYTES, cx) {
                Poll::Ready(Ok(0)) => {
                    let broken = self.write_error.take().map(Fault::Broken);
                    return Poll::Ready(Err(broken.unwrap_or(Fault::EndedEarly)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(Fault::Broken(self.write_error.take().unwrap_or(error))));
                }
                Poll::Pending => break,
            }
        }
        if connection.read.is_empty() && self.interim == 0 {
            return Poll::Pending;
        }
        if late.is_none() {
            late.set(Some(sleep(self.patience)));
        }
        match late.as_pin_mut() {
            Some(late) => late.poll(cx).map(|()| Err(Fault::SlowHead)),
            None => Poll::Pending,
        }
    }
}

/// Pieces, and how far they were written.
struct Unsent<'a> {
    pieces: &'a [Bytes],
    /// Written of the first piece.
    offset: usize,
    is_flushed: bool,
}

impl<'a> Unsent<'a> {
    fn new(pieces: &'a [Bytes]) -> Self {
        Self { pieces, offset: 0, is_flushed: false }
    }

    fn is_sent(&self) -> bool {
        self.pieces.is_empty() && self.is_flushed
    }

    fn poll_write(&mut self, socket: &mut Socket, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some((first, others)) = self.pieces.split_first() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            slices[0] = IoSlice::new(&first[self.offset..]);
            for (slice, piece) in slices[1..].iter_mut().zip(others) {
                *slice = IoSlice::new(piece);
            }
            let count = self.pieces.len().min(PIECES_MAX);
            match ready!(Pin::new(&mut *socket).poll_write_vectored(cx, &slices[..count]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.advance(written),
            }
        }
        if !self.is_flushed {
            ready!(Pin::new(socket).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, written: usize) {
        self.offset += written;
        while let Some((first, others)) = self.pieces.split_first()
            && self.offset >= first.len()
        {
            self.offset -= first.len();
            self.pieces = others;
        }
    }
}

impl Incoming {
    /// The next bytes, as many as one read brought; nothing at the end.
    pub(crate) async fn part(&mut self) -> Result<Option<Bytes>, Fault> {
        poll_fn(|cx| self.poll_part(cx)).await
    }

    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        loop {
            let part = self.take()?;
            if !part.is_empty() {
                return Poll::Ready(Ok(Some(part)));
            }
            let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
            match ready!(read_more(connection, self.room, cx)).map_err(Fault::Broken)? {
                0 if matches!(self.framing, Framing::ToEnd) => self.connection = None,
                0 => return Poll::Ready(Err(Fault::EndedEarly)),
                _ if connection.read.len() == connection.read.capacity() => {
                    self.room = (self.room * 2).min(READ_MAX_BYTES);
                }
                _ => {}
            }
        }
    }

    /// The whole body, of at most `most` bytes.
    pub(crate) async fn whole(mut self, most: usize) -> Result<Bytes, Fault> {
        if let Framing::Length(length) = self.framing
            && length > most as u64
        {
            return Err(Fault::TooLarge(most));
        }
        let Some(first) = self.part().await? else { return Ok(Bytes::new()) };
        if self.is_read() {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first);
        while let Some(part) = self.part().await? {
            if whole.len() + part.len() > most {
                return Err(Fault::TooLarge(most));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }

    /// Whether the body was read to its end.
    pub(crate) fn is_read(&self) -> bool {
        self.connection.is_none()
    }

    /// What of the body was read and not taken yet.
    fn take(&mut self) -> Result<Bytes, Fault> {
        let Some(Connection { read, .. }) = &mut self.connection else { return Ok(Bytes::new()) };
        let (part, ended) = match &mut self.framing {
            Framing::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
                *left -= here as u64;
                (read.split_to(here), *left == 0)
            }
            Framing::Chunked(decoder) => {
                let decoded = decoder.decode(read)?;
                let payload = read.split_to(decoded.payload);
                read.advance(decoded.used - decoded.payload);
                (payload, decoder.is_done())
            }
            Framing::ToEnd => (read.split(), false),
        };
        if ended {
            self.finish();
        }
        Ok(part.freeze())
    }

    fn finish(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.keeps_alive
            && connection.read.is_empty()
        {
            self.origin.put(connection);
        }
    }
}

fn read_more(connection: &mut Connection, room: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let Connection { socket, read } = connection;
    if read.capacity() - read.len() < ROOM_MIN_BYTES {
        read.reserve(room);
    }
    poll_read_buf(Pin::new(socket), cx, read)
}
